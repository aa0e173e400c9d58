"""Pictures of one's own: bad ones, the names of the test folder, classes, and what happens while a program runs."""

import argparse
import gc
import hashlib
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from test_data_sets import IMAGENET_TEST, IMAGENET_TRAIN, write_npz, write_pictures

import data
from data import cifar10_plotdata, converted, folder
from pixel_snail.commands import command_line
from pixel_snail.errors import UserError
from pixel_snail.parallel.batches import training_batches
from pixel_snail.storage import pictures

ROOT = Path(__file__).parents[2]


def contents(data_set):
    return [split.images[:] for split in (data_set.train, data_set.test)]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def load(data_dir, **options):
    return data.load("folder", data_dir, **options)


def further_notes(data_set):
    """The notes after the first, which says that the middle of each picture is taken."""
    assert "the square in the middle is taken" in data_set.notes[0]
    return data_set.notes[1:]


# Bad pictures


def write_bad_pictures(data_dir):
    """Writes 20 good pictures and one bad picture of each kind; returns the reasons, by name."""
    write_pictures(data_dir, [f"train/{i}.png" for i in range(14)] + [f"test/{i}.png" for i in range(6)])
    write_pictures(data_dir, ["train/10a.png"], size=(10, 20))
    write_pictures(data_dir, ["train/2a.png"], size=(2000, 1000))
    PIL.Image.new("CMYK", (40, 40)).save(data_dir / "train" / "3a.jpg")
    (data_dir / "train" / "9a.png").write_bytes(b"not a picture")
    shutil.copy(data_dir / "test" / "1.png", data_dir / "test" / "1a.webp")
    with open(data_dir / "test" / "1a.webp", "r+b") as file:
        file.truncate(500)
    return {
        "train/10a.png": "10 pixels high and 20 wide, smaller than --image_size=32",
        "train/2a.png": "2.0 megapixels large, above the limit of 1: to read it, raise --max_megapixels",
        "train/3a.jpg": "a CMYK picture, whose colours have no exact RGB: save it as RGB",
        "train/9a.png": "not a PNG, JPEG or WebP picture that can be read",
        "test/1a.webp": "not a PNG, JPEG or WebP picture that can be read: ",
    }


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_all_bad_pictures_are_told_at_once_or_left_out_also_from_the_finished_conversion(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(converted, "rows_per_chunk", lambda shape: rows)
    reasons = write_bad_pictures(tmp_path)
    good = [path for path in sorted(tmp_path.rglob("*.*")) if path.relative_to(tmp_path).as_posix() not in reasons]
    squares = {
        name: [pictures.read_picture(path, "")[4:36, 2:34] for path in good if path.parent.name == name]
        for name in ("train", "test")
    }
    for _ in range(2):
        with pytest.raises(UserError) as error:
            load(tmp_path, max_megapixels=1)
        message = (
            f"5 of 25 pictures in {tmp_path} can't be used: mend or remove them, or leave them out with --skip_bad"
        )
        assert str(error.value) == message
        for note, name in zip(error.value.__notes__, reasons, strict=True):
            assert note.startswith(f"{name}: {reasons[name]}")
        data_set = load(tmp_path, max_megapixels=1, skip_bad=True)
        (note,) = further_notes(data_set)
        assert note.startswith("5 of 25 pictures are left out: train/10a.png (10 pixels high and 20 wide, smal")
        assert_same(contents(data_set), [squares["train"], squares["test"]])
        monkeypatch.setattr(pictures, "read_picture", lambda *_: pytest.fail("a picture was read again"))


@pytest.mark.parametrize("at", range(1, 9))
def test_a_conversion_interrupted_anywhere_goes_on_with_the_same_bad_pictures(at, tmp_path, monkeypatch):
    monkeypatch.setattr(converted, "rows_per_chunk", lambda shape: 3)
    write_bad_pictures(tmp_path)
    whole = load(tmp_path, max_megapixels=1, skip_bad=True)
    expected = contents(whole)
    shutil.rmtree(tmp_path / converted.FOLDER)
    write_json, calls, read = converted._write_json, itertools.count(1), []

    def interrupted(path, content):
        write_json(path, content)
        if next(calls) == at:
            raise KeyboardInterrupt

    def counted(path, name, limit):
        read.append(name)
        return read_picture(path, name, limit)

    read_picture = pictures.read_picture
    with monkeypatch.context() as patch:
        patch.setattr(converted, "_write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(tmp_path, max_megapixels=1)
    monkeypatch.setattr(pictures, "read_picture", counted)
    resumed = load(tmp_path, max_megapixels=1, skip_bad=True)
    assert_same(contents(resumed), expected)
    assert resumed.notes == whole.notes
    # 6 chunks of training pictures and their record, then the test pictures.
    assert len(read) == 25 - min(3 * at, 18) - 3 * max(at - 7, 0)


def test_a_picture_that_vanishes_or_may_not_be_read_is_bad_but_a_failing_disk_is_not(tmp_path, monkeypatch):
    write_pictures(tmp_path, ["train/a.png", "train/b.png", "train/c.png", "test/a.png"])

    def fails(error):
        def open_(path, mode):
            if path.name == "b.png":
                raise error
            return open(path, mode)

        monkeypatch.setattr(pictures, "open", open_, raising=False)

    for error in (OSError(5, "Input/output error"), MemoryError()):
        fails(error)
        with pytest.raises(UserError, match=r"(can't read .*b\.png: Input/output error|memory to read .*b\.png)"):
            load(tmp_path, skip_bad=True)
    assert not list(tmp_path.rglob("*.json"))
    for error, reason in (
        (FileNotFoundError(2, "No such file or directory"), "not there"),
        (PermissionError(13, "Permission denied"), "not a PNG, JPEG or WebP picture that can be read: no permission"),
    ):
        fails(error)
        data_set = load(tmp_path, skip_bad=True)
        assert further_notes(data_set) == (f"1 of 4 pictures is left out: train/b.png ({reason})",)
        assert len(data_set.train) == 2
        shutil.rmtree(tmp_path / converted.FOLDER)


def test_a_picture_that_may_be_read_from_now_on_is_read(tmp_path, monkeypatch):
    write_pictures(tmp_path, ["train/a.png", "train/b.png", "test/a.png"])
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "b.png" and access(path, mode))
    before = folder._fingerprint(tmp_path, ["train/a.png", "train/b.png"])
    monkeypatch.undo()
    assert folder._fingerprint(tmp_path, ["train/a.png", "train/b.png"]) != before


def test_without_a_good_picture_a_split_is_refused(tmp_path):
    write_pictures(tmp_path, ["train/a.png", "train/b.png"])
    write_pictures(tmp_path, ["test/a.png", "test/b.png"], size=(9, 9))
    for _ in range(2):
        with pytest.raises(UserError, match=r"none of the pictures for the test split in .* can be used") as error:
            load(tmp_path, skip_bad=True)
        assert error.value.__notes__[1] == "test/b.png: 9 pixels high and 9 wide, smaller than --image_size=32"


def test_a_record_that_lost_a_bad_picture_is_not_trusted_with_labels(tmp_path):
    write_pictures(tmp_path, ["train/a/a.png", "train/a/b.png", "test/a/a.png"])
    write_pictures(tmp_path, ["train/a/small.png"], size=(9, 9))
    load(tmp_path, skip_bad=True, classes=True)
    (path,) = tmp_path.rglob("train.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bad": []}))
    with pytest.raises(UserError, match="is damaged: remove it, and the pictures are converted anew"):
        load(tmp_path, skip_bad=True, classes=True)


