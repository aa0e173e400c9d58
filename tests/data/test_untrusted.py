"""Whatever a file holds, reading it gives the right result or a UserError of one line, and does no harm.

No harm: nothing in the file is executed, nothing is written outside its folder, and memory stays below a limit.
Hypothesis damages files as disks, networks and people do; malicious files are written by hand.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import pickle
import shutil
import struct
import sys
import tarfile
import tempfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from test_data_sets import (
    IMAGENET_TEST,
    IMAGENET_TRAIN,
    add_file,
    cifar_batches,
    png,
    random_images,
    write_cifar_folder,
    write_imagenet_tfds,
    write_npz,
    write_pictures,
    write_resized,
)

import data
import eval as eval_command
import golden_numbers
from data import cifar, converted, imagenet_resized, tfds_sets, untrusted
from pixel_snail import checkpoint
from pixel_snail.commands import command_line, drawing, evaluation
from pixel_snail.errors import UserError
from pixel_snail.inputs import masks
from pixel_snail.runs import earlier_runs
from pixel_snail.storage import pictures


def examples(number):
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],  # without Phase.explain, which takes minutes
        suppress_health_check=[HealthCheck.too_slow],
    )


def damaged(content):
    """A strategy: the content cut off, with bits flipped, a piece removed or inserted, or other bytes altogether."""
    place = st.integers(0, len(content) - 1)
    flip = st.tuples(st.one_of(place, st.integers(0, min(300, len(content) - 1))), st.integers(0, 7))
    piece = st.one_of(st.binary(max_size=16), st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7]))
    return st.one_of(
        place.map(lambda end: content[:end]),
        st.lists(flip, min_size=1, max_size=3).map(lambda flips: flipped(content, flips)),
        st.tuples(place, st.integers(0, 16), piece).map(
            lambda change: content[: change[0]] + change[2] + content[change[0] + change[1] :]
        ),
        st.binary(max_size=200),
    )


def flipped(content, flips):
    content = bytearray(content)
    for place, bit in flips:
        content[place] ^= 1 << bit
    return bytes(content)


RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "pickle.find_class")
WRITES = {"os.mkdir": 0, "os.rename": 1, "os.symlink": 1, "os.link": 1, "os.chmod": 0, "os.truncate": 0, "os.utime": 0}
"""Audit events that change files, and which of an event's arguments is the path."""
watched, harm = None, []  # the only folder that may be written to (None: do not watch), and the harmful events


def watch(event, arguments):
    if watched is None:
        return
    path = arguments[WRITES[event]] if event in WRITES else None
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        path = arguments[0]
    outside = isinstance(path, str | bytes | os.PathLike) and not is_inside(path) and not is_link_to_read_by(path)
    if event in RUNS or outside:
        harm.append((event, arguments))


def is_inside(path):
    return Path(os.path.realpath(os.fsdecode(path))).is_relative_to(watched)


def is_link_to_read_by(path):
    """Whether a path is the temporary folder of links that checkpoint.Checkpoint makes, or lies in it."""
    return os.fsdecode(path).startswith(os.path.join(tempfile.gettempdir(), "pixel_snail_"))


sys.addaudithook(watch)


@contextlib.contextmanager
def harmless(folder):
    """Accepts a UserError of one line from its block, and checks that the block does no harm.

    Harm is any other exception, a program run, a write outside the folder, or 64 MiB of memory taken or asked for.
    """
    global watched
    watched = folder.resolve()
    harm.clear()
    tracemalloc.start()
    try:
        yield
    except UserError as error:
        assert str(error).isprintable()
        while error := error.__cause__ or error.__context__:
            assert not isinstance(error, MemoryError)
    finally:
        watched, peak = None, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert not harm
    assert peak < 64 << 20


def refused(folder, read, *arguments):
    """Whether read(*arguments) raises a UserError; checks that it does no harm."""
    with harmless(folder):
        read(*arguments)
        return False
    return True


# Pickles


