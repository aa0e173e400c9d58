"""What the benchmarks measure with: seconds, and memory of a process of its own."""

import concurrent.futures
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path


def in_a_process(function: Callable, *arguments) -> object:
    """What function(*arguments) returns in a new process, whose memory nothing else has touched."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def peak_gb() -> float:
    """The most memory that this process has had; getrusage would count what its parent had."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1e6, 2)


def timed(function: Callable[[], object]) -> float:
    """The seconds that function() takes."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
