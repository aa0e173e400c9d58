"""Probabilities as integer frequencies: every value can be coded, and what that costs."""

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
