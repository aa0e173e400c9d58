"""The networks against the original's numbers; their causality, labels, dropout, and blocks that are traced once."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from networks import CAUSAL, build_shallow, distinct, shallow

import golden_numbers
from pixel_snail import blocks, checkpoint
from pixel_snail.errors import UserError
from pixel_snail.kernels import convolution, xla
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.likelihoods.levels import from_values
from pixel_snail.model import build_network, check_size, leaks, specs
from pixel_snail.weights import data_dependent_initialisation, normalised_weights, using

ORIGINAL = """
    model h6_noup h6_noup_hier2 h6_hier4 h6_1mixhier2 h8_noup_124444mix h16_noup_124444mix h6_noup_124mix_halfattn
    h6_noup_1mix_halfattn h8_noup_1mix_halfattn h12_noup_smallkey h12_pool2_smallkey h8_noup_smallkey
    h8_noup_smallkey_ar_chs h6_shift h6_shift_small_attn pxpp
""".split()


def test_all_17_networks_of_the_original_are_there_and_have_golden_numbers():
    assert len(ORIGINAL) == 17
    assert sorted(ORIGINAL) == golden_numbers.NAMES
    assert specs.keys() >= set(ORIGINAL)


def test_a_network_of_ones_own_is_held_to_every_law_and_to_no_golden_number(tmp_path):
    """It sorts before the original's names, and some of its variables have their names."""
    plugin = """
        import functools
        from pixel_snail import model
        model.specs["a2_own"] = functools.partial(model.h12_noup_smallkey_spec, attn_rep=2)
    """
    (tmp_path / "own_network.py").write_text(textwrap.dedent(plugin))
    names = "test_model commands/test_inspection test_sampling test_distribution test_plain".split()
    files = [f"tests/{name}.py" for name in names]
    options = ["-p", "own_network", "-p", "no:cacheprovider", "-v", "-k", "a2_own or few_networks"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
    assert set(re.findall(r"::test_(\w+)\[a2_own.* PASSED", done.stdout)) == {
        "no_prediction_depends_on_its_pixel_or_a_later_one",
        "predictions_given_the_pixels_so_far_are_those_of_the_whole_image",
        "every_networks_checkpoint_gives_its_parameters_back_and_describes_its_settings",
        "every_network_of_blocks_is_recognised_by_its_variables",
        "keras_saves_and_loads_every_network_with_the_same_outputs",
        "the_benchmark_steps_and_evaluates_every_network_as_the_plain_one",
    }
    assert "test_few_networks_share_their_variables PASSED" in done.stdout


@pytest.mark.parametrize("name", golden_numbers.NAMES)
def test_parameters_have_the_originals_names_shapes_and_order(name):
    golden = golden_numbers.load(name)
    model = golden_numbers.build(name)
    assert checkpoint.variable_names(model) == list(golden["variable_order"])
    for variable_name, variable in golden_numbers.variables(model).items():
        assert tuple(variable.shape) == golden[f"init/var/{variable_name}"].shape, variable_name


@pytest.mark.parametrize("name", golden_numbers.NAMES)
def test_data_dependent_initialisation_is_the_originals(name):
    golden = golden_numbers.load(name)
    model = golden_numbers.build(name)
    variables = golden_numbers.variables(model)
    for variable_name, variable in variables.items():
        if variable_name.endswith("/V"):
            variable.assign(golden[f"init/var/{variable_name}"])
    with data_dependent_initialisation():
        model(tf.constant(golden["init/x"]))
    for variable_name, variable in variables.items():
        layer, leaf = variable_name.rsplit("/", 1)
        expected = golden[f"init/var/{variable_name}"]
        # b may be near zero: its error is relative to the layer's g.
        scale = np.abs(expected if leaf == "V" else golden[f"init/var/{layer}/g"]).max()
        np.testing.assert_allclose(variable, expected, rtol=0, atol=1e-6 * scale, err_msg=variable_name)


@pytest.mark.parametrize("name", golden_numbers.NAMES)
def test_outputs_loss_and_gradients_are_the_originals(name):
    assert_computes_the_originals(name, 1e-6)


@pytest.mark.parametrize("name", ["h12_noup_smallkey", "model", "pxpp"])
def test_large_maps_and_wide_filters_are_computed_to_the_originals_numbers(name, monkeypatch):
    # The golden maps are small, the filters narrow: these limits make the kernels treat them as large and wide.
    monkeypatch.setattr(xla, "SMALL", 0)
    monkeypatch.setattr(convolution, "_wide", lambda: 0)
    # Winograd's algorithm has up to twice the rounding error in each of tens of layers.
    assert_computes_the_originals(name, 3e-6)


def assert_computes_the_originals(name, tolerance_of_outputs):
    errors = golden_numbers.errors_of_a_batch(name)
    assert errors["outputs"] < tolerance_of_outputs
    assert errors["loss"] < 1e-5
    assert errors["gradient"] < 2e-3
    assert errors["median_gradient"] < 2e-4


NOT_SQUARE = {"h12_noup_smallkey": (4, 6), "h12_pool2_smallkey": (6, 4), "h8_noup_124444mix": (8, 16), "pxpp": (4, 8)}


@pytest.mark.parametrize("name, size", [*((name, (8, 8)) for name in CAUSAL), *NOT_SQUARE.items()], ids=str)
def test_no_prediction_depends_on_its_pixel_or_a_later_one(name, size, rng, monkeypatch):
    """With every kind of block: the network is a chain of blocks, and a chain of causal maps is causal."""
    monkeypatch.setitem(specs, name, shallow(name))
    depends = dependencies(name, size, rng)
    # Pixel p changes no prediction at or before p, but a later one, which shows that the test would see a leak.
    assert not np.tril(depends).any()
    assert depends[: -size[1]].any(1).all()


@pytest.mark.parametrize("name, number", [("h6_hier4", 600), ("h6_1mixhier2", 267), ("h6_noup_hier2", 201)])
def test_the_leaking_models_are_those_that_are_named_so(name, number, rng):
    assert leaks(name)
    # As many pairs as in the original, except pairs whose effect is near float32's rounding error.
    assert np.tril(dependencies(name, (8, 8), rng)).sum() == pytest.approx(number, rel=0.2)
    assert sum(map(leaks, golden_numbers.NAMES)) == 3


@pytest.mark.parametrize(
    "name, shape, levels",
    [
        ("model", (4, 4, 1), 2),
        ("h6_shift", (4, 3, 1), 256),
        ("h6_shift", (3, 4, 2), 5),
        ("h12_pool2_smallkey", (4, 4, 4), 16),
    ],
    ids=str,
)
def test_no_value_changes_the_likelihood_of_one_before_it(name, shape, levels, rng):
    """Values in raster order, a pixel's channels one after another. Both kinds of stems, and attention."""
    network = build_shallow(name, shape, rng, levels=levels)
    values = int(np.prod(shape))
    image = rng.integers(0, levels, values)
    changed = np.tile(image, [values + 1, 1])
    changed[range(1, values + 1), range(values)] = (image + 1 + rng.integers(0, levels - 1, values)) % levels
    x = tf.constant(from_values(changed.reshape(-1, *shape), levels))
    nats = logistic_mixture.nats_per_value(x, network(x), levels).numpy().reshape(values + 1, values)
    depends = np.abs(nats[1:] - nats[0]) > 1e-4  # booleans [changed value, predicted value]
    assert not np.tril(depends, -1).any()
    assert np.diagonal(depends).mean() > 0.9
    later = np.triu(depends, 1)[: -2 * shape[1] * shape[2]]
    assert later.any(1).mean() > 0.9  # the test would see a leak
    if shape[2] > 1:
        assert np.mean([depends[i, i + 1] for i in range(0, values, shape[2])]) > 0.9


@pytest.mark.parametrize("name", distinct(ORIGINAL))
def test_every_network_but_one_takes_grey_and_binary_images(name, monkeypatch):
    monkeypatch.setitem(specs, name, shallow(name))
    settings = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2}
    if name == "h8_noup_smallkey_ar_chs":
        match = "model: this network predicts R, G and B one after another.* 3 channels, not 1: .*h8_noup_smallkey$"
        with pytest.raises(UserError, match=match):
            build_network(name, (8, 8, 1), levels=2, **settings)
        return
    network = build_network(name, (8, 8, 1), levels=2, **settings)
    x = tf.constant(from_values(np.random.default_rng(0).integers(0, 2, [3, 8, 8, 1]), 2))
    outputs = network(x)
    assert outputs.shape == (3, 8, 8, 6)
    nats = logistic_mixture.loss_per_image(x, outputs, 2).numpy() / 64
    assert (nats > 0.1).all() and (nats < 10).all()  # noise takes 0.69 at best


