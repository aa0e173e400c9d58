"""Samples and completions as files, and the mistakes that can be made with them."""

import types

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import data
from pixel_snail import drawing, nn
from pixel_snail import model as models
from pixel_snail.errors import UserError

SHAPE = (6, 4, 3)


@pytest.fixture(scope="module")
def model():
    tf.keras.utils.set_random_seed(0)
    network = models.build("h8_noup_smallkey", SHAPE, nr_labels=3, nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
    with nn.data_dependent_initialisation():
        network(tf.random.uniform([3, *SHAPE], -1, 1), h=tf.eye(3))
    return network


@pytest.fixture(scope="module")
def data_set():
    split = data.Split(np.zeros([3, *SHAPE], np.uint8), np.arange(3))
    return data.DataSet(split, split)


def draw(model, data_set, number, batch, **keywords):
    drawer = drawing.drawer(model, data_set, number, batch, nr_mix=2, seed=5)
    return drawer(nn.fold(model, model.trainable_variables), np.arange(number) % 3, **keywords)


def test_the_seed_gives_the_same_images_whatever_the_batch(model, data_set):
    images = draw(model, data_set, 10, 5)
    assert images.shape == (10, *SHAPE)
    np.testing.assert_array_equal(draw(model, data_set, 10, 1), images)
    np.testing.assert_array_equal(draw(model, data_set, 3, 32), images[:3])
    assert len({image.tobytes() for image in images}) == 10


def test_completions_keep_the_upper_rows_and_differ_below(model, data_set, tmp_path, rng):
    truth = rng.uniform(-1, 1, [2, *SHAPE]).astype(np.float32)
    images = draw(model, data_set, 6, 4, given=np.repeat(truth, 3, 0), keep_rows=2)
    np.testing.assert_array_equal(images[:, :2], np.repeat(truth[:, :2], 3, 0))
    assert all(np.abs(images[i, 2:] - images[j, 2:]).max() > 0.1 for i, j in ((0, 1), (1, 2), (3, 4)))
    path = drawing.save_completions(truth, images, 2, str(tmp_path), "tiny")
    picture = np.asarray(PIL.Image.open(path))
    assert picture.shape == (2 * 6, 5 * 4, 3)  # itself, what is kept, three completions
    pixels = np.round(truth * 127.5 + 127.5)
    np.testing.assert_array_equal(picture[:6, :4], pixels[0])
    np.testing.assert_array_equal(picture[6:8, 4:8], pixels[1, :2])
    assert len(np.unique(picture[8:, 4:8])) == 1
    np.testing.assert_array_equal(np.load(tmp_path / "tiny_completions.npy"), images.reshape(2, 3, *SHAPE))


def test_parameters_that_are_not_finite_are_a_clear_error(model, data_set):
    weights = {layer: [w * np.nan for w in ws] for layer, ws in nn.fold(model, model.trainable_variables).items()}
    drawer = drawing.drawer(model, data_set, 2, 2, nr_mix=2, seed=5)
    with pytest.raises(UserError, match="samples are not finite"):
        drawer(weights, np.arange(2))


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
        actual = drawing.images_to_complete(str(tmp_path / name), SHAPE)
        np.testing.assert_allclose(actual, expected[:number], atol=1e-6, err_msg=name)
        assert actual.dtype == np.float32


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.png", np.zeros([7, 4, 3], np.uint8), "a.png is 4 x 7 pixels, neither an image of 4 x 6 nor a grid"),
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
        drawing.images_to_complete(str(path), SHAPE)
    assert "\n" not in str(error.value)


def test_some_rows_must_be_left_to_draw():
    flags = types.SimpleNamespace(keep_rows=None)
    assert drawing.rows_to_keep(flags, SHAPE) == 3
    flags.keep_rows = 6
    with pytest.raises(UserError, match="--keep_rows=6 leaves nothing to draw: images have 6 rows"):
        drawing.rows_to_keep(flags, SHAPE)


def test_classes_of_samples_and_completions():
    classes, columns = drawing.classes_to_draw([2, 0], 4, nr_labels=3)
    assert (classes.tolist(), columns) == ([2, 2, 0, 0], 2)
    assert drawing.classes_to_draw(None, 3, nr_labels=3)[0].tolist() == [0, 1, 2]
    assert drawing.classes_to_draw(None, 3, nr_labels=None) == (None, None)
    assert drawing.classes_to_complete([1], 2, nr_labels=3).tolist() == [1, 1]
    assert drawing.classes_to_complete([1, 0], 2, nr_labels=3).tolist() == [1, 0]
    for classes in (None, [0, 1, 2]):
        with pytest.raises(UserError, match="needs the classes of the 2 images"):
            drawing.classes_to_complete(classes, 2, nr_labels=3)
    with pytest.raises(UserError, match="--classes is for networks trained with --class_conditional"):
        drawing.classes_to_draw([1], 2, nr_labels=None)
