"""What computes, as the log tells it; and the line for a user whose GPU is not used. GPUs and machines are made up."""

import contextlib
import importlib.metadata
import os
import sys

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail.errors import UserError
from pixel_snail.kernels import convolution
from pixel_snail.parallel import devices, replicas
from pixel_snail.parallel.cluster import Cluster

INTEL = """processor\t: 0
model name\t: Intel(R) Xeon(R)
flags\t\t: fpu sse2 {}
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu sse2 {}
"""
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd {}\nCPU implementer\t: 0x41\n"


def machine(folder, **files):
    """A root folder with files; in their names, two underscores stand for a slash."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


NUMBER_OF_CORES = devices.number_of_cores


@pytest.fixture(autouse=True)
def two_cores_and_no_setting(monkeypatch):
    monkeypatch.setattr(devices, "number_of_cores", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def gpus(monkeypatch):
    """gpus(*details) makes TensorFlow see a GPU for each of the details."""

    def see(*details):
        seen = [tf.config.PhysicalDevice(f"/physical_device:GPU:{i}", "GPU") for i in range(len(details))]
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: seen if kind == "GPU" else [])
        of_gpu = dict(zip(seen, details, strict=True))

        def get_details(gpu):
            if isinstance(of_gpu[gpu], Exception):
                raise of_gpu[gpu]
            return of_gpu[gpu]

        monkeypatch.setattr(tf.config.experimental, "get_device_details", get_details)
        return seen

    return see


@pytest.mark.parametrize(
    "cpuinfo, best, lacks_bfloat16",
    [
        (INTEL.format("avx avx2 avx512f avx512_bf16 amx_bf16", ""), " (AMX)", False),
        (INTEL.format("avx avx2 avx512f avx512_bf16", ""), " (AVX-512)", False),
        (INTEL.format("avx avx2 avx512f", ""), " (AVX-512)", True),
        (INTEL.format("avx avx2", ""), " (AVX2)", True),
        (INTEL.format("avx", ""), " (AVX)", True),
        (INTEL.format("", ""), "", True),
        (ARM.format("sve bf16"), " (SVE)", False),
        (ARM.format(""), " (NEON)", True),
        ("processor: no flags\n", "", False),
        ("", "", False),
    ],
)
def test_a_cpu_is_told_by_its_cores_and_its_best_instructions(cpuinfo, best, lacks_bfloat16, tmp_path):
    root = machine(tmp_path, proc__cpuinfo=cpuinfo)
    assert devices.described(1, root) == f"CPU, 2 cores{best}"
    assert devices.lacks_bfloat16(root) == lacks_bfloat16


def test_a_system_without_cpuinfo_is_told_by_its_cores(tmp_path, monkeypatch):
    assert devices.described(1, tmp_path) == "CPU, 2 cores"
    assert not devices.lacks_bfloat16(tmp_path)
    monkeypatch.setattr(devices, "number_of_cores", lambda: 1)
    assert devices.described(1, tmp_path) == "CPU, 1 core"


V1 = {"proc__self__cgroup": "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n1:name=systemd:/docker/a\n"}
V2 = {"proc__self__cgroup": "0::/pod/a\n"}
IN_NAMESPACE = {"proc__self__cgroup": "0::/../..\n"}


@pytest.mark.parametrize(
    "files, cores",
    [
        ({}, 64),
        (V2, 64),
        (V2 | {"sys__fs__cgroup__pod__a__cpu.max": "max 100000\n"}, 64),
        (V2 | {"sys__fs__cgroup__pod__a__cpu.max": "200000 100000\n"}, 2),
        (V2 | {"sys__fs__cgroup__pod__a__cpu.max": "150000 100000\n"}, 2),
        (V2 | {"sys__fs__cgroup__pod__a__cpu.max": "1000 100000\n"}, 1),
        (V2 | {"sys__fs__cgroup__pod__a__cpu.max": "9000000 100000\n"}, 64),
        (V2 | {"sys__fs__cgroup__pod__a__cpu.max": "max 100000", "sys__fs__cgroup__pod__cpu.max": "300000 100000"}, 3),
        (V2 | {"sys__fs__cgroup__pod__a__cpu.max": "4000 1000", "sys__fs__cgroup__pod__cpu.max": "3000 1000"}, 3),
        (V2 | {"sys__fs__cgroup__cpu.max": "200000 100000\n"}, 2),
        (V2 | {"sys__fs__cgroup__pod__a__cpu.max": "nonsense\n"}, 64),
        (V2 | {"sys__fs__cgroup__pod__a__cpu.max": "100000 0\n"}, 64),
        (IN_NAMESPACE | {"sys__fs__cgroup__cpu.max": "200000 100000\n"}, 2),
        (
            V1 | {"sys__fs__cgroup__cpu__cpu.cfs_quota_us": "-1\n", "sys__fs__cgroup__cpu__cpu.cfs_period_us": "1000"},
            64,
        ),
        (
            V1
            | {"sys__fs__cgroup__cpu__cpu.cfs_quota_us": "2000\n", "sys__fs__cgroup__cpu__cpu.cfs_period_us": "1000"},
            2,
        ),
        (
            V1
            | {
                "sys__fs__cgroup__cpu__docker__a__cpu.cfs_quota_us": "2500\n",
                "sys__fs__cgroup__cpu__docker__a__cpu.cfs_period_us": "1000\n",
            },
            3,
        ),
        (V1 | {"sys__fs__cgroup__memory__docker__a__cpu.max": "1000 1000\n"}, 64),
    ],
)
def test_no_more_cores_are_counted_than_a_container_may_use(files, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert NUMBER_OF_CORES(machine(tmp_path, **files)) == cores


def test_amx_is_found_where_the_processor_has_it(monkeypatch, tmp_path):
    for flags, wide in (("amx_bf16", 2**16), ("avx512f", 2**12)):
        monkeypatch.setattr(devices, "instructions", lambda flags=flags: frozenset([flags]))
        assert devices.has_amx() == (flags == "amx_bf16")
        assert convolution._wide() == wide


def test_gpus_are_told_by_their_names_and_only_those_that_are_used(gpus):
    a100 = {"device_name": "NVIDIA A100-SXM4-80GB", "compute_capability": (8, 0)}
    gpus(a100, a100, a100, {"device_name": "Tesla T4"})
    assert devices.described(4) == "3 x NVIDIA A100-SXM4-80GB, 1 x Tesla T4"
    assert devices.described(2) == "2 x NVIDIA A100-SXM4-80GB"


@pytest.mark.parametrize("details", [{}, ValueError("unknown"), tf.errors.InternalError(None, None, "driver")], ids=str)
def test_a_gpu_without_details_is_told_too(details, gpus):
    gpus(details)
    assert devices.described(1) == "1 x GPU of unknown type"


NOTHING = {"proc__cpuinfo": "", "dev__null": "", "dev__nvidiactl": ""}
IN_DEV = {"dev__nvidia0": "", "proc__driver__nvidia__version": "NVRM version: NVIDIA UNIX x86_64 Kernel 450.80.02 x\n"}
IN_PROC = {"proc__driver__nvidia__gpus__0000:01:00.0__information": "Model: NVIDIA A100\n"}
IN_WINDOWS = {"dev__dxg": "", "usr__lib__wsl__lib__libcuda.so.1": ""}
NO_GPU = "this machine has a GPU that TensorFlow can't use, so the CPU computes: "
INSTALL = f"{sys.executable} -m pip install 'tensorflow[and-cuda]=={tf.__version__}'"


def installed(monkeypatch, *packages):
    def version(name):
        if name not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return "9.3"

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.parametrize("files", [IN_DEV, IN_PROC, IN_WINDOWS], ids=["dev", "proc", "wsl"])
def test_a_gpu_without_cuda_libraries_is_told_with_the_command_that_installs_them(files, tmp_path, monkeypatch):
    installed(monkeypatch)
    why = devices.why_no_gpu(machine(tmp_path, **files))
    assert why == f"{NO_GPU}the CUDA libraries are missing; install them with: {INSTALL}"


def test_a_gpu_that_cuda_does_not_find_is_told_with_its_driver(tmp_path, monkeypatch):
    installed(monkeypatch, "nvidia-cudnn-cu12")
    why = devices.why_no_gpu(machine(tmp_path, **IN_DEV))
    assert why.startswith(
        f"{NO_GPU}the CUDA libraries are installed, so the driver 450.80.02 may be too old for CUDA 12."
    )
    assert f"TF_CPP_MIN_LOG_LEVEL=0 {sys.executable} -c" in why
    assert "\n" not in why and "CUDA_VISIBLE_DEVICES" not in why
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "CUDA_VISIBLE_DEVICES=7 names no GPU of this machine" in devices.why_no_gpu(tmp_path)


def test_a_gpu_that_a_container_did_not_get_is_told(tmp_path, monkeypatch):
    installed(monkeypatch, "nvidia-cudnn-cu12")
    assert "docker run --gpus all" in devices.why_no_gpu(machine(tmp_path, **IN_PROC))


def test_a_tensorflow_for_cpus_only_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: False)
    assert "this build of TensorFlow is for CPUs only" in devices.why_no_gpu(machine(tmp_path, **IN_DEV))


def test_nothing_is_told_without_a_gpu_or_with_one_that_is_used(tmp_path, gpus):
    assert devices.why_no_gpu(machine(tmp_path / "without", **NOTHING)) is None
    assert devices.why_no_gpu(machine(tmp_path / "with", **IN_DEV)) is not None
    gpus({})
    assert devices.why_no_gpu(tmp_path / "with") is None


@pytest.mark.parametrize("value", ["", "-1", "-1,0", "NoDevFiles"])
def test_who_hides_the_gpus_gets_no_notice_and_reads_it_in_the_line_of_devices(value, tmp_path, monkeypatch):
    root = machine(tmp_path, **IN_DEV, proc__cpuinfo=INTEL.format("avx2", ""))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert devices.why_no_gpu(root) is None
    told = value or "''"
    assert devices.described(1, root) == f"CPU, 2 cores (AVX2); CUDA_VISIBLE_DEVICES={told} hides the GPUs"
    assert "hides" not in devices.described(1, machine(tmp_path / "without", **NOTHING))


def test_the_notice_is_a_line_on_stderr_of_whoever_makes_a_strategy(monkeypatch, capsys):
    monkeypatch.setattr(devices, "why_no_gpu", lambda: "no CUDA")
    replicas.strategy(1)
    assert capsys.readouterr() == ("", "note: no CUDA\n")


def test_logical_devices_of_a_cpu_are_told_to_be_for_tests(mirrored):
    line, note = replicas.described(mirrored(4), Cluster()).splitlines()
    assert line.startswith("devices: CPU, 2 cores")
    assert line.endswith(", as 4 logical devices")
    assert note == (
        "no GPU is used: the 4 replicas of --nr_gpu are logical CPU devices. They share the cores, so nothing gets "
        "faster: this is for tests"
    )
    assert len(replicas.described(tf.distribute.get_strategy(), Cluster()).splitlines()) == 1


@pytest.mark.parametrize(
    "other, expected",
    [
        ("1 x Tesla T4", "devices: 1 x Tesla T4, on each of 2 workers"),
        ("CPU, 8 cores", "devices: the chief (a:1): 1 x Tesla T4; worker 1 (b:2): CPU, 8 cores"),
    ],
)
def test_workers_are_told_each_by_itself_only_if_they_differ(other, expected, gpus, monkeypatch):
    gpus({"device_name": "Tesla T4"})
    monkeypatch.setattr(Cluster, "gather_objects", lambda self, mine: [mine, other])
    assert replicas.described(tf.distribute.get_strategy(), Cluster(("a:1", "b:2"))) == expected


def test_workers_of_which_only_some_see_gpus_are_told_before_they_wait_for_each_other(monkeypatch):
    monkeypatch.setattr(Cluster, "gather", lambda self, value, timeout=0: np.arange(2))
    monkeypatch.setattr(Cluster, "gather_objects", lambda self, mine: [mine, mine | {"the kind of devices": "CPU"}])
    with pytest.raises(UserError, match=r"the kind of devices is GPU on the chief \(a:1\) and CPU on worker 1 \(b:2\)"):
        Cluster(("a:1", "b:2")).wait_for_all("GPU", 1)


def test_on_gpus_float32_is_float32_and_unused_ones_are_left_to_others(gpus, monkeypatch):
    seen = gpus({}, {}, {})
    taken = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda chosen, kind: taken.append((kind, chosen)))
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names: names)
    try:
        assert replicas.strategy(2) == ["GPU:0", "GPU:1"]
        assert not tf.config.experimental.tensor_float_32_execution_enabled()
    finally:
        replicas._until_the_program_ends.close()
    assert taken == [("GPU", seen[:2])]


TF32 = tf.config.experimental.tensor_float_32_execution_enabled


@pytest.fixture(params=[True, False], ids=["TF32", "float32"])
def setting(request):
    """TensorFlow's setting of TF32, as a user's program may have it."""
    before = TF32()
    tf.config.experimental.enable_tensor_float_32_execution(request.param)
    yield request.param
    tf.config.experimental.enable_tensor_float_32_execution(before)


def test_tf32_is_off_until_the_last_of_several_blocks_ends_and_then_as_it_was(setting):
    first, second = devices.without_tf32(), devices.without_tf32()  # of two threads: neither lies within the other
    with contextlib.suppress(KeyError), devices.without_tf32():
        assert not TF32()
        raise KeyError
    assert TF32() == setting
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not TF32()
    second.__exit__(None, None, None)
    assert TF32() == setting


MEMINFO = "MemTotal: 64000000 kB\nMemAvailable: 48000000 kB\nSwapFree: {} kB\n"
OWN = "Name: python\nVmRSS: 500000 kB\n"
NO_LIMIT = str(2**63 - 4096)


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, 48_000_000 * 1024),
        ({"proc__meminfo": MEMINFO.format(1000)}, 48_001_000 * 1024),
        # A container of version 2, as the container sees itself and as its host sees it
        (
            {
                "proc__self__cgroup": "0::/\n",
                "sys__fs__cgroup__memory.max": "4000000000\n",
                "sys__fs__cgroup__memory.current": "1500000000\n",
                "sys__fs__cgroup__memory.stat": "anon 900000000\nfile 500000000\nslab_reclaimable 1000000\n",
            },
            4_000_000_000 - 1_500_000_000 + 501_000_000,
        ),
        (
            {
                "proc__self__cgroup": "0::/a/b\n",
                "sys__fs__cgroup__a__b__memory.max": "max\n",
                "sys__fs__cgroup__a__b__memory.current": "1\n",
                "sys__fs__cgroup__a__memory.max": "3000\n",
                "sys__fs__cgroup__a__memory.current": "2000\n",
            },
            1000,
        ),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__memory.max": "max\n"}, 48_000_000 * 1024),
        (
            {
                "proc__self__cgroup": "0::/\n",
                "sys__fs__cgroup__memory.max": "1000\n",
                "sys__fs__cgroup__memory.current": "2000\n",
            },
            0,
        ),
        # Version 1: a group of a batch system, and a container that only sees its own folder
        (
            {
                "proc__self__cgroup": "5:cpu:/x\n4:memory:/job\n0::/\n",
                "sys__fs__cgroup__memory__job__memory.limit_in_bytes": "9000\n",
                "sys__fs__cgroup__memory__job__memory.usage_in_bytes": "5000\n",
                "sys__fs__cgroup__memory__job__memory.stat": "cache 1\ntotal_cache 300\n",
                "sys__fs__cgroup__memory__memory.limit_in_bytes": NO_LIMIT,
                "sys__fs__cgroup__memory__memory.usage_in_bytes": "7000\n",
            },
            4300,
        ),
        (
            {
                "proc__self__cgroup": "4:cpuset,memory:/docker/0123\n",
                "sys__fs__cgroup__memory__memory.limit_in_bytes": "9000\n",
                "sys__fs__cgroup__memory__memory.usage_in_bytes": "5000\n",
            },
            4000,
        ),
        ({"proc__meminfo": ""}, None),
    ],
)
def test_the_memory_that_can_be_had_is_what_the_machine_and_every_limit_leave(files, expected, tmp_path):
    root = machine(tmp_path, **{"proc__meminfo": MEMINFO.format(0), "proc__self__status": OWN} | files)
    assert devices.available_memory(root) == expected
    assert devices.own_memory(root) == 500_000 * 1024
    assert devices.own_memory(tmp_path / "none") == 0


def test_a_limit_of_the_process_counts_too(tmp_path, monkeypatch):
    root = machine(tmp_path, proc__meminfo=MEMINFO.format(0), proc__self__status=OWN)
    monkeypatch.setattr(devices.resource, "getrlimit", lambda _: (600_000 * 1024, 10**12))
    assert devices.available_memory(root) == 100_000 * 1024
