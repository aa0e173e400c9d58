"""Sets of TensorFlow Datasets by name: any size, channels and 8 or 16 bits, prepared or not; others give one line."""

import functools
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import data
from data import converted, mnist, tfds_sets
from pixel_snail.errors import UserError

rng = np.random.default_rng(0)
GREY, RGB = rng.integers(0, 256, [25, 6, 5, 1], np.uint8), rng.integers(0, 256, [25, 6, 5, 3], np.uint8)
LABELS = np.arange(25) % 3


def prepare(data_dir, splits, image=None, label=None, name="tiny_set", **settings):
    """Prepares a set as TFDS does. Splits have lists (images, labels); `image` and `label` are the set's features."""
    features = {"image": image or tfds.features.Image(shape=(6, 5, 1))}
    if label is not None:
        features["label"] = label

    def dataset(images, labels):
        def examples():
            for i, picture in enumerate(images):
                yield {"image": picture} | ({} if label is None else {"label": labels[i]})

        kind = tf.as_dtype(features["image"].np_dtype)
        signature = {"image": tf.TensorSpec(features["image"].shape, kind)}
        if label is not None:
            signature["label"] = tf.TensorSpec([], tf.int64)
        return tf.data.Dataset.from_generator(examples, output_signature=signature)

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: dataset(*content) for split, content in splits.items()},
        data_dir=data_dir,
        disable_shuffling=True,
        **settings,
    )


def assert_equal(data_set, train, test):
    np.testing.assert_array_equal(data_set.train.images[:], train)
    np.testing.assert_array_equal(data_set.test.images[:], test)


@pytest.fixture(autouse=True)
def without_a_network(monkeypatch):
    def refuse(builder):
        raise OSError("no network")

    monkeypatch.setattr(tfds_sets, "_check_connection", refuse)


def test_a_prepared_set_is_used_without_a_connection_and_has_its_class_names(tmp_path, monkeypatch):
    monkeypatch.setattr(converted, "rows_per_chunk", lambda shape: 4)
    names = tfds.features.ClassLabel(names=["cat", "dog", "eel"])
    prepare(tmp_path, {"train": (GREY, LABELS), "test": (GREY[:7], LABELS[:7])}, label=names)
    for _ in range(2):  # the second time from the conversion
        data_set = data.load("tfds:tiny_set", tmp_path)
        assert_equal(data_set, GREY, GREY[:7])
        np.testing.assert_array_equal(data_set.train.labels, LABELS)
        np.testing.assert_array_equal(data_set.test.labels, LABELS[:7])
        assert (data_set.class_names, data_set.levels, data_set.notes) == (("cat", "dog", "eel"), 256, ())
        assert data_set.source == str(tmp_path / "tiny_set" / "1.0.0")


def test_sixteen_bits_have_65536_levels_and_any_number_of_channels(tmp_path):
    images = rng.integers(0, 1 << 16, [5, 3, 4, 1], np.uint16)
    prepare(
        tmp_path,
        {"train": (images, None), "test": (images[3:], None)},
        tfds.features.Image(shape=(3, 4, 1), dtype=np.uint16),
    )
    for _ in range(2):
        data_set = data.load("tfds:tiny_set", tmp_path)
        assert_equal(data_set, images, images[3:])
        assert (data_set.levels, data_set.train.images.dtype, data_set.nr_labels) == (65_536, np.uint16, None)
    with pytest.raises(UserError, match="the images of tfds:tiny_set have 65,536 levels, and only 8-bit images"):
        data.load("tfds:tiny_set", tmp_path, levels=16)


@pytest.mark.parametrize("split, note", [("validation", "the test set is the split validation"), (None, "every tenth")])
def test_without_a_test_split_the_test_set_is_another_and_a_note_says_which(split, note, tmp_path):
    splits = {"train": (GREY, LABELS)} | ({split: (GREY[:4], LABELS[:4])} if split else {})
    prepare(tmp_path, splits, label=tfds.features.ClassLabel(num_classes=3))
    data_set = data.load("tfds:tiny_set", tmp_path)
    (line,) = data_set.notes
    assert note in line
    is_test = np.arange(25) % 10 == 9
    assert_equal(data_set, *((GREY, GREY[:4]) if split else (GREY[~is_test], GREY[is_test])))
    if not split:
        np.testing.assert_array_equal(data_set.test.labels, LABELS[is_test])


