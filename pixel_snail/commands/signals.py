"""The signals by which users, closing terminals and schedulers ask a run to stop."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from pixel_snail.errors import Stopped

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that ask a run to stop. A second one kills the process, except SIGHUP: when a terminal closes, the shell and
the system may both send it."""

WARNING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Schedulers (SLURM, LSF, SGE) send these some time before they kill the process. They may send them again and again,
as the system does with SIGXCPU. A SIGTERM after these counts as the first of ASKING."""


class Signals:
    """Within it, the first signal only sets `received`, which the run checks; a second SIGTERM or SIGINT, the signal of
    Ctrl-C, kills the process.

    A signal that was ignored when the program started, as SIGHUP is under nohup, stays ignored. Python handles signals
    in its main thread only: in any other thread, no signal is handled.

    Attributes:
        received: the name of the signal; None before it comes.
    """

    received: str | None = None

    def __enter__(self) -> "Signals":
        self._at_once = None
        # None: a library has a handler that is not Python's, which could not be put back.
        handled = [number for number in ASKING + WARNING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        self._before = {number: signal.signal(number, self._handle) for number in handled if _is_main_thread()}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        name, is_repeated = signal.Signals(number).name, self.received is not None
        self.received = self.received or name
        then = "stopping"
        if number in ASKING:
            for asking in self._before.keys() & {signal.SIGTERM, signal.SIGINT}:
                signal.signal(asking, signal.SIG_DFL)
            then += "; a second SIGTERM or Ctrl-C ends the run at once, unsaved"
        # Not print: the signal may have come while something was being printed. And the terminal may be closed.
        with contextlib.suppress(OSError):
            if not is_repeated or number in ASKING:
                os.write(2, f"\n{name}: {self._at_once or then}\n".encode())
        if self._at_once:
            raise Stopped

    @contextlib.contextmanager
    def at_once(self, saying: str | None) -> Iterator[None]:
        """Within it, a signal raises Stopped at once, for work that may be left half done. An earlier signal does, too.

        Args:
            saying: the message for the user about the consequence; None: this has no effect.
        """
        if saying and self.received:
            raise Stopped
        self._at_once = saying
        try:
            yield
        finally:
            self._at_once = None


def _is_main_thread():
    return threading.current_thread() is threading.main_thread()
