"""Networks with a condition: what each pixel sees of it; drawing, files, training; mistakes."""

import functools
import json

import h5py
import numpy as np
import pytest
import tensorflow as tf
from networks import OneStep, add_spec, shallow

import data
import eval as eval_command
import pixel_snail
import train as train_command
from benchmarks.counted_training import ONE_BLOCK
from benchmarks.plain import naive_sampler
from pixel_snail import sampling, steps
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError
from pixel_snail.likelihoods import categorical
from pixel_snail.likelihoods.levels import from_values
from pixel_snail.network import argument_h
from pixel_snail.parallel import batches as of_split
from pixel_snail.weights import normalised_weights, using

SIZES = {"nr_resnet": 1, "nr_filters": 8, "dropout_p": 0.0}
OF_CODES = {"levels": 6, "likelihood": "categorical"}
OWN = {"h0": OneStep, "h1": ONE_BLOCK}
KINDS = {
    "vectors": {"condition_shape": (3,)},
    "maps": {"condition_shape": (2, 4, 3)},
    "codes": {"condition_shape": (4, 2), "condition_levels": 5},
}


def condition_of(kind, number, seed=0):
    """Random conditions of a network built with a value of KINDS."""
    rng, shape = np.random.default_rng(seed), (number, *kind["condition_shape"])
    return rng.integers(0, 5, shape) if "condition_levels" in kind else rng.normal(size=shape).astype(np.float32)


def build(name="h1", shape=(8, 8), **settings):
    """A model with few blocks, its layers initialised on random values, and these values with labels and conditions."""
    with pytest.MonkeyPatch.context() as patch:
        for own, spec in OWN.items():
            add_spec(patch, own, spec)
        add_spec(patch, name, OWN.get(name) or shallow(name))
        model = pixel_snail.build(name, image_shape=shape, seed=0, **SIZES | settings)
    rng, number = np.random.default_rng(1), 4
    values = rng.integers(0, model.levels, [number, *model.image_shape]).astype(np.uint8)
    given = [np.arange(number) % 2 if model.nr_labels else None]
    given.append(condition_of(settings, number) if model.condition else None)
    model.initialise(values, *given)
    return model, values, *given


def h_of(model, labels, condition):
    return argument_h(labels, condition, model.network.description)


@pytest.fixture(scope="module")
def of_maps():
    return build("h0", condition_resnet=1, nr_labels=2, levels=6, nr_logistic_mix=2, **KINDS["maps"])


def test_a_constant_map_without_residual_blocks_equals_the_vector():
    vectors, values, _, condition = build(**KINDS["vectors"])
    maps, *_ = build(condition_shape=(4, 2, 3), condition_resnet=0)
    maps.network.set_weights(vectors.network.get_weights())
    constant = np.broadcast_to(condition[:, None, None], [4, 4, 2, 3])
    x = from_values(values)
    expected = vectors.network(x, h=h_of(vectors, None, condition))
    np.testing.assert_array_equal(maps.network(x, h=h_of(maps, None, constant)), expected)


@pytest.mark.parametrize("blocks, reach", [(0, 0), (1, 3)])
def test_a_pixel_sees_the_condition_at_its_place_and_around_it_as_far_as_the_residual_blocks_reach(blocks, reach):
    model, values, _, condition = build(condition_shape=(8, 8, 1), condition_resnet=blocks)
    changed = condition.copy()
    changed[:, 4, 4] += 1
    before, after = (model.network(from_values(values), h=h_of(model, None, of)).numpy() for of in (condition, changed))
    differs = (before != after).any((0, 3))
    # Pixels after the changed ones also see those, through the image's own layers.
    first = 8 * (4 - reach) + 4 - reach
    assert not differs.ravel()[:first].any()
    assert differs[4 - reach, 4 - reach] and differs[4, 4]


