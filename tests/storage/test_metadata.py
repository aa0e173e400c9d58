"""No metadata costs a picture: its pixels are read whatever the metadata hold, upright where they say how it is turned.

The pictures are lossless, and metadata are put into their files byte by byte, as the formats' specifications say.
"""

import concurrent.futures
import io
import itertools
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pictures import ORIENTED, chunk

from pixel_snail.storage import pictures

FORMS = ("PNG", "JPEG", "WEBP")
PICTURE = np.random.default_rng(0).integers(0, 256, [6, 10, 3], np.uint8)


def saved(form, picture=PICTURE, **options):
    stream = io.BytesIO()
    PIL.Image.fromarray(picture).save(stream, form, **({"lossless": True} if form == "WEBP" else {}), **options)
    return stream.getvalue()


PLAIN = {form: saved(form) for form in FORMS}
PIXELS = {form: np.asarray(PIL.Image.open(io.BytesIO(content))) for form, content in PLAIN.items()}


def with_chunk(name, content, before=b"IDAT"):
    """The PNG with a chunk more."""
    place = PLAIN["PNG"].index(before) - 4
    return PLAIN["PNG"][:place] + chunk(name, content) + PLAIN["PNG"][place:]


def with_pixels_in_two_chunks(between):
    """The PNG with its compressed pixels in two chunks, and something between them."""
    place = PLAIN["PNG"].index(b"IDAT") - 4
    (length,) = struct.unpack(">I", PLAIN["PNG"][place : place + 4])
    pixels = PLAIN["PNG"][place + 8 : place + 8 + length]
    halves = chunk(b"IDAT", pixels[:9]) + between + chunk(b"IDAT", pixels[9:])
    return PLAIN["PNG"][:place] + halves + PLAIN["PNG"][place + 12 + length :]


def with_segment(marker, content):
    """The JPEG with a segment more, after its first one."""
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
    return PLAIN["JPEG"][:2] + segment + PLAIN["JPEG"][2:]


def with_riff(name, content):
    """The WebP in its extended form, with a chunk more."""
    height, width = PICTURE.shape[:2]
    flags = {b"EXIF": 8, b"XMP ": 4, b"ICCP": 32}[name]
    head = bytes([flags, 0, 0, 0]) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    inside = b"VP8X" + struct.pack("<I", len(head)) + head
    more = name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    picture = PLAIN["WEBP"][12:]
    inside += more + picture if name == b"ICCP" else picture + more
    return b"RIFF" + struct.pack("<I", len(inside) + 4) + b"WEBP" + inside


def exif_of(orientation, order="<", kind="H", more=()):
    """EXIF: entries (tag, type, count, value in 4 bytes), those of `more` before the orientation."""
    value = struct.pack(order + kind, orientation).ljust(4, b"\0")
    entries = [*more, (0x0112, {"H": 3, "I": 4}[kind], 1, value)]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    body = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    return head + struct.pack(f"{order}H", len(entries)) + body + bytes(4)


def xmp_of(orientation):
    return f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()


def raw_profile(exif):
    return b"\nexif\n" + f"{len(exif):8}".encode() + b"\n" + exif.hex().encode() + b"\n"


def as_text(name, keyword, text):
    """What a PNG's chunk of text holds."""
    return {
        b"tEXt": keyword + b"\0" + text,
        b"zTXt": keyword + b"\0\0" + zlib.compress(text),
        b"iTXt": keyword + b"\0\1\0en\0\xc3\xa9\0" + zlib.compress(text),
    }[name]


