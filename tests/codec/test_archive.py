"""Files of images through the Python interface: exact round trips, refusals, and damage that is always found."""

import contextlib
import dataclasses
import functools
import json
import struct
import tracemalloc
import types
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import OneStep, add_spec

import pixel_snail
from pixel_snail import sampling
from pixel_snail.codec import archive, container, rounding
from pixel_snail.codec.coder import ImageCoder
from pixel_snail.errors import UserError
from pixel_snail.network import Description
from pixel_snail.parallel import memory

SHAPE = (4, 4, 3)
SETTINGS = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2}


def images_of(number, seed=0):
    return np.random.default_rng(seed).integers(0, 256, [number, *SHAPE], np.uint8)


@pytest.fixture(scope="module")
def spec():
    with pytest.MonkeyPatch.context() as patch:
        add_spec(patch, "h0", OneStep)
        keras.utils.set_random_seed(0)
        yield "h0"


@pytest.fixture(scope="module")
def model(spec):
    """A small distribution; its loop over pixels is compiled once for all tests."""
    model = pixel_snail.build(spec, image_shape=SHAPE, **SETTINGS)
    model.initialise(images_of(6))
    return model


@pytest.fixture(scope="module")
def images():
    return images_of(19)


@pytest.fixture(scope="module")
def data(model, images):
    return model.compress(images, batch_size=8, verbose=0)


def unpacked(text):
    return zlib.decompressobj(zdict=container.DICTIONARY).decompress(text)


def with_fields(data, **changes):
    """The same file with other fields in its header, whose checksum is right."""
    _, size, _ = struct.unpack_from("<8sII", data)
    packed, rest = data[16 : 16 + size], data[16 + size :]
    (told,) = struct.unpack_from("<I", packed)
    fields = json.loads(unpacked(packed[4 : 4 + told])) | changes
    text = zlib.compress(json.dumps(fields).encode())
    packed = struct.pack("<I", len(text)) + text + packed[4 + told :]
    return struct.pack("<8sII", container.SIGNATURE, len(packed), zlib.crc32(packed)) + packed + rest


@pytest.mark.parametrize("number", [0, 1, 8, 19])
def test_any_number_of_images_comes_back(number, model):
    images = images_of(number, seed=1)
    data = model.compress(images, batch_size=np.int64(8), verbose=0)
    np.testing.assert_array_equal(model.decompress(data, verbose=0), images)


def test_a_thousand_images_come_back(model):
    images = images_of(1000, seed=2)
    data = model.compress(tf.constant(images), batch_size=8, verify=False, verbose=0)
    np.testing.assert_array_equal(model.decompress(data, verbose=0), images)


def test_labels_are_in_the_file(spec, monkeypatch):
    monkeypatch.setattr(archive, "ImageCoder", functools.partial(ImageCoder, jit=False))
    model = pixel_snail.build(spec, image_shape=SHAPE, nr_labels=3, **SETTINGS)
    images, labels = images_of(5), [2, 0, 1, 1, 0]
    model.initialise(images, labels)
    data = model.compress(images, labels, verbose=0)
    np.testing.assert_array_equal(model.decompress(data, verbose=0), images)
    assert model.decompress(model.compress(images[:0], [], verbose=0), verbose=0).shape == (0, *SHAPE)
    with pytest.raises(UserError, match="conditional on 3 classes: give labels"):
        model.compress(images)
    with pytest.raises(UserError, match="it has no valid class for each image"):
        model.decompress(with_fields(data, labels=[0, 1, 2, 3, 0]))


def test_a_leaking_network_is_refused_with_the_reason():
    model = pixel_snail.build("h6_noup_hier2", image_shape=SHAPE, **SETTINGS)
    with pytest.raises(UserError, match=r"predicts pixels from themselves.*no decoder could repeat its predictions"):
        model.compress(images_of(1))


