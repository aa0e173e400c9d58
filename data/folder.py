"""A data set of your own: the PNG, JPEG and WebP pictures below a folder, each cropped to its middle."""

import collections
import functools
import hashlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from data import converted, listing
from pixel_snail.commands.command_line import height_and_width
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError, option, options_named_as_flags, printable
from pixel_snail.storage import pictures

SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"}
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "val", "valid", "validation")
"""The folders of the splits, in small or capital letters."""
WHOLE = "."
"""The test folder's name if all pictures are the test set."""
_TEST_SHARE = 10
_MOST_NOTES, _MOST_NAMED, _MOST_KINDS = 50, 10, 3


def load(
    data_dir: Path,
    image_size: int | str = 32,
    downsample: bool = False,
    skip_bad: bool = False,
    max_megapixels: int = pictures.MAX_PIXELS // 10**6,
    test_folder: str | None = None,
    cache_dir: Path | str | None = None,
    grey: bool = False,
    classes: bool = False,
    only_test: bool = False,
) -> DataSet:
    """Loads the pictures below a training and a test folder in data_dir or, without these folders, all below data_dir.

    Without these folders, a tenth of the pictures becomes the test set. It is chosen by a hash of their names, so that
    the same names always give the same split. Each picture is cropped to the square in its middle. Other files, and
    whatever is hidden, are ignored. Names are compared, ordered and hashed in Unicode's form NFC.

    Args:
        image_size: the side of the square; or HxW, such as "28x20", for a rectangle.
        downsample: whether a picture is first shrunk until it only just covers image_size.
        skip_bad: whether pictures that can't be used are left out, and named in the data set's notes.
        max_megapixels: a larger picture can't be used.
        test_folder: the name of the test folder; by default the only one in TEST_FOLDERS. With only_test, it may also
            be WHOLE.
        cache_dir: where the conversion goes; see converted.cache_folder.
        grey: whether pictures become grey, by ITU-R 601, with one channel.
        classes: whether the images have labels: the folders in the training folder or, without one, in data_dir are
            the classes, in the order of their names. A picture belongs to the class in whose folder it lies, however
            deep. Without a test folder, a tenth of each class is the test set.
        only_test: whether the test set is enough: there need not be training pictures.

    Raises:
        UserError: there are no or too few pictures; it is not clear which is the test folder; a picture is of no
            class; pictures can't be used (its notes, PEP 678, name them); or the conversion can't be written.
        OSError: a folder can't be listed.
    """
    check_exists(data_dir)
    folders = _split_folders(data_dir, test_folder, only_test)
    names, ignored = _names(data_dir, folders)
    class_names, labels = _classes(data_dir, folders, names) if classes else (None, None)
    if "test" not in folders:
        names, labels = _divided(data_dir, names["all"], labels and labels["all"], only_test)
    for name, of_split in names.items():
        if not of_split:
            others = f" ({ignored})" if ignored else ""
            raise UserError(f"there are no PNG, JPEG or WebP pictures for the {name} split in {data_dir}{others}")
    shape = (*height_and_width(image_size), 1 if grey else 3)
    sources = {
        name: converted.Source(
            identity={
                "source": str(data_dir),
                "downsample": downsample,
                "max_megapixels": max_megapixels,
                "pictures": _fingerprint(data_dir, of_split),
            }
            | ({"grey": True} if grey else {}),  # conversions of earlier versions stay valid
            image_shape=shape,
            total=len(of_split),
            chunks=functools.partial(_chunks, data_dir, of_split, shape, downsample, max_megapixels * 10**6),
        )
        for name, of_split in names.items()
    }
    kind = f"{'grey_' * grey}{'downsampled' if downsample else 'cropped'}"
    # Each division of the same pictures has a conversion of its own. Otherwise one would replace the other.
    divided = "_whole" if folders.get("test") == data_dir else "_by_class" if classes and "test" not in folders else ""
    cache = converted.cache_folder(data_dir, cache_dir, f"{kind}_{shape[0]}x{shape[1]}{divided}")
    with options_named_as_flags():  # the reasons stay in the record, whoever reads it later
        found = converted.splits(cache, sources)
    bad = {name: dict(record["bad"]) for name, (_, record) in found.items()}
    _check_bad(data_dir, names, bad, skip_bad)
    splits = {}
    for name, (split, _) in found.items():
        used = [i for i, picture in enumerate(names[name]) if picture not in bad[name]]
        if len(used) != len(split):
            raise UserError(f"{cache} is damaged: remove it, and the pictures are converted anew")
        used_labels = None if labels is None else labels[name][used]
        splits[name] = Split(split.images, used_labels, names=[names[name][i] for i in used])
    notes = [_what_counts(shape, downsample), *_notes_on_folders(folders, only_test)]
    if ignored:
        notes.append(ignored)
    if any(bad.values()):
        notes.append(_left_out(names, {name: reason for of_split in bad.values() for name, reason in of_split.items()}))
    if classes and "train" in splits:
        empty = [name for label, name in enumerate(class_names) if label not in splits["train"].labels]
        notes += [f"the class {name} has no training picture" for name in empty]
    return DataSet(
        splits.get("train"),
        splits["test"],
        source=str(data_dir),
        class_names=class_names,
        notes=tuple(map(printable, notes)),
    )


