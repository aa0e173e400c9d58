"""Reads archives and pickles that may be malicious. Nothing in them is executed.

Every function raises UserError, whose single line names the file, if the file is missing, broken or of another kind.
"""

import contextlib
import hashlib
import math
import mmap
import os
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pixel_snail.commands import progress
from pixel_snail.errors import UserError
from pixel_snail.storage.pictures import npy_header, readable

_CHUNK = 1 << 20


def checksum(path: Path, algorithm: str) -> str:
    """The hexadecimal digest of a file by `md5` or `sha256`. Files above 100 MiB show a progress bar."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with readable(path), open(path, "rb") as file:
        size = os.path.getsize(path)
        bar = progress.bar(total=size, desc=f"{algorithm} of {path.name}", unit="B", unit_scale=True, leave=False)
        with bar if size > 100 * _CHUNK else contextlib.nullcontext() as shown:
            while block := file.read(_CHUNK):
                digest.update(block)
                if shown is not None:
                    shown.update(len(block))
    return digest.hexdigest()


def check_checksum(path: Path, algorithm: str, expected: str) -> None:
    """Raises UserError if a file's digest is not the expected one, the published file's."""
    actual = checksum(path, algorithm)
    if actual != expected:
        raise UserError(
            f"{path} is not the published file, or broken: its {algorithm} is {actual}, not {expected}; get it anew"
        )


def unpickle(path: Path) -> dict[str, object]:
    """Reads a pickled dictionary: names to numbers, strings, lists, and arrays, which `array` takes out."""
    with readable(path), open(path, "rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                batch = _Unpickler(content, encoding="bytes").load()
        except pickle.UnpicklingError as error:
            raise UserError(f"{path} is not a batch of images: {error}") from error
        except Exception as error:  # a broken pickle may raise almost anything
            raise UserError(f"{path} is broken: {type(error).__name__} while reading it; get it anew") from error
    if not isinstance(batch, _Batch):
        raise UserError(f"{path} is not a batch of images: it holds a {type(batch).__name__}")
    return dict(batch)


class _Batch(dict):
    """A dictionary that takes only strings as keys: hashing a deeply nested tuple may take forever."""

    __slots__ = ()

    def __setitem__(self, name, value):
        name = name.decode() if isinstance(name, bytes) else name
        if not isinstance(name, str):
            raise pickle.UnpicklingError(f"it has a {type(name).__name__} for a name")
        super().__setitem__(name, value)


class _Unpickler(pickle._Unpickler):
    """Creates arrays of numbers and no other objects: a pickle may have any function called.

    Derived from pickle's Python implementation: the C implementation allocates memory of whatever size a file claims.
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
        pickle.BYTEARRAY8[0]: pickle._Unpickler.load_binbytes8,  # reads no more than the file has
    }
    del dispatch[pickle.EMPTY_SET[0]], dispatch[pickle.FROZENSET[0]]  # sets hash their elements: see _Batch

    def find_class(self, module, name):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda array, shape, kind: array()
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":  # arrays in protocol 5
            return _array_from_buffer
        if module == "numpy" and name in ("ndarray", "dtype"):
            return {"ndarray": _Array, "dtype": _Dtype}[name]
        if (module, name) == ("_codecs", "encode"):  # bytes, as Python 3 writes them in protocol 2
            return self._encode
        raise pickle.UnpicklingError(f"it asks for {module[:99]}.{name[:99]}")

    def _encode(self, text, encoding):
        # Cached, because a short file may ask for the same long bytes many times.
        if not isinstance(text, str):
            raise pickle.UnpicklingError(f"it has bytes made of a {type(text).__name__}")
        if text not in self._encoded:
            self._encoded[text] = text.encode("latin1")
        return self._encoded[text]


class _Dtype:
    """Stands in for numpy.dtype, for numbers only: in an array of objects, bytes of the file would become addresses."""

    def __init__(self, name, align=False, copy=False):
        name = name.decode() if isinstance(name, bytes) else name
        if name[0] not in "uif" or not name[1:].isdigit():
            raise pickle.UnpicklingError(f"it has an array of {name}, not of numbers")
        self.value = np.dtype(name)

    def __setstate__(self, state):
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands in for numpy.ndarray; its `value` is the array. An array with too few or too many bytes is refused."""

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        self.value = np.frombuffer(data, dtype.value).reshape(shape, order="F" if fortran else "C")


def _array_from_buffer(data, dtype, shape, order):
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def array(content: dict[str, object], name: str, path: Path) -> np.ndarray:
    """An array out of the content that `unpickle` returned; a list of integers counts as an array."""
    value = content.get(name)
    value = getattr(value, "value", None) if isinstance(value, _Array) else value
    if isinstance(value, list) and all(isinstance(number, int) for number in value):
        value = np.array(value)
    if not isinstance(value, np.ndarray):
        raise UserError(f"{path} is not a batch of images: it has no {name!r}")
    return value


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .tar.gz into a folder. Links, devices, and names that lead outside the folder are refused."""
    members = _members(archive, folder, "r:gz")
    with _unpackable(archive):
        for tar, member in progress.bar(members, desc=f"unpacking {archive.name}", unit="file", leave=False):
            try:
                tar.extract(member, folder, filter="data")
            except OSError as error:
                raise UserError(f"can't unpack {archive} into {folder}: {error.strerror or error}") from error


