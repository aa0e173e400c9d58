"""Images to complete, rows to keep and classes, as eval.py reads them, and errors for wrong ones."""

import numpy as np
import PIL.Image
import pytest

from pixel_snail import distribution, drawing
from pixel_snail.errors import UserError

SHAPE = (6, 4, 3)


def test_images_to_complete_are_read_from_pictures_grids_and_arrays(tmp_path, rng):
    images = rng.integers(0, 256, [6, *SHAPE], np.uint8)
    expected = (images / 127.5 - 1).astype(np.float32)
    grid = images.reshape(2, 3, *SHAPE).swapaxes(1, 2).reshape(2 * 6, 3 * 4, 3)
    PIL.Image.fromarray(grid).save(tmp_path / "grid.png")
    PIL.Image.fromarray(images[0]).save(tmp_path / "one.png")
    np.save(tmp_path / "bytes.npy", images)
    np.save(tmp_path / "samples.npy", expected)
    np.save(tmp_path / "one.npy", images[0])
    for name, number in (("grid.png", 6), ("one.png", 1), ("bytes.npy", 6), ("samples.npy", 6), ("one.npy", 1)):
        actual, remark = drawing.images_to_complete(str(tmp_path / name), SHAPE, resize=False)
        assert ("cut into a grid of 3 x 2 images" in remark) == (name == "grid.png")
        np.testing.assert_allclose(actual, expected[:number], atol=1e-6, err_msg=name)
        assert actual.dtype == np.float32


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "a.png",
            np.zeros([5, 4, 3], np.uint8),
            "a.png has 4 x 5 pixels, but .* 4 x 6: --resize enlarges it",
        ),
        ("a.npy", np.full([6, 4, 3], 0.5), "it can't be told whether black is 0 or -1"),
        ("a.npy", np.zeros([2, 6, 5, 3], np.uint8), r"an array \(2, 6, 5, 3\), not of images \(6, 4, 3\)"),
        ("a.npy", np.zeros([6, 4], np.uint8), "not of images"),
        ("a.npy", np.full([6, 4, 3], 7.0), "neither 8-bit nor in"),
        ("a.npy", np.full([6, 4, 3], np.nan), "neither 8-bit nor in"),
        ("a.npy", np.array([{}]), "is not an array that can be read"),
        ("a.npy", b"not an array", "is not an array that can be read"),
        ("a.png", b"not a picture", "is not a PNG, JPEG or WebP picture"),
        ("a.npy", None, "can't read .*No such file"),
        ("a.png", None, "there is no file"),
    ],
)
def test_other_files_are_refused_in_one_line(name, content, message, tmp_path):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None and name.endswith("png"):
        PIL.Image.fromarray(content).save(path)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match=message) as error:
        drawing.images_to_complete(str(path), SHAPE, resize=False)
    assert "\n" not in str(error.value)


def test_some_rows_must_be_left_to_draw():
    assert distribution.rows_to_keep(None, SHAPE) == 3
    with pytest.raises(UserError, match="keep_rows=6 leaves nothing to draw: images have 6 rows"):
        distribution.rows_to_keep(6, SHAPE)


def test_a_larger_picture_is_cropped_in_the_middle_or_resized_and_that_is_said(tmp_path, rng):
    picture = rng.integers(0, 256, [13, 8, 3], np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "a.png")
    images, remark = drawing.images_to_complete(str(tmp_path / "a.png"), SHAPE, resize=False)
    np.testing.assert_allclose(images[0] * 127.5 + 127.5, picture[3:9, 2:6], atol=1e-4)
    assert remark == "cropped from 8 x 13 to the 4 x 6 pixels in its middle"
    images, remark = drawing.images_to_complete(str(tmp_path / "a.png"), SHAPE, resize=True)
    assert images.shape == (1, *SHAPE)
    assert remark == "resized from 8 x 13 to 4 x 6 pixels"
    PIL.Image.fromarray(picture[:6]).save(tmp_path / "grid.png")  # 8 x 6: two images, but for --resize one
    images, remark = drawing.images_to_complete(str(tmp_path / "grid.png"), SHAPE, resize=True)
    np.testing.assert_allclose(images[0] * 127.5 + 127.5, picture[:6, 2:6], atol=1e-4)
    assert remark == "cropped from 8 x 6 to the 4 x 6 pixels in its middle"


def test_classes_of_samples_and_completions():
    assert drawing.classes_to_draw([2, 0], 4, nr_labels=3).tolist() == [2, 2, 0, 0]
    assert drawing.classes_to_draw(None, 3, nr_labels=3).tolist() == [0, 1, 2]
    assert drawing.classes_to_draw(None, 3, nr_labels=None) is None
    assert drawing.classes_of_images([1], 2, nr_labels=3).tolist() == [1, 1]
    assert drawing.classes_of_images([1, 0], 2, nr_labels=3).tolist() == [1, 0]
    for classes in (None, [0, 1, 2]):
        with pytest.raises(UserError, match="give --classes one class for all 2 images, or one for each"):
            drawing.classes_of_images(classes, 2, nr_labels=3)


def test_classes_are_given_by_number_or_name():
    assert drawing.class_numbers(["2", "cat"], 3, ("cat", "dog", "owl")) == [2, 0]
    assert drawing.class_numbers(None, None, None) is None
    with pytest.raises(UserError, match="--classes is for class-conditional networks, and this one is not"):
        drawing.class_numbers(["1"], None, None)
    with pytest.raises(UserError, match="there is no class 3, the last is 2"):
        drawing.class_numbers(["3"], 3, None)
