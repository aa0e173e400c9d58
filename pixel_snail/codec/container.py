"""The file format of compressed images: a header, then groups of images, each a stream of its own.

    8 bytes     SIGNATURE
    4 bytes     n
    4 bytes     the CRC-32 of the next n bytes
    n bytes     4 bytes: m; m bytes: a JSON object, compressed by zlib; and for each group 16 bytes: the size and the
                CRC-32 of its stream, and 8 bytes of a checksum of its pixels
    the rest    the streams of the groups, one after the other

Files of 8-bit RGB are of version 1. Other files are of version 2: their JSON object is compressed with the preset
dictionary DICTIONARY, because 100 small grey images may take no more bytes than a whole header would. Numbers are
little-endian. Everything is checked before it is used. A file takes no more memory than it has bytes, apart
from the JSON object, which may take 16 MB. TensorFlow is not imported.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from pixel_snail.errors import UserError, counted, first_line, is_whole
from pixel_snail.likelihoods.levels import is_8_bit_rgb, is_number_of_levels
from pixel_snail.settings import LIKELIHOODS
from pixel_snail.storage import files, pictures

SIGNATURE = b"\x89SNAIL\r\n"
VERSION = 2
"""The latest version that is written and read."""
_START = struct.Struct("<8sII")
_GROUP = struct.Struct("<II8s")
_MOST_HEADER = 2**24
"""The largest JSON object in bytes, before compression. It has each picture's name and size, and each image's label."""
MOST_IN_A_GROUP = 256
"""The largest batch."""

DICTIONARY = b"".join(
    [
        b'pxpp model h6_noup h6_shift_small_attn h6_noup_124mix_halfattn h8_noup_smallkey h12_pool2_smallkey"relu',
        b'"NVIDIA H200","tf32":false,"XLA_FLAGS":"--xla_cpu_max_isa=AVX2 --xla_cpu_experimental_ynn_fusion_type="',
        b',"TF_ENABLE_ONEDNN_OPTS":"0","ONEDNN_MAX_CPU_ISA":"AVX2","pictures":[[".png",28,28],["labels":[0,1,2,3,4,5,6,7',
        b'AMD Ryzen  16-Core Processor","Intel(R) Xeon(R) Platinum  CPU @ 2.20GHz","checkpoint":["/home/data/save/',
        b'/0/params_mnist.ckpt",true]"nr_labels":10,"concat_elu","levels":16},{"version":2,"network":{"model":"h12_',
        b'noup_smallkey","image_shape":[28,28,1],"nr_labels":null,"nr_resnet":4,"nr_filters":32,"nr_logistic_mix":10,',
        b'"resnet_nonlinearity":"elu","levels":2},"weights":"0123456789abcdef","machine":{"pixel_snail":"2.1","drawing"',
        b':1,"processor":"AMD EPYC","instructions":["sse4_1","sse4_2","avx","avx2","fma","f16c","avx_vnni","avx512f",',
        b'"avx512dq","avx512bw","avx512vl","avx512_bf16","avx512_vnni"],"cores":2,"tensorflow":"2.21.0","keras":"3.',
        b'15.1","numpy":"2.4.6","constriction":"0.5.0"},"images":100,"batch":100}',
    ]
)
"""A typical header, of which zlib writes only what differs. It must never change: files of version 2 need it."""


def check_replaceable(path: str, flag: str) -> None:
    """Raises UserError if the file of a flag is there and is no compressed file. An empty file may be replaced."""
    if not os.path.exists(path) or files.is_stream(path):
        return
    with pictures.readable(path), open(path, "rb") as stream:
        if stream.read(len(SIGNATURE)) not in (SIGNATURE, b""):
            raise UserError(f"{path} exists and is not a compressed file: choose another name with --{flag}")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that was cut into images of the network's size, row by row from the upper left.

    Args:
        name: its file's, without a folder.
        height, width: its size in pixels.
    """

    name: str
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of a file, which describes its groups.

    Args:
        network: the network's description, without the names of classes.
        weights: a checksum of its parameters.
        machine: the program and the machine that wrote the file: the result of rounding.description.
        images: N.
        batch: the number of images in a group; the last group may have fewer.
        labels: integers [N], of a conditional network.
        pictures: the pictures that the images are cut from; None: each image is whole.
        checkpoint: the checkpoint's prefix, and whether the parameters are its averages: (prefix, averaged), if known.
        condition: a checksum of the images' conditions, of a network with a condition.
    """

    network: dict[str, object]
    weights: str
    machine: dict[str, object]
    images: int
    batch: int
    labels: list[int] | None = None
    pictures: list[Picture] | None = None
    checkpoint: tuple[str, bool] | None = None
    condition: str | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return tuple(self.network["image_shape"])

    @property
    def levels(self) -> int:
        """L. Files of 8-bit images do not record it."""
        return self.network.get("levels", 256)

    def sizes(self) -> Iterator[tuple[int, int]]:
        """The number of rows and of columns of each image that are coded."""
        height, width, _ = self.image_shape
        if self.pictures is None:
            yield from itertools.repeat((height, width), self.images)
        for picture in self.pictures or ():
            yield from (tile[2:] for tile in tiles_of(picture.height, picture.width, height, width))


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of a file.

    Args:
        stream: its bytes; None if they are damaged or cut off.
        pixels: the checksum of its images.
    """

    stream: bytes | None
    pixels: bytes


