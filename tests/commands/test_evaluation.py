"""Images to complete, their given pixels, and classes, as eval.py reads them, and errors for wrong ones."""

import io
import json
import os
import re
import shutil
import threading

import numpy as np
import PIL.Image
import pytest
from networks import OneStep, add_spec

import data
import eval as eval_command
import golden_numbers
import pixel_snail
import train as train_command
from pixel_snail import checkpoint, sampling
from pixel_snail.codec import archive
from pixel_snail.commands import drawing
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError
from pixel_snail.inputs import masks
from pixel_snail.likelihoods.levels import from_values, to_values
from pixel_snail.model import specs
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.parallel import memory
from pixel_snail.reports import table
from pixel_snail.storage.reductions import BINARIZED

SHAPE = (6, 4, 3)


def test_images_to_complete_are_read_from_pictures_grids_and_arrays(tmp_path, rng):
    images = rng.integers(0, 256, [6, *SHAPE], np.uint8)
    expected = (images / 127.5 - 1).astype(np.float32)
    grid = images.reshape(2, 3, *SHAPE).swapaxes(1, 2).reshape(2 * 6, 3 * 4, 3)
    PIL.Image.fromarray(grid).save(tmp_path / "grid.png")
    PIL.Image.fromarray(images[0]).save(tmp_path / "one.png")
    np.save(tmp_path / "bytes.npy", images)
    np.save(tmp_path / "samples.npy", expected)
    np.save(tmp_path / "one.npy", images[0])
    for name, number in (("grid.png", 6), ("one.png", 1), ("bytes.npy", 6), ("samples.npy", 6), ("one.npy", 1)):
        actual, remark = drawing.images_to_complete(str(tmp_path / name), SHAPE, resize=False)
        assert ("cut into a grid of 3 x 2 images" in remark) == (name == "grid.png")
        np.testing.assert_allclose(actual, expected[:number], atol=1e-6, err_msg=name)
        assert actual.dtype == np.float32


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "a.png",
            np.zeros([5, 4, 3], np.uint8),
            "a.png has 4 x 5 pixels, but .* 4 x 6: --resize enlarges it",
        ),
        ("a.npy", np.full([6, 4, 3], 0.5), "it is unclear whether black is 0 or -1"),
        ("a.npy", np.zeros([2, 6, 5, 3], np.uint8), r"an array \(2, 6, 5, 3\), not of images \(6, 4, 3\)"),
        ("a.npy", np.zeros([6, 4], np.uint8), "not of images"),
        ("a.npy", np.full([6, 4, 3], 7.0), "neither 8-bit nor in"),
        ("a.npy", np.full([6, 4, 3], np.nan), "neither 8-bit nor in"),
        ("a.npy", np.array([{}]), "is not an array that can be read"),
        ("a.npy", b"not an array", "is not an array that can be read"),
        ("a.png", b"not a picture", "is not a PNG, JPEG or WebP picture"),
        ("a.npy", None, "can't read .*No such file"),
        ("a.png", None, "there is no file"),
    ],
)
def test_other_files_are_refused_in_one_line(name, content, message, tmp_path):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None and name.endswith("png"):
        PIL.Image.fromarray(content).save(path)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match=message) as error:
        drawing.images_to_complete(str(path), SHAPE, resize=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("channels, levels", [(1, 2), (1, 256), (1, 1024), (2, 16), (3, 32), (4, 65_536)])
def test_arrays_of_any_kind_are_read_as_values_or_as_numbers_on_their_grid(channels, levels, tmp_path, rng):
    shape = (6, 4, channels)
    values = rng.integers(0, levels, [3, *shape])
    arrays = {"values": values.astype(np.uint16), "int64": values, "samples": from_values(values, levels)}
    arrays |= {"double": arrays["samples"].astype(np.float64), "one": values[0]}
    if channels == 1:
        arrays |= {"flat": values[..., 0], "one flat": values[0, ..., 0]}
    if levels == 2:
        arrays["bool"] = values.astype(bool)
    for name, array in arrays.items():
        np.save(tmp_path / "a.npy", array)
        images, remark = drawing.images_to_complete(str(tmp_path / "a.npy"), shape, levels=levels)
        assert (images.dtype, remark) == (np.float32, "")
        np.testing.assert_array_equal(images, from_values(values[: len(images)], levels), err_msg=name)
        assert len(images) == (1 if name.startswith("one") else 3)


def with_value(value, shape=(2, 6, 4, 1), dtype=np.int64):
    images = np.zeros(shape, dtype)
    images[1, 5, 2, 0] = value
    return images


@pytest.mark.parametrize(
    "images, channels, levels, message",
    [
        (
            with_value(2),
            1,
            2,
            "image 1 has the value 2 at row 5, column 2, channel 0, but .* are from 0 to 1: save",
        ),
        (with_value(-1), 1, 256, "image 1 has the value -1 at row 5, column 2, channel 0, but .* from 0 to 255: save"),
        (with_value(0.25, dtype=float) - 1, 1, 3, "image 1 has -0.75 at row 5, .* none of the network's 3 levels in"),
        (
            np.full([6, 4, 1], 0.5),
            1,
            3,
            r"it is unclear .* save integers from 0 to 2, such as np.uint8\(np.round\(2 \*",
        ),
        (np.full([6, 4, 1], np.nan), 1, 300, "neither from 0 to 299 nor in"),
        (np.ones([6, 4, 1], bool), 1, 4, "a.npy has bool values that are neither from 0 to 3 nor in"),
        (np.zeros([6, 4, 3], np.uint8), 1, 2, r"an array \(6, 4, 3\), not of images \(6, 4, 1\)"),
        (np.zeros([2, 6, 4], np.uint8), 2, 2, r"an array \(2, 6, 4\), not of images \(6, 4, 2\)"),
    ],
)
def test_arrays_with_other_values_are_refused_in_one_line(images, channels, levels, message, tmp_path):
    np.save(tmp_path / "a.npy", images)
    with pytest.raises(UserError, match=message) as error:
        drawing.images_to_complete(str(tmp_path / "a.npy"), (6, 4, channels), levels=levels)
    assert "\n" not in str(error.value)


def test_pictures_become_grey_and_get_the_networks_levels_and_that_is_said(tmp_path, rng):
    picture = rng.integers(0, 256, [6, 8, 3], np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "a.png")
    grey = np.asarray(PIL.Image.fromarray(picture).convert("L"))
    PIL.Image.fromarray(grey).save(tmp_path / "grey.png")
    remarks = {
        ("a.png", 256): "turned to grey, then cut into a grid of 2 x 1 images of 4 x 6 pixels; --resize takes the pict",
        ("a.png", 2): "turned to grey, then reduced to 2 levels, then cut into a grid of 2 x 1 images of 4 x 6 pixels;",
        ("grey.png", 256): "cut into a grid of 2 x 1",
        ("grey.png", 5): "reduced to 5 levels, then cut into a grid",
    }
    for (name, levels), expected in remarks.items():
        images, remark = drawing.images_to_complete(str(tmp_path / name), (6, 4, 1), levels=levels)
        assert remark.startswith(expected)
        tiles = np.stack([grey[:, :4], grey[:, 4:]])[..., None]
        np.testing.assert_array_equal(to_values(images, levels), tiles.astype(int) * levels // 256)
    images, remark = drawing.images_to_complete(str(tmp_path / "a.png"), (5, 8, 3), levels=32)
    assert remark == "reduced to 32 levels, then cropped from 8 x 6 to the 8 x 5 pixels in its middle"
    np.testing.assert_array_equal(to_values(images, 32)[0], picture[:5] // 8)
    for shape, levels in (((6, 4, 2), 256), ((6, 4, 3), 300)):
        with pytest.raises(UserError, match=r"1 or 3 channels and at most 256 levels, but .*: give an \.npy file"):
            drawing.images_to_complete(str(tmp_path / "a.png"), shape, levels=levels)


def test_some_rows_must_be_left_to_draw():
    for keep_rows, expected in ((None, 3), (0, 0), (5, 5)):
        is_given = masks.given_pixels(2, SHAPE, keep_rows)
        assert is_given[:, :expected].all() and not is_given[:, expected:].any()
        assert is_given.shape == (2, 6, 4)
    with pytest.raises(UserError, match="keep_rows=6 leaves nothing to draw: images have 6 rows"):
        masks.given_pixels(2, SHAPE, 6)


def test_masks_are_read_from_pictures_grids_and_arrays(tmp_path, rng):
    expected = rng.random([6, 6, 4]) < 0.5
    grid = np.uint8(255) * expected.reshape(2, 3, 6, 4).swapaxes(1, 2).reshape(2 * 6, 3 * 4)
    PIL.Image.fromarray(grid).save(tmp_path / "grid.png")
    PIL.Image.fromarray(grid).convert("1").save(tmp_path / "1_bit.png")
    PIL.Image.fromarray(grid).convert("RGB").save(tmp_path / "grid.webp", lossless=True)
    PIL.Image.fromarray(expected[0]).save(tmp_path / "one.png")
    np.save(tmp_path / "each.npy", expected)
    np.save(tmp_path / "one.npy", expected[0])
    np.save(tmp_path / "one_of_one.npy", expected[:1])
    for name in ("grid.png", "1_bit.png", "grid.webp", "each.npy"):
        np.testing.assert_array_equal(masks.read(str(tmp_path / name), 6, SHAPE), expected, err_msg=name)
    for name in ("one.png", "one.npy", "one_of_one.npy"):
        for_all = np.repeat(expected[:1], 5, axis=0)
        np.testing.assert_array_equal(masks.read(str(tmp_path / name), 5, SHAPE), for_all, err_msg=name)


def picture_with(value):
    picture = np.zeros(SHAPE, np.uint8)
    picture[2:] = 255
    picture[4, 3] = value
    return picture


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "a.png",
            np.zeros([5, 4, 3], np.uint8),
            "a.png has 4 x 5 pixels, but a mask has 4 x 6, as the network's images: ",
        ),
        ("a.png", np.zeros([9, 6, 3], np.uint8), "has 6 x 9 pixels, but a mask has 4 x 6, .* or a grid of such masks$"),
        (
            "a.png",
            np.zeros([12, 4, 3], np.uint8),
            "a.png has 2 masks for 3 images: give one mask for all images, or one",
        ),
        (
            "a.png",
            picture_with(254),
            r"the RGB value \(254, 254, 254\) at row 4, column 3, but .*: save a PNG of",
        ),
        ("a.png", picture_with([255, 0, 0]), r"the RGB value \(255, 0, 0\) at row 4, column 3, but a mask is white "),
        ("a.jpg", picture_with(0), r"the RGB value \(\d+, \d+, \d+\) at row \d, .* because JPEG changes colours$"),
        ("a.npy", np.zeros([6, 4], np.uint8), r"an array \(6, 4\) of uint8, not of booleans \(6, 4\) or \(N, 6, 4\): "),
        (
            "a.npy",
            np.zeros([3, 6, 5], bool),
            r"an array \(3, 6, 5\) of bool, not of booleans \(6, 4\) or \(N, 6, 4\): ",
        ),
        ("a.npy", np.zeros([3, 6, 4, 1], bool), r"an array \(3, 6, 4, 1\) of bool, not of booleans"),
        ("a.npy", np.zeros([0, 6, 4], bool), "a.npy has 0 masks for 3 images"),
    ],
)
def test_other_masks_are_refused_in_one_line(name, content, message, tmp_path):
    path = tmp_path / name
    np.save(path, content) if name.endswith("npy") else PIL.Image.fromarray(content).save(path)
    with pytest.raises(UserError, match=message) as error:
        masks.read(str(path), 3, SHAPE)
    assert "\n" not in str(error.value)


