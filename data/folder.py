"""A data set of your own: the PNG, JPEG and WebP pictures below a folder, each cropped to a square."""

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from data import converted
from pixel_snail import pictures
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError, options_named_as_flags, printable

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "val", "valid", "validation")
"""The folders of the splits, in small or capital letters."""
_TEST_SHARE = 10
_MOST_NOTES, _MOST_NAMED = 50, 10


def load(
    data_dir: Path,
    image_size: int = 32,
    downsample: bool = False,
    skip_bad: bool = False,
    max_megapixels: int = pictures.MAX_PIXELS // 10**6,
    test_folder: str | None = None,
    classes: bool = False,
) -> DataSet:
    """Loads the pictures below a training and a test folder in data_dir or, without these folders, all below data_dir.

    Without these folders, a tenth of the pictures becomes the test set. It is chosen by a hash of their names, so that
    the same names always give the same split. Each picture is cropped to the square in its middle. Other files, and
    whatever is hidden, are ignored.

    Args:
        image_size: the side of the square.
        downsample: whether a picture is first shrunk until its shorter side is image_size.
        skip_bad: whether pictures that can't be used are left out, and told in the data set's notes.
        max_megapixels: a larger picture can't be used.
        test_folder: the name of the test folder; by default the only one in TEST_FOLDERS.
        classes: whether the images have labels: the folders in the training folder or, without one, in data_dir are
            the classes, in the order of their names. A picture belongs to the class in whose folder it lies, however
            deep.

    Raises:
        UserError: there are no or too few pictures; it is not clear which is the test folder; a picture is of no
            class; pictures can't be used (its notes, PEP 678, name them); or the conversion can't be written.
    """
    if not data_dir.is_dir():
        raise UserError(f"there is no folder {data_dir}: --data_dir names the folder of the pictures")
    folders = _split_folders(data_dir, test_folder)
    names = _names(data_dir, folders)
    class_names, labels = _classes(data_dir, folders, names) if classes else (None, None)
    sources = {
        name: converted.Source(
            identity={
                "source": str(data_dir),
                "downsample": downsample,
                "max_megapixels": max_megapixels,
                "pictures": _fingerprint(data_dir, of_split),
            },
            image_shape=(image_size, image_size, 3),
            total=len(of_split),
            chunks=functools.partial(_chunks, data_dir, of_split, image_size, downsample, max_megapixels * 10**6),
        )
        for name, of_split in names.items()
    }
    kind = "downsampled" if downsample else "cropped"
    cache = data_dir / converted.FOLDER / f"{kind}_{image_size}x{image_size}"
    with options_named_as_flags():  # the reasons stay in the record, whoever reads it later
        found = converted.splits(cache, sources)
    bad = {name: dict(record["bad"]) for name, (_, record) in found.items()}
    _check_bad(data_dir, names, bad, skip_bad)
    splits = {}
    for name, (split, _) in found.items():
        used = [i for i, picture in enumerate(names[name]) if picture not in bad[name]]
        if len(used) != len(split):
            raise UserError(f"{cache} is damaged: remove it, and the pictures are converted anew")
        splits[name] = Split(split.images, None if labels is None else labels[name][used])
    notes = _notes_on_folders(folders)
    if bad["train"] or bad["test"]:
        notes.append(_left_out(names, bad["train"] | bad["test"]))
    if classes:
        empty = [name for label, name in enumerate(class_names) if label not in splits["train"].labels]
        notes += [f"the class {name} has no training picture" for name in empty]
    return DataSet(**splits, source=str(data_dir), class_names=class_names, notes=tuple(map(printable, notes)))


def check_apart(data_dir: Path, save_dir: Path, test_folder: str | None = None) -> None:
    """Raises UserError if pictures written to save_dir would become part of the data set, or as `load`."""
    folders = _split_folders(data_dir, test_folder) if data_dir.is_dir() else {}
    for folder in folders.values() if "test" in folders else [data_dir]:
        if save_dir.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--save_dir={save_dir} lies in {folder}, below which all pictures are the data set: choose a "
                "--save_dir outside of it"
            )


def _split_folders(data_dir, test_folder):
    """The folders `train` and `test`, or only `train`, or none; without `test`, all of data_dir is to be split."""
    names = sorted(path.name for path in data_dir.iterdir() if path.is_dir())
    train = [name for name in names if name.lower() in TRAIN_FOLDERS]
    test = [name for name in names if name.lower() in TEST_FOLDERS]
    if test_folder is not None:
        test = [name for name in names if name == test_folder.rstrip("/")]
        if not test or test == train:
            raise UserError(
                f"--test_folder={test_folder} is no folder beside train in {data_dir}: give the name of one"
            )
    if test and not train:
        raise UserError(
            f"{data_dir} has the folder {test[0]} for the test set, but none called train: call the folder of the "
            "training pictures train"
        )
    if len(train) > 1:
        raise UserError(
            f"{data_dir} has the folders {' and '.join(train)}: only one can have the training pictures; rename the "
            "other"
        )
    if len(test) > 1:
        raise UserError(
            f"{data_dir} has the folders {' and '.join(test)}: name the one with the test set, such as "
            f"--test_folder={test[-1]}"
        )
    return {split: data_dir / named[0] for split, named in (("train", train), ("test", test)) if named}


