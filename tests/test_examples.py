"""The examples on a few random images: codes, pictures, gradients, scores, mistakes."""

import io
import json
import struct

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from networks import OneStep, add_spec

import data
import pixel_snail
from examples import codes, command, out_of_distribution, two_levels, vq_vae
from pixel_snail.commands import command_line
from pixel_snail.errors import UserError
from pixel_snail.runs import search

rng = np.random.default_rng(0)
TRAIN, TEST = 40, 12
"""How many images there are."""


def idx_file(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx_files(folder, train, test):
    """Writes images [N, 28, 28] in the form of MNIST and Fashion-MNIST; returns the folder."""
    for split, images in (("train", train), ("t10k", test)):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx_file(images))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx_file(np.arange(len(images), dtype=np.uint8) % 10))
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder with random images of 28x28 in the form of Fashion-MNIST."""
    images = rng.integers(0, 256, [TRAIN + TEST, 28, 28], np.uint8)
    return write_idx_files(tmp_path_factory.mktemp("data"), images[:TRAIN], images[TRAIN:])


def run(module, *arguments):
    """Runs a command of an example in this process."""
    module.work(module.parse_flags([str(argument) for argument in arguments]))


def encode(module, data_dir, folder):
    """Fills a folder by `encode`, with a small network; returns it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FILTERS", 4)
        run(module, "encode", f"--data_dir={data_dir}", f"--save_dir={folder}", "--epochs=1")
    return folder


@pytest.fixture(scope="module")
def encoded(data_dir, tmp_path_factory):
    return encode(codes, data_dir, tmp_path_factory.mktemp("codes"))


@pytest.fixture(scope="module")
def model(encoded):
    return command.load_model(encoded, codes.MODEL)


@pytest.fixture(scope="module")
def encoded_in_two_levels(data_dir, tmp_path_factory):
    tf.config.run_functions_eagerly(True)  # tracing would take three seconds; `encoded` was trained as a graph
    try:
        return encode(two_levels, data_dir, tmp_path_factory.mktemp("two_levels"))
    finally:
        tf.config.run_functions_eagerly(False)


def test_encode_writes_codes_and_labels_of_all_images_in_their_order(encoded, data_dir, model):
    arrays = np.load(encoded / "codes.npz")
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
        "train": ((TRAIN, 7, 7), np.uint8),
        "test": ((TEST, 7, 7), np.uint8),
        "train_labels": ((TRAIN,), np.uint8),
        "test_labels": ((TEST,), np.uint8),
    }
    images, labels = command.fashion_mnist(data_dir)
    for split in ("train", "test"):
        np.testing.assert_array_equal(arrays[f"{split}_labels"], labels[f"{split}_labels"])
        np.testing.assert_array_equal(arrays[split], codes.codes_of(model, images[split]))
        assert arrays[split].max() < 128
    assert len(np.unique(arrays["train"])) > 32  # of the 128 codes, many are used


def test_the_images_of_an_images_codes_are_the_models_reconstruction(model):
    images = rng.random([5, 28, 28, 1], np.float32)
    reconstructions = codes.images_of(model, codes.codes_of(model, images))
    np.testing.assert_allclose(reconstructions, model(images), atol=1e-5)
    assert reconstructions.shape == images.shape and 0 <= reconstructions.min() < reconstructions.max() <= 1


@pytest.mark.parametrize("shape", [(7, 7), (7, 7, 1)])
def test_decode_writes_a_grid_of_enlarged_images(shape, encoded, model, tmp_path):
    maps = rng.integers(0, 128, [5, *shape])
    np.save(tmp_path / "maps.npy", maps)
    run(
        codes, "decode", f"--save_dir={encoded}", tmp_path / "maps.npy", f"--picture={tmp_path}/grid.png", "--columns=3"
    )
    picture = np.asarray(PIL.Image.open(tmp_path / "grid.png"))
    assert picture.shape == (2 * 84, 3 * 84)
    assert (picture[84:, 168:] == 255).all()  # the last place is empty
    expected = codes.images_of(model, maps.reshape(-1, 7, 7))[1, ..., 0]
    np.testing.assert_allclose(picture[:84:3, 84:168:3] / 255, expected, atol=0.5 / 255 + 1e-5)
    np.testing.assert_array_equal(picture[:84:3], picture[2:84:3])