def test_of_many_bad_pictures_50_are_told_of_an_error_and_10_of_what_is_left_out(tmp_path):
    write_pictures(tmp_path, ["train/good.png", "test/good.png"])
    write_pictures(tmp_path, [f"train/{i:03d}.png" for i in range(120)], size=(8, 8))
    with pytest.raises(UserError, match="120 of 122 pictures") as error:
        load(tmp_path)
    assert len(error.value.__notes__) == 51
    assert error.value.__notes__[-1] == "... and 70 more"
    (note,) = further_notes(load(tmp_path, skip_bad=True))
    assert note.count("smaller than --image_size=32") == 10
    assert note.endswith(", and 110 more")


def test_a_command_prints_the_bad_pictures_before_its_error(tmp_path):
    write_pictures(tmp_path, ["train/a.png", "test/a.png"])
    write_pictures(tmp_path, ["train/b\n.png"], size=(8, 8))
    command = [sys.executable, "-m", "data.cifar10_plotdata", "--data_set=folder", f"-i{tmp_path}", f"-o{tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2] == r"train/b\n.png: 8 pixels high and 8 wide, smaller than --image_size=32"
    assert done.stderr.splitlines()[-1].startswith("error: 1 of 3 pictures in ")
    cifar10_plotdata.plot(cifar10_plotdata.parse_flags([*command[3:], "--skip_bad"]))
    assert (tmp_path / "folder_images.png").exists()


# The folders of the splits


@pytest.mark.parametrize(
    "names, test_folder, training, test, notes",
    [
        (["train", "test"], None, "train", "test", ()),
        (["Train", "TEST"], None, "Train", "TEST", ()),
        (["training", "val"], None, "training", "val", ("val/ is the test set",)),
        (["train", "VAL"], None, "train", "VAL", ("VAL/ is the test set",)),
        (["train", "valid"], None, "train", "valid", ("valid/ is the test set",)),
        (["train", "Validation", "other"], None, "train", "Validation", ("Validation/ is the test set",)),
        (["train", "test", "val"], "val", "train", "val", ("val/ is the test set",)),
        (["train", "test", "val"], "test", "train", "test", ()),
        (["train", "test", "holdout"], "holdout/", "train", "holdout", ("holdout/ is the test set",)),
    ],
)
def test_the_test_folder_is_found_by_its_name_and_told(names, test_folder, training, test, notes, tmp_path):
    written = write_pictures(tmp_path, [f"{name}/{i}.png" for name in names for i in range(2)])
    data_set = load(tmp_path, test_folder=test_folder)
    assert further_notes(data_set) == notes
    for split, name in ((data_set.train, training), (data_set.test, test)):
        expected = [written[f"{name}/{i}.png"][4:36, 2:34] for i in range(2)]
        np.testing.assert_array_equal(split.images[:], expected)
        with pytest.raises(UserError, match=f"lies in .*{name}, below which all pictures are the data set"):
            folder.check_apart(tmp_path, tmp_path / name / "runs", test_folder)
    folder.check_apart(tmp_path, tmp_path / "runs", test_folder)


@pytest.mark.parametrize(
    "names, test_folder, message",
    [
        (["train", "test", "val"], None, r"has the folders test and val: name the one .*, such as --test_folder=val$"),
        (["train", "val", "valid"], None, "has the folders val and valid: name the one with the test set"),
        (["val", "other"], None, "has the folder val for the test set, but none called train: call the folder of the"),
        (["Test"], None, "has the folder Test for the test set, but none called train"),
        (["train", "Training", "test"], None, "has the folders Training and train: only one can have the training"),
        (["train", "test"], "val", "--test_folder=val is no folder beside train in "),
        (["train", "test"], "train", "--test_folder=train is no folder beside train in "),
        (["train", "test"], "../elsewhere", "is no folder beside train in "),
        (["other"], "other", "has the folder other for the test set, but none called train"),
    ],
)
def test_folders_that_leave_the_test_set_open_are_refused(names, test_folder, message, tmp_path):
    write_pictures(tmp_path / "pictures", [f"{name}/a.png" for name in names])
    write_pictures(tmp_path, ["elsewhere/a.png"])
    with pytest.raises(UserError, match=message):
        load(tmp_path / "pictures", test_folder=test_folder)
    with pytest.raises(UserError, match=message):
        folder.check_apart(tmp_path / "pictures", tmp_path / "save", test_folder)


def test_a_training_folder_alone_is_split_and_that_is_told(tmp_path):
    write_pictures(tmp_path, [f"train/{i}.png" for i in range(10)])
    data_set = load(tmp_path)
    assert further_notes(data_set) == ("no test folder lies beside train/: a tenth of all pictures is the test set",)
    assert (len(data_set.train), len(data_set.test)) == (9, 1)


def test_other_files_and_hidden_ones_are_ignored(tmp_path):
    write_pictures(tmp_path, ["train/a.png", "test/a.png", "train/.hidden.png", "train/.hidden/a.png"])
    (tmp_path / "train" / "notes.txt").write_text("no picture")
    (tmp_path / "train" / "a.gif").write_bytes(b"no format of ours")
    assert len(load(tmp_path).train) == 1


# Classes

CLASSES = {
    "two folders": ["train/dog/a.png", "train/cat/b.png", "train/cat/deep/c.png", "test/cat/d.png", "test/dog/e.png"],
    "without a test folder": [f"{name}/{i}.png" for name in ("ant", "bee", "Cow") for i in range(8)],
    "a training folder alone": [f"train/{name}/{i}.png" for name in ("a", "b") for i in range(9)],
    "a class missing in test": ["train/a/1.png", "train/b/2.png", "validation/b/3.png"],
}


@pytest.mark.parametrize("layout", CLASSES)
def test_the_folders_of_the_training_pictures_are_the_classes_in_the_order_of_their_names(layout, tmp_path):
    names = CLASSES[layout]
    of_picture = {picture[4:36, 2:34].tobytes(): name for name, picture in write_pictures(tmp_path, names).items()}
    data_set = load(tmp_path, classes=True)
    place = 1 if names[0].startswith("train/") else 0
    assert data_set.class_names == tuple(sorted({name.split("/")[place] for name in names}))
    assert data_set.nr_labels == len(data_set.class_names)
    for split in (data_set.train, data_set.test):
        for image, label in zip(split.images[:], split.labels, strict=True):
            assert of_picture[image.tobytes()].split("/")[place] == data_set.class_names[label]


def test_labels_skip_the_bad_pictures_and_need_no_conversion_of_their_own(tmp_path, monkeypatch):
    names = [f"{split}/{name}/{i}.png" for split in ("train", "test") for name in "abc" for i in range(3)]
    of_picture = {picture[4:36, 2:34].tobytes(): name for name, picture in write_pictures(tmp_path, names).items()}
    write_pictures(tmp_path, ["train/a/1.png", "train/b/0.png", "test/c/2.png", "train/empty/0.png"], size=(9, 9))
    assert load(tmp_path, skip_bad=True).train.labels is None
    monkeypatch.setattr(pictures, "read_picture", lambda *_: pytest.fail("converted again"))
    data_set = load(tmp_path, skip_bad=True, classes=True)
    assert (data_set.nr_labels, len(data_set.train), len(data_set.test)) == (4, 7, 8)
    assert further_notes(data_set)[1:] == ("the class empty has no training picture",)
    for split in (data_set.train, data_set.test):
        for image, label in zip(split.images[:], split.labels, strict=True):
            assert of_picture[image.tobytes()].split("/")[1] == "abc"[label]


def test_classes_of_one_picture_each_leave_none_for_the_test_set(tmp_path):
    write_pictures(tmp_path, ["ant/1.png", "bee/1.png"])
    with pytest.raises(
        UserError, match=r"each class in .* has only one picture, which is for training: add one to a cla"
    ):
        load(tmp_path, classes=True)
    write_pictures(tmp_path, ["bee/2.png"])
    assert [len(split) for split in (load(tmp_path, classes=True).train, load(tmp_path, classes=True).test)] == [2, 1]


@pytest.mark.parametrize(
    "names, message",
    [
        (
            ["train/a.png", "test/a.png"],
            "train has no folders: for a class-conditional network, each class's pictures lie in",
        ),
        (
            ["train/a/1.png", "train/2.png", "test/a/3.png"],
            r"train/2\.png is of no class: for a class-conditional network",
        ),
        (["train/a/1.png", "test/3.png"], r"test/3\.png is of no class"),
        (["train/a/1.png", "test/b/3.png"], r"test/b/3\.png is of the class b, which has no folder in .*train$"),
        (["a/1.png", "2.png"], r"2\.png is of no class"),
        (["train/a/1.png", "other/2.png"], r"other/2\.png is of no class: .*, the folders in .*train are the classes"),
    ],
)
def test_a_picture_of_no_class_of_the_training_pictures_is_refused(names, message, tmp_path):
    write_pictures(tmp_path, names)
    load(tmp_path)
    with pytest.raises(UserError, match=message):
        load(tmp_path, classes=True)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_flag_class_conditional_decides_whether_a_folder_has_labels(conditional, tmp_path):
    write_pictures(tmp_path, CLASSES["two folders"])
    given = {"data_set": "folder", "data_dir": str(tmp_path), "save_dir": None, "class_conditional": conditional}
    data_set = data.from_flags(argparse.Namespace(**command_line.DATA_DEFAULTS | given))
    assert data_set.nr_labels == (2 if conditional else None)
    assert data_set.class_names == (("cat", "dog") if conditional else None)


# A conversion that is exchanged while a program reads it


@pytest.mark.parametrize("change", ["added", "removed"])
@pytest.mark.parametrize("by", ["a call", "a process"])
def test_a_running_program_keeps_its_pictures_when_others_are_converted(change, by, tmp_path):
    write_pictures(tmp_path, [f"{split}/{i}.png" for split in ("train", "test") for i in range(10)])
    running = load(tmp_path)
    before = contents(running)
    batches = [batch["images"] for batch in training_batches(running.train, 2, seed=0, epoch=0).as_numpy_iterator()]
    epoch = training_batches(running.train, 2, seed=0, epoch=0).as_numpy_iterator()
    seen = [next(epoch)["images"]]
    for split in ("train", "test"):
        if change == "added":
            write_pictures(tmp_path, [f"{split}/{i}{i}.png" for i in range(7)])
        else:
            for i in range(7):
                (tmp_path / split / f"{i}.png").unlink()
    if by == "a call":
        load(tmp_path)
    else:
        program = f"from pathlib import Path; import data; data.load('folder', Path({str(tmp_path)!r}))"
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)
    assert len(load(tmp_path).train) == (17 if change == "added" else 3)
    assert_same(contents(running), before)
    assert_same([*seen, *(batch["images"] for batch in epoch)], batches)
    assert not running.train.images.path.exists()  # no longer on the disk once the program ends
    assert len(list(tmp_path.rglob("*.images"))) == 2


