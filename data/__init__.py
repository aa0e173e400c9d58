"""The data sets, and the registry that --data_set reads: arrays in, tf.data out."""

import functools
from collections.abc import Callable
from pathlib import Path

from data import cifar, folder, imagenet, imagenet_resized, photos
from pixel_snail.dataset import DataSet, Split, check_batch_size, epoch_order, test_batches, training_batches
from pixel_snail.errors import UserError

__all__ = [
    "DataSet",
    "Split",
    "check_batch_size",
    "data_sets",
    "epoch_order",
    "load",
    "test_batches",
    "training_batches",
]


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
"""What --data_set may name: a loader each, called with --data_dir; it raises UserError where files are missing."""

_OPTIONS = {"folder": ("image_size", "downsample"), "imagenet_resized": ("image_size",)}


def load(name: str, data_dir: Path, image_size: int | None = None, downsample: bool = False) -> DataSet:
    """The data set that --data_set names.

    Args:
        image_size, downsample: for the sets that may have images of any size, see their loaders.

    Raises:
        UserError: there is no such set, its files are missing or broken, or it has no such option.
    """
    if name not in data_sets:  # a default, or from a run's flags: the command line knows its own
        raise UserError(f"unknown data set {name!r}; known: {', '.join(sorted(data_sets))}")
    given = {"image_size": image_size, "downsample": downsample}
    given = {option: value for option, value in given.items() if value}
    for option in given.keys() - _OPTIONS.get(name, ()):
        raise UserError(f"--{option} is not for --data_set={name}, whose images have a size of their own")
    try:
        return data_sets[name](data_dir, **given)
    except OSError as error:  # where there is no permission even to look
        raise UserError(f"can't read {error.filename or data_dir}: {error.strerror or error}") from error
