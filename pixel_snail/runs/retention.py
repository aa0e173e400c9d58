"""Which checkpoints a run takes and keeps."""

import contextlib
import time

import keras

from pixel_snail import checkpoint
from pixel_snail.errors import UserError
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.runs import history
from pixel_snail.runs.folder import RunFolder


class Checkpoints:
    """The checkpoints in a run's folder.

    Args:
        keep: how many stay: the newest, and beside them the best by test bits/dim; 0: all.
        minutes: after so many without one, another is due; 0: never.

    Attributes:
        newest: the prefix of the last one that was written, or that the run started from.
    """

    def __init__(self, folder: RunFolder, data_set: str, keep: int, minutes: float, newest: str | None):
        self._folder, self._file, self._keep, self._minutes = folder, f"params_{data_set}.ckpt", keep, minutes
        self._last_attempt = time.monotonic()
        self.newest = newest

    def is_due(self) -> bool:
        return self._minutes > 0 and time.monotonic() > self._last_attempt + 60 * self._minutes

    def save(self, model: keras.Model, optimizer: PolyakAdam, progress: history.History) -> bool:
        """Whether a checkpoint could be written; if not, that is told, and those before are as they were."""
        prefix = str(self._folder.path / progress.name / self._file)
        saved = self._folder.attempt(prefix, lambda: checkpoint.save(prefix, model, optimizer, progress.tensors()))
        self._last_attempt = time.monotonic()
        if saved:
            self.newest = prefix
            self._folder.attempt("without the old checkpoints", self._remove_old)
        return saved

    def _remove_old(self):
        whole = {}
        for prefix in checkpoint.newest_first(self._folder.path):
            with contextlib.suppress(UserError):  # what is damaged is no checkpoint, and stays
                whole[prefix] = history.read(prefix)
        tested = {prefix: so_far.test[-1] for prefix, so_far in whole.items() if so_far.test and so_far.is_tested}
        best = min(tested, key=tested.get, default=None)
        for prefix in list(whole)[self._keep :] if self._keep else []:
            if prefix != best:
                checkpoint.remove(prefix)
