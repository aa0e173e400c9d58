"""Imported first by a command: ends it with one line where the system or Python won't do, packages are missing, or the
compilation cache can't be used.

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


def _problem_of_the_cache():
    from pixel_snail.errors import UserError
    from pixel_snail.storage import compiled

    try:
        compiled.prepared_folder()
    except UserError as error:
        return str(error)
    return None


_found = _problem() or _problem_of_the_cache()
if _found:
    sys.stderr.write(f"error: {_found}\n")
    sys.exit(2)