def test_pictures_that_come_back_give_the_first_conversion_again(tmp_path):
    write_pictures(tmp_path, ["train/a.png", "train/b.png", "test/a.png"])
    first = load(tmp_path)
    (tmp_path / "train" / "b.png").rename(tmp_path / "b.png")
    second = load(tmp_path)
    (tmp_path / "b.png").rename(tmp_path / "train" / "b.png")
    third = load(tmp_path)
    assert first.train.images.path == third.train.images.path != second.train.images.path
    assert_same(contents(first), contents(third))
    assert len(second.train.images[:]) == 1


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_thousands_of_loads_leave_no_open_file(tmp_path):
    write_pictures(tmp_path, ["train/a.png", "test/a.png"])
    data_set = load(tmp_path)
    gc.collect()
    before = open_files()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(30):
            load(tmp_path)
        for _ in range(3000):
            converted.MappedImages(data_set.train.images.path, data_set.train.images.shape)[:]
            with pytest.raises(ValueError, match="does not have the pixels"):
                converted.MappedImages(data_set.train.images.path, (2, 32, 32, 3))
    gc.collect()
    assert open_files() == before


def test_opened_images_serve_forked_processes_and_can_be_pickled(tmp_path):
    write_pictures(tmp_path, [f"{split}/{i}.png" for split in ("train", "test") for i in range(4)])
    images = load(tmp_path).train.images
    expected = images[:]
    assert_same(pickle.loads(pickle.dumps(images))[:], expected)
    context = multiprocessing.get_context("fork")

    def read(queue):
        queue.put([images[i] for i in range(4)])

    queues = [context.SimpleQueue() for _ in range(3)]
    processes = [context.Process(target=read, args=[queue]) for queue in queues]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking with TensorFlow's threads
        for process in processes:
            process.start()
    for process, queue in zip(processes, queues, strict=True):
        assert_same(queue.get(), expected)
        process.join()
    assert_same(images[:], expected)


