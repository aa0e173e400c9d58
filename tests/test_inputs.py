"""What the Python interface takes as images, labels and settings, and what it says of other things."""

import h5py
import numpy as np
import PIL.Image
import pytest
from networks import OneStep, add_spec

import pixel_snail
from data.converted import MappedImages
from pixel_snail.backend import keras, tf
from pixel_snail.inputs.images import checked_images
from pixel_snail.inputs.splits import checked_validation
from pixel_snail.likelihoods.levels import from_values
from pixel_snail.model import build_network
from pixel_snail.network import Description
from pixel_snail.storage.reductions import Binarized, Reduced

pytestmark = pytest.mark.usefixtures("uncompiled_drawing")

SHAPE = (4, 4, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, [5, *SHAPE], np.uint8)
LABELS = np.arange(5) % 3


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        add_spec(patch, "h0", OneStep)
        keras.utils.set_random_seed(0)
        settings = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2}
        model = pixel_snail.build("h0", image_shape=SHAPE, nr_labels=3, **settings)
        model.initialise(IMAGES, LABELS)
        yield model


class OfAnotherLibrary:
    """A tensor whose dtype and shape are of a library that NumPy does not know, as PyTorch's are."""

    def __init__(self, values):
        self._values = values
        self.dtype = "library.uint8"
        self.shape = "library.Size"

    def __array__(self, dtype=None, copy=None):
        return self._values if dtype is None else self._values.astype(dtype)


class OnADevice:
    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert device tensor to numpy\nuse .cpu() first")


def mapped(folder):
    path = folder / "images"
    IMAGES.tofile(path)
    return MappedImages(path, IMAGES.shape)


def memory_mapped(folder):
    np.save(folder / "images.npy", IMAGES)
    return np.load(folder / "images.npy", mmap_mode="r")


def of_hdf5(folder):
    with h5py.File(folder / "images.h5", "w") as file:
        file["images"] = IMAGES
    return h5py.File(folder / "images.h5")["images"]


KINDS = {
    "a tensor": lambda folder: tf.constant(IMAGES),
    "a tf.Variable": lambda folder: tf.Variable(IMAGES),
    "a Keras variable": lambda folder: keras.Variable(IMAGES, dtype="uint8"),
    "a tensor of another library": lambda folder: OfAnotherLibrary(IMAGES),
    "a list of arrays": lambda folder: list(IMAGES),
    "a list of tensors": lambda folder: [tf.constant(image) for image in IMAGES],
    "a list of tensors of another library": lambda folder: [OfAnotherLibrary(image) for image in IMAGES],
    "a view that is not contiguous": lambda folder: np.repeat(IMAGES, 2, 0)[::2],
    "in Fortran's order": lambda folder: np.asfortranarray(IMAGES),
    "a memory-mapped .npy": memory_mapped,
    "a converted data set": mapped,
    "an HDF5 data set": of_hdf5,
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_give_what_an_array_gives(kind, model, tmp_path):
    images = KINDS[kind](tmp_path)
    expected = model.bits_per_dim(IMAGES, LABELS, batch_size=2, verbose=0)
    np.testing.assert_array_equal(model.bits_per_dim(images, LABELS, batch_size=2, verbose=0), expected)
    assert model.compress(images, LABELS, verify=False, verbose=0) == model.compress(
        IMAGES, LABELS, verify=False, verbose=0
    )
    completed = (model.complete(some, 2, LABELS, verbose=0) for some in (images, IMAGES))
    np.testing.assert_array_equal(*completed)


@pytest.mark.parametrize(
    "kind", [tf.constant, tf.Variable, OfAnotherLibrary, list, tuple, np.uint8, np.uint16, np.int8]
)
def test_labels_of_every_kind_give_what_an_array_gives(kind, model):
    expected = model.bits_per_dim(IMAGES, LABELS, verbose=0)
    np.testing.assert_array_equal(model.bits_per_dim(IMAGES, kind(LABELS), verbose=0), expected)
    drawn = (model.sample(len(LABELS), labels, verbose=0) for labels in (LABELS, kind(LABELS)))
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("number", [1, np.int32(1), np.float32(1), np.float64(1)], ids=repr)
def test_a_temperature_is_a_number_of_any_type(number, model):
    expected = model.sample(1, [0], verbose=0)
    np.testing.assert_array_equal(model.sample(1, [0], temperature=number, verbose=0), expected)


UNEQUAL = [IMAGES[0], IMAGES[1], IMAGES[2, :3]]


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda model: model.log_prob(UNEQUAL, [0, 1, 2]),
            r"images must be uint8 \[N, 4, 4, 3\], not list: number 0 has the shape \[4, 4, 3\], 2 has \[3, 4, 3\]",
        ),
        (lambda model: model.sample(2, [[0], [1, 2]]), r"labels must be integers \[2\], not list: number 0 has"),
        (lambda model: model.log_prob(OnADevice(), [0]), r"not OnADevice: can't convert device tensor to numpy$"),
        (lambda model: model.log_prob(IMAGES[:2], ["0", "1"]), r"labels must be integers \[2\], not <U1 \[2\]"),
        (lambda model: model.log_prob(IMAGES[:3], np.eye(3)), r"labels must be integers \[3\], not float64 \[3, 3\]"),
        (lambda model: model.log_prob(None, [0]), r"not object \[\]"),
        (lambda model: model.log_prob(IMAGES[0], [0]), r"not uint8 \[4, 4, 3\]; give a single image as \[image\]$"),
        (lambda model: model.log_prob(IMAGES[:, :3], LABELS), "; crop or scale the images to 4 x 4$"),
        (lambda model: model.log_prob(IMAGES[:, :3] / 255, LABELS), "; crop or scale the images to 4 x 4$"),
        (lambda model: model.log_prob([1, 2], [0]), r"not int64 \[2\]$"),
        (lambda model: model.sample(1, [0], temperature="1"), "temperature='1' is not a number, 0 or more"),
        (lambda model: model.sample(1, [0], temperature=None), "temperature=None is not a number"),
        (lambda model: model.sample(1, [0], temperature=[1]), r"temperature=\[1\] is not a number"),
        (lambda model: model.sample(1, [0], temperature=True), "temperature=True is not a number"),
        (lambda model: pixel_snail.build("h0", image_shape=SHAPE, dropout_p=2), r"dropout_p=2 is not a number in \[0"),
        (lambda model: pixel_snail.build("h0", image_shape=SHAPE, dropout_p=1), r"dropout_p=1 is not a number in \[0"),
        (lambda model: pixel_snail.build("h0", image_shape=SHAPE, dropout_p="0"), "dropout_p='0' is not a number"),
        (lambda model: pixel_snail.build("h0", image_shape=SHAPE, dropout_p=np.nan), "dropout_p=nan is not a number"),
        (lambda model: pixel_snail.Distribution(keras.Sequential()), "network must be the .* not Sequential"),
        (lambda model: pixel_snail.Distribution("data/save"), "network must be the .* not str"),
    ],
)
def test_other_things_are_told_in_one_line(call, message, model):
    with pytest.raises(pixel_snail.UserError, match=message) as error:
        call(model)
    assert "\n" not in str(error.value)


