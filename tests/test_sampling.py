"""Samples against the original's."""

import numpy as np
import pytest
import tensorflow as tf

import golden_numbers
from pixel_snail import checkpoint, sampling


@pytest.mark.parametrize("name", [name for name in golden_numbers.CAUSAL if "ar_chs" not in name])
def test_samples_from_given_uniforms_are_the_originals(name):
    golden = golden_numbers.load(name)
    model = golden_numbers.build(name)
    checkpoint.load(golden_numbers.checkpoint(name), model, averaged=True)
    draw = sampling.sampler(lambda x, h: model(x, h=h))
    images = draw(golden["sample/u_mix"], golden["sample/u_logistic"])
    assert images.shape == golden["sample/x"].shape
    # Running free, rounding is amplified from pixel to pixel.
    assert golden_numbers.error(images, golden["sample/x"]) < 1e-2


def test_an_images_random_numbers_do_not_depend_on_how_many_are_drawn():
    few, many = (sampling.uniforms(3, images, (4, 5, 3), 2) for images in (2, 5))
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:2])
    u_mix, u_logistic = many
    assert u_mix.shape == (5, 4, 5, 2)
    assert u_logistic.shape == (5, 4, 5, 3)
    assert len(np.unique(np.concatenate([u_mix.ravel(), u_logistic.ravel()]))) > 450


def test_pixels_are_drawn_in_raster_order_each_from_those_before_it():
    """A network that predicts, without noise, the previous pixel plus a tenth, counts through the image."""

    def predict(x, h):
        previous = tf.concat([tf.fill([1, 1, 3], -1.0), tf.reshape(x, [1, -1, 3])[:, :-1]], 1)
        means = tf.reshape(previous + 0.1, [1, 3, 4, 3])
        outputs = tf.stack([means, tf.fill(means.shape, -100.0), tf.zeros_like(means)], -1)
        return tf.concat([tf.zeros([1, 3, 4, 1]), tf.reshape(outputs, [1, 3, 4, 9])], -1)

    images = sampling.sampler(predict)(np.full([1, 3, 4, 1], 0.5, np.float32), np.full([1, 3, 4, 3], 0.5, np.float32))
    # Each logistic's median is its mean; a scale of e^-7 times the logit of 0.5, 0.
    np.testing.assert_allclose(images[0, :, :, 0].ravel(), -1 + 0.1 * np.arange(1, 13), atol=1e-5)
