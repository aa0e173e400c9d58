"""--levels, --binarize, --grey and --image_size=HxW, from the command line to the data set; without them, no change."""

import argparse
import json
import types

import numpy as np
import PIL.Image
import pytest
from test_data_sets import write_pictures
from test_idx import IMAGES, write

import data
import eval as eval_command
import train as train_command
from data import cifar10_plotdata, converted
from pixel_snail.commands import command_line
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError
from pixel_snail.runs import earlier_runs
from pixel_snail.storage.reductions import BINARIZED, Binarized

RGB = np.random.default_rng(0).integers(0, 256, [6, 4, 5, 3], np.uint8)


@pytest.fixture
def colour(monkeypatch):
    monkeypatch.setitem(data.data_sets, "colour", lambda _: DataSet(Split(RGB), Split(RGB[:2]), notes=("a note",)))


def loaded(*argv, save_dir="nowhere"):
    return data.from_flags(train_command.parse_flags([*argv, f"-o{save_dir}"]))


def test_levels_reduce_a_set_of_8_bits_and_256_levels_change_nothing(colour):
    for levels in (2, 7, 32, 255):
        data_set = loaded("--data_set=colour", f"--levels={levels}")
        np.testing.assert_array_equal(data_set.train.images[:], RGB.astype(int) * levels // 256)
        np.testing.assert_array_equal(data_set.test.images[[0, 1]], RGB[:2].astype(int) * levels // 256)
        assert (data_set.levels, data_set.reduction) == (levels, f"levels={levels}")
        assert data_set.notes == ("a note", f"the 8-bit values v are reduced to {levels} levels: v * {levels} // 256")
    for argv in ([], ["--levels=256"]):
        data_set = loaded("--data_set=colour", *argv)
        assert data_set.train.images is RGB
        assert (data_set.levels, data_set.reduction, data_set.notes) == (256, None, ("a note",))


def test_a_binarized_set_is_drawn_and_says_how(tmp_path):
    write(tmp_path / "mnist")
    data_set = loaded("--data_set=mnist", f"-i{tmp_path}", "--binarize")
    grey = IMAGES["t10k"][..., None]
    np.testing.assert_array_equal(data_set.test.images[:], Binarized(grey)[:])
    np.testing.assert_array_equal(
        data_set.train.images.in_epoch(3, 4)[:], Binarized(IMAGES["train"][..., None]).in_epoch(3, 4)[:]
    )
    assert (data_set.levels, data_set.reduction) == (2, BINARIZED)
    (note,) = data_set.notes
    for part in (
        "v / 255",
        "anew in each epoch",
        "from the seed 2147483648",
        "Larochelle's fixed binarization is another set",
    ):
        assert part in note
    assert data_set.unverified  # as without --binarize: these are not the published files


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--levels=257"], "--levels=257: the images of colour have 256 levels, and from 2 to 256 can be given"),
        (["--binarize"], "--binarize is for grey images: those of colour have 3 channels"),
        (["--levels=32", "--binarize"], "--binarize draws black and white from all 256 levels: leave --levels=32 out"),
        (["--grey"], "--grey is not for --data_set=colour, but for folder or tfds:NAME"),
        (["--image_size=4x5"], "--image_size is not for --data_set=colour, but for folder or imagenet_resized or tfds"),
        (["--data_set=imagenet_resized", "--image_size=16x8"], "--image_size=16x8: imagenet_resized has 8, 16, 32, 64"),
    ],
)
def test_a_flag_that_a_set_does_not_take_is_refused_in_one_line(argv, message, colour):
    with pytest.raises(UserError) as error:
        loaded("--data_set=colour", *argv)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--levels=1", "'1' is not a whole number from 2 to 65,536"),
        ("--levels=65537", "'65537' is not a whole number from 2 to 65,536"),
        ("--levels=x", "'x' is not a whole number from 2 to 65,536"),
        ("--image_size=0", "'0' is not a whole number above 0, or HEIGHTxWIDTH, such as 28x20"),
        ("--image_size=28x", "'28x' is not a whole number above 0"),
        ("--image_size=28x0", "'28x0' is not a whole number above 0"),
        ("--image_size=1x2x3", "'1x2x3' is not a whole number above 0"),
        ("--image_size=-4", "'-4' is not a whole number above 0"),
        ("--data_set=tfds:", "'tfds:' is not tfds:NAME or tfds:NAME:CONFIG, such as tfds:svhn_cropped"),
        ("--data_set=tfds:a/b", "'tfds:a/b' is not tfds:NAME"),
        ("--data_set=tfds:../b", "'tfds:../b' is not tfds:NAME"),
        ("--data_set=tfds:a:b:c", "'tfds:a:b:c' is not tfds:NAME"),
        ("--data_set=tfdsmnist", "unknown data set 'tfdsmnist'; known: arrays, cifar, "),
        ("--data_set=mnits", "did you mean mnist?"),
    ],
)
def test_a_wrong_value_of_a_flag_is_refused_in_one_line(argument, message, capsys):
    for command in (train_command.parse_flags, lambda argv: eval_command.parse_flags(["-rx", *argv])):
        with pytest.raises(SystemExit) as exit_:
            command([argument])
        assert exit_.value.code == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "text, value, shape",
    [("28", 28, (28, 28)), ("28x20", "28x20", (28, 20)), ("028x020", "28x20", (28, 20)), ("28x28", 28, (28, 28))],
)
def test_an_image_size_has_one_form_which_json_keeps(text, value, shape):
    for argument in (f"--image_size={text}", f"--image={text}"):
        parsed = train_command.parse_flags([argument]).image_size
        assert (parsed, type(parsed)) == (value, type(value))
        assert command_line.height_and_width(json.loads(json.dumps(parsed))) == shape
        assert command_line.is_possible("image_size", json.loads(json.dumps(parsed)))


