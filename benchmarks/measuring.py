"""Helpers of the benchmarks: timing, memory of a separate process, and the network that the flags describe."""

import argparse
import concurrent.futures
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

from pixel_snail.network import Network
from pixel_snail.settings import NETWORK_DEFAULTS


def in_a_process(function: Callable, *arguments) -> object:
    """Returns function(*arguments), computed in a new process, whose memory nothing else has used."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def peak_gb() -> float:
    """The peak memory of this process in GB. getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1e6, 2)


def network(flags: argparse.Namespace, dropout_p: float = 0.0) -> Network:
    """The network that the flags describe, for images of --image_size; without such a flag, of 32 x 32 pixels."""
    from pixel_snail import model

    size = getattr(flags, "image_size", 32)
    settings = {name: getattr(flags, name) for name in NETWORK_DEFAULTS}
    return model.build(**settings, image_shape=(size, size, 3), dropout_p=dropout_p)


def timed(function: Callable[[], object]) -> float:
    """Calls function() and returns the seconds it took."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