def as_earlier_version(cache):
    """Makes a conversion what an earlier version would have left."""
    for path in cache.rglob("*.json"):
        record = json.loads(path.read_text())
        del record["bad"]
        files = record.pop("files")
        for kind in ("images", "labels"):
            path.with_name(f"{files}.{kind}").rename(path.with_suffix(f".{kind}"))
        path.write_text(json.dumps(record))


def test_a_conversion_of_an_earlier_version_is_read_although_its_source_is_gone(tmp_path):
    write_npz(tmp_path)
    data.load("imagenet", tmp_path)
    as_earlier_version(tmp_path)
    shutil.rmtree(tmp_path / "small_imagenet")
    data_set = data.load("imagenet", tmp_path)
    assert_same(contents(data_set), [IMAGENET_TRAIN, IMAGENET_TEST])
    assert data_set.train.images.path.name == "train.images"


def test_a_new_conversion_removes_that_of_an_earlier_version(tmp_path):
    write_npz(tmp_path)
    first = data.load("imagenet", tmp_path)
    as_earlier_version(tmp_path)
    np.savez(tmp_path / "small_imagenet" / "imgnet_32x32.npz", trainx=IMAGENET_TEST, testx=IMAGENET_TRAIN)
    assert_same(contents(data.load("imagenet", tmp_path)), [IMAGENET_TEST, IMAGENET_TRAIN])
    assert_same(contents(first), [IMAGENET_TRAIN, IMAGENET_TEST])
    names = {path.name for path in first.train.images.path.parent.iterdir()}
    assert not names & {"train.images", "train.labels", "test.images", "test.labels"}