@pytest.mark.parametrize("name", ["tfds:mnist", "tfds:imagenet_resized:8x8", "tfds:my_set:a.b-c+d_1"])
def test_a_set_of_tfds_has_a_run_that_is_found_again(name, tmp_path):
    """A run of a set with a configuration is not one of the set without it."""
    flags = train_command.parse_flags([f"--data_set={name}", f"-o{tmp_path}"])
    for of_run in (name, f"{name}:more"):
        run = tmp_path / f"pixelsnail_{of_run}_2026_01_01_00_00_00"
        run.mkdir()
        (run / "flags.json").write_text(json.dumps(vars(flags) | {"data_set": of_run}))
    found = earlier_runs.newest_run(flags)
    assert (
        found.why_new == f"{tmp_path}/pixelsnail_{name}_2026_01_01_00_00_00 has these flags, but it ended before its "
        "first checkpoint was whole"
    )
    evaluated = argparse.Namespace(**dict.fromkeys(command_line.MODEL_DEFAULTS | command_line.DATA_DEFAULTS))
    prefix = tmp_path / f"pixelsnail_{name}_2026_01_01_00_00_00" / "1" / f"params_{name}.ckpt"
    earlier_runs.fill_in_flags(evaluated, types.SimpleNamespace(prefix=str(prefix), description=lambda: None))
    assert evaluated.data_set == name


# A folder of pictures


def pixels(picture, grey):
    return np.asarray(PIL.Image.fromarray(picture).convert("L"))[..., None] if grey else picture


@pytest.mark.parametrize("grey", [False, True])
def test_pictures_are_cropped_to_a_height_and_a_width_and_may_become_grey(grey, tmp_path):
    names = ["train/a.png", "train/b.webp", "test/c.png"]
    pictures = write_pictures(tmp_path, names)  # 40 x 36
    data_set = loaded("--data_set=folder", f"-i{tmp_path}", "--image_size=28x20", *["--grey"] * grey)
    expected = [pixels(pictures[name], grey)[6:34, 8:28] for name in names]
    np.testing.assert_array_equal(data_set.train.images[:], expected[:2])
    np.testing.assert_array_equal(data_set.test.images[:], expected[2:])
    assert data_set.image_shape == (28, 20, 1 if grey else 3)
    middle = "of each picture, the middle is taken, 28 pixels high and 20 wide"
    assert data_set.notes[0] == (f"{middle}; it is made grey" if grey else middle)


