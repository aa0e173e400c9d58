"""Batches side by side: results in order, no more at once than workers, and an orderly end after errors."""

import threading
import time

import pytest

from pixel_snail.parallel.side_by_side import results_in_order

LONG = 30
"""Seconds after which a test that waits fails."""


def names_of_new_threads(before):
    return [thread.name for thread in threading.enumerate() if thread not in before]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_are_in_order_although_later_batches_end_first(workers):
    def compute(number, go_on):
        go_on()
        time.sleep(0.002 * (number % 3 == 0))
        return number**2

    assert list(results_in_order(compute, range(20), workers)) == [number**2 for number in range(20)]


def test_as_many_batches_as_workers_are_computed_at_once():
    all_there = threading.Barrier(3, timeout=LONG)
    lock, running, most = threading.Lock(), set(), []

    def compute(number, go_on):
        with lock:
            running.add(number)
            most.append(len(running))
        all_there.wait()  # no batch ends before three are computed
        with lock:
            running.remove(number)
        return number

    assert list(results_in_order(compute, range(9), 3)) == list(range(9))
    assert max(most) == 3


def test_one_worker_computes_in_the_calling_thread_and_only_what_is_asked_for():
    seen = []
    results = results_in_order(lambda number, go_on: seen.append(threading.current_thread()), range(5), 1)
    next(results)
    next(results)
    assert seen == [threading.current_thread()] * 2


def test_batches_are_read_as_they_are_needed():
    read = []
    results = results_in_order(lambda number, go_on: number, (read.append(i) or i for i in range(100)), 2)
    next(results)
    assert len(read) == 4
    results.close()


def test_an_error_ends_all_batches_and_is_the_one_that_is_raised():
    before, started, ended = threading.enumerate(), threading.Event(), []

    def compute(number, go_on):
        if number == 1:
            assert started.wait(LONG)
            raise ValueError("batch 1")
        started.set()
        try:
            while True:  # until go_on raises
                go_on()
                time.sleep(0.001)
        finally:
            ended.append(number)

    with pytest.raises(ValueError, match="batch 1"):
        list(results_in_order(compute, range(50), 2))
    assert ended == [0]
    assert not names_of_new_threads(before)


@pytest.mark.parametrize("end", [lambda results: results.close(), lambda results: results.throw(KeyboardInterrupt)])
def test_closing_or_interrupting_ends_the_threads(end):
    before, computed = threading.enumerate(), []

    def compute(number, go_on):
        while number:
            go_on()
            time.sleep(0.001)
        computed.append(number)

    results = results_in_order(compute, range(50), 2)
    next(results)
    with pytest.raises((KeyboardInterrupt, StopIteration)):
        end(results)
        raise StopIteration
    assert computed == [0]
    assert not names_of_new_threads(before)
