"""Compilation by XLA of functions that go over large tensors, each then one pass over memory."""

import functools
from collections.abc import Callable

import tensorflow as tf

SMALL = 2**15
"""The number of elements up to which compiling a function takes longer than all its calls would save."""


def compiled(function: Callable) -> Callable:
    """`function`, of tensors and constants, compiled where a graph calls it with large tensors; else as it is.

    Such a function must hold no sum: TensorFlow 2.21 runs compiled sums through a library whose set-up crashes now and
    then when two threads call one for the first time at once.
    """
    compiled_function = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*arguments):
        sizes = [argument.shape.num_elements() for argument in arguments if isinstance(argument, tf.Tensor)]
        large = any(size is None or size > SMALL for size in sizes)
        return (compiled_function if large and not tf.executing_eagerly() else function)(*arguments)

    return call