OPCODES = [
    *(bytes([code]) for code in b"(}]])tldeusabR0129NQ\x85\x86\x87\x88\x81\x8f\x90\x91\x93\x94."),
    *(b"U\x04data", b"U\x06labels", b"C\x04" + bytes(4), b"X\x02\0\0\0u1", b"K\x02", b"M\0\x0c", b"h\0", b"q\0"),
    *(b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n"),
    *(b"cnumpy.core.numeric\n_frombuffer\n", b"cos\nsystem\n", b"ios\nsystem\n", b"r\xff\xff\xff\x7f", b"p9\n"),
    *(b"\x8e" + bytes(5) + b"\1\0\0", b"\x96" + bytes(5) + b"\1\0\0", b"\x95" + bytes(5) + b"\1\0\0"),
]


def test_no_sequence_of_a_pickles_opcodes_does_harm(tmp_path):
    path = tmp_path / "batch"

    @examples(400)
    @given(st.lists(st.sampled_from(OPCODES), max_size=30).map(b"".join))
    def law(opcodes):
        path.write_bytes(opcodes + b".")
        with harmless(tmp_path):
            content = untrusted.unpickle(path)
            for name in ("data", "labels"):
                assert isinstance(untrusted.array(content, name, path), np.ndarray)

    law()


# A tuple that holds another tuple twice, which holds another tuple twice, and so on: hashing it takes 2^99 steps.
DEEP = b")" + b"2\x86" * 99
LARGE = struct.pack("<Q", 1 << 40)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}" + DEEP + b"K\1s.",
        b"\x80\x02(" + DEEP + b"K\1d.",
        b"\x80\x04\x8f(" + DEEP + b"\x90.",
        b"\x80\x04(" + DEEP + b"\x91.",
        b"\x80\x02c_codecs\nencode\n" + DEEP + b"K\1\x86R.",
        b"\x80\x02}r\xff\xff\xff\x7f0N.",
        b"\x80\x04}U\x04data\x96" + LARGE + b"s.",
        b"\x80\x04}U\x04data\x8e" + LARGE + b"s.",
        b"\x80\x04\x95" + LARGE + b"}0N.",
        b"\x80\x02](X" + struct.pack("<I", 99999) + b"x" * 99999 + b"q\0" + b"c_codecs\nencode\n(h\0NtR" * 9999 + b"e.",
    ],
    ids="key key-of-filled-dict set frozenset argument memo bytearray bytes frame copies".split(),
)
def test_a_pickle_that_would_take_all_time_or_memory_is_refused(content, tmp_path):
    (tmp_path / "batch").write_bytes(content)
    assert refused(tmp_path, untrusted.unpickle, tmp_path / "batch")


def test_damaged_batches_of_cifar_are_refused_or_still_batches(tmp_path):
    folder = write_cifar_folder(tmp_path)
    content = cifar_batches()["test_batch"]
    forms = [content, *(pickle.dumps(pickle.loads(content, encoding="bytes"), protocol) for protocol in range(6))]

    @examples(300)
    @given(st.sampled_from(forms).flatmap(damaged))
    def law(content):
        (folder / "test_batch").write_bytes(content)
        with harmless(tmp_path):
            test = data.load("cifar", tmp_path).test
            assert (test.images.dtype, test.images.shape[1:]) == (np.uint8, (32, 32, 3))
            assert test.labels.shape == (len(test.images),)
            assert set(test.labels) <= set(range(10))

    law()


@pytest.mark.parametrize(
    "pixels, labels",
    [
        ([0, 3072], np.zeros(0, int)),
        ([2, 3072], np.zeros([2, 1], int)),
        ([2, 3072], np.array([0.5, 1])),
        ([2, 3072], [1 << 99, 2]),
        ([2, 3072], np.uint8(3)),
        ([], [1]),
    ],
)
@pytest.mark.parametrize("data_set", ["cifar", "imagenet_resized"])
def test_batches_of_other_shapes_and_types_are_refused(pixels, labels, data_set, tmp_path):
    batch = {"data": np.ones(pixels, np.uint8), "labels": labels}
    if data_set == "cifar":
        path = write_cifar_folder(tmp_path) / "data_batch_2"
    else:
        write_resized(tmp_path, "pickled")
        path = tmp_path / "Imagenet32_train" / "train_data_batch_2"
    path.write_bytes(pickle.dumps(batch, 2))
    assert refused(tmp_path, data.load, data_set, tmp_path)


# Arrays


def npy_file(header, content=b"", version=1):
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode() + content


