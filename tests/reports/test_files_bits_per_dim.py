"""Bits/dim of PNG and WebP files, which hold images of other channels and levels without loss too."""

import io

import numpy as np
import PIL.Image
import pytest

from pixel_snail.reports import comparisons


def test_noise_costs_eight_bits_and_headers_and_a_flat_image_little(rng):
    noise = comparisons.files_bits_per_dim(rng.integers(0, 256, [3, 64, 64, 3], np.uint8))
    flat = comparisons.files_bits_per_dim(np.full([3, 64, 64, 3], 77, np.uint8))
    assert set(noise) == set(flat) == {"PNG", "WebP"}
    assert all(8 < bits < 8.3 for bits in noise.values())
    assert all(0 < bits < 0.1 for bits in flat.values())


def test_files_are_counted_whole(rng):
    image = rng.integers(0, 256, [32, 32, 3], np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(image).save(stream, format="PNG", optimize=True)
    assert comparisons.files_bits_per_dim(image[None])["PNG"] == len(stream.getvalue()) * 8 / image.size


def test_of_many_images_some_are_taken_evenly_spaced(rng, monkeypatch):
    monkeypatch.setattr(comparisons, "MOST_IMAGES", 3)
    images = rng.integers(0, 256, [9, 16, 16, 3], np.uint8)
    assert comparisons.files_bits_per_dim(images) == comparisons.files_bits_per_dim(images[[0, 4, 8]])


def values_in(content):
    """The values in a file of lossless_files, [H, W, C]."""
    picture = PIL.Image.open(io.BytesIO(content))
    if picture.mode == "1":
        return np.asarray(picture)[..., None].astype(int)
    samples = np.asarray(picture)
    if picture.mode == "L" and content.startswith(b"\x89PNG"):  # Pillow scales samples of 2 and 4 bits
        samples = samples // (255 // (2 ** content[24] - 1))
    return samples if samples.ndim == 3 else samples[..., None]


@pytest.mark.parametrize("channels, levels", [(c, n) for c in (1, 2, 3, 4) for n in (2, 3, 4, 16, 32, 200, 256)])
def test_files_of_up_to_256_levels_are_read_back_exactly(channels, levels, rng):
    for image in (
        rng.integers(0, levels, [9, 13, channels]).astype(np.uint8),
        np.cumsum(np.ones([9, 13, channels], np.uint8), axis=1) % levels,
        rng.integers(0, levels, [9, 13, channels]) * (np.arange(channels) < 3),  # alpha is 0
    ):
        files = comparisons.lossless_files(image, levels)
        assert files.keys() == {"PNG", "WebP"}
        np.testing.assert_array_equal(values_in(files["PNG"]), image)
        webp = values_in(files["WebP"])  # grey is R, G and B there
        of_grey = {1: webp[..., :1], 2: webp[..., [0, -1]]}
        np.testing.assert_array_equal(of_grey.get(channels, webp), image)
        assert all((webp[..., i] == webp[..., 0]).all() for i in range(3)) or channels > 2


@pytest.mark.parametrize("levels", [257, 1024, 65_536])
def test_grey_images_of_more_levels_are_png_of_16_bits_only(levels, rng):
    image = rng.integers(0, levels, [9, 13, 1]).astype(np.uint16)
    files = comparisons.lossless_files(image, levels)
    assert files.keys() == {"PNG"}
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(files["PNG"])))[..., None], image)


@pytest.mark.parametrize("channels, levels", [(5, 256), (3, 300), (2, 65_536)])
def test_images_that_no_format_holds_have_no_size(channels, levels):
    images = np.zeros([3, 4, 5, channels], np.uint16)
    assert comparisons.files_bits_per_dim(images, levels) == comparisons.file_sizes(images[0], levels) == {}


@pytest.mark.parametrize("levels, bits", [(2, 1), (3, 2), (4, 2), (16, 4), (17, 8)])
def test_a_png_of_few_levels_has_few_bits(levels, bits, rng):
    noise = rng.integers(0, levels, [16, 16, 1]).astype(np.uint8)
    assert comparisons.lossless_files(noise, levels)["PNG"][24] == bits


def test_a_png_of_few_levels_has_8_bits_if_that_file_is_smaller(rng):
    rows = np.add.outer(np.arange(16), rng.integers(0, 16, 64))  # each row is one more than the row above
    assert comparisons.lossless_files((rows[..., None] % 16).astype(np.uint8), 16)["PNG"][24] == 8