@pytest.mark.parametrize(
    "name, settings",
    [
        ("h8_noup_smallkey", KINDS["codes"] | OF_CODES | {"shape": (4, 6), "nr_labels": 2}),
        ("h6_noup_124mix_halfattn", KINDS["maps"] | {"shape": (4, 8), "nr_logistic_mix": 2}),
        ("h8_noup_smallkey_ar_chs", KINDS["vectors"] | {"shape": (2, 4, 3), "nr_logistic_mix": 2}),
        ("pxpp", KINDS["maps"] | OF_CODES | {"shape": (4, 8)}),
    ],
)
def test_drawing_with_a_cache_gives_what_the_naive_loop_draws_under_the_same_conditions(name, settings):
    model, _, labels, condition = build(name, **settings)
    network, description = model.network, model.network.description
    h = h_of(model, labels, condition)
    uniforms = sampling.uniforms(0, 0, 4, description.image_shape, description.drawn_components)
    draw = sampling.batch_drawer(network, 4, jit=False)
    drawn, outputs = draw(normalised_weights(network, network.weights), *uniforms, h=h)
    naive = naive_sampler(lambda x, _: network(x, h=h), levels=description.drawn_levels, codes=description.codes)
    np.testing.assert_allclose(drawn, naive(*uniforms), atol=2e-5)
    h = h_of(model, labels, condition[::-1])
    _, others = draw(normalised_weights(network, network.weights), *uniforms, h=h)
    assert np.abs(others[:, 0, 0] - outputs[:, 0, 0]).max() > 1e-4


@pytest.mark.parametrize("name, recompute", [("h8_noup_smallkey", False), ("h8_noup_smallkey", True), ("pxpp", True)])
def test_a_training_steps_gradients_are_those_of_the_loss_also_for_embeddings_and_conditions(name, recompute):
    model, values, labels, condition = build(name, **KINDS["codes"], **OF_CODES, nr_labels=2)
    network, x, h = model.network, from_values(values, 6), h_of(model, labels, condition)

    def gradients(**settings):
        return tape.gradient(categorical.loss_per_image(x, network(x, h=h, **settings), 6), network.weights)

    with tf.GradientTape() as tape:
        expected = gradients()
    with tf.GradientTape() as tape, using(normalised_weights(network, network.weights)):
        found = gradients(recompute=recompute)
    assert len(found) > 20
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4 * np.abs(other).max() + 1e-6)


