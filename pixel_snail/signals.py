"""SIGTERM, SIGINT and SIGHUP, by which schedulers, people and closing terminals ask a run to stop."""

import contextlib
import os
import signal
from collections.abc import Iterator

_ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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

    A signal that was ignored when the program started, as SIGHUP is under nohup, stays ignored.

    Attributes:
        received: the name of the signal; None before it comes.
    """

    received: str | None = None

    def __enter__(self) -> "Signals":
        self._at_once = None
        asking = [number for number in _ASKING if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._handle) for number in asking}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        self.received = signal.Signals(number).name
        for asking in self._before:
            signal.signal(asking, signal.SIG_DFL)
        then = self._at_once or "stopping; a second one ends the run at once, unsaved"
        # Not print: the signal may have come while something was being printed. And the terminal may be closed.
        with contextlib.suppress(OSError):
            os.write(2, f"\n{self.received}: {then}\n".encode())
        if self._at_once:
            raise Stopped

    @contextlib.contextmanager
    def at_once(self, saying: str | None) -> Iterator[None]:
        """Within it, a signal raises Stopped at once, also one received before: for work that may be left half done.

        Args:
            saying: what the run then does, for the message to the user; None: this has no effect.
        """
        if saying and self.received:
            raise Stopped
        self._at_once = saying
        try:
            yield
        finally:
            self._at_once = None
