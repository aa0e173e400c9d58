"""A DataSet checks what it is given: a loader's mistake is told in one line that says how to mend it."""

import numpy as np
import pytest
import tensorflow as tf

import data
import train as train_command
from data import converted
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError
from pixel_snail.storage import values

IMAGES = np.random.default_rng(0).integers(0, 256, [6, 4, 5, 3], np.uint8)
LABELS = np.arange(6) % 3


class Indexed:
    """Stands for arrays of other libraries."""

    def __init__(self, content, shape=None, dtype=None):
        self.content, self.shape, self.dtype = content, shape or content.shape, dtype or content.dtype

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        return self.content[index]


class InOrder(Indexed):
    """Takes only numbers in rising order, as h5py does."""

    def __getitem__(self, index):
        if np.ndim(index) and (np.diff(index) <= 0).any():
            raise TypeError("Indexing elements must be in increasing order")
        return self.content[index]


class BySlices(Indexed):
    def __getitem__(self, index):
        if not isinstance(index, slice):
            raise TypeError("slices only")
        return self.content[index]


def of(images=IMAGES, labels=None, **settings):
    return DataSet(Split(images, labels), Split(IMAGES, None if labels is None else LABELS), **settings)


BAD = {
    "a list of images": (lambda: of(list(IMAGES)), "the training images are a list: give .*, such as np.stack"),
    "no images": (lambda: of(None), "the training images are a NoneType: give"),
    "a number": (lambda: of(np.uint8(7)), "the training images are a uint8: give"),
    "a tensor": (
        lambda: of(tf.constant(IMAGES)),
        "the training images, a EagerTensor, can't be indexed|are a EagerTensor",
    ),
    "floats": (
        lambda: of(IMAGES / 255),
        r"are float64, not uint8: scale them to 0 to 255, round them, then use images.astype",
    ),
    "int64": (lambda: of(IMAGES.astype(int)), r"are int64, not uint8: use images.astype\(np.uint8\)$"),
    "objects": (lambda: of(IMAGES.astype(object)), "are object, not uint8"),
    "booleans": (lambda: of(IMAGES > 99), "are bool, not uint8"),
    "one image": (lambda: of(IMAGES[0]), r"have the shape \(4, 5, 3\): give"),
    "grey": (
        lambda: of(IMAGES[..., 0]),
        r"have the shape \(6, 4, 5\): .*; if these are grey images \[N, H, W\], use images\[..., None\]$",
    ),
    "no channels": (lambda: of(IMAGES[..., :0]), r"have the shape \(6, 4, 5, 0\): give"),
    "other channels": (
        lambda: of(IMAGES[..., :1]),
        r"the training images are \(4, 5, 1\), the test images \(4, 5, 3\)",
    ),
    "channels first": (
        lambda: of(np.zeros([6, 3, 9, 10], np.uint8)),
        r"\(6, 3, 9, 10\): .*images.transpose\(0, 2, 3, 1\)",
    ),
    "flat": (lambda: of(IMAGES.reshape(6, -1)), r"have the shape \(6, 60\): give"),
    "no pixels": (lambda: of(IMAGES[:, :0]), r"have the shape \(6, 0, 5, 3\): give"),
    "empty": (lambda: of(IMAGES[:0]), "there are no training images"),
    "empty test": (lambda: DataSet(Split(IMAGES), Split(IMAGES[:0])), "there are no test images"),
    "bad test": (lambda: DataSet(Split(IMAGES), Split(IMAGES / 9)), "the test images are float64, not uint8"),
    "no split": (
        lambda: DataSet(IMAGES, Split(IMAGES)),
        "the training split is a ndarray: give a pixel_snail.dataset.Sp",
    ),
    "no test split": (lambda: DataSet(Split(IMAGES), None), "the test split is a NoneType: give"),
    "other sizes": (
        lambda: DataSet(Split(IMAGES), Split(IMAGES[:, :2])),
        r"the training images are \(4, 5, 3\), the test images \(2, 5, 3\): give both the same shape",
    ),
    "indexed by slices only": (
        lambda: of(BySlices(IMAGES)),
        r"BySlices, can't be indexed by an array of numbers \(TypeError\): give",
    ),
    "of another shape inside": (
        lambda: of(Indexed(IMAGES[:, 0], IMAGES.shape)),
        r"are uint8 \(2, 5, 3\), not uint8 \(2, 4",
    ),
    "of another type inside": (lambda: of(Indexed(IMAGES / 9, dtype=np.uint8)), "images are float64 .*, not uint8"),
    "strings as labels": (
        lambda: of(labels=np.array(list("abcabc"))),
        r"are <U1: .*such as np.unique\(labels, return_in",
    ),
    "objects as labels": (lambda: of(labels=np.array(list("abcabc"), object)), r"are object: .*np.unique"),
    "one-hot labels": (
        lambda: of(labels=np.eye(3)[LABELS]),
        r"have the shape \(6, 3\): .*, as labels.argmax\(1\) does",
    ),
    "floats as labels": (lambda: of(labels=LABELS / 1), r"are float64: .*labels.astype\(int\)"),
    "booleans as labels": (lambda: of(labels=LABELS > 1), r"are bool: .*labels.astype\(int\)"),
    "a list of labels": (
        lambda: of(labels=list(LABELS)),
        r"the labels of the training images are a list: .*np.asarray",
    ),
    "fewer labels": (
        lambda: of(labels=LABELS[:5]),
        r"there are 6 training images, but labels of the shape \(5,\): give",
    ),
    "a single label": (lambda: of(labels=np.array(1)), r"there are 6 training images, but labels of the shape \(\)"),
    "labels of one split": (
        lambda: DataSet(Split(IMAGES, LABELS), Split(IMAGES)),
        "only the training images have labels: give both splits labels, or none",
    ),
    "a negative label": (lambda: of(labels=LABELS - 1), "training image 0 has the label -1"),
    "huge labels": (lambda: of(labels=LABELS + (1 << 40)), "training image 2 has the label 1099511627778: .* from 0"),
    "a label beyond the names": (
        lambda: of(labels=LABELS, class_names=("a", "b")),
        "image 2 has the label 2, but the cl",
    ),
    "a name twice": (lambda: of(labels=LABELS, class_names=("a", "b", "a")), "class_names has 'a' twice: give each"),
    "numbers as names": (lambda: of(labels=LABELS, class_names=(0, 1, 2)), "class_names must be a tuple of strings"),
    "a string of names": (lambda: of(labels=LABELS, class_names="abc"), "class_names must be a tuple of strings"),
    "a name that is no text": (
        lambda: of(labels=LABELS, class_names=("a", "b", "\udcff")),
        "class_names .* can't be written as UTF-8",
    ),
    "a string of notes": (lambda: of(notes="a note"), "notes must be a tuple of sentences"),
    "fewer names of images": (
        lambda: DataSet(Split(IMAGES, names=["a"]), Split(IMAGES)),
        "the 6 training images have 1 names: give each one a name",
    ),
}


