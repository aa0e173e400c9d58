"""Golden numbers: reads results that the original computed, and compares ours with them."""

from pathlib import Path

import keras
import numpy as np

from pixel_snail import model as models
from pixel_snail.checkpoint import variable_names

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
    return models.build(name, (8, 8, 3), nr_resnet=1, nr_filters=4, nr_logistic_mix=2, dropout_p=0.0)


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
