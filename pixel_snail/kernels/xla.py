"""Compilation by XLA of functions that go over large tensors, each then one pass over memory."""

import functools
from collections.abc import Callable

import tensorflow as tf

SMALL = 2**15
"""The number of elements up to which compiling a function takes longer than all its calls would save."""


def compiled(function: Callable) -> Callable:
    """`function`, of tensors and constants, compiled where a graph calls it with large tensors; else as it is.

    What it is given in bfloat16, it sees in float32, and what it returns is then rounded: to round each step between
    takes up to seven times as long.

    Such a function must hold no sum: TensorFlow 2.21 runs compiled sums through a library whose set-up crashes now and
    then when two threads call one for the first time at once.
    """

    def in_float32(*arguments):
        if not any(map(_is_bfloat16, tf.nest.flatten(arguments))):
            return function(*arguments)
        widened = tf.nest.map_structure(lambda a: tf.cast(a, tf.float32) if _is_bfloat16(a) else a, arguments)
        return tf.nest.map_structure(lambda result: tf.cast(result, tf.bfloat16), function(*widened))

    compiled_function = tf.function(in_float32, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*arguments):
        sizes = [argument.shape.num_elements() for argument in arguments if isinstance(argument, tf.Tensor)]
        large = any(size is None or size > SMALL for size in sizes)
        return (compiled_function if large and not tf.executing_eagerly() else in_float32)(*arguments)

    return call


def _is_bfloat16(argument):
    return isinstance(argument, tf.Tensor) and argument.dtype == tf.bfloat16


def words(x: tf.Tensor) -> tf.Tensor:
    """bfloat16 as the 16 bits that it is; else x as it is.

    XLA moves bfloat16 by way of float32, and computes a large tensor anew as float32 before it takes pieces of it.
    Words it moves as they are.
    """
    return tf.bitcast(x, tf.uint16) if x.dtype == tf.bfloat16 else x


def of_words(x: tf.Tensor) -> tf.Tensor:
    """What `words` were made of, in float32."""
    return tf.bitcast(tf.bitwise.left_shift(tf.cast(x, tf.uint32), 16), tf.float32) if x.dtype == tf.uint16 else x
