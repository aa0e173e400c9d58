"""The time of a call and the memory of this process; needs the standard library only."""

import time
from collections.abc import Callable
from pathlib import Path


def timed(function: Callable[[], object]) -> float:
    """Calls function() and returns the seconds it took."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def peak_gb() -> float:
    """The peak memory of this process in GB. getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1e6, 2)
