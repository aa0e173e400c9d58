"""Custom gradients of functions, also for batches of unknown size."""

import functools
from collections.abc import Callable

from pixel_snail.backend import tf


def custom_gradient(function: Callable) -> Callable:
    """tf.custom_gradient for a function with one result; the result's gradient gets the static shape of the result.

    If the size of a batch is not known when the graph is traced, TensorFlow may hand over gradients without any known
    size.
    """

    @tf.custom_gradient
    @functools.wraps(function)
    def differentiable(*arguments):
        y, gradient = function(*arguments)

        def of_known_shape(dy):
            dy.set_shape(y.shape)
            return gradient(dy)

        return y, of_known_shape

    return differentiable
