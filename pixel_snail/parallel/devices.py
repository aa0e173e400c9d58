"""The devices of this machine: GPUs, CPU cores, their instructions, memory; and why a GPU is not used."""

import collections
import contextlib
import functools
import importlib.metadata
import math
import os
import resource
import shlex
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from pixel_snail.backend import tf
from pixel_snail.parallel import control_groups

INSTRUCTIONS = """
    sse4_1 sse4_2 avx avx2 fma f16c avx_vnni avx512f avx512dq avx512bw avx512vl avx512_bf16 avx512_fp16 avx512_vnni
    amx_bf16 amx_int8 amx_tile asimd asimdhp sve sve2 bf16
""".split()
"""Instruction sets that decide how sums are rounded and how fast they are, by Linux's names."""

_BEST = {"amx_bf16": "AMX", "avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "asimd": "NEON"}
"""The instruction sets that decide the speed of matrix products, the fastest first: Linux's names and ours."""

_BFLOAT16 = {"amx_bf16", "avx512_bf16", "bf16"}
"""The instruction sets that compute with bfloat16."""

_CUDA = "nvidia-cudnn-cu12"
"""A package that tensorflow[and-cuda] installs and tensorflow does not."""


class _TF32:
    """How many blocks of `without_tf32` have begun and not ended, and TensorFlow's setting before the first of them."""

    lock = threading.Lock()
    blocks = 0
    before = True


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Within it, GPUs multiply float32 as float32. The last block to end restores the setting from before the first.

    TF32, TensorFlow's default on newer GPUs, keeps 10 of 23 binary digits of the factors of products, which changes
    likelihoods. TensorFlow has one setting for the whole process: whatever other threads compute meanwhile is computed
    without TF32 too, but a program's other models have their own setting again afterwards.
    """
    config = tf.config.experimental
    with _TF32.lock:
        if not _TF32.blocks:
            _TF32.before = config.tensor_float_32_execution_enabled()
            config.enable_tensor_float_32_execution(False)
        _TF32.blocks += 1
    try:
        yield
    finally:
        with _TF32.lock:
            _TF32.blocks -= 1
            if not _TF32.blocks:
                config.enable_tensor_float_32_execution(_TF32.before)


def number_of_gpus() -> int:
    """The GPUs that TensorFlow sees and may use; 0: everything runs on the CPU."""
    return len(tf.config.get_visible_devices("GPU"))


def number_of_cores(root: str | os.PathLike = "/") -> int:
    """The CPU cores that this process may use: those that the system leaves it, and no more than its container may use.

    Args:
        root: the folder that has proc and sys.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, control_groups.cpu_quotas(Path(root)))]))


def available_memory(root: str | os.PathLike = "/") -> int | None:
    """The bytes of memory that this process can still get, including swap space; None if the system reports none.

    The smallest of three numbers: the memory that Linux calls available, and the memory that the limits of the
    process's control groups (a container's, for example) and RLIMIT_AS (ulimit -v) leave.

    Args:
        root: the folder that has proc and sys.
    """
    about = control_groups.named_numbers(Path(root, "proc/meminfo"))
    if "MemAvailable:" not in about:
        return None
    swap = 1024 * about.get("SwapFree:", 0)
    left = [1024 * about["MemAvailable:"] + swap, *(left + swap for left in control_groups.memory_left(Path(root)))]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        left.append(limit - own_memory(root))
    return max(0, min(left))


def own_memory(root: str | os.PathLike = "/") -> int:
    """The bytes of memory that this process has; 0 if the system does not report them.

    Args:
        root: the folder that has proc.
    """
    return 1024 * control_groups.named_numbers(Path(root, "proc/self/status")).get("VmRSS:", 0)


def has_amx() -> bool:
    """Whether the CPU has AMX, Intel's instructions for products of bfloat16 matrices."""
    return "amx_bf16" in instructions()


def lacks_bfloat16(root: str | os.PathLike = "/") -> bool:
    """Whether the CPU is known to have no instructions for bfloat16, which then saves memory only."""
    has = instructions(root)
    return bool(has) and not has & _BFLOAT16


@functools.cache
def processor(root: str | os.PathLike = "/") -> dict[str, str]:
    """Linux's description of the first CPU core, by Linux's names: "model name", "flags"; empty on other systems.

    Args:
        root: the folder that has proc.
    """
    try:
        lines = Path(root, "proc/cpuinfo").read_text().strip().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    fields = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in fields}


def instructions(root: str | os.PathLike = "/") -> frozenset[str]:
    """The CPU's instruction sets, by Linux's names; empty if the system does not report them."""
    about = processor(root)
    return frozenset(about.get("flags", about.get("Features", "")).split())


