"""The likelihood of any number of channels and levels: against a plain formula in float64, and laws of probability."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.likelihoods.levels import from_values, to_values

KINDS = list(itertools.product((1, 2, 3, 4), (2, 3, 16, 256, 1024)))


def softplus(x):
    return np.logaddexp(0, x)


def exact_log_mass(value, mean, log_scale, levels):
    """The log mass of a logistic on a value's interval, in float64: [...].

    With borders a < b in units of the scale, sigmoid(b) - sigmoid(a) = (1 - exp(a - b)) sigmoid(b) sigmoid(-a), which
    loses nothing where the mass is tiny.
    """
    a, b = (((2 * value + end - levels) / (levels - 1) - mean) / np.exp(log_scale) for end in (0, 2))
    inner = np.log(-np.expm1(a - b)) - softplus(-b) - softplus(a)
    return np.where(value == 0, -softplus(-b), np.where(value == levels - 1, -softplus(a), inner))


def parts(l, channels):
    """A pixel's outputs as the network orders them: logits, means, log-scales, coefficients [N, ..., K]."""
    pairs = channels * (channels - 1) // 2
    l = l.astype(np.float64).reshape(len(l), 1 + 2 * channels + pairs, -1)
    logits, rest = l[:, 0], l[:, 1:]
    if channels == 3:  # as in the original: a channel's mean, its log-scale and one of the coefficients side by side
        nr_mix = l.shape[-1]
        of_channels = rest.reshape(len(l), 3, 3, nr_mix)
        return logits, *(of_channels[:, :, i] for i in range(3))
    return logits, *np.split(rest, [channels, 2 * channels], 1)


def exact_nats_per_value(values, l, levels):
    """Minus log p(value | values of the channels before), written plainly in float64: [N, C]."""
    number, channels = values.shape
    x = 2 * values / (levels - 1) - 1
    logits, means, log_scales, coefficients = parts(l, channels)
    log_scales, coefficients = np.clip(log_scales, -7, 0 if levels == 2 else None), np.tanh(coefficients)
    log_weights = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
    joint, pair = [np.zeros(number)], 0
    for channel in range(channels):
        mean = means[:, channel].copy()
        for other in range(channel):
            mean += coefficients[:, pair] * x[:, other, None]
            pair += 1
        log_weights = log_weights + exact_log_mass(values[:, channel, None], mean, log_scales[:, channel], levels)
        joint.append(np.logaddexp.reduce(log_weights, -1))
    return -np.diff(joint, axis=0).T


