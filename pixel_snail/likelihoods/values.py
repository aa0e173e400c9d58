"""Values of images and the numbers in [-1, 1] that stand for them, as tensors (levels.py has them as arrays)."""

import numpy as np

from pixel_snail.backend import tf
from pixel_snail.likelihoods.levels import scaled


def nearest(x: tf.Tensor, levels: int) -> tf.Tensor:
    """The values, int32 from 0 to L - 1, that are nearest to numbers in [-1, 1]; 0 for NaN."""
    half = (levels - 1) / 2
    value = tf.cast(tf.where(tf.math.is_nan(x), 0.0, tf.round(x * half + half)), tf.int32)
    return tf.clip_by_value(value, 0, levels - 1)


def as_numbers(values: tf.Tensor, levels: int) -> tf.Tensor:
    """The numbers in [-1, 1], float32, that stand for values."""
    # From a table: XLA would multiply by a reciprocal, whose last bit may differ.
    return tf.gather(scaled(np.arange(levels, dtype=np.float32), levels), values)