def test_a_conversion_exchanged_between_its_record_and_its_files_is_read_again(tmp_path, monkeypatch):
    write_npz(tmp_path)
    data.load("imagenet", tmp_path)
    cache, other = tmp_path / converted.FOLDER, tmp_path / "other"
    shutil.move(cache, other)
    np.savez(tmp_path / "small_imagenet" / "imgnet_32x32.npz", trainx=IMAGENET_TRAIN[:5], testx=IMAGENET_TEST)
    data.load("imagenet", tmp_path)
    shutil.rmtree(tmp_path / "small_imagenet")
    opened = converted.MappedImages

    def exchanged(path, shape, kind):
        if other.exists():
            shutil.rmtree(cache)
            shutil.move(other, cache)
        return opened(path, shape, kind)

    monkeypatch.setattr(converted, "MappedImages", exchanged)
    assert_same(contents(data.load("imagenet", tmp_path)), [IMAGENET_TRAIN, IMAGENET_TEST])


def test_a_record_that_names_the_files_of_something_else_is_not_believed(tmp_path):
    write_npz(tmp_path)
    data_set = data.load("imagenet", tmp_path)
    shutil.copy(data_set.train.images.path, tmp_path / "secret.images")
    path = data_set.train.images.path.with_name("train.json")
    for files in ("../../secret", str(tmp_path / "secret"), "test", 7, None, ["train"]):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"files": files}))
        assert data.load("imagenet", tmp_path).train.images.path == data_set.train.images.path