def tiles_of(rows: int, columns: int, height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """The tiles of height x width pixels that cover a picture: (top, left, rows, columns) of each.

    Those at the right and the lower edge have fewer rows or columns.
    """
    # itertools.product would first make tuples, as long as the header claims.
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield top, left, min(rows - top, height), min(columns - left, width)


def checksum(pixels: np.ndarray) -> bytes:
    """A checksum of 8 bytes of values, uint8 or uint16: two different arrays practically never have the same."""
    return hashlib.blake2b(pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(), digest_size=8).digest()


def check(header: Header) -> None:
    """Raises UserError if a file with this header could not be written or read back. Called before images are coded."""
    _header(_compressed_json(header))


def write(header: Header, groups: Sequence[Group]) -> bytes:
    """A file of a header and groups.

    Raises:
        UserError: there is too much for one header.
    """
    compressed = _compressed_json(header)
    table = b"".join(_GROUP.pack(len(group.stream), zlib.crc32(group.stream), group.pixels) for group in groups)
    packed = struct.pack("<I", len(compressed)) + compressed + table
    start = _START.pack(SIGNATURE, len(packed), zlib.crc32(packed))
    return b"".join([start, packed, *(group.stream for group in groups)])


def _compressed_json(header):
    fields = {name: value for name, value in dataclasses.asdict(header).items() if value is not None}
    if header.pictures is not None:
        fields["pictures"] = [dataclasses.astuple(picture) for picture in header.pictures]
    version = 1 if is_8_bit_rgb(header.image_shape[2], header.levels) else 2
    # int: of NumPy's integers.
    text = json.dumps({"version": version, **fields}, default=int, separators=(",", ":")).encode()
    if len(text) > _MOST_HEADER:
        raise UserError("too many images or pictures for one file: compress them into several")
    packer = zlib.compressobj(9) if version == 1 else zlib.compressobj(9, zdict=DICTIONARY)
    return packer.compress(text) + packer.flush()


def read(file: bytes) -> tuple[Header, list[Group]]:
    """The header and the groups of a file.

    Raises:
        UserError: it is not such a file, its header is damaged, or it is of a later version. Damage in a group only
            makes its stream None.
    """
    if file[: len(SIGNATURE)] != SIGNATURE:
        raise UserError("not a compressed file: give one that compress or eval.py --compress wrote")
    if len(file) < _START.size:
        raise UserError("cut off before its header: get the whole file")
    _, size, crc = _START.unpack_from(file)
    packed = file[_START.size : _START.size + size]
    if len(packed) < max(size, 4):
        raise UserError("cut off in its header: get the whole file")
    if zlib.crc32(packed) != crc:
        raise UserError("damaged: the checksum of its header is wrong; get the file anew")
    (length,) = struct.unpack_from("<I", packed)
    header = _header(packed[4 : 4 + length])
    table = packed[4 + length :]
    number = -(-header.images // header.batch)
    if len(table) != number * _GROUP.size:
        images = counted(header.images, "image")
        raise UserError(
            f"damaged: its list of groups does not fit {images} in groups of {header.batch}; get the file anew"
        )
    groups, at = [], _START.size + size
    for size, crc, pixels in _GROUP.iter_unpack(table):
        stream = file[at : at + size]
        at += size
        groups.append(Group(stream if len(stream) == size and zlib.crc32(stream) == crc else None, pixels))
    return header, groups


def _header(packed):
    try:
        unpacker = zlib.decompressobj(zdict=DICTIONARY)  # which zlib uses if the object was compressed with it
        text = unpacker.decompress(packed, _MOST_HEADER + 1)
        if not unpacker.eof or len(text) > _MOST_HEADER:
            raise ValueError("it is cut off or far too large")
        fields = json.loads(text)
        _require(type(fields) is dict, "it is no JSON object")
        version = fields.pop("version", None)
        if is_whole(version, least=VERSION + 1):
            raise UserError(
                f"of format version {version}, which a later version of this program wrote: update the program"
            )
        _require(is_whole(version, least=1), "it has no version")
        return _checked(fields)
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, zlib.error) as error:
        raise UserError(f"not a file that this program wrote: of its header, {first_line(error)}") from error


def _checked(fields):
    """The header that a JSON object describes. Anybody may have made the object: everything is checked."""
    header = Header(**fields)
    _require(type(header.network) is dict, "network is no object")
    for name in ("model", "resnet_nonlinearity"):
        _require(type(header.network[name]) is str, f"{name} is no name")
    settings = [header.network[name] for name in ("nr_resnet", "nr_filters", "nr_logistic_mix")]
    _require(_are_whole(settings, least=1), "nr_resnet, nr_filters and nr_logistic_mix must be whole and above 0")
    shape = header.network["image_shape"]
    _require(_are_whole(shape, least=1) and len(shape) == 3, "image_shape is not of an image")
    _require(is_number_of_levels(header.levels), "levels is no possible number")
    _require(header.network.get("likelihood", LIKELIHOODS[0]) in LIKELIHOODS, "likelihood is no name of one")
    _require(type(header.weights) is str and type(header.machine) is dict, "weights is no text or machine no object")
    _require(is_whole(header.images, least=0), "images is no number")
    _require(is_whole(header.batch, least=1) and header.batch <= MOST_IN_A_GROUP, "batch is no possible number")
    if header.labels is not None:
        _require(_are_whole(header.labels) and len(header.labels) == header.images, "labels are not of the images")
    if header.checkpoint is not None:
        prefix, averaged = header.checkpoint
        _require(type(prefix) is str and type(averaged) is bool, "checkpoint is not a path and true or false")
    if header.pictures is None:
        return header
    pictures = [Picture(*picture) for picture in header.pictures]
    for picture in pictures:
        _require(_is_file_name(picture.name), f"{picture.name!r} is not the name of a file")
        _require(_are_whole([picture.height, picture.width], least=1), "a picture has no size")
    tiles = sum(-(-picture.height // shape[0]) * -(-picture.width // shape[1]) for picture in pictures)
    _require(tiles == header.images, "pictures are of another number of images")
    return dataclasses.replace(header, pictures=pictures)


def _is_file_name(name):
    """Whether a name is a plain file name, which can't lead out of its folder."""
    if type(name) is not str or name != os.path.basename(name) or name in ("", ".", "..") or "\0" in name:
        return False
    return len(os.fsencode(name)) <= 255


def _are_whole(values, least=0):
    return type(values) is list and all(is_whole(value, least) for value in values)


def _require(holds, otherwise):
    if not holds:
        raise ValueError(otherwise)