def test_another_checkpoint_or_network_than_the_files_is_refused(spec, data):
    with pytest.raises(
        UserError, match="the file is of another checkpoint: the network is the same, but its parameters"
    ):
        pixel_snail.build(spec, image_shape=SHAPE, **SETTINGS).decompress(data)
    with pytest.raises(UserError, match="the file is of another network: its nr_filters is 4, not 8"):
        pixel_snail.build(spec, image_shape=SHAPE, **SETTINGS | {"nr_filters": 8}).decompress(data)


def test_a_damaged_group_is_lost_and_no_other(model, data, images):
    header, groups = container.read(data)
    at = len(data) - len(groups[2].stream) - 3
    damaged = bytearray(data)
    damaged[at] ^= 1
    header, groups = container.read(bytes(damaged))
    first, second, third = model.archiver.decompress(header, groups, verbose=0)
    np.testing.assert_array_equal(first, images[:8])
    assert str(second) == "images 9 to 16 of 19 can't be decoded: that part of the file is damaged or cut off"
    np.testing.assert_array_equal(third, images[16:])
    with pytest.raises(UserError, match="images 9 to 16 of 19 can't be decoded"):
        model.decompress(bytes(damaged), verbose=0)


def test_bytes_after_the_last_group_do_no_harm(model, data, images):
    np.testing.assert_array_equal(model.decompress(data + b"\n", verbose=0), images)


def test_only_bytes_are_decompressed(model):
    for data in ("two.snail", 5_000_000_000):
        with pytest.raises(UserError, match="data must be the bytes that compress returned, not"):
            model.decompress(data)


def test_a_machine_that_computes_otherwise_is_told_with_the_difference(model, data, monkeypatch):
    """The other machine's predictions differ a little: the parameters change after the checksum was compared."""
    header, groups = container.read(data)
    there = header.machine | {"instructions": ["avx2", "avx9"], "tensorflow": "2.99", "cores": 999}
    here = header.machine | {"instructions": ["avx2"]}
    monkeypatch.setattr(rounding, "description", lambda: here)
    bias = model.network.output_layer.nin.b
    before = bias.numpy()
    bias.assign(before + 1e-3)
    monkeypatch.setattr(archive, "_checksum", lambda _: header.weights)
    try:
        with pytest.raises(UserError) as error:
            model.decompress(container.write(dataclasses.replace(header, machine=there), groups), verbose=0)
        with pytest.raises(UserError, match="though nothing that it records differs"):
            model.decompress(container.write(dataclasses.replace(header, machine=here), groups), verbose=0)
    finally:
        bias.assign(before)
    assert str(error.value) == (
        "images 1 to 8 of 19 can't be decoded here: sums are rounded differently here than where the file was written "
        f"(instructions: avx9 only there; tensorflow: 2.99 there, {here['tensorflow']} here): decompress the file "
        "with the same processor, versions and variables as there; if only the processor differs, compress the "
        "pictures again with python -m pixel_snail.codec compress --portable"
    )


def test_compressing_decodes_before_it_says_that_it_is_done(model, images, monkeypatch):
    decode = ImageCoder.decode
    monkeypatch.setattr(ImageCoder, "decode", lambda *arguments: decode(*arguments) ^ 1)
    with pytest.raises(UserError, match=r"decoding images (1 to 8|9 to 16) gave other pixels.* nothing is written"):
        model.compress(images, batch_size=8, verbose=0)
    model.compress(images, batch_size=8, verify=False, verbose=0)


@pytest.mark.parametrize("batch_size", [0, 257, 1.5])
def test_impossible_batches_are_refused(batch_size, model, images):
    with pytest.raises(UserError, match="is not a whole number from 1 to 256"):
        model.compress(images, batch_size=batch_size)


# Damage of every kind: the right pixels or one line.


