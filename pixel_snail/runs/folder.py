"""The folder of a training run: its flags, its log, and warnings about failed writes."""

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pixel_snail.backend import tf
from pixel_snail.errors import UserError, first_line
from pixel_snail.parallel.cluster import Cluster
from pixel_snail.storage import files


class RunFolder:
    """`SAVE_DIR/pixelsnail_<data set>_<time>/`, with the run's flags in `flags.json`. Only the chief writes to it.

    Args:
        path: of a run that goes on; by default a new folder is made. No two processes train in one folder.

    Attributes:
        failure: the last failure to write something, if there was one.

    Raises:
        UserError: it can't be made, or another process trains in it.
    """

    def __init__(self, flags: argparse.Namespace, cluster: Cluster, path: Path | None = None):
        self._cluster = cluster
        self._reported = {}
        self._lock = contextlib.ExitStack()
        self.failure: str | None = None
        if cluster.is_chief:
            path = path or _make(flags)
            try:
                self._lock.enter_context(files.locked(path, when_taken=lambda: _refuse(path)))
                files.remove_leftovers(path)
            except OSError as error:
                raise UserError(f"can't use the run's folder {path}: {error.strerror or error}") from error
        self.path = Path(cluster.gather_objects(str(path))[0])

    def close(self) -> None:
        """Ends the run: another process may train in the folder."""
        self._lock.close()

    def log(self, text: str) -> None:
        """Prints a text and appends it to print.log, if this is the chief."""
        if not self._cluster.is_chief:
            return

        def append():
            with open(self.path / "print.log", "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{text}\n")

        self.attempt("write to standard output", lambda: print(text, flush=True))
        self.attempt(f"write {self.path / 'print.log'}", append)

    def attempt(self, what: str, write: Callable[[], object], again_after: float = 0) -> bool:
        """Calls write() and returns whether it succeeded. A failure is reported on stderr, and training goes on.

        Args:
            what: the action in words, for the warning: "remove old checkpoints".
            again_after: seconds before a failure to write the same thing is reported again.
        """
        try:
            write()
            return True
        except (OSError, UserError, MemoryError, tf.errors.OpError) as error:
            self.failure = f"can't {what}: {getattr(error, 'strerror', None) or first_line(error)}"
        if time.monotonic() >= self._reported.get(what, -math.inf) + again_after:
            self._reported[what] = time.monotonic()
            print(f"warning: {self.failure}; training goes on", file=sys.stderr, flush=True)
        return False


def check_unused(path: Path) -> None:
    """Raises UserError if another process trains in a run's folder."""
    if files.is_locked(path):
        _refuse(path)


def _refuse(path):
    raise UserError(f"another process is training in {path}: wait until it ends, or choose another --save_dir")


def _make(flags):
    text = json.dumps(vars(flags), indent=4, sort_keys=True) + "\n"
    while True:
        path = Path(flags.save_dir) / f"pixelsnail_{flags.data_set}_{time.strftime('%Y_%m_%d_%H_%M_%S')}"
        try:
            path.mkdir(parents=True)
        except OSError as error:
            if isinstance(error, FileExistsError) and path.is_dir():
                time.sleep(1)  # another run of the same second
                continue
            raise UserError(f"can't make the run's folder {path}: {error.strerror}") from error
        files.write(path / "flags.json", lambda file: Path(file).write_text(text))
        return path