def npz_file(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return stream.getvalue()


def header(shape, dtype="|u1"):
    return repr({"descr": dtype, "fortran_order": False, "shape": shape})


BAD_ARRAYS = {
    "huge": npy_file(header((10**12, 4, 4, 3))),
    "huge beyond 64 bits": npy_file(header((1 << 63, 4, 4, 3))),
    "rather huge": npy_file(header((10**8, 4, 4, 3))),
    "negative": npy_file(header((-1, 4, 4, 3)), bytes(48)),
    "of nothing": npy_file(header((10**12, 4, 4, 3), "|V0")),
    "of huge elements": npy_file(header((1, 4, 4, 3), "|V1999999999")),
    "of objects": npy_file(header((1, 4, 4, 3), "|O"), pickle.dumps([0] * 48)),
    "deep": npy_file("(" * 9000),
    "with a huge header": npy_file(header((1, 4, 4, 3)) + " " * (100 << 20), bytes(48), version=2),
    "an archive": npz_file(data=npy_file(header((1, 4, 4, 3)), bytes(48))),
    "a pickle": pickle.dumps(np.zeros([1, 4, 4, 3])),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_claim_too_much_or_are_none_are_refused(name, tmp_path):
    (tmp_path / "a.npy").write_bytes(BAD_ARRAYS[name])
    assert refused(tmp_path, drawing.images_to_complete, str(tmp_path / "a.npy"), (4, 4, 3), False)
    assert refused(tmp_path, masks.read, str(tmp_path / "a.npy"), 1, (4, 4, 3))
    write_resized(tmp_path, "npz")
    batch = tmp_path / "Imagenet32_train_npz" / "train_data_batch_1.npz"
    batch.write_bytes(npz_file(data=BAD_ARRAYS[name], labels=npy_file(header((10**12,)))))
    assert refused(tmp_path, data.load, "imagenet_resized", tmp_path)


@pytest.mark.parametrize("data_set", ["imagenet", "imagenet_resized"])
def test_an_npz_that_unpacks_to_far_more_than_it_is_takes_no_memory(data_set, tmp_path):
    """Arrays of 200 MB, each compressed to 200 kB."""
    zeros = bytes(200 << 20)
    names, row = (("trainx", "testx"), (32, 32, 3)) if data_set == "imagenet" else (("data", "labels"), (3072,))
    first = npy_file(header((1 << 40, *row)), zeros)
    content = npz_file(**{names[0]: first, names[1]: npy_file(header((1 << 40,), "|i1"), zeros)})
    write_resized(tmp_path, "npz")
    (tmp_path / "imgnet_32x32.npz").write_bytes(content)
    (tmp_path / "Imagenet32_train_npz" / "train_data_batch_1.npz").write_bytes(content)
    assert refused(tmp_path, data.load, data_set, tmp_path)


def test_a_damaged_array_is_refused_or_still_an_array_of_images(tmp_path):
    np.save(tmp_path / "a.npy", random_images(3, 0, 4))

    @examples(300)
    @given(damaged((tmp_path / "a.npy").read_bytes()))
    def law(content):
        (tmp_path / "a.npy").write_bytes(content)
        with harmless(tmp_path):
            images, _ = drawing.images_to_complete(str(tmp_path / "a.npy"), (4, 4, 3), False)
            assert (images.dtype, images.shape[1:]) == (np.float32, (4, 4, 3))

    law()


@pytest.mark.parametrize("data_set", ["imagenet", "imagenet_resized"])
def test_a_damaged_npz_is_refused_or_gives_the_same_images(data_set, tmp_path):
    """The arrays of imagenet are stored plain, the batches of imagenet_resized compressed."""
    if data_set == "imagenet":
        write_npz(tmp_path)
        path = tmp_path / "small_imagenet" / "imgnet_32x32.npz"
    else:
        write_resized(tmp_path, "npz")
        path = tmp_path / "Imagenet32_train_npz" / "train_data_batch_1.npz"
        np.savez_compressed(path, **np.load(path))

    @examples(120)
    @given(damaged(path.read_bytes()))
    def law(content):
        path.write_bytes(content)
        shutil.rmtree(tmp_path / converted.FOLDER, ignore_errors=True)
        with harmless(tmp_path):
            assert_imagenet(data.load(data_set, tmp_path))

    law()


def test_an_npz_whose_header_was_damaged_does_not_lose_images(tmp_path):
    write_npz(tmp_path)
    path = tmp_path / "small_imagenet" / "imgnet_32x32.npz"
    path.write_bytes(path.read_bytes().replace(b"(23, 32, 32, 3)", b"(21, 32, 32, 3)"))
    assert refused(tmp_path, data.load, "imagenet", tmp_path)


def assert_imagenet(data_set):
    np.testing.assert_array_equal(data_set.train.images[:], IMAGENET_TRAIN)
    np.testing.assert_array_equal(data_set.test.images[:], IMAGENET_TEST)
    if data_set.nr_labels:
        np.testing.assert_array_equal(data_set.train.labels, np.arange(len(IMAGENET_TRAIN)))


# Pictures


def encoded(picture, kind, **settings):
    stream = io.BytesIO()
    PIL.Image.fromarray(picture).save(stream, kind, **settings)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_damaged_picture_is_refused_or_still_a_picture_and_a_png_the_same(kind, tmp_path):
    picture = random_images(1, 0, 24)[0]
    exif = PIL.Image.Exif()
    exif[0x0112] = 1  # upright
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture, kind, exif=exif))

    @examples(300)
    @given(damaged(path.read_bytes()))
    def law(content):
        path.write_bytes(content)
        with harmless(tmp_path):
            found = pictures.read_picture(path, "a")
            assert (found.dtype, found.shape[2:]) == (np.uint8, (3,))
            if kind == "PNG":
                np.testing.assert_array_equal(found, picture)
        with harmless(tmp_path):
            assert drawing.images_to_complete(str(path), (8, 8, 3), False)[0].shape[1:] == (8, 8, 3)

    law()


