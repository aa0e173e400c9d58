"""The plain network, the baseline of the training benchmark, takes the same steps as the network."""

import argparse

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import build_shallow, distinct

from benchmarks import plain, training
from pixel_snail import nn
from pixel_snail.model import specs
from pixel_snail.optimizer import flatten

FLAGS = argparse.Namespace(bfloat16=False, recompute=False, grad_accum=1)


@pytest.fixture
def without_graphs():
    """Runs what the benchmark compiles operation by operation: compiling takes five times as long as all else."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def measured_in_turns(name, rng, number_of_steps, channels=3, levels=256, **settings):
    """What the benchmark measures, our network's and the plain one's, from the same parameters.

    Returns:
        For each of the two: the loss of an evaluation, the losses of the steps, and how far they moved the parameters.
    """
    keras.utils.set_random_seed(0)
    shape = (8, 8, channels)
    batches = [tf.constant(rng.integers(0, levels, [2, *shape], np.uint8)) for _ in range(number_of_steps)]
    models = [build_shallow(name, shape, rng, levels=levels, dropout_p=0.0, **settings) for _ in range(2)]
    start = models[0].get_weights()
    results = []
    for model, is_plain in zip(models, (False, True), strict=True):
        model.set_weights(start)
        step, evaluate = training.step_and_evaluation(FLAGS, tf.distribute.get_strategy(), model, is_plain)
        loss = np.sum(evaluate(batches[0]))
        losses = [float(step(batch)) for batch in batches]
        results.append((loss, losses, (flatten(model.trainable_variables) - flatten(start)).numpy()))
    return results


@pytest.mark.parametrize("name", distinct(specs))
def test_the_benchmark_steps_and_evaluates_every_network_as_the_plain_one(name, rng, without_graphs):
    (loss, losses, moved), (plain_loss, plain_losses, plain_moved) = measured_in_turns(name, rng, number_of_steps=1)
    np.testing.assert_allclose([plain_loss, *plain_losses], [loss, *losses], rtol=1e-5)
    # To 1% of a step. Where a gradient is near zero, rounding decides the direction of Adam's step.
    assert np.mean(np.abs(plain_moved - moved) > 1e-5) < 5e-3
    assert np.mean(np.abs(moved) > 1e-5) > 0.5


@pytest.mark.parametrize("name, channels, levels", [("pxpp", 1, 2), ("model", 2, 16)])
def test_the_plain_network_trains_like_ours_on_other_channels_and_levels(name, channels, levels, rng, without_graphs):
    (loss, losses, moved), (plain_loss, plain_losses, plain_moved) = measured_in_turns(name, rng, 1, channels, levels)
    np.testing.assert_allclose([plain_loss, *plain_losses], [loss, *losses], rtol=1e-5)
    assert np.mean(np.abs(plain_moved - moved) > 1e-5) < 5e-3
    # The values are uniform, so a network that knew nothing would pay log(L) for each.
    assert 0.5 < loss / (2 * 8 * 8 * channels * np.log(levels)) < 3


@pytest.mark.parametrize("name", ["h6_shift", "pxpp"])
def test_compiled_steps_stay_those_of_the_plain_network(name, rng):
    (_, losses, _), (_, plain_losses, _) = measured_in_turns(name, rng, number_of_steps=3)
    np.testing.assert_allclose(plain_losses, losses, rtol=1e-5)


@pytest.mark.parametrize("name", ["swish", "sine_and_cosine"])
def test_a_nonlinearity_of_ones_own_trains_with_its_own_gradient(name, rng, without_graphs, monkeypatch):
    functions = {"swish": tf.nn.silu, "sine_and_cosine": lambda x: tf.concat([tf.sin(x), tf.cos(x)], -1)}
    monkeypatch.setitem(nn.nonlinearities, name, functions[name])
    settings = {"resnet_nonlinearity": name}
    (loss, losses, moved), (plain_loss, plain_losses, plain_moved) = measured_in_turns("h6_shift", rng, 2, **settings)
    np.testing.assert_allclose([plain_loss, *plain_losses], [loss, *losses], rtol=1e-5)
    assert np.mean(np.abs(plain_moved - moved) > 1e-5) < 5e-3


def test_the_naive_loop_predicts_grey_pixels_from_rounded_ones():
    """With a network that predicts the previous pixel plus 0.3 without noise, and the levels -1, -0.5, 0, 0.5, 1."""

    def predict(x, h):
        previous = tf.concat([tf.fill([1, 1, 1], -1.0), tf.reshape(x, [1, -1, 1])[:, :-1]], 1)
        means = tf.reshape(previous + 0.3, [1, 2, 3, 1])
        return tf.concat([tf.zeros_like(means), means, tf.fill(means.shape, -100.0)], -1)

    draw = plain.naive_sampler(predict, levels=5)
    # The uniform number 0.5 draws a logistic's median, which is its mean, whatever the scale.
    images = draw(*[np.full([1, 2, 3, 1], 0.5, np.float32)] * 2)
    np.testing.assert_array_equal(images[0, :, :, 0], [[-0.5, 0, 0.5], [1, 1, 1]])
