"""Progress bars."""

import sys

import tqdm


def bar(iterable=None, **settings) -> tqdm.tqdm:
    """tqdm's bar, with the time left; written to a file it prints a line every ten seconds, not ten a second."""
    return tqdm.tqdm(iterable, mininterval=0.1 if sys.stderr.isatty() else 10, **settings)
