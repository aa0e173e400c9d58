"""What can't be read is never taken for absent: an unprivileged user gets one line that names it.

As root, who may read everything, the cases run in a forked process that has become another user.
"""

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from test_data_sets import (
    IMAGENET_TEST,
    IMAGENET_TRAIN,
    as_planes,
    random_images,
    write_cifar_folder,
    write_npz,
    write_pictures,
)
from test_idx import write as write_mnist

import data
from data import cifar, converted
from pixel_snail.errors import UserError

NOBODY = 65534
SMALL = {"size": (9, 9)}


def as_nobody(work, place):
    """What work() returns, as JSON keeps it, in a process of an unprivileged user, to whom `place` then belongs."""
    is_root = os.geteuid() == 0
    if is_root:
        for path in [place, *place.rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking with TensorFlow's threads
        process = os.fork()
    if not process:
        try:
            os.chdir(place)  # the folders above it are closed to others
            if is_root:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            result = {"done": work()}
        except BaseException as error:
            result = {"failed": repr(error)}
        with os.fdopen(writing, "w") as file:
            json.dump(result, file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        result = json.load(file)
    os.waitpid(process, 0)
    assert "failed" not in result, result
    return result["done"]


def files_below(place):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in place.rglob("*") if path.is_file()}


def told(name, data_dir, **options):
    """The error of loading a data set; without an error, the sizes of its splits, and its further notes."""
    try:
        data_set = data.load(name, Path(data_dir), **options)
    except UserError as error:
        return str(error)
    notes = data_set.notes[1:] if name == "folder" else data_set.notes  # the first is about the square in the middle
    return [len(data_set.train), len(data_set.test), *notes]


def under_modes(cases):
    """For each case, (path, mode, load): what load() tells while the path has this mode."""

    def work():
        results = []
        for path, mode, load in cases:
            before = os.stat(path).st_mode
            os.chmod(path, mode)
            results.append(load())
            os.chmod(path, before)
        return results

    return work


def write_splits(place):
    """Writes one folder of pictures with splits and another without."""
    names = [f"{split}/{name}/{i}.png" for split in ("train", "test") for name in "ab" for i in range(2)]
    write_pictures(place / "split", [*names, "other/c.png", "train/.hidden/c.png", "train/lost+found/c.png"], **SMALL)
    write_pictures(place / "plain", [f"{name}/{i}.png" for name in "ab" for i in range(10)], **SMALL)
    write_pictures(place / "linked", [f"a/{i}.png" for i in range(10)], **SMALL)
    write_pictures(place / "aside", ["b/c/0.png"], **SMALL)
    (place / "linked" / "b").symlink_to("../aside/b/c")


def folder(data_dir, **options):
    return told("folder", data_dir, image_size=8, **options)


def test_a_folder_of_pictures_that_cannot_be_listed_is_an_error_that_names_it(tmp_path):
    write_splits(tmp_path)
    assert folder(tmp_path / "plain") == [18, 2]  # this also imports whatever the other user may not
    shutil.rmtree(tmp_path / "plain" / converted.FOLDER)
    closed = [
        ("plain/b", 0o000, "plain"),
        ("plain/b", 0o311, "plain"),
        ("plain/b", 0o444, "plain"),
        ("plain", 0o000, "plain"),
        ("plain", 0o311, "plain"),
        ("split/train", 0o000, "split"),
        ("split/test", 0o000, "split"),
        ("split/test/b", 0o000, "split"),
        ("split/train/a", 0o644, "split"),
        ("split", 0o444, "split"),
        ("aside", 0o000, "linked"),
        ("aside/b/c", 0o000, "linked"),
        ("linked", 0o444, "linked"),
    ]
    cases = [
        (path, mode, lambda data_dir=data_dir, classes=classes: folder(data_dir, classes=classes))
        for path, mode, data_dir in closed
        for classes in (False, True)
    ]
    results = as_nobody(under_modes(cases), tmp_path)
    for (path, mode, _), result in zip(cases, results, strict=True):
        named = "linked/b" if path.startswith("aside") else path
        told = (f"can't read {named}", f"can't look at {named}")
        assert isinstance(result, str) and result.startswith(told), (path, oct(mode), result)
        assert result.endswith(": Permission denied")


def test_what_is_not_read_may_be_closed_and_a_closed_picture_is_a_bad_one(tmp_path):
    write_splits(tmp_path)
    folder(tmp_path / "plain")
    left_out = (
        "1 of 8 pictures is left out: train/a/0.png (not a PNG, JPEG or WebP picture that can be read: no permiss"
    )
    cases = [
        ("split/train/a/0.png", 0o000, lambda: folder("split")),
        ("split/train/a/0.png", 0o000, lambda: folder("split", skip_bad=True)),
        ("split/other", 0o000, lambda: folder("split")),
        ("split/train/.hidden", 0o000, lambda: folder("split")),
        ("split/train/lost+found", 0o000, lambda: folder("split", classes=True)),
    ]
    closed, skipped, *others = as_nobody(under_modes(cases), tmp_path)
    assert closed.startswith("1 of 8 pictures in split can't be used")
    assert skipped[:2] == [3, 4] and skipped[2].startswith(left_out)
    assert others == [[4, 4]] * 3


def test_a_conversion_that_cannot_be_read_is_not_made_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache, cases = Path(converted.FOLDER, "imagenet_32x32"), []
    for name in ("there", "gone"):
        Path(name).mkdir()
        write_npz(Path(name))
        images = data.load("imagenet", Path(name)).train.images.path.name
        cases += [
            (Path(name, path), 0o000, lambda name=name: told("imagenet", name))
            for path in (converted.FOLDER, cache, cache / "train.json", cache / "test.json", cache / images)
        ]
    shutil.rmtree("gone/small_imagenet")
    before = files_below(tmp_path)
    for (path, _, _), result in zip(cases, as_nobody(under_modes(cases), tmp_path), strict=True):
        message = f"can't read {path.parts[0]}/{cache}: Permission denied; correct this and start again, or choose"
        assert isinstance(result, str) and result.startswith(message), (path, result)
    assert files_below(tmp_path) == before


def test_published_sets_and_arrays_that_cannot_be_read_are_not_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:9/")
    (tmp_path / "npz").mkdir()
    write_npz(tmp_path / "npz")
    write_pictures(tmp_path / "png", ["train_32x32/a.png", "valid_32x32/a.png"], size=(32, 32))
    for split, name in (("train", "train_data_batch_1"), ("val", "val_data")):
        place = tmp_path / "resized" / f"Imagenet32_{split}_npz"
        place.mkdir(parents=True)
        np.savez(place / f"{name}.npz", data=as_planes(random_images(3, 0)), labels=[1, 2, 3])
    write_cifar_folder(tmp_path / "cifar")
    (tmp_path / "tfds" / "cifar10" / "3.0.2").mkdir(parents=True)
    (tmp_path / "tfds" / "any_set" / "1.0.0").mkdir(parents=True)
    write_mnist(tmp_path / "mnist")
    (tmp_path / "arrays").mkdir()
    for name in ("train", "test"):
        np.save(tmp_path / "arrays" / f"{name}.npy", random_images(3, 0))
    np.savez(tmp_path / "arrays" / "both.npz", train=random_images(3, 0))
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / cifar.ARCHIVE).write_bytes(b"closed")
    for name, data_dir in (
        ("imagenet", "npz"),
        ("imagenet", "png"),
        ("imagenet_resized", "resized"),
        ("cifar", "cifar"),
        ("mnist", "mnist"),
        ("arrays", "arrays"),
        ("arrays", "arrays/both.npz"),
    ):
        assert isinstance(told(name, tmp_path / data_dir), list)
        shutil.rmtree(tmp_path / data_dir / converted.FOLDER, ignore_errors=True)
    closed = [
        ("imagenet", "npz", "npz", 0o000),
        ("imagenet", "npz", "npz/small_imagenet", 0o000),
        ("imagenet", "npz", "npz/small_imagenet/imgnet_32x32.npz", 0o000),
        ("imagenet", "png", "png/train_32x32", 0o000),
        ("imagenet", "png", "png/valid_32x32", 0o311),
        ("imagenet", "png", "png/valid_32x32/a.png", 0o000),
        ("imagenet_resized", "resized", "resized", 0o000),
        ("imagenet_resized", "resized", "resized/Imagenet32_train_npz", 0o000),
        ("imagenet_resized", "resized", "resized/Imagenet32_val_npz", 0o000),
        ("imagenet_resized", "resized", "resized/Imagenet32_train_npz/train_data_batch_1.npz", 0o000),
        ("cifar", "cifar", "cifar", 0o000),
        ("cifar", "cifar", "cifar/cifar-10-python", 0o000),
        ("cifar", "cifar", "cifar/cifar-10-python/cifar-10-batches-py", 0o000),
        ("cifar", "cifar", "cifar/cifar-10-python/cifar-10-batches-py/test_batch", 0o000),
        ("cifar", "tfds", "tfds/cifar10", 0o000),
        ("cifar", "tfds", "tfds/cifar10/3.0.2", 0o000),
        ("cifar", "archive", f"archive/{cifar.ARCHIVE}", 0o000),
        ("tfds:any_set", "tfds", "tfds/any_set/1.0.0", 0o000),
        ("mnist", "mnist", "mnist", 0o000),
        ("mnist", "mnist", "mnist/train-labels-idx1-ubyte", 0o000),
        ("arrays", "arrays", "arrays", 0o000),
        ("arrays", "arrays", "arrays/test.npy", 0o000),
        ("arrays", "arrays/both.npz", "arrays/both.npz", 0o000),
    ]
    cases = [
        (path, mode, lambda name=name, data_dir=data_dir: told(name, data_dir)) for name, data_dir, path, mode in closed
    ]
    for (_, _, path, _), result in zip(closed, as_nobody(under_modes(cases), tmp_path), strict=True):
        assert isinstance(result, str), (path, result)
        assert path in result and "ermission" in result, (path, result)


