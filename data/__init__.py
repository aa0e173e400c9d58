"""The registry of data sets: the names that --data_set takes, and a loader for each."""

from pixel_snail.commands import packages  # noqa: F401

# isort: split
import argparse
import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data import arrays, cifar, folder, imagenet, imagenet_resized, mnist, photos, tfds_sets
from pixel_snail.commands.command_line import DATA_DEFAULTS, DATA_OPTIONS, OF_TFDS, name_in_tfds, takes
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError
from pixel_snail.storage.reductions import BINARIZED, FIXED_SEED, Binarized, Reduced


def _photos(data_dir: Path | None) -> DataSet:
    train, test = photos.load()
    return DataSet(Split(train), Split(test), source="scikit-image's photographs")


data_sets: dict[str, Callable[..., DataSet]] = {
    "arrays": arrays.load,
    "cifar": cifar.load,
    "fashion_mnist": functools.partial(mnist.load, name="fashion_mnist"),
    "folder": folder.load,
    "imagenet": functools.partial(imagenet.load, size=32),
    "imagenet64": functools.partial(imagenet.load, size=64),
    "imagenet_resized": imagenet_resized.load,
    "mnist": functools.partial(mnist.load, name="mnist"),
    "photos": _photos,
}
"""Loaders by the names that --data_set takes. A loader is called with --data_dir; it raises UserError if files are
missing. The sets of TensorFlow Datasets, tfds:NAME, are not in this registry."""


def loader(name: str) -> Callable[..., DataSet]:
    """The loader of a data set; raises UserError if no data set has this name."""
    if of_tfds := name_in_tfds(name):
        return functools.partial(tfds_sets.load, name=of_tfds)
    if name not in data_sets:  # only a name from a run's flags.json: the command line refuses others
        raise UserError(f"unknown data set {name!r}; known: {', '.join([*sorted(data_sets), OF_TFDS])}")
    return data_sets[name]


def load(
    name: str,
    data_dir: str | os.PathLike | None,
    classes: bool = False,
    only_test: bool = False,
    levels: int | None = None,
    binarize: bool = False,
    **options: object,
) -> DataSet:
    """Loads a data set.

    Args:
        name: as --data_set takes it.
        data_dir: the folder of the data set's files; None for `photos`, which needs none.
        classes: whether the pictures of `folder` get labels, from their folders. Other loaders return the labels that
            the data set has.
        only_test: whether the test split is enough. Loaders other than that of `folder` load both splits anyway.
        levels: the number of levels to which 8-bit images are reduced, v * levels // 256; for `arrays`, the number that
            they have. None: the images stay as they are.
        binarize: whether black or white is drawn for each value of grey images.
        options: image_size, downsample, skip_bad, max_megapixels, test_folder, cache_dir or grey; see the loaders of
            the data sets in DATA_OPTIONS. Others take no option that differs from its default.

    Raises:
        UserError: no data set has this name, its files are missing or broken, it does not take such an option, its
            loader returns something else than a DataSet, or there are no training images and they are needed.
    """
    load_set = loader(name)
    given = {option: value for option, value in options.items() if value != DATA_DEFAULTS.get(option)}
    _check_options(name, given)
    if name == "folder":
        given |= {"classes": classes, "only_test": only_test}
    if name == "arrays":
        given |= {"levels": levels}
    if data_dir is None and name != "photos":
        raise UserError(f"the data set {name} has files: give data_dir, their folder")
    with _errors(data_dir):
        data_set = load_set(data_dir if data_dir is None else Path(data_dir), **given)
    if not isinstance(data_set, DataSet):
        raise UserError(
            f"the loader of the data set {name} returns a {type(data_set).__name__}: let it return a "
            "pixel_snail.dataset.DataSet"
        )
    if data_set.train is None and not only_test:
        raise UserError(
            f"the data set {name} has no training images: evaluate it with eval.py, or give it training images"
        )
    return _reduced(name, data_set, levels, binarize)


