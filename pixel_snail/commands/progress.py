"""Progress bars, and messages where long work has no bar."""

import contextlib
import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterator

import tqdm

_announce: contextvars.ContextVar[Callable[[], None]] = contextvars.ContextVar("announce", default=lambda: None)
_WITHOUT_TIMES = "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"


def bar(iterable=None, **settings) -> tqdm.tqdm:
    """tqdm's progress bar, with the time left; in a file it writes a line every ten seconds instead of ten a second."""
    return tqdm.tqdm(iterable, mininterval=_interval(0.1), **settings)


@contextlib.contextmanager
def step_of(bar: tqdm.tqdm, go_on: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Counts a step of a bar's work. While the step compiles a function, the bar shows "compiling" and the seconds.

    A step that compiled is left out of the estimate of the time left. Several threads may count steps of one bar.

    Args:
        go_on: called before the step; it may raise.
    """
    go_on()
    started, done, threads = time.monotonic(), threading.Event(), []

    def show():
        while not done.wait(_interval(1)):
            bar.set_postfix_str(f"compiling, {time.monotonic() - started:.0f} s")

    def announce():
        if threads or bar.disable:
            return
        bar.bar_format = _WITHOUT_TIMES
        bar.set_postfix_str("compiling")
        threads.append(threading.Thread(target=show, daemon=True))
        threads[0].start()

    token = _announce.set(announce)
    try:
        yield
    finally:
        _announce.reset(token)
        done.set()
        for thread in threads:
            thread.join()
    with bar.get_lock():
        if threads:
            bar.bar_format = None
            bar.set_postfix_str("", refresh=False)
            bar.unpause()
            bar.start_t, bar.initial, bar.last_print_n = bar.last_print_t, bar.n + 1, bar.n + 1
        bar.update()


def announce_compilation() -> None:
    """Called while TensorFlow traces a function, before it compiles it: the current step's bar shows "compiling"."""
    _announce.get()()


def say(text: str) -> None:
    """Prints a message on stderr if that is a terminal; in a file, it would only hide errors."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def _interval(seconds):
    return seconds if sys.stderr.isatty() else 10