def test_each_image_is_read_with_its_own_condition():
    numbers = np.arange(20)
    maps = np.broadcast_to(numbers[:, None, None], [20, 2, 3])
    split = Split(np.uint8(numbers)[:, None, None, None], numbers, condition=maps)
    batches = [*of_split.training_batches(split, 4, seed=0, epoch=1), *of_split.test_batches(split, 8)]
    assert len(batches) == 8
    for batch in batches:
        assert batch["condition"].shape[1:] == (2, 3) and batch["condition"].dtype == tf.int32
        np.testing.assert_array_equal(batch["condition"][:, 1, 2], batch["labels"])
    x, h = steps.network_inputs(batches[0], build(**KINDS["codes"])[0].network.description)
    assert sorted(h) == ["condition"] and x.shape == (4, 1, 1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_compressed_maps_are_read_back_under_their_condition_and_never_under_another(kind, uncompiled_drawing):
    model, values, _, condition = build("h0", shape=(4, 4), levels=6, nr_logistic_mix=2, **KINDS[kind])
    file = model.compress(values, condition=condition, batch_size=3, verbose=0)
    np.testing.assert_array_equal(model.decompress(file, condition, verbose=0), values)
    with pytest.raises(UserError, match="compressed with another condition"):
        model.decompress(file, condition[::-1], verbose=0)
    with pytest.raises(UserError, match=r"the network is conditional on .*: give condition"):
        model.decompress(file, verbose=0)


def test_checkpoints_keras_files_and_exports_give_the_same_figures_and_draws(
    of_maps, tmp_path, monkeypatch, uncompiled_drawing
):
    model, values, labels, condition = of_maps
    add_spec(monkeypatch, "h0", OneStep)
    expected = [model.log_prob(values, labels, condition, verbose=0), model.sample(4, labels, condition, verbose=0)]
    model.save(tmp_path / "params.ckpt")
    model.network.save(tmp_path / "model.keras")
    for path in (tmp_path / "params.ckpt", tmp_path / "model.keras"):
        loaded = pixel_snail.load(path)
        assert loaded.network.description == model.network.description and loaded.condition == model.condition
        np.testing.assert_array_equal(loaded.log_prob(values, labels, condition, verbose=0), expected[0])
        np.testing.assert_array_equal(loaded.sample(4, labels, condition, verbose=0), expected[1])
    model.network.export(tmp_path / "exported")
    served = tf.saved_model.load(tmp_path / "exported")
    x, h = from_values(values, 6), h_of(model, labels, condition)
    np.testing.assert_allclose(served.serve(x, h), model.network(x, h=h), atol=1e-5)


def test_a_condition_that_says_everything_leaves_few_nats_and_completions_follow_it(uncompiled_drawing):
    model, *_ = build(shape=(3, 3), condition_shape=(3, 3), condition_levels=6, condition_resnet=0, **OF_CODES)
    rng = np.random.default_rng(3)
    codes, others = (rng.integers(0, 6, [number, 3, 3]) for number in (256, 32))
    settings = {"epochs": 12, "batch_size": 16, "learning_rate": 0.02, "polyak_decay": 0.9, "verbose": 0}
    history = model.fit(codes, condition=codes, validation=(others, None, others), **settings)
    assert model.log_prob(others, condition=others, verbose=0).mean() > -2  # without the condition, -16.1 nats
    assert history.test[-1] == pytest.approx(model.bits_per_dim(others, condition=others, verbose=0).mean())
    assert model.accuracy(others, condition=others, verbose=0).mean() > 0.95
    completed = model.complete(codes[:8], keep_rows=1, condition=others[:8], verbose=0)
    np.testing.assert_array_equal(completed[:, 0, :, 0], codes[:8, 0])
    assert (completed[:, 1:, :, 0] == others[:8, 1:]).mean() > 0.9


def test_conditions_may_be_tensors_lists_or_data_sets_of_h5py(of_maps, tmp_path):
    model, values, labels, condition = of_maps
    expected = model.log_prob(values, labels, condition, verbose=0)
    with h5py.File(tmp_path / "conditions.h5", "w") as file:
        file["maps"] = condition
        for given in (tf.constant(condition), condition.tolist(), condition.astype(np.float64), file["maps"]):
            np.testing.assert_array_equal(model.log_prob(values, labels, given, verbose=0), expected)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"condition_shape": (3, 4, 1)}, "a condition of 3 x 4 can't be laid over images of 8 x 8: its sides must"),
        ({"condition_shape": (4, 4)}, r"condition_shape=\(4, 4\) is a map of codes: give condition_levels"),
        ({"condition_shape": (3,), "condition_levels": 4}, r"condition_levels is for a map of codes, \(h, w\), not"),
        ({"condition_shape": (4, 4), "condition_levels": 1}, "^condition_levels=1 is not a whole number from 2"),
        ({"condition_shape": 3}, r"condition_shape must be \(D,\), \(h, w, D\) or, for codes, \(h, w\), not 3"),
        ({"condition_shape": (0,)}, "condition_shape must be"),
        ({"condition_levels": 4}, "condition_levels=4 is for a network with a condition"),
        ({"condition_shape": (3,), "condition_resnet": -1}, "condition_resnet=-1 is not a whole number, 0 or more"),
        ({"condition_shape": (3,), "condition_resnet": 3}, "condition_resnet=3 is for a condition that is a map"),
        ({"condition_resnet": 3}, "condition_resnet=3 is for a condition that is a map"),
    ],
)
def test_a_condition_that_can_not_be_is_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        pixel_snail.build(image_shape=(8, 8), **settings)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: None, r"conditional on maps of 2 x 4 x 3 numbers, .*: give condition, floats \[4, 2, 4, 3\]"),
        (lambda c: c[:3], r"condition must be floats \[4, 2, 4, 3\], not float32 \[3, 2, 4, 3\]$"),
        (lambda c: c[0], r"not float32 \[2, 4, 3\]; give one for each image"),
        (lambda c: c.astype(int), r"not int64 \[4, 2, 4, 3\]; use condition.astype\(np.float32\)"),
        (
            lambda c: np.where(c == c[2, 1, 3, 0], np.nan, c),
            "condition: the one of image 2 has the value nan: give finite float32 numbers",
        ),
        (lambda c: "maps.npy", "condition must be"),
    ],
)
def test_conditions_that_a_network_does_not_take_are_one_line(change, message, of_maps):
    model, values, labels, condition = of_maps
    with pytest.raises(UserError, match=message):
        model.log_prob(values, labels, change(condition))


def test_a_likelihood_that_a_huge_condition_makes_infinite_is_not_blamed_on_the_checkpoint_alone(of_maps):
    model, values, labels, condition = of_maps
    with pytest.raises(UserError, match="not finite: the condition has huge numbers, or the parameters are damaged"):
        model.log_prob(values, labels, np.full_like(condition, 3e38), verbose=0)


def test_conditions_where_none_are_taken_and_codes_out_of_range_are_one_line():
    model, values, *_ = build(**OF_CODES)
    with pytest.raises(UserError, match="the network takes no condition: leave condition out"):
        model.log_prob(values, condition=np.zeros([4, 3], np.float32))
    model, values, _, condition = build(**KINDS["codes"])
    with pytest.raises(UserError, match=r"condition: the one of image 0 has the value .*: give codes from 0 to 4"):
        model.sample(4, condition=condition + 5)
    with pytest.raises(UserError, match="accuracy is for codes"):
        model.accuracy(values, condition=condition)


