"""The Python interface: one distribution behind it and the commands, and what it says of mistakes."""

import json
import pathlib
import warnings

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from networks import OneStep, add_spec, distinct, shallow

import data
import eval as eval_command
import golden_numbers
import pixel_snail
import train as train_command
from pixel_snail import checkpoint, distribution, sampling
from pixel_snail.codec.coder import ImageCoder
from pixel_snail.dataset import DataSet, Split
from pixel_snail.likelihoods.levels import from_values, to_values
from pixel_snail.model import build_network, specs
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.parallel import devices
from pixel_snail.parallel.cluster import Cluster
from pixel_snail.runs import search

pytestmark = pytest.mark.usefixtures("uncompiled_drawing")

SIZES = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2}
SHAPE = (8, 8, 3)


def images_of(number, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, [number, *shape], np.uint8)


@pytest.fixture(scope="module")
def one_block():
    """A network of one residual step, with classes: for what does not depend on the network."""
    with pytest.MonkeyPatch.context() as patch:
        add_spec(patch, "h0", OneStep)
        keras.utils.set_random_seed(0)
        model = pixel_snail.build("h0", image_shape=SHAPE, nr_labels=3, **SIZES)
        model.initialise(images_of(6), np.arange(6) % 3)
        yield model


def exit_code(command, argv):
    with pytest.raises(SystemExit) as exit_:
        command.main(argv)
    return exit_.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of train.py, and its test images."""
    folder, images = tmp_path_factory.mktemp("run"), images_of(16)
    with pytest.MonkeyPatch.context() as patch:
        add_spec(patch, "h0", OneStep)
        patch.setitem(data.data_sets, "tiny", lambda _: DataSet(Split(images[:11]), Split(images[11:])))
        network = ["--model=h0", "-q1", "-n4", "-m2", "-z", "concat_elu"]
        argv = [*network, "--data_set=tiny", "-b2", "-x1", f"-o{folder}", "--sample_interval=0"]
        assert exit_code(train_command, argv) == 0
        yield folder, images[11:]


def test_a_notebook_and_eval_give_the_same_numbers_and_images_bit_by_bit(run, tmp_path):
    folder, images = run
    argv = [f"-r{folder}", f"--json={tmp_path}/result.json", "--nr_samples=3", "--seed=7", f"-o{tmp_path}"]
    assert exit_code(eval_command, argv) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    model = pixel_snail.load(folder)
    bits = model.bits_per_dim(images, verbose=0)
    assert bits.tolist() == result["bits_per_dim_per_image"]
    per_channel = model.bits_per_dim_per_channel(tf.constant(images), verbose=0)
    assert per_channel.mean(0).tolist() == list(result["bits_per_dim_per_channel"].values())
    np.testing.assert_allclose(per_channel.mean(1), bits, rtol=1e-12)
    np.testing.assert_allclose(model.log_prob(images, verbose=0), -bits * np.log(2) * 192, rtol=1e-12)
    drawn = np.load(tmp_path / "tiny_samples.npy")
    np.testing.assert_array_equal(model.draw(3, seed=7, verbose=0), drawn)
    samples = model.sample(3, seed=7, verbose=0)
    assert samples.dtype == np.uint8
    np.testing.assert_array_equal(samples, np.clip(np.round(drawn * 127.5 + 127.5), 0, 255))


def test_our_checkpoints_describe_themselves_and_eval_draws_without_a_data_set(run, tmp_path, monkeypatch):
    folder, images = run
    prefix = search.find(str(folder)).prefix
    for path in (str(folder), prefix, f"{prefix}.index", pathlib.Path(folder)):
        model = pixel_snail.load(path)
        assert (model.spec, model.image_shape, model.nr_labels) == ("h0", SHAPE, None)
        assert model.network.description.resnet_nonlinearity == "concat_elu"
    raw = pixel_snail.load(folder, averaged=False)
    assert np.abs(raw.bits_per_dim(images, verbose=0) - model.bits_per_dim(images, verbose=0)).max() > 1e-6
    monkeypatch.setitem(data.data_sets, "tiny", None)
    assert exit_code(eval_command, [f"-r{folder}", "--skip_test", "--nr_samples=2", f"-o{tmp_path}"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "tiny_samples.npy"), model.draw(2, verbose=0))
    with pytest.raises(pixel_snail.UserError, match=r"is of another network: its nr_filters is 4, not 8; give its"):
        pixel_snail.load(folder, nr_filters=8)


def test_a_young_average_is_warned_of_and_the_parameters_themselves_are_not(run):
    folder, _ = run
    with pytest.warns(UserWarning, match=r"the initial parameters still have a weight of 99\.\d% .* averaged=False"):
        pixel_snail.load(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixel_snail.load(folder, averaged=False)


def test_an_originals_checkpoint_needs_its_flags_as_keywords(tmp_path):
    prefix = golden_numbers.checkpoint("h6_shift")
    golden = golden_numbers.load("h6_shift")
    model = pixel_snail.load(prefix, model="h6_shift", **SIZES, image_shape=SHAPE)
    outputs = model.network(tf.constant(golden["x"][0]))
    assert golden_numbers.outputs_error(outputs, golden, "ema_out") < 1e-5
    with pytest.raises(pixel_snail.UserError, match=r"give image_shape=\(H, W, C\)"):
        pixel_snail.load(prefix, model="h6_shift", **SIZES)
    with pytest.raises(pixel_snail.UserError, match=r"probably nr_filters \(4 in the checkpoint, not 8\)"):
        pixel_snail.load(prefix, model="h6_shift", **SIZES | {"nr_filters": 8}, image_shape=SHAPE)
    with pytest.raises(pixel_snail.UserError, match="nr_filters=256 is too much"):
        pixel_snail.load(prefix, image_shape=SHAPE)
    argv = [f"-r{prefix}", "--model=h6_shift", "-q1", "-n4", "-m2", "--skip_test", "--image_size=8"]
    assert exit_code(eval_command, [*argv, "--nr_samples=1", f"-o{tmp_path}"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "cifar_samples.npy"), model.draw(1, verbose=0))


def test_the_seed_gives_the_same_images_however_many_are_drawn(one_block):
    labels = np.arange(10) % 3
    images = one_block.draw(10, labels, seed=5, verbose=0)
    assert images.shape == (10, *SHAPE)
    np.testing.assert_array_equal(one_block.draw(3, labels[:3], seed=5, verbose=0), images[:3])
    assert len({image.tobytes() for image in images}) == 10
    assert np.abs(one_block.draw(3, labels[:3], seed=6, verbose=0) - images[:3]).max() > 0.1
    assert np.abs(one_block.draw(3, labels[1:4], seed=5, verbose=0) - images[:3]).max() > 0.1


def test_completions_keep_the_upper_rows_and_differ_below(one_block):
    images = np.repeat(images_of(2), 3, 0)
    completed = one_block.complete(images, keep_rows=3, labels=np.zeros(6, int), verbose=0)
    assert completed.dtype == np.uint8
    np.testing.assert_array_equal(completed[:, :3], images[:, :3])
    below = completed[:, 3:].astype(int)
    assert all(np.abs(below[i] - below[j]).max() > 12 for i, j in ((0, 1), (1, 2), (3, 4)))
    by_default = one_block.complete(images[:1], labels=[0], verbose=0)
    np.testing.assert_array_equal(by_default[:, :4], images[:1, :4])


def test_a_mask_of_upper_rows_draws_what_keep_rows_draws(one_block):
    images, labels = images_of(3), np.arange(3)
    expected = one_block.complete(images, keep_rows=3, labels=labels, verbose=0)
    upper = np.repeat(np.arange(8)[:, None] < 3, 8, axis=1)
    for mask in (upper, [upper] * 3, tf.constant(upper)):
        np.testing.assert_array_equal(one_block.complete(images, labels=labels, mask=mask, verbose=0), expected)


def test_a_mask_that_gives_nothing_draws_samples(one_block):
    images, labels, nothing = images_of(3), np.arange(3), np.zeros([3, 8, 8], bool)
    completed = one_block.complete(images, labels=labels, mask=nothing, seed=7, verbose=0)
    np.testing.assert_array_equal(completed, one_block.sample(3, labels, seed=7, verbose=0))
    unrounded = one_block.draw(3, labels, seed=7, given=from_values(images, 256), mask=nothing, verbose=0)
    np.testing.assert_array_equal(unrounded, one_block.draw(3, labels, seed=7, verbose=0))
    for alone in ({"mask": nothing}, {"given": from_values(images, 256)}):
        with pytest.raises(pixel_snail.UserError, match=r"given and mask belong together"):
            one_block.draw(3, labels, **alone, verbose=0)
    right, mask = from_values(images, 256), np.eye(8, dtype=bool)
    of_float64 = one_block.draw(3, labels, given=images / 127.5 - 1, mask=mask, verbose=0)
    np.testing.assert_allclose(of_float64[:, mask], right[:, mask], atol=1e-6)
    for given, message in (
        (images, r"given must be images \[3, 8, 8, 3\] of numbers from -1 to 1, not uint8 \[3, 8, 8, 3\]"),
        (images / 255 * 2, "of numbers from -1 to 1, not from 0 to 2"),
        (right[:2], r"not float32 \[2, 8, 8, 3\]"),
    ):
        with pytest.raises(pixel_snail.UserError, match=message):
            one_block.draw(3, labels, given=given, mask=mask, verbose=0)
    none = one_block.complete(images[:0], labels=labels[:0], mask=nothing[:0], verbose=0)
    assert none.shape == (0, *SHAPE)


def test_each_image_keeps_the_pixels_of_its_own_mask_also_in_the_next_batch(one_block, rng):
    images, labels, masks = images_of(9), np.arange(9) % 3, rng.random([9, 8, 8]) < 0.5
    completed = one_block.complete(images, labels=labels, mask=masks, verbose=0)
    np.testing.assert_array_equal(completed[masks], images[masks])
    assert (completed[~masks] != images[~masks]).mean() > 0.9
    for i in (7, 8):  # the last image of the first batch, and the only one of the second
        of_all = one_block.complete(images, labels=labels, mask=masks[i], verbose=0)
        np.testing.assert_array_equal(of_all[i], completed[i])


def test_pixels_above_a_given_one_or_on_its_left_are_those_of_a_sample(one_block):
    mask = np.zeros([8, 8], bool)
    mask[4, 5] = mask[5:] = True
    completed = one_block.complete(images_of(2), labels=[0, 1], mask=mask, seed=7, verbose=0)
    sample = one_block.sample(2, [0, 1], seed=7, verbose=0)
    np.testing.assert_array_equal(completed[:, :4], sample[:, :4])
    np.testing.assert_array_equal(completed[:, 4, :5], sample[:, 4, :5])
    assert (completed[:, 4, 6:] != sample[:, 4, 6:]).any()


def test_eval_completes_with_masks_what_a_notebook_completes(run, tmp_path, rng):
    folder, images = run
    masks = rng.random([5, 8, 8]) < 0.5
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "mask.npy", masks[0])
    PIL.Image.fromarray(np.concatenate(masks, axis=1)).save(tmp_path / "masks.png")
    model = pixel_snail.load(folder)
    for name, used in (("mask.npy", np.repeat(masks[:1], 5, axis=0)), ("masks.png", masks)):
        argv = [f"-r{folder}", "--skip_test", f"--complete={tmp_path}/images.npy", f"--mask={tmp_path}/{name}"]
        assert exit_code(eval_command, [*argv, "--nr_samples=2", "--seed=7", f"-o{tmp_path}"]) == 0
        twice = {"images": np.repeat(images, 2, axis=0), "mask": np.repeat(used, 2, axis=0)}
        expected = model.complete(**twice, seed=7, verbose=0).reshape(5, 2, *SHAPE)
        np.testing.assert_array_equal(to_values(np.load(tmp_path / "tiny_completions.npy")), expected)
    second_column = np.asarray(PIL.Image.open(tmp_path / "tiny_completions.png"))[:, 8:16].reshape(images.shape)
    np.testing.assert_array_equal(second_column[masks], images[masks])
    assert len(np.unique(second_column[~masks])) == 1


def test_any_number_of_images_goes_in_and_an_images_figure_does_not_depend_on_the_others(one_block):
    images, labels = images_of(11), np.arange(11) % 3
    bits = one_block.bits_per_dim(images, labels, verbose=0)
    assert bits.shape == (11,)
    np.testing.assert_array_equal(one_block.bits_per_dim(images[:1], labels[:1], verbose=0), bits[:1])
    np.testing.assert_allclose(one_block.bits_per_dim(images, labels, batch_size=3, verbose=0), bits, rtol=1e-6)
    assert one_block.bits_per_dim(images[:0], labels[:0], verbose=0).shape == (0,)
    assert one_block.sample(0, [], verbose=0).shape == (0, *SHAPE)


def test_progress_is_shown_unless_it_is_silenced(one_block, capfd):
    one_block.log_prob(images_of(2), [0, 1])
    one_block.sample(1, [0])
    assert "evaluating" in (err := capfd.readouterr().err)
    assert "sampling 1 image" in err
    one_block.log_prob(images_of(2), [0, 1], verbose=0)
    one_block.sample(1, [0], verbose=0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda model: model.log_prob(images_of(2) / 255, [0, 1]), r"uint8 \[N, 8, 8, 3\], not float64 \[2, 8, 8, 3\]"),
        (lambda model: model.log_prob(images_of(2, (8, 9, 3)), [0, 1]), r"not uint8 \[2, 8, 9, 3\]"),
        (lambda model: model.log_prob(images_of(1)[0], [0]), r"not uint8 \[8, 8, 3\]"),
        (lambda model: model.log_prob(images_of(2)), "conditional on 3 classes: give labels"),
        (lambda model: model.log_prob(images_of(2), [0]), r"labels must be integers \[2\], not int64 \[1\]"),
        (lambda model: model.log_prob(images_of(2), [0.0, 1.0]), r"labels must be integers \[2\], not float64 \[2\]"),
        (
            lambda model: model.log_prob(images_of(2), [0, 3]),
            r"image 1 has the label 3, but .* classes 0 to 2",
        ),
        (lambda model: model.sample(2), "conditional on 3 classes: give labels"),
        (lambda model: model.complete(images_of(1), keep_rows=8, labels=[0]), "keep_rows=8 leaves nothing to draw"),
        (
            lambda model: pixel_snail.build("h6_shift", image_shape=SHAPE, nr_filters=6),
            "needs a multiple of 4",
        ),
        (lambda model: model.log_prob("picture.png", [0]), "not a path: read the picture first"),
        (lambda model: model.log_prob(images_of(1), [0], batch_size=0), "batch_size=0 is not a whole number above 0"),
        (lambda model: model.sample(-1, []), "number=-1 is not a whole number, 0 or more"),
        (lambda model: model.sample(1, [0], seed=-3), "seed=-3 is not a whole number"),
        (lambda model: model.sample(1, [0], temperature=-1), "temperature=-1 is not a number, 0 or more"),
        (lambda model: model.sample(1, [0], temperature=float("nan")), "temperature=nan is not a number"),
        (lambda model: model.complete(images_of(1), -1, [0]), "keep_rows=-1 is not a whole number"),
        *(
            (lambda model, mask=mask: model.complete(images_of(2), labels=[0, 1], mask=mask), message)
            for mask, message in (
                (
                    np.ones([2, 8, 8]),
                    r"mask must be booleans \[2, 8, 8\] or \[8, 8\], True where a pixel stays, not float64",
                ),
                (np.full([8, 8], 255, np.uint8), r"not uint8 \[8, 8\]; compare its numbers, as in mask > 127"),
                (np.zeros([8, 9], bool), r"not bool \[8, 9\]$"),
                (np.zeros([3, 8, 8], bool), r"not bool \[3, 8, 8\]$"),
                (np.zeros([1, 8, 8], bool), r"not bool \[1, 8, 8\]; use mask\[0\]"),
                (np.zeros([2, 8, 8, 1], bool), r"not bool \[2, 8, 8, 1\]; use mask\[..., 0\]"),
                ("mask.png", r"not <U8 \[\]$"),
                (np.ones([8, 8], bool), "mask leaves nothing to draw: every pixel is given"),
                (np.ones([2, 8, 8], bool), "mask leaves nothing to draw: every pixel is given"),
            )
        ),
        (
            lambda model: model.complete(images_of(1), 2, [0], mask=np.zeros([8, 8], bool)),
            "mask and keep_rows both say which pixels stay: give one of them",
        ),
        (lambda model: pixel_snail.build(resnet_nonlinearity="gelu", image_shape=SHAPE), "unknown .* 'gelu'; known: c"),
        (
            lambda model: pixel_snail.build(nr_filters=0, image_shape=SHAPE),
            "nr_filters=0 is not a whole number above 0",
        ),
        *(
            (
                lambda model, shape=shape: pixel_snail.build(image_shape=shape),
                r"image_shape must be \(H, W, C\), such as \(28, 28, 1\), not \(?28",
            )
            for shape in ((28,), (28, 28, 0), (28, 28, 1.5), 28)
        ),
        *(
            (
                lambda model, levels=levels: pixel_snail.build(image_shape=SHAPE, levels=levels),
                f"levels={levels} is not a whole number from 2 to 65,536",
            )
            for levels in (1, 65537, 2.5, True)
        ),
        (
            lambda model: pixel_snail.build("h8_noup_smallkey_ar_chs", image_shape=(28, 28, 1)),
            "predicts R, G and B one after another.* 3 channels, not 1: choose another, such as h8_noup_smallkey$",
        ),
        (lambda model: pixel_snail.build("h99", image_shape=SHAPE), "unknown model 'h99'; known: .*h0, "),
        *(
            (
                lambda model, seed=seed: model.initialise(images_of(2), [0, 1], seed=seed),
                f"seed={seed!r} is not a whole n",
            )
            for seed in ("a", 1.5, -1)
        ),
        *(
            (
                lambda model, nr_labels=nr_labels: pixel_snail.load(
                    golden_numbers.checkpoint("h6_shift"),
                    image_shape=SHAPE,
                    nr_labels=nr_labels,
                    model="h6_shift",
                    **SIZES,
                ),
                f"nr_labels={nr_labels!r} is not a whole number above 0",
            )
            for nr_labels in (-1, "10")
        ),
        (lambda model: pixel_snail.build("pxpp", image_shape=(6, 8, 3)), "sides are multiples of 4, not 6 x 8"),
        (lambda model: pixel_snail.load("/nowhere"), "no such folder or checkpoint: /nowhere"),
    ],
)
def test_mistakes_are_value_errors_that_name_arguments(one_block, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(one_block)
    assert isinstance(error.value, pixel_snail.UserError)
    assert "--" not in str(error.value)


@pytest.mark.parametrize("name", ["logistic_mixture", "categorical"])
def test_numbers_of_numpy_are_taken_as_those_of_python(name, monkeypatch):
    """TensorFlow would compute with them in another type."""
    add_spec(monkeypatch, "h1", shallow("h8_noup_smallkey"))
    settings = {"levels": 8, "nr_labels": 2, "seed": 3, "dropout_p": 0.25, **SIZES}
    of_fit = {"polyak_decay": 0.5, "learning_rate": 0.25, "lr_decay": 0.5, "batch_size": 2, "init_batch_size": 4}
    of_sample = {"seed": 5, "temperature": 0.5} | ({"top_k": 4, "top_p": 0.75} if name == "categorical" else {})
    codes, drawn = np.random.default_rng(0).integers(0, 8, [5, 4, 4, 1]), []
    for given in (lambda value: value, lambda value: np.array(value)[()]):
        build, fit, sample = ({k: given(v) for k, v in of.items()} for of in (settings, of_fit, of_sample))
        shape = tuple(given(size) for size in (4, 4))
        model = pixel_snail.build("h1", image_shape=shape, likelihood=name, **build)
        recorded = (model.levels, model.nr_labels, *model.image_shape, model.network.settings["dropout_p"])
        assert [type(value) for value in recorded] == [int] * 5 + [float]
        model.fit(codes, [0, 1, 0, 1, 0], epochs=1, verbose=0, **fit)
        drawn.append(model.sample(3, [0, 1, 1], verbose=0, **sample))
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("shape, levels", [((4, 4, 1), 2), ((4, 3, 2), 1024), ((4, 4, 3), 32)])
def test_images_of_any_channels_and_levels_are_measured_drawn_and_completed(shape, levels, monkeypatch):
    add_spec(monkeypatch, "h0", OneStep)
    model = pixel_snail.build("h0", image_shape=shape, levels=levels, **SIZES)
    images = np.random.default_rng(0).integers(0, levels, [5, *shape])
    model.initialise(images)
    assert f"{shape}, {levels:,} levels>" in repr(model)
    bits = model.bits_per_dim(images, verbose=0)
    np.testing.assert_allclose(model.bits_per_dim_per_channel(images, verbose=0).mean(1), bits, rtol=1e-6)
    np.testing.assert_allclose(-model.log_prob(images, verbose=0), bits * np.log(2) * np.prod(shape), rtol=1e-6)
    nats = np.concatenate(list(model.nats_in_batches(tf.constant(images), batch_size=2, verbose=0)))
    assert nats.shape == images.shape
    np.testing.assert_allclose(nats.sum((1, 2, 3)), -model.log_prob(images, verbose=0), rtol=1e-5)
    drawn = model.draw(9, seed=3, verbose=0)  # more than a batch
    samples = model.sample(9, seed=3, verbose=0)
    assert samples.dtype == (np.uint8 if levels <= 256 else np.uint16)
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(from_values(samples, levels), drawn)
    assert samples.max() < levels
    assert len(np.unique(samples)) > 1
    completed = model.complete(images, keep_rows=2, verbose=0)
    assert completed.dtype == samples.dtype
    np.testing.assert_array_equal(completed[:, :2], images[:, :2])
    assert (completed[:, 2:] != images[:, 2:]).any()
    drawn_anew = model.complete(images, mask=np.zeros(shape[:2], bool), seed=3, verbose=0)
    np.testing.assert_array_equal(drawn_anew, samples[:5])


def test_parameters_that_are_not_finite_are_told(one_block):
    before = one_block.network.trainable_variables[0].numpy()
    one_block.network.trainable_variables[0].assign(before * np.nan)
    try:
        with pytest.raises(ValueError, match="samples are not finite"):
            one_block.sample(1, [0], verbose=0)
        with pytest.raises(ValueError, match="likelihood of images is not finite"):
            one_block.log_prob(images_of(1), [0], verbose=0)
    finally:
        one_block.network.trainable_variables[0].assign(before)


def test_a_gpu_that_is_not_used_is_warned_of_once_where_the_model_is_made(monkeypatch):
    monkeypatch.setattr(devices, "why_no_gpu", lambda: "no CUDA")
    devices.warn_of_an_idle_gpu.cache_clear()
    path = golden_numbers.checkpoint("h6_shift")
    told = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pixel_snail.load(path, model="h6_shift", image_shape=SHAPE, **SIZES)
        told.append([(str(warning.message), warning.filename) for warning in caught])
    assert told == [[("no CUDA", __file__)], []]
    monkeypatch.undo()
    devices.warn_of_an_idle_gpu.cache_clear()


def test_a_leaking_network_warns_once_and_does_not_sample():
    model = pixel_snail.build("h6_noup_hier2", image_shape=SHAPE, **SIZES)
    assert not model.is_causal
    with pytest.warns(UserWarning, match="its bits/dim is not a likelihood"):
        model.log_prob(images_of(1), verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.bits_per_dim(images_of(1), verbose=0)
    for call in (lambda: model.sample(1), lambda: model.complete(images_of(1))):
        with pytest.raises(pixel_snail.UserError, match="it can't sample"):
            call()


def random_network(name, rng, spec=specs.get):
    """A network with parameters all different from initial ones, and its inputs; some are conditional."""
    labels = 3 if name in ("h6_shift", "pxpp") else None
    network = spec(name)(**SIZES).build_for(name, SHAPE, labels)
    for variable in network.trainable_variables:
        variable.assign(variable.numpy() + 0.1 * rng.normal(size=variable.shape))
    x = tf.cast(rng.uniform(-1, 1, [3, *SHAPE]), tf.float32)
    return network, [x] if labels is None else [x, tf.eye(3)]


@pytest.mark.parametrize("name", distinct(specs))
def test_keras_saves_and_loads_every_network_with_the_same_outputs(name, tmp_path, rng, monkeypatch):
    monkeypatch.setitem(specs, name, shallow(name))
    network, inputs = random_network(name, rng)
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    assert loaded.description == network.description
    outputs = (tf.nest.flatten(model(*inputs)) for model in (loaded, network))
    for actual, expected in zip(*outputs, strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", ["h6_shift", "h6_noup_124mix_halfattn", "h8_noup_smallkey_ar_chs", "pxpp"])
def test_an_exported_network_gives_the_same_outputs_for_any_batch_size(name, tmp_path, rng):
    """One of each wiring: shifts, coarse attention, channel-wise outputs, PixelCNN++; some with labels."""
    network, inputs = random_network(name, rng, shallow)
    expected = tf.nest.flatten(network(*inputs))
    network.export(str(tmp_path / "exported"))
    served = tf.saved_model.load(str(tmp_path / "exported"))
    for batch in (1, 3):
        outputs = tf.nest.flatten(served.serve(*(values[:batch] for values in inputs)))
        for actual, wanted in zip(outputs, expected, strict=True):
            # A graph's operations are fused, and round otherwise.
            np.testing.assert_allclose(actual, wanted[:batch], rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_a_checkpoint_of_another_number_of_classes_names_it(one_block, tmp_path):
    optimizer = PolyakAdam()
    optimizer.build(one_block.network.trainable_variables)
    prefix = str(tmp_path / "0" / "params_tiny.ckpt")
    checkpoint.save(prefix, one_block.network, optimizer, {})
    assert pixel_snail.load(prefix).nr_labels == 3
    with pytest.raises(ValueError, match="its number of classes is 3, not 5"):
        pixel_snail.load(prefix, nr_labels=5)


@pytest.mark.parametrize("labels, flags, advice", [(3, [], "is conditional on classes: add"), (None, ["-c"], "drop")])
def test_a_checkpoint_that_does_not_describe_itself_needs_the_right_class_conditional(
    labels, flags, advice, one_block, tmp_path, capfd
):
    network = build_network("h0", SHAPE, labels, **SIZES)
    names = checkpoint.variable_names(network)
    prefix = str(tmp_path / "params_cifar.ckpt")
    tensors = [variable.value for variable in network.trainable_variables]
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
    argv = [f"-r{prefix}", "--model=h0", "-q1", "-n4", "-m2", "--raw", "--skip_test", "--nr_samples=1", f"-o{tmp_path}"]
    assert exit_code(eval_command, [*argv, *flags]) == 2
    assert f"{advice} --class_conditional\n" in capfd.readouterr().err


def test_eval_writes_the_test_set_reads_it_back_and_tells_its_size(run, tmp_path, capsys):
    folder, images = run
    argv = [f"-r{folder}", f"--json={tmp_path}/result.json", f"--compress={tmp_path}/all.snail"]
    assert exit_code(eval_command, argv) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    file = (tmp_path / "all.snail").read_bytes()
    assert result["read_back"] is True
    assert result["bytes_on_disk"] == len(file)
    assert result["bits_per_dim_on_disk"] == 8 * len(file) / images.size
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("on disk"))
    assert row.endswith(f"{len(file):,} bytes, every pixel was read back")
    np.testing.assert_array_equal(pixel_snail.load(folder).decompress(file, verbose=0), images)


def test_eval_tells_when_the_test_set_could_not_be_read_back(run, tmp_path, monkeypatch, capsys):
    folder, _ = run
    decode = ImageCoder.decode
    monkeypatch.setattr(ImageCoder, "decode", lambda *arguments: decode(*arguments) ^ 1)
    argv = [f"-r{folder}", f"--json={tmp_path}/result.json", f"--compress={tmp_path}/all.snail"]
    assert exit_code(eval_command, argv) == 2
    assert json.loads((tmp_path / "result.json").read_text())["read_back"] is False
    told = capsys.readouterr()
    assert "all.snail: images 1 to 5 of 5 can't be decoded here" in told.err
    assert "all.snail does not give back every pixel" in told.err
    assert "NOT read back" in told.out


def test_everything_is_computed_without_tf32_and_the_setting_is_the_users_again_afterwards(one_block, monkeypatch):
    """On newer GPUs, TF32 is TensorFlow's default and would change likelihoods. Without a GPU, the setting is there."""
    tf32, seen = tf.config.experimental.tensor_float_32_execution_enabled, []

    def recorded(owner, name):
        function = getattr(owner, name)

        def call(*arguments, **keywords):
            seen.append((name, tf32()))
            return function(*arguments, **keywords)

        monkeypatch.setattr(owner, name, call)

    recorded(distribution.steps, "initialise")
    recorded(sampling, "uniforms")
    recorded(ImageCoder, "encode")
    recorded(ImageCoder, "decode")
    recorded(Cluster, "gather")
    images, labels, before = images_of(4), np.zeros(4, int), tf32()
    tf.config.experimental.enable_tensor_float_32_execution(True)
    try:
        for _ in one_block.nats_in_batches(images, labels, batch_size=2, verbose=0):
            assert tf32()  # in the user's loop
        one_block.bits_per_dim(images, labels, verbose=0)
        one_block.initialise(images_of(6), np.arange(6) % 3)
        one_block.sample(1, labels[:1], verbose=0)
        one_block.decompress(one_block.compress(images[:1], labels[:1], verify=False, verbose=0), verbose=0)
        assert tf32()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
    assert {name for name, _ in seen} == {"gather", "initialise", "uniforms", "encode", "decode"}
    assert not any(enabled for _, enabled in seen)