def check_exists(data_dir: Path) -> None:
    """Raises UserError if there is no folder data_dir."""
    if not listing.is_folder(data_dir):
        raise UserError(f"there is no folder {data_dir}: --data_dir names the folder of the pictures")


def check_apart(
    data_dir: Path, path: Path, test_folder: str | None = None, only_test: bool = False, flag: str = "save_dir"
) -> None:
    """Raises UserError if files written to a path could become part of the data set, or as `load`.

    Args:
        flag: the name of the path's flag.
    """
    folders = _split_folders(data_dir, test_folder, only_test) if listing.is_folder(data_dir) else {}
    for folder in folders.values() if "test" in folders else [data_dir]:
        if path.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--{flag}={path} lies in {folder}, below which all pictures are the data set: choose a --{flag} "
                "outside of it"
            )


def _split_folders(data_dir, test_folder, only_test):
    """The folders `train` and `test`, or only one of them, or none; without `test`, all of data_dir is to be split."""
    test_name = None if test_folder is None else _nfc(test_folder.rstrip("/"))
    if test_name == WHOLE:
        if only_test:
            return {"test": data_dir}
        raise UserError(
            f"--test_folder={test_folder} leaves no pictures to train on: name a folder beside train, or leave the "
            "flag out; eval.py takes it"
        )
    # Only for these names is the system asked whether they are folders.
    names = sorted(os.listdir(data_dir))
    train, test = (
        [name for name in names if name.lower() in known and listing.is_folder(data_dir / name)]
        for known in (TRAIN_FOLDERS, TEST_FOLDERS)
    )
    if test_folder is not None:
        test = [name for name in names if _nfc(name) == test_name and listing.is_folder(data_dir / name)]
        if not test or test == train:
            whole = f", or {WHOLE} to take all pictures" if only_test else ""
            raise UserError(
                f"--test_folder={test_folder} is no folder beside train in {data_dir}: give the name of one{whole}"
            )
    if test and not train and not only_test:
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


def _what_counts(shape, downsample):
    height, width, channels = shape
    if height == width:
        taken, until = f"the square in the middle is taken, {height} x {width} pixels", f"its shorter side is {height}"
    else:
        size = f"{height} pixels high and {width} wide"
        taken, until = f"the middle is taken, {size}", f"it only just covers a rectangle {size}"
    grey = "; it is made grey" if channels == 1 else ""
    if downsample:
        return f"each picture is scaled down until {until}; then {taken}{grey}"
    return f"of each picture, {taken}{grey}"


def _notes_on_folders(folders, only_test):
    if "test" in folders:
        test = folders["test"].name
        is_obvious = "train" not in folders or test.lower() == "test"
        return [] if is_obvious else [f"{test}/ is the test set"]
    train = [f"no test folder lies beside {folder.name}/: " for folder in folders.values()]
    if only_test:
        whole = f"{option('test_folder')}={WHOLE} takes all of them"
        return [f"{''.join(train)}a tenth of all pictures is the test set; {whole}"]
    return [f"{start}a tenth of all pictures is the test set" for start in train]


def _nfc(name):
    """A name in Unicode's form NFC, in which names are compared: systems store "é" in different forms."""
    return unicodedata.normalize("NFC", name)


def _names(data_dir, folders):
    """The names of the pictures relative to data_dir, in order: of each split or, without a test folder, of `all`.

    Also returns, in words, how many other files are ignored; None if there are none.
    """
    names, others = {}, collections.Counter()
    for split, folder in (folders if "test" in folders else {"all": data_dir}).items():
        found = []
        for path in listing.below(folder):
            suffix = path.suffix.lower()
            if suffix in SUFFIXES:
                found.append(path.relative_to(data_dir).as_posix())
            else:
                others[suffix] += 1
        names[split] = sorted(found, key=lambda name: (_nfc(name).split("/"), name))
    return names, _ignored(others)


