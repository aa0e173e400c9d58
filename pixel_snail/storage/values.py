"""The values of arrays of images, examined in chunks: the arrays may be larger than memory."""

import math
from collections.abc import Iterator

import numpy as np

from pixel_snail.commands import progress

_CHUNK_BYTES = 16 << 20


def chunks(images: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields images of an array, or of an object that is indexed like one, in order: (number of the first, images).

    If it takes longer than two seconds, there is a progress bar.
    """
    rows = max(_CHUNK_BYTES // (np.dtype(images.dtype).itemsize * max(math.prod(images.shape[1:]), 1)), 1)
    starts = range(0, len(images), rows)
    for start in progress.bar(starts, desc="checking values", unit="chunk", leave=False, delay=2):
        yield start, np.asarray(images[start : start + rows])


def rows(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The rows of an array, or of an object that is indexed like one, in any order and as often as asked.

    Data sets of HDF5 files return rows in increasing order only, each of them once.
    """
    different, places = np.unique(indices, return_inverse=True)
    return np.asarray(array[different])[places]


def first_outside(images: np.ndarray, levels: int) -> tuple[int, str] | None:
    """The first value that is not an integer from 0 to levels - 1, and where it is; None if there is none.

    Images are not read if their type can't have other values, or if they have an attribute `levels`, with which an
    object guarantees its values.

    Args:
        images: integers [N, H, W, C], or booleans.
        levels: the number of levels, L.
    """
    if getattr(images, "levels", None) == levels or is_within(images.dtype, levels):
        return None
    for start, chunk in chunks(images):
        if chunk.size and not 0 <= chunk.min() <= chunk.max() < levels:
            place = np.unravel_index(np.argmax((chunk < 0) | (chunk >= levels)), chunk.shape)
            return int(chunk[place]), f"image {start + place[0]} has {_at(chunk, place)}"
    return None


def first_nan(images: np.ndarray, number: int = 0) -> str | None:
    """Where the first NaN of an array of floating-point numbers is, in words; None if there is none.

    Args:
        number: the number of the first image.
    """
    is_nan = np.isnan(images)
    if not is_nan.any():
        return None
    place = np.unravel_index(np.argmax(is_nan), images.shape)
    return f"image {number + place[0]} has {_at(images, place)}"


def is_within(dtype: np.dtype, levels: int) -> bool:
    """Whether all values of a type of integers are from 0 to levels - 1."""
    dtype = np.dtype(dtype)
    return dtype.kind == "b" or (dtype.kind == "u" and np.iinfo(dtype).max < levels)


def _at(images, place):
    names = ("row", "column", "channel")
    where = ", ".join(f"{name} {index}" for name, index in zip(names, place[1:], strict=False))
    return f"the value {images[place]} at {where}" if where else f"the value {images[place]}"