def _notes_on_folders(folders):
    if "test" in folders:
        test = folders["test"].name
        return [] if test.lower() == "test" else [f"{test}/ is the test set"]
    train = [folder.name for folder in folders.values()]
    return [f"no test folder lies beside {name}/: a tenth of all pictures is the test set" for name in train]


def _names(data_dir, folders):
    """The names of each split's pictures, relative to data_dir, in order."""
    if "test" in folders:
        names = {name: _pictures(data_dir, folder) for name, folder in folders.items()}
    else:
        together = _pictures(data_dir, data_dir)
        if len(together) == 1:
            raise UserError(f"{data_dir} has only one picture, {together[0]}: training and testing take one each")
        number = -(-len(together) // _TEST_SHARE)
        chosen = set(sorted(together, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())[:number])
        names = {
            "train": [name for name in together if name not in chosen],
            "test": [name for name in together if name in chosen],
        }
    for name, of_split in names.items():
        if not of_split:
            raise UserError(f"there are no PNG, JPEG or WebP pictures for the {name} split in {data_dir}")
    return names


def _pictures(data_dir, folder):
    """The names of the pictures below a folder, in the order of their paths; what is hidden is left out."""
    found, seen = [], set()
    for root, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(root) in seen:  # links may form a circle
            folders.clear()
            continue
        seen.add(os.path.realpath(root))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(root, name) for name in files if Path(name).suffix.lower() in SUFFIXES and name[0] != "."]
        found += filter(Path.is_file, paths)  # no broken links, no pipes
    return [path.relative_to(data_dir).as_posix() for path in sorted(found)]


def _classes(data_dir, folders, names):
    """The names of the classes, and the labels of all pictures of each split, int32 [N]."""
    root = folders.get("train", data_dir)
    class_names = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "."))
    if not class_names:
        raise UserError(
            f"{root} has no folders: for a class-conditional network, each class's pictures lie in a folder there"
        )
    number = {name: label for label, name in enumerate(class_names)}
    labels = {}
    for name, of_split in names.items():
        of_root = folders[name] if "test" in folders else root
        start = "" if of_root == data_dir else f"{of_root.name}/"
        labels[name] = np.zeros(len(of_split), np.int32)
        for i, picture in enumerate(of_split):
            folder, slash, _ = picture.removeprefix(start).partition("/")
            if not picture.startswith(start) or not slash:
                raise UserError(
                    f"{data_dir / picture} is of no class: for a class-conditional network, the folders in {root} are "
                    "the classes"
                )
            if folder not in number:
                raise UserError(f"{data_dir / picture} is of the class {folder}, which has no folder in {root}")
            labels[name][i] = number[folder]
    return class_names, labels


def _check_bad(data_dir, names, bad, skip_bad):
    """Raises UserError for bad pictures that are not skipped, or if no others are left in a split."""
    number, total = sum(map(len, bad.values())), sum(map(len, names.values()))
    error = None
    if number and not skip_bad:
        them = "them" if number > 1 else "it"
        error = UserError(
            f"{number} of {total} pictures in {data_dir} can't be used: mend or remove {them}, or leave {them} out "
            "with --skip_bad"
        )
    for name, of_split in names.items():
        if error is None and len(bad[name]) == len(of_split):
            error = UserError(f"none of the pictures for the {name} split in {data_dir} can be used")
    if error is None:
        return
    lines = [f"{name}: {reason}" for of_split in bad.values() for name, reason in of_split.items()]
    for line in _shortened(lines, _MOST_NOTES, "... and"):
        error.add_note(printable(line))
    raise error


def _left_out(names, bad):
    named = _shortened([f"{name} ({reason})" for name, reason in bad.items()], _MOST_NAMED, "and")
    verb = "is" if len(bad) == 1 else "are"
    return f"{len(bad)} of {sum(map(len, names.values()))} pictures {verb} left out: {', '.join(named)}"


def _shortened(texts: Sequence[str], most: int, joined: str) -> list[str]:
    rest = len(texts) - most
    return [*texts[:most], f"{joined} {rest} more"] if rest > 0 else list(texts)


def _fingerprint(data_dir, names):
    digest = hashlib.sha256()
    for name in names:
        path = data_dir / name
        # A picture that may be read from now on has the same size and time as before.
        digest.update(repr([name, *converted.file_identity(path), os.access(path, os.R_OK)]).encode())
    return digest.hexdigest()


def _chunks(data_dir, names, size, downsample, max_pixels, start) -> Iterator[converted.Chunk]:
    squares = (_square(data_dir / name, name, size, downsample, max_pixels) for name in names[start:])
    return converted.in_chunks(squares, (size, size, 3))


def _square(path, name, size, downsample, max_pixels):
    """The square in the middle of a picture, or a converted.Bad."""
    try:
        picture = pictures.read_picture(path, str(path), max_pixels)
    except pictures.PictureError as error:
        return converted.Bad(name, error.reason)
    height, width = picture.shape[:2]
    if min(height, width) < size:
        return converted.Bad(name, f"{width} x {height} pixels, smaller than --image_size={size}")
    if downsample:
        factor = size / min(height, width)
        width, height = round(width * factor), round(height * factor)
        picture = np.asarray(PIL.Image.fromarray(picture).resize((width, height), PIL.Image.Resampling.LANCZOS))
    top, left = (height - size) // 2, (width - size) // 2
    return picture[top : top + size, left : left + size]
