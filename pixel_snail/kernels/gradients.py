"""Functions with gradients of their own, also in batches of unknown size."""

import functools
from collections.abc import Callable

from pixel_snail.backend import tf


def custom_gradient(function: Callable) -> Callable:
    """tf.custom_gradient of a function with one result, whose gradient arrives with the static shape of the result.

    Where the size of a batch is not known when the graph is traced, TensorFlow may hand over gradients of which no size
    is known.
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