def dependencies(name, size, rng):
    """Which predictions each pixel changes: booleans [pixel, prediction], found by changing one pixel at a time.

    Of channel-wise outputs, only R's are used: G's and B's depend on their own pixel, and have another test.
    """
    height, width = size
    pixels = height * width
    model = build_network(name, (height, width, 3), nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
    image = rng.uniform(-1, 1, [height, width, 3])
    perturbed = np.tile(image, [pixels, 1, 1, 1]).reshape(pixels, pixels, 3)
    perturbed[range(pixels), range(pixels)] = rng.uniform(-1, 1, [pixels, 3])
    images = np.concatenate([image[None], perturbed.reshape(pixels, height, width, 3)]).astype(np.float32)
    with data_dependent_initialisation():
        model(tf.constant(images))
    outputs = model(tf.constant(images))
    outputs = (outputs[0] if isinstance(outputs, tuple) else outputs).numpy().reshape(pixels + 1, pixels, -1)
    return np.abs(outputs[1:] - outputs[0]).max(-1) > 1e-6


def test_channel_wise_outputs_see_the_lower_channels_of_their_pixel_and_nothing_later(rng):
    height, width = 4, 5
    model = build_network("h8_noup_smallkey_ar_chs", (height, width, 3), nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
    values = height * width * 3
    image = rng.uniform(-1, 1, [values])
    perturbed = np.tile(image, [values, 1])
    perturbed[range(values), range(values)] = rng.uniform(-1, 1, [values])
    images = np.concatenate([image[None], perturbed]).reshape(-1, height, width, 3).astype(np.float32)
    with data_dependent_initialisation():
        model(tf.constant(images))
    outputs = np.stack(model(tf.constant(images)), 3).reshape(values + 1, values, -1)
    depends = np.abs(outputs[1:] - outputs[0]).max(-1) > 1e-6  # booleans [changed value, predicted value]
    assert not np.tril(depends).any()
    assert np.diagonal(depends, 1)[0::3].all()  # G on its pixel's R
    assert np.diagonal(depends, 1)[1::3].all()  # B on its pixel's G


@pytest.mark.parametrize("nr_filters, parameters", [(32, 791_668), (64, 2_999_604), (256, 46_180_788)])
def test_the_released_model_has_the_originals_number_of_parameters(nr_filters, parameters):
    model = build_network("h12_noup_smallkey", (8, 8, 3), nr_resnet=4, nr_filters=nr_filters, nr_logistic_mix=10)
    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == parameters


def test_labels_change_nothing_while_their_weights_are_zero_and_something_afterwards(rng):
    model = build_network("h8_noup_smallkey", (4, 4, 3), nr_labels=5, nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
    names = checkpoint.variable_names(model)
    hw = [variable for name, variable in zip(names, model.trainable_variables, strict=True) if name.endswith("/hw")]
    assert f"model/conditional_weights_{len(hw) - 1}/hw" in names
    x = tf.cast(rng.uniform(-1, 1, [5, 4, 4, 3]), tf.float32)
    x = tf.broadcast_to(x[:1], x.shape)
    h = tf.eye(5)
    for variable in hw:
        variable.assign(tf.zeros(variable.shape))
    outputs = model(x, h=h).numpy()
    np.testing.assert_allclose(outputs, np.broadcast_to(outputs[:1], outputs.shape), atol=1e-6)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(logistic_mixture.loss_per_image(x, model(x, h=h)))
    for gradient in tape.gradient(loss, hw):
        assert np.abs(gradient).max() > 0
    hw[0].assign(rng.normal(size=hw[0].shape))
    assert np.abs(np.diff(model(x, h=h).numpy(), axis=0)).max() > 1e-3


def test_dropout_acts_only_with_a_seed_and_repeats_with_it(rng):
    model = build_network("h8_noup_smallkey", (4, 4, 3), nr_resnet=1, nr_filters=4, nr_logistic_mix=2, dropout_p=0.5)
    x = tf.cast(rng.uniform(-1, 1, [2, 4, 4, 3]), tf.float32)
    plain, first, again, other = (model(x, seed=seed).numpy() for seed in (None, [1, 2, 0], [1, 2, 0], [1, 3, 0]))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - plain).max() > 1e-3
    assert np.abs(first - other).max() > 1e-3


def test_background_is_the_coordinates_once_for_each_channel():
    background = blocks.background(tf.zeros([2, 4, 8, 3])).numpy()
    assert background.shape == (2, 4, 8, 6)
    np.testing.assert_allclose(background[1, :, 3, :3], np.repeat([[-0.5], [-0.25], [0], [0.25]], 3, 1))
    np.testing.assert_allclose(background[0, 2, :, 3:], np.repeat(np.arange(-4, 4)[:, None] / 8, 3, 1))
    np.testing.assert_array_equal(blocks.background(tf.zeros([2, 4, 8, 1])), background[..., [0, 3]])


def test_the_stem_of_shifts_sees_one_channel_in_each_direction_of_rgb_and_all_of_other_images(rng):
    """So a grey image gives what it gives as RGB."""
    stem, grey = blocks.ShiftStem(4), tf.cast(rng.uniform(-1, 1, [1, 3, 3, 1]), tf.float32)
    np.testing.assert_array_equal(stem(grey)[0], stem(tf.repeat(grey, 3, -1))[0])
    for channels, expected in ((3, [1, 5, 7, 9]), (2, range(8))):
        stem, values = blocks.ShiftStem(4), 9 * channels
        pixels = np.zeros([1 + values, 3, 3, channels], np.float32)
        pixels[1:].reshape(values, values)[range(values), range(values)] = 1
        outputs = stem(tf.constant(pixels))[0][:, 1, 1].numpy()
        seen = np.abs(outputs[1:] - outputs[0]).max(-1) > 0
        np.testing.assert_array_equal(np.flatnonzero(seen), expected)


@pytest.mark.parametrize("name, kinds", [("h6_noup", 1), ("h6_noup_124mix_halfattn", 3)])
def test_blocks_with_given_weights_are_traced_once_a_kind_and_compute_what_each_does_alone(name, kinds, monkeypatch):
    golden = golden_numbers.load(name)
    model = golden_numbers.initialised(name, golden)
    x = tf.constant(golden["x"][0])
    expected = model(x)
    traced = []
    call = blocks.Block.call
    monkeypatch.setattr(
        blocks.Block, "call", lambda block, *args, **named: traced.append(1) or call(block, *args, **named)
    )

    @tf.function(autograph=False)
    def with_given_weights():
        with using(normalised_weights(model, model.trainable_variables)):
            return model(x)

    # The weights of many layers are normalised together, which takes sums in another order.
    np.testing.assert_allclose(with_given_weights(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert len(traced) == kinds < len(model.blocks)


@pytest.mark.parametrize(
    "name", ["h6_noup", "h12_pool2_smallkey", "h8_noup_smallkey_ar_chs", "h6_shift", "h6_shift_small_attn", "model"]
)
def test_an_image_too_small_for_a_network_is_refused_by_the_least_size(name):
    settings = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2}
    least, too_small = ("2 rows", (1, 8, 3)) if name == "model" else ("2 pixels", (1, 1, 3))
    with pytest.raises(UserError, match=f"model={name} needs images of at least {least}, not 1 x "):
        build_network(name, too_small, **settings)


@pytest.mark.parametrize("name, shape", [("h6_noup", (1, 2, 3)), ("h6_shift", (2, 1, 3)), ("model", (2, 1, 3))])
def test_the_least_image_has_finite_gradients(name, shape):
    network = build_network(name, shape, nr_resnet=1, nr_filters=4, nr_logistic_mix=2, dropout_p=0.0)
    x = tf.cast(np.random.default_rng(0).uniform(-1, 1, [8, *shape]), tf.float32)
    with data_dependent_initialisation():
        network(x)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(logistic_mixture.loss_per_image(x, network(x)))
    gradients = tape.gradient(loss, network.trainable_variables)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_sizes_that_a_network_takes_are_known_before_it_is_made(name):
    network = specs[name](nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
    for side in range(1, 17):
        if side % network.size_multiple or side < network.least_rows or side < 2:
            with pytest.raises(UserError, match=f"{name} (takes images whose sides are|needs images of at least)"):
                check_size(name, side, side)
        else:
            check_size(name, side, side)
