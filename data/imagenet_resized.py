"""ImageNet as Chrabaszcz et al. downsampled it in 2017: 1,281,167 training and 50,000 test images, with labels.

This is not the paper's data set (data/imagenet.py). Its images were smoothed while they were downsampled, so that they
are easier to model: results on the two data sets can't be compared.
"""

import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data import converted, listing, untrusted
from pixel_snail.dataset import DataSet
from pixel_snail.errors import UserError

UNVERIFIED = (
    "this is the ImageNet of 2017 (Chrabaszcz et al.), smoothed while it was downsampled and easier to model than the "
    "paper's of 2016"
)
SIZES = (8, 16, 32, 64)
BATCHES = 10
"""The batches of the training images, numbered from 1."""
_ARRAYS = ("data", "labels")


def load(data_dir: Path, image_size: int = 32, cache_dir: Path | str | None = None) -> DataSet:
    """Loads the batches `train_data_batch_1` to `train_data_batch_10` and `val_data`, which are .npz files or pickles.

    Looks for them in data_dir, in its folder imagenet_resized, and in subfolders Imagenet<size>_* of either, as the
    archives unpack.

    Args:
        image_size: the side of the images.
        cache_dir: where the conversion goes; see converted.cache_folder.

    Raises:
        UserError: image_size is not in SIZES, the batches are missing or broken, or the conversion can't be written.
    """
    if image_size not in SIZES:
        raise UserError(f"--image_size={image_size}: imagenet_resized has {', '.join(map(str, SIZES))}")
    roots = (data_dir, data_dir / "imagenet_resized")
    paths = next(filter(None, (find(root, image_size) for root in roots)), None)
    sources = paths and {name: _source(files, image_size) for name, files in paths.items()}
    cache = converted.cache_folder(data_dir, cache_dir, f"imagenet_resized_{image_size}x{image_size}")
    splits = converted.splits(cache, sources)
    if splits is None:
        raise UserError(
            f"there is no ImageNet of 2017 in {data_dir}: put there Imagenet{image_size}_train_npz and "
            f"Imagenet{image_size}_val_npz, unpacked, from https://image-net.org/download-images"
        )
    (train, of_train), (test, of_test) = splits["train"], splits["test"]
    number = len(of_train["identity"]["files"])
    notes = () if number >= BATCHES else (f"there are {number} of the {BATCHES} batches of training images",)
    source = " and ".join(record["identity"]["source"] for record in (of_train, of_test))
    return DataSet(train, test, source=source, unverified=UNVERIFIED, notes=notes)


def find(root: Path, size: int) -> dict[str, list[Path]] | None:
    """The batches of each split below a folder, in the order of their numbers; None if a split has none.

    Raises:
        UserError: a batch of training images is there twice, or is missing before another.
    """
    named = [path for path in listing.inside(root) if path.name.startswith(f"Imagenet{size}_")]
    folders = [root, *filter(listing.is_folder, named)]
    train = [path for folder in folders for path in listing.inside(folder) if _number(path)]
    test = [path for folder in folders for path in (folder / "val_data.npz", folder / "val_data")]
    test = list(filter(listing.is_file, test))
    if not train or not test:
        return None
    train = sorted(train, key=_number)
    for path, after in itertools.pairwise(train):
        if _number(path) == _number(after):
            raise UserError(f"{path} and {after} are the same batch of training images: move one of them away")
    missing = [number for number, path in enumerate(train, 1) if number != _number(path)]
    if missing:
        raise UserError(f"{root} has {train[-1].name}, but no train_data_batch_{missing[0]}: unpack all batches")
    return {"train": train, "test": test[:1]}


def _number(path):
    match = re.fullmatch(r"train_data_batch_(\d+)(\.npz)?", path.name)
    return match and int(match[1])


def _source(paths, size):
    return converted.Source(
        identity={"source": paths[0].name, "files": [converted.file_identity(path) for path in paths]},
        image_shape=(size, size, 3),
        total=None,
        chunks=functools.partial(_chunks, paths, size),
    )


def _chunks(paths, size, start) -> Iterator[converted.Chunk]:
    rows = converted.rows_per_chunk((size, size, 3))
    for path in paths:
        read = _npz if path.suffix == ".npz" else _pickled
        (shape, dtype), (labels_shape, labels_dtype), chunks = read(path, rows)
        if shape[1:] != (3 * size * size,) or dtype != np.uint8:
            raise UserError(f"{path} has {dtype} {shape}, not 8-bit images of {size} x {size}")
        number = shape[0]
        if not number or labels_shape != (number,) or labels_dtype.kind not in "iu":
            raise UserError(f"{path} has {number} images and labels {labels_dtype} {labels_shape}")
        if start >= number:
            start -= number
            continue
        for pixels, labels in chunks(start):
            if labels.min() < 1 or labels.max() > 1000:
                raise UserError(f"{path} has labels from {labels.min()} to {labels.max()}, not from 1 to 1000")
            yield converted.Chunk(pixels.reshape(-1, 3, size, size).transpose(0, 2, 3, 1), labels - 1)
        start = 0


def _npz(path, rows):
    """Opens a batch in an .npz file.

    Returns:
        (shape, dtype) of the pixels, (shape, dtype) of the labels, and chunks(start), which yields (pixels, labels) of
        `rows` rows at a time, from row `start` on.
    """

    def chunks(start):
        return zip(*(untrusted.npz_rows(path, name, start, rows) for name in _ARRAYS), strict=True)

    return *(untrusted.npz_header(path, name) for name in _ARRAYS), chunks


def _pickled(path, rows):
    """As `_npz`, for a pickled batch."""
    content = untrusted.unpickle(path)
    arrays = [untrusted.array(content, name, path) for name in _ARRAYS]

    def chunks(start):
        return (tuple(array[first : first + rows] for array in arrays) for first in range(start, len(arrays[0]), rows))

    return *((array.shape, array.dtype) for array in arrays), chunks