def _reduced(name, data_set, levels, binarize):
    """The data set with fewer levels, or with values drawn by --binarize."""
    own, channels = data_set.levels, data_set.image_shape[2]
    if levels not in (None, own):
        if levels > own or own != 256:
            fewer = "from 2 to 256 can be given" if own == 256 else "only 8-bit images, of 256, are reduced"
            raise UserError(f"--levels={levels}: the images of {name} have {own:,} levels, and {fewer}")
        if binarize:
            raise UserError(f"--binarize draws black and white from all {own} levels: leave --levels={levels} out")
        return _seen(
            data_set,
            lambda images: Reduced(images, levels),
            levels,
            f"levels={levels}",
            f"the 8-bit values v are reduced to {levels} levels: v * {levels} // 256",
        )
    if not binarize:
        return data_set
    if channels != 1:
        grey = ", and --grey makes them grey" if takes(name, "grey") else ""
        raise UserError(f"--binarize is for grey images: those of {name} have {channels} channels{grey}")
    if own == 2:
        raise UserError(f"the images of {name} already have 2 levels: leave --binarize out")
    note = (
        f"values are drawn: a value v becomes 1 with the probability v / {own - 1}, else 0; training draws them anew "
        f"in each epoch, the test set always from the seed {FIXED_SEED}"
    )
    if name == "mnist":
        note += "; Larochelle's fixed binarization is another set"
    return _seen(data_set, lambda images: Binarized(images, own), 2, BINARIZED, note)


def _seen(data_set, view, levels, reduction, note):
    """The data set, its images seen through a view."""
    train, test = (
        split and dataclasses.replace(split, images=view(split.images)) for split in (data_set.train, data_set.test)
    )
    notes = (*data_set.notes, note)
    return dataclasses.replace(data_set, train=train, test=test, levels=levels, reduction=reduction, notes=notes)


def check_paths(flags: argparse.Namespace) -> None:
    """Raises UserError, before anything is loaded, if the folder of a folder's data set is not there.

    It also refuses flags that the data set does not take.
    """
    if flags.data_set is not None:
        loader(flags.data_set)
        _check_options(flags.data_set, options(flags))
    if flags.data_set == "folder" and flags.data_dir is not None:
        with _errors(flags.data_dir):
            folder.check_exists(Path(flags.data_dir))


def _check_options(name, given):
    """Raises UserError if a data set does not take an option that differs from its default; None is no option."""
    for option, value in given.items():
        is_given = value not in (None, DATA_DEFAULTS.get(option)) and option not in ("levels", "binarize")
        if is_given and not takes(name, option):
            takers = " or ".join(taker for taker in DATA_OPTIONS if takes(taker, option))
            raise UserError(f"--{option} is not for --data_set={name}, but for {takers}")


def from_flags(flags: argparse.Namespace, only_test: bool = False) -> DataSet:
    """Loads the data set that the flags name. Its labels are dropped unless --class_conditional is given.

    Args:
        only_test: as in `load`.

    Raises:
        UserError: as in `load`; codes are not below --levels; or files in --save_dir or --cache_dir would become part
            of the data set.
    """
    check_apart(flags, only_test)
    data_set = load(flags.data_set, Path(flags.data_dir), flags.class_conditional, only_test, **options(flags))
    is_reduced = data_set.reduction is not None and not flags.binarize
    if flags.data_set == "arrays" and flags.likelihood == "categorical" and is_reduced:
        raise UserError(
            f"the images have the value 255, but --levels={flags.levels} allows only codes from 0 to "
            f"{flags.levels - 1}: give --levels=256; 8-bit images must be reduced before they are saved"
        )
    if not flags.class_conditional:
        return data_set.without_labels()
    return _with_notes_on_classes(data_set) if flags.data_set != "folder" else data_set


def check_apart(flags: argparse.Namespace, only_test: bool = False) -> None:
    """Raises UserError if files in --save_dir or --cache_dir would become part of a folder's data set."""
    for name in ("save_dir", "cache_dir") if flags.data_set == "folder" else ():
        if path := getattr(flags, name):
            with _errors(flags.data_dir):
                folder.check_apart(Path(flags.data_dir), Path(path), flags.test_folder, only_test, flag=name)


def options(flags: argparse.Namespace) -> dict[str, object]:
    """The options of `load` among the flags."""
    given = {name: getattr(flags, name) for name in DATA_DEFAULTS if name not in ("data_dir", "data_set")}
    if getattr(flags, "complete", None) and flags.data_set != "folder":
        del given["max_megapixels"]  # It is for the picture of eval.py --complete.
    return given


def _with_notes_on_classes(data_set):
    """The data set, with a note on classes that no training image has: labels may have been counted from 1."""
    if data_set.train is None or data_set.nr_labels is None:
        return data_set
    # Labels may be so large that a list of all classes would not fit into memory.
    present = set(np.unique(data_set.train.labels).tolist())
    empty = list(itertools.islice((label for label in range(data_set.nr_labels) if label not in present), 6))
    if not empty:
        return data_set
    which = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
    note = f"no training image has the label {which}: labels count from 0"
    return dataclasses.replace(data_set, notes=(*data_set.notes, note))


@contextlib.contextmanager
def _errors(data_dir):
    try:
        yield
    except OSError as error:  # for example, no permission to look into the folder
        raise UserError(f"can't read {error.filename or data_dir}: {error.strerror or error}") from error