def test_the_gradient_passes_through_the_codebook_unchanged():
    quantizer = vq_vae.VectorQuantizer(16, commitment=0.0)
    vectors = tf.constant(rng.normal(size=[3, 2, 2, 8]).astype(np.float32))
    factors = rng.normal(size=vectors.shape).astype(np.float32)
    quantizer(vectors, training=True)  # gives the codes their first values
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(vectors)
        quantized, unit = quantizer(vectors), tf.math.l2_normalize(vectors, axis=-1)
        through, without = tf.reduce_sum(quantized * factors), tf.reduce_sum(unit * factors)
    assert np.abs(quantized - unit).max() > 0.1
    np.testing.assert_allclose(tape.gradient(through, vectors), tape.gradient(without, vectors), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("module", "side"), [(codes, 28), (two_levels, 32)], ids=["codes", "two levels"])
def test_the_error_of_the_images_has_a_gradient_for_every_weight_of_encoder_and_decoder(module, side, monkeypatch):
    monkeypatch.setattr(module, "FILTERS", 8)
    network = module.build()
    images = rng.random([2, side, side, 1], np.float32)
    network(images, training=True)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(network(images) - images))
    gradients = tape.gradient(loss, network.trainable_variables)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


def test_codes_that_stand_for_no_vectors_begin_anew_where_codes_fit_badly():
    """At first, all vectors are the same; later, a few have four other directions, and each of these gets a code."""
    directions = np.eye(5, dtype=np.float32)
    quantizer = vq_vae.VectorQuantizer(8, decay=0.5)
    quantizer(directions.repeat([256, 0, 0, 0, 0], axis=0)[:, None, None], training=True)
    for _ in range(40):
        quantizer(directions.repeat([240, 4, 4, 4, 4], axis=0)[:, None, None], training=True)
    nearest = np.asarray(quantizer.vectors(quantizer.codes(directions)))
    np.testing.assert_allclose(nearest, directions, atol=1e-3)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros([2, 6, 7], int), r"has int64 \[2, 6, 7\], not codes: give integers \[N, 7, 7\] or \[N, 7, 7, 1\]"),
        (np.zeros([0, 7, 7], int), r"has int64 \[0, 7, 7\], not codes"),
        (np.zeros([2, 7, 7]), r"has float64 \[2, 7, 7\], not codes"),
        (np.array(5), r"has int64 \[\], not codes"),
        (np.arange(98).reshape(2, 7, 7) + 31, "image 1 has the value 128 at row 6, column 6, but codes are from 0"),
    ],
)
def test_what_are_no_codes_is_refused_in_a_line(maps, message, encoded, tmp_path):
    np.save(tmp_path / "maps.npy", maps)
    with pytest.raises(UserError, match=message):
        run(codes, "decode", f"--save_dir={encoded}", tmp_path / "maps.npy", f"--picture={tmp_path}/grid.png")
    assert not (tmp_path / "grid.png").exists()


def test_a_missing_or_broken_file_is_named(encoded, tmp_path):
    np.save(tmp_path / "maps.npy", np.zeros([1, 7, 7], int))

    def decode(maps, save_dir, picture="grid.png"):
        run(codes, "decode", f"--save_dir={save_dir}", tmp_path / maps, f"--picture={tmp_path / picture}")

    with pytest.raises(UserError, match=r"can't read .*none\.npy: No such file"):
        decode("none.npy", encoded)
    with pytest.raises(UserError, match=r"there is no file .*vq_vae\.keras: write it with the command encode"):
        decode("maps.npy", tmp_path)
    (tmp_path / "vq_vae.keras").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"vq_vae\.keras is not a VQ-VAE that can be read"):
        decode("maps.npy", tmp_path)
    with pytest.raises(UserError, match=r"can't write --picture=.*: it is a folder"):
        decode("maps.npy", encoded, picture=".")
    with pytest.raises(UserError, match=r"maps\.npy is a file: give --data_dir the folder"):
        run(codes, "encode", f"--data_dir={tmp_path}/maps.npy", f"--save_dir={tmp_path}")


