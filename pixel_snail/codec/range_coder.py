"""The range coder: codes a sequence of values, whose probabilities are known, as one string of bits.

Encoder and decoder share the probabilities exactly, as integer frequencies.

constriction's range encoder writes the bits. Its decoder would have to be called three times a pixel, each time with
tables from the compiled network, and such a call takes longer than the whole computation of the pixel. So the decoder
here reads the same stream by a few TensorFlow operations, which are compiled into the loop over pixels.
"""

from typing import NamedTuple

import constriction
import numpy as np

from pixel_snail.backend import tf

BITS = 24
TOTAL = 2**BITS
"""The sum of all frequencies. A value of frequency f takes BITS - log2(f) bits."""
_WORD = 32
"""The stream is a sequence of 32-bit words; the state of the coder has 64 bits."""


def cumulative_frequencies(below: tf.Tensor) -> tf.Tensor:
    """Cumulative frequencies of the L values of a channel.

    A value v gets the frequency c[v + 1] - c[v]: its probability, rounded to multiples of 2^-24, and 2^-24 more. So
    every value can be coded, in 24 bits at most. This takes (L + 2) / 2^24 of the other values' probabilities: 0.00002
    bits a value for 256 levels, 0.006 for 65,536.

    Args:
        below: the probabilities that the value is below 1, ..., L - 1, [..., L - 1]. Because of rounding, they need not
            increase.

    Returns:
        c, int32 [..., L + 1], strictly increasing from 1 to TOTAL - 1. The ends are left free for the range encoder,
        which needs something below and above each value.
    """
    levels = below.shape[-1] + 1
    ends = tf.zeros_like(below[..., :1])
    shares = tf.cast(tf.concat([ends, below, ends + 1], -1) * _shared(levels), tf.int32)
    return _cumulated(tf.maximum(shares[..., 1:] - shares[..., :-1], 0))


def cumulative_frequencies_of(probabilities: tf.Tensor) -> tf.Tensor:
    """The same from the probabilities of the L values, [..., L], none of which is a difference of rounded sums.

    The frequencies are rounded down, so that the last of c may be up to L below TOTAL - 1.
    """
    return _cumulated(tf.cast(probabilities * _shared(probabilities.shape[-1]), tf.int32))


def _shared(levels):
    """The sum of the frequencies above 1, which are shared among the values."""
    return TOTAL - levels - 2


def _cumulated(frequencies):
    """c [..., L + 1] of frequencies [..., L], to each of which it adds 1."""
    levels = frequencies.shape[-1]
    # Where rounding has made frequencies larger, their sum is too large. The limit leaves 1 to each value that follows.
    limit = np.arange(TOTAL - levels, TOTAL, dtype=np.int32)
    cumulative = tf.minimum(1 + tf.cumsum(1 + frequencies, -1), limit)
    return tf.concat([tf.ones_like(cumulative[..., :1]), cumulative], -1)


class Encoder:
    """Writes a stream."""

    def __init__(self):
        self._encoder = constriction.stream.queue.RangeEncoder()
        self._family = constriction.stream.model.Categorical(perfect=False)

    def write(self, lower: np.ndarray, upper: np.ndarray) -> None:
        """Appends values, given by their intervals of cumulative frequencies, integers [n] each."""
        # For constriction, each value is the middle one of three: all values below it, the value, and all above it. It
        # adds one to each of the three frequencies and shares out the other 2^24 - 3 in proportion. It gets each
        # frequency minus one, so that the result is exact.
        frequencies = np.stack([lower, upper - lower, TOTAL - upper], -1)
        self._encoder.encode(np.ones(len(frequencies), np.int32), self._family, (frequencies - 1).astype(np.float64))

    def words(self) -> np.ndarray:
        """The stream so far, uint32 [n]."""
        return self._encoder.get_compressed()


class Decoder(NamedTuple):
    """The state of a decoder within a stream, as arrays or tensors.

    Fields:
        words: a part of the stream, uint32 [n].
        position: the next of these words, int32.
        range: the size of the interval that is left, uint64.
        offset: the position of the stream's number in this interval, uint64.
    """

    words: tf.Tensor
    position: tf.Tensor
    range: tf.Tensor
    offset: tf.Tensor

    @classmethod
    def begin(cls, words: np.ndarray) -> "Decoder":
        """The state before the first value of a stream that begins with these words."""
        offset = int(words[0]) << _WORD | int(words[1])
        return cls(words, np.int32(2), np.uint64(2**64 - 1), np.uint64(offset))

    def read(self, cumulative: tf.Tensor, is_coded: tf.Tensor) -> tuple[tf.Tensor, "Decoder"]:
        """Reads a value from each of several distributions.

        Every value takes one word at most.

        Args:
            cumulative: of each distribution, int32 [n, L + 1], as from `cumulative_frequencies`.
            is_coded: which values are in the stream, bool [n].

        Returns:
            The values, int32 [n], of which those that are not in the stream mean nothing; and the state after them.
        """

        def read_one(i, values, position, range_, offset):
            c = tf.gather(cumulative, i)
            unit = tf.bitwise.right_shift(range_, tf.constant(BITS, tf.uint64))
            quantile = tf.cast(tf.minimum(offset // unit, TOTAL - 1), tf.int32)
            value = tf.reduce_sum(tf.cast(c[1:-1] <= quantile, tf.int32))
            lower, upper = (tf.cast(tf.gather(c, value + end), tf.uint64) for end in (0, 1))
            new_range, new_offset = unit * (upper - lower), offset - unit * lower
            is_short = new_range < 2**_WORD
            shift = tf.where(is_short, tf.constant(_WORD, tf.uint64), tf.constant(0, tf.uint64))
            word = tf.where(is_short, tf.cast(tf.gather(self.words, position), tf.uint64), tf.constant(0, tf.uint64))
            new_range = tf.bitwise.left_shift(new_range, shift)
            new_offset = tf.bitwise.bitwise_or(tf.bitwise.left_shift(new_offset, shift), word)
            there = tf.gather(is_coded, i)
            return (
                i + 1,
                tf.where(tf.range(number) == i, value, values),
                position + tf.cast(is_short & there, tf.int32),
                tf.where(there, new_range, range_),
                tf.where(there, new_offset, offset),
            )

        number = cumulative.shape[0]
        state = tf.constant(0), tf.zeros([number], tf.int32), self.position, self.range, self.offset
        _, values, *state = tf.while_loop(lambda i, *_: i < number, read_one, state)
        return values, Decoder(self.words, *state)
