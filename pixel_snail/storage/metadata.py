"""A picture's file without its metadata, and how the picture is to be turned, read from the metadata.

Pillow reads the metadata together with the pixels. Without metadata, a broken text, profile or date can't make Pillow
refuse the picture. Orientations are looked for where Pillow looks for them: in EXIF, in the raw profiles of
ImageMagick, in XMP.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import PIL

_PNG, _JPEG, _RIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF"
_BLOCK = 1 << 20
_MOST_TEXT = 16 << 20
"""How many bytes of a compressed text are looked at."""
_SEGMENT = re.compile(rb"\xff+([\xc0-\xcf\xdb-\xfe])(..)", re.DOTALL)
"""The start of a JPEG's segment before the scans: its marker and its length."""
_APP0, _APP1, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_XMP_OF_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_OF_PNG, _RAW_PROFILE = b"XML:com.adobe.xmp", b"Raw profile type exif"
_ORIENTATION = 0x0112
_WHOLE_NUMBERS = {3: "H", 4: "I", 8: "h", 9: "i"}
"""TIFF's types of whole numbers as the struct module calls them."""


class Picture(NamedTuple):
    """A picture's file, in two parts.

    Attributes:
        form: PNG, JPEG or WEBP.
        pixels: the file without metadata.
        orientation: by EXIF's numbers, 1 to 8; 1, upright, if none can be read.
    """

    form: str
    pixels: BinaryIO
    orientation: int


def separated(file: BinaryIO) -> Picture:
    """Reads a picture's file once, from its start to its end.

    Raises:
        PIL.UnidentifiedImageError: it is not the file of a PNG, JPEG or WebP picture.
        ValueError: a PNG is cut off, or a checksum in it is wrong.
    """
    start = file.read(3)
    if _PNG.startswith(start) and start + file.read(5) == _PNG:
        return Picture("PNG", *_png(file))
    if start == _JPEG:
        return Picture("JPEG", *_jpeg(start + file.read()))
    if _RIFF.startswith(start) and start:
        head = start + file.read(9)
        if head[:4] == _RIFF and head[8:] == b"WEBP":
            content = head + file.read()
            return Picture("WEBP", io.BytesIO(content), _of_webp(content))
    raise PIL.UnidentifiedImageError("not a PNG, JPEG or WebP file")


def _png(file):
    """The chunks that decide the pixels, and the orientation. The checksums of all chunks are compared."""
    kept, exif, texts = io.BytesIO(), [], {}
    kept.write(_PNG)
    name = b""
    while name != b"IEND":
        length, name = struct.unpack(">I4s", _exactly(file, 8))
        content = b"" if name == b"IEND" else _exactly(file, length)
        checksum = struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))
        if name != b"IEND" and _exactly(file, 4) != checksum:
            raise ValueError(f"its chunk {name!r} has a wrong checksum")
        is_critical = not name[0] & 0x20  # a small first letter: the picture can be shown without the chunk
        if is_critical or name == b"tRNS":
            kept.write(struct.pack(">I", len(content)) + name)
            kept.write(content)
            kept.write(checksum)
        elif name == b"eXIf":
            exif.append(content)
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, text = content.partition(b"\0")
            if keyword in (b"exif", _RAW_PROFILE, _XMP_OF_PNG):
                texts[keyword] = _text(name, text)
    kept.seek(0)
    exif += [texts.get(b"exif", b""), _from_raw_profile(texts.get(_RAW_PROFILE, b""))]
    return kept, _orientation(exif, texts.get(_XMP_OF_PNG, b""))


def _exactly(file, length):
    # By blocks: a broken length must not take memory that the file does not fill.
    read = io.BytesIO()
    while length and (block := file.read(min(length, _BLOCK))):
        read.write(block)
        length -= len(block)
    if length:
        raise ValueError("it is cut off")
    return read.getvalue()


def _text(name, content):
    """The text of a PNG's chunk, after its keyword; b"" if it is broken."""
    if name == b"tEXt":
        return content
    is_compressed = name == b"zTXt" or content[:1] == b"\1"
    if name == b"iTXt":
        content = content[:2] + content[2:].split(b"\0", 2)[-1]  # without the language and the translated keyword
    content = content[2 if name == b"iTXt" else 1 :]
    if not is_compressed:
        return content
    try:
        return zlib.decompressobj().decompress(content, _MOST_TEXT)
    except zlib.error:
        return b""


def _from_raw_profile(text):
    """EXIF as ImageMagick writes it: an empty line, a name, the length, then hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("latin-1"))
    except ValueError:
        return b""


def _jpeg(content):
    """The file without the segments of applications, and the orientation."""
    kept, exif, xmp = io.BytesIO(), b"", b""
    kept.write(content[:2])
    place = 2
    # Up to the first scan or the first incomplete segment: Pillow reads the rest.
    while segment := _SEGMENT.match(content, place):
        marker, end = segment[1][0], segment.end() + max(int.from_bytes(segment[2]) - 2, 0)
        if end > len(content):
            break
        inside = content[segment.end() : end]
        is_metadata = _APP0 <= marker <= _APP15 or marker == _COMMENT
        # From JFIF's and Adobe's segments, the decoder learns what the channels are; it ignores shorter segments.
        says_channels = (marker == _APP0 and inside.startswith(b"JFIF\0") and len(inside) >= 14) or (
            marker == _APP14 and inside.startswith(b"Adobe") and len(inside) >= 12
        )
        if says_channels or not is_metadata:
            kept.write(content[place:end])
        elif marker == _APP1 and inside.startswith(b"Exif\0\0"):
            exif += inside[6:]
        elif marker == _APP1 and inside.startswith(_XMP_OF_JPEG):
            xmp = inside
        place = end
    kept.write(memoryview(content)[place:])
    kept.seek(0)
    return kept, _orientation([exif], xmp)


def _of_webp(content):
    chunks = {}
    for name, inside in _chunks_of_riff(content):
        chunks.setdefault(name, inside)
    return _orientation([chunks.get(b"EXIF", b"")], chunks.get(b"XMP ", b""))


def _chunks_of_riff(content) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    while place + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, place)
        yield name, content[place + 8 : place + 8 + length] if name in (b"EXIF", b"XMP ") else b""
        place += 8 + length + length % 2


def _orientation(exif, xmp):
    """The orientation by the first EXIF that has one, or else by XMP."""
    found = next((value for value in map(_of_exif, exif) if value is not None), None)
    if found is None and (match := re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)):
        found = int(match[1])
    return found if found in range(1, 9) else 1


def _of_exif(exif):
    """The orientation in EXIF, a TIFF file; None if there is none, or if it can't be read."""
    exif = re.sub(rb"^(Exif\0\0){1,2}", b"", exif)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or b"*" not in exif[2:4]:
        return None
    try:
        (place,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, place)
        for entry in range(place + 2, place + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, entry)
            if tag == _ORIENTATION and kind in _WHOLE_NUMBERS and count == 1:
                return struct.unpack_from(order + _WHOLE_NUMBERS[kind], exif, entry + 8)[0]
    except struct.error:  # it is cut off
        pass
    return None
