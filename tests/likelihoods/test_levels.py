"""8-bit values and the numbers that networks see: the same ones everywhere, and back."""

import numpy as np
import tensorflow as tf

from pixel_snail.likelihoods import levels

VALUES = np.arange(256, dtype=np.uint8)


def test_every_value_is_scaled_to_the_nearest_float32_of_its_number_and_rounded_back():
    expected = np.float32(2 * VALUES.astype(np.float64) / 255 - 1)
    for found in (levels.from_values(VALUES), levels.scaled(tf.cast(VALUES, tf.float32)).numpy()):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(levels.to_values(levels.from_values(VALUES)), VALUES)


def test_numbers_outside_are_rounded_to_black_and_white():
    np.testing.assert_array_equal(levels.to_values(np.array([-1.1, 1.1])), [0, 255])