def places(exif, xmp):
    """Files with an orientation, by the place that tells it."""
    found = {
        "PNG eXIf": with_chunk(b"eXIf", exif),
        "PNG eXIf at the end": with_chunk(b"eXIf", exif, before=b"IEND"),
        "JPEG EXIF": with_segment(0xE1, b"Exif\0\0" + exif),
        "JPEG XMP": with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp),
        "WEBP EXIF": with_riff(b"EXIF", exif),
        "WEBP EXIF with its name": with_riff(b"EXIF", b"Exif\0\0" + exif),
        "WEBP XMP": with_riff(b"XMP ", xmp),
    }
    for name in (b"tEXt", b"zTXt", b"iTXt"):
        found[f"PNG {name.decode()} raw profile"] = with_chunk(
            name, as_text(name, b"Raw profile type exif", raw_profile(exif))
        )
        found[f"PNG {name.decode()} XMP"] = with_chunk(name, as_text(name, b"XML:com.adobe.xmp", xmp))
    return found


def read(content):
    return pictures.read_picture(io.BytesIO(content), "a")


def form_of(content):
    return {b"\x89P": "PNG", b"\xff\xd8": "JPEG", b"RI": "WEBP"}[content[:2]]


@pytest.mark.parametrize("orientation", ORIENTED)
def test_an_orientation_is_found_in_every_place_that_can_tell_it(orientation):
    for order, kind in itertools.product("<>", "HI"):
        for place, content in places(exif_of(orientation, order, kind), xmp_of(orientation)).items():
            expected = ORIENTED[orientation](PIXELS[form_of(content)])
            np.testing.assert_array_equal(read(content), expected, err_msg=place)
            with PIL.Image.open(io.BytesIO(content)) as image:
                np.testing.assert_array_equal(np.asarray(PIL.ImageOps.exif_transpose(image)), expected, place)


UNWRITABLE = {
    "not a number": (0x011A, 12, 1, struct.pack("<I", 999)),
    "a string as a number": (0x0128, 2, 4, b"abc\0"),
    "of no type": (0x0100, 999, 7, b"abcd"),
    "beyond the end": (0x010F, 2, 1 << 30, struct.pack("<I", 1 << 30)),
}


@pytest.mark.parametrize("tag", UNWRITABLE)
def test_another_tag_that_is_broken_does_not_hide_the_orientation(tag):
    exif = exif_of(6, more=[UNWRITABLE[tag]])
    for place, content in places(exif, xmp_of(6)).items():
        np.testing.assert_array_equal(read(content), ORIENTED[6](PIXELS[form_of(content)]), err_msg=place)


def test_exif_comes_before_xmp_unless_it_is_broken():
    for exif, xmp, expected in ((exif_of(3), xmp_of(6), 3), (b"broken", xmp_of(6), 6), (exif_of(0), xmp_of(6), 1)):
        place = PLAIN["PNG"].index(b"IDAT") - 4
        more = chunk(b"eXIf", exif) + chunk(b"iTXt", as_text(b"iTXt", b"XML:com.adobe.xmp", xmp))
        both = PLAIN["PNG"][:place] + more + PLAIN["PNG"][place:]
        np.testing.assert_array_equal(read(both), ORIENTED[expected](PICTURE))