def test_images_of_few_rows_and_many_channels_are_not_taken_for_planes():
    for shape in ((6, 1, 64, 8), (6, 3, 20, 5)):
        images = np.zeros(shape, np.uint8)
        assert DataSet(None, Split(images)).image_shape == shape[1:]


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_told_in_one_line(name):
    make, message = BAD[name]
    with pytest.raises(UserError, match=message) as error:
        make()
    assert str(error.value).isprintable()


def test_everything_that_is_indexed_like_an_array_is_taken(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    IMAGES.tofile(tmp_path / "a.images")
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for images in (
        IMAGES,
        IMAGES[:1],
        IMAGES[::-1],
        np.broadcast_to(IMAGES[0], IMAGES.shape),
        mapped,
        converted.MappedImages(tmp_path / "a.images", IMAGES.shape),
        Indexed(IMAGES),
        InOrder(IMAGES),
    ):
        assert of(images).image_shape == (4, 5, 3)
    for kind in (np.int8, np.uint8, np.int32, np.uint64, ">i8"):
        assert of(labels=LABELS.astype(kind)).nr_labels == 3
    assert of(labels=LABELS, class_names=["a", "b", "c", "d"]).class_names == ("a", "b", "c", "d")


FEW = IMAGES[..., :1] // 16


def of_levels(images, levels):
    return DataSet(Split(images), Split(images), levels=levels)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int64, ">u4"])
def test_images_of_any_size_channels_and_levels_are_taken_in_any_type_of_integers(kind):
    for channels in (1, 2, 5):
        images = np.repeat(FEW, channels, -1).astype(kind)
        assert of_levels(images, 16).image_shape == (4, 5, channels)
        assert of_levels(images, 65_536).levels == 65_536
    assert of_levels(FEW > 7, 2).levels == 2
    assert of_levels((FEW > 7).astype(kind), 2).levels == 2
    assert of(IMAGES[..., :1][:, :, :, [0, 0, 0]]).reduction is None