def test_encode_writes_the_codes_of_both_levels_and_the_upper_ones_as_conditions_of_the_lower(
    encoded_in_two_levels, data_dir
):
    upper, lower, alone = (np.load(encoded_in_two_levels / f"{name}.npz") for name in ("upper", "lower", "lower_alone"))
    assert set(lower) == {*upper, "train_condition", "test_condition"} and set(alone) == set(upper)
    model = command.load_model(encoded_in_two_levels, two_levels.MODEL)
    images, labels = command.fashion_mnist(data_dir, side=32)
    for split, number in (("train", TRAIN), ("test", TEST)):
        assert (upper[split].shape, lower[split].shape) == ((number, 4, 4), (number, 8, 8))
        for codes_of_level, expected in zip((upper, lower), two_levels.codes_of(model, images[split]), strict=True):
            np.testing.assert_array_equal(codes_of_level[split], expected)
            assert codes_of_level[split].dtype == np.uint8 and codes_of_level[split].max() < 128
        np.testing.assert_array_equal(lower[f"{split}_condition"], upper[split])
        np.testing.assert_array_equal(alone[split], lower[split])
        for arrays in (upper, lower, alone):
            np.testing.assert_array_equal(arrays[f"{split}_labels"], labels[f"{split}_labels"])
    reconstructions = two_levels.images_of(model, upper["test"], lower["test"])
    np.testing.assert_allclose(reconstructions, model(images["test"]), atol=1e-5)


def test_images_get_a_black_margin_of_equal_width_on_all_sides(data_dir):
    inner, padded = (command.fashion_mnist(data_dir, side)[0]["test"] for side in (28, 32))
    np.testing.assert_array_equal(padded[:, 2:-2, 2:-2], inner)
    assert padded.shape == (TEST, 32, 32, 1) and padded.sum(dtype=float) == inner.sum(dtype=float)


def test_codes_of_two_levels_are_decoded_together_as_many_of_both(encoded_in_two_levels, tmp_path):
    for name, shape in (("upper", (3, 4, 4)), ("lower", (3, 8, 8)), ("few", (2, 8, 8))):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 128, shape))

    def decode(upper, lower):
        paths = [f"--upper={tmp_path}/{upper}.npy", f"--lower={tmp_path}/{lower}.npy", f"--picture={tmp_path}/grid.png"]
        run(two_levels, "decode", f"--save_dir={encoded_in_two_levels}", *paths)

    with pytest.raises(UserError, match=r"upper\.npy has 3 maps, but .*few\.npy 2: give as many of both"):
        decode("upper", "few")
    with pytest.raises(UserError, match=r"upper\.npy has int64 \[3, 4, 4\], not codes: give integers \[N, 8, 8\]"):
        decode("upper", "upper")
    decode("upper", "lower")
    assert PIL.Image.open(tmp_path / "grid.png").size == (3 * 96, 96)  # columns without images are left out


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with checkpoints of networks for 28x28 images: model, background, and a conditional one."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        add_spec(patch, "h0", OneStep)
        for seed, name in enumerate(("model", "background", "conditional")):
            given = (np.arange(8) % 2,) if name == "conditional" else ()
            nr_labels = 2 if given else None
            small = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2, "nr_labels": nr_labels}
            network = pixel_snail.build("h0", image_shape=(28, 28, 1), seed=seed, **small)
            network.initialise(rng.integers(0, 256, [8, 28, 28, 1], np.uint8), *given)
            network.save(folder / name / "params.ckpt")
        yield folder


