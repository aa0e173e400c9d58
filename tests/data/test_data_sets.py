"""Every file format of a data set gives the same pixels; broken or hostile files give an error of one line.

The files are small, but have the structure of the real ones.
"""

import argparse
import concurrent.futures
import gzip
import hashlib
import io
import itertools
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import textwrap
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import data
from data import cifar, cifar10_plotdata, converted, folder, imagenet, imagenet_resized
from pixel_snail.commands import command_line
from pixel_snail.dataset import Split
from pixel_snail.errors import UserError

SIZE = 32


def random_images(number, seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, [number, size, size, 3], np.uint8)


def as_planes(images):
    """[N, H, W, 3] -> [N, 3 H W]: all of R, row by row, then G, then B, as in CIFAR-10's batches."""
    return np.stack([images[..., channel].reshape(len(images), -1) for channel in range(3)], 1).reshape(len(images), -1)


def python2_pickle(pixels, labels):
    """A batch as Python 2's cPickle writes it in protocol 2: strings and the array's bytes are Python 2 strings."""

    def string(value):
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value

    def integer(value):
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + string(b"u1") + integer(0) + integer(1) + b"\x87R"
    dtype += b"(" + integer(3) + string(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + integer(0) + b"\x85" + string(b"b") + b"tR"
    array += b"(" + integer(1) + b"".join(map(integer, pixels.shape)) + b"\x86" + dtype + b"\x89"
    array += string(pixels.tobytes()) + b"tb"
    numbers = b"](" + b"".join(map(integer, labels)) + b"e"
    batch = string(b"batch_label") + string(b"testing batch 1 of 1") + string(b"labels") + numbers
    return b"\x80\x02}(" + batch + string(b"data") + array + b"u."


# CIFAR-10


CIFAR_TRAIN, CIFAR_TEST = random_images(10, 1), random_images(7, 2)
CIFAR_LABELS = np.arange(10), np.arange(7) % 3


def cifar_batches():
    """The contents of the original's folder, by file name."""
    files = {
        name: python2_pickle(as_planes(CIFAR_TRAIN[2 * i : 2 * i + 2]), CIFAR_LABELS[0][2 * i : 2 * i + 2])
        for i, name in enumerate(cifar.TRAIN_MD5)
    }
    return files | {"test_batch": python2_pickle(as_planes(CIFAR_TEST), CIFAR_LABELS[1])}


def write_cifar_folder(data_dir):
    path = data_dir / "cifar-10-python" / "cifar-10-batches-py"
    path.mkdir(parents=True)
    for name, content in cifar_batches().items():
        (path / name).write_bytes(content)
    return path


def write_cifar_repickled(data_dir):
    """Writes the same batches pickled by Python 3, each with another protocol."""
    path = write_cifar_folder(data_dir)
    for protocol, name in enumerate(cifar_batches()):
        content = pickle.loads((path / name).read_bytes(), encoding="bytes")
        (path / name).write_bytes(pickle.dumps(content, protocol=protocol % 6))


def write_cifar_archive(data_dir, extra=()):
    path = data_dir / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in cifar_batches().items():
            add_file(tar, f"cifar-10-batches-py/{name}", content)
        for name in extra:
            add_file(tar, name, b"outside")
    return path


def add_file(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_cifar_tfds(data_dir):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def split(name, images, labels):
        def examples():
            for i in np.random.default_rng(3).permutation(len(images)):
                yield {"id": f"{name}_{i:05d}", "image": images[i], "label": labels[i]}

        signature = {
            "id": tf.TensorSpec([], tf.string),
            "image": tf.TensorSpec([SIZE, SIZE, 3], tf.uint8),
            "label": tf.TensorSpec([], tf.int64),
        }
        return tf.data.Dataset.from_generator(examples, output_signature=signature)

    tfds.dataset_builders.store_as_tfds_dataset(
        name="cifar10",
        version="3.0.2",
        features=tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(SIZE, SIZE, 3)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        ),
        split_datasets={
            "train": split("train", CIFAR_TRAIN, CIFAR_LABELS[0]),
            "test": split("test", CIFAR_TEST, CIFAR_LABELS[1]),
        },
        data_dir=data_dir,
    )


@pytest.fixture
def published_cifar(monkeypatch, tmp_path):
    """Registers the small files as the published ones and makes downloads fail; returns the path of the archive."""
    monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:9/")
    batches = cifar_batches()
    for table in (cifar.TRAIN_MD5, cifar.TEST_MD5):
        for name in table:
            monkeypatch.setitem(table, name, hashlib.md5(batches[name]).hexdigest())
    folder_ = tmp_path / "archive"
    folder_.mkdir()
    archive = write_cifar_archive(folder_)
    monkeypatch.setattr(cifar, "ARCHIVE_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


@pytest.mark.parametrize("form", ["folder", "repickled", "archive", "tfds"])
def test_cifar_is_the_same_in_every_form(form, published_cifar, tmp_path):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    if form == "archive":
        published_cifar.rename(data_dir / published_cifar.name)
    else:
        {"folder": write_cifar_folder, "repickled": write_cifar_repickled, "tfds": write_cifar_tfds}[form](data_dir)
    for _ in range(2):  # the second time from files that the first may have written
        data_set = data.load("cifar", data_dir)
        for split, images, labels in zip(
            (data_set.train, data_set.test), (CIFAR_TRAIN, CIFAR_TEST), CIFAR_LABELS, strict=True
        ):
            np.testing.assert_array_equal(split.images, images)
            np.testing.assert_array_equal(split.labels, labels)
        assert data_set.nr_labels == 10
        assert data_set.class_names[:3] == ("airplane", "automobile", "bird")
        # Batches that were pickled again are no longer the published files.
        assert (data_set.unverified is None) == (form != "repickled")


def test_the_folder_of_batches_comes_before_the_archive_and_the_archive_before_tfds(published_cifar, tmp_path):
    write_cifar_tfds(tmp_path)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(published_cifar.read_bytes())
    assert data.load("cifar", tmp_path).source == str(tmp_path / "cifar-10-python" / "cifar-10-batches-py")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"not looked at")
    data.load("cifar", tmp_path)


def test_changed_batches_are_read_but_not_taken_for_the_published_ones(published_cifar, tmp_path):
    path = write_cifar_folder(tmp_path)
    content = bytearray((path / "test_batch").read_bytes())
    content[-100] ^= 1
    (path / "test_batch").write_bytes(content)
    assert "test_batch" in data.load("cifar", tmp_path).unverified


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def test_a_pickle_that_would_run_code_is_refused(published_cifar, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_cifar_folder(tmp_path)
    for protocol in range(6):
        (path / "test_batch").write_bytes(pickle.dumps({"data": Evil(), "labels": []}, protocol))
        with pytest.raises(UserError, match=r"test_batch is not a batch of images: it asks for \w+\.system"):
            data.load("cifar", tmp_path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ({"data": np.zeros([2, 3072], np.uint8)}, "has no 'labels'"),
        ({"data": np.zeros([2, 3072], np.float32), "labels": [1, 2]}, r"its data are float32 \(2, 3072\)"),
        ({"data": np.zeros([2, 3071], np.uint8), "labels": [1, 2]}, "not a batch of CIFAR-10"),
        ({"data": np.zeros([2, 3072], np.uint8), "labels": [1, 10]}, "labels from 1 to 10"),
        ({"data": np.array([object()]), "labels": [1]}, "an array of O8, not of numbers|asks for"),
        ([1, 2], "it holds a list"),
    ],
)
def test_a_batch_of_something_else_is_refused(content, message, published_cifar, tmp_path):
    path = write_cifar_folder(tmp_path)
    (path / "data_batch_3").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(UserError, match=message):
        data.load("cifar", tmp_path)


def test_a_batch_cut_off_anywhere_is_refused(published_cifar, tmp_path):
    path = write_cifar_folder(tmp_path) / "test_batch"
    content = path.read_bytes()
    for length in (0, 1, 2, 10, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"test_batch is (broken|not a batch)"):
            data.load("cifar", tmp_path)


def test_a_batch_that_is_missing_is_named(published_cifar, tmp_path):
    (write_cifar_folder(tmp_path) / "data_batch_4").unlink()
    with pytest.raises(UserError, match=r"can't read .*data_batch_4: No such file"):
        data.load("cifar", tmp_path)


def test_two_processes_may_unpack_an_archive_at_once(published_cifar, tmp_path, monkeypatch):
    """Threads, each with a lock of its own, as two processes have; both look for the folder before it is there."""
    archive, folder = tmp_path / "cifar-10-python.tar.gz", tmp_path / cifar.FOLDER
    archive.write_bytes(published_cifar.read_bytes())
    both, unpacked, unpack = threading.Barrier(2), [], cifar._unpack_aside
    check = cifar.untrusted.check_checksum

    def check_and_wait(*arguments):
        check(*arguments)
        both.wait(60)

    monkeypatch.setattr(cifar.untrusted, "check_checksum", check_and_wait)
    monkeypatch.setattr(cifar, "_unpack_aside", lambda *arguments: unpacked.append(unpack(*arguments)))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(cifar._unpack, archive, folder) for _ in range(2)]:
            assert future.result(60) == folder
    assert len(unpacked) == 1 and {path.name for path in folder.iterdir()} == set(cifar.TRAIN_MD5 | cifar.TEST_MD5)
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_a_wrong_archive_is_refused_and_nothing_unpacked(published_cifar, tmp_path):
    content = published_cifar.read_bytes()
    for changed in (content[:-20], content + b"x", b""):
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(changed)
        with pytest.raises(UserError, match="is not the published file, or broken: its md5 is"):
            data.load("cifar", tmp_path)
    assert not (tmp_path / "cifar-10-python").exists()


