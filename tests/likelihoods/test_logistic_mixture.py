"""The likelihood against the original's numbers and the laws of probability."""

import numpy as np
import pytest
import tensorflow as tf

import golden_numbers
from pixel_snail.likelihoods import logistic_mixture

GOLDEN = golden_numbers.load("likelihood")


def loss_and_gradients(x, *outputs):
    x, *outputs = (tf.constant(t) for t in (x, *outputs))
    with tf.GradientTape() as tape:
        tape.watch([x, *outputs])
        per_image = logistic_mixture.loss_per_image(x, outputs[0] if len(outputs) == 1 else tuple(outputs))
        loss = tf.reduce_sum(per_image)
    return per_image, loss, tape.gradient(loss, [x, *outputs])


def test_likelihood_and_its_gradients_are_the_originals():
    per_image, loss, (grad_x, grad_parameters) = loss_and_gradients(GOLDEN["x"], GOLDEN["parameters"])
    assert golden_numbers.error(loss, GOLDEN["loss"]) < 1e-5
    assert golden_numbers.error(per_image, GOLDEN["loss_per_image"]) < 1e-5
    assert golden_numbers.error(grad_x, GOLDEN["grad_x"]) < 2e-3
    assert golden_numbers.error(grad_parameters, GOLDEN["grad_parameters"]) < 2e-3


def test_channel_wise_likelihood_and_its_gradients_are_the_originals():
    per_image, loss, gradients = loss_and_gradients(GOLDEN["x"], GOLDEN["lr"], GOLDEN["lg"], GOLDEN["lb"])
    assert golden_numbers.error(loss, GOLDEN["channel_loss"]) < 1e-5
    assert golden_numbers.error(per_image, GOLDEN["channel_loss_per_image"]) < 1e-5
    for name, gradient in zip(["x", "lr", "lg", "lb"], gradients, strict=True):
        assert golden_numbers.error(gradient, GOLDEN[f"channel_grad_{name}"]) < 2e-3, name


def test_samples_from_given_uniforms_are_the_originals():
    sample = logistic_mixture.sample_from_discretized_mix_logistic(
        *(tf.constant(GOLDEN[key]) for key in ("parameters", "u_mix", "u_logistic"))
    )
    assert golden_numbers.error(sample, GOLDEN["sample"]) < 1e-5


@pytest.mark.parametrize("log_scale", [-20.0, -7.0, -4.0, -1.0, 0.0, 3.0, 10.0])
@pytest.mark.parametrize("mean", [-5.0, -1.0, -0.997, 0.0, 0.3, 1.0, 4.0])
def test_a_mixtures_256_probabilities_sum_to_one(mean, log_scale, rng):
    values = tf.reshape((tf.range(256, dtype=tf.float32) - 127.5) / 127.5, [256, 1])
    means = tf.constant([mean, -mean / 2, 0.7])
    log_scales = tf.maximum(tf.constant([log_scale, -3.0, -log_scale]), logistic_mixture.MIN_LOG_SCALE)
    weights = tf.nn.softmax(tf.cast(rng.normal(0, 2, 3), tf.float32))
    probabilities = tf.reduce_sum(weights * tf.exp(logistic_mixture.logistic_log_prob(values, means, log_scales)), -1)
    assert abs(float(tf.reduce_sum(probabilities)) - 1) < 1e-4


def test_the_whole_pixel_s_probabilities_sum_to_one_over_blue(rng):
    """From outputs in the network's layout: the sum over B of P(R, G, B) is P(R, G), whatever B's means and scales."""
    nr_mix = 3
    pixels = np.zeros([1, 1, 256, 3], np.float32)
    pixels[..., 0], pixels[..., 1] = 0.2, -0.6
    pixels[..., 2] = (np.arange(256) - 127.5) / 127.5
    outputs = rng.normal(0, 1, [10 * nr_mix]).astype(np.float32)
    marginals = []
    for _ in range(2):
        log_prob = logistic_mixture.discretized_mix_logistic_log_prob(
            tf.constant(pixels), tf.broadcast_to(tf.constant(outputs), [1, 1, 256, 10 * nr_mix])
        )
        marginals.append(float(tf.reduce_sum(tf.exp(log_prob))))
        blue = nr_mix + 2 * 3 * nr_mix
        outputs[blue : blue + 2 * nr_mix] = rng.normal(0, 1, [2 * nr_mix])
    assert marginals[0] == pytest.approx(marginals[1], rel=1e-4)


def test_bits_per_dim_of_uniform_noise_is_eight():
    nats = np.log(256.0) * 4 * 4 * 3 * 5
    assert logistic_mixture.bits_per_dim(nats, (4, 4, 3), images=5) == pytest.approx(8)


@pytest.mark.parametrize("channel_wise", [False, True])
def test_the_losses_of_the_channels_add_up_and_each_sees_only_those_before_it(channel_wise, rng):
    def losses(x):
        outputs = (l, l[..., ::-1], 2 * l) if channel_wise else l
        return logistic_mixture.nats_per_value(x, outputs), logistic_mixture.loss_per_image(x, outputs)

    l = tf.cast(rng.normal(size=[2, 3, 4, 15 if channel_wise else 50]), tf.float32)
    x = tf.cast(rng.integers(0, 256, [2, 3, 4, 3]) / 127.5 - 1, tf.float32)
    per_channel, per_image = losses(x)
    np.testing.assert_allclose(tf.reduce_sum(per_channel, [1, 2, 3]), per_image, rtol=1e-6)
    for channel in range(3):
        changed, _ = losses(tf.concat([x[..., :channel], -x[..., channel:]], -1))
        np.testing.assert_allclose(changed[..., :channel], per_channel[..., :channel], rtol=1e-5)
        assert np.abs(changed[..., channel] - per_channel[..., channel]).max() > 1e-2