def test_the_scores_of_two_data_sets_and_their_areas_are_those_of_python(checkpoints, data_dir, tmp_path, capsys):
    flat = np.full([TEST, 28, 28], np.arange(TEST, dtype=np.uint8)[:, None, None])
    other_dir = write_idx_files(tmp_path, flat, flat)
    arguments = [f"--{name}={checkpoints / name}" for name in ("model", "background")]
    arguments += [f"--data_dir={data_dir}", f"--other_dir={other_dir}", "--number=5"]
    run(out_of_distribution, *arguments, f"--picture={tmp_path}/scores", f"--json={tmp_path}/scores.json")
    result = json.loads((tmp_path / "scores.json").read_text())
    assert [result[name] for name in ("model", "background")] == [
        f"{checkpoints}/{name}/params.ckpt" for name in ("model", "background")
    ]
    assert (result["data_set"], result["other_data_set"]) == ("fashion_mnist", "mnist")
    assert (result["images"], result["other_images"]) == (5, 5)
    model, background = (pixel_snail.load(checkpoints / name) for name in ("model", "background"))
    of_set = np.uint8(np.round(command.fashion_mnist(data_dir)[0]["test"] * 255))
    for key, images in (("scores", of_set), ("other_scores", flat[..., None])):
        images = images[[0, 3, 6, 8, 11]]  # evenly spaced
        log_prob = model.log_prob(images, verbose=0)
        ratio = pixel_snail.likelihood_ratio(model, background).score(images, verbose=0)
        files = [io.BytesIO() for _ in images]
        for image, file in zip(images, files, strict=True):
            PIL.Image.fromarray(image[..., 0]).save(file, "PNG", optimize=True)
        bits = np.array([8 * len(file.getvalue()) for file in files])
        expected = {"log_likelihood": log_prob, "likelihood_ratio": ratio, "complexity": bits + log_prob / np.log(2)}
        assert result[key].keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(result[key][name], values, rtol=1e-6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-6] == f"inside the distribution: 5 test images of fashion_mnist in {data_dir}"
    assert lines[-5] == f"outside the distribution: 5 test images of mnist in {other_dir}"
    assert lines[-4].split() == ["AUROC", "std.", "error", "mean", "inside", "mean", "outside"]
    for line, name in zip(lines[-3:], result["auroc"], strict=True):
        area, stderr = out_of_distribution.auroc(*(np.array(result[key][name]) for key in ("scores", "other_scores")))
        assert (result["auroc"][name], result["auroc_stderr"][name]) == (area, stderr)
        mean, other = (f"{np.mean(result[key][name]):,.2f}" for key in ("scores", "other_scores"))
        assert line.split()[-4:] == [f"{area:.4f}", f"{stderr:.4f}", mean, other]
    assert np.asarray(PIL.Image.open(tmp_path / "scores", formats=["PNG"])).std() > 0


def test_an_auroc_is_the_share_of_pairs_that_are_ranked_rightly_and_its_error_is_that_of_repetitions():
    """The slow version compares all pairs; the error is compared with the spread over 2,000 repetitions."""
    for inside, outside in (
        (rng.normal(1, 2, 7), rng.normal(0, 1, 11)),
        (rng.integers(0, 4, 30), rng.integers(1, 5, 20)),  # with many ties
        (np.ones(3), np.ones(2)),
        (np.arange(3.0), -np.ones(4)),
    ):
        pairs = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
        area, stderr = out_of_distribution.auroc(inside, outside)
        assert area == pytest.approx(pairs.mean())
        variances = pairs.mean(1).var(ddof=1) / len(inside) + pairs.mean(0).var(ddof=1) / len(outside)
        assert stderr == pytest.approx(np.sqrt(variances))
    found = np.array([out_of_distribution.auroc(rng.normal(1, 1, 40), rng.normal(0, 2, 60)) for _ in range(2000)])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.1)
    # Of two normal distributions, Phi(1 / sqrt(1 + 4)).
    assert found[:, 0].mean() == pytest.approx(0.672640, abs=5 * found[:, 0].std() / np.sqrt(2000))


