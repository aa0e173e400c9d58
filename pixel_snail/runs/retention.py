"""Checkpoint retention: when a run takes checkpoints, and which ones it keeps."""

import contextlib
import os
import time

from pixel_snail import checkpoint
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.errors import UserError
from pixel_snail.network import Network
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.runs import history, search
from pixel_snail.runs.folder import RunFolder
from pixel_snail.storage import files


class Checkpoints:
    """The checkpoints in a run's folder.

    Args:
        keep: how many of the newest are kept, in addition to the best by test bits/dim; 0: all.
        minutes: the most minutes between checkpoints; 0: no limit.
        newest: the prefix of the checkpoint that the run started from, if any.

    Attributes:
        newest: the prefix of the newest checkpoint: the last that was written; before that, `newest` above.
    """

    def __init__(self, folder: RunFolder, data_set: str, keep: int, minutes: float, newest: str | None):
        self._folder, self._file, self._keep, self._minutes = folder, f"params_{data_set}.ckpt", keep, minutes
        self._last_attempt = time.monotonic()
        self.newest = newest

    def is_due(self) -> bool:
        """Whether `minutes` have passed since the last checkpoint, or the last attempt to write one."""
        return self._minutes > 0 and time.monotonic() > self._last_attempt + 60 * self._minutes

    def save(self, network: Network, optimizer: PolyakAdam, progress: history.History) -> bool:
        """Writes a checkpoint, then removes old ones. Returns whether it was written.

        A failure is reported, and the earlier checkpoints stay as they were.
        """
        prefix = str(self._folder.path / progress.name / self._file)
        saved = self._folder.attempt(
            f"write {prefix}", lambda: checkpoint.save(prefix, network, optimizer, progress.tensors())
        )
        self._last_attempt = time.monotonic()
        if saved:
            self.newest = prefix
            self._folder.attempt("remove old checkpoints", self._remove_old)
        return saved

    def _remove_old(self):
        if not self._keep:
            return
        # The one just written comes first: a damaged one of a later step may still have a readable history.
        own = sorted(filter(self._is_own, search.newest_first(self._folder.path)), key=lambda path: path != self.newest)
        histories = {}
        for prefix in own:
            with contextlib.suppress(UserError):  # a checkpoint that can't be read does not count, and stays
                histories[prefix] = history.read(Checkpoint(prefix))
        # The original's checkpoints have no history.
        tested = {prefix: past.test[-1] for prefix, past in histories.items() if past and past.test and past.is_tested}
        best = min(tested, key=tested.get, default=None)
        for prefix in list(histories)[self._keep :]:
            if prefix != best:
                with contextlib.suppress(FileNotFoundError):  # somebody else has removed it
                    files.remove_folder(os.path.dirname(prefix))

    def _is_own(self, prefix):
        """Whether a checkpoint has a place and a name that this run gives its own. Others are never removed."""
        folder, name = os.path.split(prefix)
        is_of_run = os.path.dirname(folder) == str(self._folder.path) and name == self._file
        return is_of_run and search.is_of_a_run(folder)
