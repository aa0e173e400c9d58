"""Imported first by a command: ends it with one line where the system or Python won't do, or packages are missing.

Written so that older versions of Python can read it too.
"""

import importlib.util
import sys

_MODULES = "absl keras matplotlib numpy PIL tensorflow tqdm constriction".split()


def _problem():
    """Why the command can't start, and what to do; None if it can."""
    if importlib.util.find_spec("fcntl") is None:
        return "this program needs Linux or macOS; on Windows, install and use it in WSL 2"
    if sys.version_info < (3, 11):  # noqa: UP036
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return (
            f"this program needs Python 3.11 or newer, but {sys.executable} is {version}: run "
            "`make PYTHON=python3.11 .venv/installed`, then use .venv/bin/python"
        )
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return f"{sys.executable} lacks {', '.join(missing)}: run `make .venv/installed`, then use .venv/bin/python"


if _problem():
    sys.stderr.write(f"error: {_problem()}\n")
    sys.exit(2)