# Names in other forms


def test_names_in_another_form_of_unicode_give_the_same_split_order_and_classes(tmp_path):
    names = [f"{name}/{i:02d}é.png" for name in ("é", "e", "ö", "z") for i in range(10)]
    sets = []
    for form in ("NFC", "NFD"):
        write_pictures(tmp_path / form, [unicodedata.normalize(form, name) for name in names])
        sets += [load(tmp_path / form), load(tmp_path / form, classes=True)]
    for one, other in zip(sets[:2], sets[2:], strict=True):
        assert_same(contents(one), contents(other))
        assert one.class_names == other.class_names
        assert [unicodedata.normalize("NFC", name) for name in other.test.names] == one.test.names
    assert sets[1].class_names == ("e", "z", "é", "ö")


def test_folders_in_another_form_of_unicode_are_the_same_class_and_the_same_test_folder(tmp_path):
    composed, decomposed = "é", "e\N{COMBINING ACUTE ACCENT}"
    write_pictures(tmp_path, [f"train/{composed}/a.png", f"train/{decomposed}/b.png", "train/z/c.png"])
    write_pictures(tmp_path, [f"{decomposed}/{decomposed}/d.png"])
    data_set = load(tmp_path, classes=True, test_folder=composed)
    assert data_set.class_names == ("z", composed)
    assert (data_set.train.labels.tolist(), data_set.test.labels.tolist()) == ([0, 1, 1], [1])


def test_sets_whose_names_are_ascii_keep_their_tenth(tmp_path):
    names = [f"{folder}/{i}.png" for folder in ("b", "A", "a-b", "a") for i in range(12)]
    write_pictures(tmp_path, names)
    expected = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:5]
    data_set = load(tmp_path)
    assert data_set.test.names == sorted(expected, key=lambda name: name.split("/"))
    assert data_set.train.names == sorted(set(names) - set(expected), key=lambda name: name.split("/"))


