"""Pictures and arrays of images, read from files of unknown origin, and images of values as pictures.

If a file is missing, broken or of another kind, `read_picture`, `read_npy` and `readable` raise UserError, in one line
that names the file.
"""

import contextlib
import io
import math
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import PIL.Image
from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from pixel_snail.errors import UserError, counted, first_line, option
from pixel_snail.storage import metadata

MAX_PIXELS = 250_000_000
"""The default limit of a picture's pixels: enough for the 200 megapixels of a phone."""
OTHER_FORMATS = set(".avif .bmp .gif .heic .heif .ico .jp2 .jxl .pbm .pgm .ppm .tga .tif .tiff".split())
"""Suffixes of pictures in formats that are not read."""
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""The transformation that turns a picture upright, by EXIF's orientation."""
_limit_of_pillow = threading.Lock()
"""Held while PIL.Image.MAX_IMAGE_PIXELS is changed."""


class PictureError(UserError):
    """A picture can't be used, and reading it again won't help. `reason` says why, without the picture's name."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def read_picture(file: str | Path | BinaryIO, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A PNG, JPEG or WebP picture as upright RGB, uint8 [H, W, 3].

    Of 16 bits, the upper 8 are kept. Transparent pixels are put on white. Of an animation, the first frame is read. The
    picture is turned as its metadata say; if they can't be read, it stays as it is stored.

    Args:
        name: the file's name in error messages.
        max_pixels: the limit of H W. It is compared before anything is decoded.

    Raises:
        PictureError: there is no such picture, or it is broken, has more pixels than the limit, or has no exact RGB.
        UserError: it could not be read this time: the disk failed, or memory ran out.
    """
    try:
        with open(file, "rb") if isinstance(file, str | Path) else contextlib.nullcontext(file) as stream:
            form, pixels, orientation = metadata.separated(stream)
        return _rgb(_opened(form, pixels, max_pixels), pixels, orientation)
    except FileNotFoundError as error:
        raise PictureError(f"there is no file {name}", "not there") from error
    except PIL.Image.DecompressionBombError as error:
        pixels = int(re.search(r"\d+", str(error))[0])
        raise _refused(
            name,
            f"{pixels / 1e6:,.1f} megapixels large, above the limit of {max_pixels / 1e6:,g}: to read it, raise "
            f"{option('max_megapixels', in_python='max_pixels')}",
        ) from error
    except _NoExactRGBError as error:
        raise _refused(name, str(error)) from error
    except MemoryError as error:
        raise UserError(f"there is not enough memory to read {name}: put a smaller version in its place") from error
    except Exception as error:  # on a broken file, Pillow raises nearly anything
        reason = "not a PNG, JPEG or WebP picture that can be read"
        if isinstance(error, PermissionError):
            reason += ": no permission"
        elif isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"can't read {name}: {error.strerror}") from error
        elif not isinstance(error, PIL.UnidentifiedImageError):  # for such a file, Pillow only names the path
            reason += f": {first_line(error)}"
        elif Path(name).suffix.lower() in OTHER_FORMATS:
            reason += ": convert it to PNG"
        raise _refused(name, reason) from error


def _refused(name, reason):
    return PictureError(f"{name} is {reason}", reason)


def _opened(form, pixels, max_pixels):
    """The picture, opened but not decoded. Not by PIL.Image.open, whose limit of pixels is the whole program's."""
    if form == "WEBP":  # its class has that limit too
        with _limit_of_pillow:
            before, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, max_pixels / 2  # it refuses twice as many
            try:
                image = WebPImagePlugin.WebPImageFile(pixels)
            finally:
                PIL.Image.MAX_IMAGE_PIXELS = before
    else:
        image = {"PNG": PngImagePlugin.PngImageFile, "JPEG": JpegImagePlugin.JpegImageFile}[form](pixels)
    if image.width * image.height > max_pixels:
        raise PIL.Image.DecompressionBombError(f"{image.width * image.height} pixels")
    return image


class _NoExactRGBError(Exception):
    """A picture has no exact RGB of 8 bits; the message says why."""


