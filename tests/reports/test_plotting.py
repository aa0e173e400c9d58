"""The pictures of a report, read back from their files."""

import numpy as np
import PIL.Image
import pytest

from pixel_snail.likelihoods.levels import from_values
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
    is_given = rng.random([2, 6, 4]) < 0.5
    path = plotting.save_completions(truth, completions, is_given, str(tmp_path), "tiny")
    picture = np.asarray(PIL.Image.open(path))
    assert picture.shape == (2 * 6, 5 * 4, 3)  # the image, its given pixels, three completions
    pixels = np.round(truth * 127.5 + 127.5)
    np.testing.assert_array_equal(picture[:6, :4], pixels[0])
    given = picture[:, 4:8].reshape(pixels.shape)
    np.testing.assert_array_equal(given[is_given], pixels[is_given])
    assert len(np.unique(given[~is_given])) == 1
    np.testing.assert_array_equal(picture[6:, 16:], np.round(completions[5] * 127.5 + 127.5))
    np.testing.assert_array_equal(np.load(tmp_path / "tiny_completions.npy"), completions.reshape(2, 3, 6, 4, 3))


KINDS = [(1, 2), (1, 256), (1, 65_536), (2, 16), (3, 32), (4, 256)]


@pytest.mark.parametrize("channels, levels", KINDS)
def test_images_of_any_kind_are_shown_from_black_to_white_and_saved_as_values(channels, levels, tmp_path, rng):
    values = rng.integers(0, levels, [4, 5, 6, channels])
    values[0], values[1] = 0, levels - 1
    path = plotting.save_samples(from_values(values, levels), str(tmp_path), "tiny", levels=levels)
    grid = np.asarray(PIL.Image.open(path))
    side_by_side = 1 if channels == 3 else channels
    assert grid.shape == (2 * 5, 2 * 6 * side_by_side) + ((3,) if channels == 3 else ())
    assert (grid[:5, : 6 * side_by_side] == 0).all() and (grid[:5, 6 * side_by_side :] == 255).all()
    shown = np.round(values[2] * (255 / (levels - 1)))
    expected = shown if channels == 3 else np.concatenate(list(np.moveaxis(shown, -1, 0)), axis=1)
    assert np.abs(grid[5:, : 6 * side_by_side] - expected).max() <= 1
    saved = np.load(tmp_path / "tiny_samples.npy")
    assert saved.dtype == (np.uint8 if levels <= 256 else np.uint16)
    np.testing.assert_array_equal(saved, values)
    truth, completions = (from_values(of, levels) for of in (values[:2], values))
    plotting.save_completions(truth, completions, np.ones([2, 5, 6], bool), tmp_path, "a", levels)
    np.testing.assert_array_equal(np.load(tmp_path / "a_completions.npy"), values.reshape(2, 2, 5, 6, channels))


def test_samples_of_8_bit_rgb_are_saved_unrounded(tmp_path, rng):
    images = rng.uniform(-1, 1, [2, 5, 6, 3]).astype(np.float32)
    plotting.save_samples(images, str(tmp_path), "tiny")
    np.testing.assert_array_equal(np.load(tmp_path / "tiny_samples.npy"), images)


def test_grey_rows_have_names_too(tmp_path):
    path = tmp_path / "rows.png"
    plotting.save_rows([np.full([2, 12, 5, 1], -1.0)] * 2, path, ["cat", "dog"])
    picture = PIL.Image.open(path)
    assert picture.mode == "L"
    margin = np.asarray(picture)[:, :-10]
    assert (margin[:12] < 128).any() and (margin[12:] < 128).any() and margin.max() == 255


@pytest.mark.parametrize("channels, levels", [(1, 2), (2, 1024)])
def test_bit_maps_show_images_of_any_kind(channels, levels, tmp_path, rng):
    images = rng.integers(0, levels, [3, 5, 6, channels])
    plotting.save_bit_maps(images, rng.uniform(0, 9, [3, 5, 6]), rng.uniform(2, 4, 30), tmp_path / "a.png", levels)
    assert np.asarray(PIL.Image.open(tmp_path / "a.png")).std() > 0


def test_a_learning_curve_can_have_an_axis_of_nats(tmp_path):
    pictures = []
    for factor in (None, 543.4):
        plotting.save_learning_curve([[0.9, 0.5], [0.2]], [0.3, 0.2], tmp_path / "a.png", nats_of_a_bit=factor)
        pictures.append(np.asarray(PIL.Image.open(tmp_path / "a.png")))
    without, with_axis = pictures
    right = with_axis[:, 720:]
    assert (right[..., :3] < 128).any(-1).sum() > (without[:, 720:, :3] < 128).any(-1).sum() + 100