def test_each_class_gives_its_own_tenth(tmp_path):
    sizes, tenths = {"many": 41, "ten": 10, "two": 2, "one": 1}, {"many": 5, "ten": 1, "two": 1, "one": 0}
    names = {name: [f"{name}/{i}.png" for i in range(size)] for name, size in sizes.items()}
    write_pictures(tmp_path, [name for of_class in names.values() for name in of_class])
    data_set = load(tmp_path, classes=True)
    expected = {
        picture
        for name, of_class in names.items()
        for picture in sorted(of_class, key=lambda name: hashlib.sha256(name.encode()).digest())[: tenths[name]]
    }
    assert set(data_set.test.names) == expected
    assert {*data_set.train.names} == {name for of_class in names.values() for name in of_class} - expected
    for split in (data_set.train, data_set.test):
        assert [name.split("/")[0] for name in split.names] == [data_set.class_names[i] for i in split.labels]
    # The split without classes has its own conversion: neither takes the other's place.
    load(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / converted.FOLDER).rglob("*")}
    load(tmp_path, classes=True)
    load(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / converted.FOLDER).rglob("*")} == before


# What is read, and what is ignored

OF_SYSTEMS = ["@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".ipynb_checkpoints"]


@pytest.mark.parametrize("name", OF_SYSTEMS)
def test_folders_that_systems_leave_are_ignored_as_pictures_and_as_classes(name, tmp_path):
    write_pictures(tmp_path, [f"train/a/{i}.png" for i in range(3)] + ["test/a/0.png"])
    write_pictures(tmp_path, [f"{place}/{name}/0.png/thumb.png" for place in ("train", "train/a", "test", "test/a")])
    write_pictures(tmp_path, [f"{name}/a.png"])
    data_set = load(tmp_path, classes=True)
    assert (data_set.class_names, further_notes(data_set)) == (("a",), ())
    assert (len(data_set.train), len(data_set.test)) == (3, 1)
    shutil.rmtree(tmp_path / "test")
    assert len(load(tmp_path).train) + len(load(tmp_path).test) == 3


def test_the_first_note_says_which_part_of_a_picture_counts(tmp_path):
    write_pictures(tmp_path, ["train/a.png", "test/a.png"])
    square = "the square in the middle is taken, 16 x 16 pixels"
    assert load(tmp_path, image_size=16).notes == (f"of each picture, {square}",)
    scaled = load(tmp_path, image_size=16, downsample=True)
    assert scaled.notes == (f"each picture is scaled down until its shorter side is 16; then {square}",)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "jpe", "jfif", "JFIF", "apng"])
def test_every_suffix_of_the_formats_is_read(suffix, tmp_path):
    form = "PNG" if suffix == "apng" else "JPEG"
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        PIL.Image.new("RGB", (40, 40), "red").save(tmp_path / split / f"a.{suffix}", form)
    assert load(tmp_path).test.names == [f"test/a.{suffix}"]


@pytest.mark.parametrize(
    "others, note",
    [
        ([], ()),
        (["train/a.bmp"], ("1 other file is ignored: 1 .bmp; to use .bmp pictures, convert them to PNG",)),
        (
            ["train/a", "test/B.TIF", "test/c.tif"],
            ("3 other files are ignored: 2 .tif, 1 without a suffix; to use .tif pictures, convert them to PNG",),
        ),
        (["train/a.txt"], ("1 other file is ignored: 1 .txt",)),
        (
            [
                *(f"train/{i}.bmp" for i in range(3)),
                *(f"test/{i}.gif" for i in range(2)),
                "test/a",
                "test/b.x",
                "test/c.y",
            ],
            (
                "8 other files are ignored: 3 .bmp, 2 .gif, 1 without a suffix, 2 others; to use .bmp and .gif "
                "pictures, convert them to PNG",
            ),
        ),
        (["other/a.bmp", "train/.DS_Store", "train/.x.bmp", "test/@eaDir/a.bmp"], ()),
    ],
)
def test_how_many_other_files_are_ignored_is_said_once(others, note, tmp_path):
    write_pictures(tmp_path, ["train/a.png", "test/a.png"])
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert further_notes(load(tmp_path)) == note
    if note:
        (tmp_path / "test" / "a.png").unlink()
        with pytest.raises(UserError, match=f"pictures for the test split in .* .{note[0]}.$"):
            load(tmp_path)


def test_pictures_that_an_earlier_version_could_not_read_are_tried_again(tmp_path):
    write_pictures(tmp_path, [f"{split}/{i}.png" for split in ("train", "test") for i in range(3)])
    write_pictures(tmp_path, ["train/small.png"], size=(9, 9))
    load(tmp_path, skip_bad=True)
    for path in (tmp_path / converted.FOLDER).rglob("train.json"):
        record = json.loads(path.read_text())
        del record["reader"]
        path.write_text(json.dumps(record))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / converted.FOLDER).rglob("*.json")}
    load(tmp_path, skip_bad=True)
    changed = {path.name for path in before if path.stat().st_mtime_ns != before[path]}
    assert changed == {"train.json"}


