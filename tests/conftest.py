"""Logical CPU devices for the tests with several replicas: they must be made before TensorFlow starts."""

import ctypes  # noqa: I001 - pixel_snail sets TensorFlow's environment up, before it is imported
import gc
import os
from pathlib import Path

import pixel_snail  # noqa: F401
import pytest
import tensorflow as tf

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: more threads would only be in each other's way
    tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
tf.config.list_logical_devices()  # starts TensorFlow: no test may make other devices
# The rewriting of graphs, which changes no result, takes longer here than all steps of the small networks.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True)
def memory_of_past_networks():
    """Networks and graphs refer to themselves: only a collection, which Python puts off, frees those of past tests."""
    yield
    if int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 2e9:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(0)
