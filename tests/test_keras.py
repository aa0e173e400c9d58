"""The networks as Keras models: trained, frozen, copied, saved, and loaded in a new process."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from networks import OneStep, add_spec, build_shallow

import golden_numbers
import pixel_snail
from benchmarks.counted_training import ONE_BLOCK
from pixel_snail import checkpoint
from pixel_snail.backend import keras, tf
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.likelihoods.levels import from_values, scaled
from pixel_snail.optimizer import PolyakAdam

pytestmark = pytest.mark.usefixtures("uncompiled_drawing")

ROOT = Path(__file__).parents[1]
SHAPE = (4, 4, 3)
SIZES = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2}
IMAGES = np.random.default_rng(0).integers(0, 256, [4, *SHAPE], np.uint8)


@pytest.fixture
def model(monkeypatch):
    add_spec(monkeypatch, "h1", ONE_BLOCK)
    model = pixel_snail.build("h1", image_shape=SHAPE, **SIZES)
    model.initialise(IMAGES)
    return model


def mean_loss(x, outputs):
    return tf.reduce_mean(logistic_mixture.loss_per_image(x, outputs))


@pytest.mark.parametrize(
    "name, settings",
    [
        ("model", {}),
        ("h6_noup_124mix_halfattn", {}),
        ("h12_pool2_smallkey", {"resnet_nonlinearity": "relu"}),
        ("h8_noup_smallkey_ar_chs", {"resnet_nonlinearity": "concat_elu"}),
        ("h6_shift", {}),
        ("pxpp", {}),
    ],
    ids=str,
)
def test_gradients_of_a_batch_of_unknown_size_are_those_of_a_known_size(name, settings, rng):
    """One network of each wiring."""
    shape = (4, 4, 3)
    network = build_shallow(name, shape, rng, nr_labels=3, dropout_p=0.5, **settings)
    x, h = tf.cast(rng.uniform(-1, 1, [3, *shape]), tf.float32), tf.eye(3)

    def gradients(x, h):
        with tf.GradientTape() as tape:
            loss = mean_loss(x, network(x, h=h, seed=tf.constant([1, 2, 3])))
        return [loss, *tape.gradient(loss, network.trainable_variables)]

    unknown = tf.function(gradients, autograph=False).get_concrete_function(
        tf.TensorSpec([None, *shape]), tf.TensorSpec([None, 3])
    )
    # Rounding differs, because maps of unknown size are compiled, and a few gradients are nothing but rounding errors.
    # Another dropout mask would change all by half.
    errors = [golden_numbers.error(*pair) for pair in zip(unknown(x, h), gradients(x, h), strict=True)]
    assert np.quantile(errors, 0.5) < 2e-4
    assert np.quantile(errors, 0.9) < 2e-3


def test_keras_fit_trains_a_network(model):
    x = scaled(tf.cast(IMAGES, tf.float32))
    model.network.compile("adam", mean_loss)
    losses = model.network.fit(x, x, batch_size=3, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert np.isfinite(model.bits_per_dim(IMAGES, verbose=0)).all()


def test_what_is_frozen_changes_no_result_file_or_checkpoint(model, tmp_path):
    network, prefix = model.network, str(tmp_path / "0" / "params.ckpt")

    def results():
        optimizer = PolyakAdam()
        optimizer.build(network.weights)
        checkpoint.save(prefix, network, optimizer, {})
        file = model.compress(IMAGES, verify=False, verbose=0)
        arrays = [model.bits_per_dim(IMAGES, verbose=0), model.draw(2, verbose=0), np.frombuffer(file, np.uint8)]
        return file, [*arrays, *pixel_snail.load(prefix).network.get_weights()]

    file, before = results()
    for frozen in (network.output_layer.nin.g, network.blocks[0], network):
        frozen.trainable = False
        assert len(network.trainable_variables) < len(network.weights)
        again, after = results()
        for actual, expected in zip(after, before, strict=True):
            np.testing.assert_array_equal(actual, expected)
        assert again == file
        np.testing.assert_array_equal(model.decompress(file, verbose=0), IMAGES)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_gives_the_same_results(copied, model):
    other = copied(model)
    assert other.network is not model.network
    np.testing.assert_array_equal(other.bits_per_dim(IMAGES, verbose=0), model.bits_per_dim(IMAGES, verbose=0))


def test_a_forked_process_is_told_to_be_spawned_instead_of_hanging(model):
    """Also where the model is unpickled: a process pool hands it over so."""
    pickled = pickle.dumps(model)
    calls = (lambda: model.sample(1), lambda: model.bits_per_dim(IMAGES), lambda: pickle.loads(pickled))
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            for call in calls:
                try:
                    call()
                except pixel_snail.UserError as error:
                    os.write(write, f"{error}\n".encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read) as told:
        lines = told.read().splitlines()
    assert lines == [
        "TensorFlow can't compute in a forked process: start processes with multiprocessing.get_context('spawn')"
    ] * len(calls)


def test_a_model_of_a_strategy_is_not_copied(model, mirrored):
    with pytest.raises(
        pixel_snail.UserError, match="made with strategy, cluster or parameters can't be pickled or copied"
    ):
        copy.deepcopy(pixel_snail.Distribution(model.network, mirrored(2)))


def test_a_model_that_predicts_with_other_parameters_than_its_networks_is_not_copied(model):
    other = pixel_snail.Distribution(model.network, parameters=lambda: [0 * value for value in model.network.weights])
    with pytest.raises(pixel_snail.UserError, match="can't be pickled or copied"):
        copy.deepcopy(other)


def test_load_takes_a_keras_file_and_no_other_keyword(model, tmp_path):
    path = tmp_path / "demo.keras"
    model.network.save(path)
    bits = model.bits_per_dim(IMAGES, verbose=0)
    np.testing.assert_array_equal(pixel_snail.load(path).bits_per_dim(IMAGES, verbose=0), bits)
    for keyword in ({"averaged": False}, {"nr_filters": 4}, {"image_shape": SHAPE}):
        with pytest.raises(pixel_snail.UserError, match=r"demo\.keras is a Keras file, .*: give no keyword but"):
            pixel_snail.load(path, **keyword)


@pytest.mark.parametrize("channels, levels", [(1, 2), (2, 1024)])
def test_networks_of_other_channels_and_levels_are_saved_and_exported(channels, levels, monkeypatch, tmp_path, rng):
    add_spec(monkeypatch, "h0", OneStep)
    shape = (4, 4, channels)
    model = pixel_snail.build("h0", image_shape=shape, levels=levels, **SIZES)
    images = rng.integers(0, levels, [4, *shape])
    model.initialise(images)
    model.network.save(tmp_path / "model.keras")
    loaded = pixel_snail.load(tmp_path / "model.keras")
    assert loaded.network.description == model.network.description
    np.testing.assert_array_equal(loaded.log_prob(images, verbose=0), model.log_prob(images, verbose=0))
    with pytest.raises(pixel_snail.UserError, match="give no keyword but"):
        pixel_snail.load(tmp_path / "model.keras", levels=levels)
    model.network.export(str(tmp_path / "exported"))
    x = tf.constant(from_values(images, levels))
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    outputs = exported.serve(x)
    np.testing.assert_allclose(outputs, model.network(x), rtol=0, atol=1e-5)
    assert outputs.shape == (4, 4, 4, 2 * logistic_mixture.outputs_per_component(channels))


def test_a_file_that_is_no_network_of_ours_is_told_in_one_line(tmp_path):
    other = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(pixel_snail.UserError, match=r"not Sequential$"):
        pixel_snail.load(tmp_path / "other.keras")
    whole = (tmp_path / "other.keras").read_bytes()
    for i, content in enumerate((b"", b"noise", whole[: len(whole) // 2])):
        path = tmp_path / f"{i}.keras"
        path.write_bytes(content)
        with pytest.raises(pixel_snail.UserError, match="is not a Keras file that can be read: ") as error:
            pixel_snail.load(path)
        assert "\n" not in str(error.value)


def run_in_a_new_process(program, folder, **variables):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"} | variables
    program = textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )
    return done.returncode, done.stderr


def test_in_a_new_process_keras_loads_a_network_on_tensorflow_whatever_backend_is_configured(tmp_path):
    model = pixel_snail.build("pxpp", image_shape=SHAPE, **SIZES)
    model.network.save(tmp_path / "demo.keras")
    program = """
        import sys
        import pixel_snail
        assert not {"keras", "tensorflow"} & sys.modules.keys()
        import keras, os
        assert keras.backend.backend() == "tensorflow" and os.environ["KERAS_BACKEND"] == "numpy"
        network = keras.saving.load_model("demo.keras")
        assert type(pixel_snail.Distribution(network).network) is type(pixel_snail.load("demo.keras").network)
    """
    code, told = run_in_a_new_process(program, tmp_path, KERAS_BACKEND="numpy")
    assert code == 0, told


@pytest.mark.parametrize("first", ["keras", "tensorflow"])
def test_it_does_if_the_other_package_is_imported_first_or_brings_keras_along(first, tmp_path):
    """TensorFlow imports Keras at its end: pixel_snail must not need the rest of TensorFlow before."""
    pixel_snail.build("pxpp", image_shape=SHAPE, **SIZES).network.save(tmp_path / "demo.keras")
    names = ["keras", "pixel_snail"] if first == "keras" else ["pixel_snail", "tensorflow", "keras"]
    program = f"import {', '.join(names)}\nassert keras.saving.load_model('demo.keras').description.model == 'pxpp'"
    code, told = run_in_a_new_process(program, tmp_path)
    assert code == 0, told
