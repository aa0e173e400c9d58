"""Packed tensors are given back as they were, and gradients pass through."""

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail.kernels import xla
from pixel_snail.kernels.packing import pack, unpack


def tensors(rng, *shapes, dtype=tf.float32):
    return [tf.cast(rng.normal(size=shape), dtype) for shape in shapes]


def test_small_tensors_become_one_vector_and_all_are_given_back_in_order(rng):
    large = [xla.SMALL + 1]
    a, b, c, d, e = tensors(rng, [2, 3], large, [], [4], [1, 1, 5])
    nest = [(a, b), {"c": c, "d": tf.cast(d, tf.bfloat16)}, e]
    packed = pack(nest)
    assert [tensor.shape.as_list() for tensor in packed] == [[2 * 3 + 1 + 5], large, [4]]
    unpacked = unpack(packed, like=nest)
    tf.nest.assert_same_structure(unpacked, nest)
    for actual, expected in zip(tf.nest.flatten(unpacked), tf.nest.flatten(nest), strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(tf.cast(actual, tf.float32), tf.cast(expected, tf.float32))


@pytest.mark.parametrize("shapes", [[], [[xla.SMALL + 1]], [[3]]], ids=["no tensors", "a large one", "a small one"])
def test_any_mixture_of_large_and_small_tensors_can_be_packed(shapes, rng):
    nest = tensors(rng, *shapes)
    for actual, expected in zip(unpack(pack(nest), like=nest), nest, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_gradients_of_packed_tensors_unpack_to_gradients_of_the_tensors(rng):
    nest = tensors(rng, [2, 3], [xla.SMALL + 1], [5])
    with tf.GradientTape() as tape:
        packed = pack(nest)
        tape.watch(packed)
        loss = sum(tf.reduce_sum(i * tensor**2) for i, tensor in enumerate(unpack(packed, like=nest), 1))
    gradients = unpack(tape.gradient(loss, packed), like=nest)
    for i, (gradient, tensor) in enumerate(zip(gradients, nest, strict=True), 1):
        np.testing.assert_allclose(gradient, 2 * i * tensor, rtol=1e-6)
