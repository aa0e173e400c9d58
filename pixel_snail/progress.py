"""Progress bars, and word of what takes long without one."""

import sys

import tqdm


def bar(iterable=None, **settings) -> tqdm.tqdm:
    """tqdm's bar, with the time left; written to a file it prints a line every ten seconds, not ten a second."""
    return tqdm.tqdm(iterable, mininterval=0.1 if sys.stderr.isatty() else 10, **settings)


def say(text: str) -> None:
    """Tells somebody who watches what is going on; in a file it would only be in the way of errors."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)
