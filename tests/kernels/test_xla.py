"""Compiled functions of bfloat16 round as TensorFlow does."""

import numpy as np
import tensorflow as tf

from pixel_snail.kernels import xla


def bits(x):
    return x.numpy().view(np.uint16)


def test_rounding_to_bfloat16_is_tensorflows_bit_by_bit(rng):
    # Of all floats: random bits, and the neighbours of every middle between two bfloat16 of one exponent.
    middles = np.arange(0x3F808000, 0x40008000, 0x10000, dtype=np.uint32)
    patterns = [rng.integers(0, 2**32, 2**20, dtype=np.uint32), middles - 1, middles, middles + 1]
    of_patterns = np.concatenate(patterns).view(np.float32)
    special = np.float32([0.0, -0.0, np.inf, -np.inf, 1e-45, np.finfo(np.float32).max, np.finfo(np.float32).min])
    x = np.concatenate([of_patterns[~np.isnan(of_patterns)], special])
    rounded = tf.function(xla.rounded, jit_compile=True)(x)
    np.testing.assert_array_equal(bits(rounded), bits(tf.cast(x, tf.bfloat16)))


def test_nan_stays_nan_in_a_compiled_function_of_bfloat16():
    # The NaN with all bits set is the one that the rounding changes most.
    all_set = tf.bitcast(tf.constant([0x7FFF, 0xFFFF], tf.uint16), tf.bfloat16)
    x = tf.concat([all_set, tf.fill([xla.SMALL], tf.constant(np.nan, tf.bfloat16))], 0)
    for function in (lambda x: x, lambda x: x + 1, lambda x: x * 0, lambda x: x - x, tf.exp):
        result = tf.function(xla.compiled(function))(x)
        assert result.dtype == tf.bfloat16 and np.isnan(tf.cast(result, tf.float32)).all()
