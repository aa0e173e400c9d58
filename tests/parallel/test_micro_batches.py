"""A batch is divided into equal micro-batches: every image is computed once, within the limits given."""

import itertools
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail.model import specs
from pixel_snail.parallel import devices, micro_batches


@pytest.mark.parametrize("cores", [1, 2, 4, 64])
def test_a_division_is_into_equal_parts_that_keep_the_cores_busy_and_to_the_rounds(cores, monkeypatch):
    monkeypatch.setattr(devices, "number_of_cores", lambda: cores)
    for together, replicas, rounds, most in itertools.product(range(1, 33), (1, 2, 4), (1, 2, 3), (1, 2, 8)):
        images = together * rounds
        number, at_once = micro_batches.division(images, replicas, most, rounds)
        assert images % number == 0
        assert images // number <= most
        assert 1 <= at_once * images // number <= together
        assert at_once == min(together, max(1, min(cores, 8) // replicas))


def test_a_division_is_into_the_largest_parts_that_keep_the_cores_busy(monkeypatch):
    monkeypatch.setattr(devices, "number_of_cores", lambda: 2)
    sizes = {images: images // micro_batches.division(images, 1, 8)[0] for images in (2, 3, 4, 8, 12, 16, 24, 32)}
    assert sizes == {2: 1, 3: 1, 4: 2, 8: 4, 12: 4, 16: 8, 24: 8, 32: 8}


@pytest.mark.parametrize(
    ("model", "nr_filters", "side", "trained", "evaluated"),
    [
        ("pxpp", 32, 32, 4, 8),
        ("pxpp", 64, 32, 2, 4),
        ("pxpp", 160, 32, 2, 4),
        ("pxpp", 32, 28, 8, 8),
        ("pxpp", 40, 16, 16, 16),
        ("h12_noup_smallkey", 32, 32, 2, 4),  # the attention's weights are larger than the feature maps
        ("h12_noup_smallkey", 32, 16, 8, 16),
    ],
)
def test_micro_batches_have_more_images_where_maps_are_small(model, nr_filters, side, trained, evaluated):
    values = specs[model](nr_filters=nr_filters).values_per_image(side, side)
    assert micro_batches.most_images(values) == trained
    assert micro_batches.most_images(values, keeps_activations=False) == evaluated


@pytest.mark.parametrize("number", [1, 2, 6])
def test_parts_are_summed_and_mapped_as_the_whole(number, rng):
    batch = {"images": tf.constant(rng.normal(size=[6, 4])), "labels": tf.range(6)}

    def products(part, first_image):
        numbers = first_image + tf.range(len(part["labels"]))
        weighted = tf.cast(numbers * part["labels"], tf.float64)[:, None] * part["images"]
        return [tf.reduce_sum(weighted, 0), tf.cast(tf.reduce_sum(numbers), tf.float32)]

    zeros = [tf.zeros([4], tf.float64), tf.zeros([])]
    total, count = tf.function(lambda: micro_batches.summed(products, zeros, batch, number, at_once=2))()
    np.testing.assert_allclose(total, np.square(np.arange(6)) @ batch["images"].numpy(), rtol=1e-12)
    assert count == 15

    def doubled(part):
        return 2 * tf.cast(part["images"], tf.float32) + tf.cast(part["labels"], tf.float32)[:, None]

    mapped = tf.function(lambda: micro_batches.mapped(doubled, batch, number, at_once=2))()
    np.testing.assert_array_equal(mapped, doubled(batch))


_ARENAS_OF_THREADS = """
import ctypes, threading
from pixel_snail.parallel import devices, micro_batches

devices.number_of_cores = lambda: 1
micro_batches.limit_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(8)

def allocate():
    together.wait()
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
@pytest.mark.parametrize(("variables", "expected"), [({}, 2), ({"MALLOC_ARENA_MAX": "5"}, 5)])
def test_threads_share_as_many_arenas_as_there_are_cores_unless_the_environment_says_how_many(variables, expected):
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | variables
    command = [sys.executable, "-c", _ARENAS_OF_THREADS]
    place = {"cwd": Path(__file__).parents[2], "env": environment}
    done = subprocess.run(command, **place, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.count("<heap nr=") == expected
