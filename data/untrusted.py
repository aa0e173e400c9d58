"""Reading what somebody else made: checksums, pickles, archives, pictures. Nothing in them is executed.

Every function here raises UserError, in one line that names the file, where a file is missing, broken or not what it
should be.
"""

import contextlib
import hashlib
import math
import mmap
import os
import pickle
import tarfile
import warnings
import zipfile
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
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                batch = _Unpickler(content, encoding="bytes").load()
        except pickle.UnpicklingError as error:
            raise UserError(f"{path} is not a batch of images: {error}") from error
        except Exception as error:  # what is broken makes pickle raise nearly anything
            raise UserError(f"{path} is broken: {type(error).__name__} while reading it; get it anew") from error
    if not isinstance(batch, _Batch):
        raise UserError(f"{path} is not a batch of images: it holds a {type(batch).__name__}")
    return dict(batch)


class _Batch(dict):
    """A dictionary of names: to look up a tuple of twice a tuple of twice a tuple, and so on, takes forever."""

    __slots__ = ()

    def __setitem__(self, name, value):
        name = name.decode() if isinstance(name, bytes) else name
        if not isinstance(name, str):
            raise pickle.UnpicklingError(f"it has a {type(name).__name__} for a name")
        super().__setitem__(name, value)


class _Unpickler(pickle._Unpickler):
    """Makes arrays of numbers, and no other object: a pickle may name any function, and have it called.

    It is the one in Python: that in C at once makes room for whatever sizes a file tells.
    """

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self._encoded = {}

    def _load_dict(self):
        self.append(_Batch())

    def _load_filled_dict(self):
        items = self.pop_mark()
        self.append(_Batch())
        for name, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][name] = value

    dispatch = pickle._Unpickler.dispatch | {
        pickle.EMPTY_DICT[0]: _load_dict,
        pickle.DICT[0]: _load_filled_dict,
        pickle.BYTEARRAY8[0]: pickle._Unpickler.load_binbytes8,  # takes no more than there is
    }
    del dispatch[pickle.EMPTY_SET[0]], dispatch[pickle.FROZENSET[0]]  # they look up anything

    def find_class(self, module, name):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda array, shape, kind: array()
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":  # protocol 5's arrays
            return _array_from_buffer
        if module == "numpy" and name in ("ndarray", "dtype"):
            return {"ndarray": _Array, "dtype": _Dtype}[name]
        if (module, name) == ("_codecs", "encode"):  # bytes, in Python 3's protocol 2
            return self._encode
        raise pickle.UnpicklingError(f"it asks for {module[:99]}.{name[:99]}")

    def _encode(self, text, encoding):
        # Kept: a short file may ask for the same long bytes again and again.
        if not isinstance(text, str):
            raise pickle.UnpicklingError(f"it has bytes made of a {type(text).__name__}")
        if text not in self._encoded:
            self._encoded[text] = text.encode("latin1")
        return self._encoded[text]


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
    value = getattr(value, "value", None) if isinstance(value, _Array) else value
    if isinstance(value, list) and all(isinstance(number, int) for number in value):
        value = np.array(value)
    if not isinstance(value, np.ndarray):
        raise UserError(f"{path} is not a batch of images: it has no {name!r}")
    return value


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .tar.gz into a folder; what would land outside of it, links and devices are refused."""
    members = _members(archive, folder, "r:gz")
    with _readable(archive):
        for tar, member in progress.bar(members, desc=f"unpacking {archive.name}", unit="file", leave=False):
            try:
                tar.extract(member, folder, filter="data")
            except OSError as error:
                raise UserError(f"can't unpack {archive} into {folder}: {error.strerror or error}") from error


def tar_pictures(archive: Path, folder: Path) -> Iterator[tuple[str, BinaryIO]]:
    """The names and contents of the files in a tar, in its order; nothing is written, yet names are checked as if."""
    for tar, member in _members(archive, folder, "r:"):
        if tar.offset > os.path.getsize(archive):
            raise UserError(f"{archive} is broken or cut off; get it anew")
        if member.isfile():
            yield member.name, tar.extractfile(member)


def _members(archive, folder, mode):
    """The files and folders in a tar that may be unpacked into a folder, each with the opened tar."""
    with _readable(archive), tarfile.open(archive, mode, tarinfo=_Member) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # else it remembers a million of them
            if not (member.isfile() or member.isdir()) or member.issparse():
                raise UserError(f"{archive} is refused: {member.name} in it is neither a plain file nor a folder")
            if tar.offset < member.offset_data:  # its fields may say so: it would come again and again
                raise UserError(f"{archive} is broken: {member.name} in it ends before it begins; get it anew")
            yield tar, tarfile.data_filter(member, str(folder))
        # tarfile takes a file that is cut off between two members, or in a header, for one that ends there.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise UserError(f"{archive} is broken or cut off; get it anew")
        while tar.fileobj.read(_CHUNK):  # gzip's checksum is behind everything
            pass


class _Member(tarfile.TarInfo):
    """What stands in place of a long name or of further fields is read at once: it must be of a size to be read."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.size > _CHUNK and not member.isreg()):
            raise tarfile.ReadError(f"{member.name} in it can't have {member.size} bytes")
        return member