SCALED = {
    "[0, 1]": (IMAGES / 255, "np.uint8(np.round(255 * images))"),
    "[0, 1], float32": ((IMAGES / 255).astype(np.float32), "np.uint8(np.round(255 * images))"),
    "[-1, 1]": (from_values(IMAGES), "np.uint8(np.round(127.5 * images + 127.5))"),
    "0 to 255": (IMAGES.astype(np.float32), "np.uint8(np.round(images))"),
    "0 to 255, int64": (IMAGES.astype(np.int64), "np.uint8(np.round(images))"),
}


@pytest.mark.parametrize("scale", SCALED)
def test_the_advice_for_scaled_images_gives_the_images_back(scale, model):
    images, formula = SCALED[scale]
    with pytest.raises(pixel_snail.UserError) as error:
        model.log_prob(images, LABELS)
    assert str(error.value).endswith(f"convert the images with {formula}")
    np.testing.assert_array_equal(eval(formula, {"np": np, "images": images}), IMAGES)


SHAPED = {
    "a picture": (lambda: PIL.Image.fromarray(IMAGES[0]), lambda image: [image], 1),
    "grey, one": (lambda: IMAGES[0, ..., 0], None, 1),
    "grey": (lambda: IMAGES[..., 0], None, 5),
    "channels first": (lambda: IMAGES.transpose(0, 3, 1, 2), None, 5),
    "an alpha channel": (lambda: np.concatenate([IMAGES, IMAGES[..., :1]], -1), None, 5),
}


@pytest.mark.parametrize("kind", SHAPED)
def test_the_advice_for_a_wrong_shape_gives_images_that_are_taken(kind, model):
    make, mended, number = SHAPED[kind]
    images = make()
    with pytest.raises(pixel_snail.UserError) as error:
        model.log_prob(images, LABELS[:number])
    formula = str(error.value).rpartition("; ")[2].rpartition(": ")[2]
    names = {"np": np, "images": images, "image": images}
    images = mended(images) if mended else eval(formula, names)
    assert model.log_prob(images, LABELS[:number], verbose=0).shape == (number,)


@pytest.mark.parametrize(
    "images",
    [from_values(IMAGES) * 1.01, IMAGES * 2.0, IMAGES - 1.0, IMAGES * np.nan, IMAGES > 5, IMAGES[:0] / 255],
    ids=["beyond [-1, 1]", "above 255", "from -1", "nan", "booleans", "none"],
)
def test_where_the_values_do_not_tell_there_is_no_advice(images, model):
    with pytest.raises(pixel_snail.UserError) as error:
        model.log_prob(images, LABELS[: len(images)])
    assert "convert" not in str(error.value)


