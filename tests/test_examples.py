"""The VQ-VAEs of the examples, on a few random images: codes, pictures, gradients, mistakes."""

import struct

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from examples import codes, vq_vae
from pixel_snail.errors import UserError

rng = np.random.default_rng(0)
TRAIN, TEST = 40, 12
"""How many images there are."""


def idx_file(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder with random images of 28x28 in the form of Fashion-MNIST."""
    folder = tmp_path_factory.mktemp("data")
    for split, number in (("train", TRAIN), ("t10k", TEST)):
        images = rng.integers(0, 256, [number, 28, 28], np.uint8)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx_file(images))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx_file(np.arange(number, dtype=np.uint8) % 10))
    return folder


def run(module, *arguments):
    """Runs a command of an example in this process."""
    module.work(module.parse_flags([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def encoded(data_dir, tmp_path_factory):
    """The folder that `encode` of examples.codes has filled, with a small network."""
    folder = tmp_path_factory.mktemp("codes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codes, "FILTERS", 4)
        run(codes, "encode", f"--data_dir={data_dir}", f"--save_dir={folder}", "--epochs=1")
    return folder


@pytest.fixture(scope="module")
def model(encoded):
    return codes.command.load_model(encoded)


def test_encode_writes_codes_and_labels_of_all_images_in_their_order(encoded, data_dir, model):
    arrays = np.load(encoded / "codes.npz")
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
        "train": ((TRAIN, 7, 7), np.uint8),
        "test": ((TEST, 7, 7), np.uint8),
        "train_labels": ((TRAIN,), np.uint8),
        "test_labels": ((TEST,), np.uint8),
    }
    data_set = codes.command.fashion_mnist(data_dir)
    for name, split in (("train", data_set.train), ("test", data_set.test)):
        np.testing.assert_array_equal(arrays[f"{name}_labels"], split.labels)
        np.testing.assert_array_equal(arrays[name], codes.codes_of(model, np.float32(split.images) / 255))
        assert arrays[name].max() < 128
    assert len(np.unique(arrays["train"])) > 32  # random images, of which the codebook began


def test_the_images_of_an_images_codes_are_the_models_reconstruction(model):
    images = rng.random([5, 28, 28, 1], np.float32)
    reconstructions = codes.images_of(model, codes.codes_of(model, images))
    np.testing.assert_allclose(reconstructions, model(images), atol=1e-5)
    assert reconstructions.shape == images.shape and 0 <= reconstructions.min() < reconstructions.max() <= 1


@pytest.mark.parametrize("shape", [(7, 7), (7, 7, 1)])
def test_decode_writes_a_grid_of_enlarged_images(shape, encoded, model, tmp_path):
    maps = rng.integers(0, 128, [5, *shape])
    np.save(tmp_path / "maps.npy", maps)
    run(
        codes, "decode", f"--save_dir={encoded}", tmp_path / "maps.npy", f"--picture={tmp_path}/grid.png", "--columns=3"
    )
    picture = np.asarray(PIL.Image.open(tmp_path / "grid.png"))
    assert picture.shape == (2 * 84, 3 * 84)
    assert (picture[84:, 168:] == 255).all()  # the last place is empty
    expected = codes.images_of(model, maps.reshape(-1, 7, 7))[1, ..., 0]
    np.testing.assert_allclose(picture[:84:3, 84:168:3] / 255, expected, atol=0.5 / 255 + 1e-5)
    np.testing.assert_array_equal(picture[:84:3], picture[2:84:3])


def test_the_gradient_passes_through_the_codebook_unchanged():
    quantizer = vq_vae.VectorQuantizer(16, commitment=0.0)
    vectors = tf.constant(rng.normal(size=[3, 2, 2, 8]).astype(np.float32))
    factors = rng.normal(size=vectors.shape).astype(np.float32)
    quantizer(vectors, training=True)  # gives the codes their first values
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(vectors)
        quantized, unit = quantizer(vectors), tf.math.l2_normalize(vectors, axis=-1)
        through, without = tf.reduce_sum(quantized * factors), tf.reduce_sum(unit * factors)
    assert np.abs(quantized - unit).max() > 0.1
    np.testing.assert_allclose(tape.gradient(through, vectors), tape.gradient(without, vectors), rtol=1e-4, atol=1e-6)


def test_the_loss_has_a_gradient_for_every_weight_of_encoder_and_decoder(monkeypatch):
    monkeypatch.setattr(codes, "FILTERS", 4)
    network = codes.build()
    images = rng.random([2, 28, 28, 1], np.float32)
    network(images, training=True)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(network(images) - images))
    gradients = tape.gradient(loss, network.trainable_variables)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


def test_codes_that_stand_for_no_vectors_begin_anew_where_codes_fit_badly():
    """In the first batch, all vectors are the same; later, they have eight directions, and each gets a code."""
    directions = np.float32(rng.normal(size=[8, 8]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    quantizer = vq_vae.VectorQuantizer(16, decay=0.8)
    quantizer(np.repeat(directions[:1, None, None], 256, axis=0), training=True)
    for _ in range(40):
        quantizer(directions[rng.integers(0, 8, 256), None, None], training=True)
    nearest = np.asarray(quantizer.vectors(quantizer.codes(directions)))
    np.testing.assert_allclose(nearest, directions, atol=1e-3)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros([2, 6, 7], int), r"has int64 \[2, 6, 7\], not codes: give integers \[N, 7, 7\] or \[N, 7, 7, 1\]"),
        (np.zeros([0, 7, 7], int), r"has int64 \[0, 7, 7\], not codes"),
        (np.zeros([2, 7, 7]), r"has float64 \[2, 7, 7\], not codes"),
        (np.arange(98).reshape(2, 7, 7) + 31, "image 1 has the value 128 at row 6, column 6, but codes are from 0"),
    ],
)
def test_what_are_no_codes_is_refused_in_a_line(maps, message, encoded, tmp_path):
    np.save(tmp_path / "maps.npy", maps)
    with pytest.raises(UserError, match=message):
        run(codes, "decode", f"--save_dir={encoded}", tmp_path / "maps.npy", f"--picture={tmp_path}/grid.png")
    assert not (tmp_path / "grid.png").exists()


def test_a_missing_or_broken_file_is_named(encoded, tmp_path):
    np.save(tmp_path / "maps.npy", np.zeros([1, 7, 7], int))

    def decode(maps, save_dir, picture="grid.png"):
        run(codes, "decode", f"--save_dir={save_dir}", tmp_path / maps, f"--picture={tmp_path / picture}")

    with pytest.raises(UserError, match=r"can't read .*none\.npy: No such file"):
        decode("none.npy", encoded)
    with pytest.raises(UserError, match=r"there is no file .*vq_vae\.keras: write it with the command encode"):
        decode("maps.npy", tmp_path)
    (tmp_path / "vq_vae.keras").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"vq_vae\.keras is not a VQ-VAE that can be read"):
        decode("maps.npy", tmp_path)
    with pytest.raises(UserError, match=r"can't write --picture=.*: it is a folder"):
        decode("maps.npy", encoded, picture=".")
    with pytest.raises(UserError, match=r"maps\.npy is a file: give --data_dir the folder"):
        run(codes, "encode", f"--data_dir={tmp_path}/maps.npy", f"--save_dir={tmp_path}")