def test_a_larger_picture_is_cropped_in_the_middle_or_resized_and_that_is_said(tmp_path, rng):
    picture = rng.integers(0, 256, [13, 8, 3], np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "a.png")
    images, remark = drawing.images_to_complete(str(tmp_path / "a.png"), SHAPE, resize=False)
    np.testing.assert_allclose(images[0] * 127.5 + 127.5, picture[3:9, 2:6], atol=1e-4)
    assert remark == "cropped from 8 x 13 to the 4 x 6 pixels in its middle"
    images, remark = drawing.images_to_complete(str(tmp_path / "a.png"), SHAPE, resize=True)
    assert images.shape == (1, *SHAPE)
    assert remark == "resized from 8 x 13 to 4 x 6 pixels"
    PIL.Image.fromarray(picture[:6]).save(tmp_path / "grid.png")  # 8 x 6: two images, but for --resize one
    images, remark = drawing.images_to_complete(str(tmp_path / "grid.png"), SHAPE, resize=True)
    np.testing.assert_allclose(images[0] * 127.5 + 127.5, picture[:6, 2:6], atol=1e-4)
    assert remark == "cropped from 8 x 6 to the 4 x 6 pixels in its middle"


def test_classes_of_samples_and_completions():
    assert drawing.classes_to_draw([2, 0], 4, nr_labels=3).tolist() == [2, 2, 0, 0]
    assert drawing.classes_to_draw(None, 3, nr_labels=3).tolist() == [0, 1, 2]
    assert drawing.classes_to_draw(None, 3, nr_labels=None) is None
    assert drawing.classes_of_images([1], 2, nr_labels=3).tolist() == [1, 1]
    assert drawing.classes_of_images([1, 0], 2, nr_labels=3).tolist() == [1, 0]
    for classes in (None, [0, 1, 2]):
        with pytest.raises(UserError, match="name one class for all images, or one for each"):
            drawing.classes_of_images(classes, 2, nr_labels=3)


