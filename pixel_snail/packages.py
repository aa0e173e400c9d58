"""Imported first by a command: ends it with one line where Python is too old or packages are missing.

Written so that older versions of Python can read it too.
"""

import importlib.util
import sys

_PACKAGES = "absl keras matplotlib numpy PIL tensorflow tqdm".split()


def _problem():
    """Why the command can't start, in words; None if it can."""
    if sys.version_info < (3, 11):  # noqa: UP036
        return f"it is Python {sys.version_info[0]}.{sys.version_info[1]}, and 3.11 or newer is needed"
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    return f"it lacks {', '.join(missing)}" if missing else None


if _problem():
    sys.stderr.write(
        f"error: {sys.executable} can't run this program: {_problem()}; `make .venv/installed` installs all that is "
        "needed, and `.venv/bin/python` then runs it (or: pip install -r requirements.txt)\n"
    )
    sys.exit(2)