def test_no_bit_of_a_png_can_be_flipped_unnoticed(tmp_path):
    picture = np.tile(np.arange(24, dtype=np.uint8)[:, None, None], [1, 24, 3])  # noise would hardly be compressed
    content = encoded(picture, "PNG")
    for place, bit in itertools.product(range(len(content)), range(8)):
        with harmless(tmp_path):
            found = pictures.read_picture(io.BytesIO(flipped(content, [(place, bit)])), "a")
            np.testing.assert_array_equal(found, picture)


def png_of_size(width, height):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes((width // 8 + 1) * height)))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height", [(20_000, 20_000), (30_000, 30_000), (1 << 24, 16)])
def test_a_picture_that_unpacks_to_far_more_than_it_is_is_refused(width, height, tmp_path, recwarn):
    (tmp_path / "a.png").write_bytes(png_of_size(width, height))
    assert refused(tmp_path, drawing.images_to_complete, str(tmp_path / "a.png"), (8, 8, 3), False)
    assert refused(tmp_path, masks.read, str(tmp_path / "a.png"), 1, (8, 8, 3))
    assert not recwarn.list


def test_a_folder_of_pictures_may_have_links_in_circles_pipes_and_names_that_are_no_text(tmp_path):
    write_pictures(tmp_path, [f"{number}.png" for number in range(12)])
    for name in ("circle", "circle_too"):
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.png")
    shutil.copy(tmp_path / "0.png", os.fsencode(tmp_path) + b"/\xff\n.png")
    data_set = data.load("folder", tmp_path)
    assert len(data_set.train) + len(data_set.test) == 13
    with open(os.fsencode(tmp_path) + b"/\xff\n.png", "wb"):
        pass
    for _ in range(2):
        with pytest.raises(UserError, match="1 of 13 pictures in") as error:
            data.load("folder", tmp_path)
        assert error.value.__notes__ == [r"\udcff\n.png: not a PNG, JPEG or WebP picture that can be read"]
    (note,) = data.load("folder", tmp_path, skip_bad=True).notes[1:]
    assert note.startswith(r"1 of 13 pictures is left out: \udcff\n.png (not a PNG")


# Archives


def tar_of_pictures(mode):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for number, image in enumerate(IMAGENET_TEST[:3]):
            add_file(tar, f"folder/{number}.png", png(image))
    return stream.getvalue()


def single_flip(content):
    """A strategy: the content with one bit flipped. A tar's checksums miss some pairs of flips."""
    return st.tuples(st.integers(0, len(content) - 1), st.integers(0, 7)).map(lambda flip: flipped(content, [flip]))


def test_a_damaged_tar_is_refused_or_gives_the_same_pictures(tmp_path):
    path = tmp_path / "a.tar"
    content = tar_of_pictures("w")
    files = content[: content.rindex(b"IEND") + 512]  # most of the rest is padding
    cut = st.integers(0, len(files)).map(lambda end: content[:end])

    def read():
        return [pictures.read_picture(file, name) for name, file in untrusted.tar_pictures(path, tmp_path)]

    @examples(200)
    @given(st.one_of(single_flip(files).map(lambda start: start + content[len(files) :]), cut))
    def same(content):
        path.write_bytes(content)
        with harmless(tmp_path):
            np.testing.assert_array_equal(read(), IMAGENET_TEST[:3])

    @examples(200)
    @given(damaged(content))
    def law(content):
        path.write_bytes(content)
        with harmless(tmp_path):
            assert all(picture.shape == (32, 32, 3) for picture in read())

    same()
    law()


def test_a_damaged_archive_is_refused_or_unpacks_to_the_same(tmp_path):
    archive, folder = tmp_path / "a.tar.gz", tmp_path / "folder"

    @examples(200)
    @given(damaged(tar_of_pictures("w:gz")))
    def law(content):
        archive.write_bytes(content)
        shutil.rmtree(folder, ignore_errors=True)
        with harmless(folder):
            untrusted.unpack(archive, folder)
            found = [(folder / "folder" / f"{number}.png").read_bytes() for number in range(3)]
            assert found == [png(image) for image in IMAGENET_TEST[:3]]

    law()


@st.composite
def members(draw):
    """A strategy: a member of a tar as an attacker might write it by hand."""
    parts = st.lists(st.sampled_from(["..", ".", "", "a", "b", "\n", "x" * 200]), min_size=1, max_size=4)
    info = tarfile.TarInfo(draw(parts.map("/".join)))
    info.type = draw(st.sampled_from([*tarfile.SUPPORTED_TYPES, b"9"]))
    info.linkname = draw(parts.map("/".join))
    info.size = draw(st.sampled_from([0, 0, 5, -512, -1024, -4096, 1 << 40]))
    info.mode = draw(st.integers(0, 0o7777))
    names = st.sampled_from(["size", "path", "linkpath", "GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.realsize"])
    values = st.one_of(parts.map("/".join), st.integers(-2000, 1 << 40).map(str))
    info.pax_headers = draw(st.dictionaries(names, values, max_size=2))
    return info.tobuf(draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])) if info.size >= 0 else 1)


