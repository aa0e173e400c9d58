"""When a training ends, by epochs or by minutes, and which part of it is done."""

import math
import time

from pixel_snail.runs.history import History


class Clock:
    """Measures the time of a training, and decides when the training ends.

    The time counts from the end of the first step, so that compilation is left out.

    Args:
        history: of the training. If the time decides the learning rate, the clock adds to `history.seconds`, so that
            the time of earlier starts counts. Otherwise it does not change `history.seconds`, because a repeated
            training is to have an equal history.
        last_epoch: the training ends before this epoch; None: no limit.
        minutes: the training ends after so many minutes; None: no limit.
        decides_the_rate: whether the learning rate falls to 0 by the end of the training (--lr_to_zero).
        first_epoch: the epoch in which the learning rate begins to fall.
    """

    def __init__(
        self,
        history: History,
        last_epoch: int | None,
        minutes: float | None,
        decides_the_rate: bool,
        first_epoch: int = 0,
    ):
        self._history = history
        self._first_epoch = first_epoch
        self._last_epoch = math.inf if last_epoch is None else last_epoch
        self._last_second = math.inf if minutes is None else 60 * minutes
        self._is_kept = decides_the_rate and minutes is not None
        self._seconds_before = history.seconds if self._is_kept else 0.0
        self._started: float | None = None

    def start(self) -> None:
        """Starts the clock; does nothing if the clock runs already."""
        self._started = self._started or time.monotonic()

    def seconds_here(self) -> float:
        """The seconds since the end of the first step of this start."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def seconds(self) -> float:
        """The seconds of the training, by this worker's clock; with those of earlier starts, if they count."""
        return self._seconds_before + self.seconds_here()

    def seconds_left(self) -> float:
        """The seconds until the end, by this worker's clock; infinite without a limit of time."""
        return max(0.0, self._last_second - self.seconds())

    def is_late(self, seconds: float) -> bool:
        """Whether the time is over; also records the seconds in the history, if the time decides the learning rate.

        Args:
            seconds: `seconds()` of the chief, so that all workers decide alike.
        """
        if self._is_kept:
            self._history.seconds = float(seconds)
        return bool(seconds > self._last_second)

    def is_last(self, epoch: int) -> bool:
        """Whether the training ends before this epoch."""
        return epoch >= self._last_epoch

    def part_over(self, epochs: float) -> float:
        """The part of the training that is done, from 0 to 1: by epochs or by time, whichever is larger.

        Args:
            epochs: how many epochs are done, with the fraction of the current one.
        """
        by_epochs = (epochs - self._first_epoch) / (self._last_epoch - self._first_epoch)
        return max(by_epochs, self._history.seconds / self._last_second)