def flipped(data, draw):
    damaged = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        damaged[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(damaged)


def cut(data, draw):
    return data[: draw(st.integers(0, len(data) - 1))]


def swapped(data, draw):
    """Two blocks of equal size change places."""
    size = draw(st.integers(1, len(data) // 3))
    first = draw(st.integers(0, len(data) - 2 * size))
    second = draw(st.integers(first + size, len(data) - size))
    a, b = data[first : first + size], data[second : second + size]
    return data[:first] + b + data[first + size : second] + a + data[second + size :]


def repeated(data, draw):
    first, last = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
    return data[:last] + data[first:]


def with_lies(data, draw):
    """A header whose checksum is right, and which claims other sizes or kinds."""
    numbers = st.sampled_from([0, 1, 7, 18, 20, 255, 2**31, 2**63, -1, 1e300, "x", None, [1], True])
    network = container.read(data)[0].network
    lies = st.one_of(
        st.fixed_dictionaries({"images": numbers}),
        st.fixed_dictionaries({"batch": numbers}),
        st.fixed_dictionaries({"labels": st.one_of(numbers, st.lists(numbers, min_size=19, max_size=19))}),
        st.fixed_dictionaries({"machine": numbers}),
        st.fixed_dictionaries({"weights": numbers}),
        st.fixed_dictionaries({"version": numbers}),
        st.fixed_dictionaries({"checkpoint": st.one_of(numbers, st.lists(numbers, min_size=2, max_size=2))}),
        st.fixed_dictionaries({"pictures": st.lists(st.tuples(st.text(), numbers, numbers), max_size=3)}),
        st.fixed_dictionaries({"network": numbers}),
        st.tuples(st.sampled_from(sorted(network)), st.one_of(numbers, st.lists(numbers, max_size=4))).map(
            lambda lie: {"network": network | dict([lie])}
        ),
        st.dictionaries(st.text(), numbers),
    )
    return with_fields(data, **draw(lies))


def with_anothers_header(data, draw, other):
    size = 16 + struct.unpack_from("<8sII", other)[1]
    return other[:size] + data[16 + struct.unpack_from("<8sII", data)[1] :]


def with_other_streams(data, draw):
    """Streams of random words whose checksums are right."""
    header, groups = container.read(data)
    number = draw(st.integers(0, len(groups) - 1))
    stream = draw(st.binary(max_size=len(groups[number].stream)))
    return container.write(
        header, [*groups[:number], dataclasses.replace(groups[number], stream=stream), *groups[number + 1 :]]
    )


@settings(max_examples=1000, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(damage=st.sampled_from([flipped, cut, swapped, repeated, with_lies, with_anothers_header]), draw=st.data())
def test_a_damaged_file_gives_one_line_or_the_right_pixels(damage, draw, model, data, images, others_data):
    arguments = [others_data] if damage is with_anothers_header else []
    damaged = damage(data, draw.draw, *arguments)
    try:
        decoded = model.decompress(damaged, verbose=0)
    except UserError as error:
        assert 0 < len(str(error)) < 1000
        return
    np.testing.assert_array_equal(decoded, images)


@settings(max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(draw=st.data())
def test_streams_that_nobody_wrote_give_one_line(draw, model, data, images):
    try:
        decoded = model.decompress(with_other_streams(data, draw.draw), verbose=0)
    except UserError as error:
        assert "rounded differently" in str(error)
        return
    np.testing.assert_array_equal(decoded, images)


@pytest.fixture(scope="module")
def others_data(model):
    return model.compress(images_of(19, seed=5), batch_size=8, verbose=0, verify=False)


@contextlib.contextmanager
def refused_in_little_memory(reason):
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=reason):
            yield
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_what_a_header_claims_takes_no_memory(data):
    """A bomb: 100 MB of JSON in 100 kB. And pictures that would have 10^12 pixels."""
    bomb = with_fields(data, **{"x": "0" * 100_000_000})
    assert len(bomb) < 200_000
    with refused_in_little_memory("it is cut off or far too large"):
        container.read(bomb)
    other = with_fields(data, pictures=[["a.png", 10**6, 10**6]])
    with refused_in_little_memory("pictures are of another number of images"):
        container.read(other)
    claims = with_fields(data, images=62_500_000_000, pictures=[["a.png", 10**6, 10**6]])
    with refused_in_little_memory("its list of groups does not fit"):
        container.read(claims)
    assert next(container.tiles_of(10**9, 10**9, 4, 4)) == (0, 0, 4, 4)


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "..", "", "a/b", "a\0b", "a" * 256, 7])
def test_a_pictures_name_leads_nowhere_else(name, data):
    with pytest.raises(UserError, match="is not the name of a file"):
        container.read(with_fields(data, images=1, batch=8, pictures=[[name, 4, 4]]))


def test_a_file_of_a_later_version_is_told(data):
    with pytest.raises(UserError, match="of format version 3, which a later version of this program wrote"):
        container.read(with_fields(data, version=3))


# Images of other channels and levels than 8-bit RGB.


def model_of(spec, shape, levels, **settings):
    """A distribution over such images, and eight of them, with the values at both ends."""
    model = pixel_snail.build(spec, image_shape=shape, levels=levels, **SETTINGS | settings)
    images = np.random.default_rng(0).integers(0, levels, [8, *shape], np.uint8 if levels <= 256 else np.uint16)
    images[0], images[1] = 0, levels - 1
    model.initialise(images)
    return model, images


def header_json(data):
    """The fields of a file's header as they are in the file, whose version decides how they are compressed."""
    (size,) = struct.unpack_from("<I", data, 16)
    text = data[20 : 20 + size]
    fields = json.loads(unpacked(text))
    assert bool(text[1] & 0x20) == (fields["version"] == 2)  # zlib's flag of a preset dictionary
    return fields


@pytest.mark.parametrize(
    "shape, levels", [((3, 5, 1), 2), ((2, 3, 2), 16), ((3, 4, 1), 1024), ((4, 4, 1), 256), ((2, 2, 3), 32)]
)
def test_files_of_every_kind_of_images_come_back(shape, levels, spec, monkeypatch):
    monkeypatch.setattr(archive, "ImageCoder", functools.partial(ImageCoder, jit=False))
    model, images = model_of(spec, shape, levels)
    data = model.compress(images.astype(np.int64) if levels != 256 else images, batch_size=3, verbose=0)
    decoded = model.decompress(data, verbose=0)
    assert decoded.dtype == images.dtype
    np.testing.assert_array_equal(decoded, images)
    fields = header_json(data)
    assert (fields["version"], fields["network"].get("levels", 256)) == (2, levels)
    assert ("levels" in fields["network"]) == (levels != 256)


def test_a_file_of_8_bit_rgb_is_of_version_1_and_records_no_levels(data):
    fields = header_json(data)
    assert fields["version"] == 1
    assert "levels" not in fields["network"]
    assert container.read(data)[0].levels == 256


@pytest.mark.parametrize(
    "shape, levels, number, fit_in_memory, expected",
    [
        ((28, 28, 1), 2, 100, 256, 100),
        ((28, 28, 1), 2, 1001, 256, 251),
        ((28, 28, 1), 2, 10_000, 256, 250),
        ((28, 28, 1), 2, 10_000, 200, 127),
        ((28, 28, 1), 2, 10_000, 99, 32),
        ((28, 28, 1), 2, 10_000, 31, 8),
        ((32, 32, 3), 256, 10_000, 31, 8),
        ((32, 32, 3), 256, 10_000, 7, 1),
        ((32, 32, 3), 256, 16, 7, 1),
        ((32, 32, 1), 256, 256, 256, 256),
        ((33, 32, 1), 256, 65, 256, 32),
        ((28, 28, 1), 2, 64, 256, 32),
        ((28, 28, 1), 2, 16, 256, 8),
        ((16, 16, 3), 32, 65, 256, 65),
        ((16, 16, 3), 256, 65, 256, 32),
        ((28, 28, 1), 65536, 65, 256, 32),
    ],
)
def test_many_small_images_share_few_streams_except_8_bit_rgb_and_every_batch_fits_into_memory(
    shape, levels, number, fit_in_memory, expected, monkeypatch
):
    def check_memory(network, batch):
        if batch > fit_in_memory:
            raise memory.Shortage("too many")

    monkeypatch.setattr(sampling, "check_memory", check_memory)
    described = Description("h0", shape, None, **SETTINGS, resnet_nonlinearity="elu", dropout_p=0.5, levels=levels)
    network = types.SimpleNamespace(description=described)
    assert archive.default_batch_size(number, network) == expected
    fit_in_memory = 0
    with pytest.raises(memory.OutOfMemory, match=memory.MORE_MEMORY):
        archive.default_batch_size(number, network)


def test_a_file_of_images_of_another_size_names_how_to_load_the_checkpoint(spec, monkeypatch):
    monkeypatch.setattr(archive, "ImageCoder", functools.partial(ImageCoder, jit=False))
    (small, _), (large, images) = (model_of(spec, shape, 256) for shape in ((2, 3, 1), (4, 3, 1)))
    data = large.compress(images, verbose=0, verify=False)
    with pytest.raises(UserError, match=r"image_shape is \[4, 3, 1\], not .*it was written with, loaded with the same"):
        small.decompress(data)


def test_the_dictionary_of_version_2_never_changes():
    assert zlib.adler32(container.DICTIONARY) == 3507439088


def test_a_file_of_other_levels_is_refused(spec, monkeypatch):
    monkeypatch.setattr(archive, "ImageCoder", functools.partial(ImageCoder, jit=False))
    (binary, images), (eight_bit, _) = (model_of(spec, (2, 3, 1), levels) for levels in (2, 256))
    data = binary.compress(images, verbose=0)
    with pytest.raises(UserError, match="of another network: its number of levels is 2, not 256; use the checkpoint"):
        eight_bit.decompress(data)
    with pytest.raises(UserError, match="of another network: its number of levels is 256, not 2; use the checkpoint"):
        binary.decompress(eight_bit.compress(images, verbose=0, verify=False))
    network = container.read(data)[0].network
    for levels in (1, 0, 65537, 2.5, "2", [2], None, True, 10**30):
        damaged = with_fields(data, network=network | {"levels": levels})
        with pytest.raises(UserError, match="of its header, levels is no possible number"):
            binary.decompress(damaged)


@settings(max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(damage=st.sampled_from([flipped, cut, swapped, repeated, with_lies]), draw=st.data())
def test_a_damaged_file_of_binary_images_gives_one_line_or_the_right_pixels(damage, draw, binary):
    model, images, data = binary
    try:
        decoded = model.decompress(damage(data, draw.draw), verbose=0)
    except UserError as error:
        assert 0 < len(str(error)) < 1000
        return
    np.testing.assert_array_equal(decoded, images)


@pytest.fixture(scope="module")
def binary(spec):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "ImageCoder", functools.partial(ImageCoder, jit=False))
        model, images = model_of(spec, (4, 4, 1), 2)
        images = np.repeat(images, 3, 0)[:19]  # as many as the lies of with_lies are about
        yield model, images, model.compress(images, batch_size=8, verbose=0)


@pytest.mark.parametrize("levels, side, number, most", [(2, 28, 100, 1.025), (256, 14, 400, 1.005)])
def test_a_file_of_a_few_grey_images_is_hardly_larger_than_their_likelihood(levels, side, number, most, spec):
    """Of 100 MNIST images, or as many pixels. A header without the dictionary would take as much as four of them.

    The header names the processor's instructions. Those of AMX, which the dictionary lacks, take about 30 bytes more.
    """
    rng = np.random.default_rng(0)
    distances = np.hypot(*np.mgrid[-side // 2 : side // 2, -side // 2 : side // 2])
    blobs = 1 / (1 + np.exp(distances - rng.uniform(side / 6, side / 2, [number, 1, 1])))[..., None]
    images = np.uint8(np.floor(levels * np.clip(rng.normal(blobs, 0.3), 0, 0.999)))
    model = pixel_snail.build(spec, image_shape=(side, side, 1), levels=levels, **SETTINGS)
    model.initialise(images)
    data = model.compress(images, verify=False, verbose=0)
    likelihood = -model.log_prob(images, batch_size=50, verbose=0).sum() / np.log(2) / 8
    streams = sum(len(group.stream) for group in container.read(data)[1])
    assert abs(streams - likelihood) < 0.0005 * likelihood + 8  # the codec's probabilities are rounded, up or down
    assert len(data) < most * likelihood
    assert len(data) - streams < 200
