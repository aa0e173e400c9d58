"""Images are coded and come back exactly, with every causal network, in as many bits as their likelihood says."""

import numpy as np
import pytest
import tensorflow as tf
from networks import CAUSAL, OneStep, add_spec, build_shallow

from pixel_snail.codec.coder import ImageCoder
from pixel_snail.errors import UserError
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.likelihoods.levels import from_values, scaled
from pixel_snail.weights import normalised_weights


def kinds_of_images(shape, rng):
    """Noise, smooth, one flat colour, black, and white, uint8 [5, H, W, 3]."""
    smooth = np.add.outer(np.arange(shape[0]) * 9, np.arange(shape[1]) * 5)[..., None] + rng.integers(60, 70, shape)
    flat = [np.broadcast_to(colour, shape) for colour in ([200, 3, 90], 0, 255)]
    return np.stack([rng.integers(0, 256, shape), smooth, *flat]).astype(np.uint8)


def round_trip(network, images, sizes=None, h=None, jit=False):
    """Codes images, and returns the decoded ones and the bits."""
    coder, weights = ImageCoder(network, len(images), jit), normalised_weights(network, network.trainable_variables)
    stream = coder.encode(weights, images, sizes, h)
    return coder.decode(weights, stream, sizes, h), 8 * len(stream)


def likelihood_in_bits(network, images, h=None):
    x = scaled(tf.cast(images, tf.float32))
    return tf.reduce_sum(logistic_mixture.loss_per_image(x, network(x, h=h))).numpy() / np.log(2)


@pytest.mark.parametrize("name", CAUSAL)
def test_every_image_comes_back_from_every_causal_network(name, rng):
    shape = (8, 8, 3)
    network = build_shallow(name, shape, rng)
    images = kinds_of_images(shape, rng)
    decoded, bits = round_trip(network, images)
    np.testing.assert_array_equal(decoded, images)
    # The end of the stream takes up to 64 bits. A value takes 24 bits at most; of an untrained network, the likelihood
    # of a few values is lower than that.
    assert bits < likelihood_in_bits(network, images) + 80


@pytest.mark.parametrize("name", ["h8_noup_smallkey_ar_chs", "h6_noup_1mix_halfattn"])
def test_they_come_back_compiled_with_labels_and_any_nonlinearity(name, rng):
    shape = (3, 5, 3)
    network = build_shallow(name, shape, rng, nr_labels=3, resnet_nonlinearity="concat_elu")
    images, h = kinds_of_images(shape, rng)[:3], tf.one_hot([2, 0, 1], 3)
    decoded, bits = round_trip(network, images, h=h, jit=True)
    np.testing.assert_array_equal(decoded, images)
    assert bits < likelihood_in_bits(network, images, h) + 80


@pytest.mark.parametrize(
    "name, channels, levels",
    [
        *(("h0", *kind) for kind in ((1, 2), (1, 3), (1, 256), (2, 16), (3, 32), (4, 256), (1, 1024), (1, 65536))),
        ("h8_noup_smallkey_ar_chs", 3, 32),
    ],
)
def test_images_of_any_channels_and_levels_come_back_in_the_bits_of_their_likelihood(
    name, channels, levels, rng, monkeypatch
):
    add_spec(monkeypatch, "h0", OneStep)
    shape = (2, 4, channels)
    network = build_shallow(name, shape, rng, levels=levels)
    images = np.stack([rng.integers(0, levels, shape), np.zeros(shape, int), np.full(shape, levels - 1)])
    decoded, bits = round_trip(network, images)
    assert decoded.dtype == (np.uint8 if levels <= 256 else np.uint16)
    np.testing.assert_array_equal(decoded, images)
    x = tf.constant(from_values(images, levels))
    of_values = logistic_mixture.nats_per_value(x, network(x), levels).numpy() / np.log(2)
    # A value takes 24 bits at most; the stream's end takes up to 64; 65,536 levels take 0.006 bits a value besides.
    expected = np.minimum(of_values, 24).sum()
    assert 0.99 * expected - 1 < bits < 1.01 * expected + 64


@pytest.mark.parametrize("name, shape", [("h8_noup_smallkey", (1, 9, 3)), ("h12_pool2_smallkey", (7, 1, 3))])
def test_images_one_pixel_high_or_wide_come_back(name, shape, rng):
    images = kinds_of_images(shape, rng)
    decoded, _ = round_trip(build_shallow(name, shape, rng), images)
    np.testing.assert_array_equal(decoded, images)


def test_pixels_outside_an_images_size_cost_nothing_and_change_nothing(rng):
    shape = (8, 8, 3)
    network = build_shallow("h6_noup_1mix_halfattn", shape, rng)
    coder, weights = ImageCoder(network, 4, jit=False), normalised_weights(network, network.trainable_variables)
    images = rng.integers(0, 256, [4, *shape], np.uint8)
    sizes = np.array([[8, 8], [3, 7], [5, 1], [0, 0]])
    is_inside = np.zeros([*images.shape[:3], 1], bool)
    for inside, (rows, columns) in zip(is_inside, sizes, strict=True):
        inside[:rows, :columns] = True
    stream = coder.encode(weights, images, sizes)
    np.testing.assert_array_equal(coder.decode(weights, stream, sizes), np.where(is_inside, images, 0))
    other = rng.integers(0, 256, images.shape, np.uint8)
    assert coder.encode(weights, np.where(is_inside, images, other), sizes) == stream
    # Noise: each value takes about as many bits.
    assert len(stream) < len(coder.encode(weights, images)) * 1.1 * is_inside.mean()


def test_the_bits_are_those_of_the_likelihood_where_it_does_not_approximate(rng):
    """With broad logistics, no mass is tiny. What remains are the frequencies' rounding and the stream's end."""
    shape = (8, 8, 3)
    network = build_shallow("h6_shift", shape, rng)
    network.output_layer.nin.g.assign(network.output_layer.nin.g * 0.3)
    images = rng.integers(0, 256, [4, *shape], np.uint8)
    _, bits = round_trip(network, images)
    expected = likelihood_in_bits(network, images)
    assert expected < bits < expected * 1.001 + 64


def test_predictions_that_are_not_finite_are_told(rng):
    shape = (2, 2, 3)
    network = build_shallow("h6_noup_1mix_halfattn", shape, rng)
    network.output_layer.nin.b.assign(np.full(20, np.nan))
    with pytest.raises(UserError, match="predictions are not finite: the checkpoint's parameters are damaged"):
        round_trip(network, np.zeros([1, *shape], np.uint8))