def some_pixels(channels, levels, rng, nr_mix, number=64):
    """Values, most of them near the means, and outputs whose scales fit the levels: int [N, C], float32 [N, ...]."""
    values = rng.integers(0, levels, [number, channels])
    values[:4] = [[0] * channels, [levels - 1] * channels, [levels // 2] * channels, [1] * channels]
    l = rng.normal(0, 0.7, [number, logistic_mixture.outputs_per_component(channels), nr_mix])
    return values, np.float32(l.reshape(number, -1))


def scaled(values, levels):
    return tf.constant(np.float32(2 * values / (levels - 1) - 1)[:, None, None])


@pytest.mark.parametrize("nr_mix", [1, 3])
@pytest.mark.parametrize("channels, levels", KINDS)
def test_it_is_the_plain_formula_for_every_number_of_channels_and_levels(channels, levels, nr_mix, rng):
    values, l = some_pixels(channels, levels, rng, nr_mix)
    expected = exact_nats_per_value(values, l, levels)
    x, outputs = scaled(values, levels), tf.constant(l[:, None, None])
    found = logistic_mixture.nats_per_value(x, outputs, levels).numpy()[:, 0, 0]
    # Of 256 levels, masses are differences of sigmoids in float32, as in the original: those above 1e-5 have errors of
    # 6e-8 / 1e-5. Others are exact up to rounding: a mean's, 6e-8, is divided by its scale, up to 0.05 here.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=6e-3 if levels == 256 else 1e-5)
    per_image = logistic_mixture.loss_per_image(x, outputs, levels)
    np.testing.assert_allclose(per_image, found.sum(-1), rtol=1e-5)


@pytest.mark.parametrize("log_scale", [-20, -7, -2, 7])
@pytest.mark.parametrize("levels", [2, 3, 16, 256, 1024, 65536])
def test_no_value_and_no_mean_is_too_far_for_it(levels, log_scale):
    """Values at both ends and between, means within and far outside, and scales below the floor."""
    values = np.tile(np.array([0, 1, levels // 2, levels - 2, levels - 1])[:, None], 9).reshape(45, 1)
    means = np.tile(np.float32([-100, -5, -1, -0.3, 0, 1 / 3, 1, 5, 100]), 5)
    l = np.stack([0 * means, means, 0 * means + log_scale], -1)
    with tf.GradientTape() as tape:
        outputs = tf.constant(l[:, None, None], tf.float32)
        tape.watch(outputs)
        found = logistic_mixture.nats_per_value(scaled(values, levels), outputs, levels)
    assert np.isfinite(tape.gradient(found, outputs)).all()
    assert (found >= 0).numpy().all()
    if levels != 256:  # 256 levels keep the original's approximation of tiny masses
        # A scale of exp(-7) turns the rounding of x - mean, 6e-8, into 7e-5 of a nat.
        expected = exact_nats_per_value(values, l, levels)
        np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-6, atol=2e-4)


def test_of_two_levels_each_value_has_half_of_the_line(rng):
    """P(0) = sigmoid(-mean / scale), P(1) = sigmoid(mean / scale), with a scale of at most 1."""
    l = np.float32(rng.normal(size=[50, 1, 1, 3]))
    logit = l[..., 1].astype(np.float64) / np.exp(np.minimum(l[..., 2].astype(np.float64), 0))
    for value, sign in ((0, 1), (1, -1)):
        nats = logistic_mixture.loss_per_image(scaled(np.full([50, 1], value), 2), tf.constant(l), 2)
        np.testing.assert_allclose(nats, softplus(sign * logit)[:, 0, 0], rtol=1e-5)


@pytest.mark.parametrize(
    "channels, levels", [(1, 2), (4, 2), (6, 2), (3, 3), (4, 16), (1, 256), (2, 256), (3, 32), (1, 1024), (1, 65536)]
)
def test_the_probabilities_of_all_values_of_a_pixel_sum_to_one(channels, levels, rng):
    values = np.stack(np.unravel_index(np.arange(levels**channels), [levels] * channels), -1)
    for spread in (0.3, 2.0):  # smooth mixtures, and sharp ones
        _, l = some_pixels(channels, levels, rng, 3, number=4)
        outputs = tf.tile(tf.constant(spread * l[:1, None, None]), [len(values), 1, 1, 1])
        nats = logistic_mixture.loss_per_image(scaled(values, levels), outputs, levels).numpy().astype(np.float64)
        # Of 256 levels, the original approximates each component's masses below 1e-5.
        assert abs(np.exp(-nats).sum() - 1) < (1e-4 if levels == 256 else 1e-5)


def chi_squared_excess(drawn, nats, levels):
    """How many standard deviations chi-squared is above its mean, of drawn pixels against the nats of all pixels.

    Args:
        drawn: in [-1, 1], [N, C].
        nats: of each possible pixel, in the order of np.unravel_index.
    """
    values = np.round((drawn + 1) * (levels - 1) / 2).astype(int)
    observed = np.bincount(np.ravel_multi_index(values.T, [levels] * values.shape[1]), minlength=len(nats))
    expected = len(drawn) * np.exp(-nats.astype(np.float64))
    is_rare = expected < 5
    observed, expected = (np.append(of[~is_rare], of[is_rare].sum()) for of in (observed, expected))
    chi_squared = (np.square(observed - expected) / np.maximum(expected, 1)).sum()
    return (chi_squared - (~is_rare).sum()) / np.sqrt(2 * (~is_rare).sum())


@pytest.mark.parametrize("channels, levels", [(1, 2), (1, 3), (1, 256), (2, 2), (2, 5), (3, 3), (3, 16), (4, 2)])
def test_drawn_pixels_have_the_probabilities_of_the_likelihood(channels, levels, rng):
    """Each channel is drawn given the rounded values of those before. Of few levels, unrounded ones would show."""
    number = 40_000
    nr_mix = 2
    _, l = some_pixels(channels, levels, rng, nr_mix, number=4)
    l = 2 * l[0]
    outputs = tf.constant(np.tile(l, [number, 1]))
    uniforms = [tf.constant(rng.random([number, size]), tf.float32) for size in (nr_mix, channels)]
    draw = logistic_mixture.sample_from_discretized_mix_logistic
    drawn, unrounded = draw(outputs, *uniforms, levels=levels).numpy(), draw(outputs, *uniforms).numpy()
    pixels = np.stack(np.unravel_index(np.arange(levels**channels), [levels] * channels), -1)
    assert np.isin(drawn, scaled(np.arange(levels)[:, None], levels).numpy()).all()
    of_pixels = tf.constant(np.tile(l, [len(pixels), 1, 1, 1]))
    nats = logistic_mixture.loss_per_image(scaled(pixels, levels), of_pixels, levels).numpy()
    assert chi_squared_excess(drawn, nats, levels) < 4
    if channels > 1 and levels <= 3:
        assert chi_squared_excess(unrounded, nats, levels) > 20


@pytest.mark.parametrize("levels", [2, 16, 256, 1024, 65536])
def test_compiled_draws_are_exactly_the_numbers_that_networks_are_trained_on(levels, rng):
    """Also where XLA computes them. What is not a number stays so, and is found out later."""
    l = np.float32(rng.normal(size=[5000, 3]))
    l[0, 1] = np.nan
    uniforms = [tf.constant(rng.random([5000, 1]), tf.float32) for _ in range(2)]
    draw = tf.function(logistic_mixture.sample_from_discretized_mix_logistic, jit_compile=True, autograph=False)
    drawn = draw(tf.constant(l), *uniforms, levels=levels).numpy()
    assert np.isnan(drawn[0]).all()
    np.testing.assert_array_equal(drawn[1:], from_values(to_values(drawn[1:], levels), levels))
    assert len(np.unique(drawn[1:])) > min(levels, 1000) / 2


def test_channel_wise_outputs_draw_values_with_the_probabilities_of_the_likelihood(rng):
    """Each channel alone: its outputs already depend on the channels before."""
    number, levels = 40_000, 8
    lr, lg = (tf.constant(np.tile(rng.normal(0, 1, 6), [number, 1]), tf.float32) for _ in range(2))
    u_mix, u_logistic = (tf.constant(rng.random(shape), tf.float32) for shape in ([number, 2], [number]))
    drawn = logistic_mixture.sample_channel_from_discretized_mix_logistic(lr, lg, u_mix, u_logistic, 1.0, levels)
    one_channel = np.concatenate([lr[0, :2], lg[0, 2:]])  # the logits of R, the means and log-scales of G
    pixels = np.arange(levels)[:, None]
    nats = logistic_mixture.loss_per_image(
        scaled(pixels, levels), tf.constant(np.tile(one_channel, [levels, 1, 1, 1])), levels
    )
    assert chi_squared_excess(drawn.numpy()[:, None], nats.numpy(), levels) < 4


def test_with_2_levels_a_large_scale_does_not_stop_the_gradient_of_the_mean():
    """Unbounded, it would be 1 / scale of this: a network that has learned large scales would learn nothing more."""
    l = tf.Variable([[[[0.0, -3.0, 30.0]]]])  # a logit, a mean, a log-scale
    with tf.GradientTape() as tape:
        loss = logistic_mixture.loss_per_image(tf.ones([1, 1, 1, 1]), l, levels=2)
    _, of_mean, _ = tape.gradient(loss, l).numpy().ravel()
    assert of_mean == pytest.approx(1 / (1 + np.exp(3)) - 1, rel=1e-5)  # P(1) - 1, of a Bernoulli