def test_classes_are_given_by_number_or_name():
    assert drawing.class_numbers(["2", "cat"], 3, ("cat", "dog", "owl")) == [2, 0]
    assert drawing.class_numbers(["e\N{COMBINING ACUTE ACCENT}"], 2, ("z", "é")) == [1]
    assert drawing.class_numbers(["é"], 2, ("z", "e\N{COMBINING ACUTE ACCENT}")) == [1]
    assert drawing.class_numbers(None, None, None) is None
    with pytest.raises(UserError, match="--classes is for class-conditional networks, and this one is not"):
        drawing.class_numbers(["1"], None, None)
    with pytest.raises(UserError, match="there is no class 3, the last is 2"):
        drawing.class_numbers(["3"], 3, None)


def nats_of(number):
    return np.random.default_rng(0).uniform(1, 9, [number, 3])


@pytest.mark.parametrize("number", [1, 3, 12])
@pytest.mark.parametrize("named", [False, True])
def test_the_result_names_the_images_with_the_most_bits_first(number, named):
    names = [f"é\n{i}.png" for i in range(number)] if named else None
    told = {"data_set": "folder", "source": "", "model": "h", "load_params": "", "unverified": None}
    told |= {"likelihood": "logistic_mixture"}
    told |= {"levels": 256, "reduction": None}
    switches = {"averaged": True, "causal": True, "class_conditional": False}
    figures = table.result(nats_of(number), SHAPE, **told, **switches, names=names, age=None)
    assert figures["names"] == names
    bits = nats_of(number).sum(1) / np.log(2) / 72
    expected = [[names[i] if named else i, bits[i]] for i in sorted(range(number), key=lambda i: -bits[i])]
    assert [name for name, _ in figures["worst_first"]] == [name for name, _ in expected]
    np.testing.assert_allclose([value for _, value in figures["worst_first"]], [value for _, value in expected])
    assert json.loads(json.dumps(figures)) == figures
    lines = table.table(figures | {"files_bits_per_dim": {}}).splitlines()
    kind = "the 10 images with the most bits/dim" if number > 10 else "all images, the most bits/dim first"
    start = lines.index(f"{kind}{'' if named else ' (by number, from 0)'}:") + 1
    for line, (name, value) in zip(lines[start:], expected[:10], strict=False):
        assert line.split() == [str(name).replace("\n", "\\n"), f"{value:.4f}"]
    assert lines[start + min(number, 10)] == ""