def _ignored(others):
    """A line with the numbers of files that are no pictures, by suffix; None if there are none."""
    kinds = sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))
    parts = [f"{number} {suffix or 'without a suffix'}" for suffix, number in kinds[:_MOST_KINDS]]
    if rest := sum(number for _, number in kinds[_MOST_KINDS:]):
        parts.append(f"{rest} others")
    number = others.total()
    if not number:
        return None
    line = f"{number} other file{' is' if number == 1 else 's are'} ignored: {', '.join(parts)}"
    pictures_among = sorted(others.keys() & pictures.OTHER_FORMATS)
    return f"{line}; to use {' and '.join(pictures_among)} pictures, convert them to PNG" if pictures_among else line


def _divided(data_dir, names, labels, only_test):
    """All pictures in two splits: a tenth of them, or of each class, is the test set. Returns names and labels."""
    whole = f", or take all pictures as the test set with {option('test_folder')}={WHOLE}" if only_test else ""
    if len(names) == 1:
        raise UserError(
            f"{data_dir} has only one picture, {names[0]}, but training and testing need one each: add another{whole}"
        )
    classes = collections.defaultdict(list)
    for i in range(len(names)):
        classes[None if labels is None else labels[i]].append(i)
    chosen = set()
    for of_class in classes.values():
        of_class.sort(key=lambda i: hashlib.sha256(os.fsencode(_nfc(names[i]))).digest())
        # A class of one picture is trained on.
        chosen.update(of_class[: min(-(-len(of_class) // _TEST_SHARE), len(of_class) - 1)])
    if names and not chosen:
        raise UserError(
            f"each class in {data_dir} has only one picture, which is for training: add one to a class, for the test "
            f"set{whole}"
        )
    places = {
        "train": [i for i in range(len(names)) if i not in chosen],
        "test": [i for i in range(len(names)) if i in chosen],
    }
    divided = {split: [names[i] for i in place] for split, place in places.items()}
    return divided, None if labels is None else {split: labels[place] for split, place in places.items()}


def _classes(data_dir, folders, names):
    """The names of the classes, and the labels of all pictures of each entry of names, int32 [N]."""
    root = folders.get("train", folders.get("test", data_dir))
    folders_of_classes = [path for path in listing.inside(root) if not listing.is_hidden(path.name)]
    class_names = tuple(sorted({_nfc(path.name) for path in folders_of_classes if listing.is_folder(path)}))
    if not class_names:
        raise UserError(
            f"{root} has no folders: for a class-conditional network, each class's pictures lie in a folder there"
        )
    number = {name: label for label, name in enumerate(class_names)}
    labels = {}
    for name, of_split in names.items():
        of_root = folders.get(name, root)
        start = "" if of_root == data_dir else f"{of_root.name}/"
        labels[name] = np.zeros(len(of_split), np.int32)
        for i, picture in enumerate(of_split):
            folder, slash, _ = _nfc(picture.removeprefix(start)).partition("/")
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


def _chunks(data_dir, names, shape, downsample, max_pixels, start) -> Iterator[converted.Chunk]:
    middles = (_middle(data_dir / name, name, shape, downsample, max_pixels) for name in names[start:])
    return converted.in_chunks(middles, shape)


def _middle(path, name, shape, downsample, max_pixels):
    """The middle of a picture, of this shape, or a converted.Bad."""
    try:
        picture = pictures.read_picture(path, str(path), max_pixels)
    except pictures.PictureError as error:
        return converted.Bad(name, error.reason)
    least, (height, width) = shape[:2], picture.shape[:2]
    if height < least[0] or width < least[1]:
        size = least[0] if least[0] == least[1] else f"{least[0]}x{least[1]}"
        return converted.Bad(name, f"{height} pixels high and {width} wide, smaller than --image_size={size}")
    if shape[2] == 1:
        picture = pictures.grey(picture)
    if downsample:
        factor = max(least[0] / height, least[1] / width)
        width, height = round(width * factor), round(height * factor)
        picture = np.asarray(pictures.as_picture(picture).resize((width, height), PIL.Image.Resampling.LANCZOS))
    return pictures.middle(picture, *least).reshape(shape)
