"""Probabilities as integer frequencies: every value can be coded, and what that costs."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail.codec import range_coder
from pixel_snail.likelihoods import logistic_mixture


def bits_of(cumulative):
    return range_coder.BITS - np.log2(np.diff(cumulative, axis=-1))


@pytest.mark.parametrize(
    "below",
    [
        np.linspace(1 / 256, 255 / 256, 255),
        np.zeros(255),
        np.ones(255),
        np.repeat([0, 1], [100, 155]),
        np.tile([0.6, 0.4], 128)[:255],
        np.linspace(1, 0, 255),
    ],
    ids=["uniform", "all above", "all below", "one value", "not increasing", "decreasing"],
)
def test_every_value_gets_a_frequency_whatever_the_probabilities(below):
    cumulative = range_coder.cumulative_frequencies(tf.constant([below], tf.float32)).numpy()[0]
    assert (cumulative[0], cumulative[-1]) == (1, range_coder.TOTAL - 1)
    assert np.diff(cumulative).min() >= 1


def test_rounding_to_frequencies_costs_less_than_a_ten_thousandth_of_a_bit_a_value(rng):
    probabilities = rng.dirichlet(np.full(256, 0.3), 100)
    below = tf.constant(probabilities.cumsum(1)[:, :-1], tf.float32)
    bits = bits_of(range_coder.cumulative_frequencies(below).numpy())
    entropy = -(probabilities * np.log2(np.maximum(probabilities, 1e-300))).sum()
    cost = ((probabilities * bits).sum() - entropy) / len(probabilities)
    assert 0 < cost < 1e-4


def test_a_sharp_distribution_costs_nearly_nothing_and_an_excluded_value_24_bits():
    bits = bits_of(range_coder.cumulative_frequencies(tf.constant([[0.0] * 7 + [1.0] * 248])).numpy()[0])
    assert bits[7] < 1e-4
    np.testing.assert_array_equal(np.delete(bits, 7), 24)


def test_probabilities_of_values_sum_to_one_and_are_the_masses_of_the_likelihood(rng):
    """Where the likelihood does not approximate, the differences of the cumulative distribution are its masses."""
    logits, mean, log_scale = (tf.constant(rng.normal(size=[5, 4]), tf.float32) for _ in range(3))
    log_scale -= 2
    below = logistic_mixture.probabilities_below(logits, mean, log_scale).numpy().astype(np.float64)
    probabilities = np.diff(np.pad(below, [(0, 0), (1, 1)], constant_values=((0, 0), (0, 1))))
    x = (tf.range(256, dtype=tf.float32)[:, None, None] - 127.5) / 127.5
    log_prob = logistic_mixture.logistic_log_prob(x, mean, log_scale) + tf.nn.log_softmax(logits)
    expected = tf.transpose(tf.exp(tf.reduce_logsumexp(log_prob, -1)))
    np.testing.assert_allclose(probabilities, expected, atol=3e-7)
    assert probabilities.min() > -1e-7


def test_the_next_channel_is_predicted_as_the_likelihood_predicts_it(rng):
    """log p(R) + log p(G | R) + log p(B | R, G), each from `next_channel`, is the likelihood of the pixel."""
    x = (tf.constant(rng.integers(0, 256, [6, 3]), tf.float32) - 127.5) / 127.5
    for outputs in (rng.normal(size=[6, 40]), tuple(rng.normal(size=[3, 6, 12]))):
        outputs = tf.nest.map_structure(lambda o: tf.constant(o, tf.float32), outputs)
        total, log_likelihood = 0.0, 0.0
        for channel in range(3):
            logits, mean, log_scale = logistic_mixture.next_channel(outputs, x[:, :channel])
            log_prob = logistic_mixture.logistic_log_prob(x[:, channel, None], mean, log_scale)
            log_weights = tf.nn.log_softmax(logits + log_likelihood)
            total += tf.reduce_logsumexp(log_weights + log_prob, -1)
            log_likelihood += log_prob
        nats = logistic_mixture.loss_per_image(
            x[:, None, None], tf.nest.map_structure(lambda o: o[:, None, None], outputs)
        )
        np.testing.assert_allclose(-total, nats, rtol=1e-5)


@pytest.mark.parametrize("channels, levels", list(itertools.product((1, 2, 3, 4), (2, 3, 16, 256, 1024, 65536))))
def test_the_coders_probabilities_of_each_channel_are_those_of_the_likelihood(channels, levels, rng):
    """The next channel's probabilities, given the channels before, are those of `nats_per_value`."""
    number = 5
    values = rng.integers(0, levels, [number, channels])
    values[:2] = np.array([[0], [levels - 1]])
    x = tf.constant(2 * values / (levels - 1) - 1, tf.float32)
    outputs = tf.constant(
        rng.normal(0, 0.5, [number, 2 * logistic_mixture.outputs_per_component(channels)]), tf.float32
    )
    nats = logistic_mixture.nats_per_value(x[:, None, None], outputs[:, None, None], levels)[:, 0, 0].numpy()
    log_likelihood = 0.0
    for channel in range(channels):
        logits, mean, log_scale = logistic_mixture.next_channel(outputs, x[:, :channel], channels, levels)
        below = logistic_mixture.probabilities_below(logits + log_likelihood, mean, log_scale, levels)
        log_likelihood += logistic_mixture.logistic_log_prob(x[:, channel, None], mean, log_scale, levels)
        whole = np.pad(below.numpy().astype(np.float64), [(0, 0), (1, 1)], constant_values=[(0, 0), (0, 1)])
        found = whole[range(number), values[:, channel] + 1] - whole[range(number), values[:, channel]]
        # Sums of K sigmoids in float32, of which neighbours are subtracted.
        np.testing.assert_allclose(found, np.exp(-nats[:, channel]), rtol=1e-4, atol=2e-7)
        cumulative = range_coder.cumulative_frequencies(below).numpy()
        assert cumulative.shape == (number, levels + 1)
        assert np.diff(cumulative).min() >= 1
        assert (cumulative[:, 0] == 1).all() and (cumulative[:, -1] == range_coder.TOTAL - 1).all()


@pytest.mark.parametrize("levels", [2, 3, 1024, 65536])
def test_rounding_to_frequencies_takes_at_most_its_documented_share_from_a_value(levels):
    """cumulative_frequencies: (L + 2) / 2^24 of the other values' probabilities."""
    uniform = np.arange(1, levels) / levels
    below = np.stack([uniform, uniform**3, np.zeros(levels - 1), np.ones(levels - 1)])
    cumulative = range_coder.cumulative_frequencies(tf.constant(below, tf.float32)).numpy()
    assert np.diff(cumulative).min() >= 1
    shares = np.diff(cumulative / range_coder.TOTAL)
    probabilities = np.diff(np.pad(below, [(0, 0), (1, 1)], constant_values=[(0, 0), (0, 1)]))
    lost = probabilities - shares
    assert lost.max() < (levels + 2) / range_coder.TOTAL
    np.testing.assert_array_equal(np.argmax(shares[2:], 1), [levels - 1, 0])
