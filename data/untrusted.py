"""Reading what somebody else made: checksums, pickles, archives, pictures. Nothing in them is executed.

Every function here raises UserError, in one line that names the file, where a file is missing, broken or not what it
should be.
"""

import contextlib
import hashlib
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageOps

from pixel_snail import progress
from pixel_snail.errors import UserError

_CHUNK = 1 << 20


def checksum(path: Path, algorithm: str) -> str:
    """The hexadecimal digest of a file, `md5` or `sha256`; large files show progress."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with _readable(path), open(path, "rb") as file:
        size = os.path.getsize(path)
        bar = progress.bar(total=size, desc=f"{algorithm} of {path.name}", unit="B", unit_scale=True, leave=False)
        with bar if size > 100 * _CHUNK else contextlib.nullcontext() as shown:
            while block := file.read(_CHUNK):
                digest.update(block)
                if shown is not None:
                    shown.update(len(block))
    return digest.hexdigest()


def check_checksum(path: Path, algorithm: str, expected: str) -> None:
    """Raises UserError if a file's digest is another than that of the published file."""
    actual = checksum(path, algorithm)
    if actual != expected:
        raise UserError(
            f"{path} is not the published file, or broken: its {algorithm} is {actual}, not {expected}; get it anew"
        )


def unpickle(path: Path) -> dict[str, object]:
    """What a pickled dictionary holds, its names as str: numbers, strings, lists, and arrays of plain numbers."""
    with _readable(path), open(path, "rb") as file:
        try:
            content = _Unpickler(file, encoding="bytes").load()
        except pickle.UnpicklingError as error:
            raise UserError(f"{path} is not a batch of images: {error}") from error
        except Exception as error:  # what is broken makes pickle raise nearly anything
            raise UserError(f"{path} is broken: {type(error).__name__} while reading it; get it anew") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a batch of images: it holds a {type(content).__name__}")
    return {name.decode() if isinstance(name, bytes) else name: value for name, value in content.items()}


class _Unpickler(pickle.Unpickler):
    """Makes arrays of numbers, and no other object: a pickle may name any function, and have it called."""

    def find_class(self, module, name):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda array, shape, kind: array()
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":  # protocol 5's arrays
            return _array_from_buffer
        if module == "numpy" and name in ("ndarray", "dtype"):
            return {"ndarray": _Array, "dtype": _Dtype}[name]
        if (module, name) == ("_codecs", "encode"):  # bytes, in Python 3's protocol 2
            return lambda text, encoding: text.encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class _Dtype:
    """Stands for numpy.dtype: of numbers only, an object's bytes would be addresses."""

    def __init__(self, name, align=False, copy=False):
        name = name.decode() if isinstance(name, bytes) else name
        if name[0] not in "uif" or not name[1:].isdigit():
            raise pickle.UnpicklingError(f"it has an array of {name}, not of numbers")
        self.value = np.dtype(name)

    def __setstate__(self, state):
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands for numpy.ndarray, until `unwrapped` has made it one: its state's shape and bytes must agree."""

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        self.value = np.frombuffer(data, dtype.value).reshape(shape, order="F" if fortran else "C")


def _array_from_buffer(data, dtype, shape, order):
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def array(content: dict[str, object], name: str, path: Path) -> np.ndarray:
    """The array under a name of what `unpickle` read; a list of numbers counts as one."""
    value = content.get(name)
    value = value.value if isinstance(value, _Array) else value
    if isinstance(value, list) and all(isinstance(number, int) for number in value):
        value = np.array(value)
    if not isinstance(value, np.ndarray):
        raise UserError(f"{path} is not a batch of images: it has no {name!r}")
    return value


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar file into a folder; what would land outside of it, and devices, are refused."""
    with _readable(archive), tarfile.open(archive) as tar:
        for member in progress.bar(tar, desc=f"unpacking {archive.name}", unit="file", leave=False):
            try:
                tar.extract(member, folder, filter="data")
            except OSError as error:
                raise UserError(f"can't unpack {archive} into {folder}: {error.strerror or error}") from error


def tar_pictures(archive: Path, folder: Path) -> Iterator[tuple[str, BinaryIO]]:
    """The names and contents of the files in a tar, in its order; nothing is written, yet names are checked as if."""
    with _readable(archive), tarfile.open(archive, "r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # else it remembers a million of them
            member = tarfile.data_filter(member, str(folder))
            if member.isfile():
                yield member.name, tar.extractfile(member)
        # tarfile takes a file that is cut off between two members, or in a header, for one that ends there.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise UserError(f"{archive} is broken or cut off; get it anew")


def npy(path: Path | str) -> np.ndarray:
    """The array in an .npy file; arrays of objects, which are pickles, are refused."""
    try:
        return np.load(path, allow_pickle=False)
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from error
    except Exception as error:  # what is broken makes NumPy raise nearly anything
        raise UserError(f"{path} is not an array that can be read: {error}") from error


def npz_names(path: Path) -> set[str]:
    """The names of the arrays in an .npz file."""
    with _readable(path), zipfile.ZipFile(path) as file:
        return {name.removesuffix(".npy") for name in file.namelist()}


def npz_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array in an .npz file."""
    with _npz_member(path, name) as (_, shape, dtype):
        return shape, dtype


def npz_rows(path: Path, name: str, start: int, rows: int) -> Iterator[np.ndarray]:
    """The array under a name of an .npz file, from row `start` on, so many rows at a time: it may exceed memory."""
    with _npz_member(path, name) as (stream, shape, dtype):
        row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
        _skip(stream, start * row_bytes)
        for first in range(start, shape[0], rows):
            number = min(rows, shape[0] - first)
            block = stream.read(number * row_bytes)
            if len(block) < number * row_bytes:
                raise UserError(f"{path} is broken: {name} ends after {first} of {shape[0]} rows; get it anew")
            yield np.frombuffer(block, dtype).reshape(number, *shape[1:])


@contextlib.contextmanager
def _npz_member(path, name):
    with _readable(path), zipfile.ZipFile(path) as file:
        if f"{name}.npy" not in file.namelist():
            raise UserError(f"{path} has no array {name!r}")
        with file.open(f"{name}.npy") as stream:
            try:
                version = np.lib.format.read_magic(stream)
                read_header = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }[version]
                shape, fortran, dtype = read_header(stream)
            except (ValueError, KeyError) as error:
                raise UserError(f"{path} is broken: {name} has no header that can be read; get it anew") from error
            if fortran or dtype.hasobject or not shape:
                raise UserError(f"{path}: {name} is not an array of images")
            yield stream, shape, dtype


def _skip(stream, number):
    while number > 0 and (block := stream.read(min(number, _CHUNK))):
        number -= len(block)


def picture(file: Path | BinaryIO, name: str) -> np.ndarray:
    """A PNG, JPEG or WebP picture, uint8 [H, W, 3], RGB, upright."""
    try:
        with PIL.Image.open(file, formats=["PNG", "JPEG", "WEBP"]) as image:
            return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # what is broken makes Pillow raise nearly anything
        raise UserError(f"{name} is not a PNG, JPEG or WebP picture that can be read: {error}") from error


@contextlib.contextmanager
def _readable(path):
    """Turns what the system and the formats' libraries raise into UserError."""
    try:
        yield
    except tarfile.FilterError as error:
        raise UserError(f"{path} is refused: {error}") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} is broken or cut off: {error}; get it anew") from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename not in (None, str(path), path) else ""
        raise UserError(f"can't read {path}: {error.strerror or error}{where}") from error