def test_test_images_take_the_size_the_colour_and_the_levels_of_the_model(data_dir, tmp_path):
    (tmp_path / "test").mkdir()
    pictures = rng.integers(0, 256, [3, 40, 36, 3], np.uint8)
    for i, picture in enumerate(pictures):
        PIL.Image.fromarray(picture).save(tmp_path / "test" / f"{i}.png")
    found = out_of_distribution.test_images("folder", str(tmp_path), {}, (28, 20, 1), 256)
    expected = [np.asarray(PIL.Image.fromarray(picture).convert("L"))[6:34, 8:28, None] for picture in pictures]
    np.testing.assert_array_equal(found, expected)
    whole = out_of_distribution.test_images("mnist", str(data_dir), {}, (28, 28, 1), 256)
    reduced = out_of_distribution.test_images("mnist", str(data_dir), {}, (28, 28, 1), 32, number=100)
    np.testing.assert_array_equal(reduced, whole // 8)
    assert len(whole) == TEST


def test_dark_arrays_are_binarized_with_the_levels_of_the_models_run(tmp_path):
    path = tmp_path / "dark.npz"
    np.savez(path, test=rng.integers(0, 200, [5, 8, 8, 1], np.uint8))
    options = {"binarize": True, "levels": 256}
    found = out_of_distribution.test_images("arrays", str(path), options, (8, 8, 1), 2)
    np.testing.assert_array_equal(found, data.load("arrays", path, only_test=True, **options).test.images[:])


def test_a_model_of_two_levels_whose_run_says_nothing_of_them_is_told_how_images_are_cut(data_dir, capsys):
    for options, is_told in (({}, True), ({"levels": 2}, False), ({"binarize": True}, False)):
        out_of_distribution.test_images("mnist", str(data_dir), options, (28, 28, 1), 2)
        assert ("recorded no --binarize" in capsys.readouterr().out) == is_told


def test_images_are_binarized_and_downsampled_as_those_of_the_models_run_were(data_dir, tmp_path):
    binarized = out_of_distribution.test_images("mnist", str(data_dir), {"binarize": True}, (28, 28, 1), 2)
    expected = data.load("mnist", data_dir, binarize=True).test.images
    np.testing.assert_array_equal(binarized, expected[:])
    black_or_white = np.uint8(expected[:] > 0)
    np.savez(tmp_path / "binary.npz", test=black_or_white)
    found = out_of_distribution.test_images("arrays", f"{tmp_path}/binary.npz", {"binarize": True}, (28, 28, 1), 2)
    np.testing.assert_array_equal(found, black_or_white)
    (tmp_path / "test").mkdir()
    picture = rng.integers(0, 256, [40, 40, 3], np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "test" / "0.png")
    PIL.Image.fromarray(picture).save(tmp_path / "test" / "1.png")
    folder = tmp_path / "run"
    (folder / "10").mkdir(parents=True)
    run = command_line.MODEL_DEFAULTS | command_line.DATA_DEFAULTS | {"data_set": "folder", "downsample": True}
    (folder / "flags.json").write_text(json.dumps(run))
    network = pixel_snail.build("pxpp", image_shape=(12, 12, 3), nr_filters=4, nr_resnet=1, nr_logistic_mix=1)
    network.initialise(rng.integers(0, 256, [2, 12, 12, 3], np.uint8))
    network.save(folder / "10" / "params_folder.ckpt")
    options = out_of_distribution.options_of(search.find(str(folder)), "folder")
    found = out_of_distribution.test_images("folder", str(tmp_path), options, (12, 12, 3), 256)
    expected = data.load("folder", tmp_path, only_test=True, **options | {"image_size": 12}).test.images
    np.testing.assert_array_equal(found, expected[:])
    assert (found[0] != picture[14:26, 14:26]).any()
    assert not out_of_distribution.options_of(search.find(str(folder)), "mnist")["downsample"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"background": "conditional"}, "--background is conditional, but images out of the distribution have no labe"),
        (
            {"other_data_set": "photos"},
            r"the images of photos are \(32, 32, 3\), but those of model \(28, 28, 1\): give",
        ),
        (
            {"background": "model/params.ckpt"},
            r"are the same checkpoint, .*model/params\.ckpt: a folder means the newest",
        ),
        ({"other_data_set": "fashion_mnist"}, r"both data sets are fashion_mnist in .*: give another --other_data_s"),
        ({"other_data_set": "mnits"}, "unknown data set 'mnits'; known: arrays, cifar, "),
        ({"number": 1}, "1 test image of fashion_mnist is too few: a standard error needs two"),
        ({"json": "model"}, "can't write --json=.*: it is a folder"),
        ({"skip_bad": True}, "--skip_bad is neither for fashion_mnist nor for mnist: leave it out"),
    ],
)
def test_sets_and_networks_that_give_no_scores_are_refused_in_a_line(arguments, message, checkpoints, data_dir):
    given = {"model": "model", "background": "background"} | arguments
    paths = {name: checkpoints / given[name] for name in ("model", "background", "json") if name in given}
    flags = {"data_dir": data_dir, "other_dir": data_dir} | given | paths
    with pytest.raises(UserError, match=message):
        run(out_of_distribution, *(f"--{name}" + f"={value}" * (value is not True) for name, value in flags.items()))