# Only for testing


@pytest.mark.parametrize(
    "names, test_folder, expected",
    [
        (["a.png", "b/c.png", "train/d.png", "test/e.png"], ".", ["a.png", "b/c.png", "test/e.png", "train/d.png"]),
        (["a.png"], "./", ["a.png"]),
        (["test/a.png", "b.png"], None, ["test/a.png"]),
        (["new/a.png", "new/b/c.png", "b.png"], "new", ["new/a.png", "new/b/c.png"]),
        (["train/a.png", "val/b.png"], None, ["val/b.png"]),
    ],
)
def test_an_evaluation_takes_all_pictures_or_a_test_folder_alone(names, test_folder, expected, tmp_path, monkeypatch):
    written = write_pictures(tmp_path, names)
    data_set = load(tmp_path, test_folder=test_folder, only_test=True)
    assert data_set.test.names == expected
    np.testing.assert_array_equal(data_set.test.images[:], [written[name][4:36, 2:34] for name in expected])
    monkeypatch.setattr(pictures, "read_picture", lambda *_: pytest.fail("converted again"))
    if data_set.train is None:
        with pytest.raises(UserError, match=r"--test_folder=\S+ leaves no pictures|none called train"):
            load(tmp_path, test_folder=test_folder)
    assert load(tmp_path, test_folder=test_folder, only_test=True).test.names == expected


def test_an_evaluation_without_the_test_folder_of_its_name_says_how_to_take_all(tmp_path):
    write_pictures(tmp_path, ["a.png"])
    with pytest.raises(UserError, match=r"--test_folder=val is no folder .*: give the name of one, or \. to take all"):
        load(tmp_path, test_folder="val", only_test=True)


def test_an_evaluation_of_a_tenth_says_how_to_take_all(tmp_path):
    write_pictures(tmp_path, [f"{i}.png" for i in range(12)])
    assert further_notes(load(tmp_path)) == ()
    told = load(tmp_path, only_test=True)
    one = tmp_path / "one"
    one.mkdir()
    PIL.Image.new("RGB", (40, 40)).save(one / "a.png")
    with pytest.raises(UserError, match=r"only one picture, a.png, .*, or take all .* with test_folder=\.$"):
        load(one, only_test=True)
    assert further_notes(told) == ("a tenth of all pictures is the test set; test_folder=. takes all of them",)
    assert (len(told.train), len(told.test)) == (10, 2)


def test_the_classes_of_pictures_for_testing_alone_are_the_folders_of_the_test_set(tmp_path):
    write_pictures(tmp_path, [f"test/{name}/{i}.png" for name in ("cat", "dog") for i in range(2)])
    data_set = load(tmp_path, only_test=True, classes=True)
    assert (data_set.class_names, data_set.test.labels.tolist()) == (("cat", "dog"), [0, 0, 1, 1])
    data_set = load(tmp_path / "test", only_test=True, classes=True, test_folder=".")
    assert (data_set.class_names, data_set.test.labels.tolist()) == (("cat", "dog"), [0, 0, 1, 1])


def test_names_skip_the_bad_pictures(tmp_path):
    write_pictures(tmp_path, ["train/a.png", "train/c.png", "test/a.png"])
    write_pictures(tmp_path, ["train/b.png"], size=(9, 9))
    assert load(tmp_path, skip_bad=True).train.names == ["train/a.png", "train/c.png"]


@pytest.mark.parametrize("flag", ["save_dir", "cache_dir"])
def test_what_is_written_below_the_pictures_is_refused(flag, tmp_path):
    write_pictures(tmp_path, [f"{i}.png" for i in range(3)])
    given = {"data_set": "folder", "data_dir": str(tmp_path), "save_dir": None, "class_conditional": False}
    flags = command_line.DATA_DEFAULTS | given | {flag: str(tmp_path / "inside")}
    with pytest.raises(UserError, match=f"--{flag}=.*inside lies in .*: choose a --{flag} outside of it"):
        data.from_flags(argparse.Namespace(**flags))
