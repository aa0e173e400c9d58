"""The folder of a run, and print.log in it."""

import argparse
import contextlib
import fcntl
import json
import math
import os
import reprlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow as tf

from pixel_snail import checkpoint
from pixel_snail import flags as command_line
from pixel_snail.errors import UserError, first_line
from pixel_snail.parallel.cluster import Cluster


def check_writable(folder: str) -> None:
    """Raises UserError, before any work is done, if a folder can't be made or written to."""
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    if not path.is_dir():
        raise UserError(f"can't write to {folder}: {path} is not a folder")
    try:
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise UserError(f"can't write to {folder}: {error.strerror or error} in {path}") from error


def check_file_writable(path: str) -> None:
    """Raises UserError, before any work is done, if a file can't be written; what is in it stays."""
    real = Path(os.path.realpath(path))
    if real.is_dir():
        raise UserError(f"can't write {path}: it is a folder")
    if real.is_file() or not real.exists():  # and no device or pipe
        check_writable(str(real.parent))


def complete_flags(
    flags: argparse.Namespace, prefix: str, network: Mapping[str, object], data: Mapping[str, object]
) -> None:
    """Gives flags that are None the value that the run of a checkpoint had, or else their default.

    Args:
        flags: changed in place.
        prefix: the checkpoint's; a run of ours has `flags.json` in the folder above its own.
        network: defaults of the flags that make a network what it is: a given one must not contradict the run's.
        data: defaults of the flags that say what it is evaluated on; `data_set` given as another than the run's, none
            of them is the run's.

    Raises:
        UserError: a flag contradicts the run's, or flags.json is broken.
    """
    path = Path(prefix).absolute().parent.parent / "flags.json"
    run = {}
    if path.exists():
        try:
            run = json.loads(path.read_text())
            run = {name: run[name] for name in (*network, "data_set")} | {
                name: run[name] for name in data if name in run
            }
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"the run's flags can't be read from {path}: {type(error).__name__}, {str(error)[:200]}"
            ) from error
        for name, value in run.items():
            if not command_line.is_possible(name, value):
                raise UserError(f"{path} is broken: {name} can't be {reprlib.repr(value)}")
    for name in network:
        given = getattr(flags, name)
        if given is not None and run.get(name, given) != given:
            raise UserError(f"--{name}={given}, but the run of {prefix} had --{name}={run[name]}: leave the flag out")
    if flags.data_set not in (None, run.get("data_set")):
        run = {name: value for name, value in run.items() if name in network}
    for name, default in (network | data).items():
        if getattr(flags, name) is None:
            setattr(flags, name, run.get(name, default))


def write(path: str | Path, save: Callable[[str], object]) -> None:
    """Has save(path) write a file, its folder made; it is written aside first, so that there is never half of it.

    Raises:
        UserError: that can't be done.
    """
    real = os.path.realpath(path)
    folder, name = os.path.split(real)
    # The ending stays: it tells some what to write. A device or a pipe can't be replaced.
    aside = os.path.join(folder, f".writing_{name}") if os.path.isfile(real) or not os.path.exists(real) else real
    try:
        os.makedirs(folder, exist_ok=True)
        save(aside)
        os.replace(aside, real)
    except OSError as error:
        if aside != real:
            Path(aside).unlink(missing_ok=True)
        raise UserError(f"can't write {path}: {error.strerror or error}") from error


_NOT_OF_THE_COURSE = """
    data_dir save_dir max_epochs max_minutes save_interval save_minutes keep sample_interval sample_batch skip_nonfinite
    resume
""".split()
"""The flags of which the course of a run does not depend: with others of these it is the same run."""


def newest_run(flags: argparse.Namespace) -> tuple[Path, str] | None:
    """The folder of the newest run of the same flags below --save_dir that has a whole checkpoint, and that.

    Runs are of the same flags if those agree on which the course of a run depends.
    """
    for path in sorted(Path(flags.save_dir).glob(f"pixelsnail_{flags.data_set}_*"), reverse=True):
        try:
            run = json.loads((path / "flags.json").read_text())
        except (OSError, ValueError, RecursionError):
            continue
        ours = vars(flags)
        if not isinstance(run, dict) or any(
            run.get(name) != ours[name] for name in ours if name not in _NOT_OF_THE_COURSE
        ):
            continue
        with contextlib.suppress(UserError):
            return path, checkpoint.find(str(path))
    return None


class RunFolder:
    """`SAVE_DIR/pixelsnail_<data set>_<time>/`, which the chief alone writes, with the run's flags in `flags.json`.

    Args:
        path: of a run that goes on; by default a folder is made. No two processes train in one.

    Attributes:
        failure: what could not be written, the last time that something could not.

    Raises:
        UserError: it can't be made, or another process trains in it.
    """

    def __init__(self, flags: argparse.Namespace, cluster: Cluster, path: Path | None = None):
        self._cluster = cluster
        self._told = {}
        self.failure: str | None = None
        if cluster.is_chief:
            path = path or _make(flags)
            self._lock = _locked(path)
            checkpoint.remove_leftovers(str(path))
        self.path = Path(cluster.gather_objects(str(path))[0])

    def close(self) -> None:
        """Ends the run: another process may train in the folder."""
        if self._cluster.is_chief:
            os.close(self._lock)

    def log(self, text: str) -> None:
        """Prints, and keeps a copy in print.log, if this is the chief."""
        if not self._cluster.is_chief:
            return

        def append():
            with open(self.path / "print.log", "a") as file:
                file.write(f"{text}\n")

        self.attempt("to standard output", lambda: print(text, flush=True))
        self.attempt(str(self.path / "print.log"), append)

    def attempt(self, what: str, write: Callable[[], object], again_after: float = 0) -> bool:
        """Whether write() succeeded; if not, that is told, and training may go on.

        Args:
            again_after: a failure of the same thing is told again after so many seconds only.
        """
        try:
            write()
            return True
        except (OSError, UserError, tf.errors.OpError) as error:
            self.failure = f"can't write {what}: {getattr(error, 'strerror', None) or first_line(error)}"
        if time.monotonic() >= self._told.get(what, -math.inf) + again_after:
            self._told[what] = time.monotonic()
            print(f"warning: {self.failure}; training goes on", file=sys.stderr, flush=True)
        return False


def _locked(path):
    """The folder, open, and locked until it is closed or the process ends, however it does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(f"another process is training in {path}") from error
    except OSError:  # a file system without locks
        pass
    return descriptor


def _make(flags):
    while True:
        path = Path(flags.save_dir) / f"pixelsnail_{flags.data_set}_{time.strftime('%Y_%m_%d_%H_%M_%S')}"
        try:
            path.mkdir(parents=True)
            (path / "flags.json").write_text(json.dumps(vars(flags), indent=4, sort_keys=True) + "\n")
            return path
        except FileExistsError:
            time.sleep(1)  # another run of the same second
        except OSError as error:
            raise UserError(f"can't make the run's folder {path}: {error.strerror}") from error
