"""What this machine computes with: GPUs, CPU cores, matrix instructions."""

import functools
import os
from pathlib import Path

from pixel_snail.backend import tf


def number_of_gpus() -> int:
    """The GPUs that TensorFlow sees; 0: everything runs on the CPU."""
    return len(tf.config.list_physical_devices("GPU"))


def number_of_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def has_amx() -> bool:
    """Whether the CPU has AMX, Intel's instructions for products of bfloat16 matrices."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