def test_eval_takes_all_new_pictures_and_tells_the_bits_of_each_by_its_name(tmp_path, capsys, monkeypatch, rng):
    add_spec(monkeypatch, "h0", OneStep)
    model = pixel_snail.build("h0", image_shape=(8, 8, 3), nr_filters=4, nr_resnet=1, nr_logistic_mix=2)
    optimizer = PolyakAdam()
    optimizer.build(model.network.trainable_variables)
    checkpoint.save(str(tmp_path / "run" / "0" / "params_folder.ckpt"), model.network, optimizer, {})
    given = ["--data_set=folder", "--image_size=8", "--model=h0", "-q1", "-n4", "-m2", f"--cache_dir={tmp_path}/cache"]
    (tmp_path / "run" / "flags.json").write_text(json.dumps(vars(train_command.parse_flags(given))))
    (tmp_path / "new" / "train").mkdir(parents=True)
    images = rng.integers(0, 256, [6, 8, 8, 3], np.uint8)
    not_utf_8 = os.fsdecode(b"\xff")
    for image, name in zip(images, ("a", "b", "é", "train/c", "train/d", not_utf_8), strict=True):
        PIL.Image.fromarray(image).save(tmp_path / "new" / f"{name}.png")
    argv = [f"-r{tmp_path}/run", "--data_set=folder", f"-i{tmp_path}/new", f"--json={tmp_path}/result.json", "-b5"]
    with pytest.raises(SystemExit) as exit_:
        eval_command.main([*argv, "--test_folder=."])
    assert exit_.value.code == 0
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    assert '"é.png"' in text and r'"\udcff.png"' in text
    figures = json.loads(text)
    names, order = ["a.png", "b.png", "train/c.png", "train/d.png", "é.png", f"{not_utf_8}.png"], [0, 1, 3, 4, 2, 5]
    assert figures["names"] == names
    bits = pixel_snail.load(tmp_path / "run").bits_per_dim(images[order], verbose=0)
    np.testing.assert_allclose(figures["bits_per_dim_per_image"], bits, rtol=1e-5)
    assert dict(figures["worst_first"]) == dict(zip(names, figures["bits_per_dim_per_image"], strict=True))
    printed = capsys.readouterr().out
    assert "bits/dim on 6 of 6 test images of folder" in printed
    assert all(f"  {name} " in printed for name in names[:-1])
    assert (tmp_path / "cache").exists() and not list((tmp_path / "new").glob(".*"))


