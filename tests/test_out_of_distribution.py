"""Likelihood ratios of two networks: differences of their likelihoods, whatever each of them takes; mistakes."""

import copy

import numpy as np
import pytest
from networks import OneStep, add_spec

import pixel_snail
from benchmarks.counted_training import ONE_BLOCK
from pixel_snail.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, [5, 8, 8, 3], np.uint8)
LABELS = np.arange(5) % 3
VECTORS = np.random.default_rng(1).normal(size=[5, 4]).astype(np.float32)
QUIETLY = {"batch_size": 2, "verbose": 0}


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    with pytest.MonkeyPatch.context() as patch:
        add_spec(patch, "h0", OneStep)
        add_spec(patch, "h1", ONE_BLOCK)
        yield


def build(seed, labels=None, condition=None, model="h0", **settings):
    """A small initialised model."""
    settings = {"image_shape": (8, 8, 3), "nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2} | settings
    nr_labels = None if labels is None else 3
    condition_shape = None if condition is None else (4,)
    built = pixel_snail.build(model, seed=seed, nr_labels=nr_labels, condition_shape=condition_shape, **settings)
    if settings["image_shape"] == (8, 8, 3):
        built.initialise(IMAGES // (256 // built.levels), labels, condition)
    return built


@pytest.fixture(scope="module")
def model():
    return build(seed=0)


@pytest.fixture(scope="module")
def background():
    return build(seed=1)


@pytest.fixture(scope="module")
def conditional():
    return build(seed=2, labels=LABELS, condition=VECTORS)


def test_a_score_is_the_difference_of_the_log_likelihoods_and_the_sum_of_its_parts(model, background):
    ratio = pixel_snail.likelihood_ratio(model, background)
    found = ratio.score(IMAGES, **QUIETLY)
    expected = model.log_prob(IMAGES, **QUIETLY) - background.log_prob(IMAGES, **QUIETLY)
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, found.shape) == (np.float64, (5,)) and np.abs(found).min() > 1
    parts = ratio.scores_per_value(IMAGES, **QUIETLY)
    assert (parts.dtype, parts.shape) == (np.float32, IMAGES.shape)
    np.testing.assert_allclose(parts.sum((1, 2, 3), dtype=np.float64), found, rtol=1e-6)
    nats = [np.concatenate(list(each.nats_in_batches(IMAGES, **QUIETLY))) for each in (background, model)]
    np.testing.assert_array_equal(parts, nats[0] - nats[1])
    reverse = pixel_snail.likelihood_ratio(background, model)
    np.testing.assert_array_equal(reverse.score(IMAGES, **QUIETLY), -found)


def test_two_equal_networks_give_every_image_the_score_0(model):
    ratio = pixel_snail.likelihood_ratio(model, copy.deepcopy(model))
    assert not ratio.score(IMAGES, **QUIETLY).any() and not ratio.scores_per_value(IMAGES, **QUIETLY).any()


def test_no_images_have_no_scores(model, background):
    ratio = pixel_snail.likelihood_ratio(model, background)
    assert ratio.score(IMAGES[:0]).shape == (0,) and ratio.scores_per_value(IMAGES[:0]).shape == (0, 8, 8, 3)


def test_labels_and_a_condition_are_given_to_the_network_that_takes_them(conditional, background):
    expected = conditional.log_prob(IMAGES, LABELS, VECTORS, **QUIETLY) - background.log_prob(IMAGES, **QUIETLY)
    for sign, networks in ((1, (conditional, background)), (-1, (background, conditional))):
        ratio = pixel_snail.likelihood_ratio(*networks)
        np.testing.assert_array_equal(ratio.score(IMAGES, LABELS, VECTORS, **QUIETLY), sign * expected)
        parts = ratio.scores_per_value(IMAGES, LABELS, VECTORS, **QUIETLY)
        np.testing.assert_allclose(parts.sum((1, 2, 3)), sign * expected, rtol=1e-5)
    other = build(seed=3, labels=LABELS, condition=VECTORS)
    ratio = pixel_snail.likelihood_ratio(conditional, other)
    expected = [each.log_prob(IMAGES, LABELS, VECTORS, **QUIETLY) for each in (conditional, other)]
    np.testing.assert_array_equal(ratio.score(IMAGES, LABELS, VECTORS, **QUIETLY), expected[0] - expected[1])


def test_labels_are_checked_before_either_network_computes(conditional, model, background, monkeypatch):
    for each in (conditional, model, background):
        monkeypatch.setattr(each, "figures_of", None)
    for networks, given, message in (
        ((model, background), {"labels": LABELS}, "not conditional on classes: leave labels out"),
        ((model, background), {"condition": VECTORS}, "leave condition out"),
        ((model, conditional), {"condition": VECTORS}, r"conditional on 3 classes: give labels, integers \[5\]"),
        ((model, conditional), {"labels": LABELS}, "conditional on vectors of 4 numbers: give condition"),
        ((model, background), {"images": IMAGES[:, :4]}, r"images must be uint8 \[N, 8, 8, 3\], not uint8"),
    ):
        ratio = pixel_snail.likelihood_ratio(*networks)
        for method in (ratio.score, ratio.scores_per_value):
            with pytest.raises(UserError, match=message):
                method(**{"images": IMAGES} | given)


def test_networks_that_can_not_be_compared_are_refused_in_one_line(model, background, monkeypatch):
    with pytest.raises(UserError, match=r"^model must be a model from pixel_snail.load or pixel_snail.build, not OneS"):
        pixel_snail.likelihood_ratio(model.network, background)
    with pytest.raises(UserError, match=r"^background must be a model from .*, not str$"):
        pixel_snail.likelihood_ratio(model, "data/save/demo")
    with pytest.raises(UserError, match=r"^model and background are the same, so every score would be 0: give two"):
        pixel_snail.likelihood_ratio(model, model)
    grey = {"image_shape": (8, 8, 1)}
    codes = grey | {"model": "h1", "likelihood": "categorical"}
    for ours, theirs, message in (
        ({}, grey, r"the shape of model is \(8, 8, 3\), that of background \(8, 8, 1\): train both on the same images"),
        ({}, {"levels": 16}, "the number of levels of model is 256, that of background 16: train both"),
        (grey, codes, "the likelihood of model is logistic_mixture, that of background categorical: train both"),
    ):
        with pytest.raises(UserError, match=message):
            pixel_snail.likelihood_ratio(build(seed=0, **ours), build(seed=0, **theirs))
    monkeypatch.setattr(background, "is_causal", False)
    with pytest.raises(UserError, match=r"^background: h0 predicts pixels from themselves, .*; take another network$"):
        pixel_snail.likelihood_ratio(model, background)
