"""Small networks for tests that do not compare with the original's numbers."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail import nn, settings
from pixel_snail.backend import keras
from pixel_snail.model import PixelSNAIL, bound_arguments, leaks, specs
from pixel_snail.network import Network
from pixel_snail.weights import data_dependent_initialisation


@keras.saving.register_keras_serializable("tests")
class OneStep(PixelSNAIL):
    """The network that tests call h0: a stem, one residual step and an output.

    For tests of all that any network serves, such as runs and messages: it is built and traced in half the time that
    benchmarks.counted_training.ONE_BLOCK takes. It is causal and has dropout and labels, but no attention.
    """

    def __init__(self, **settings):
        super().__init__(attn_rep=0, key_channels=int, mixin_channels=int, **settings)
        nonlinearity, dropout_p = self.settings["resnet_nonlinearity"], self.settings["dropout_p"]
        self.step = nn.gated_resnet(nn.down_right_shifted_conv2d, nonlinearity, dropout_p)

    def call(self, x, h=None, seed=None, cache=None, bfloat16=False, recompute=False):
        if cache is None:
            h, seed = self.conditioned(h, seed, x.shape[1:])
        ul, _ = self.stem(x, cache=cache)
        if ul is not None:  # in the pass over a row (see cache.py) it is None
            ul = self.step(ul, h=h, seed=seed, cache=cache)
        return self.output_layer.call(ul, lambda *_: x) if cache is None else ul

    def layers_by_size(self):
        return [[self.step, self.output_layer]]


def shallow(name: str):
    """The specification of a name with as few blocks as have every kind that its own blocks have."""
    spec, row = specs[name], bound_arguments(name)
    if "attn_rep" not in row:  # PixelCNN++, or a specification of somebody's own, of another kind
        return spec
    hier = row.get("hier", (1,))
    return functools.partial(spec, attn_rep=max(map(hier.index, hier)) + 1)


def distinct(names) -> list[str]:
    """The names without those whose shallow networks equal another's: networks that differ only in their depth."""
    found = {}
    for name in sorted(names):
        spec = shallow(name)
        arguments = tuple(sorted(getattr(spec, "keywords", {}).items(), key=lambda item: item[0]))
        key = getattr(spec, "func", spec), *((k, _of_channels(v)) for k, v in arguments if k != "nr_filters")
        found.setdefault(key, name)
    return list(found.values())


def _of_channels(value):
    """What tells one function of F from another: its values; any other argument as it is."""
    is_function = callable(value) and not isinstance(value, type)
    return tuple(map(value, (4, 64, 256))) if is_function else value


CAUSAL = distinct({name for name in specs if not leaks(name)})
"""The networks that predict each pixel from those before it, one of each wiring: the original's, and any that somebody
has added."""


def add_spec(patch: pytest.MonkeyPatch, name: str, spec) -> None:
    """Adds a specification, whose name --model then takes."""
    patch.setitem(specs, name, spec)
    patch.setattr(settings, "MODELS", (*settings.MODELS, name))


def build_shallow(
    name: str, shape, rng: np.random.Generator, nr_labels: int | None = None, levels: int = 256, **settings
) -> Network:
    """A shallow network whose features are all of order 1."""
    settings = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2} | settings
    network = shallow(name)(**settings, channels=shape[2]).build_for(name, shape, nr_labels, levels=levels)
    h = None if nr_labels is None else tf.one_hot([0, 1, 2], nr_labels)
    with data_dependent_initialisation():
        network(tf.cast(rng.uniform(-1, 1, [3, *shape]), tf.float32), h=h)
    return network