def tar_pictures(archive: Path, folder: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Yields (name, content) of each file in a tar, in order. Writes nothing, but checks names as `unpack` does."""
    for tar, member in _members(archive, folder, "r:"):
        if tar.offset > os.path.getsize(archive):
            raise UserError(f"{archive} is broken or cut off; get it anew")
        if member.isfile():
            yield member.name, tar.extractfile(member)


def _members(archive, folder, mode):
    """Yields (opened tar, member) for each file and folder in a tar; refuses members that are unsafe to unpack."""
    with _unpackable(archive), tarfile.open(archive, mode, tarinfo=_Member) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # else the tar would keep a million members in memory
            if not (member.isfile() or member.isdir()) or member.issparse():
                raise UserError(f"{archive} is refused: {member.name} in it is neither a plain file nor a folder")
            # An extended header can move the tar backwards: the same member would be read again and again.
            if tar.offset < member.offset_data:
                raise UserError(f"{archive} is broken: {member.name} in it ends before it begins; get it anew")
            yield tar, tarfile.data_filter(member, str(folder))
        # If a tar is cut off between two members or within a header, tarfile takes this for its end.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise UserError(f"{archive} is broken or cut off; get it anew")
        while tar.fileobj.read(_CHUNK):  # to the end: gzip's checksum comes last
            pass


@contextlib.contextmanager
def _unpackable(archive):
    with readable(archive):
        try:
            yield
        except tarfile.FilterError as error:
            raise UserError(f"{archive} is refused: {error}") from error


class _Member(tarfile.TarInfo):
    """A member of at most 1 MiB, unless it is a file: tarfile reads long names and extended headers into memory."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.size > _CHUNK and not member.isreg()):
            raise tarfile.ReadError(f"{member.name} in it can't have {member.size} bytes")
        return member


def npz_names(path: Path) -> set[str]:
    """The names of the arrays in an .npz file."""
    with readable(path), zipfile.ZipFile(path) as file:
        return {name.removesuffix(".npy") for name in file.namelist()}


def npz_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the dtype of an array in an .npz file."""
    with _npz_member(path, name) as (_, shape, dtype):
        return shape, dtype


def npz_rows(path: Path, name: str, start: int, rows: int) -> Iterator[np.ndarray]:
    """Yields an array of an .npz file from row `start` on, `rows` rows at a time: it may be larger than memory."""
    with _npz_member(path, name) as (stream, shape, dtype):
        row_bytes = dtype.itemsize * math.prod(shape[1:])
        _skip(stream, start * row_bytes)
        for first in range(start, shape[0], rows):
            number = min(rows, shape[0] - first)
            block = stream.read(number * row_bytes)
            if len(block) < number * row_bytes:
                raise UserError(f"{path} is broken: {name} ends after {first} of {shape[0]} rows; get it anew")
            if first + number == shape[0] and stream.read(1):  # reading to the end also compares the checksum
                raise UserError(f"{path} is broken: {name} does not end after its {shape[0]} rows; get it anew")
            yield np.frombuffer(block, dtype).reshape(number, *shape[1:])


def npz_array(path: Path, name: str) -> np.ndarray:
    """An array of an .npz file, read into memory."""
    shape, dtype = npz_header(path, name)
    with readable(path), zipfile.ZipFile(path) as file:
        claimed = file.getinfo(f"{name}.npy").file_size
    # Checked before memory is allocated.
    if (size := math.prod(shape) * dtype.itemsize) > claimed:
        raise UserError(f"{path} is broken: {name} has {claimed:,} bytes for its {size:,}; get it anew")
    from pixel_snail.parallel import memory  # imported here because TensorFlow's import takes seconds

    memory.check_content(path, size, "save its arrays as .npy files in a folder, which may be larger than memory")
    values = np.empty(shape, dtype)
    if not values.size:
        return values
    rows = max(_CHUNK * 16 // (size // len(values)), 1)
    blocks = npz_rows(path, name, 0, rows)
    settings = {"desc": f"reading {name}", "unit": "chunk", "leave": False, "delay": 2}
    for number, block in enumerate(progress.bar(blocks, total=-(-len(values) // rows), **settings)):
        values[number * rows : number * rows + len(block)] = block
    return values


@contextlib.contextmanager
def _npz_member(path, name):
    with readable(path), zipfile.ZipFile(path) as file:
        if f"{name}.npy" not in file.namelist():
            raise UserError(f"{path} has no array {name!r}")
        with file.open(f"{name}.npy") as stream:
            try:
                shape, dtype, order = npy_header(stream)
            except zipfile.BadZipFile:
                raise
            except Exception as error:  # a broken header may make NumPy raise almost anything
                raise UserError(f"{path}: {name} is not an array of images: {error}") from error
            if order == "F":
                raise UserError(f"{path}: {name} is in Fortran's order: save it again, with numpy.ascontiguousarray")
            if not shape:
                raise UserError(f"{path}: {name} is not an array of images")
            yield stream, shape, dtype


def _skip(stream, number):
    # By reading: after a seek, zipfile does not compare the checksum.
    while number > 0 and (block := stream.read(min(number, _CHUNK))):
        number -= len(block)