@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_size_that_the_network_does_not_take_is_refused_before_pictures_are_converted(command, tmp_path, capsys):
    for i in range(4):
        PIL.Image.new("RGB", (20, 20), (i, i, i)).save(tmp_path / f"{i}.png")
    argv = [f"-i{tmp_path}", "--data_set=folder", "--image_size=18", "--model=pxpp"]
    if command == "eval":
        prefix = tmp_path / "0" / "params_cifar.ckpt"
        prefix.parent.mkdir()
        for ending in (".index", ".data-00000-of-00001"):
            shutil.copy(f"{golden_numbers.checkpoint('pxpp')}{ending}", f"{prefix}{ending}")
        argv += [f"-r{prefix}"]
    else:
        argv += [f"-o{tmp_path}/save"]
    with pytest.raises(SystemExit) as exit_:
        {"train": train_command, "eval": eval_command}[command].main(argv)
    assert exit_.value.code == 2
    message = "error: --model=pxpp takes images whose sides are multiples of 4, not 18 x 18\n"
    assert capsys.readouterr().err.endswith(message)
    assert not (tmp_path / ".pixel_snail").exists()


@pytest.mark.parametrize("kind", ["npy", "png"])
def test_images_to_complete_may_come_from_a_pipe(kind, tmp_path, rng):
    images = rng.integers(0, 256, [1, *SHAPE], np.uint8)
    content = io.BytesIO()
    if kind == "npy":
        np.save(content, images)
    else:
        PIL.Image.fromarray(images[0]).save(content, "PNG")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(content.getvalue()))
    writer.start()
    completed, _ = drawing.images_to_complete(str(tmp_path / "pipe"), SHAPE)
    writer.join()
    np.testing.assert_allclose(completed * 127.5 + 127.5, images, atol=1e-4)


