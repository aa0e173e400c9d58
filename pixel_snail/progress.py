"""Progress bars, and messages where long work has no bar."""

import sys

import tqdm


def bar(iterable=None, **settings) -> tqdm.tqdm:
    """tqdm's progress bar, with the time left; in a file it writes a line every ten seconds instead of ten a second."""
    return tqdm.tqdm(iterable, mininterval=0.1 if sys.stderr.isatty() else 10, **settings)


def say(text: str) -> None:
    """Prints a message on stderr if that is a terminal; in a file, it would only hide errors."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)