def _rgb(image, pixels, orientation):
    """The pixels of an opened picture, in the form that read_picture returns."""
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA") and not image.mode.startswith("I"):
        raise _NoExactRGBError(f"a {image.mode} picture, whose colours have no exact RGB: save it as RGB")
    stored = image.tile[0].args if image.format == "PNG" else None
    with pixels:  # afterwards, its memory is free
        image.load()
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if "A" in image.mode or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
        white = PIL.Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return np.asarray(white)
    key = image.info.pop("transparency", None)
    if key is not None and stored == "RGB;16B":  # Pillow has dropped the lower 8 bits
        raise _NoExactRGBError(
            "a picture of 16 bits with a transparent colour, which 8 bits can't distinguish from others: save it with "
            "an alpha channel"
        )
    if image.mode.startswith("I"):
        values = np.asarray(image)
        upper = (values >> 8).astype(np.uint8)
        if key is not None:
            upper[values == key] = 255
        return np.repeat(upper[..., None], 3, axis=2)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if key is None:
        return np.asarray(image)
    # Pillow scales greys of 2 and 4 bits to 0 ... 255, but not the transparent one.
    levels = {"L;2": 4, "L;4": 16}.get(stored, 256)
    rgb = np.array(image)
    rgb[(rgb == np.array(key) % levels * (255 // (levels - 1))).all(-1)] = 255
    return rgb


def grey(rgb: np.ndarray) -> np.ndarray:
    """RGB pictures as grey ones, by ITU-R 601: uint8 [..., W, 3] as uint8 [..., W, 1]."""
    rows = PIL.Image.fromarray(rgb.reshape(-1, *rgb.shape[-2:]))
    return np.asarray(rows.convert("L")).reshape(*rgb.shape[:-1], 1)


def middle(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a picture [H, W] or [H, W, C], which must not be smaller: a view of so many rows and columns."""
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


def tiles(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The tiles of a grid, row by row: [rows * H, columns * W, ...] -> [rows * columns, H, W, ...]."""
    rows, columns, channels = picture.shape[0] // height, picture.shape[1] // width, picture.shape[2:]
    grid = picture.reshape(rows, height, columns, width, *channels)
    return grid.swapaxes(1, 2).reshape(-1, height, width, *channels)


def why_no_picture(channels: int, levels: int) -> str | None:
    """Why a picture can't show images of so many channels and levels, as a clause; None if it can."""
    if channels in (1, 3) and levels <= 256:
        return None
    ours = f"{counted(channels, 'channel')} and {levels:,} levels"
    return f"a picture has 1 or 3 channels and at most 256 levels, but the network's images have {ours}"


def shown(levels: int) -> np.ndarray:
    """The grey that stands for each value in a picture of 8 bits, uint8 [levels]: black for 0, white for levels - 1.

    With at most 256 levels, all of them differ.
    """
    return (np.arange(levels) * (255 / (levels - 1))).round().astype(np.uint8)


def as_values(picture: np.ndarray, channels: int, levels: int, path: str) -> np.ndarray:
    """The values that a picture shows, without loss: uint8 [H, W, channels], from 0 to levels - 1.

    Args:
        picture: RGB, uint8 [H, W, 3], as read_picture returns it. Its values must be those of `shown`.
        channels: the number of channels of the network's images.
        levels: the number of their levels.
        path: the picture's name in error messages.

    Raises:
        UserError: the picture has colours or values that the network's images do not have, or no picture can show them.
    """
    if reason := why_no_picture(channels, levels):
        raise UserError(f"{path}: {reason}: compress them from Python, as arrays")
    if channels == 1:
        if (is_coloured := (picture != picture[..., :1]).any(-1)).any():
            row, column = np.argwhere(is_coloured)[0]
            raise UserError(
                f"{path} has a colour at row {row}, column {column}, but the network's images are grey: convert it to "
                "grey first"
            )
        picture = picture[..., :1]
    values = np.full(256, -1, np.int16)
    values[shown(levels)] = np.arange(levels)
    found = values[picture]
    if (found < 0).any():
        row, column, channel = np.argwhere(found < 0)[0]
        raise UserError(
            f"{path} has the value {picture[row, column, channel]} at row {row}, column {column}, but a picture of the "
            f"network's {levels} levels has only {_listed(shown(levels))}: convert it to these values first"
        )
    return found.astype(np.uint8)


def _listed(numbers):
    """Some numbers in words, at most ten of them."""
    words = [str(number) for number in numbers]
    return ", ".join(words if len(words) <= 10 else [*words[:4], "...", words[-1]])


def save_values(values: np.ndarray, levels: int, path: str | Path) -> None:
    """Writes an image as a PNG in which `read_picture` and `as_values` find the same values.

    A grey picture has 1, 2 or 4 bits if they hold its levels evenly spaced from black to white, else 8.

    Args:
        values: [H, W, C], from 0 to levels - 1. C is 1 or 3.
        levels: at most 256.
    """
    possible = (1, 2, 4, 8) if values.shape[-1] == 1 else (8,)
    bits = next((bits for bits in possible if (2**bits - 1) % (levels - 1) == 0), 8)
    samples = shown(levels)[values]
    Path(path).write_bytes(png(samples // (255 // (2**bits - 1)), bits))


def png(samples: np.ndarray, bits: int = 8) -> bytes:
    """A PNG file of samples, at the strongest compression.

    Args:
        samples: [H, W, C], from 0 to 2^bits - 1: uint8, or uint16 for 16 bits. C = 1: grey; 2: grey and alpha; 3: RGB;
            4: RGB and alpha.
        bits: those of a sample: 8, or for grey also 1, 2, 4 or 16.
    """
    if bits >= 8:
        stream = io.BytesIO()
        as_picture(samples).save(stream, format="PNG", optimize=True)
        return stream.getvalue()
    # Pillow filters the rows of such pictures, which makes them larger: PNG's specification advises against it.
    height, width, _ = samples.shape
    rows = np.packbits(np.unpackbits(samples.astype(np.uint8), axis=-1)[..., 8 - bits :].reshape(height, -1), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    unfiltered = np.pad(rows, [(0, 0), (1, 0)])  # each row begins with the number of its filter: 0, none
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(unfiltered.tobytes(), 9), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks.items()
    )


def as_picture(samples: np.ndarray) -> PIL.Image.Image:
    """Samples [H, W, C] as a picture of Pillow, with the C of `png`: uint8, or uint16 if C is 1."""
    return PIL.Image.fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples)


def is_npy(source: Path | BinaryIO) -> bool:
    """Whether a file is to be read as an .npy file, by its suffix, or a pipe's content by its first bytes."""
    if isinstance(source, Path):
        return source.suffix == ".npy"
    return source.getvalue().startswith(b"\x93NUMPY")


def read_npy(source: Path | BinaryIO, name: str) -> np.ndarray:
    """The array in an .npy file, whose name error messages have. Arrays of objects, which are pickles, are refused."""
    with readable(name), open(source, "rb") if isinstance(source, Path) else source as file:
        try:
            shape, dtype, order = npy_header(file)
            size = math.prod(shape) * dtype.itemsize
            begin, end = file.tell(), file.seek(0, os.SEEK_END)
            if size > end - begin:  # checked before memory is allocated
                raise ValueError(f"it is cut off, or was never of shape {shape}")
            file.seek(begin)
            return np.frombuffer(file.read(size), dtype).reshape(shape, order=order)
        except Exception as error:  # on a broken file, NumPy raises nearly anything
            raise UserError(f"{name} is not an array that can be read: {error}") from error


def npy_header(stream):
    """Reads an .npy header from a stream: the shape, dtype and order of the array that follows.

    Raises:
        ValueError: it is not the header of an array of numbers.
    """
    # Arrays of numbers need no later version, in which a header may have any size.
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("it is not in version 1.0 of .npy: save it again with numpy.save, as an array of numbers")
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
