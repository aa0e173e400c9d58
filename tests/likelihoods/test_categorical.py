"""The categorical likelihood of codes: against a plain formula in float64, and laws of probability."""

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail.likelihoods import categorical, logistic_mixture, values
from pixel_snail.likelihoods.levels import from_values, to_values

LEVELS = (2, 3, 128, 512, 8192)


def log_softmax(l):
    l = l.astype(np.float64)
    return l - np.logaddexp.reduce(l, -1, keepdims=True)


@pytest.mark.parametrize("levels", [*LEVELS, 2**16])
def test_every_scaled_code_stands_for_itself(levels):
    codes = np.arange(levels)
    np.testing.assert_array_equal(values.nearest(from_values(codes, levels), levels), codes)


@pytest.mark.parametrize("levels", LEVELS)
def test_it_is_the_plain_formula_and_sums_to_one(levels, rng):
    l = rng.normal(0, 3, [2, 3, 4, levels]).astype(np.float32)
    codes = rng.integers(0, levels, [2, 3, 4, 1])
    expected = -np.take_along_axis(log_softmax(l), codes, -1)
    found = categorical.nats_per_value(from_values(codes, levels), l, levels)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    of_images = categorical.loss_per_image(from_values(codes, levels), l, levels)
    np.testing.assert_allclose(of_images, expected.sum((1, 2, 3)), rtol=1e-5)
    of_every_code = from_values(np.arange(levels)[:, None, None, None], levels)
    nats = categorical.nats_per_value(of_every_code, np.broadcast_to(l[:1, :1, :1], [levels, 1, 1, levels]), levels)
    assert np.exp(-nats.numpy().astype(np.float64)).sum() == pytest.approx(1, rel=1e-5)


def test_two_codes_have_the_likelihood_of_a_mixture_with_their_probabilities(rng):
    mixture = rng.normal(0, 1, [1, 4, 4, 3 * 2]).astype(np.float32)
    logits, mean, log_scale = logistic_mixture.next_channel(tf.constant(mixture), tf.zeros([1, 4, 4, 0]), 1, 2)
    below = logistic_mixture.probabilities_below(logits, mean, log_scale, 2)
    l = tf.math.log(tf.concat([below, 1 - below], -1))
    x = from_values(rng.integers(0, 2, [1, 4, 4, 1]), 2)
    expected = logistic_mixture.nats_per_value(x, mixture, 2)
    np.testing.assert_allclose(categorical.nats_per_value(x, l, 2), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [2, 3, 16])
def test_evenly_spaced_random_numbers_draw_codes_as_often_as_their_probabilities_say(levels, rng):
    l, number = rng.normal(0, 1, [levels]).astype(np.float32), 10_000
    u = np.float32((np.arange(number) + 0.5) / number)
    codes = to_values(categorical.sample(np.tile(l, [number, 1]), u, levels).numpy(), levels)
    # Each of the borders between codes moves the count of two codes by at most one.
    np.testing.assert_allclose(np.bincount(codes, minlength=levels), number * np.exp(log_softmax(l)), atol=2)


def drawn(l, **limits):
    u = np.float32((np.arange(1000) + 0.5) / 1000)
    return set(to_values(categorical.sample(np.tile(np.float32(l), [1000, 1]), u, len(l), **limits).numpy(), len(l)))


def test_temperature_0_and_the_limits_draw_only_the_likeliest_codes():
    l = np.log([0.1, 0.4, 0.05, 0.3, 0.15])
    assert drawn(l) == {0, 1, 2, 3, 4}
    assert drawn(l, temperature=0.0) == {1}
    assert drawn(l, top_k=2, top_p=2.0) == {1, 3}
    assert drawn(l, top_k=5, top_p=0.75) == {1, 3, 4}
    assert drawn(l, top_k=2, top_p=0.75) == {1, 3}
    assert drawn(l, top_k=2, top_p=0.5) == {1}, "0.4 of 0.7 is more than half"
    assert drawn(l, top_k=5, top_p=1e-6) == {1}


@pytest.mark.parametrize("u", [0.0, np.nextafter(np.float32(1), np.float32(0))])
def test_a_code_without_probability_is_never_drawn(u):
    l = np.float32([-np.inf, 0, 0, -np.inf])
    assert not np.isfinite(categorical.sample(l[None], np.float32([u]), 4)).any(), "as a damaged network's"
    l = np.float32([-1e9, 0, 0, -1e9])
    assert to_values(categorical.sample(l[None], np.float32([u]), 4).numpy(), 4)[0] in (1, 2)
