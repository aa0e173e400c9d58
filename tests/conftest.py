"""Logical CPU devices for the tests with several replicas: they must be made before TensorFlow starts."""

import ctypes  # noqa: I001 - pixel_snail sets TensorFlow's environment up, before it is imported
import gc
import os
from pathlib import Path

import pixel_snail  # noqa: F401
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: more threads would only be in each other's way
    tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)
tf.config.list_logical_devices()  # starts TensorFlow: no test may make other devices
# The rewriting of graphs, which changes no result, takes longer here than all steps of the small networks.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True)
def memory_of_past_networks():
    """Frees the graphs of past tests: TensorFlow keeps every gradient that a graph defines, and with it the graph."""
    yield
    if int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 2e9:
        gradients = ops.gradient_registry._registry
        for name in [name for name in gradients if name.startswith("CustomGradient")]:
            del gradients[name]
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


def other_collective_keys():
    """TensorFlow tells collective operations apart by numbers, which begin anew with every strategy of a process."""
    tf.distribute.MirroredStrategy._collective_key_base += 10


@pytest.fixture(autouse=True)
def own_collective_keys():
    other_collective_keys()


@pytest.fixture
def mirrored():
    """A function of a number of replicas: a MirroredStrategy on logical CPU devices."""

    def strategy(replicas):
        other_collective_keys()
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])

    return strategy


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(0)
