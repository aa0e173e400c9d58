"""Traces blocks of equal structure once for all of them."""

import functools
import itertools
from collections.abc import Callable

from pixel_snail.backend import keras, tf
from pixel_snail.weights import given, layers_in, using


def traced_once(
    layer: keras.layers.Layer, like: keras.layers.Layer, recompute: bool = False, cache=None, **settings
) -> Callable:
    """A layer's call. Within `using`, all layers of equal structure share one traced function of inputs and weights.

    A deep network repeats a few layers. Tracing each of them would take most of the time before the first step.

    Args:
        layer: the layer to call.
        like: the first layer of the same structure. All such layers must get tensors of the same shapes.
        recompute: whether the gradient keeps only the layer's inputs and computes everything else again. Dropout's
            masks are then the same, because they follow from seeds.
        cache: see cache.py; with a cache, the layer is called directly.
        settings: arguments of the layer's call that need no gradient.

    Returns:
        A function of the layer's other arguments, by name. Arguments and results are tensors or None.
    """

    def call(**inputs):
        here = given()
        if here is None or cache is not None:
            return layer(**inputs, **settings, cache=cache)
        if like not in here.traced:
            here.traced[like] = _traced(like, here.weights, recompute, settings, inputs)
        function, is_there = here.traced[like]
        values = [value for value in (*inputs.values(), *settings.values()) if value is not None]
        outputs = iter(function(*values, *tf.nest.flatten(_of_layers_in(layer, here.weights)[1])))
        return [next(outputs) if there else None for there in is_there]

    return call


def _of_layers_in(layer, weights):
    """The layers inside a layer that have weights, and these weights."""
    layers = [inner for inner in layers_in(layer) if inner in weights]
    return layers, [weights[inner] for inner in layers]


def _traced(layer, all_weights, recompute, settings, inputs):
    """A function of the tensors among inputs and settings, and of the layer's weights, to the tensors among the
    layer's results; and a list of booleans, filled by the first call: which results are tensors."""
    names = [name for name, value in (inputs | settings).items() if value is not None]
    layers, structure = _of_layers_in(layer, all_weights)
    needs_gradient = [name not in settings for name in names] + [True] * len(tf.nest.flatten(structure))
    is_there = []

    def compute(*values):
        values = [v if needs else tf.stop_gradient(v) for v, needs in zip(values, needs_gradient, strict=True)]
        given = dict(zip(names, values[: len(names)], strict=True))
        weights = tf.nest.pack_sequence_as(structure, values[len(names) :])
        with using(dict(zip(layers, weights, strict=True))):
            outputs = layer(**dict.fromkeys(inputs | settings) | given)
        is_there[:] = [output is not None for output in outputs]
        return [output for output in outputs if output is not None]

    if not recompute:
        return tf.function(compute, autograph=False), is_there
    # Not inlined: TensorFlow would copy the function's operations into the caller's graph once for each layer.
    apart = functools.partial(tf.function, autograph=False, experimental_attributes={"_noinline": True})
    forward = apart(compute)

    @apart
    def backward(values, d_outputs):
        differentiable = list(itertools.compress(values, needs_gradient))
        with tf.GradientTape() as tape:
            tape.watch(differentiable)
            outputs = compute(*values)
        return tape.gradient(outputs, differentiable, d_outputs, unconnected_gradients="zero")

    @tf.custom_gradient
    def recomputed(*values):
        def gradient(*d_outputs):
            gradients = iter(backward(values, d_outputs))
            return [next(gradients) if needs else None for needs in needs_gradient]

        return forward(*values), gradient

    return recomputed, is_there
