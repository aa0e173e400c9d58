"""SIGTERM and SIGINT, by which schedulers and people ask a run to end."""

import contextlib
import os
import signal
from collections.abc import Iterator

_ASKING = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Ctrl-C ends the process, rather than raise KeyboardInterrupt once Python runs again: for long waits in which it
    does not, and there is nothing to lose. Where SIGINT is ignored, it stays so."""
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
    """The run was asked to end. Not an Exception, of which TensorFlow's tracing catches many."""


class Signals:
    """A context in which the first signal only asks: whoever works looks at `received`. The second ends the process.

    Attributes:
        received: the name of the signal, once it has come.
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
        """If it holds, a signal raises Stopped wherever it comes: for work that may be left half done."""
        if holds and self.received:
            raise Stopped
        self._at_once = holds
        try:
            yield
        finally:
            self._at_once = False
