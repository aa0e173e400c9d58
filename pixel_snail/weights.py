"""The weights of layers: weight normalisation, once a step, and data-dependent initialisation.

A weight-normalised layer (Salimans & Kingma 2016) stores a direction V, a scale g and a bias b. Its weights are
W = g V / |V| and b. A network may be called in three ways:

- outside of the blocks below: each layer normalises its own V at every call;
- within `data_dependent_initialisation`: each layer first sets its g and b;
- within `using(weights)`: each layer takes its W and b from `weights`, which `normalised_weights` computes once for
  many calls.
"""

import contextlib
import contextvars
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from pixel_snail.backend import keras, tf
from pixel_snail.errors import UserError
from pixel_snail.kernels import elementwise

_initialising = contextvars.ContextVar("initialising", default=False)
_given = contextvars.ContextVar("given", default=None)
_asked = contextvars.ContextVar("asked", default=None)  # the layers that have asked for their weights


class Affine(NamedTuple):
    """The weights of a weight-normalised layer: W in the shape of V, and the bias [F]."""

    w: tf.Tensor
    b: tf.Tensor


class TransformedFilter(NamedTuple):
    """The weights of a convolution that runs Winograd's algorithm on whole maps: W, b, and the transform of W."""

    w: tf.Tensor
    b: tf.Tensor
    transformed: tf.Tensor


class PixelFilter(NamedTuple):
    """The weights of a causal 2x2 convolution that is computed pixel by pixel: W, b, and the rows of W, [2 C, F] each.

    `above` is applied to two pixels of the row above, `here` to the pixel on the left and the pixel itself.
    """

    w: tf.Tensor
    b: tf.Tensor
    above: tf.Tensor
    here: tf.Tensor


Weights = dict[keras.layers.Layer, tuple[tf.Tensor, ...]]
"""The weights of every layer that has variables of its own: one of the tuples above, or the values of its variables."""


class Given(NamedTuple):
    """The weights of a `using`, and the functions that kernels/tracing.py has traced with them, by layer."""

    weights: Weights
    traced: dict


@contextlib.contextmanager
def data_dependent_initialisation() -> Iterator[None]:
    """Within it, a weight-normalised layer sets its g and b so that its outputs on this batch are normalised.

    Call the network once, eagerly, on a batch of real images. As in the original, each layer is initialised on the
    normalised outputs of the layers before it.
    """
    token = _initialising.set(True)
    try:
        yield
    finally:
        _initialising.reset(token)


@contextlib.contextmanager
def using(weights: Weights) -> Iterator[None]:
    """Within it, layers compute with these weights instead of their variables."""
    token = _given.set(Given(weights, {}))
    try:
        yield
    finally:
        _given.reset(token)


def given() -> Given | None:
    """The weights and functions of the enclosing `using`; None outside of `using`."""
    return _given.get()


def are_initial(network: keras.layers.Layer) -> bool:
    """Whether g and b of all weight-normalised layers are still 1 and 0, their initial values."""
    return all(
        tf.reduce_all(tf.convert_to_tensor(variable) == initial)
        for pair in _g_and_b(network)
        for variable, initial in zip(pair, (1, 0), strict=True)
    )


@contextlib.contextmanager
def restored_on_failure(network: keras.layers.Layer) -> Iterator[None]:
    """Within it, an exception gives g and b of all weight-normalised layers the values that they had before."""
    variables = [variable for pair in _g_and_b(network) for variable in pair]
    before = [tf.identity(tf.convert_to_tensor(variable)) for variable in variables]
    try:
        yield
    except BaseException:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        raise


def _g_and_b(network):
    layers = [layer for layer in _layers_with_parameters(network) if isinstance(layer, WeightNormalised)]
    return [(layer.g, layer.b) for layer in layers]


def normalised_weights(network: keras.layers.Layer, values: Sequence[tf.Tensor]) -> Weights:
    """The weights of all layers, normalised once for many calls within `using`.

    Args:
        values: one for each of `network.weights`, in order: the values of the variables, or their averages.

    Raises:
        UserError: a layer has a variable that is not among its `parameters`.
    """
    check_parameters(network)
    value_of = dict(zip(map(id, network.weights), map(tf.convert_to_tensor, values), strict=True))
    # Layers of one kind and shape are computed together: one by one, hundreds of layers would take thousands of small
    # operations.
    groups = {}
    for layer in _layers_with_parameters(network):
        groups.setdefault(layer.weights_group(), []).append(layer)
    weights = {}
    for layers in groups.values():
        parameters = [[value_of[id(variable)] for variable in layer.parameters] for layer in layers]
        weights |= zip(layers, layers[0].weights_of_group(parameters), strict=True)
    return weights


