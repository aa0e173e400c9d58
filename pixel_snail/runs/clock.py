"""When a training ends, by its epochs or its minutes, and how much of it is over."""

import math
import time

from pixel_snail.runs.history import History


class Clock:
    """The time that a training has taken, and its end.

    The time counts from the end of the first step, so that compiling is left out.

    Args:
        history: of the training. If time decides the learning rate, its `seconds` are kept up to date, and earlier
            starts count. Otherwise they stay as they are: equal trainings have equal histories.
        last_epoch: the training ends before this epoch; None: no limit.
        minutes: the training ends after so many minutes; None: no limit.
        decides_the_rate: whether the learning rate falls with the time (--lr_to_zero).
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
        """Starts the clock, unless it runs already."""
        self._started = self._started or time.monotonic()

    def seconds_here(self) -> float:
        """The seconds since the first step of this start."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def seconds(self) -> float:
        """The seconds that count, by this worker's clock."""
        return self._seconds_before + self.seconds_here()

    def seconds_left(self) -> float:
        """The seconds until the end, by this worker's clock; infinite without a limit of time."""
        return max(0.0, self._last_second - self.seconds())

    def is_late(self, seconds: float) -> bool:
        """Whether the time is over after so many seconds, the chief's; keeps them in the history if they count."""
        if self._is_kept:
            self._history.seconds = float(seconds)
        return bool(seconds > self._last_second)

    def is_last(self, epoch: int) -> bool:
        """Whether the training ends before this epoch."""
        return epoch >= self._last_epoch

    def part_over(self, epochs: float) -> float:
        """The part of the training that is over, by its epochs so far or by its seconds, whichever is more."""
        by_epochs = (epochs - self._first_epoch) / (self._last_epoch - self._first_epoch)
        return max(by_epochs, self._history.seconds / self._last_second)
