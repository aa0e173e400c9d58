"""Pictures, read back."""

import numpy as np
import PIL.Image

from pixel_snail.reports import plotting


def test_a_grid_has_every_image_in_its_place(tmp_path, rng):
    pixels = rng.integers(0, 256, [5, 4, 6, 3])
    plotting.save_grid(pixels / 127.5 - 1, tmp_path / "grid.png")
    grid = np.asarray(PIL.Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 4, 3 * 6, 3)
    for i, image in enumerate(pixels):
        y, x = divmod(i, 3)
        np.testing.assert_array_equal(grid[4 * y : 4 * y + 4, 6 * x : 6 * x + 6], image)
    assert not grid[4:, 12:].any()


def test_a_learning_curve_is_a_picture(tmp_path):
    plotting.save_learning_curve([[8.0, 7.0, 6.0], [5.0, 4.5]], [6.5, 5.0], tmp_path / "curve.png")
    assert np.asarray(PIL.Image.open(tmp_path / "curve.png")).std() > 0


def test_bit_maps_are_a_picture_of_any_number_of_images(tmp_path, rng):
    for number in (2, 5, 16):
        images = rng.integers(0, 256, [number, 8, 6, 3], np.uint8)
        path = tmp_path / f"{number}.png"
        plotting.save_bit_maps(images, rng.uniform(0, 20, [number, 8, 6]), rng.uniform(2, 4, 30), path)
        assert np.asarray(PIL.Image.open(path)).std() > 0