@pytest.mark.parametrize("name", ["../outside", "cifar-10-batches-py/../../outside"])
def test_an_archive_that_would_write_outside_its_folder_is_refused(name, published_cifar, tmp_path, monkeypatch):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    archive = write_cifar_archive(data_dir, extra=[name])
    monkeypatch.setattr(cifar, "ARCHIVE_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=r"tar\.gz is refused: .*outside"):
        data.load("cifar", data_dir)
    assert not list(tmp_path.rglob("outside"))
    assert not (data_dir / "cifar-10-python" / "cifar-10-batches-py").exists()


def test_an_archive_cut_off_is_refused_even_if_its_checksum_agrees(published_cifar, tmp_path, monkeypatch):
    archive = tmp_path / "cifar-10-python.tar.gz"
    tar = gzip.decompress(published_cifar.read_bytes())
    for content in (published_cifar.read_bytes()[:-3000], gzip.compress(tar[: len(tar) // 2])):
        archive.write_bytes(content)
        monkeypatch.setattr(cifar, "ARCHIVE_MD5", hashlib.md5(content).hexdigest())
        with pytest.raises(UserError, match=r"tar\.gz( is broken|: )"):
            data.load("cifar", tmp_path)
        assert not (tmp_path / "cifar-10-python" / "cifar-10-batches-py").exists()


def test_without_cifar_and_without_a_network_one_line_says_what_to_get(published_cifar, tmp_path):
    what = r"download https://\S+/cifar-10-python\.tar\.gz and put it there \(170,498,071 bytes, md5"
    with pytest.raises(UserError, match=what) as error:
        data.load("cifar", tmp_path)
    assert "\n" not in str(error.value)


# ImageNet of 2016, the paper's


IMAGENET_TRAIN, IMAGENET_TEST = random_images(23, 4), random_images(11, 5)


def png(image):
    stream = io.BytesIO()
    PIL.Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


def imagenet_files(images, folder_):
    """The PNGs of a split by name; as in the tars, names are numbers padded with zeros, which sort in order."""
    return {f"{folder_}/{i + 1:07d}.png": png(image) for i, image in enumerate(images)}


def write_tars(data_dir, monkeypatch, size=SIZE, change=lambda name, content: (name, content)):
    for split, images in (("train", IMAGENET_TRAIN), ("valid", IMAGENET_TEST)):
        path = data_dir / f"{split}_{size}x{size}.tar"
        with tarfile.open(path, "w") as tar:
            directory = tarfile.TarInfo(f"{split}_{size}x{size}")
            directory.type = tarfile.DIRTYPE
            tar.addfile(directory)
            for name, content in imagenet_files(images, f"{split}_{size}x{size}").items():
                add_file(tar, *change(name, content))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setitem(imagenet.TARS, path.name, (path.stat().st_size, sha256))


def write_folders(data_dir):
    for split, images in (("train", IMAGENET_TRAIN), ("valid", IMAGENET_TEST)):
        (data_dir / f"{split}_32x32").mkdir()
        for name, content in imagenet_files(images, f"{split}_32x32").items():
            (data_dir / name).write_bytes(content)


def write_npz(data_dir, planes=False, save=np.savez):
    (data_dir / "small_imagenet").mkdir()
    arrays = [images.transpose(0, 3, 1, 2) if planes else images for images in (IMAGENET_TRAIN, IMAGENET_TEST)]
    save(
        data_dir / "small_imagenet" / "imgnet_32x32.npz",
        trainx=np.ascontiguousarray(arrays[0]),
        testx=np.ascontiguousarray(arrays[1]),
    )


def write_imagenet_tfds(data_dir):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    splits = {"train": IMAGENET_TRAIN, "validation": IMAGENET_TEST}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="downsampled_imagenet",
        config="32x32",
        version="2.0.0",
        features=tfds.features.FeaturesDict({"image": tfds.features.Image()}),
        split_datasets={name: tf.data.Dataset.from_tensor_slices({"image": images}) for name, images in splits.items()},
        data_dir=data_dir,
        disable_shuffling=True,
    )


@pytest.mark.parametrize("form", ["tars", "folders", "npz", "npz of planes", "compressed npz", "tfds"])
def test_imagenet_is_the_same_in_every_form(form, tmp_path, monkeypatch):
    monkeypatch.setattr(converted, "rows_per_chunk", lambda shape: 4)  # several chunks
    {
        "tars": lambda: write_tars(tmp_path, monkeypatch),
        "folders": lambda: write_folders(tmp_path),
        "npz": lambda: write_npz(tmp_path),
        "npz of planes": lambda: write_npz(tmp_path, planes=True),
        "compressed npz": lambda: write_npz(tmp_path, save=np.savez_compressed),
        "tfds": lambda: write_imagenet_tfds(tmp_path),
    }[form]()
    for _ in range(2):
        data_set = data.load("imagenet", tmp_path)
        np.testing.assert_array_equal(data_set.train.images[:], IMAGENET_TRAIN)
        np.testing.assert_array_equal(data_set.test.images[:], IMAGENET_TEST)
        assert data_set.nr_labels is None
        assert (data_set.unverified is None) == (form == "tars")


def test_imagenet64_reads_its_own_files(tmp_path, monkeypatch):
    images = random_images(3, 6, 64)
    monkeypatch.setattr(sys.modules[__name__], "IMAGENET_TRAIN", images)
    monkeypatch.setattr(sys.modules[__name__], "IMAGENET_TEST", images[:2])
    write_tars(tmp_path, monkeypatch, size=64)
    data_set = data.load("imagenet64", tmp_path)
    assert data_set.image_shape == (64, 64, 3)
    np.testing.assert_array_equal(data_set.train.images[:], images)
    with pytest.raises(UserError, match="there is no ImageNet 32x32"):
        data.load("imagenet", tmp_path)


def test_the_converted_images_serve_without_what_they_were_made_from(tmp_path, monkeypatch):
    write_tars(tmp_path, monkeypatch)
    data.load("imagenet", tmp_path)
    for path in tmp_path.glob("*.tar"):
        path.unlink()
    data_set = data.load("imagenet", tmp_path)
    np.testing.assert_array_equal(data_set.test.images[:], IMAGENET_TEST)
    assert data_set.unverified is None


def test_converted_test_images_that_were_changed_do_not_count_as_verified(tmp_path, monkeypatch):
    write_tars(tmp_path, monkeypatch)
    path = data.load("imagenet", tmp_path).test.images.path
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    assert "has been changed" in data.load("imagenet", tmp_path).unverified


def test_converted_images_cut_off_are_converted_again(tmp_path, monkeypatch):
    write_tars(tmp_path, monkeypatch)
    path = data.load("imagenet", tmp_path).train.images.path
    path.write_bytes(path.read_bytes()[:-1])
    np.testing.assert_array_equal(data.load("imagenet", tmp_path).train.images[:], IMAGENET_TRAIN)


def test_other_files_in_the_place_of_the_converted_ones_are_converted_anew(tmp_path):
    write_npz(tmp_path)
    data.load("imagenet", tmp_path)
    np.savez(tmp_path / "small_imagenet" / "imgnet_32x32.npz", trainx=IMAGENET_TEST, testx=IMAGENET_TRAIN)
    data_set = data.load("imagenet", tmp_path)
    np.testing.assert_array_equal(data_set.train.images[:], IMAGENET_TEST)
    np.testing.assert_array_equal(data_set.test.images[:], IMAGENET_TRAIN)


@pytest.mark.parametrize("form", ["tars", "folders", "npz", "tfds"])
def test_an_interrupted_conversion_goes_on_and_gives_the_same_bytes(form, tmp_path, monkeypatch):
    write = {
        "tars": lambda path: write_tars(path, monkeypatch),
        "folders": write_folders,
        "npz": write_npz,
        "tfds": write_imagenet_tfds,
    }[form]
    write(tmp_path)
    monkeypatch.setattr(converted, "rows_per_chunk", lambda shape: 4)
    fsync, calls = os.fsync, itertools.count()

    def interrupted(number):
        if next(calls) == 7:  # in mid-conversion: only some chunks are written
            raise KeyboardInterrupt
        fsync(number)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.load("imagenet", tmp_path)
    (journal,) = (tmp_path / converted.FOLDER).rglob("train.journal")
    assert not list((tmp_path / converted.FOLDER).rglob("train.json"))
    assert '"images": 8' in journal.read_text()

    read = []  # the image numbers from which sources are read
    splits = converted.splits

    def watched(folder_, sources):
        def watch(source):
            return converted.dataclasses.replace(
                source, chunks=lambda start: read.append(start) or source.chunks(start)
            )

        return splits(folder_, {name: watch(source) for name, source in sources.items()})

    monkeypatch.setattr(converted, "splits", watched)
    data_set = data.load("imagenet", tmp_path)
    assert read == [8, 0]
    np.testing.assert_array_equal(data_set.train.images[:], IMAGENET_TRAIN)
    np.testing.assert_array_equal(data_set.test.images[:], IMAGENET_TEST)
    assert not list((tmp_path / converted.FOLDER).rglob("*.part"))


def test_a_disk_that_fills_up_gives_one_line_and_no_half_made_set(tmp_path):
    """A process whose files are limited to 40 kB stands in for the full disk: its write really fails."""
    write_npz(tmp_path)
    program = f"""
        import resource
        from pathlib import Path
        import data
        from pixel_snail.commands import command_line
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        command_line.run(lambda _: None, lambda _: data.load("imagenet", Path({str(tmp_path)!r})))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line and "converting" not in line]
    assert line.startswith("error: ")
    assert "can't write" in line
    assert "File too large" in line
    data_set = data.load("imagenet", tmp_path)  # without the limit
    np.testing.assert_array_equal(data_set.train.images[:], IMAGENET_TRAIN)


def test_a_tar_with_another_checksum_is_refused(tmp_path, monkeypatch):
    write_tars(tmp_path, monkeypatch)
    with open(tmp_path / "train_32x32.tar", "ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"train_32x32\.tar is not the published file, or broken: its sha256 is"):
        data.load("imagenet", tmp_path)
    assert not list((tmp_path / converted.FOLDER).rglob("*.json"))


def test_a_tar_that_would_write_outside_its_folder_is_refused(tmp_path, monkeypatch):
    write_tars(tmp_path, monkeypatch, change=lambda name, content: (name.replace("train_32x32/", "../"), content))
    with pytest.raises(UserError, match=r"train_32x32\.tar is refused: .*outside"):
        data.load("imagenet", tmp_path)


def test_a_tar_cut_off_is_refused_even_if_its_checksum_agrees(tmp_path, monkeypatch):
    write_tars(tmp_path, monkeypatch)
    path = tmp_path / "train_32x32.tar"
    path.write_bytes(path.read_bytes()[:9000])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(imagenet.TARS, path.name, (9000, sha256))
    with pytest.raises(UserError, match=r"train_32x32\.tar"):
        data.load("imagenet", tmp_path)
    assert not list((tmp_path / converted.FOLDER).rglob("*.json"))


def test_a_png_of_another_size_or_a_broken_one_is_named(tmp_path):
    write_folders(tmp_path)
    path = tmp_path / "valid_32x32" / "0000003.png"
    content = path.read_bytes()
    path.write_bytes(png(random_images(1, 0, 31)[0]))
    with pytest.raises(UserError, match=r"0000003\.png is 31 x 31 pixels, not 32 x 32"):
        data.load("imagenet", tmp_path)
    path.write_bytes(content[:-200])
    with pytest.raises(UserError, match=r"0000003\.png is not a PNG, JPEG or WebP picture that can be read"):
        data.load("imagenet", tmp_path)
    path.write_bytes(content)
    np.testing.assert_array_equal(data.load("imagenet", tmp_path).test.images[:], IMAGENET_TEST)


def test_an_empty_folder_is_refused(tmp_path):
    for name in ("train_32x32", "valid_32x32"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="train_32x32 has no PNG files"):
        data.load("imagenet", tmp_path)


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-5000]), "is broken or cut off"),
        (lambda path: path.write_bytes(b""), "is broken or cut off"),
        (lambda path: np.savez(path, trainx=IMAGENET_TRAIN), "has no array 'testx'"),
        (
            lambda path: np.savez(path, trainx=IMAGENET_TRAIN, testx=np.zeros([2, 31, 32, 3], np.uint8)),
            "testx is uint8",
        ),
        (lambda path: np.savez(path, trainx=IMAGENET_TRAIN / 255, testx=IMAGENET_TEST), "trainx is float64"),
        (lambda path: np.savez(path, data=as_planes(IMAGENET_TRAIN), labels=[1]), "--data_set=imagenet_resized"),
        (
            lambda path: np.savez(path, trainx=np.array([Evil()]), testx=IMAGENET_TEST),
            "trainx is not an array of images",
        ),
    ],
)
def test_an_npz_that_is_broken_or_holds_something_else_is_refused(write, message, tmp_path):
    write_npz(tmp_path)
    write(tmp_path / "small_imagenet" / "imgnet_32x32.npz")
    with pytest.raises(UserError, match=message):
        data.load("imagenet", tmp_path)


def test_without_imagenet_one_line_says_which_files_are_needed(tmp_path):
    with pytest.raises(UserError) as error:
        data.load("imagenet", tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for part in ("link is gone", "train_32x32.tar (4,113,018,880 bytes, sha256 244a323d", "161,474,560", str(tmp_path)):
        assert part in message
    assert not list(tmp_path.iterdir())


# ImageNet of 2017


def write_resized(data_dir, form, train=IMAGENET_TRAIN, test=IMAGENET_TEST):
    """Writes the batches as the archives unpack: pixels as planes, labels from 1, and the mean image."""
    labels = [np.arange(len(images)) % 1000 + 1 for images in (train, test)]
    batches = {f"train_data_batch_{i + 1}": slice(2 * i, 2 * i + 2) for i in range(-(-len(train) // 2))}
    contents = {name: (train[rows], labels[0][rows]) for name, rows in batches.items()} | {
        "val_data": (test, labels[1])
    }
    for name, (images, batch_labels) in contents.items():
        batch = {"data": as_planes(images), "labels": batch_labels, "mean": as_planes(train).mean(0)}
        kind = "val" if name == "val_data" else "train"
        path = data_dir / (f"Imagenet32_{kind}_npz" if form == "npz" else f"Imagenet32_{kind}") / name
        path.parent.mkdir(exist_ok=True)
        if form == "npz":
            np.savez(path, **batch)
        else:
            path.write_bytes(pickle.dumps(batch | {"labels": batch_labels.tolist()}))


@pytest.mark.parametrize("form", ["npz", "pickled"])
def test_the_imagenet_of_2017_is_the_same_in_both_forms(form, tmp_path, monkeypatch):
    monkeypatch.setattr(converted, "rows_per_chunk", lambda shape: 3)
    write_resized(tmp_path, form)  # twelve batches: the tenth must not come before the second
    for _ in range(2):
        data_set = data.load("imagenet_resized", tmp_path)
        np.testing.assert_array_equal(data_set.train.images[:], IMAGENET_TRAIN)
        np.testing.assert_array_equal(data_set.test.images[:], IMAGENET_TEST)
        np.testing.assert_array_equal(data_set.train.labels, np.arange(len(IMAGENET_TRAIN)))
        np.testing.assert_array_equal(data_set.test.labels, np.arange(len(IMAGENET_TEST)))
        assert "2017" in data_set.unverified


@pytest.mark.parametrize("form", ["npz", "pickled"])
def test_the_imagenet_of_2017_is_not_taken_for_the_papers(form, tmp_path):
    write_resized(tmp_path, form)
    with pytest.raises(UserError, match=r"the version of 2017, another set: --data_set=imagenet_resized"):
        data.load("imagenet", tmp_path)


def test_a_conversion_of_2017s_batches_goes_on_in_mid_batch_with_its_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(converted, "rows_per_chunk", lambda shape: 1)
    write_resized(tmp_path, "npz")
    chunks = imagenet_resized._chunks

    def broken_off(paths, size, start):
        yield from itertools.islice(chunks(paths, size, start), 5)
        raise KeyboardInterrupt

    monkeypatch.setattr(imagenet_resized, "_chunks", broken_off)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            data.load("imagenet_resized", tmp_path)
    monkeypatch.setattr(imagenet_resized, "_chunks", chunks)
    data_set = data.load("imagenet_resized", tmp_path)
    np.testing.assert_array_equal(data_set.train.images[:], IMAGENET_TRAIN)
    np.testing.assert_array_equal(data_set.train.labels, np.arange(len(IMAGENET_TRAIN)))


def test_labels_of_2017s_imagenet_that_are_none_are_refused(tmp_path):
    write_resized(tmp_path, "npz")
    path = tmp_path / "Imagenet32_train_npz" / "train_data_batch_1.npz"
    np.savez(path, data=as_planes(IMAGENET_TRAIN[:2]), labels=[0, 5])
    with pytest.raises(UserError, match="labels from 0 to 5, not from 1 to 1000"):
        data.load("imagenet_resized", tmp_path)
    np.savez(path, data=as_planes(IMAGENET_TRAIN[:2]), labels=[1, 2, 3])
    with pytest.raises(UserError, match="has 2 images and labels"):
        data.load("imagenet_resized", tmp_path)


def test_batches_of_2017s_imagenet_that_are_missing_or_there_twice_are_reported(tmp_path):
    write_resized(tmp_path, "npz", IMAGENET_TRAIN[:6], IMAGENET_TEST[:6])
    data_set = data.load("imagenet_resized", tmp_path)
    assert len(data_set.train) == 6 and data_set.notes == ("there are 3 of the 10 batches of training images",)
    folder = tmp_path / "Imagenet32_train_npz"
    shutil.copytree(folder, tmp_path / "Imagenet32_train_copy")
    with pytest.raises(UserError, match=r"batch_1.npz and .*batch_1.npz are the same batch of training images: move"):
        data.load("imagenet_resized", tmp_path)
    shutil.rmtree(tmp_path / "Imagenet32_train_copy")
    (folder / "train_data_batch_2.npz").unlink()
    with pytest.raises(UserError, match=r"has train_data_batch_3\.npz, but no train_data_batch_2: unpack all batches"):
        data.load("imagenet_resized", tmp_path)


# A folder of pictures


def write_pictures(data_dir, names, size=(40, 36)):
    """Writes lossless pictures of noise, all different, and returns them by name."""
    pictures = {}
    for i, name in enumerate(names):
        path = data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = np.random.default_rng(i).integers(0, 256, [*size, 3], np.uint8)
        PIL.Image.fromarray(picture).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
        pictures[name] = picture
    return pictures


def test_a_folder_of_pictures_is_cropped_and_split_by_its_folders(tmp_path):
    names = ["train/b.png", "train/deep/a.PNG", "train/c.webp", "test/d.png", "elsewhere/e.png"]
    pictures = write_pictures(tmp_path, names)
    (tmp_path / "train" / "readme.txt").write_text("not a picture")
    data_set = data.load("folder", tmp_path)
    expected = {name: picture[4:36, 2:34] for name, picture in pictures.items()}
    np.testing.assert_array_equal(
        data_set.train.images[:], [expected[name] for name in ("train/b.png", "train/c.webp", "train/deep/a.PNG")]
    )
    np.testing.assert_array_equal(data_set.test.images[:], [expected["test/d.png"]])
    # Another size is converted separately.
    assert data.load("folder", tmp_path, image_size=16).image_shape == (16, 16, 3)


def test_a_folder_without_a_split_is_split_the_same_way_every_time(tmp_path):
    write_pictures(tmp_path / "a", [f"{i}.png" for i in range(30)])
    write_pictures(tmp_path / "b", [f"{i}.png" for i in range(30)])
    first, second = (data.load("folder", tmp_path / name) for name in ("a", "b"))
    assert (len(first.train), len(first.test)) == (27, 3)
    np.testing.assert_array_equal(first.test.images[:], second.test.images[:])
    together = {image.tobytes() for split in (first.train, first.test) for image in split.images[:]}
    assert len(together) == 30


def test_pictures_are_downsampled_only_when_asked(tmp_path):
    flat = np.full([64, 96, 3], [10, 200, 30], np.uint8)
    flat[:, :48] = [250, 0, 90]
    for name in ("train/a.png", "test/a.png"):
        (tmp_path / name).parent.mkdir()
        PIL.Image.fromarray(flat).save(tmp_path / name)
    cropped = data.load("folder", tmp_path).test.images[0]
    np.testing.assert_array_equal(cropped, flat[16:48, 32:64])
    small = data.load("folder", tmp_path, downsample=True).test.images[0]
    assert small.shape == (32, 32, 3)
    assert np.abs(small[:, :12].astype(int) - [250, 0, 90]).max() <= 2
    assert np.abs(small[:, 20:].astype(int) - [10, 200, 30]).max() <= 2


def test_a_new_picture_is_seen(tmp_path):
    write_pictures(tmp_path, ["train/a.png", "test/b.png"])
    assert len(data.load("folder", tmp_path).train) == 1
    write_pictures(tmp_path, ["train/c.png"])
    assert len(data.load("folder", tmp_path).train) == 2


@pytest.mark.parametrize(
    "names, size, message",
    [
        ([], 32, "there are no PNG, JPEG or WebP pictures for the train split"),
        (["only.png"], 32, "has only one picture, only.png, but training and testing need one each: add another$"),
        (["train/a.png", "test/readme.txt"], 32, "pictures for the test split"),
    ],
)
def test_a_folder_with_too_few_pictures_is_refused(names, size, message, tmp_path):
    write_pictures(tmp_path, [name for name in names if name.endswith(".png")])
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        data.load("folder", tmp_path, image_size=size)


def test_what_is_written_among_the_pictures_is_refused(tmp_path):
    for inside in (tmp_path, tmp_path / "save" / "runs", tmp_path / "other" / ".." / "save"):
        with pytest.raises(UserError, match="below which all pictures are the data set"):
            folder.check_apart(tmp_path, inside)
    folder.check_apart(tmp_path / "pictures", tmp_path / "save")
    write_pictures(tmp_path, ["train/a.png", "test/b.png"])
    folder.check_apart(tmp_path, tmp_path / "save")  # only train and test are read


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        data.load("folder", tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name, option, message",
    [
        (
            "photos",
            {"image_size": 64},
            "--image_size is not for --data_set=photos, but for folder or imagenet",
        ),
        ("cifar", {"downsample": True}, "--downsample is not for --data_set=cifar, but for folder$"),
        ("imagenet", {"skip_bad": True}, "--skip_bad is not for --data_set=imagenet, but for folder$"),
        ("imagenet_resized", {"max_megapixels": 10}, "--max_megapixels is not for --data_set=imagenet_resized"),
        ("imagenet64", {"test_folder": "val"}, "--test_folder is not for --data_set=imagenet64"),
    ],
)
def test_an_option_is_refused_for_a_set_that_does_not_have_it(name, option, message, tmp_path):
    with pytest.raises(UserError, match=message):
        data.load(name, tmp_path, **option)


def test_an_option_at_its_default_is_not_refused(tmp_path):
    flags = command_line.DATA_DEFAULTS | {"data_set": "photos", "save_dir": None, "class_conditional": False}
    assert len(data.from_flags(argparse.Namespace(**flags)).train) == 5638


def test_the_limit_of_megapixels_is_for_a_picture_to_complete_too(tmp_path):
    flags = {"data_set": "photos", "save_dir": None, "class_conditional": False, "max_megapixels": 300}
    with pytest.raises(UserError, match="--max_megapixels is not for --data_set=photos"):
        data.from_flags(argparse.Namespace(**command_line.DATA_DEFAULTS | flags))
    flags["complete"] = "large.png"
    assert len(data.from_flags(argparse.Namespace(**command_line.DATA_DEFAULTS | flags)).train) == 5638


# The contact sheet


def test_a_contact_sheet_has_a_row_for_each_class_and_without_labels_is_plain(published_cifar, tmp_path, capsys):
    labels = np.repeat([2, 0, 1], 12)
    split = Split(random_images(36, 0, 4), labels)
    chosen = cifar10_plotdata.rows(split)
    np.testing.assert_array_equal(labels[chosen], np.repeat([0, 1, 2], 10))
    assert len(set(chosen)) == 30
    plain = cifar10_plotdata.rows(Split(random_images(500, 0, 4)))
    assert len(set(plain)) == 100

    write_cifar_folder(tmp_path)  # one image a class: too few for a row
    flags = cifar10_plotdata.parse_flags([f"--data_dir={tmp_path}", f"-o{tmp_path}"])
    cifar10_plotdata.plot(flags)
    sheet = np.asarray(PIL.Image.open(tmp_path / "cifar_images.png"))
    np.testing.assert_array_equal(sheet, np.concatenate(CIFAR_TRAIN, 1))
    assert "10 training and 7 test images" in capsys.readouterr().out
