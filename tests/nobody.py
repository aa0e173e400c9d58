"""A user without root's rights, for tests of files that may not be read."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_NOBODY = 65534


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for `as_nobody`, who could not come to pytest's; it is removed afterwards, whatever its modes are."""
    folder = tempfile.mkdtemp()
    try:
        os.chmod(folder, 0o755)
        yield Path(folder)
    finally:
        for directory, folders, _ in os.walk(folder):
            for inner in folders:
                os.chmod(os.path.join(directory, inner), 0o755)
        shutil.rmtree(folder)


@contextlib.contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Within it, root has a plain user's rights, who owns all that is in a folder. Other users stay who they are."""
    if os.geteuid() != 0:
        yield
        return
    for directory, folders, names in os.walk(folder):
        for name in (".", *folders, *names):
            os.chown(os.path.join(directory, name), _NOBODY, _NOBODY, follow_symlinks=False)
    group = os.getegid()
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
