"""Golden numbers: reads results that the original computed, and compares ours with them.

The tests use it on a CPU, and `benchmarks.gpu` on GPUs.
"""

from pathlib import Path

import numpy as np

from pixel_snail import checkpoint as checkpoints
from pixel_snail import sampling, steps
from pixel_snail.backend import keras, tf
from pixel_snail.checkpoint import variable_names
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.model import build_network, leaks
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.weights import normalised_weights, using

FOLDER = Path(__file__).parent / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


NAMES = sorted(path.parent.name for path in FOLDER.glob("*/params_cifar.ckpt.index"))
"""The networks that have golden numbers: the original's. `specs` may have more."""

# V of a nin with one input channel. Normalised, it is 1 or -1: its true gradient is zero, and the golden one is noise.
NOISE = {"h8_noup_smallkey_ar_chs": {"model/dense_73/V"}}


def outputs(golden: dict[str, np.ndarray], key: str) -> list[np.ndarray]:
    """The golden outputs under a key: one tensor, or three of a network with channel-wise outputs."""
    return [golden[key]] if key in golden else [golden[f"{key}/{channel}"] for channel in ("lr", "lg", "lb")]


def outputs_error(actual, golden: dict[str, np.ndarray], key: str) -> float:
    """The largest `error` of a network's outputs."""
    actual = actual if isinstance(actual, (tuple, list)) else [actual]
    return max(error(a, b) for a, b in zip(actual, outputs(golden, key), strict=True))


def checkpoint(name: str) -> str:
    """The prefix of the checkpoint that the original's Saver wrote after three steps."""
    return str(FOLDER / name / "params_cifar.ckpt")


def build(name: str) -> keras.Model:
    """The network of the golden numbers, with random parameters."""
    return build_network(name, (8, 8, 3), nr_resnet=1, nr_filters=4, nr_logistic_mix=2, dropout_p=0.0)


def variables(model: keras.Model) -> dict[str, keras.Variable]:
    return dict(zip(variable_names(model), model.trainable_variables, strict=True))


def initialised(name: str, golden: dict[str, np.ndarray]) -> keras.Model:
    """The network with the original's initial parameters."""
    model = build(name)
    for variable_name, variable in variables(model).items():
        variable.assign(golden[f"init/var/{variable_name}"])
    return model


def error(actual, expected) -> float:
    """The largest difference, relative to the expected tensor's largest magnitude.

    If the expected tensor is all zeros, the difference is absolute. (Attention over cells as large as the image sees
    nothing and gives zeros.)
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    return float(np.abs(actual - expected).max() / (np.abs(expected).max() or 1))


def as_batch(x: np.ndarray) -> dict[str, tf.Tensor]:
    """Golden images in [-1, 1] as a batch of a data set, uint8."""
    pixels = x * 127.5 + 127.5
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-4)
    return {"images": tf.constant(pixels.round().astype(np.uint8))}


def errors_of_a_batch(name: str) -> dict[str, float]:
    """The errors of a network's outputs, losses and gradients for one batch, from the original's initial parameters."""
    golden = load(name)
    model = initialised(name, golden)
    x = tf.constant(golden["x"][0])
    parameters = model.trainable_variables

    @tf.function(autograph=False)
    def compute():
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = model(x)
            per_image = logistic_mixture.loss_per_image(x, outputs)
            loss = tf.reduce_sum(per_image)
        return outputs, per_image, loss, tape.gradient(loss, [x, *parameters])

    outputs, per_image, loss, (grad_x, *gradients) = compute()
    of_gradients = [
        error(gradient, golden[f"grad/{variable_name}"])
        for variable_name, gradient in zip(variable_names(model), gradients, strict=True)
        if variable_name not in NOISE.get(name, ())
    ]
    return {
        "outputs": outputs_error(outputs, golden, "out"),
        "loss": max(error(per_image, golden["loss_per_image"]), error(loss, golden["loss"])),
        "gradient": max(error(grad_x, golden["grad_x"]), *of_gradients),
        "median_gradient": float(np.median(of_gradients)),
    }


def errors_of_steps(name: str) -> dict[str, float]:
    """The errors of three optimisation steps, and of two more from the original's checkpoint."""
    golden = load(name)
    model = initialised(name, golden)
    optimizer = PolyakAdam(polyak_decay=0.9)
    optimizer.build(model.trainable_variables)
    step = steps.train_step(tf.distribute.get_strategy(), model, optimizer, seed=0)

    def losses_of(xs):
        return [float(step(as_batch(x))) for x in xs]

    def averaged():
        x = tf.constant(golden["x"][0])
        with using(normalised_weights(model, optimizer.averages())):
            outputs = model(x)
        return outputs, tf.reduce_sum(logistic_mixture.loss_per_image(x, outputs))

    of_steps = error(losses_of(golden["x"]), golden["train_losses"])
    outputs, loss = averaged()
    errors = {
        "steps": max(of_steps, error(loss, golden["ema_loss"])),
        "averaged_outputs": outputs_error(outputs, golden, "ema_out"),
    }
    checkpoints.load(checkpoints.Checkpoint(checkpoint(name)), model, optimizer)
    assert optimizer.steps_taken() == 3
    resumed = error(losses_of(golden["x"][:2]), golden["resume_losses"])
    _, loss = averaged()
    return errors | {"steps_from_checkpoint": max(resumed, error(loss, golden["resume_ema_loss"]))}


def has_samples(name: str) -> bool:
    """Whether the original could sample with the network."""
    return not leaks(name) and "ar_chs" not in name


def error_of_samples(name: str) -> float:
    """The error of images sampled from the original's checkpoint with the uniform numbers that it used."""
    golden = load(name)
    model = build(name)
    checkpoints.load(checkpoints.Checkpoint(checkpoint(name)), model, averaged=True)
    draw = sampling.batch_drawer(model, len(golden["sample/x"]))
    weights = normalised_weights(model, model.trainable_variables)
    images, _ = draw(weights, golden["sample/u_mix"], golden["sample/u_logistic"])
    return error(images, golden["sample/x"])
