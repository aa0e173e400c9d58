"""Networks of codes: they are causal and draw what the naive loop draws; files, checkpoints, mistakes."""

import numpy as np
import pytest
import tensorflow as tf
from networks import OneStep, add_spec, shallow

import pixel_snail
from benchmarks.counted_training import ONE_BLOCK
from benchmarks.plain import naive_sampler
from pixel_snail import sampling
from pixel_snail.codec.range_coder import TOTAL, cumulative_frequencies_of
from pixel_snail.errors import UserError
from pixel_snail.likelihoods.levels import from_values, to_values
from pixel_snail.model import build_network, specs
from pixel_snail.weights import normalised_weights

SIZES = {"nr_resnet": 1, "nr_filters": 8, "dropout_p": 0.0}


def build(name="h1", levels=7, shape=(8, 8), **settings):
    """A network of codes with few blocks, initialised from random codes."""
    with pytest.MonkeyPatch.context() as patch:
        add_spec(patch, "h1", ONE_BLOCK)
        add_spec(patch, name, ONE_BLOCK if name == "h1" else shallow(name))
        settings = SIZES | {"levels": levels, "likelihood": "categorical", "seed": 0} | settings
        model = pixel_snail.build(name, image_shape=shape, **settings)
    model.initialise(np.random.default_rng(0).integers(0, levels, [4, *model.image_shape]))
    return model


@pytest.fixture(scope="module")
def model():
    return build(levels=128, shape=(3, 5))


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(1).integers(0, 128, [9, 3, 5, 1]).astype(np.uint8)


@pytest.mark.parametrize("name", ["h8_noup_smallkey", "h6_noup_124mix_halfattn", "h6_shift", "pxpp"])
def test_every_kind_of_network_predicts_a_code_from_the_codes_before_it_only(name):
    network = build(name).network
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 7, [1, 8, 8, 1])
    changed, (y, x) = codes.copy(), (5, 3)
    changed[0, y, x] = (codes[0, y, x] + 3) % 7
    before, after = (network(from_values(of, 7)).numpy() for of in (codes, changed))
    differs = (before != after).any((0, 3)).ravel()
    assert not differs[: y * 8 + x + 1].any()
    assert differs[y * 8 + x + 1 :].any()
    assert before.shape == (1, 8, 8, 7)


@pytest.mark.parametrize("name", ["h8_noup_smallkey", "h6_shift"])
def test_drawing_with_a_cache_gives_the_codes_of_the_naive_loop(name):
    network = build(name).network
    draw = sampling.batch_drawer(network, 2, jit=False)
    uniforms = sampling.uniforms(0, 0, 2, (8, 8, 1), network.description.drawn_components)
    drawn, logits = draw(normalised_weights(network, network.trainable_variables), *uniforms)
    naive = naive_sampler(lambda x, h: network(x, h=h), codes=7)(*uniforms)
    np.testing.assert_array_equal(to_values(drawn, 7), to_values(naive, 7))
    np.testing.assert_allclose(logits, network(drawn), atol=2e-6)


def test_training_learns_codes_that_follow_from_others():
    """Each code follows from the one on its left: nearly no nats are left but those of the first column."""
    model = build(levels=5, shape=(4, 4))
    rng = np.random.default_rng(3)
    codes, others = ((rng.integers(0, 5, [n, 4, 1, 1]) + np.arange(4)[:, None]) % 5 for n in (256, 64))
    before = -model.log_prob(others, verbose=0).mean()
    model.fit(codes, epochs=12, batch_size=16, learning_rate=0.01, polyak_decay=0.9, verbose=0)
    after = -model.log_prob(others, verbose=0).mean()
    # 16 codes of log(5) nats each; a quarter of them, 6.4 nats, are random.
    assert 24 < before < 30 and 6 < after < 9


def test_limits_are_those_of_the_likelihood_and_equal_for_any_number_of_workers(model, uncompiled_drawing):
    free = model.sample(9, verbose=0)
    np.testing.assert_array_equal(model.sample(9, top_k=128, top_p=1.0, verbose=0), free)
    likeliest = model.sample(9, temperature=0, verbose=0)
    np.testing.assert_array_equal(model.sample(9, top_k=1, verbose=0), likeliest)
    logits = model.network(from_values(likeliest, 128)).numpy()
    np.testing.assert_array_equal(logits.argmax(-1), likeliest[..., 0])
    few = [model.sample(9, top_k=3, top_p=0.5, workers=workers, verbose=0) for workers in (1, 2)]
    np.testing.assert_array_equal(*few)
    ranks = (-model.network(from_values(few[0], 128)).numpy()).argsort(-1).argsort(-1)
    assert np.take_along_axis(ranks, few[0].astype(int), -1).max() <= 2


