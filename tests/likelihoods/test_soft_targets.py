"""Soft targets: the loss, and its gradient, against the mean over all draws of the values."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail.likelihoods import soft_targets
from pixel_snail.likelihoods.levels import from_values
from pixel_snail.likelihoods.named import likelihoods
from pixel_snail.settings import LIKELIHOODS

OUTPUTS = {"logistic_mixture": 3 * 2, "categorical": 2}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_loss_and_gradient_are_the_means_over_all_draws_weighted_by_their_probabilities(name, rng):
    """Of an image of 2 x 3 pixels, which has 64 draws."""
    p = rng.uniform(0, 1, [1, 2, 3, 1]).astype(np.float32)
    outputs = tf.constant(rng.normal(0, 1, [1, 2, 3, OUTPUTS[name]]), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(outputs)
        found = soft_targets.loss_per_image(p, outputs, likelihoods[name].nats_per_value)
        expected = 0.0
        for draw in itertools.product([0, 1], repeat=6):
            values = np.reshape(draw, p.shape)
            weight = np.prod(np.where(values, p, 1 - p))
            expected += weight * likelihoods[name].loss_per_image(from_values(values, 2), outputs, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    gradients = tape.gradient(found, outputs), tape.gradient(expected, outputs)
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_certain_values_have_the_loss_of_these_values(name, rng):
    values = rng.integers(0, 2, [3, 4, 5, 1])
    outputs = tf.constant(rng.normal(0, 5, [3, 4, 5, OUTPUTS[name]]), tf.float32)
    found = soft_targets.loss_per_image(values.astype(np.float32), outputs, likelihoods[name].nats_per_value)
    np.testing.assert_allclose(found, likelihoods[name].loss_per_image(from_values(values, 2), outputs, 2), rtol=1e-5)