def for_maps(weights: Weights, bfloat16: bool = False) -> Weights:
    """Adds the transforms of filters that use Winograd's algorithm, so that all micro-batches share them.

    Gradients still go to W, not to its transform.

    Args:
        bfloat16: whether the maps between the first and the last layer are bfloat16.
    """
    dtype = tf.bfloat16 if bfloat16 else tf.float32
    return {layer: layer.for_maps(dtype, of_layer) for layer, of_layer in weights.items()}


def for_pixels(weights: Weights) -> Weights:
    """Adds the pieces of filters that calls with a cache apply: cut out once, instead of in every step."""
    return {layer: layer.for_pixels(of_layer) for layer, of_layer in weights.items()}


def layers_in(layer: keras.layers.Layer) -> list["Layer"]:
    """All layers of this package inside a layer, itself included, in order of creation."""
    # A private function of Keras. If it is removed, the attributes of each layer must be searched for layers instead.
    return [inner for inner in layer._flatten_layers() if isinstance(inner, Layer)]


def _layers_with_parameters(network):
    return [layer for layer in layers_in(network) if layer.built and layer.parameters]


def hidden_directions(network: keras.Model) -> list[keras.Variable]:
    """The directions V of a Network's weight-normalised layers, without those of its `output_layer`."""
    of_outputs = set(layers_in(network.output_layer))
    return [
        layer.V
        for layer in _layers_with_parameters(network)
        if isinstance(layer, WeightNormalised) and layer not in of_outputs
    ]


def check_parameters(network: keras.layers.Layer) -> None:
    """Checks that every variable of a network is among the `parameters` of a Layer, so that training includes it.

    Raises:
        UserError: a variable is not; the message names its layer.
    """
    covered = {id(variable) for layer in _layers_with_parameters(network) for variable in layer.parameters}
    for variable in network.weights:
        if id(variable) in covered:
            continue
        around = [layer for layer in network._flatten_layers() if any(variable is own for own in layer.weights)]
        layer = min(reversed(around), key=lambda layer: len(layer.weights))  # the innermost
        if not layer.built:  # its build has failed, and that error is the one to report
            continue
        if isinstance(layer, Layer):
            advice = "have its property `parameters` return all its variables, in order of creation"
        else:
            advice = "take a layer of pixel_snail.nn instead, or derive one from pixel_snail.weights.Layer"
        raise UserError(
            f"{described(layer)} has a variable, {variable.name}, that training and averaging would miss: {advice}"
        )


@contextlib.contextmanager
def first_call(network: keras.layers.Layer) -> Iterator[None]:
    """Checks layers of your own: within it, the network must be called for the first time.

    Raises:
        UserError: a layer has a variable that is not among its `parameters`, or its call does not use `weights_now`.
    """
    asked = set()
    token = _asked.set(asked)
    try:
        yield
    except (ValueError, LookupError, AttributeError):
        check_parameters(network)  # without `parameters`, weights_now() is empty, and a layer's call may fail for it
        raise
    finally:
        _asked.reset(token)
    check_parameters(network)
    for layer in _layers_with_parameters(network):
        if layer not in asked:
            raise UserError(
                f"{described(layer)} reads its variables itself, so its averages and gradients would be lost: have its "
                "call take their values from self.weights_now()"
            )


def described(layer: keras.layers.Layer) -> str:
    """The words for a layer in error messages: its class and its name."""
    return f"the layer {type(layer).__name__} ({layer.name!r})"