def test_networks_of_ones_own_that_take_no_condition_are_one_line(monkeypatch):
    class Unconditioned(OneStep):
        def conditioned(self, h, seed, image_shape):
            return h, seed

    monkeypatch.setitem(pixel_snail.specs, "mine", lambda channels, nr_resnet, nr_filters, dropout_p: None)
    add_spec(monkeypatch, "other", Unconditioned)
    settings = {"image_shape": (4, 4, 1), "condition_shape": (3,)} | SIZES
    with pytest.raises(UserError, match="model=other can't be a network with a condition: its call gives h"):
        pixel_snail.build("other", **settings)
    with pytest.raises(UserError, match="mine is a specification without the argument"):
        pixel_snail.build("mine", **settings)


# Data sets and commands


def save_arrays(path, number=24, tests=6, **changes):
    """Codes of 4x4, with conditions of 2x2 codes from 0 to 2."""
    rng = np.random.default_rng(5)
    arrays = {
        "train": rng.integers(0, 4, [number, 4, 4]),
        "test": rng.integers(0, 4, [tests, 4, 4]),
        "train_condition": rng.integers(0, 3, [number, 2, 2]),
        "test_condition": rng.integers(0, 3, [tests, 2, 2]),
        "train_labels": np.arange(number) % 2,
        "test_labels": np.arange(tests) % 2,
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return arrays


def test_arrays_have_conditions_also_if_they_are_divided_or_larger_than_memory(tmp_path):
    arrays = save_arrays(tmp_path / "a.npz")
    loaded = data.load("arrays", tmp_path / "a.npz")
    assert (loaded.condition_shape, loaded.condition_levels) == ((2, 2), 3)
    np.testing.assert_array_equal(loaded.test.condition[:], arrays["test_condition"])
    save_arrays(tmp_path / "c.npz", train_condition=arrays["train_condition"][..., None], other=np.zeros(3))
    of_one_channel = data.load("arrays", tmp_path / "c.npz")
    np.testing.assert_array_equal(of_one_channel.train.condition[:], arrays["train_condition"])
    assert of_one_channel.notes[-1].startswith("not used: other in ")
    maps = np.random.default_rng(0).normal(size=[24, 2, 2, 5])
    save_arrays(tmp_path / "b.npz", test=None, test_condition=None, test_labels=None, train_condition=maps)
    divided = data.load("arrays", tmp_path / "b.npz")
    assert (divided.condition_shape, divided.condition_levels) == ((2, 2, 5), None)
    np.testing.assert_array_equal(divided.test.condition[:], maps[9::10])
    for name in ("train", "train_condition"):
        np.save(tmp_path / f"{name}.npy", np.load(tmp_path / "b.npz")[name])
    mapped = data.load("arrays", tmp_path)
    np.testing.assert_array_equal(mapped.train.condition[:4], divided.train.condition[:4])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"test_condition": None}, r"test in .* has no conditions, the other images have: add test_condition"),
        ({"test_condition": np.zeros([5, 2, 2], int)}, r"test_condition in .* is int64 \[5, 2, 2\]: give 6 conditions"),
        ({"test_condition": np.zeros([6, 2, 2, 3], int)}, "integers are codes, .* give numbers as float32"),
        ({"test_condition": np.zeros([6, 2, 1], int)}, "both need the same form"),
        ({"train_condition": np.zeros([24, 2, 2]) > 0}, "train_condition in .* is bool"),
        (
            {"train_condition": np.full([24, 3], 1e300)},
            "image 0 has the value 1e.300: give finite float32 numbers",
        ),
        (
            {"train_conditions": np.zeros([24, 3])},
            "has an array train_conditions: conditions are called train_",
        ),
        ({"train_condition": np.full([24, 2, 2], -1)}, "has the value -1 .*: give codes from 0 to"),
    ],
)
def test_conditions_in_arrays_that_can_not_be_are_one_line(changes, message, tmp_path):
    save_arrays(tmp_path / "a.npz", **changes)
    with pytest.raises(UserError, match=message):
        data.load("arrays", tmp_path / "a.npz")


def test_a_data_set_needs_one_condition_for_each_image():
    images = np.zeros([3, 4, 4, 1], np.uint8)
    with pytest.raises(UserError, match="there are 3 test images, but 2 conditions"):
        DataSet(None, Split(images, condition=np.zeros([2, 3], np.float32)))


