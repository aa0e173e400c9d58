"""The registry of data sets: the names that --data_set takes, and a loader for each."""

from pixel_snail.commands import packages  # noqa: F401

# isort: split
import argparse
import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

from data import cifar, folder, imagenet, imagenet_resized, photos
from pixel_snail.commands.command_line import DATA_DEFAULTS
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError


def _photos(data_dir: Path) -> DataSet:
    train, test = photos.load()
    return DataSet(Split(train), Split(test), source="scikit-image's photographs")


data_sets: dict[str, Callable[..., DataSet]] = {
    "cifar": cifar.load,
    "folder": folder.load,
    "imagenet": functools.partial(imagenet.load, size=32),
    "imagenet64": functools.partial(imagenet.load, size=64),
    "imagenet_resized": imagenet_resized.load,
    "photos": _photos,
}
"""Loaders by the names that --data_set takes. A loader is called with --data_dir; it raises UserError if files are
missing."""

_DEFAULTS = {name: value for name, value in DATA_DEFAULTS.items() if name not in ("data_dir", "data_set")}
_OPTIONS = {
    "folder": tuple(_DEFAULTS),
    "imagenet_resized": ("image_size", "cache_dir"),
    "imagenet": ("cache_dir",),
    "imagenet64": ("cache_dir",),
}


def loader(name: str) -> Callable[..., DataSet]:
    """The loader of a data set; raises UserError if no data set has this name."""
    if name not in data_sets:  # only a name from a run's flags.json: the command line refuses others
        raise UserError(f"unknown data set {name!r}; known: {', '.join(sorted(data_sets))}")
    return data_sets[name]


def load(name: str, data_dir: Path, classes: bool = False, only_test: bool = False, **options: object) -> DataSet:
    """Loads a data set.

    Args:
        name: as --data_set takes it.
        data_dir: the folder of the data set's files.
        classes: whether the pictures of `folder` get labels, from their folders. Other loaders return the labels that
            the data set has.
        only_test: whether the test split is enough. Loaders other than that of `folder` load both splits anyway.
        options: image_size, downsample, skip_bad, max_megapixels, test_folder or cache_dir; see the loaders of the
            data sets in _OPTIONS. Others take no option that differs from its default.

    Raises:
        UserError: no data set has this name, its files are missing or broken, it does not take such an option, its
            loader returns something else than a DataSet, or there are no training images and they are needed.
    """
    load_set = loader(name)
    given = {option: value for option, value in options.items() if value != _DEFAULTS.get(option)}
    for option in given.keys() - _OPTIONS.get(name, ()):
        takers = " or ".join(taker for taker in _OPTIONS if option in _OPTIONS[taker])
        raise UserError(f"--{option} is not for --data_set={name}, but for {takers}")
    if name == "folder":
        given |= {"classes": classes, "only_test": only_test}
    with _errors(data_dir):
        data_set = load_set(data_dir, **given)
    if not isinstance(data_set, DataSet):
        raise UserError(
            f"the loader of the data set {name} returns a {type(data_set).__name__}: let it return a "
            "pixel_snail.dataset.DataSet"
        )
    if data_set.train is None and not only_test:
        raise UserError(
            f"the data set {name} has no training images: evaluate it with eval.py, or give it training images"
        )
    return data_set


def check_paths(flags: argparse.Namespace) -> None:
    """Raises UserError, before anything is loaded, if the folder of a folder's data set is not there."""
    if flags.data_set == "folder" and flags.data_dir is not None:
        with _errors(flags.data_dir):
            folder.check_exists(Path(flags.data_dir))


def options(flags: argparse.Namespace) -> dict[str, object]:
    """The options of `load` among the flags."""
    return {name: getattr(flags, name) for name in _DEFAULTS}


def from_flags(flags: argparse.Namespace, only_test: bool = False) -> DataSet:
    """Loads the data set that the flags name. Its labels are dropped unless --class_conditional is given.

    Args:
        only_test: as in `load`.

    Raises:
        UserError: as in `load`; or files in --save_dir or --cache_dir would become part of the data set.
    """
    data_dir = Path(flags.data_dir)
    for name in ("save_dir", "cache_dir") if flags.data_set == "folder" else ():
        if path := getattr(flags, name):
            with _errors(data_dir):
                folder.check_apart(data_dir, Path(path), flags.test_folder, only_test, flag=name)
    given = options(flags)
    if getattr(flags, "complete", None) and flags.data_set != "folder":
        del given["max_megapixels"]  # It is for the picture of eval.py --complete.
    data_set = load(flags.data_set, data_dir, flags.class_conditional, only_test, **given)
    return data_set if flags.class_conditional else data_set.without_labels()


@contextlib.contextmanager
def _errors(data_dir):
    try:
        yield
    except OSError as error:  # for example, no permission to look into the folder
        raise UserError(f"can't read {error.filename or data_dir}: {error.strerror or error}") from error
