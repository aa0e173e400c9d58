"""The compilation cache: functions that XLA has compiled, kept in a folder from process to process.

Drawing and compression compile for seconds to minutes, in each process anew. TensorFlow can write what XLA has compiled
into a folder, and read it in a later process, which finds the same function there by its computation. It reads what it
finds without a check. So each file gets a checksum beside it, and a file without one, or with another one, is removed
before TensorFlow looks into the folder. The files are machine code, so each combination of processor, GPUs, version of
TensorFlow and XLA_FLAGS has a folder of its own.
"""

import atexit
import contextlib
import hashlib
import importlib.metadata
import os
import stat
from pathlib import Path

from pixel_snail.errors import UserError

VARIABLE = "PIXEL_SNAIL_COMPILATION_CACHE"
"""The environment variable that turns the cache on: the path of its folder, or 1 for a folder in the user's cache."""


def xla_flags() -> str | None:
    """The value of TF_XLA_FLAGS with which TensorFlow uses the cache; None if VARIABLE does not turn it on.

    The folder is made and examined. When the process ends, the files that it has added get checksums.

    Raises:
        UserError: VARIABLE or TF_XLA_FLAGS has a value that is not possible, or the folder can't be made or written,
            or others may write it.
    """
    value = os.environ.get(VARIABLE, "")
    if not value:
        return None
    others = os.environ.get("TF_XLA_FLAGS", "").strip()
    if others and not others.startswith("--"):
        raise UserError(f"{VARIABLE} needs TF_XLA_FLAGS to have flags, not the name of a file of flags: unset one")
    folder = _folder(value)
    _prepare(folder)
    atexit.register(_add_checksums, folder)
    return f"{others} --tf_xla_persistent_cache_directory='{folder}'".strip()


def _folder(value):
    """The cache's folder for this machine's processor and GPUs, this version of TensorFlow and this XLA_FLAGS."""
    if value == "1":
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pixel_snail"
    else:
        base = Path(value).expanduser()
    if not base.is_absolute() or "'" in str(base):
        raise UserError(
            f"{VARIABLE}={value}: give the absolute path of a folder, without quotes in it; or 1, for a folder in "
            "~/.cache"
        )
    decides = [*_processors(), importlib.metadata.version("tensorflow"), os.environ.get("XLA_FLAGS", "")]
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
    """Makes the folder, and removes files from it whose checksum is missing or wrong."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UserError(
                f"{VARIABLE}: others may write {folder}, and this program would run what lies there: give a folder of "
                "your own"
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{VARIABLE}: {folder} can't be written: give another folder")
        for path in folder.glob("*.pb"):
            if not _is_intact(path):
                path.unlink(missing_ok=True)
                _checksum_file(path).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{VARIABLE}: can't use {folder}: {error.strerror or error}; give another folder") from error


def _add_checksums(folder):
    """Writes the checksums of files that have none. A file that this fails for is compiled anew next time."""
    with contextlib.suppress(OSError):
        for path in folder.glob("*.pb"):
            if not _checksum_file(path).exists():
                _checksum_file(path).write_text(_checksum(path))


def _is_intact(path):
    with contextlib.suppress(FileNotFoundError):  # another process may remove it at the same time
        return _checksum_file(path).read_text() == _checksum(path)
    return False


def _checksum_file(path):
    return path.with_name(f"{path.name}.checksum")


def _checksum(path):
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
