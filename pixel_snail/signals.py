"""SIGTERM and SIGINT, with which schedulers and people ask a run to stop."""

import contextlib
import os
import signal
from collections.abc import Iterator

_ASKING = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Within it, Ctrl-C kills the process.

    For long waits inside TensorFlow with nothing to save: KeyboardInterrupt would be raised only after them. If SIGINT
    is ignored or has another handler, that stays.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Stopped(BaseException):
    """The run was asked to stop. Not an Exception, because TensorFlow's tracing catches many Exceptions."""


class Signals:
    """Within it, the first signal only sets `received`, which the run checks; a second signal kills the process.

    Attributes:
        received: the name of the signal; None before it comes.
    """

    received: str | None = None

    def __enter__(self) -> "Signals":
        self._at_once = False
        self._before = {number: signal.signal(number, self._handle) for number in _ASKING}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        self.received = signal.Signals(number).name
        for asking in _ASKING:
            signal.signal(asking, signal.SIG_DFL)
        # Not print: the signal may have come while something was being printed.
        os.write(2, f"\n{self.received}: stopping; a second one ends the run at once, unsaved\n".encode())
        if self._at_once:
            raise Stopped

    @contextlib.contextmanager
    def at_once(self, holds: bool = True) -> Iterator[None]:
        """Within it, a signal raises Stopped at once, also one received before: for work that may be left half done.

        Args:
            holds: False: it has no effect.
        """
        if holds and self.received:
            raise Stopped
        self._at_once = holds
        try:
            yield
        finally:
            self._at_once = False