def test_no_archive_writes_outside_of_its_folder_or_never_ends(tmp_path):
    archive, folder = tmp_path / "a.tar.gz", tmp_path / "deep" / "folder"
    with_a_hole, before_itself = tarfile.TarInfo("a"), tarfile.TarInfo("a")
    with_a_hole.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40)}
    before_itself.pax_headers = {"size": "-1536"}  # three blocks back, to its extended header

    @examples(300)
    @example(with_a_hole.tobuf(tarfile.PAX_FORMAT))
    @example(tarfile.TarInfo("b").tobuf() + before_itself.tobuf(tarfile.PAX_FORMAT))
    @given(st.lists(st.one_of(members(), members(), st.just(b"hello".ljust(512, b"\0"))), max_size=5).map(b"".join))
    def law(content):
        archive.write_bytes(zlib.compress(content + bytes(10240), wbits=31))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with harmless(folder):
            untrusted.unpack(archive, folder)
        assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "deep"}
        assert not any(path.is_symlink() or path.is_fifo() for path in folder.rglob("*"))
        archive.write_bytes(content + bytes(10240))
        with harmless(folder):
            for _, file in untrusted.tar_pictures(archive, folder):
                assert len(file.read()) < 6000

    law()


# Converted images


def files_below(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def one_damaged(files):
    """A strategy: the path of one of the files, and its damaged content."""
    return st.sampled_from([path for path in files if files[path]]).flatmap(
        lambda path: st.tuples(st.just(path), damaged(files[path]))
    )


def restore(files, path, content):
    for folder in {path.parent for path in files}:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for other in files:
        other.write_bytes(content if other == path else files[other])


def test_a_damaged_cache_is_made_anew_or_not_taken_for_whole(tmp_path):
    write_resized(tmp_path, "npz")
    data.load("imagenet_resized", tmp_path)
    files = files_below(tmp_path / converted.FOLDER)
    data_dirs = [tmp_path, tmp_path / "without sources"]

    @examples(100)
    @given(one_damaged(files), st.sampled_from(data_dirs))
    def law(change, data_dir):
        restore(files, *change)
        shutil.rmtree(data_dirs[1], ignore_errors=True)
        shutil.copytree(tmp_path / converted.FOLDER, data_dirs[1] / converted.FOLDER)
        with harmless(tmp_path):
            data_set = data.load("imagenet_resized", data_dir)
            if change[0].suffix == ".images":  # not checked at every start, since training images are gigabytes
                assert (data_set.train.images[:].shape, data_set.image_shape) == (IMAGENET_TRAIN.shape, (32, 32, 3))
            else:
                assert_imagenet(data_set)

    law()


def test_an_interrupted_conversion_whose_files_were_damaged_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(converted, "rows_per_chunk", lambda shape: 2)
    write_resized(tmp_path, "npz")
    chunks = imagenet_resized._chunks

    def broken_off(*arguments):
        yield from itertools.islice(chunks(*arguments), 5)
        raise KeyboardInterrupt

    monkeypatch.setattr(imagenet_resized, "_chunks", broken_off)
    with pytest.raises(KeyboardInterrupt):
        data.load("imagenet_resized", tmp_path)
    monkeypatch.setattr(imagenet_resized, "_chunks", chunks)
    files = files_below(tmp_path / converted.FOLDER)

    @examples(60)
    @given(one_damaged(files))
    def law(change):
        path, content = change
        restore(files, path, content)
        with harmless(tmp_path):
            data_set = data.load("imagenet_resized", tmp_path)
            if path.suffix == ".part" and len(content) >= len(files[path]):
                assert data_set.train.images[:].shape == IMAGENET_TRAIN.shape
            else:
                assert_imagenet(data_set)

    law()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.just(1e9), st.floats(), st.text(max_size=5)),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=2),
    max_leaves=4,
)