def npy(path: Path | str) -> np.ndarray:
    """The array in an .npy file; arrays of objects, which are pickles, are refused."""
    with _readable(path), open(path, "rb") as file:
        try:
            shape, dtype, order = _npy_header(file)
            size = math.prod(shape) * dtype.itemsize
            if size > os.path.getsize(path) - file.tell():  # before there is room made for it
                raise ValueError(f"it is cut off, or was never of shape {shape}")
            return np.frombuffer(file.read(size), dtype).reshape(shape, order=order)
        except Exception as error:  # what is broken makes NumPy raise nearly anything
            raise UserError(f"{path} is not an array that can be read: {error}") from error


def _npy_header(stream):
    """Shape, dtype and order of the array that follows in a stream."""
    # Arrays of numbers need no other version, and the headers of others may be of any size.
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("it is of another version than NumPy's arrays of numbers")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    if min(shape, default=0) < 0:
        raise ValueError(f"it has the shape {shape}")
    return shape, dtype, "F" if fortran else "C"


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
        row_bytes = dtype.itemsize * math.prod(shape[1:])
        _skip(stream, start * row_bytes)
        for first in range(start, shape[0], rows):
            number = min(rows, shape[0] - first)
            block = stream.read(number * row_bytes)
            if len(block) < number * row_bytes:
                raise UserError(f"{path} is broken: {name} ends after {first} of {shape[0]} rows; get it anew")
            if first + number == shape[0] and stream.read(1):  # which also has the member's checksum compared
                raise UserError(f"{path} is broken: {name} does not end after its {shape[0]} rows; get it anew")
            yield np.frombuffer(block, dtype).reshape(number, *shape[1:])


@contextlib.contextmanager
def _npz_member(path, name):
    with _readable(path), zipfile.ZipFile(path) as file:
        if f"{name}.npy" not in file.namelist():
            raise UserError(f"{path} has no array {name!r}")
        with file.open(f"{name}.npy") as stream:
            try:
                shape, dtype, order = _npy_header(stream)
            except zipfile.BadZipFile:
                raise
            except Exception as error:  # what is broken makes NumPy raise nearly anything
                raise UserError(f"{path}: {name} is not an array of images: {error}") from error
            if order == "F" or not shape:
                raise UserError(f"{path}: {name} is not an array of images")
            yield stream, shape, dtype


def _skip(stream, number):
    # Not by seeking, after which zipfile compares no checksum.
    while number > 0 and (block := stream.read(min(number, _CHUNK))):
        number -= len(block)


def picture(file: Path | BinaryIO, name: str) -> np.ndarray:
    """A PNG, JPEG or WebP picture, uint8 [H, W, 3], RGB, upright; more than Pillow's 89 million pixels are refused."""
    formats = ["PNG", "JPEG", "WEBP"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(file, formats=formats) as image:
                image.verify()  # the checksums of a PNG's pixels: to decode them, Pillow does not look at them
            with PIL.Image.open(file, formats=formats) as image:
                return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {name}") from error
    except Exception as error:  # what is broken makes Pillow raise nearly anything
        raise UserError(f"{name} is not a PNG, JPEG or WebP picture that can be read: {error}") from error


@contextlib.contextmanager
def _readable(path):
    """Turns what the system and the formats' libraries raise into UserError."""
    try:
        yield
    except UserError:
        raise
    except tarfile.FilterError as error:
        raise UserError(f"{path} is refused: {error}") from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename not in (None, str(path), path) else ""
        raise UserError(f"can't read {path}: {error.strerror or error}{where}") from error
    except Exception as error:  # what is broken makes tarfile and zipfile raise nearly anything
        raise UserError(f"{path} is broken or cut off: {str(error) or type(error).__name__}; get it anew") from error
