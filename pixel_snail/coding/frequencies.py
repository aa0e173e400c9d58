"""Probabilities as integer frequencies, which encoder and decoder share exactly."""

import numpy as np

from pixel_snail.backend import tf

BITS = 24
TOTAL = 2**BITS
"""The sum of all frequencies. A value of frequency f takes BITS - log2(f) bits."""


def cumulative(below: tf.Tensor) -> tf.Tensor:
    """Cumulative frequencies of the 256 values of a channel.

    A value v gets the frequency c[v + 1] - c[v]: its probability, rounded to multiples of 2^-24, and one more. So every
    value can be coded, in 24 bits at most. It costs the others 258 / 2^24 of their probability, 0.00002 bits a value.

    Args:
        below: the probabilities that the value is below 1, ..., 255, [..., 255]. They need not increase: rounding may
            order two that are nearly equal the wrong way round.

    Returns:
        c, int32 [..., 257], strictly increasing from 1 to TOTAL - 1. The ends are left free for the range encoder,
        which needs something below and above each value.
    """
    shared = TOTAL - 258
    ends = tf.zeros_like(below[..., :1])
    shares = tf.cast(tf.concat([ends, below, ends + 1], -1) * shared, tf.int32)
    frequencies = 1 + tf.maximum(shares[..., 1:] - shares[..., :-1], 0)
    # Where rounding has made frequencies larger, their sum is too large. The limit leaves 1 to each value that follows.
    limit = np.arange(TOTAL - 256, TOTAL, dtype=np.int32)
    return tf.concat([tf.ones_like(shares[..., :1]), tf.minimum(1 + tf.cumsum(frequencies, -1), limit)], -1)
