"""Dropout masks: few random bits an element, and a stream of them for each image.

Random numbers are most of what dropout costs. A rate that is a multiple of 2^-n needs n random bits an element, and a
random word serves as many elements as fit. Each image draws from a stream of its own, which its number selects: a batch
has the same masks however it is divided into micro-batches and replicas.
"""

import numpy as np

from pixel_snail.backend import tf

_PHILOX = tf.random.Algorithm.PHILOX.value
_PHILOX_BLOCK_BYTES = 16


def split_seed(seed: tf.Tensor | None, number: int) -> list[tf.Tensor | None]:
    """`number` independent seeds from one; without a seed (no dropout), as many times None.

    Args:
        seed: integers [3]: a seed of two integers, and the number of the batch's first image, which all results keep.
    """
    if seed is None:
        return [None] * number
    return [tf.concat([part, seed[2:]], 0) for part in tf.unstack(tf.random.split(seed[:2], number))]


def random_words(shape: tf.Tensor | list, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Random words for the mask of a map, [B, N]; `kept` turns them into the mask.

    Args:
        shape: the map's, [B, ...].
        rate: the probability of dropping an element.
        seed: as in `split_seed`.
    """
    batch, *rest = shape
    dtype, _, elements = _word(rate)
    number = -(-int(np.prod(rest)) // elements)
    blocks = -(-number * dtype.size // _PHILOX_BLOCK_BYTES)
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed[:2])
    counter += tf.stack([tf.cast(seed[2], tf.uint64) * blocks, 0])
    random = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[batch, 4 * blocks], key=key, counter=counter, alg=_PHILOX, dtype=tf.uint32
    )
    words = blocks * _PHILOX_BLOCK_BYTES // dtype.size
    return tf.reshape(tf.bitcast(random, dtype), [batch, words])[:, :number]


def kept(random: tf.Tensor, shape: tf.TensorShape, rate: float) -> tf.Tensor:
    """The mask, booleans of a shape [B, ...]: which elements dropout keeps.

    An element is kept with probability 1 - rate, rounded to a multiple of 2^-16.

    Args:
        random: `random_words` of that shape and rate.
    """
    dtype, bits, elements = _word(rate)
    threshold = min(round(rate * 2**bits), 2**bits - 1)
    # A word serves elements far apart, so that neighbours, which are computed side by side, read different words.
    masks, thresholds = (
        tf.constant([[value << bits * i] for i in range(elements)], dtype) for value in (2**bits - 1, threshold)
    )
    keep = tf.bitwise.bitwise_and(random[:, None], masks) >= thresholds
    keep = tf.reshape(keep, [-1, elements * random.shape[1]])[:, : shape[1:].num_elements()]
    return tf.reshape(keep, [-1, *shape[1:]])


def _word(rate):
    """The type of the random words, the bits that an element needs, and the number of elements that a word serves."""
    bits = next((bits for bits in (1, 2, 4, 8) if (rate * 2**bits).is_integer()), 16)
    return (tf.uint16, 16, 1) if bits == 16 else (tf.uint8, bits, 8 // bits)
