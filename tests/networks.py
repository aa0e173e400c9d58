"""Small networks for tests that do not compare with the original's numbers."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail import settings
from pixel_snail.model import bound_arguments, leaks, specs
from pixel_snail.network import Network
from pixel_snail.weights import data_dependent_initialisation

CAUSAL = sorted(name for name in specs if not leaks(name))
"""The networks that predict each pixel from those before it: the original's 14, and any that somebody has added."""


def shallow(name: str):
    """The specification of a name with as few blocks as have every kind that its own blocks have."""
    spec, row = specs[name], bound_arguments(name)
    if "attn_rep" not in row:  # PixelCNN++, or a specification of somebody's own, of another kind
        return spec
    hier = row.get("hier", (1,))
    return functools.partial(spec, attn_rep=max(map(hier.index, hier)) + 1)


def add_spec(patch: pytest.MonkeyPatch, name: str, spec) -> None:
    """Adds a specification, whose name --model then takes."""
    patch.setitem(specs, name, spec)
    patch.setattr(settings, "MODELS", (*settings.MODELS, name))


def build_shallow(name: str, shape, rng: np.random.Generator, nr_labels: int | None = None, **settings) -> Network:
    """A shallow network whose features are all of order 1."""
    settings = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2} | settings
    network = shallow(name)(**settings).build_for(name, shape, nr_labels)
    h = None if nr_labels is None else tf.one_hot([0, 1, 2], nr_labels)
    with data_dependent_initialisation():
        network(tf.cast(rng.uniform(-1, 1, [3, *shape]), tf.float32), h=h)
    return network