def with_another_value(content):
    """A strategy: the dictionary as JSON, with one value changed or missing, or other JSON altogether."""
    changed = st.tuples(st.sampled_from(list(content)), JSON).map(lambda change: content | dict([change]))
    missing = st.sampled_from(list(content)).map(lambda name: {key: content[key] for key in content if key != name})
    return st.one_of(changed, changed, changed, missing, JSON).map(json.dumps).map(str.encode)


def test_a_record_of_other_types_is_not_believed(tmp_path):
    write_resized(tmp_path, "npz")
    data.load("imagenet_resized", tmp_path)
    files = files_below(tmp_path / converted.FOLDER)
    (path,) = (path for path in files if path.name == "train.json")

    @examples(60)
    @given(with_another_value(json.loads(files[path])))
    def law(content):
        restore(files, path, content)
        assert_imagenet(data.load("imagenet_resized", tmp_path))

    law()
    for content in (b"[" * 100_000, b'{"images": ' + b"9" * 5000 + b"}"):
        restore(files, path, content)
        assert_imagenet(data.load("imagenet_resized", tmp_path))


def test_damaged_files_of_tfds_are_refused_or_give_the_same_images(tmp_path):
    write_imagenet_tfds(tmp_path)
    files = files_below(tmp_path / "downsampled_imagenet")

    @examples(25)
    @given(one_damaged(files))
    def law(change):
        restore(files, *change)
        shutil.rmtree(tmp_path / converted.FOLDER, ignore_errors=True)
        with harmless(tmp_path):
            assert_imagenet(data.load("imagenet", tmp_path))

    law()


# The flags of a run

NETWORK, DATA = command_line.MODEL_DEFAULTS, command_line.DATA_DEFAULTS
RUN = NETWORK | DATA | {"data_set": "folder", "image_size": "28x20", "levels": 16}