def run(main, capfd, *arguments):
    """The exit code of a command, and what it printed on stdout and stderr."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0, *capfd.readouterr()


def test_the_commands_train_evaluate_compress_and_draw_with_the_conditions_of_the_data_set(
    tmp_path, capfd, monkeypatch, uncompiled_drawing
):
    add_spec(monkeypatch, "h0", OneStep)
    arrays = save_arrays(tmp_path / "a.npz")
    of_data, saved = ("--data_set=arrays", f"--data_dir={tmp_path / 'a.npz'}"), tmp_path / "save"
    network = ("--model=h0", "-n", 4, "-q", 1, "-m", 2, "--condition_resnet=1", "--class_conditional")
    train = functools.partial(run, train_command.main, capfd, *of_data, *network, f"--save_dir={saved}", "--resume")
    assert train("--max_epochs=1", "-b", 6)[0] == 0
    code, out, _ = train("--max_epochs=2", "-b", 6)
    assert code == 0 and "going on in epoch 1" in out
    assert "conditional on maps of 2 x 2 codes from 0 to 2, through 1 residual block" in out
    save_arrays(tmp_path / "without.npz", train_condition=None, test_condition=None)
    code, _, err = train("--max_epochs=2", "-b", 6, f"--data_dir={tmp_path / 'without.npz'}")
    assert code == 2 and "but that of the data set is none: give the data set of that run" in err
    code, _, err = train("--new_run", "--condition_levels=2")
    assert code == 2 and "--condition_levels=2, but the conditions have the code 2: give 3 or more" in err

    evaluate = functools.partial(run, eval_command.main, capfd, f"--load_params={saved}")
    files = (f"--json={tmp_path / 'a.json'}", f"--compress={tmp_path / 'a.snail'}", f"--save_dir={tmp_path / 'drawn'}")
    code, out, err = evaluate(*files, "--nr_samples=8")
    assert code == 0, err
    assert "8 images, with the conditions of the first 6 test images, in their order, repeated" in out
    figures, model = json.loads((tmp_path / "a.json").read_text()), pixel_snail.load(saved, averaged=True)
    of_test = arrays["test"].astype(np.uint8), arrays["test_labels"], arrays["test_condition"]
    assert figures["read_back"] and figures["condition"] == str(model.condition)
    assert figures["bits_per_dim"] == pytest.approx(model.bits_per_dim(*of_test, verbose=0).mean(), rel=1e-6)
    chosen = np.arange(8) % 6
    expected = model.sample(8, of_test[1][chosen], of_test[2][chosen], verbose=0)
    np.testing.assert_array_equal(np.load(tmp_path / "drawn" / "arrays_samples.npy"), expected)

    save_arrays(tmp_path / "others.npz", test_condition=np.full([6, 2, 2], 3))
    for arguments, message in (
        ((f"--data_dir={tmp_path / 'without.npz'}",), "but the data set arrays has none: give --data_set=arrays"),
        (
            (f"--data_dir={tmp_path / 'others.npz'}",),
            "and the data set arrays has others: condition: the one of image 0",
        ),
        (("--skip_test", "--nr_samples=2", f"--save_dir={tmp_path}"), "leave --skip_test out"),
        (
            (f"--complete={tmp_path / 'a.npz'}", f"--save_dir={tmp_path}"),
            "complete images from Python, with condition=",
        ),
    ):
        code, _, err = evaluate(*arguments)
        assert code == 2 and message in err.splitlines()[-1], err


def test_an_evaluation_of_a_network_without_a_condition_says_that_it_leaves_that_of_the_data_set_out(
    tmp_path, capfd, monkeypatch
):
    add_spec(monkeypatch, "h0", OneStep)
    save_arrays(tmp_path / "without.npz", train_condition=None, test_condition=None)
    save_arrays(tmp_path / "with.npz")
    flags = ("--data_set=arrays", f"--data_dir={tmp_path / 'without.npz'}", "--model=h0", "-n", 4, "-q", 1, "-m", 2)
    settings = ("--max_epochs=1", "-b", 6, "--sample_interval=0", f"--save_dir={tmp_path / 'save'}")
    code, out, _ = run(train_command.main, capfd, *flags, *settings, "--condition_resnet=3")
    assert code == 0 and "--condition_resnet changes nothing" in out
    load = (f"--load_params={tmp_path / 'save'}", f"--data_dir={tmp_path / 'with.npz'}")
    code, out, _ = run(eval_command.main, capfd, *load)
    assert code == 0 and "note: the network takes no condition: the conditions of the data set are not used" in out