class Layer(keras.layers.Layer):
    """The base of all layers of this package: a Keras layer that does not cast its inputs, float32 or bfloat16.

    Its variables are float32, whatever keras.json or a global dtype policy says.

    A layer of your own creates its variables in `build`, returns them as `parameters`, and computes with the values
    that `weights_now()` returns. The other methods are for layers whose weights are computed from the variables.

    Args:
        name: the layer's name in the names of its variables in a checkpoint; by default, the name of the class.
    """

    def __init__(self, name: str | None = None):
        super().__init__(name=name or type(self).__name__, autocast=False, dtype="float32")
        # A layer without variables of its own counts as built. Otherwise Keras would call it symbolically before its
        # first call, and all layers inside it again: most of the time that building a network takes.
        self.built = type(self).build is keras.layers.Layer.build

    @property
    def parameters(self) -> tuple[keras.Variable, ...]:
        """The layer's own variables in order of creation, without those of layers inside it."""
        return ()

    def weights_group(self) -> Hashable:
        """The key of the layer's group: layers with equal keys have weights of one kind and shape."""
        return self

    def weights_of_group(self, parameters: list[list[tf.Tensor]]) -> Sequence[tuple]:
        """Computes the weights of all layers of a group. Here, the weights are the values of the `parameters`.

        Args:
            parameters: for each layer, the values of its `parameters`.
        """
        return [tuple(of_layer) for of_layer in parameters]

    def for_maps(self, dtype: tf.DType, weights: tuple) -> tuple:
        """The weights for calls on whole maps of a type: `weights`, and after them any precomputed tensors."""
        return weights

    def for_pixels(self, weights: tuple) -> tuple:
        """The weights for calls with a cache: `weights`, and after them any precomputed tensors."""
        return weights

    def weights_now(self) -> tuple:
        """The weights that the layer's call must use: those of the enclosing `using`, else those of the variables."""
        if (asked := _asked.get()) is not None:
            asked.add(self)
        if (here := given()) is not None:
            return here.weights[self]
        return self.weights_of_group([[variable.value for variable in self.parameters]])[0]


class WeightNormalised(Layer):
    """The base of weight-normalised layers: y = linear(x, W) + b, with W = g V / |V|.

    Subclasses define `kind`, `axes`, `direction_shape` and `linear`, and also `affine` if linear(x, w) + b has a faster
    form. The variables are, in this order: V, the direction, with random initial values N(0, 0.05); g, the scale [F];
    b, the bias [F].

    Args:
        num_filters: F, the number of output channels.
        init_scale: the standard deviation of the outputs on the batch of the data-dependent initialisation.

    Attributes:
        kind: the name of such layers in the names of their variables in a checkpoint; the original's layers have the
            original's names.
        axes: the axes of V over which its norm is computed, counted from the last: -1, -2, ...
        epsilon: added to the variance in the data-dependent initialisation.
    """

    kind: str
    axes: tuple[int, ...]
    epsilon = 1e-8

    def __init__(self, num_filters: int, init_scale: float = 1.0):
        # All layers of a kind have the same name: checkpoint.variable_names numbers them over the whole network.
        super().__init__(name=self.kind)
        self.num_filters = num_filters
        self.init_scale = init_scale

    def direction_shape(self, channels: int) -> list[int]:
        """The shape of V for inputs with this number of channels."""
        raise NotImplementedError

    def linear(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The layer's linear map with weights w in the shape of V."""
        raise NotImplementedError

    def affine(self, x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        """linear(x, w) + b."""
        return elementwise.add_bias(self.linear(x, tf.cast(w, x.dtype)), tf.cast(b, x.dtype))

    def build(self, x_shape):
        shape = self.direction_shape(x_shape[-1])
        self.V = self.add_weight(shape, keras.initializers.RandomNormal(stddev=0.05), name="V")
        self.g = self.add_weight([self.num_filters], "ones", name="g")
        self.b = self.add_weight([self.num_filters], "zeros", name="b")

    def call(self, x):
        if _initialising.get():
            unit = tf.math.l2_normalize(self.V, self.axes, epsilon=elementwise.SMALLEST_SQUARE)
            return self._initialise(self.linear(x, unit))
        return self.affine(x, *self.weights_now())

    def _initialise(self, t):
        """Sets g and b from t, the outputs if V has unit norm, and returns the outputs with the new g and b."""
        mean, variance = tf.nn.moments(t, list(range(t.shape.rank - 1)))
        g = self.init_scale / tf.sqrt(variance + self.epsilon)
        self.g.assign(g)
        self.b.assign(-mean * g)
        return g * (t - mean)

    @property
    def parameters(self):
        return (self.V, self.g, self.b)

    def weights_group(self):
        return type(self).weights_of_group, self.axes, tuple(self.V.shape)

    def weights_of_group(self, parameters):
        # W is scaled rather than the outputs: a map has more elements than W.
        v, g, b = zip(*parameters, strict=True)
        return [Affine(*pair) for pair in zip(elementwise.normalised(v, g, self.axes), b, strict=True)]
