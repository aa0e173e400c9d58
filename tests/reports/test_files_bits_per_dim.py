"""Bits/dim of PNG and WebP files."""

import io

import numpy as np
import PIL.Image

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
