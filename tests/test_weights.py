"""Layers of one's own inside a network: they train and average like the others, and what they lack is named."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.counted_training import ONE_BLOCK
from pixel_snail import checkpoint, nn, steps
from pixel_snail.backend import keras
from pixel_snail.cache import Cache
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.errors import UserError
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.weights import Layer, check_parameters, normalised_weights, using


class Scaled(Layer):
    """Content of attention: a nin, scaled by a variable of this layer's own for each channel."""

    def __init__(self, resnet, channels):
        super().__init__()
        self.nin = nn.nin(channels)
        self.channels = channels

    def build(self, x_shape):
        self.scale = self.add_weight([self.channels], "ones", name="own-scale")

    @property
    def parameters(self):
        return (self.scale,)

    def call(self, x, h=None, seed=None):
        (scale,) = self.weights_now()
        return self.nin(x) * scale


class ForgetsParameters(Scaled):
    parameters = ()


class ForgetsParametersAndReads(ForgetsParameters):
    def call(self, x, h=None, seed=None):
        return self.nin(x) * self.scale


class Reads(Scaled):
    def call(self, x, h=None, seed=None):
        return self.nin(x) * self.scale


class WithDense(Layer):
    def __init__(self, resnet, channels):
        super().__init__()
        self.dense = keras.layers.Dense(channels, name="plain")

    def call(self, x, h=None, seed=None):
        return self.dense(x)


def build(content):
    return ONE_BLOCK(nr_resnet=1, nr_filters=4, nr_logistic_mix=2, content=content).build_for("h1", (4, 4, 3), None)


def test_a_layer_of_ones_own_is_trained_saved_loaded_and_given_other_weights(rng, tmp_path):
    network = build(Scaled)
    (scale,) = (variable for variable in network.weights if variable.name == "own-scale")
    batch = {"images": tf.constant(rng.integers(0, 256, [4, 4, 4, 3], np.uint8))}
    steps.initialise(network, batch, seed=0)
    optimizer = PolyakAdam()
    optimizer.build(network.weights)
    strategy = tf.distribute.get_strategy()
    steps.train_step(strategy, network, optimizer, seed=0)(batch)
    assert np.abs(scale.numpy() - 1).min() > 0
    prefix = str(tmp_path / "0" / "params_x.ckpt")
    checkpoint.save(prefix, network, optimizer, {})
    other = build(Scaled)
    checkpoint.load(Checkpoint(prefix), other)
    x, _ = steps.network_inputs(batch, network.description)
    outputs = network(x)
    np.testing.assert_array_equal(other(x), outputs)
    values = [variable * 2 if variable is scale else variable for variable in network.weights]
    with using(normalised_weights(network, values)):
        doubled = network(x)
    scale.assign(scale * 2)
    np.testing.assert_allclose(doubled, network(x), rtol=0, atol=1e-5)
    assert np.abs(doubled - outputs).max() > 1e-3


@pytest.mark.parametrize(
    "content, message",
    [
        (
            WithDense,
            r"^the layer Dense \('plain'\) has a variable, kernel, .*: take a layer of pixel_snail.nn instead, or",
        ),
        (
            ForgetsParameters,
            r"^the layer ForgetsParameters \('\w+'\) has a variable, own-scale, .*: have its property `para",
        ),
        (
            ForgetsParametersAndReads,
            r"^the layer ForgetsParametersAndReads .*: have its property `parameters` return all",
        ),
        (Reads, r"^the layer Reads \('Reads'\) reads its variables itself, .*self.weights_now\(\)$"),
    ],
)
def test_a_network_with_a_layer_that_lacks_something_is_refused_in_one_line_that_names_the_layer(content, message):
    with pytest.raises(UserError, match=message):
        build(content)


def test_an_error_in_a_layers_call_stays_what_it_is():
    class Fails(Scaled):
        def call(self, x, h=None, seed=None):
            raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        build(Fails)


def test_weights_are_not_normalised_for_a_network_with_a_variable_that_they_would_miss():
    network = keras.Sequential([keras.Input([3]), nn.nin(4), keras.layers.Dense(2, name="plain")])
    with pytest.raises(UserError, match="the layer Dense"):
        normalised_weights(network, network.weights)
    check_parameters(network.layers[0])


class WholeMapsOnly(nn.conv2d):
    def __init__(self, num_filters, init_scale=1.0):
        super().__init__(num_filters, (2, 2), (1, 1), init_scale)


class WithoutAbove(WholeMapsOnly):
    def call(self, x, has_margins=False, cache=None):
        return super().call(x, has_margins)

    def here(self, left, x):
        return x


@pytest.mark.parametrize(
    "conv, lacks", [(WholeMapsOnly, r"above, here, call\(x, cache=None\)"), (WithoutAbove, "above")]
)
def test_a_convolution_that_a_cache_cannot_use_is_named(conv, lacks):
    network = functools.partial(ONE_BLOCK, conv=conv)(nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
    network.build_for("h1", (4, 4, 3), None)
    with pytest.raises(UserError, match=rf"^the layer {conv.__name__} \('conv2d'\) can't be .*: it lacks {lacks}; see"):
        Cache(network.layers_by_size(), 1, 4, 4, 4)
