"""Fused elementwise operations and their gradients against TensorFlow's single operations."""

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail import nn
from pixel_snail.kernels import dropout, elementwise, xla

# The rounding error of sums over tens of elements of order 1.
TOLERANCE = 2e-6


@pytest.fixture(autouse=True, params=["compiled", "as they are"])
def run(request, monkeypatch):
    """Wraps a function in a graph, which compiles it in spite of the tests' small tensors, or leaves it as it is."""
    if request.param == "compiled":
        monkeypatch.setattr(xla, "SMALL", 0)
        return tf.function
    return lambda function: function


def values_and_gradients(compute, arguments, weights):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        y = compute(*arguments)
        loss = tf.reduce_sum(weights * y)
    return [y, *tape.gradient(loss, arguments)]


def assert_same_values_and_gradients(function, reference, arguments, rng, run):
    weights = tf.cast(rng.normal(size=reference(*arguments).shape), tf.float32)
    expected = values_and_gradients(reference, arguments, weights)
    actual = run(values_and_gradients)(function, arguments, weights)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=TOLERANCE * max(1, np.abs(e).max()))


def normal(rng, *shape):
    return tf.cast(rng.normal(size=shape), tf.float32)


@pytest.mark.parametrize("shape, axes", [([2, 3, 4, 5], (-4, -3, -2)), ([7, 5], (-2,)), ([2, 3, 5, 4], (-4, -3, -1))])
def test_normalised_is_the_scaled_l2_normalize_of_each_direction(shape, axes, rng, run):
    def reference(v, w, g, h):
        return tf.stack(
            [
                (scale[:, None] if axes[-1] == -1 else scale) * tf.math.l2_normalize(direction, axes, epsilon=1e-12)
                for direction, scale in ((v, g), (w, h))
            ]
        )

    arguments = [normal(rng, *shape), normal(rng, *shape), normal(rng, 5), normal(rng, 5)]
    assert_same_values_and_gradients(
        lambda v, w, g, h: tf.stack(elementwise.normalised([v, w], [g, h], axes)), reference, arguments, rng, run
    )


def test_the_norm_of_a_vanishing_direction_is_a_constant():
    v, g = tf.constant([[0.0, 1e-8], [0.0, 0.0]]), tf.constant([2.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch([v, g])
        loss = tf.reduce_sum(elementwise.normalised([v], [g], (-2,)))
    dv, dg = tape.gradient(loss, [v, g])
    np.testing.assert_allclose(dv, [[2e6, 3e6], [2e6, 3e6]], rtol=1e-6)
    np.testing.assert_allclose(dg, [0, 1e-2], rtol=1e-6)


def test_gate_and_add_bias_are_their_formulas(rng, run):
    def gate(x, c):
        p, q = tf.split(c, 2, -1)
        return x + p * tf.sigmoid(q)

    for shape in ([2, 3, 4], [6]):  # maps, and features of single pixels
        arguments = [normal(rng, *shape, 5), normal(rng, *shape, 10)]
        assert_same_values_and_gradients(elementwise.gate, gate, arguments, rng, run)
    bias = [normal(rng, 2, 3, 4, 5), normal(rng, 5)]
    assert_same_values_and_gradients(elementwise.add_bias, lambda x, b: x + b, bias, rng, run)


OWN = {"swish": tf.nn.silu, "sine and cosine": lambda x: tf.concat([tf.sin(x), tf.cos(x)], -1)}
"""Nonlinearities that somebody might add, without a faster form."""


@pytest.mark.parametrize("nonlinearity", [*sorted(nn.nonlinearities), *OWN])
@pytest.mark.parametrize("margins", [None, ((1, 0), (2, 3))])
@pytest.mark.parametrize("rate", [0, 0.25, 0.3])
def test_activate_is_nonlinearity_then_dropout_then_zeros_around(nonlinearity, margins, rate, rng, run):
    x = normal(rng, 2, 3, 4, 5)
    f = (nn.nonlinearities | OWN)[nonlinearity]
    fast = nn.fast_nonlinearities.get(f) or elementwise.Nonlinearity(f)
    shape = f(x).shape
    random = dropout.random_words(shape, rate, tf.constant([1, 2, 0])) if rate else None

    def reference(x):
        y = f(x)
        if rate:
            y = tf.where(dropout.kept(random, shape, rate), y / (1 - rate), 0)
        return tf.pad(y, [[0, 0], *margins, [0, 0]]) if margins else y

    activate = elementwise.activate
    assert_same_values_and_gradients(lambda x: activate(x, fast, margins, random, rate), reference, [x], rng, run)
