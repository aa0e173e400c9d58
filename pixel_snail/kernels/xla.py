"""Functions of large tensors, compiled by XLA into one pass over memory each."""

import functools
from collections.abc import Callable

from pixel_snail.backend import tf

SMALL = 2**15
"""Up to this number of elements, compiling a function takes longer than all its calls would save."""


def compiled(function: Callable) -> Callable:
    """Has XLA compile a function of tensors and constants where a graph calls it with a large tensor.

    Other calls run it uncompiled. If the function gets bfloat16 tensors, it computes in float32, and its results are
    rounded to bfloat16. Rounding after every operation would take up to seven times as long.

    The function must not contain a sum. TensorFlow 2.21 runs compiled sums through a library whose set-up sometimes
    crashes when two threads use it for the first time at once.
    """

    def in_float32(to_bfloat16, *arguments):
        if not any(map(_is_bfloat16, tf.nest.flatten(arguments))):
            return function(*arguments)
        widened = tf.nest.map_structure(lambda a: tf.cast(a, tf.float32) if _is_bfloat16(a) else a, arguments)
        return tf.nest.map_structure(to_bfloat16, function(*widened))

    compiled_function = tf.function(functools.partial(in_float32, rounded), jit_compile=True, autograph=False)
    uncompiled = functools.partial(in_float32, lambda x: tf.cast(x, tf.bfloat16))

    @functools.wraps(function)
    def call(*arguments):
        large = any(is_large(argument.shape) for argument in arguments if isinstance(argument, tf.Tensor))
        return (compiled_function if large and not tf.executing_eagerly() else uncompiled)(*arguments)

    return call


def is_large(shape: tf.TensorShape) -> bool:
    """Whether a tensor has more elements than SMALL; also if their number is not known when the graph is traced."""
    size = shape.num_elements()
    return size is None or size > SMALL


def _is_bfloat16(argument):
    return isinstance(argument, tf.Tensor) and argument.dtype == tf.bfloat16


def rounded(x: tf.Tensor) -> tf.Tensor:
    """float32 rounded to bfloat16: to the nearest, and to even in the middle, as tf.cast does it.

    It adds to the bits as whole numbers. With XLA's own conversion, a function whose result is a choice between two
    maps takes twice as long. A NaN that arithmetic makes stays one: its last bits are zero, so the sum can't overflow.
    """
    bits = tf.bitcast(x, tf.uint32)
    odd = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 16), 1)
    return tf.bitcast(tf.cast(tf.bitwise.right_shift(bits + 0x7FFF + odd, 16), tf.uint16), tf.bfloat16)


def words(x: tf.Tensor) -> tf.Tensor:
    """The 16 bits of bfloat16 as uint16; a tensor of another type stays as it is.

    XLA moves bfloat16 by way of float32, and converts a large tensor to float32 before it slices it. It moves uint16
    without conversion.
    """
    return tf.bitcast(x, tf.uint16) if x.dtype == tf.bfloat16 else x


def of_words(x: tf.Tensor) -> tf.Tensor:
    """The inverse of `words`, but float32 in place of bfloat16."""
    return tf.bitcast(tf.bitwise.left_shift(tf.cast(x, tf.uint32), 16), tf.float32) if x.dtype == tf.uint16 else x
