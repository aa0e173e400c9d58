"""Pictures and arrays of images, read from files of unknown origin.

If a file is missing, broken or of another kind, `read_picture`, `read_npy` and `readable` raise UserError, in one line
that names the file.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageOps

from pixel_snail.errors import UserError


def to_8_bits(images: np.ndarray) -> np.ndarray:
    """Rounds images in [-1, 1] to uint8."""
    return np.clip(np.round(images * 127.5 + 127.5), 0, 255).astype(np.uint8)


def from_8_bits(images: np.ndarray) -> np.ndarray:
    """Scales uint8 images to float32 in [-1, 1]."""
    return (images / 127.5 - 1).astype(np.float32)


def read_picture(file: Path | BinaryIO, name: str) -> np.ndarray:
    """A PNG, JPEG or WebP picture as upright RGB, uint8 [H, W, 3].

    Args:
        name: the file's name in error messages.

    Raises:
        UserError: there is no such picture, or it is broken or has more than 89 million pixels, Pillow's limit.
    """
    formats = ["PNG", "JPEG", "WEBP"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(file, formats=formats) as image:
                image.verify()  # the checksums of a PNG's pixels, which Pillow ignores in decoding
            with PIL.Image.open(file, formats=formats) as image:
                return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {name}") from error
    except Exception as error:  # on a broken file, Pillow raises nearly anything
        raise UserError(f"{name} is not a PNG, JPEG or WebP picture that can be read: {error}") from error


def read_npy(path: Path | str) -> np.ndarray:
    """The array in an .npy file. Arrays of objects, which are pickles, are refused."""
    with readable(path), open(path, "rb") as file:
        try:
            shape, dtype, order = npy_header(file)
            size = math.prod(shape) * dtype.itemsize
            if size > os.path.getsize(path) - file.tell():  # checked before memory is allocated
                raise ValueError(f"it is cut off, or was never of shape {shape}")
            return np.frombuffer(file.read(size), dtype).reshape(shape, order=order)
        except Exception as error:  # on a broken file, NumPy raises nearly anything
            raise UserError(f"{path} is not an array that can be read: {error}") from error


def npy_header(stream):
    """Reads an .npy header from a stream: the shape, dtype and order of the array that follows.

    Raises:
        ValueError: it is not the header of an array of numbers.
    """
    # Arrays of numbers need no later version, in which a header may have any size.
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("it is of another version than NumPy's arrays of numbers")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    if min(shape, default=0) < 0:
        raise ValueError(f"it has the shape {shape}")
    return shape, dtype, "F" if fortran else "C"


@contextlib.contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Within it, errors of the system and of the libraries for file formats become UserErrors that name the file."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename not in (None, str(path), path) else ""
        raise UserError(f"can't read {path}: {error.strerror or error}{where}") from error
    except Exception as error:  # on a broken file, tarfile and zipfile raise nearly anything
        raise UserError(f"{path} is broken or cut off: {str(error) or type(error).__name__}; get it anew") from error