def test_an_interrupted_conversion_of_a_tenth_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(converted, "rows_per_chunk", lambda shape: 2)
    images = rng.integers(0, 1 << 16, [25, 3, 4, 1], np.uint16)
    prepare(tmp_path, {"train": (images, None)}, tfds.features.Image(shape=(3, 4, 1), dtype=np.uint16))
    image, calls = tfds_sets._image, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return image(*arguments)

    monkeypatch.setattr(tfds_sets, "_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.load("tfds:tiny_set", tmp_path)
    is_test = np.arange(25) % 10 == 9
    assert_equal(data.load("tfds:tiny_set", tmp_path), images[~is_test], images[is_test])
    assert len(calls) == 12 + 13 + 2  # ten images were written


def test_images_of_various_sizes_are_cropped_to_their_middle_and_may_become_grey(tmp_path):
    pictures = [RGB[0], RGB[1, :4, :3], np.concatenate([RGB[2], RGB[3]])]
    prepare(
        tmp_path, {"train": (pictures, None), "test": (pictures[:1], None)}, tfds.features.Image(shape=(None, None, 3))
    )
    with pytest.raises(UserError, match="of tiny_set have various sizes: give the size to crop them to, such as --im"):
        data.load("tfds:tiny_set", tmp_path)
    cropped = [RGB[0, 1:5, 1:4], RGB[1, :4, :3], pictures[2][4:8, 1:4]]
    data_set = data.load("tfds:tiny_set", tmp_path, image_size="4x3")
    assert_equal(data_set, cropped, cropped[:1])
    assert data_set.notes == ("of each image, the middle is taken: 4 pixels high and 3 wide",)
    grey = [np.asarray(PIL.Image.fromarray(np.ascontiguousarray(image)).convert("L"))[..., None] for image in cropped]
    assert_equal(data.load("tfds:tiny_set", tmp_path, image_size="4x3", grey=True), grey, grey[:1])
    with pytest.raises(UserError, match=r"image 1 of .*, train, is 4 x 3, smaller than 4 x 4: lower --image_size"):
        data.load("tfds:tiny_set", tmp_path, image_size=4)


def test_grey_images_stay_as_they_are_with_grey(tmp_path):
    prepare(tmp_path, {"train": (GREY, None), "test": (GREY, None)})
    assert_equal(data.load("tfds:tiny_set", tmp_path, grey=True), GREY, GREY)


def test_labels_are_left_out_if_some_images_have_none(tmp_path):
    splits = {"train": (GREY, LABELS), "test": (GREY[:3], [-1, -1, -1])}
    prepare(tmp_path, splits, label=tfds.features.ClassLabel(num_classes=3))
    data_set = data.load("tfds:tiny_set", tmp_path)
    assert (data_set.nr_labels, data_set.class_names) == (None, None)
    assert data_set.notes == ("the labels are left out, because some images have none",)


def test_a_configuration_has_a_name_and_a_conversion_of_its_own(tmp_path):
    prepare(tmp_path, {"train": (GREY, None), "test": (GREY[:1], None)}, config="one")
    prepare(tmp_path, {"train": (GREY[::-1], None), "test": (GREY[:1], None)}, config="other")
    one, other = (data.load(f"tfds:tiny_set:{config}", tmp_path) for config in ("one", "other"))
    assert_equal(one, GREY, GREY[:1])
    assert_equal(other, GREY[::-1], GREY[:1])


def test_a_set_prepared_anew_is_converted_anew(tmp_path):
    for images in (GREY, GREY[::-1]):
        prepare(tmp_path, {"train": (images, None), "test": (images, None)})
        assert_equal(data.load("tfds:tiny_set", tmp_path), images, images)
        shutil.rmtree(tmp_path / "tiny_set")


def test_mnist_prepared_by_tfds_is_used_but_counts_as_unverified(tmp_path):
    images = rng.integers(0, 256, [10, 28, 28, 1], np.uint8)
    label = tfds.features.ClassLabel(num_classes=10)
    image = tfds.features.Image(shape=(28, 28, 1))
    prepare(tmp_path, {"train": (images, np.arange(10)), "test": (images[:3], [3, 4, 5])}, image, label, name="mnist")
    data_set = data.load("mnist", tmp_path)
    assert_equal(data_set, images, images[:3])
    assert data_set.class_names == mnist.CLASSES["mnist"]
    assert "only the published files can be verified" in data_set.unverified
    assert (tmp_path / ".pixel_snail" / "tfds_mnist").is_dir()
    shutil.rmtree(tmp_path / ".pixel_snail")
    elsewhere = data.load("mnist", tmp_path, cache_dir=tmp_path / "elsewhere")
    assert_equal(elsewhere, images, images[:3])
    assert not (tmp_path / ".pixel_snail").exists() and list((tmp_path / "elsewhere").rglob("tfds_mnist"))


def test_the_fixed_binarized_mnist_has_two_levels(tmp_path):
    """TFDS stores Larochelle's set as 8-bit images of the values 0 and 1."""
    image = tfds.features.Image(shape=(6, 5, 1))
    prepare(tmp_path, {"train": (GREY % 2, None), "test": (GREY[:2] % 2, None)}, image, name="binarized_mnist")
    data_set = data.load("tfds:binarized_mnist", tmp_path)
    assert data_set.levels == 2
    assert_equal(data_set, GREY % 2, GREY[:2] % 2)
    with pytest.raises(UserError, match="already have 2 levels: leave --binarize out"):
        data.load("tfds:binarized_mnist", tmp_path, binarize=True)


class NotPrepared:
    """Stands in for a builder whose set must be downloaded: features are known before."""

    def __init__(self, **features):
        self.info = self
        self.features = tfds.features.FeaturesDict(features)

    def is_prepared(self):
        return False


IMAGE = tfds.features.Image(shape=(6, 5, 3))
BAD = {
    "without images": (NotPrepared(text=tfds.features.Text()), {}, "the set x has no images, but text: choose another"),
    "with two kinds": (NotPrepared(left=IMAGE, right=IMAGE), {}, "has several kinds of images, left, right: choose"),
    "of floats": (NotPrepared(image=tfds.features.Image(shape=(6, 5, 1), dtype=np.float32)), {}, "are float32 "),
    "of various sizes": (
        NotPrepared(image=tfds.features.Image()),
        {},
        "of x have various sizes: give the size to crop",
    ),
    "too small": (NotPrepared(image=IMAGE), {"image_size": 6}, "are 6 x 5, smaller than 6 x 6: lower --image_size"),
    "not RGB": (
        NotPrepared(image=tfds.features.Image(shape=(6, 5, 4))),
        {"grey": True},
        "are uint8 with 4 channels: --grey is for 8-bit RGB",
    ),
    "not to be had": (
        NotPrepared(image=IMAGE),
        {},
        r"there is no x in .*, and TensorFlow Datasets can't get it \(no network\): connect this machine",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_set_without_such_images_is_refused_before_its_download(name, tmp_path, monkeypatch):
    builder, options, message = BAD[name]
    monkeypatch.setattr(tfds_sets, "_found", lambda data_dir, name: builder)
    with pytest.raises(UserError, match=message) as error:
        data.load("tfds:x", tmp_path, **options)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "name, message",
    [
        ("mnis", r"has no set mnis, and none is prepared in .*; did you mean mnist or "),
        ("qqqqqq", r"has no set qqqqqq, .*: see www\.tensorflow\.org/datasets/catalog$"),
        ("imagenet_resized:9x9", "the set imagenet_resized of .* has no configuration 9x9; it has 8x8, 16x16, 32x32"),
        ("mnist:large", "the set mnist of .* has no configuration large; leave it out: --data_set=tfds:mnist$"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_in_one_line(name, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        data.load(f"tfds:{name}", tmp_path)
    assert str(error.value).isprintable()


def test_a_set_without_a_training_split_or_with_one_image_is_refused(tmp_path):
    prepare(tmp_path, {"other": (GREY, None)})
    with pytest.raises(UserError, match="the set tiny_set has no split train, but other: choose another set"):
        data.load("tfds:tiny_set", tmp_path)
    prepare(tmp_path, {"train": (GREY[:1], None)}, name="one_image")
    with pytest.raises(UserError, match="the set one_image has a single image, but training and testing need one each"):
        data.load("tfds:one_image", tmp_path)


def test_broken_files_of_a_set_are_refused_in_one_line(tmp_path):
    prepare(tmp_path, {"train": (GREY, None), "test": (GREY[:1], None)})
    (path,) = (tmp_path / "tiny_set").rglob("*train*")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="can't read what TensorFlow Datasets prepared in") as error:
        data.load("tfds:tiny_set", tmp_path)
    assert str(error.value).isprintable()
    (tmp_path / "tiny_set" / "1.0.0" / "features.json").write_text("{")
    with pytest.raises(UserError, match="can't read what TensorFlow Datasets prepared in") as error:
        data.load("tfds:tiny_set", tmp_path)
    assert str(error.value).isprintable()


def test_any_answer_shows_that_there_is_a_connection(monkeypatch):
    class Builder:
        url_infos = {"ftp://x/y": None, "http://127.0.0.1:9/file": None}

    monkeypatch.undo()
    with pytest.raises(OSError, match="refused"):
        tfds_sets._check_connection(Builder())
    asked = []

    def answer(status, request, timeout):
        asked.append((request.full_url, request.get_method()))
        raise tfds_sets.urllib.error.HTTPError(request.full_url, status, "no", {}, None)

    monkeypatch.setattr(tfds_sets.urllib.request, "urlopen", functools.partial(answer, 405))
    tfds_sets._check_connection(Builder())
    assert asked == [("http://127.0.0.1:9/file", "HEAD")]