def described(replicas: int, root: str | os.PathLike = "/") -> str:
    """The devices on which the replicas of this machine compute: "4 x NVIDIA A100-SXM4-80GB", "CPU, 2 cores (AVX2)".

    Args:
        root: the folder that has proc.
    """
    if gpus := tf.config.get_visible_devices("GPU")[:replicas]:
        names = collections.Counter(name_of_gpu(gpu) for gpu in gpus)
        return ", ".join(f"{number} x {name}" for name, number in names.items())
    cores = number_of_cores()
    best = next((name for flag, name in _BEST.items() if flag in instructions(root)), None)
    text = f"CPU, {cores} core{'s' * (cores > 1)}{f' ({best})' if best else ''}"
    if replicas > 1:
        text += f", as {replicas} logical devices"
    if _hidden() and _has_gpu(root):
        text += f"; CUDA_VISIBLE_DEVICES={shlex.quote(os.environ['CUDA_VISIBLE_DEVICES'])} hides the GPUs"
    return text


def name_of_gpu(gpu: tf.config.PhysicalDevice) -> str:
    """A GPU's name, such as "NVIDIA A100-SXM4-80GB"."""
    try:
        return tf.config.experimental.get_device_details(gpu).get("device_name") or "GPU of unknown type"
    except (ValueError, tf.errors.OpError):  # the details are the driver's, and not every plug-in has them
        return "GPU of unknown type"


def why_no_gpu(root: str | os.PathLike = "/") -> str | None:
    """Why TensorFlow does not see a GPU that this machine has, and what to do, in one line.

    None if TensorFlow sees a GPU, if there is none, or if the user has hidden the GPUs with CUDA_VISIBLE_DEVICES, which
    `described` reports.

    Args:
        root: the folder that has proc and dev.
    """
    if number_of_gpus() or not _has_gpu(root) or _hidden():
        return None
    python = shlex.quote(sys.executable or "python")
    if not tf.test.is_built_with_cuda():
        why = "this build of TensorFlow is for CPUs only; that of Linux on x86-64 is also for GPUs"
    elif not _is_installed(_CUDA):
        install = f"{python} -m pip install 'tensorflow[and-cuda]=={tf.__version__}'"
        why = f"the CUDA libraries are missing; install them with: {install}"
    elif not _in_dev(root):
        why = "it is not handed to this container; start the container with its GPUs (docker run --gpus all)"
    else:
        cuda = tf.sysconfig.get_build_info().get("cuda_version", "the CUDA that it needs")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        selected = f", or CUDA_VISIBLE_DEVICES={shlex.quote(visible)} names no GPU of this machine" if visible else ""
        why = (
            f"the CUDA libraries are installed, so the driver{_driver(root)} may be too old for CUDA {cuda}, or "
            f"LD_LIBRARY_PATH may lead to other libraries{selected}; this prints TensorFlow's reason: "
            f"TF_CPP_MIN_LOG_LEVEL=0 {python} "
            "-c 'from pixel_snail.backend import tf; tf.config.list_physical_devices()'"
        )
    return f"this machine has a GPU that TensorFlow can't use, so the CPU computes: {why}"


def _has_gpu(root):
    """Whether the driver knows an NVIDIA GPU. It may do so in a container that was not given the GPU."""
    return _in_dev(root) or any(Path(root, "proc/driver/nvidia/gpus").glob("*"))


def _in_dev(root):
    in_windows = Path(root, "dev/dxg").exists() and Path(root, "usr/lib/wsl/lib/libcuda.so.1").exists()
    return in_windows or any(Path(root, "dev").glob("nvidia[0-9]*"))


def _driver(root):
    """The version of NVIDIA's driver, as " 535.104.05"; empty if the driver does not report it."""
    try:
        words = Path(root, "proc/driver/nvidia/version").read_text().split()
    except OSError:
        return ""
    return next((f" {word}" for word in words if word[0].isdigit() and "." in word), "")


def _hidden():
    """Whether the user has hidden all GPUs. CUDA takes the devices before the first that does not exist, such as -1."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.split(",")[0].strip() in ("", "-1", "NoDevFiles")


def _is_installed(package):
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@functools.cache
def warn_of_an_idle_gpu() -> None:
    """Warns once a process if a GPU is left idle. The line that it names is that of the caller's caller's caller.

    The commands get their strategies from replicas.strategy, which warns by itself.
    """
    if why := why_no_gpu():
        warnings.warn(why, stacklevel=4)
