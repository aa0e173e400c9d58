"""Shared fixtures, and logical CPU devices for tests with several replicas, set up before TensorFlow starts.

The tests compute on the CPU on every machine: their tolerances are those of CPUs, and each of their processes would
take all memory of a GPU. `python -m benchmarks.gpu` holds the GPUs to the golden numbers.
"""

import ctypes
import functools
import gc
import os
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # programs that tests start inherit it

from pixel_snail.backend import keras, tf  # first: it sets up TensorFlow's environment

# isort: split
import pytest
from tensorflow.python.framework import ops

from pixel_snail import sampling
from pixel_snail.codec import archive
from pixel_snail.codec.coder import ImageCoder

if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: more threads would only slow each other down
    tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)
tf.config.list_logical_devices()  # starts TensorFlow, so that no test can change its devices
# Rewriting graphs changes no result, but would take longer than all steps of the tests' small networks.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
# Tracing keeps most of the objects that it makes: Python would look through all of them again and again for garbage.
gc.set_threshold(5_000, 10, 10)


@pytest.fixture(autouse=True, scope="module")
def seed_of_fixtures():
    """Seeds the initial parameters of fixtures that the tests of a module share."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def seed():
    """Seeds the initial parameters of a test, so that they are the same whatever ran before."""
    keras.utils.set_random_seed(0)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True, scope="session")
def resident_at_most():
    """How large this process may become before `memory_of_past_networks` frees memory, in bytes: a list of one."""
    gc.collect()
    gc.freeze()  # what the imports have made lives as long as the process: no later collection need look at it
    return [2e9]


@pytest.fixture(autouse=True)
def memory_of_past_networks(resident_at_most):
    """Frees the graphs of past tests: TensorFlow keeps every custom gradient, and with it the graph that defined it.

    It takes half a second, so memory must have grown by 0.7 GB since the last time.
    """
    yield
    if resident_bytes() > resident_at_most[0]:
        gradients = ops.gradient_registry._registry
        for name in [name for name in gradients if name.startswith("CustomGradient")]:
            del gradients[name]
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        resident_at_most[0] = max(2e9, resident_bytes() + 7e8)


def other_collective_keys():
    """Gives the next strategy other keys for its collective operations: every strategy starts from the same key."""
    tf.distribute.MirroredStrategy._collective_key_base += 10


@pytest.fixture(autouse=True)
def own_collective_keys():
    other_collective_keys()


@pytest.fixture
def mirrored():
    """mirrored(replicas) returns a MirroredStrategy on so many logical CPU devices."""

    def strategy(replicas):
        other_collective_keys()
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])

    return strategy


@pytest.fixture
def uncompiled_drawing(monkeypatch):
    """Draws and codes images without XLA, which takes seconds to compile a row: for tests of something else."""
    monkeypatch.setattr(sampling, "batch_drawer", functools.partial(sampling.batch_drawer, jit=False))
    monkeypatch.setattr(archive, "ImageCoder", functools.partial(ImageCoder, jit=False))


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(0)
