"""Pictures of every mode are read as the 8-bit RGB that their pixels stand for, or refused in one line.

The PNGs are written here, bit by bit, as the format's specification says. What they stand for is computed with plain
loops over their pixels.
"""

import io
import itertools
import struct
import types
import warnings
import zlib

import numpy as np
import PIL.Image
import pytest

from pixel_snail.errors import UserError, options_named_as_flags
from pixel_snail.storage import pictures

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
KINDS = [
    *((GREY, bits) for bits in (1, 2, 4, 8, 16)),
    *((PALETTE, bits) for bits in (1, 2, 4, 8)),
    *itertools.product((COLOUR, GREY_ALPHA, COLOUR_ALPHA), (8, 16)),
]
ORIENTED = {
    1: lambda picture: picture,
    2: lambda picture: picture[:, ::-1],
    3: lambda picture: picture[::-1, ::-1],
    4: lambda picture: picture[::-1],
    5: lambda picture: picture.swapaxes(0, 1),
    6: lambda picture: np.rot90(picture, -1),
    7: lambda picture: picture[::-1, ::-1].swapaxes(0, 1),
    8: lambda picture: np.rot90(picture),
}
"""The upright picture of each value of EXIF's orientation."""


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(samples, kind, bits, palette=None, transparency=None, orientation=1):
    """A PNG file of samples, integers [H, W, channels]. `transparency`: the samples or alphas of its tRNS."""
    rows = b""
    for row in samples:
        digits = "".join(f"{sample:0{bits}b}" for sample in row.ravel())
        digits += "0" * (-len(digits) % 8)
        rows += b"\0" + bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = chunk(b"IHDR", struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, kind, 0, 0, 0))
    content += chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    if palette is not None:
        content += chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if transparency is not None:
        content += chunk(b"tRNS", np.array(transparency).astype(np.uint8 if kind == PALETTE else ">u2").tobytes())
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def meant(samples, kind, bits, palette=None, transparency=None):
    """The RGB that a PNG's samples stand for, on white, pixel by pixel."""
    rgb = np.zeros([*samples.shape[:2], 3], np.uint8)
    for y, x in np.ndindex(samples.shape[:2]):
        sample = samples[y, x].tolist()
        if kind == PALETTE:
            colour = palette[sample[0]].tolist()
            alpha = transparency[sample[0]] if transparency is not None and sample[0] < len(transparency) else 255
        else:
            colour = [value >> 8 if bits == 16 else value * 255 // (2**bits - 1) for value in sample]
            alpha = colour.pop() if kind in (GREY_ALPHA, COLOUR_ALPHA) else 255
            if transparency is not None and sample == list(transparency):
                alpha = 0
            colour = colour * 3 if len(colour) == 1 else colour
        for channel in range(3):
            rgb[y, x, channel] = int((colour[channel] * alpha + 255 * (255 - alpha)) / 255 + 0.5)
    return rgb


def read(content, **settings):
    return pictures.read_picture(io.BytesIO(content), "a", **settings)


def saved(picture, form, **settings):
    stream = io.BytesIO()
    picture.save(stream, form, **settings)
    return stream.getvalue()


WITH_A_TRANSPARENT_COLOUR = [*KINDS[:9], (COLOUR, 8)]  # with 16 bits, it is refused: see below


@pytest.mark.parametrize(
    "kind, bits, transparent",
    [*((*kind, False) for kind in KINDS), *((*kind, True) for kind in WITH_A_TRANSPARENT_COLOUR)],
)
def test_every_kind_of_png_is_the_rgb_that_its_samples_stand_for(kind, bits, transparent, rng):
    for orientation in ORIENTED:
        samples = rng.integers(0, 2**bits, [9, 14, CHANNELS[kind]])
        palette = rng.integers(0, 256, [2**bits, 3]) if kind == PALETTE else None
        transparency = None
        if transparent:
            transparency = rng.integers(0, 256, 2**bits - 1) if kind == PALETTE else samples[3, 5]
        content = png(samples, kind, bits, palette, transparency, orientation)
        expected = ORIENTED[orientation](meant(samples, kind, bits, palette, transparency))
        found = read(content)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


def test_a_palette_with_a_single_transparent_colour_shows_white_there(rng):
    samples, palette = rng.integers(0, 4, [5, 7, 1]), rng.integers(0, 200, [4, 3])
    found = read(png(samples, PALETTE, 2, palette, [255, 255, 0]))
    np.testing.assert_array_equal(found, meant(samples, PALETTE, 2, palette, [255, 255, 0]))
    assert (found[samples[..., 0] == 2] == 255).all()


def test_a_ramp_of_16_bits_keeps_all_its_greys():
    ramp = np.arange(1 << 16).reshape(256, 256, 1)
    found = read(png(ramp, GREY, 16))
    assert len(np.unique(found)) == 256
    assert found.mean() == 127.5


def test_every_colour_with_every_alpha_is_on_white():
    colours, alphas = np.meshgrid(np.arange(256), np.arange(256))
    samples = np.stack([colours, alphas], -1)
    np.testing.assert_array_equal(read(png(samples, GREY_ALPHA, 8)), meant(samples, GREY_ALPHA, 8))


@pytest.mark.parametrize(
    "form, mode",
    [
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *(("WEBP", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "PA")),
    ],
)
def test_what_pillow_saves_is_read_as_it_was_meant_in_png_and_webp(form, mode, rng):
    rgba = rng.integers(0, 256, [6, 8, 4], np.uint8)
    picture = PIL.Image.fromarray((rgba[..., 0].astype(np.uint16) << 8) + 77 if mode == "I;16" else rgba)
    picture = picture if mode == "I;16" else picture.convert("RGB" if mode in ("1", "P") else "RGBA").convert(mode)
    expected = np.zeros([6, 8, 3], np.uint8)
    for y, x in np.ndindex(6, 8):
        if mode == "I;16":
            expected[y, x] = rgba[y, x, 0]
            continue
        *colour, alpha = picture.convert("RGBA").getpixel((x, y))
        expected[y, x] = [int((value * alpha + 255 * (255 - alpha)) / 255 + 0.5) for value in colour]
    settings = {"lossless": True, "exact": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(read(saved(picture, form, **settings)), expected)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(form, rng):
    frames = [PIL.Image.fromarray(rng.integers(0, 256, [8, 8, 3], np.uint8)) for _ in range(3)]
    content = saved(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
    with PIL.Image.open(io.BytesIO(content)) as picture:
        assert picture.n_frames == 3
    np.testing.assert_array_equal(read(content), np.asarray(frames[0]))


def test_a_grey_jpeg_is_grey_in_all_channels_and_a_colour_jpeg_as_it_decodes(rng):
    for shape in ([16, 24], [16, 24, 3]):
        content = saved(PIL.Image.fromarray(rng.integers(0, 256, shape, np.uint8)), "JPEG")
        decoded = np.asarray(PIL.Image.open(io.BytesIO(content)))
        np.testing.assert_array_equal(read(content), np.broadcast_to(decoded.reshape(16, 24, -1), [16, 24, 3]))


@pytest.mark.parametrize(
    "content, message",
    [
        (saved(PIL.Image.new("CMYK", (8, 8)), "JPEG"), "a is a CMYK picture, whose colours have no exact RGB: save it"),
        (png(np.zeros([2, 2, 3], int), COLOUR, 16, None, [0, 0, 0]), "a is a picture of 16 bits with a transparent"),
        (saved(PIL.Image.new("RGB", (8, 8)), "GIF"), "a is not a PNG, JPEG or WebP picture that can be read$"),
        (saved(PIL.Image.new("F", (8, 8)), "TIFF"), "a is not a PNG, JPEG or WebP picture that can be read$"),
        (png(np.zeros([2, 2, 1], int), GREY, 8)[:-14], "a is not a PNG, JPEG or WebP picture that can be read: "),
        (b"", "a is not a PNG, JPEG or WebP picture that can be read$"),
    ],
    ids=["CMYK", "16-bit key", "GIF", "floats", "cut off", "empty"],
)
def test_what_has_no_faithful_rgb_is_refused_in_one_line(content, message):
    with pytest.raises(pictures.PictureError, match=message) as error:
        read(content)
    assert str(error.value).isprintable()
    assert str(error.value) == f"a is {error.value.reason}"


def test_a_picture_of_another_format_is_to_be_converted(tmp_path):
    for name, advice in (("a.bmp", ": convert it to PNG"), ("a.TIFF", ": convert it to PNG"), ("a.txt", "")):
        (tmp_path / name).write_bytes(b"BM of another format")
        with pytest.raises(UserError) as error:
            pictures.read_picture(tmp_path / name, name)
        assert str(error.value) == f"{name} is not a PNG, JPEG or WebP picture that can be read{advice}"


def test_a_failing_disk_is_not_taken_for_a_bad_picture():
    def fails(*arguments, **settings):
        raise OSError(5, "Input/output error")

    with pytest.raises(UserError, match=r"can't read a: Input/output error") as error:
        pictures.read_picture(types.SimpleNamespace(read=fails), "a")
    assert not isinstance(error.value, pictures.PictureError)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_the_limit_of_pixels_is_the_callers_and_pillows_own_stays_as_it_was(form, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)  # Pillow would warn above 10 and refuse above 20
    content = saved(PIL.Image.new("RGB", (40, 25)), form)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(content).shape == read(content, max_pixels=1000).shape == (25, 40, 3)
        with pytest.raises(pictures.PictureError, match=r"a is 0\.0 megapixels large, above the limit of 0\.000999"):
            read(content, max_pixels=999)
    assert PIL.Image.MAX_IMAGE_PIXELS == 10


def test_a_picture_above_the_limit_is_refused_before_it_is_decoded(monkeypatch):
    def decoded(*arguments):
        raise AssertionError("decoded")

    monkeypatch.setattr(PIL.Image.Image, "load", decoded)
    content = png(np.zeros([1, 8, 1], int), GREY, 8)
    header = struct.pack(">IIBBBBB", 18_000, 14_000, 8, 0, 0, 0, 0)  # 252 megapixels
    content = content[:8] + chunk(b"IHDR", header) + content[8 + 25 :]
    in_python = r"a is 252\.0 megapixels large, above the limit of 250: to read it, raise max_pixels$"
    with pytest.raises(pictures.PictureError, match=in_python):
        read(content)
    with options_named_as_flags(), pytest.raises(pictures.PictureError, match=r"raise --max_megapixels$"):
        read(content)


@pytest.mark.parametrize("levels", [2, 3, 4, 6, 16, 32, 200, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_values_saved_as_a_picture_are_read_back(channels, levels, tmp_path, rng):
    values = rng.integers(0, levels, [23, 13, channels]).astype(np.uint8)
    values.flat[:levels] = np.arange(levels)  # all of them
    pictures.save_values(values, levels, tmp_path / "a.png")
    read = pictures.read_picture(tmp_path / "a.png", "a.png")
    assert (read.min(), read.max()) == (0, 255)
    found = pictures.as_values(read, channels, levels, "a.png")
    assert (found.dtype, found.shape) == (np.uint8, values.shape)
    np.testing.assert_array_equal(found, values)
    bits, kind = (tmp_path / "a.png").read_bytes()[24:26]
    assert (bits, kind) == ({2: 1, 4: 2, 6: 4, 16: 4}.get(levels, 8), GREY) if channels == 1 else (8, COLOUR)


def test_a_saved_picture_of_8_bit_rgb_is_the_file_that_pillow_writes(tmp_path, rng):
    values = rng.integers(0, 256, [9, 7, 3], np.uint8)
    pictures.save_values(values, 256, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == saved(PIL.Image.fromarray(values), "PNG", optimize=True)


@pytest.mark.parametrize(
    "channels, levels, place, value, message",
    [
        (1, 256, (2, 1, 2), 9, "a has a colour at row 2, column 1, but the network's images are grey: convert it to g"),
        (1, 3, (3, 0), 127, "a has the value 127 at row 3, column 0, but .* 3 levels has only 0, 128, 255: convert it"),
        (
            3,
            32,
            (0, 1, 2),
            254,
            "a has the value 254 at row 0, column 1, .* only 0, 8, 16, 25, ..., 255: convert it to",
        ),
        (2, 256, (), 0, "a: a picture has 1 or 3 channels and at most 256 levels, but .* 2 channels and 256 levels: "),
        (1, 300, (), 0, "but the network's images have 1 channel and 300 levels: compress them from Python, as arrays"),
    ],
)
def test_a_picture_that_a_network_does_not_take_without_loss_is_refused(channels, levels, place, value, message):
    picture = np.zeros([5, 4, 3], np.uint8)
    picture[place] = value
    with pytest.raises(UserError, match=message) as error:
        pictures.as_values(picture, channels, levels, "a")
    assert "\n" not in str(error.value)


def test_pictures_become_grey_by_the_luma_of_itu_r_601():
    colours = np.zeros([4, 3, 5, 3], np.uint8)
    colours[:3, ..., :] = 255 * np.eye(3)[:, None, None]
    colours[3] = 255
    grey = pictures.grey(colours)
    assert grey.shape == (4, 3, 5, 1)
    np.testing.assert_array_equal(grey[:, 1, 2, 0], [76, 150, 29, 255])  # 0.299, 0.587, 0.114, 1