COSTLY = {
    "eXIf of no TIFF": with_chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"),
    "text named exif": with_chunk(b"tEXt", b"exif\0b'Exif\\x00\\x00MM\\x00*'"),
    "text named xmp": with_chunk(b"tEXt", b"xmp\0abc"),
    "raw profile of no digits": with_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n      10\nzz41zz\n"),
    "zTXt of 2 MB": with_chunk(b"zTXt", as_text(b"zTXt", b"workflow", b"x" * 2_000_000)),
    "iTXt of 2 MB": with_chunk(b"iTXt", as_text(b"iTXt", b"workflow", b"x" * 2_000_000)),
    "iTXt of 2 MB at the end": with_chunk(b"iTXt", as_text(b"iTXt", b"workflow", b"x" * 2_000_000), b"IEND"),
    "XMP of 20 MB": with_chunk(b"zTXt", as_text(b"zTXt", b"XML:com.adobe.xmp", bytes(20_000_000))),
    "zTXt of another compression": with_chunk(b"zTXt", b"a\0\7abc"),
    "iCCP of 2 MB": with_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2_000_000))),
    "iCCP of another compression": with_chunk(b"iCCP", b"a\0\7abc"),
    **{f"short {name}": with_chunk(name.encode(), b"") for name in ("gAMA", "cHRM", "sRGB", "pHYs", "acTL", "fcTL")},
    "a text between the chunks of pixels": with_pixels_in_two_chunks(chunk(b"tEXt", b"a\0b")),
    "JFIF of 6 bytes": with_segment(0xE0, b"JFIF\0\1"),
    "Adobe of 6 bytes": with_segment(0xEE, b"Adobe\0"),
    "MPF of no pictures": with_segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
    "Photoshop's, cut off": with_segment(0xED, b"Photoshop 3.0\0008BIM\x03\xed\0\0\0\0\0\x01a"),
    "ICC of no number": with_segment(0xE2, b"ICC_PROFILE\0"),
    "EXIF of no TIFF in WebP": with_riff(b"EXIF", b"\0\x08\0\x02\x01\x12\0\x03"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_metadata_that_cost_a_picture_cost_it_no_longer(name):
    np.testing.assert_array_equal(read(COSTLY[name]), PIXELS[form_of(COSTLY[name])])


def test_random_metadata_leave_the_pixels_turned_or_as_they_are():
    texts = st.sampled_from([b"exif", b"xmp", b"XML:com.adobe.xmp", b"Raw profile type exif", b"Comment", b""])
    filled = st.tuples(texts, st.sampled_from([b"\0", b"\0\0", b"\0\1\0\0\0"]), st.binary(max_size=60))
    exif = st.tuples(st.integers(0, 40), st.binary(min_size=1, max_size=9)).map(
        lambda change: exif_of(6)[: change[0]] + change[1] + exif_of(6)[change[0] + 1 :]
    )
    content = st.one_of(st.binary(max_size=80), filled.map(b"".join), exif)
    chunks = st.sampled_from(
        [name.encode() for name in "eXIf tEXt zTXt iTXt iCCP gAMA acTL fcTL fdAT sPLT abCd".split()]
    )
    segments = st.sampled_from([*range(0xE1, 0xEE), 0xEF, 0xFE])
    starts = st.sampled_from(
        [b"", b"Exif\0\0", b"ICC_PROFILE\0", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0", b"JFIF\0"]
    )
    files = st.one_of(
        st.builds(with_chunk, chunks, content, st.sampled_from([b"IDAT", b"IEND"])),
        st.builds(lambda marker, start, content: with_segment(marker, start + content), segments, starts, content),
        st.builds(with_riff, st.sampled_from([b"EXIF", b"XMP ", b"ICCP"]), content),
    )

    @settings(max_examples=500, deadline=None, derandomize=True, database=None)
    @given(files)
    def law(content):
        found, pixels = read(content), PIXELS[form_of(content)]
        assert any(np.array_equal(found, turned(pixels)) for turned in ORIENTED.values())

    law()


def test_a_chunk_whose_checksum_is_wrong_is_damage_whatever_it_holds():
    for name in (b"IHDR", b"IDAT", b"tEXt"):
        content = with_chunk(b"tEXt", b"a\0b")
        place = content.index(name)
        content = content[: place + 4] + bytes([content[place + 4] ^ 1]) + content[place + 5 :]
        with pytest.raises(pictures.PictureError, match="has a wrong checksum"):
            read(content)


def test_threads_read_pictures_under_their_own_limits_of_pixels(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 7)
    contents = [*PLAIN.values()] * 40

    def small(content):
        try:
            return pictures.read_picture(io.BytesIO(content), "a", max_pixels=59)
        except pictures.PictureError as error:
            return error.reason

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        refused, whole = pool.map(small, contents), pool.map(read, contents)
        assert {reason[:45] for reason in refused} == {"0.0 megapixels large, above the limit of 5.9e"}
        for content, picture in zip(contents, whole, strict=True):
            np.testing.assert_array_equal(picture, PIXELS[form_of(content)])
    assert PIL.Image.MAX_IMAGE_PIXELS == 7
