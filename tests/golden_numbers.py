"""The numbers that the original computed, and how the tests read and compare them."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pixel_snail import model as models
from pixel_snail import nn

FOLDER = Path(__file__).parent / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def checkpoint(name: str) -> str:
    """The prefix of the checkpoint that the original's Saver wrote after three steps."""
    return str(FOLDER / name / "params_cifar.ckpt")


def build(name: str) -> keras.Model:
    """The model of the golden numbers, with its variables made but not set."""
    model = models.specs[name](nr_resnet=1, nr_filters=4, nr_logistic_mix=2, dropout_p=0.0)
    model(tf.zeros([1, 8, 8, 3]))
    return model


def variables(model: keras.Model) -> dict[str, keras.Variable]:
    return dict(zip(nn.variable_names(model), model.trainable_variables, strict=True))


def initialised(name: str, golden: dict[str, np.ndarray]) -> keras.Model:
    """The model with the original's initial parameters."""
    model = build(name)
    for variable_name, variable in variables(model).items():
        variable.assign(golden[f"init/var/{variable_name}"])
    return model


def error(actual, expected) -> float:
    """The largest difference, relative to the expected tensor's largest magnitude."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