GREY = IMAGES[..., :1]


def refusal(images, image_shape, levels):
    with pytest.raises(pixel_snail.UserError) as error:
        checked_images(images, image_shape, levels)
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize("levels", [2, 16, 256, 1000, 65_536])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_values_of_every_number_of_levels_are_taken_and_returned_as_they_are(levels, channels):
    images = np.random.default_rng(0).integers(0, levels, [3, 4, 5, channels])
    kinds = [np.uint8] if levels == 256 else [np.int64, np.int32, np.uint16]
    for images in [images.astype(kind) for kind in kinds]:
        assert checked_images(images, (4, 5, channels), levels) is images
        description = Description("h0", (4, 5, channels), 2, 1, 4, 2, "elu", 0.0, levels=levels)
        split = checked_validation(description, (list(images), [0, 1, 0]))
        np.testing.assert_array_equal(split.images, images)


@pytest.mark.parametrize("levels", [16, 256])
def test_grey_images_without_a_channel_are_images_with_one(levels):
    images = GREY if levels == 256 else GREY // 16
    for given in (images[..., 0], tf.constant(images[..., 0]), list(images[..., 0])):
        np.testing.assert_array_equal(checked_images(given, (*GREY.shape[1:3], 1), levels), images)


@pytest.mark.parametrize(
    "images, levels, formula",
    [
        (GREY[0, ..., 0], 256, "image[None, ..., None]"),
        (GREY.transpose(0, 3, 1, 2), 256, "images.transpose(0, 2, 3, 1)"),
        (GREY / 255, 256, "np.uint8(np.round(255 * images))"),
        (from_values(GREY), 256, "np.uint8(np.round(127.5 * images + 127.5))"),
        (GREY // 16 / 15, 16, "np.uint8(np.round(15 * images))"),
        (from_values(GREY // 16, 16), 16, "np.uint8(np.round(7.5 * images + 7.5))"),
        (GREY // 16 / 1, 16, "np.uint8(np.round(images))"),
        (GREY * 257.0, 65_536, "np.uint16(np.round(images))"),
        (GREY, 16, "np.uint8(np.uint16(images) * 16 // 256)"),
        (GREY / 1, 16, "np.uint8(np.uint16(images) * 16 // 256)"),
        (GREY, 2, "(images > 127).astype(np.uint8)"),
        (GREY / 1, 2, "(images > 127).astype(np.uint8)"),
        (GREY / 255, 2, "(images > 0.5).astype(np.uint8)"),
    ],
)
def test_the_advice_for_a_grey_network_gives_images_that_are_taken(images, levels, formula):
    assert refusal(images, (4, 4, 1), levels).endswith(formula)
    mended = eval(formula, {"np": np, "images": images, "image": images})
    assert checked_images(mended, (4, 4, 1), levels) is mended


@pytest.mark.parametrize(
    "images, image_shape, levels, message",
    [
        (IMAGES, (4, 4, 1), 256, "convert each with PIL's Image.convert('L')"),
        (GREY, SHAPE, 256, "if these are grey images, repeat them: np.repeat(images, 3, axis=-1)"),
        (np.where(IMAGES[2, 1, 3, 2] == IMAGES, np.nan, 1), SHAPE, 256, "has the value nan at row"),
        (
            GREY.astype(int),
            (4, 4, 1),
            16,
            "image 0 has the value 95 at row 0, column 0, channel 0, but values must be",
        ),
        (Binarized(GREY), (4, 4, 1), 256, "images, a Binarized, have 2 levels, not 256"),
        (Reduced(GREY, 16), (4, 4, 1), 32, "images, a Reduced, have 16 levels, not 32"),
        (GREY > 5, (4, 4, 1), 16, "images must be integers from 0 to 15 [N, 4, 4, 1], not bool [5, 4, 4, 1]"),
        (-GREY.astype(int), (4, 4, 1), 16, "has the value -95"),
    ],
)
def test_images_of_other_channels_or_levels_are_refused_in_one_line(images, image_shape, levels, message):
    assert message in refusal(images, image_shape, levels)


def test_a_call_within_another_strategys_scope_is_told(model, mirrored):
    with mirrored(2).scope():
        for call in (lambda: model.log_prob(IMAGES, LABELS), lambda: model.sample(1, [0])):
            with pytest.raises(pixel_snail.UserError, match="within another strategy's scope: call the method outside"):
                call()


def test_a_model_of_a_strategy_works_within_its_scope(model, mirrored):
    strategy = mirrored(2)
    with strategy.scope():
        network = build_network("h0", SHAPE, 3, nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
        same = pixel_snail.Distribution(network, strategy)
        same.network.set_weights(model.network.get_weights())
        bits = same.bits_per_dim(IMAGES, LABELS, batch_size=1, verbose=0)
    np.testing.assert_allclose(bits, model.bits_per_dim(IMAGES, LABELS, verbose=0), rtol=1e-5)
