"""The compilation cache: functions that XLA has compiled, kept in a folder from process to process.

Drawing and compression compile for seconds to minutes, in each process anew. TensorFlow can write what XLA has compiled
into a folder, and read it in a later process, which finds the same function there by its computation. It reads what it
finds without a check. So each file gets a checksum beside it, and a file without one, or with another one, is removed
before TensorFlow looks into the folder. The files are machine code, so each combination of processor, GPUs, version of
TensorFlow and settings of XLA and oneDNN has a folder of its own.
"""

import atexit
import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import stat
from pathlib import Path

from pixel_snail.errors import UserError

VARIABLE = "PIXEL_SNAIL_COMPILATION_CACHE"
"""The environment variable that turns the cache on: the path of its folder, or 1 for a folder in the user's cache."""
_SETTINGS = ("XLA_FLAGS", "TF_XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA")
"""The environment variables that decide what is compiled."""
_ROOM = 1 << 28
"""The bytes that must be free on the disk: TensorFlow can't compile if what it has compiled can't be written."""


def xla_flags() -> str | None:
    """The value of TF_XLA_FLAGS with which TensorFlow uses the cache; None if VARIABLE does not turn it on.

    The folder is made, and files whose checksum is missing or wrong are removed from it. When the process ends, files
    without a checksum get one.

    Raises:
        UserError: as `prepared_folder`.
    """
    folder = prepared_folder()
    if folder is None:
        return None
    with _reported(folder):
        for path in folder.glob("*.pb"):
            if not _is_intact(path):
                path.unlink(missing_ok=True)
                _checksum_file(path).unlink(missing_ok=True)
    atexit.register(_add_checksums, folder)
    return f"{_other_xla_flags()} --tf_xla_persistent_cache_directory='{folder}'".strip()


def prepared_folder() -> Path | None:
    """The cache's folder for this machine and these settings, made if need be; None if VARIABLE does not ask for it.

    Raises:
        UserError: VARIABLE or TF_XLA_FLAGS has a value that is not possible; the folder can't be made or written, or
            its disk is full; or others may write it or replace it.
    """
    value = os.environ.get(VARIABLE, "")
    if not value:
        return None
    if (others := _other_xla_flags()) and not others.startswith("--"):
        raise UserError(
            f"{VARIABLE} needs TF_XLA_FLAGS to have flags, not the name of a file of flags: unset one of the two"
        )
    folder = _folder(value)
    _prepare(folder)
    return folder


def _other_xla_flags():
    return os.environ.get("TF_XLA_FLAGS", "").strip()


def _folder(value):
    """The cache's folder for this machine's processor and GPUs, this version of TensorFlow and these settings."""
    if value == "1":
        base = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"), "pixel_snail")
    else:
        base = Path(os.path.expanduser(value))
    if not base.is_absolute() or "'" in str(base):
        raise UserError(
            f"{VARIABLE}={value}: give the absolute path of a folder, without quotes in it; or 1, for a folder in "
            "~/.cache"
        )
    # The package is also called tensorflow-cpu.
    packages = importlib.metadata.packages_distributions().get("tensorflow", [])
    settings = [os.environ.get(name, "") for name in _SETTINGS]
    decides = [*_processors(), *map(importlib.metadata.version, packages[:1]), *settings]
    return base / f"compiled_{hashlib.blake2b(repr(decides).encode(), digest_size=8).hexdigest()}"


def _processors():
    """The names of this machine's processor and GPUs and the processor's instructions, as far as the system says."""
    files = [Path("/proc/cpuinfo"), *Path("/proc/driver/nvidia").glob("gpus/*/information")]
    starts = ("model name", "flags", "Features", "CPU part", "Model:")
    found = {os.uname().machine}
    for path in files:
        with contextlib.suppress(OSError):
            found |= {line for line in path.read_text().splitlines() if line.startswith(starts)}
    return sorted(found)


def _prepare(folder):
    """Makes the folder, and checks that this user, and nobody else, can write it."""
    with _reported(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (open_to_others := _first_open_to_others(folder)) is not None:
            raise UserError(
                f"{VARIABLE}: others may write {open_to_others}, and this program would run what lies there: give a "
                f"folder that only you can write, or run chmod go-w {open_to_others}"
            )
        if shutil.disk_usage(folder).free < _ROOM:
            raise UserError(
                f"{VARIABLE}: the disk of {folder} has less than {_ROOM >> 20} MB free: free some, or unset the "
                "variable"
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{VARIABLE}: {folder} can't be written: give another folder")


@contextlib.contextmanager
def _reported(folder):
    """Within it, an OSError becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{VARIABLE}: can't use {folder}: {error.strerror or error}; give another folder") from error


def _first_open_to_others(folder):
    """The folder, if another user may write it, or else the nearest folder above in which another may replace it.

    Above, a folder that only a group may write is trusted: on many systems, each user is alone in a group.
    """
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return folder
    for above in folder.resolve().parents:
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return above
    return None


def _add_checksums(folder):
    """Writes the checksums of files that have none. A file that this fails for is compiled anew next time."""
    for path in folder.glob("*.pb"):
        with contextlib.suppress(OSError):
            if not _checksum_file(path).exists():
                _checksum_file(path).write_bytes(_checksum(path))


def _is_intact(path):
    with contextlib.suppress(FileNotFoundError):  # another process may remove it at the same time
        return _checksum_file(path).read_bytes() == _checksum(path)
    return False


def _checksum_file(path):
    return path.with_name(f"{path.name}.checksum")


def _checksum(path):
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest().encode()