@pytest.mark.parametrize(
    "images, levels, message",
    [
        (FEW, 15, r"^training image 0 has the value 15 at row 0, column 4, channel 0, but values must be from 0 to 14"),
        (IMAGES, 16, r"16 levels; if these are 8-bit images, use np.uint8\(np.uint16\(images\) \* 16 // 256\)$"),
        (IMAGES, 2, r"2 levels; if these are 8-bit images, use \(images > 127\).astype\(np.uint8\)$"),
        (FEW.astype(int) - 1, 16, "has the value -1 at row"),
        (FEW.astype(int) << 13, 65_536, r"has the value \d{5,6} at row .* from 0 to 65535"),
        (FEW / 15, 16, r"are float64, not integers from 0 to 15: scale them to 0 to 15, .* images.astype\(np.uint8\)"),
        (FEW / 15, 2, r"make them black and white, with images > 0.5 for example, then use images.astype"),
        (FEW > 7, 16, "are bool, not integers from 0 to 15"),
        (FEW.astype(int), 256, "are int64, not uint8"),
        (FEW, 1, "levels=1 is not a whole number from 2 to 65,536"),
        (FEW, 65_537, "levels=65537 is not a whole number"),
        (FEW, 16.0, "levels=16.0 is not a whole number"),
        (FEW, None, "levels=None is not a whole number"),
    ],
)
def test_a_value_outside_of_the_levels_is_named_with_its_place(images, levels, message):
    with pytest.raises(UserError, match=message) as error:
        of_levels(images, levels)
    assert str(error.value).isprintable()


def test_the_first_wrong_value_is_found_in_any_chunk(monkeypatch):
    monkeypatch.setattr(values, "_CHUNK_BYTES", 50)  # two images
    images = np.zeros([7, 4, 5, 1], np.uint8)
    for number in (6, 3, 1):
        images[number, 3, 2, 0] = 16 + number
        with pytest.raises(UserError, match=f"test image {number} has the value {16 + number} at row 3, column 2, ch"):
            DataSet(None, Split(images), levels=16)


def test_images_are_not_read_as_a_whole():
    class Counted(Indexed):
        def __getitem__(self, index):
            nonlocal read
            read += len(index)
            return np.zeros([len(index), *self.shape[1:]], np.uint8)

    read = 0
    of(Counted(None, (1 << 40, 4, 5, 3), np.uint8))
    assert read == 2


def test_a_set_for_testing_alone_has_the_shape_and_the_labels_of_its_test_images():
    data_set = DataSet(None, Split(IMAGES, LABELS, names=list("abcdef")))
    assert (data_set.image_shape, data_set.nr_labels) == ((4, 5, 3), 3)
    assert data_set.sizes() == {
        "the shape of the test images": [6, 4, 5, 3],
        "the number of levels": 256,
        "the number of classes": 3,
        "the shape of the conditions": None,
        "the number of the conditions' codes": None,
    }
    plain = data_set.without_labels()
    assert (plain.train, plain.test.labels, plain.test.names) == (None, None, list("abcdef"))


@pytest.mark.parametrize(
    "loader, message",
    [
        (lambda _: of(IMAGES / 255), "the training images are float64, not uint8"),
        (lambda _: of(labels=LABELS[:2]), "but labels of the shape (2,)"),
        (
            lambda _: (IMAGES, IMAGES),
            "the loader of the data set mine returns a tuple: let it return a pixel_snail.data",
        ),
        (lambda _: None, "returns a NoneType"),
        (
            lambda _: DataSet(Split(IMAGES, condition=[[0.5]] * 6), Split(IMAGES, condition=[[0.5]] * 6)),
            "the condition of the training images is a list: make it an array",
        ),
        (lambda _: DataSet(None, Split(IMAGES)), "the data set mine has no training images: evaluate it with eval.py"),
    ],
)
def test_a_command_tells_a_mistake_of_a_loader_in_one_line(loader, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(data.data_sets, "mine", loader)
    with pytest.raises(SystemExit) as exit_:
        train_command.main(["--data_set=mine", f"-o{tmp_path}"])
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    assert message in told
