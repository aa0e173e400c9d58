"""Arrays of one's own: any size, channels, levels and type of integers, from .npz and .npy; others give one line."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from test_untrusted import damaged, examples, harmless, header, npy_file, npz_file, refused

import data
import train as train_command
from pixel_snail.errors import UserError
from pixel_snail.parallel import devices
from pixel_snail.storage import values

rng = np.random.default_rng(0)
TRAIN, TEST = rng.integers(0, 16, [25, 6, 5, 2]), rng.integers(0, 16, [7, 6, 5, 2])
TRAIN[3, 2, 1, 0] = 15
EIGHT = rng.integers(0, 256, [12, 4, 5, 1], np.uint8)
EIGHT[7, 0, 0, 0] = 255


def write(folder, form, **content):
    """Writes arrays in a form, and returns what --data_dir gets."""
    if form == "npy":
        for name, array in content.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=True)
        return folder
    {"npz": np.savez, "compressed npz": np.savez_compressed}[form](folder / "file.npz", **content)
    return folder / "file.npz"


FORMS = pytest.mark.parametrize("form", ["npy", "npz", "compressed npz"])


@FORMS
@pytest.mark.parametrize("kind", ["uint8", "int64", ">i2", "uint16"])
@pytest.mark.parametrize("names", ["train test", "x_train x_test", "train_images test_images"])
def test_arrays_are_the_same_in_every_form_type_and_under_every_name(form, kind, names, tmp_path):
    train, test = names.split()
    given = {train: TRAIN.astype(kind), test: TEST.astype(kind)}
    labels = {"y_train": np.arange(25) % 3, "y_test": np.arange(7, dtype=np.uint8) % 3}
    data_set = data.load("arrays", write(tmp_path, form, **given, **labels))
    for split, images, numbers in ((data_set.train, TRAIN, "y_train"), (data_set.test, TEST, "y_test")):
        np.testing.assert_array_equal(split.images[:], images)
        np.testing.assert_array_equal(split.images[[0, 2, 5]], images[[0, 2, 5]])
        np.testing.assert_array_equal(split.labels, labels[numbers])
        assert split.images.dtype == np.uint8
    assert (data_set.levels, data_set.image_shape, data_set.nr_labels) == (16, (6, 5, 2), 3)
    assert data_set.notes == ("values from 0 to 15: 16 levels",)


def test_codes_above_the_levels_are_not_reduced_as_8_bit_images_are(tmp_path):
    path = write(tmp_path, "npz", train=EIGHT)
    argv = ["--data_set=arrays", f"--data_dir={path}", "--levels=128"]
    data_set = data.from_flags(train_command.parse_flags(argv))
    np.testing.assert_array_equal(data_set.train.images[:], EIGHT[np.arange(12) % 10 != 9] // 2)
    with pytest.raises(UserError, match="the value 255, but --levels=128 allows only codes from 0 to 127: give --lev"):
        data.from_flags(train_command.parse_flags([*argv, "--likelihood=categorical"]))
    grey = write(tmp_path, "npz", train=EIGHT[..., :1])
    argv = ["--data_set=arrays", f"--data_dir={grey}", "--likelihood=categorical", "--binarize"]
    for levels in ([], ["--levels=256"]):
        assert data.from_flags(train_command.parse_flags([*argv, *levels])).levels == 2


@FORMS
@pytest.mark.parametrize("shape", [(4,), (3, 5, 2)])
def test_conditions_are_those_of_the_images_also_of_every_tenth_one(form, shape, tmp_path):
    condition = rng.normal(size=[25, *shape]).astype(np.float32)
    data_set = data.load("arrays", write(tmp_path, form, train=TRAIN, train_condition=condition))
    numbers = np.arange(25)
    for split, chosen in ((data_set.train, numbers % 10 != 9), (data_set.test, numbers % 10 == 9)):
        np.testing.assert_array_equal(split.images[:], TRAIN[chosen])
        np.testing.assert_array_equal(split.condition[:], condition[chosen])
    assert (data_set.condition_shape, data_set.condition_levels) == (shape, None)
    assert any(note.endswith(": each image has a condition") for note in data_set.notes)


@FORMS
def test_codes_as_conditions_are_as_many_as_the_largest_of_both_splits_says(form, tmp_path):
    codes = {"train_condition": rng.integers(0, 5, [25, 3, 5, 1]), "test_condition": np.full([7, 3, 5, 1], 6)}
    data_set = data.load("arrays", write(tmp_path, form, train=TRAIN, test=TEST, **codes))
    assert (data_set.condition_shape, data_set.condition_levels) == ((3, 5), 7)
    np.testing.assert_array_equal(data_set.test.condition[2:4], np.full([2, 3, 5], 6))


def test_an_array_whose_name_only_contains_those_letters_is_no_condition(tmp_path):
    file = write(tmp_path, "npz", train=TRAIN, seconds=np.arange(25), conductivity=np.ones(3))
    assert f"not used: conductivity, seconds in {file}" in data.load("arrays", file).notes


def test_a_data_set_with_files_needs_their_folder():
    with pytest.raises(UserError, match="the data set arrays has files: give data_dir, their folder"):
        data.load("arrays", None)


@FORMS
def test_images_without_channels_have_one(form, tmp_path):
    data_set = data.load("arrays", str(write(tmp_path, form, train=TRAIN[..., 0], test=TEST[..., 0])))
    np.testing.assert_array_equal(data_set.test.images[:], TEST[..., :1])
    np.testing.assert_array_equal(data_set.train.images[4], TRAIN[4, ..., :1])


@FORMS
@pytest.mark.parametrize("number, tests", [(25, [9, 19]), (10, [9]), (4, [3]), (2, [1])])
def test_without_a_test_array_every_tenth_image_is_in_the_test_set_alone(form, number, tests, tmp_path):
    labels = number - 1 - np.arange(number)
    data_set = data.load("arrays", write(tmp_path, form, train=TRAIN[:number], train_labels=labels), levels=16)
    others = [i for i in range(number) if i not in tests]
    np.testing.assert_array_equal(data_set.test.images[:], TRAIN[tests])
    np.testing.assert_array_equal(data_set.train.images[:], TRAIN[others])
    np.testing.assert_array_equal(data_set.train.images[[0]], TRAIN[[0]])
    np.testing.assert_array_equal(data_set.test.labels, labels[tests])
    np.testing.assert_array_equal(data_set.train.labels, labels[others])
    assert data_set.notes == (
        "there is no test array: every tenth image is in the test set, and not in the training set",
    )


@pytest.mark.parametrize("largest, levels", [(1, 2), (3, 4), (15, 16), (255, 256), (1023, 1024), (65_535, 65_536)])
def test_the_largest_value_decides_the_levels_if_it_is_one_below_a_power_of_two(largest, levels, tmp_path):
    images = np.zeros([4, 2, 2, 1], np.int64)
    images[2, 1, 0, 0] = largest
    for splits in ({"train": images, "test": images * 0}, {"train": images * 0, "test": images}):
        data_set = data.load("arrays", write(tmp_path, "npz", **splits))
        assert data_set.levels == levels
        assert data_set.test.images.dtype == (np.uint8 if levels <= 256 else np.uint16)
        assert data_set.notes == (f"values from 0 to {largest}: {levels:,} levels",)
    assert data.load("arrays", write(tmp_path, "npz", train=images, test=images), levels=largest + 1).notes == ()


def test_booleans_have_two_levels_even_if_all_are_false(tmp_path):
    data_set = data.load("arrays", write(tmp_path, "npy", train=TRAIN > 7, test=TEST > 99))
    assert data_set.levels == 2
    np.testing.assert_array_equal(data_set.train.images[:], TRAIN > 7)


@pytest.mark.parametrize("levels", [32, 5, 2])
def test_eight_bit_arrays_are_reduced_to_the_levels_that_are_given(levels, tmp_path):
    data_set = data.load("arrays", write(tmp_path, "npy", train=EIGHT, test=EIGHT[:3]), levels=levels)
    np.testing.assert_array_equal(data_set.train.images[:], EIGHT.astype(int) * levels // 256)
    assert (data_set.levels, data_set.reduction) == (levels, f"levels={levels}")
    assert data_set.notes == (f"the 8-bit values v are reduced to {levels} levels: v * {levels} // 256",)


def test_uint8_arrays_whose_largest_value_is_not_255_are_not_reduced(tmp_path):
    few, many = TRAIN.astype(np.uint8), np.minimum(EIGHT, 254)
    data_set = data.load("arrays", write(tmp_path, "npz", train=few, test=few), levels=16)
    np.testing.assert_array_equal(data_set.train.images[:], few)
    assert data_set.reduction is None and data_set.notes == ()
    dark = data.load("arrays", write(tmp_path, "npz", train=few, test=few), levels=64)
    np.testing.assert_array_equal(dark.train.images[:], few)
    assert dark.notes == (
        "the largest value is 15: the values are taken as they are, of 64 levels; if they are 8-bit images to be "
        "reduced, save np.uint8(np.uint16(images) * 64 // 256)",
    )
    with pytest.raises(
        UserError, match=r"image \d+ has the value \d+ at row .*, but --levels=16 allows only values from"
    ):
        data.load("arrays", write(tmp_path, "npz", train=many, test=many), levels=16)


def test_arrays_of_few_levels_can_be_binarized(tmp_path):
    grey = np.broadcast_to(np.arange(16).reshape(16, 1, 1, 1), [16, 9, 9, 1])
    data_set = data.load("arrays", write(tmp_path, "npy", train=grey, test=grey), binarize=True)
    assert (data_set.levels, data_set.image_shape) == (2, (9, 9, 1))
    means = data_set.test.images[:].mean((1, 2, 3))
    assert (means[0], means[15]) == (0, 1) and 0 < means[7] < 1


def test_only_the_images_that_are_asked_for_are_read_from_npy_files(tmp_path):
    """The file claims 48 GB, and is sparse."""
    shape = (1 << 30, 4, 4, 3)
    with open(tmp_path / "train.npy", "wb") as file:
        file.write(npy_file(header(shape)))
        file.truncate(file.tell() + (48 << 30))
    np.save(tmp_path / "test.npy", np.ones([2, 4, 4, 3], np.uint8))
    with harmless(tmp_path):
        data_set = data.load("arrays", tmp_path, levels=256)
        assert data_set.train.images[[1, 1 << 29]].sum() == 0
    assert len(data_set.train) == 1 << 30


def test_values_are_examined_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(values, "_CHUNK_BYTES", 100)
    for place in (0, 11, 24):
        images = TRAIN.copy()
        images[place, 5, 4, 1] = 77
        message = f"train.npy: image {place} has the value 77 at row 5, column 4, channel 1, but --levels=16 allows"
        with pytest.raises(UserError, match=message):
            data.load("arrays", write(tmp_path, "npy", train=images, test=TEST), levels=16)


def test_a_set_for_testing_alone_has_no_training_array(tmp_path):
    path = write(tmp_path, "npz", test=TEST)
    assert data.load("arrays", path, only_test=True).train is None
    with pytest.raises(UserError, match=r"the data set arrays has no training images: evaluate it with eval\.py"):
        data.load("arrays", path)


OTHER = {
    "undecided levels": (
        {"train": EIGHT // 2 + 73},
        "the largest value of .*train.* and .*test.* is 200, which does not decide the number of levels: give "
        "--levels, such as --levels=256 for 8-bit images, or --levels=201$",
    ),
    "undecided above 8 bits": (
        {"train": TRAIN + 600, "test": TEST},
        "is 615, .*=65536 for 16-bit images, or --levels=616",
    ),
    "all black": ({"train": TRAIN * 0, "test": TEST * 0}, "is 0, which does not decide .* or --levels=2$"),
    "too many levels": ({"train": TRAIN + 70_000, "test": TEST}, "is 70015: there may be at most 65,536 levels"),
    "negative": ({"train": TRAIN - 1, "test": TEST}, "train.*: image 0 has the value -1: values must be 0 or more"),
    "floats": (
        {"train": TRAIN / 15, "test": TEST},
        r"train.* has float64 values from 0 to 1: save .*black is 0 and white is 1, save np.uint8\(np.round\(255 \*",
    ),
    "floats of 8 bits": (
        {"train": TRAIN * 17.0, "test": TEST},
        r"from 0 to 255: save .* if black is 0 and white is 255, save np.uint8\(np.round\(images\)\)$",
    ),
    "floats from -1": (
        {"train": TRAIN / 7.5 - 1, "test": TEST},
        r"from -1 to 1: save .*white is 1, save np.uint8\(np.round\(127.5 \* images \+ 127.5\)\)$",
    ),
    "other floats": ({"train": TRAIN - 300.0, "test": TEST}, "from -300 to -285: save integers from 0 to 255$"),
    "nan": (
        {"train": np.where(TRAIN[0, 3, 2, 1] == TRAIN, np.nan, TRAIN), "test": TEST},
        r"has float64 values \(image 0 has the value nan at row",
    ),
    "complex": ({"train": TRAIN * 1j, "test": TEST}, "train.* is of the type complex128, not of integers"),
    "structured": (
        {"train": np.zeros([3, 4, 4], [("r", "u1"), ("g", "u1")]), "test": TEST},
        "train.* is of the type .*, not of integers",
    ),
    "strings": ({"train": TRAIN.astype(str), "test": TEST}, "is of the type <U2.*, not of integers"),
    "objects": ({"train": TRAIN.astype(object), "test": TEST}, "train.* is not an array .*: it holds objects"),
    "Fortran's order": ({"train": np.asfortranarray(TRAIN), "test": TEST}, "in Fortran's order: save it again, with"),
    "one image": ({"train": TRAIN[0, 0], "test": TEST}, r"has the shape \[5, 2\], not \[N, H, W, C\], or \[N, H, W\]"),
    "no images": ({"train": TRAIN[:0], "test": TEST}, r"has the shape \[0, 6, 5, 2\]"),
    "five dimensions": ({"train": TRAIN[None], "test": TEST}, r"has the shape \[1, 25, 6, 5, 2\]"),
    "a number": ({"train": np.uint8(7), "test": TEST}, r"train.* (has the shape \[\]|is not an array)"),
    "other sizes": ({"train": TRAIN, "test": TEST[:, :3]}, r"train.* has images \[6, 5, 2\], .*test.* \[3, 5, 2\]"),
    "fewer labels": (
        {"train": TRAIN, "test": TEST, "y_train": [1, 2], "y_test": [1] * 7},
        r"y_train.* is int64 \[2\]: give 25 labels",
    ),
    "one-hot labels": (
        {"train": TRAIN, "test": TEST, "y_train": np.eye(25)},
        r"is float64 \[25, 25\]: give 25 labels, integers, as labels.argmax\(1\) does",
    ),
    "labels in a column": (
        {"train": TRAIN, "test": TEST, "y_train": np.arange(25)[:, None]},
        r"is int64 \[25, 1\]: give 25 labels, integers, as labels\[:, 0\] does; or, if no classes are wanted, remove",
    ),
    "labels of one split": (
        {"train": TRAIN, "test": TEST, "y_test": [1] * 7},
        "train.* has no labels, the other images have: add ",
    ),
    "conditions of one split": (
        {"train": TRAIN, "test": TEST, "test_condition": np.ones([7, 3])},
        "train.* has no conditions, the other images have: add train_condition, or remove the other conditions",
    ),
    "conditions without images": (
        {"train": TRAIN, "train_condition": np.ones([25, 3]), "test_condition": np.ones([7, 3])},
        "test_condition.* has conditions, but there are no test images",
    ),
    "conditions of another name": (
        {"train": TRAIN, "Conditions_train": np.ones([25, 3])},
        "has an array Conditions_train: conditions are called train_condition and test_condition; rename it",
    ),
    "fewer conditions": (
        {"train": TRAIN, "train_condition": np.ones([24, 3])},
        r"train_condition.* is float64 \[24, 3\]: give 25 conditions, floating-point numbers \[N, D\]",
    ),
    "labels without images": ({"train": TRAIN, "y_test": [1] * 7}, "y_test.* has labels, but there are no test images"),
    "negative labels": ({"train": TRAIN, "train_labels": np.arange(25) - 1}, "training image 0 has the label -1"),
    "both names": (
        {"train": TRAIN, "x_train": TRAIN, "test": TEST},
        "has both train and x_train: leave one of them out",
    ),
    "both names of labels": (
        {"train": TRAIN, "y_test": [0] * 7, "test_labels": [0] * 7, "test": TEST},
        "has both test_labels and y_test",
    ),
    "other names": ({"images": TRAIN}, r"has no array called train, x_train or train_images, .* \(it has images\)$"),
    "a single image": ({"train": TRAIN[:1]}, "has only one image, but training and testing need one each"),
}


@pytest.mark.parametrize("form", ["npy", "npz"])
@pytest.mark.parametrize("name", OTHER)
def test_arrays_of_another_form_are_refused_in_one_line(name, form, tmp_path):
    content, message = OTHER[name]
    if name == "undecided levels":
        content = {"train": np.minimum(content["train"], 200), "test": content["train"][:2] * 0}
    path = write(tmp_path, form, **content)
    with pytest.raises(UserError, match=message) as error:
        data.load("arrays", path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda folder: folder / "nowhere", "there is no file or folder .*nowhere: --data_dir names the .npz file, or"),
        (lambda folder: folder, "has no array called train, x_train or train_images, nor one for the test$"),
        (
            lambda folder: write(folder, "npy", train=TRAIN) / "train.npy",
            "is a single array: give --data_dir the folder",
        ),
        (
            lambda folder: write(folder, "npz", train=TRAIN).parent,
            r"nor one for the test; to use an .npz file, give its path: --data_dir=.*/folder/file\.npz$",
        ),
        (lambda folder: folder / "text.npz", "text.npz is broken or cut off: File is not a zip file"),
    ],
)
def test_paths_without_arrays_are_refused_in_one_line(write, message, tmp_path):
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "folder").mkdir()
    path = write(tmp_path / "folder")
    with pytest.raises(UserError, match=message):
        data.load("arrays", tmp_path / path.name if path.name == "text.npz" else path)


@pytest.mark.parametrize("length", [-1, 0, 5, 100, 1])
def test_an_npy_file_cut_off_or_too_long_is_refused(length, tmp_path):
    write(tmp_path, "npy", train=TRAIN, test=TEST)
    path = tmp_path / "train.npy"
    content = path.read_bytes()
    path.write_bytes(content + b"x" if length == 1 else content[:length])
    with pytest.raises(UserError, match=r"train\.npy is (broken: it has|not an array that can be read)"):
        data.load("arrays", tmp_path)


def test_an_npz_array_that_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path, "compressed npz", train=TRAIN, test=TEST)
    monkeypatch.setattr(devices, "available_memory", lambda: 100)
    with pytest.raises(UserError, match=r"file\.npz takes 0 MB of memory, and there are 0 MB: save its arrays as .npy"):
        data.load("arrays", path)


@pytest.mark.parametrize("shape", [(1 << 40, 4, 4, 3), (1 << 22, 4, 4, 3), (1 << 63, 4, 4, 3), (1, 1 << 40)])
def test_arrays_that_claim_far_more_than_they_have_take_no_memory(shape, tmp_path):
    content = npy_file(header(shape), bytes(4800))
    (tmp_path / "train.npy").write_bytes(content)
    (tmp_path / "a.npz").write_bytes(npz_file(train=content, test=content))
    for path in (tmp_path, tmp_path / "a.npz"):
        assert refused(tmp_path, data.load, "arrays", path)


def test_a_pickle_in_an_array_is_not_loaded(tmp_path):
    content = npy_file(header((2, 4, 4, 1), "|O"), pickle.dumps([0] * 32))
    (tmp_path / "train.npy").write_bytes(content)
    (tmp_path / "a.npz").write_bytes(npz_file(train=content))
    for path in (tmp_path, tmp_path / "a.npz"):
        assert refused(tmp_path, data.load, "arrays", path)


@pytest.mark.parametrize("form", ["npy", "npz", "compressed npz"])
def test_a_damaged_file_of_arrays_is_refused_or_still_a_set(form, tmp_path):
    path = write(
        tmp_path,
        form,
        train=TRAIN.astype(np.uint8),
        test=TEST.astype(np.uint8),
        y_train=np.arange(25),
        y_test=np.arange(7),
    )
    file = tmp_path / "train.npy" if form == "npy" else path

    @examples(60)
    @given(damaged(file.read_bytes()))
    def law(content):
        file.write_bytes(content)
        with harmless(tmp_path):
            data_set = data.load("arrays", path)
            if form != "npy":  # zip's checksums
                np.testing.assert_array_equal(data_set.test.images[:], TEST)
            assert data_set.train.images[:].max() < data_set.levels
            assert data_set.train.images[:].shape == (len(data_set.train), *data_set.image_shape)

    law()


def test_the_command_line_takes_an_npz_file(tmp_path, capsys):
    """As far as the network's parameters, of which there is no such file."""
    path = write(tmp_path, "npz", train=TRAIN / 15)
    with pytest.raises(SystemExit) as exit_:
        train_command.main(["--data_set=arrays", f"-i{path}", f"-o{tmp_path / 'save'}", "--levels=16"])
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert told == (
        f"error: train in {path} has float64 values from 0 to 1: save integers from 0 to 15; if black is 0 and white "
        "is 1, save np.uint8(np.round(15 * images))\n"
    )
