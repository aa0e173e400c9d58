"""Files and folders that are written whole or not at all, and locks on them."""

import argparse
import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

try:
    import fcntl
except ImportError as error:
    raise ImportError("pixel_snail needs Linux or macOS; on Windows, use it in WSL 2") from error

from pixel_snail.commands import streams
from pixel_snail.errors import UserError
from pixel_snail.storage import paths

WRITING, REPLACED, REMOVED = ".writing_", ".replaced_", ".removed_"
"""How the names of unfinished files and folders begin: being written, before the number of the process; the old
version, kept until its replacement exists; being removed."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a path beside `path` for writing a file or a folder, which then takes the place of `path`.

    The new file or folder is synced to the disk first, so that `path` is never half written, even if the machine loses
    power. If the block raises, `path` stays as it was.

    Raises:
        OSError: no permission, no space: `path` is as it was.
    """
    path = Path(path)
    # With the number of the process: another one on this machine may write the same file at the same time.
    aside, replaced = path.with_name(f"{WRITING}{os.getpid()}_{path.name}"), path.with_name(f"{REPLACED}{path.name}")
    _remove(aside)
    try:
        yield aside
        for written in (*aside.rglob("*"), aside):
            _sync(written)
        if path.is_dir():  # a folder can't be replaced in one step
            _remove(replaced)
            os.rename(path, replaced)
        os.replace(aside, path)
    except BaseException:
        if replaced.exists() and not path.exists():
            os.rename(replaced, path)
        _remove(aside)
        raise
    _sync(path.parent)
    _remove(replaced)


def write(path: str | Path, save: Callable[[str], object]) -> None:
    """Writes a file, whole or not at all; its folder is made if need be.

    A pipe, a device or the program's own output is not replaced: the file's bytes are written into it.

    Args:
        save: a function that writes the file to the path that it is given.

    Raises:
        UserError: it can't be written.
    """
    try:
        if is_stream(path):
            with tempfile.TemporaryDirectory() as folder:  # save may need to go back in its file
                whole = os.path.join(folder, "file")
                save(whole)
                with open(whole, "rb") as source, streams.opened(path) as to:
                    shutil.copyfileobj(source, to)
            return
        real = Path(os.path.realpath(path))
        real.parent.mkdir(parents=True, exist_ok=True)
        with replacing(real) as aside:
            save(str(aside))
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror or error}") from error


def is_stream(path: str | Path) -> bool:
    """Whether a path is a pipe, a device, or the file or pipe that gets the program's own output.

    Raises:
        UserError: the path can't be examined.
    """
    about = paths.status(path)
    if about is None or stat.S_ISDIR(about.st_mode):
        return False
    return not stat.S_ISREG(about.st_mode) or streams.own_output(path) is not None


def remove_folder(folder: str | Path) -> None:
    """Removes a folder. It is renamed first, so that no partly removed folder has its name.

    Raises:
        OSError: no permission.
    """
    aside = Path(folder).with_name(f"{REMOVED}{Path(folder).name}")
    os.rename(folder, aside)
    shutil.rmtree(aside)


def remove_leftovers(folder: str | Path) -> None:
    """Removes from a folder whatever a crash left half written, half removed or replaced."""
    for start in (WRITING, REMOVED, REPLACED):
        for leftover in Path(folder).glob(f"{start}*"):
            # An old version is kept until its replacement exists.
            if start != REPLACED or leftover.with_name(leftover.name.removeprefix(start)).exists():
                _remove(leftover)


def remove_unfinished(path: str | Path) -> None:
    """Removes what processes of this machine left that were killed while they wrote `path`."""
    path = Path(path)
    with contextlib.suppress(OSError):  # a folder that may not be read
        for name in os.listdir(path.parent):
            number = name.removeprefix(WRITING).removesuffix(f"_{path.name}")
            if name == f"{WRITING}{number}_{path.name}" and number.isdecimal() and not _is_running(int(number)):
                _remove(path.with_name(name))


def is_leftover(path: Path) -> bool:
    """Whether a path, relative to some folder, is or lies in something half written or half removed."""
    return any(part.startswith((WRITING, REMOVED)) for part in path.parts)


def check_writable(folder: str | Path, flag: str) -> None:
    """Raises UserError, before any work is done, if the folder of a flag can't be made or written to."""
    _check_writable(folder, f"--{flag}={folder}")


def check_file_writable(path: str, flag: str) -> None:
    """Raises UserError, before any work is done, if the file of a flag can't be written; its content stays."""
    real = os.path.realpath(path)
    if os.path.isdir(real):
        raise UserError(f"can't write --{flag}={path}: it is a folder; add the name of a file")
    if not is_stream(path):
        _check_writable(os.path.dirname(real), f"--{flag}={path}")


def check_outputs(flags: argparse.Namespace, names: Sequence[str]) -> None:
    """Raises UserError if the file of one of these flags can't be written, or if two flags name the same file."""
    taken = {}
    for name in names:
        if path := getattr(flags, name):
            check_file_writable(path, name)
            real = os.path.realpath(path)
            if real in taken and not is_stream(path):
                raise UserError(f"--{taken[real]} and --{name} name the same file, {path}: give one another name")
            taken[real] = name


def _check_writable(folder, given):
    # Not pathlib's questions: they raise an error in a folder that may not be looked into.
    path = Path(folder).absolute()
    while not os.path.lexists(path):
        path = path.parent
    if not os.path.isdir(path):
        raise UserError(f"can't write {given}: {path} is not a folder; choose another place")
    try:
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise UserError(f"can't write {given}: {error.strerror or error} in {path}; choose another place") from error


@contextlib.contextmanager
def locked(path: str | Path, when_taken: Callable[[], object]) -> Iterator[None]:
    """Holds an exclusive lock on a file or folder. The system also releases it if the process ends in any way.

    Args:
        when_taken: called if another process holds the lock, and may raise; afterwards the lock is waited for.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # on a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                when_taken()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: str | Path) -> bool:
    """Whether another process holds the lock of a file or folder. One that is not there is not locked."""
    with contextlib.suppress(OSError):  # also on a file system without locks
        descriptor = os.open(path, os.O_RDONLY)
        try:
            # A shared lock, so that several processes may ask at once. It is held for a moment only.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def _is_running(number):
    try:
        os.kill(number, 0)  # sends no signal
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _sync(path):
    # Not every file system can sync a folder, and each says so in its own way: EINVAL, EPERM, EACCES, ENOSYS ...
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
