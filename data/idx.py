"""Reads IDX files, the format of MNIST: a header of big-endian numbers, then bytes. They may be compressed by gzip.

Every mistake in a file is a UserError, whose single line names the file.
"""

import contextlib
import gzip
import hashlib
import math
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pixel_snail.errors import UserError, counted
from pixel_snail.storage.pictures import readable

_BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"
_MOST_COMPRESSION = 1032
"""gzip makes no file more than this many times smaller."""
_TYPES = {
    0x08: "8-bit values",
    0x09: "signed 8-bit values",
    0x0B: "16-bit values",
    0x0C: "32-bit values",
    0x0D: "floating-point values",
    0x0E: "floating-point values",
}


def read(path: Path, dimensions: int) -> tuple[np.ndarray, str]:
    """Reads an array of bytes from an IDX file. It is compressed if it begins like a gzip file, whatever its name.

    Args:
        dimensions: how many dimensions the array must have: 3 for images [N, H, W], 1 for labels [N].

    Returns:
        The array, uint8, and the md5 of the uncompressed file.

    Raises:
        UserError: it can't be read, is broken, or has another form; or its array does not fit into memory.
    """
    with readable(path), open(path, "rb") as file, _uncompressed(file) as stream:
        is_gzip = stream is not file
        header = stream.read(4 + 4 * dimensions)
        _check_magic(path, header, dimensions)
        if len(header) < 4 + 4 * dimensions:
            raise UserError(f"{path} is cut off within its header: get it anew")
        shape = tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, len(header), 4))
        size, on_disk = math.prod(shape), os.fstat(file.fileno()).st_size
        if not size:
            raise UserError(f"{path} has no values: its shape is {list(shape)}")
        # Checked before memory is allocated.
        if len(header) + size > (_MOST_COMPRESSION if is_gzip else 1) * on_disk:
            raise UserError(f"{path} is cut off: its header says {counted(size, 'byte')} for the shape {list(shape)}")
        from pixel_snail.parallel import memory  # imported here because TensorFlow's import takes seconds

        memory.check_content(path, size)
        content = _content(path, stream, size + 1)
        if len(content) < size:
            raise UserError(f"{path} is cut off: it has {len(content):,} of {size:,} bytes; get it anew")
        if len(content) > size:
            raise UserError(f"{path} is broken: it goes on after the {size:,} bytes of its array; get it anew")
    digest = hashlib.md5(header, usedforsecurity=False)
    digest.update(content)
    return np.frombuffer(content, np.uint8).reshape(shape), digest.hexdigest()


def _uncompressed(file: BinaryIO):
    start = file.read(len(_GZIP))
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if start == _GZIP else contextlib.nullcontext(file)


def _content(path, stream, most):
    content = bytearray()
    try:
        while block := stream.read(min(_BLOCK, most - len(content))):
            content += block
    except gzip.BadGzipFile as error:  # an OSError, but not of the disk
        raise UserError(f"{path} is broken: {error}; get it anew") from error
    return content


def _check_magic(path, header, dimensions):
    of = {1: "labels", 3: "images"}[dimensions]
    if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in _TYPES:
        begins = header[:4].hex(" ") or "nothing"
        raise UserError(f"{path} is neither an IDX file of {of} nor one compressed by gzip: it begins with {begins}")
    if header[2] != 0x08:
        raise UserError(f"{path} has {_TYPES[header[2]]}, not 8-bit ones: save its {of} as bytes")
    if header[3] != dimensions:
        have = counted(header[3], "dimension")
        others = {1: "; labels have 1", 3: "; images have 3"}.get(header[3], "")
        raise UserError(f"{path} is not an IDX file of {of}: its array has {have}, not {dimensions}{others}")