@pytest.fixture
def completed(tmp_path):
    """A function that returns the flags of a run, completed from tmp_path/flags.json."""
    prefix = tmp_path / "70" / "params_folder.ckpt"
    prefix.parent.mkdir()
    for file in Path(golden_numbers.checkpoint("h6_shift")).parent.iterdir():
        shutil.copy(file, str(prefix) + file.name.removeprefix("params_cifar.ckpt"))

    def completed():
        flags = argparse.Namespace(**dict.fromkeys(NETWORK | DATA))
        earlier_runs.fill_in_flags(flags, checkpoint.Checkpoint(str(prefix)))
        return vars(flags)

    return completed


def as_given(flags):
    """These flags as eval.py parses them from a command line."""
    given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items() if value]
    parsed = vars(eval_command.parse_flags(["-rx", *given]))
    return {name: parsed[name] or flags[name] for name in flags}


def test_flags_of_a_run_are_refused_or_could_have_been_given(tmp_path, completed):
    content = json.dumps(RUN, indent=4).encode()

    @examples(400)
    @given(st.one_of(damaged(content), with_another_value(RUN)))
    def law(content):
        (tmp_path / "flags.json").write_bytes(content)
        with harmless(tmp_path):
            flags = completed()
            data.loader(flags["data_set"])
            assert repr(as_given(flags)) == repr(flags)  # repr tells 1 from 1.0 and from True

    law()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\xff" * 5000, r"can't be read from .*flags.json \(UnicodeDecodeError"),
        (b"[" * 100_000, r"can't be read from .*flags.json \(RecursionError"),
        (b"[]", "can't be read from"),
        (b"{}", "flags.json is broken: it has no model; move the file away"),
        *(
            (json.dumps(RUN | {name: value}).encode(), f"flags.json is broken: {name} can't be ")
            for name, value in [
                ("nr_filters", "abc"),
                ("nr_filters", -5),
                ("nr_filters", 1e9),
                ("nr_filters", None),
                ("nr_resnet", float("nan")),
                ("nr_resnet", True),
                ("model", "h99"),
                ("model", ["x"] * 99),
                ("resnet_nonlinearity", {"elu": 1}),
                ("data_set", ["cifar"]),
                ("data_dir", 7),
                ("downsample", "no"),
                ("image_size", 0),
                ("image_size", "28"),
                ("image_size", "28x28"),
                ("image_size", "28x20\n"),
                ("levels", 1),
                ("levels", "16"),
                ("levels", 1 << 17),
                ("binarize", 1),
                ("grey", None),
                ("skip_bad", 1),
                ("max_megapixels", 0),
                ("max_megapixels", None),
                ("test_folder", 7),
                ("cache_dir", 7),
            ]
        ),
    ],
)
def test_flags_of_a_run_that_are_none_are_refused_in_a_short_line(content, message, tmp_path, completed):
    (tmp_path / "flags.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        completed()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["nr_filters", "nr_logistic_mix", "nr_resnet"])
def test_flags_of_a_run_that_make_a_network_beyond_its_checkpoint_are_refused(name, tmp_path):
    (tmp_path / "flags.json").write_text(json.dumps(RUN | {"image_size": 16, "levels": None, name: 1_000_000}))
    (tmp_path / "70").mkdir()
    names = [f"model/conv2d_{number}/V" for number in range(4)]
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "70" / "params_folder.ckpt"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.zeros([1, 1, 3, 256])] * len(names),
    )
    write_pictures(tmp_path / "data", [f"{number}.png" for number in range(20)])
    flags = eval_command.parse_flags([f"-r{tmp_path}", f"-i{tmp_path / 'data'}"])
    with pytest.raises(UserError, match=f"is of another network: {name}=1000000 is too much"):
        evaluation.evaluate(flags, load_data=data.from_flags)


@pytest.mark.parametrize(
    "data_set", ["arrays", "cifar", "folder", "imagenet", "imagenet_resized", "mnist", "tfds:mnist"]
)
@pytest.mark.parametrize("name", ["no\0path", "no\ud800path", "no\npath", "/dev/null", "x" * 5000])
def test_a_data_dir_that_can_be_none_is_refused(data_set, name, tmp_path, monkeypatch):
    def refuse(builder):
        raise OSError("no network")

    monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:9/")
    monkeypatch.setattr(tfds_sets, "_check_connection", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        data.load(data_set, Path(name))
    assert str(error.value).isprintable()