def test_pictures_in_a_folder_that_cannot_be_written_are_converted_elsewhere(tmp_path):
    write_splits(tmp_path)
    (tmp_path / "npz").mkdir()
    write_npz(tmp_path / "npz")
    told("imagenet", tmp_path / "npz")
    shutil.rmtree(tmp_path / "npz" / converted.FOLDER)
    folder(tmp_path / "plain")
    shutil.rmtree(tmp_path / "plain" / converted.FOLDER)
    cases = [
        ("plain", 0o555, lambda: folder("plain")),
        ("plain", 0o555, lambda: folder("plain", cache_dir="cache")),
        ("npz", 0o555, lambda: told("imagenet", "npz", cache_dir="cache")),
    ]
    refused, converted_there, imagenet = as_nobody(under_modes(cases), tmp_path)
    assert refused.startswith("can't write plain/.pixel_snail/cropped_8x8: Permission denied")
    assert refused.endswith("; correct this and start again, or choose another folder with --cache_dir")
    assert converted_there == [18, 2]
    assert imagenet == [len(IMAGENET_TRAIN), len(IMAGENET_TEST)]


def test_data_sets_with_one_place_for_conversions_keep_apart(tmp_path, monkeypatch):
    write_pictures(tmp_path / "a", [f"{i}.png" for i in range(10)], size=(32, 32))
    write_pictures(tmp_path / "b", [f"{i}.png" for i in range(20)], size=(32, 32))
    first = [told("folder", tmp_path / data_dir, cache_dir=tmp_path / "cache") for data_dir in "ab"]
    assert first == [[9, 1], [18, 2]]
    monkeypatch.setattr(converted, "_convert", lambda *_: pytest.fail("converted again"))
    assert [told("folder", tmp_path / data_dir, cache_dir=tmp_path / "cache") for data_dir in "ab"] == first
    assert not list((tmp_path / "a").glob(".*"))