def test_an_evaluation_goes_on_although_its_checkpoint_is_removed_and_its_json_may_be_the_only_output(
    tmp_path, monkeypatch, capfd
):
    """The run removes its checkpoint while the data set is loaded."""
    add_spec(monkeypatch, "h0", OneStep)
    model = pixel_snail.build("h0", image_shape=(4, 4, 3), nr_filters=4, nr_resnet=1, nr_logistic_mix=2)
    images = np.random.default_rng(0).integers(0, 256, [4, 4, 4, 3], np.uint8)
    model.initialise(images)
    optimizer = PolyakAdam()
    optimizer.build(model.network.trainable_variables)
    checkpoint.save(str(tmp_path / "0" / "params_tiny.ckpt"), model.network, optimizer, {})

    def load(_):
        shutil.rmtree(tmp_path / "0")
        return DataSet(Split(images), Split(images))

    monkeypatch.setitem(data.data_sets, "tiny", load)
    with pytest.raises(SystemExit) as exit_:
        eval_command.main(["--data_set=tiny", f"-r{tmp_path}", "--json=/dev/stdout"])
    out, err = capfd.readouterr()
    assert exit_.value.code == 0, err
    figures = json.loads(out)
    np.testing.assert_allclose(figures["bits_per_dim_per_image"], model.bits_per_dim(images, verbose=0), rtol=1e-6)
    assert "bits/dim on 4 of 4 test images of tiny" in err
    assert figures["load_params"] == str(tmp_path / "0" / "params_tiny.ckpt")


class ByNumbers:
    """Images that are indexed by arrays of numbers only, as docs/data_sets.md allows."""

    def __init__(self, images):
        self.images, self.shape, self.dtype = images, images.shape, images.dtype

    def __len__(self):
        return len(self.images)

    def __getitem__(self, numbers):
        assert isinstance(numbers, np.ndarray) and (np.diff(numbers) > 0).all()
        return self.images[numbers]


@pytest.fixture
def checkpoint_of_tiny(tmp_path, monkeypatch, uncompiled_drawing):
    """The prefix of a checkpoint for the data set tiny, whose images are ByNumbers, and its network."""
    add_spec(monkeypatch, "h0", OneStep)
    model = pixel_snail.build("h0", image_shape=(4, 4, 3), nr_filters=4, nr_resnet=1, nr_logistic_mix=2)
    images = np.random.default_rng(0).integers(0, 256, [20, 4, 4, 3], np.uint8)
    model.initialise(images)
    model.save(tmp_path / "params.ckpt")
    monkeypatch.setitem(data.data_sets, "tiny", lambda _: DataSet(None, Split(ByNumbers(images))))
    return tmp_path / "params.ckpt", model


def evaluate(*argv):
    with pytest.raises(SystemExit) as exit_:
        eval_command.main(["--data_set=tiny", *map(str, argv)])
    return exit_.value.code


def test_images_that_only_arrays_of_numbers_index_are_evaluated_compressed_and_shown(checkpoint_of_tiny, tmp_path):
    prefix, model = checkpoint_of_tiny
    outputs = [f"--json={tmp_path}/a.json", f"--compress={tmp_path}/a.snail", f"--save_dir={tmp_path}"]
    assert evaluate(f"-r{prefix}", *outputs) == 0
    figures = json.loads((tmp_path / "a.json").read_text())
    images = data.data_sets["tiny"](None).test.images.images
    np.testing.assert_allclose(figures["bits_per_dim_per_image"], model.bits_per_dim(images, verbose=0), rtol=1e-6)
    assert figures["read_back"]
    np.testing.assert_array_equal(model.decompress((tmp_path / "a.snail").read_bytes(), verbose=0), images)
    assert (tmp_path / "tiny_bits.png").exists()