def test_a_grey_picture_keeps_its_exact_values_with_grey(tmp_path):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        PIL.Image.fromarray(values).save(tmp_path / split / "a.png")
    grey = loaded("--data_set=folder", f"-i{tmp_path}", "--image_size=16", "--grey")
    np.testing.assert_array_equal(grey.test.images[0][..., 0], values)
    colour = loaded("--data_set=folder", f"-i{tmp_path}", "--image_size=16")
    np.testing.assert_array_equal(colour.test.images[0], np.repeat(values[..., None], 3, -1))
    binarized = loaded("--data_set=folder", f"-i{tmp_path}", "--image_size=16", "--grey", "--binarize")
    assert (binarized.levels, binarized.image_shape) == (2, (16, 16, 1))
    with pytest.raises(UserError, match="those of folder have 3 channels, and --grey makes them grey"):
        loaded("--data_set=folder", f"-i{tmp_path}", "--image_size=16", "--binarize")


def test_pictures_are_scaled_down_until_they_only_just_cover_a_rectangle(tmp_path):
    for split, size in (("train", [64, 96]), ("test", [96, 64])):
        (tmp_path / split).mkdir()
        picture = np.full([*size, 3], [10, 200, 30], np.uint8)
        PIL.Image.fromarray(picture).save(tmp_path / split / "a.png")
    data_set = loaded("--data_set=folder", f"-i{tmp_path}", "--image_size=16x32", "--downsample")
    for split in (data_set.train, data_set.test):
        assert np.abs(split.images[0].astype(int) - [10, 200, 30]).max() <= 1
        assert split.images[0].shape == (16, 32, 3)
    assert data_set.notes[0].startswith("each picture is scaled down until it only just covers a rectangle 16 pixels ")
    with pytest.raises(UserError, match=r"2 of 2 pictures .* can't be used") as error:
        loaded("--data_set=folder", f"-i{tmp_path}", "--image_size=70x65")
    assert error.value.__notes__[0] == "train/a.png: 64 pixels high and 96 wide, smaller than --image_size=70x65"


def test_grey_and_colour_have_conversions_of_their_own_and_that_of_an_earlier_version_stays_valid(
    tmp_path, monkeypatch
):
    write_pictures(tmp_path, ["train/a.png", "test/b.png"])
    before = loaded("--data_set=folder", f"-i{tmp_path}").train.images.path
    record = json.loads((before.parent / "train.json").read_text())
    # As version 2.1 wrote it.
    assert set(record["identity"]) == {"source", "downsample", "max_megapixels", "pictures"}
    assert before.parent.name == "cropped_32x32" and "dtype" not in record
    loaded("--data_set=folder", f"-i{tmp_path}", "--grey")
    assert sorted(path.name for path in (tmp_path / ".pixel_snail").iterdir()) == [
        "cropped_32x32",
        "grey_cropped_32x32",
    ]
    monkeypatch.setattr(converted, "_convert", None)  # nothing is converted again
    assert loaded("--data_set=folder", f"-i{tmp_path}").image_shape == (32, 32, 3)
    assert loaded("--data_set=folder", f"-i{tmp_path}", "--grey").image_shape == (32, 32, 1)


def test_a_contact_sheet_shows_the_levels_of_its_set(colour, tmp_path):
    flags = cifar10_plotdata.parse_flags(["--data_set=colour", f"-o{tmp_path}", "--levels=2"])
    cifar10_plotdata.plot(flags)
    sheet = np.asarray(PIL.Image.open(tmp_path / "colour_images.png"))
    np.testing.assert_array_equal(sheet, np.concatenate(np.where(RGB > 127, 255, 0), 1))


@pytest.mark.parametrize("labels, note", [([1, 2, 3], "no training image has the label 0: "), ([0, 1, 2], None)])
def test_labels_that_do_not_count_from_0_are_noted(labels, note, tmp_path):
    images = np.zeros([3, 4, 4], np.uint8)
    np.savez(tmp_path / "a.npz", train=images, test=images, y_train=labels, y_test=labels)
    found = loaded("--data_set=arrays", "--levels=2", f"--data_dir={tmp_path}/a.npz", "--class_conditional").notes
    assert [text.startswith(note or "no training image") for text in found].count(True) == (note is not None)
