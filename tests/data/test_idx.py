"""MNIST and Fashion-MNIST: every form of their four files gives the same images; broken files give one line.

The files are small, but have the structure of the real ones.
"""

import gzip
import hashlib
import shutil
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_untrusted import damaged, examples, harmless, refused

import data
from data import idx, mnist, tfds_sets
from pixel_snail.errors import UserError
from pixel_snail.parallel import devices

rng = np.random.default_rng(0)
IMAGES = {"train": rng.integers(0, 256, [9, 6, 5], np.uint8), "t10k": rng.integers(0, 256, [4, 6, 5], np.uint8)}
LABELS = {"train": np.arange(9, dtype=np.uint8) % 10, "t10k": np.array([9, 0, 3, 3], np.uint8)}


def idx_file(array, kind=0x08):
    return struct.pack(f">4B{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


FILES = {
    f"{split}-{part}": idx_file(arrays[split])
    for part, arrays in (("images", IMAGES), ("labels", LABELS))
    for split in IMAGES
}
"""The contents of the four files, by the beginnings of their names."""


def write(folder, files=FILES, separator="-", compressed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in files.items():
        name = f"{part}{separator}idx{3 if 'images' in part else 1}-ubyte"
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def assert_whole(data_set):
    for split, name in ((data_set.train, "train"), (data_set.test, "t10k")):
        np.testing.assert_array_equal(split.images, IMAGES[name][..., None])
        np.testing.assert_array_equal(split.labels, LABELS[name])
        assert split.images.dtype == np.uint8


@pytest.fixture
def published(monkeypatch):
    """Registers the small files as the published ones."""
    for name in mnist.MD5:
        md5 = tuple(hashlib.md5(FILES[part]).hexdigest() for part in mnist.PARTS)
        monkeypatch.setitem(mnist.MD5, name, md5 if name == "mnist" else ("other",) * 4)


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("folder", [".", "mnist"])
def test_every_form_of_the_files_gives_the_same_published_set(separator, compressed, folder, published, tmp_path):
    write(tmp_path / folder, separator=separator, compressed=compressed)
    data_set = data.load("mnist", tmp_path)
    assert_whole(data_set)
    assert (data_set.unverified, data_set.levels, data_set.image_shape) == (None, 256, (6, 5, 1))
    assert data_set.class_names == tuple("0123456789")


def test_the_class_names_of_fashion_mnist_are_the_published_ones(tmp_path):
    write(tmp_path / "fashion_mnist")
    names = data.load("fashion_mnist", tmp_path).class_names
    assert names == (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )


def test_each_set_is_read_from_its_own_folder_and_is_not_taken_for_the_other(published, tmp_path):
    write(tmp_path / "mnist")
    others = {part: idx_file(255 - IMAGES[part.partition("-")[0]]) for part in FILES if "images" in part}
    write(tmp_path / "fashion_mnist", FILES | others)
    np.testing.assert_array_equal(data.load("fashion_mnist", tmp_path).test.images, 255 - IMAGES["t10k"][..., None])
    assert_whole(data.load("mnist", tmp_path))
    with pytest.raises(UserError, match=r"are those of another set: --data_set=mnist$"):
        data.load("fashion_mnist", tmp_path / "mnist")


def test_a_file_is_read_and_not_its_compressed_form(published, tmp_path):
    write(tmp_path)
    write(tmp_path, dict.fromkeys(FILES, b"broken"), compressed=True)
    assert_whole(data.load("mnist", tmp_path))


def test_a_compressed_file_is_recognised_by_its_content(published, tmp_path):
    """Some programs uncompress files while they download them, and keep their names."""
    write(tmp_path, compressed=True)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(FILES["train-images"])
    assert_whole(data.load("mnist", tmp_path))


def test_changed_files_are_read_but_do_not_count_as_published(published, tmp_path):
    write(tmp_path, FILES | {"t10k-labels": idx_file(LABELS["t10k"][::-1])}, compressed=True)
    assert data.load("mnist", tmp_path).unverified == (
        f"by their md5, t10k-labels-idx1-ubyte.gz in {tmp_path} are not the published files"
    )


@pytest.mark.parametrize("missing", [["t10k-labels"], ["train-images", "t10k-images"]])
def test_missing_files_are_named(missing, tmp_path):
    write(tmp_path / "mnist", {part: content for part, content in FILES.items() if part not in missing})
    named = " and ".join(f"{part}-idx{3 if 'images' in part else 1}-ubyte" for part in missing)
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'mnist'} lacks ") and message.endswith("of mnist there")
    assert all(name in message for name in named.split(" and "))


def test_without_files_and_without_a_network_one_line_says_what_to_get(tmp_path, monkeypatch):
    def no_network(builder):
        raise OSError("no network")

    monkeypatch.setattr(tfds_sets, "_check_connection", no_network)
    with pytest.raises(UserError) as error:
        data.load("fashion_mnist", tmp_path)
    assert str(error.value) == (
        f"there is no fashion_mnist in {tmp_path}, and TensorFlow Datasets can't get it (no network): put there "
        "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz"
    )


SIXTEEN = idx_file(IMAGES["train"].astype(">u2"), 0x0B)
BROKEN = {
    "empty": (
        {"train-images": b""},
        "train-images.* is neither an IDX file of images nor one compressed by gzip: it begins with nothing$",
    ),
    "a picture": (
        {"train-images": b"\x89PNG\r\n"},
        "is neither an IDX file of images nor .*: it begins with 89 50 4e 47$",
    ),
    "labels as images": ({"train-images": FILES["train-labels"]}, "its array has 1 dimension, not 3; labels have 1$"),
    "images as labels": (
        {"t10k-labels": FILES["t10k-images"]},
        "of labels: its array has 3 dimensions, not 1; images have 3$",
    ),
    "16 bits": ({"train-images": SIXTEEN}, "has 16-bit values, not 8-bit ones: save its images as bytes$"),
    "floats": ({"train-images": idx_file(IMAGES["train"], 0x0D)}, "has floating-point values, not 8-bit ones"),
    "an unknown type": ({"train-images": idx_file(IMAGES["train"], 0x0A)}, "it begins with 00 00 0a 03$"),
    "a short header": ({"train-images": FILES["train-images"][:14]}, "is cut off within its header"),
    "no images": ({"train-images": idx_file(IMAGES["train"][:0])}, r"has no values: its shape is \[0, 6, 5\]"),
    "cut off": ({"train-images": FILES["train-images"][:-1]}, "is cut off: "),
    "too long": ({"t10k-images": FILES["t10k-images"] + b"x"}, "goes on after the 120 bytes of its array"),
    "fewer labels": (
        {"train-labels": FILES["t10k-labels"]},
        "has 9 images, but .*train-labels.* 4 labels: get both files anew$",
    ),
    "a label of 10": ({"train-labels": idx_file(LABELS["train"] + 2)}, "image 8 has the label 10, not one from 0 to 9"),
    "other sizes": ({"t10k-images": idx_file(IMAGES["t10k"][:, :5])}, r"images are \(6, 5, 1\), the test images \(5"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_in_one_line(name, compressed, tmp_path):
    files, message = BROKEN[name]
    write(tmp_path, FILES | files, compressed=compressed)
    with pytest.raises(UserError, match=message) as error:
        data.load("mnist", tmp_path)
    assert str(error.value).isprintable()


def test_a_broken_gzip_file_is_refused_in_one_line(published, tmp_path):
    write(tmp_path, compressed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    for broken in (content[:-9], content[:20], content[:-8] + bytes(8), content[:2], content + content):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz (is broken|is cut off|goes on)"):
            data.load("mnist", tmp_path)


def test_a_gzip_file_that_unpacks_to_far_more_than_it_says_takes_no_memory(tmp_path):
    """100 MB in 0.5 MB: only so much is read as the header says."""
    write(tmp_path)
    zeros = bytes(100 << 20)
    for number in (9, 60_000, 1 << 31):
        header = struct.pack(">4B3I", 0, 0, 8, 3, number, 6, 5)
        (tmp_path / "train-images-idx3-ubyte").write_bytes(gzip.compress(header + zeros, 1))
        assert refused(tmp_path, data.load, "mnist", tmp_path)


def test_an_array_that_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    write(tmp_path, compressed=True)
    monkeypatch.setattr(devices, "available_memory", lambda: 100)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz takes 0 MB of memory, and there are 0 MB: end"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_file_is_refused_or_still_a_set(compressed, tmp_path):
    write(tmp_path, compressed=compressed)
    paths = sorted(tmp_path.iterdir())
    contents = {path: path.read_bytes() for path in paths}

    @examples(60)
    @given(st.sampled_from(paths).flatmap(lambda path: st.tuples(st.just(path), damaged(contents[path]))))
    def law(change):
        for path in paths:
            path.write_bytes(change[1] if path == change[0] else contents[path])
        with harmless(tmp_path):
            data_set = data.load("mnist", tmp_path)
            if compressed:  # gzip's checksum
                assert_whole(data_set)
            for split in (data_set.train, data_set.test):
                assert split.images.dtype == np.uint8 and split.images.shape[3] == 1
                assert len(split.labels) == len(split.images) and split.labels.max() <= 9

    law()


def test_the_md5_is_that_of_the_uncompressed_file(tmp_path):
    for compress in (bytes, gzip.compress):
        (tmp_path / "file").write_bytes(compress(FILES["t10k-images"]))
        array, md5 = idx.read(tmp_path / "file", 3)
        np.testing.assert_array_equal(array, IMAGES["t10k"])
        assert md5 == hashlib.md5(FILES["t10k-images"]).hexdigest()
    shutil.rmtree(tmp_path)
    with pytest.raises(UserError, match=r"can't read .*: No such file"):
        idx.read(tmp_path / "file", 3)
