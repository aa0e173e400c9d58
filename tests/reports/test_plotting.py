"""The pictures of a report, read back from their files."""

import numpy as np
import PIL.Image

from pixel_snail.reports import plotting


def test_a_grid_has_every_image_in_its_place(tmp_path, rng):
    pixels = rng.integers(0, 256, [8, 4, 6, 3])
    plotting.save_grid(pixels / 127.5 - 1, tmp_path / "grid.png")
    grid = np.asarray(PIL.Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 4, 4 * 6, 3)  # no tile is empty
    for i, image in enumerate(pixels):
        y, x = divmod(i, 4)
        np.testing.assert_array_equal(grid[4 * y : 4 * y + 4, 6 * x : 6 * x + 6], image)


def test_a_learning_curve_is_a_picture(tmp_path):
    plotting.save_learning_curve([[8.0, 7.0, 6.0], [5.0, 4.5]], [6.5, 5.0], tmp_path / "curve.png")
    assert np.asarray(PIL.Image.open(tmp_path / "curve.png")).std() > 0


def test_a_learning_curve_has_a_line_without_averaging_where_that_is_known(tmp_path):
    pictures = []
    for unaveraged in ({}, {1: 4.0}, {0: 5.0, 1: 4.0}):
        plotting.save_learning_curve([[8.0, 7.0], [6.0, 5.5]], [6.5, 5.0], tmp_path / "curve.png", unaveraged)
        pictures.append(np.asarray(PIL.Image.open(tmp_path / "curve.png")))
    none, one, both = pictures
    assert (one != none).any() and (both != one).any()


def test_a_learning_curve_without_a_single_accepted_step_is_a_picture_too(tmp_path):
    for steps in ([[]], [[], [4.0]]):
        plotting.save_learning_curve(steps, [6.5] * len(steps), tmp_path / "curve.png")
        assert np.asarray(PIL.Image.open(tmp_path / "curve.png")).std() > 0


def test_bit_maps_are_a_picture_of_any_number_of_images(tmp_path, rng):
    for number in (2, 5, 16):
        images = rng.integers(0, 256, [number, 8, 6, 3], np.uint8)
        path = tmp_path / f"{number}.png"
        plotting.save_bit_maps(images, rng.uniform(0, 20, [number, 8, 6]), rng.uniform(2, 4, 30), path)
        assert np.asarray(PIL.Image.open(path)).std() > 0


def test_completions_are_a_row_for_each_image_and_an_array(tmp_path, rng):
    truth = rng.uniform(-1, 1, [2, 6, 4, 3]).astype(np.float32)
    completions = rng.uniform(-1, 1, [6, 6, 4, 3]).astype(np.float32)
    path = plotting.save_completions(truth, completions, 2, str(tmp_path), "tiny")
    picture = np.asarray(PIL.Image.open(path))
    assert picture.shape == (2 * 6, 5 * 4, 3)  # the image, its kept rows, three completions
    pixels = np.round(truth * 127.5 + 127.5)
    np.testing.assert_array_equal(picture[:6, :4], pixels[0])
    np.testing.assert_array_equal(picture[6:8, 4:8], pixels[1, :2])
    assert len(np.unique(picture[8:, 4:8])) == 1
    np.testing.assert_array_equal(picture[6:, 16:], np.round(completions[5] * 127.5 + 127.5))
    np.testing.assert_array_equal(np.load(tmp_path / "tiny_completions.npy"), completions.reshape(2, 3, 6, 4, 3))