def test_a_completion_keeps_the_given_codes(model, codes, uncompiled_drawing):
    completed = model.complete(codes, keep_rows=2, verbose=0)
    np.testing.assert_array_equal(completed[:, :2], codes[:, :2])
    assert (completed[:, 2] != codes[:, 2]).any()
    mask = np.random.default_rng(4).random([9, 3, 5]) < 0.5
    completed = model.complete(codes, mask=mask, verbose=0)
    np.testing.assert_array_equal(completed[mask], codes[mask])
    assert (completed[~mask] != codes[~mask]).mean() > 0.9


def test_files_checkpoints_and_keras_files_give_the_same_codes_and_figures(
    model, codes, tmp_path, uncompiled_drawing, monkeypatch
):
    add_spec(monkeypatch, "h1", ONE_BLOCK)
    file = model.compress(codes, verbose=0)
    expected = model.log_prob(codes, verbose=0)
    model.save(tmp_path / "params.ckpt")
    model.network.save(tmp_path / "model.keras")
    for path in (tmp_path / "params.ckpt", tmp_path / "model.keras"):
        loaded = pixel_snail.load(path, averaged=False) if path.suffix == ".ckpt" else pixel_snail.load(path)
        assert loaded.network.description == model.network.description
        np.testing.assert_array_equal(loaded.log_prob(codes, verbose=0), expected)
        np.testing.assert_array_equal(loaded.decompress(file, verbose=0), codes)


@pytest.mark.parametrize("levels", [2, 512, 8192])
def test_codes_take_as_many_bits_as_their_probabilities_say(levels, rng):
    l = rng.normal(0, 2, [64, levels]).astype(np.float32)
    probabilities = tf.nn.softmax(l).numpy().astype(np.float64)
    frequencies = np.diff(cumulative_frequencies_of(tf.nn.softmax(l)).numpy())
    assert frequencies.min() >= 1 and frequencies.sum(-1).max() < TOTAL
    bits = -(probabilities * np.log2(frequencies / TOTAL)).sum(-1)
    entropy = -(probabilities * np.log2(probabilities)).sum(-1)
    # A frequency takes L / 2^24 from the others, and is rounded down.
    assert np.all(bits >= entropy - 1e-6) and (bits - entropy).max() < 2 * levels / TOTAL + 1e-6


@pytest.mark.parametrize("levels, dtype", [(2, np.uint8), (512, np.uint16)])
def test_compressed_codes_of_any_number_are_read_back(levels, dtype, uncompiled_drawing):
    model = build(levels=levels, shape=(2, 3))
    codes = np.random.default_rng(4).integers(0, levels, [3, 2, 3, 1]).astype(dtype)
    decoded = model.decompress(model.compress(codes, verify=False, verbose=0), verbose=0)
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, codes)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"image_shape": (8, 8, 3)}, "likelihood=categorical is for maps of codes, which have 1 channel, not 3"),
        ({"likelihood": "softmax"}, "likelihood='softmax' is none of logistic_mixture, categorical"),
        ({"levels": 2**17}, "levels=131072 is not a whole number from 2 to 65,536"),
    ],
)
def test_a_network_that_can_not_be_is_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        pixel_snail.build(**{"image_shape": (8, 8), "levels": 8, "likelihood": "categorical"} | settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"top_k": 0}, "top_k=0 is not a whole number above 0"),
        ({"top_p": 1.5}, "top_p=1.5 is not a number above 0, at most 1"),
        ({"top_p": float("nan")}, "top_p=nan is not a number above 0"),
    ],
)
def test_a_limit_that_can_not_be_is_one_line(settings, message, model):
    with pytest.raises(UserError, match=message):
        model.sample(1, **settings)


def test_limits_are_refused_where_values_are_numbers():
    model = pixel_snail.build("h8_noup_smallkey", image_shape=(4, 4), levels=8, **SIZES)
    with pytest.raises(UserError, match="top_p is for codes, but the network's values are numbers: use temperature"):
        model.sample(1, top_p=0.5)


def test_a_network_of_ones_own_that_does_not_embed_codes_is_one_line(monkeypatch):
    add_spec(monkeypatch, "h0", OneStep)
    with pytest.raises(UserError, match=r"model=h0 can.t be a network of codes: .* not self\.embed"):
        pixel_snail.build("h0", image_shape=(4, 4), likelihood="categorical", **SIZES)


def test_networks_that_do_not_predict_codes_are_one_line(monkeypatch):
    monkeypatch.setitem(specs, "mine", lambda nr_resnet, nr_filters, dropout_p, channels: None)
    of_codes = {"image_shape": (4, 4, 1), "levels": 8, "likelihood": "categorical"} | SIZES
    for name, message in (("mine", "without the argument codes"), ("h8_noup_smallkey_ar_chs", "not predict codes")):
        with pytest.raises(UserError, match=message):
            build_network(name, **of_codes)


def test_codes_that_are_no_codes_are_one_line(model, codes):
    with pytest.raises(UserError, match="values must be from 0 to 127"):
        model.log_prob(codes.astype(int) + 127)
    with pytest.raises(UserError, match="not float64"):
        model.log_prob(codes / 2)
