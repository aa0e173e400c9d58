"""Samples against the original's and the naive loop's; step-by-step predictions against the whole image's."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from networks import CAUSAL, add_spec, build_shallow

import golden_numbers
from benchmarks.counted_training import ONE_BLOCK
from benchmarks.plain import naive_sampler
from pixel_snail import sampling
from pixel_snail.errors import UserError
from pixel_snail.likelihoods.levels import from_values, to_values
from pixel_snail.pixel_cnn_pp import PixelCNNpp
from pixel_snail.sampling import Noise
from pixel_snail.weights import normalised_weights


def weights(model):
    return normalised_weights(model, model.trainable_variables)


@pytest.mark.parametrize("name", [*filter(golden_numbers.has_samples, golden_numbers.NAMES)])
def test_samples_from_given_uniforms_are_the_originals(name):
    # Pixels are predicted from drawn pixels, so that rounding errors grow from pixel to pixel.
    assert golden_numbers.error_of_samples(name) < 1e-2


def step_by_step_error(model, shape, rng, h=None):
    """The largest error of predictions from the pixels so far, against the same predictions from the whole image."""
    images = rng.uniform(-1, 1, [2, *shape]).astype(np.float32)
    expected = model(tf.constant(images), h=h)
    expected = tf.concat(expected, -1) if isinstance(expected, tuple) else expected
    nr_mix = expected.shape[-1] // (9 if expected.shape[-1] % 10 else 10)
    uniforms = sampling.uniforms(0, 0, 2, shape, nr_mix)
    draw = sampling.batch_drawer(model, 2, jit=False)
    is_given = np.ones([2, *shape[:2]], bool)
    kept, outputs = draw(weights(model), *uniforms, h=h, given=images, is_given=is_given)
    np.testing.assert_array_equal(kept, images)
    return golden_numbers.error(outputs, expected)


NOT_SQUARE = ["h12_pool2_smallkey", "h6_shift", "h8_noup_124444mix", "model", "pxpp"]  # one of each wiring


@pytest.mark.parametrize(
    "name, size", [*((name, (16, 16)) for name in CAUSAL), *((name, (8, 16)) for name in NOT_SQUARE)]
)
def test_predictions_given_the_pixels_so_far_are_those_of_the_whole_image(name, size, rng):
    shape = (*size, 3)
    assert step_by_step_error(build_shallow(name, shape, rng), shape, rng) < 3e-5


@pytest.mark.parametrize(
    "name, nonlinearity",
    [
        *((name, "concat_elu") for name in ("model", "h8_noup_smallkey_ar_chs", "pxpp", "h6_noup_124mix_halfattn")),
        *((name, "relu") for name in ("h6_shift", "h8_noup_smallkey_ar_chs")),
    ],
)
def test_they_are_for_every_nonlinearity_and_with_labels(name, nonlinearity, rng):
    """One network of each wiring. concat_elu, which changes the number of channels, is the harder of the two."""
    shape = (4, 8, 3) if name != "h8_noup_smallkey_ar_chs" else (5, 7, 3)
    model = build_shallow(name, shape, rng, nr_resnet=2, nr_labels=3, resnet_nonlinearity=nonlinearity)
    assert step_by_step_error(model, shape, rng, h=tf.one_hot([2, 0], 3)) < 3e-5


def test_they_are_for_a_pixel_cnn_pp_of_two_sizes(rng, monkeypatch):
    two_sizes = type("TwoSizes", (PixelCNNpp,), {"sizes": 2, "size_multiple": 2})
    add_spec(monkeypatch, "two_sizes", two_sizes)
    assert step_by_step_error(build_shallow("two_sizes", (6, 4, 3), rng), (6, 4, 3), rng) < 3e-5


@pytest.mark.parametrize("name, size", [("h12_pool2_smallkey", (5, 7)), ("h8_noup_smallkey", (1, 9))], ids=str)
def test_they_are_for_images_whose_sides_are_odd(name, size, rng):
    shape = (*size, 3)
    assert step_by_step_error(build_shallow(name, shape, rng), shape, rng) < 3e-5


def test_pixels_are_predicted_from_given_and_drawn_ones_alike(rng):
    shape = (4, 5, 3)
    model = build_shallow("h8_noup_smallkey_ar_chs", shape, rng)  # which draws R, G and B one after another
    given, is_given = rng.uniform(-1, 1, [2, *shape]).astype(np.float32), rng.random([2, 4, 5]) < 0.5
    draw = sampling.batch_drawer(model, 2, jit=False)
    images, outputs = draw(weights(model), *sampling.uniforms(0, 0, 2, shape, 2), given=given, is_given=is_given)
    np.testing.assert_array_equal(images[is_given], given[is_given])
    assert (images[~is_given] != given[~is_given]).all()
    assert golden_numbers.error(outputs, tf.concat(model(tf.constant(images)), -1)) < 3e-5


@pytest.mark.parametrize("name", ["h8_noup_smallkey_ar_chs", "model"])
def test_samples_are_those_of_the_naive_loop(name, rng):
    shape = (6, 5, 3)
    model = build_shallow(name, shape, rng)
    uniforms = sampling.uniforms(1, 0, 2, shape, 2)
    images, _ = sampling.batch_drawer(model, 2)(weights(model), *uniforms)
    naive = naive_sampler(lambda x, h: model(x, h=h))(*uniforms)
    assert np.abs(images - naive).max() < 1e-2
    assert images.std() > 0.1


KINDS = [
    ("model", 1, 2),
    ("h6_shift", 1, 256),
    ("h8_noup_smallkey_ar_chs", 3, 32),
    ("h12_pool2_smallkey", 4, 16),
]
"""Networks of different wirings, each with images of other channels and levels."""


@pytest.mark.parametrize("name, channels, levels", KINDS)
def test_images_of_every_kind_are_those_of_the_naive_loop_exactly(name, channels, levels, rng):
    """Each value is rounded before others are predicted from it: rounding errors of the network leave no trace."""
    shape = (4, 4, channels)
    model = build_shallow(name, shape, rng, levels=levels)
    uniforms = sampling.uniforms(1, 0, 2, shape, 2)
    images, outputs = sampling.batch_drawer(model, 2, jit=False)(weights(model), *uniforms)
    naive = naive_sampler(lambda x, h: model(x, h=h), levels=levels)(*uniforms)
    np.testing.assert_array_equal(images, naive)
    values = to_values(images, levels)
    np.testing.assert_array_equal(from_values(values, levels), images)
    assert len(np.unique(values)) > 1
    expected = model(tf.constant(images))
    expected = tf.concat(expected, -1) if isinstance(expected, tuple) else expected
    assert golden_numbers.error(outputs, expected) < 3e-5


def test_values_are_rounded_as_they_are_drawn_unless_they_are_8_bit_rgb(rng):
    for shape, levels, is_rounded in (((1, 4, 3), 256, False), ((1, 4, 3), 255, True), ((1, 4, 4), 256, True)):
        model = build_shallow("h6_shift", shape, rng, levels=levels)
        draw = sampling.batch_drawer(model, 2, jit=False)
        images, _ = draw(weights(model), *sampling.uniforms(1, 0, 2, shape, 2))
        is_value = images == from_values(to_values(images, levels), levels)
        assert is_value.all() if is_rounded else is_value.mean() < 0.9  # 8-bit RGB is clipped to values at both ends


def test_a_second_image_does_not_remember_the_first(rng):
    shape = (8, 8, 3)
    model = build_shallow("h8_noup_124444mix", shape, rng)
    draw = sampling.batch_drawer(model, 2, jit=False)
    first, second = (sampling.uniforms(seed, 0, 2, shape, 2) for seed in (1, 2))
    expected, _ = draw(weights(model), *second)
    draw(weights(model), *first)
    again, _ = draw(weights(model), *second)
    np.testing.assert_array_equal(again, expected)


def test_temperature_0_draws_no_noise(rng):
    shape = (4, 4, 3)
    model = build_shallow("h8_noup_smallkey", shape, rng)
    draw = sampling.batch_drawer(model, 2, jit=False)
    of_seed = {seed: sampling.uniforms(seed, 0, 2, shape, 2) for seed in (1, 2)}
    images = [draw(weights(model), *uniforms, noise=Noise(0.0))[0] for uniforms in of_seed.values()]
    np.testing.assert_array_equal(images[0], images[1])
    warm, _ = draw(weights(model), *of_seed[1], noise=Noise(0.5))
    assert np.abs(warm - images[0]).max() > 1e-2


@pytest.mark.parametrize("name", ["h8_noup_smallkey_ar_chs", "pxpp"])
def test_any_number_of_temperatures_is_compiled_once_and_each_gives_what_the_naive_loop_gives(name, rng, monkeypatch):
    shape = (4, 4, 3)
    model = build_shallow(name, shape, rng)
    uniforms = sampling.uniforms(1, 0, 2, shape, 2)
    traced = []
    draw_pixel = sampling._draw_pixel
    monkeypatch.setattr(sampling, "_draw_pixel", lambda *arguments: traced.append(1) or draw_pixel(*arguments))
    draw = sampling.batch_drawer(model, 2, jit=False)
    drawn = {t: draw(weights(model), *uniforms, noise=Noise(t))[0] for t in (1, 0.9, 0.8, 0)}
    assert len(traced) == 1
    for temperature in (0.8, 1):
        naive = naive_sampler(lambda x, h: model(x, h=h), temperature)(*uniforms)
        assert np.abs(drawn[temperature] - naive).max() < 1e-2
    assert np.abs(drawn[1] - drawn[0.8]).max() > 1e-2


def test_more_images_than_memory_holds_are_refused(rng):
    model = build_shallow("h8_noup_smallkey", (8, 8, 3), rng)
    sampling.check_memory(model, 8)
    with pytest.raises(UserError, match=r"images at a time, pixel by pixel, needs about .* GB, and .* GB are free"):
        sampling.check_memory(model, 10**9)


def test_an_images_random_numbers_do_not_depend_on_which_are_drawn_with_it():
    few, many, later = (sampling.uniforms(3, first, images, (4, 5, 3), 2) for first, images in ((0, 2), (0, 5), (3, 2)))
    for a, b, c in zip(few, many, later, strict=True):
        np.testing.assert_array_equal(a, b[:2])
        np.testing.assert_array_equal(c, b[3:])
    u_mix, u_logistic = many
    assert u_mix.shape == (5, 4, 5, 2)
    assert u_logistic.shape == (5, 4, 5, 3)
    assert len(np.unique(np.concatenate([u_mix.ravel(), u_logistic.ravel()]))) > 450


def test_drawing_with_many_networks_in_one_program_warns_of_nothing(monkeypatch, caplog, rng):
    add_spec(monkeypatch, "h1", ONE_BLOCK)
    monkeypatch.setattr(logging.getLogger("tensorflow"), "propagate", True)  # to caplog
    for _ in range(6):  # from the fifth trace on, TensorFlow would warn
        model = build_shallow("h1", (1, 4, 3), rng)
        sampling.batch_drawer(model, 2, jit=False)(weights(model), *sampling.uniforms(0, 0, 2, (1, 4, 3), 2))
    assert not caplog.records


def test_the_naive_loop_draws_in_raster_order_each_pixel_from_those_before_it():
    """With a network that predicts the previous pixel plus 0.1 without noise, values count up through the image."""

    def predict(x, h):
        previous = tf.concat([tf.fill([1, 1, 3], -1.0), tf.reshape(x, [1, -1, 3])[:, :-1]], 1)
        means = tf.reshape(previous + 0.1, [1, 3, 4, 3])
        outputs = tf.stack([means, tf.fill(means.shape, -100.0), tf.zeros_like(means)], -1)
        return tf.concat([tf.zeros([1, 3, 4, 1]), tf.reshape(outputs, [1, 3, 4, 9])], -1)

    draw = naive_sampler(predict)
    images = draw(np.full([1, 3, 4, 1], 0.5, np.float32), np.full([1, 3, 4, 3], 0.5, np.float32))
    # The uniform number 0.5 draws a logistic's median, which is its mean, whatever the scale.
    np.testing.assert_allclose(images[0, :, :, 0].ravel(), -1 + 0.1 * np.arange(1, 13), atol=1e-5)