def test_the_figures_of_the_test_are_not_lost_if_compressing_fails(checkpoint_of_tiny, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise UserError("no space")

    monkeypatch.setattr(archive.Archiver, "compress", fail)
    outputs = [f"--json={tmp_path}/a.json", f"--compress={tmp_path}/a.snail"]
    assert evaluate(f"-r{checkpoint_of_tiny[0]}", *outputs) == 2
    out, err = capsys.readouterr()
    assert err.endswith("error: no space\n") and "PNG" in out
    figures = json.loads((tmp_path / "a.json").read_text())
    assert len(figures["bits_per_dim_per_image"]) == 20 and "bytes_on_disk" not in figures


def test_a_shortage_of_memory_for_compressing_is_told_before_the_test(
    checkpoint_of_tiny, tmp_path, monkeypatch, capsys
):
    def no_memory(*_):
        raise memory.Shortage("too little")

    monkeypatch.setattr(sampling, "check_memory", no_memory)
    assert evaluate(f"-r{checkpoint_of_tiny[0]}", f"--compress={tmp_path}/a.snail") == 2
    out, err = capsys.readouterr()
    assert "too little" in err and "bits/dim" not in out


def test_a_run_on_binarized_images_reports_nats_beside_bits_per_dim(tmp_path, monkeypatch, capsys, uncompiled_drawing):
    add_spec(monkeypatch, "h0", OneStep)
    grey = np.random.default_rng(0).integers(0, 256, [5, 6, 4, 1], np.uint8)
    split = Split(grey, np.array([0, 1, 0, 1, 0]))
    monkeypatch.setitem(data.data_sets, "tiny", lambda _: DataSet(split, split, class_names=("x", "y")))
    network = ["--model=h0", "-q1", "-n4", "-m1", "-b2", "-a4", "--data_set=tiny", "--binarize", "-c"]
    with pytest.raises(SystemExit) as exit_:
        train_command.main([*network, "-x1", f"-o{tmp_path}/runs"])
    assert exit_.value.code == 0
    (log,) = (tmp_path / "runs").rglob("print.log")
    text = log.read_text()
    logged = dict(line.split() for line in text.splitlines() if re.fullmatch(r"\w+_(bpd|nats) [\d.]+", line))
    assert list(logged) == ["train_bpd", "test_bpd", "train_nats", "test_nats"]
    for name in ("train", "test"):
        nats = float(logged[f"{name}_bpd"]) * np.log(2) * 24
        assert float(logged[f"{name}_nats"]) == pytest.approx(nats, abs=0.006)
    assert re.search(r"without averaging, test_bpd is \d\.\d{4}, test_nats \d+\.\d\d$", text, re.MULTILINE)
    events = b"".join(path.read_bytes() for path in (tmp_path / "runs").rglob("events*"))
    assert all(name in events for name in (b"loss_nats", b"train_nats", b"test_nats", b"test_nats_unaveraged"))
    (samples,) = (tmp_path / "runs").rglob("*_samples.npy")
    assert np.load(samples).dtype == np.uint8 and set(np.load(samples).flat) == {0, 1}

    capsys.readouterr()
    argv = [f"-r{tmp_path}/runs", "-b2", f"--json={tmp_path}/a.json", f"-o{tmp_path}/pictures"]
    argv += [f"--complete={samples}", "--classes=x", f"--compress={tmp_path}/a.snail"]
    with pytest.raises(SystemExit) as exit_:
        eval_command.main(argv)
    out, err = capsys.readouterr()
    assert exit_.value.code == 0, err
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["nats_per_image"] == pytest.approx(figures["bits_per_dim"] * np.log(2) * 24)
    assert float(logged["test_nats"]) == pytest.approx(figures["nats_per_image"], abs=0.01)
    assert (figures["levels"], figures["reduction"], figures["read_back"]) == (2, BINARIZED, True)
    assert f"nats an image: {figures['nats_per_image']:.2f} +- " in out
    completions = np.load(tmp_path / "pictures" / "tiny_completions.npy")
    np.testing.assert_array_equal(completions[:, :, :3], np.repeat(np.load(samples)[:, None, :3], 4, axis=1))
    assert (tmp_path / "pictures" / "tiny_bits.png").stat().st_size > 0

    for outputs, message in (
        (
            [f"--compress={samples}"],
            "_samples.npy exists and is not a compressed file: choose another name with --comp",
        ),
        ([f"--compress={tmp_path}/b", f"--json={tmp_path}/b"], "--json and --compress name the same file, "),
    ):
        before = samples.read_bytes()
        with pytest.raises(SystemExit) as exit_:
            eval_command.main([f"-r{tmp_path}/runs", *outputs])
        err = capsys.readouterr().err
        assert exit_.value.code == 2 and message in err and err.count("\n") == 1
        assert samples.read_bytes() == before and not (tmp_path / "b").exists()

    monkeypatch.delitem(specs, "h0")  # as in a program that has not added the specification
    with pytest.raises(SystemExit) as exit_:
        eval_command.main([f"-r{tmp_path}/runs"])
    err = capsys.readouterr().err
    assert (
        exit_.value.code == 2 and err.startswith("error: --model: unknown model 'h0'; known: ") and err.count("\n") == 1
    )
