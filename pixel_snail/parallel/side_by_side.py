"""Computes batches side by side in threads, for work that keeps only one core busy."""

import collections
import concurrent.futures
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Batch, Result = TypeVar("Batch"), TypeVar("Result")


class _Ended(Exception):
    """Another batch has failed, or nobody waits for the results any more."""


def results_in_order(
    compute: Callable[[Batch, Callable[[], None]], Result], batches: Iterable[Batch], workers: int
) -> Iterator[Result]:
    """compute(batch, go_on) of each batch, in order; up to `workers` batches are computed at once.

    An error in one batch ends all, as do an error or a signal in the thread that waits for the results, and closing
    this iterator: batches that are being computed end at their next go_on(), and no thread is left.

    Args:
        compute: a function that calls go_on() from time to time. In a batch that is to end, go_on raises an exception,
            which `compute` must not catch.
        batches: up to twice as many as `workers` are read ahead.
        workers: with 1, everything is computed in the calling thread.
    """
    if workers == 1:
        yield from (compute(batch, lambda: None) for batch in batches)
        return
    is_ended, errors = threading.Event(), []

    def go_on():
        if is_ended.is_set():
            raise _Ended

    def computed(batch):
        go_on()
        try:
            return compute(batch, go_on)
        except BaseException as error:
            errors.append(error)  # the first one is the reason; those of other batches may be _Ended
            is_ended.set()
            raise

    def result_of(future):
        try:
            return future.result()
        except _Ended:
            raise errors[0] from None

    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(computed, batch))
                # Twice as many as are computed, so that no thread waits while the caller uses a result.
                if len(waiting) == 2 * workers:
                    yield result_of(waiting.popleft())
            while waiting:
                yield result_of(waiting.popleft())
        finally:
            is_ended.set()
            for future in waiting:
                future.cancel()
