"""The building blocks of PixelSNAIL: shifts, weight-normalised layers, gated_resnet, causal_attention.

What has variables is a Keras layer, everything else a function. All keep the original's names, lower case though the
layers are classes, so that who knows its nn.py finds everything here. Shapes: B images, H rows, W columns, C channels,
F filters, K mixture components; feature maps are [B, H, W, C], float32.

Weight normalisation, data-dependent initialisation: Salimans & Kingma 2016. gated_resnet, shifts: Salimans et al.
2017 (PixelCNN++). causal_attention: PixelSNAIL, section 2.
"""

import contextlib
import contextvars
import functools
import itertools
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from pixel_snail.kernels import convolution, elementwise
from pixel_snail.kernels.elementwise import nonlinearities

_initialising = contextvars.ContextVar("initialising", default=False)
_folded = contextvars.ContextVar("folded", default=None)
_functions = contextvars.ContextVar("functions")


@contextlib.contextmanager
def data_dependent_initialisation() -> Iterator[None]:
    """Within it, a weighted layer that is called sets its g and b so that this batch's outputs are normalised.

    Call the model eagerly, once, on a batch of real images. As in the original, each layer's normalised outputs are
    what the next layer is initialised on.
    """
    token = _initialising.set(True)
    try:
        yield
    finally:
        _initialising.reset(token)


Weights = dict[keras.layers.Layer, list[tf.Tensor]]
"""What layers compute with: [W, b] of a weight-normalised one, [hw] of conditional_weights, and perhaps more."""


def fold(model: keras.Model, values: list[tf.Tensor]) -> Weights:
    """The weights that each layer computes with: weight normalisation done once, for many calls under `folded`.

    Args:
        values: of `model.trainable_variables`, in order.
    """
    value_of = dict(zip(map(id, model.trainable_variables), map(tf.convert_to_tensor, values), strict=True))
    weights, alike = {}, {}
    for layer in model._flatten_layers():
        if isinstance(layer, conditional_weights):
            weights[layer] = [value_of[id(layer.hw)]]
        elif isinstance(layer, _weight_normalised):
            alike.setdefault((layer.axes, tuple(layer.V.shape)), []).append(layer)
    # All layers of a kind at once: of hundreds, each for itself, a step has thousands of small operations.
    for (axes, _), layers in alike.items():
        v = [value_of[id(layer.V)] for layer in layers]
        g = [value_of[id(layer.g)] for layer in layers]
        for layer, w in zip(layers, elementwise.normalised(v, g, axes), strict=True):
            weights[layer] = [w, value_of[id(layer.b)]]
    return weights


def for_pixels(weights: Weights) -> Weights:
    """What `fold` made, in the parts that layers with a cache apply, which are then not cut out at every pixel."""
    return {layer: layer.for_pixels(*values) for layer, values in weights.items()}


def for_maps(weights: Weights, bfloat16: bool = False) -> Weights:
    """What `fold` made, with what convolutions of whole maps make of it, which is then not made for every part of a
    batch. Gradients are those of what `fold` made.

    Args:
        bfloat16: whether the maps between the first and the last layer are.
    """
    dtype = tf.bfloat16 if bfloat16 else tf.float32
    return {layer: layer.for_maps(dtype, *values) for layer, values in weights.items()}


@contextlib.contextmanager
def folded(weights: Weights) -> Iterator[None]:
    """Within it, layers compute with weights that `fold` made, instead of their variables."""
    tokens = _folded.set(weights), _functions.set({})
    try:
        yield
    finally:
        _folded.reset(tokens[0])
        _functions.reset(tokens[1])


def _weights(layer):
    weights = _folded.get()
    return layer.effective() if weights is None else weights[layer]


class Layer(keras.layers.Layer):
    """A Keras layer that takes its inputs as they are; Keras's own would make float32 of bfloat16.

    One with no variables of its own counts as built: else Keras, before its first call, would call it symbolically, and
    in that call those within it, and so on, which is most of the time that a network takes to build.
    """

    def __init__(self, name: str | None = None):
        super().__init__(name=name, autocast=False)
        self.built = type(self).build is keras.layers.Layer.build

    def for_pixels(self, *weights):
        return [*weights]

    def for_maps(self, dtype, *weights):
        return [*weights]


def traced_once(
    layer: keras.layers.Layer, like: keras.layers.Layer, recompute: bool = False, cache=None, **settings
) -> Callable:
    """The call of a layer under `folded`, traced for all the layers that are made alike as one function of weights.

    A deep network repeats a few layers: to trace each anew is most of the time that it takes before its first step.
    Arguments, by name, and results, of which there are several, are tensors or None.

    Args:
        like: the first of those made alike, which all are given tensors of the same shapes.
        recompute: whether a gradient keeps what the layer is given only, and computes the rest anew. The random
            numbers are the same again: they come of seeds.
        cache: if there is one, the layer is called as it is.
        settings: of the layer's call, which need no gradient.
    """

    def call(**inputs):
        weights = _folded.get()
        if weights is None or cache is not None:
            return layer(**inputs, **settings, cache=cache)
        functions = _functions.get()
        if like not in functions:
            functions[like] = _traced(like, weights, recompute, settings, inputs)
        function, is_there = functions[like]
        values = [value for value in (*inputs.values(), *settings.values()) if value is not None]
        outputs = iter(function(*values, *tf.nest.flatten([weights[part] for part in _weighted(layer, weights)])))
        return [next(outputs) if there else None for there in is_there]

    return call


def _weighted(layer, weights):
    return [part for part in layer._flatten_layers() if part in weights]


def _traced(layer, all_weights, recompute, settings, inputs):
    """A function of the tensors among inputs and settings, and of the layer's weights, to the tensors among its
    results; and, known once it was called, which results are tensors."""
    names = [name for name, value in (inputs | settings).items() if value is not None]
    parts = _weighted(layer, all_weights)
    structure = [all_weights[part] for part in parts]
    needs_gradient = [name not in settings for name in names] + [True] * len(tf.nest.flatten(structure))
    is_there = []

    def compute(*values):
        values = [v if needs else tf.stop_gradient(v) for v, needs in zip(values, needs_gradient, strict=True)]
        given = dict(zip(names, values[: len(names)], strict=True))
        weights = tf.nest.pack_sequence_as(structure, values[len(names) :])
        with folded(dict(zip(parts, weights, strict=True))):
            outputs = layer(**dict.fromkeys(inputs | settings) | given)
        is_there[:] = [output is not None for output in outputs]
        return [output for output in outputs if output is not None]

    if not recompute:
        return tf.function(compute, autograph=False), is_there
    # Kept apart: within the caller's graph, TensorFlow would make a copy of their operations for each layer.
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


# Weighted layers


class _weight_normalised(Layer):
    """A linear map `W(V, g)` of x, plus b, with `W` of norm g for each output channel.

    Subclasses give `kind`, `direction_shape`, `axes` (those over which V is normalised), `linear`, and, where its sum
    with b has a faster way, `affine`.
    Variables, in this order: V, the direction, N(0, 0.05) at first; g, the scale [F]; b, the bias [F].

    Args:
        num_filters: F, the number of output channels.
        init_scale: the standard deviation of the outputs on the batch of the data-dependent initialisation.
    """

    kind: str
    axes: tuple[int, ...]
    epsilon = 1e-8

    def __init__(self, num_filters: int, init_scale: float = 1.0):
        # Every layer of a kind has the same name: variable_names() numbers them over the whole model.
        super().__init__(name=self.kind)
        self.num_filters = num_filters
        self.init_scale = init_scale

    def direction_shape(self, channels: int) -> list[int]:
        raise NotImplementedError

    def linear(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError

    def affine(self, x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return elementwise.add_bias(self.linear(x, tf.cast(w, x.dtype)), tf.cast(b, x.dtype))

    def build(self, x_shape):
        shape = self.direction_shape(x_shape[-1])
        self.V = self.add_weight(shape, keras.initializers.RandomNormal(stddev=0.05), name="V")
        self.g = self.add_weight([self.num_filters], "ones", name="g")
        self.b = self.add_weight([self.num_filters], "zeros", name="b")

    def effective(self):
        """[W, b]: the weights with their norm, and the bias."""
        # Scaling the weights costs less than scaling the outputs: a map has more elements than W.
        return [*elementwise.normalised([self.V], [self.g], self.axes), self.b]

    def call(self, x):
        if _initialising.get():
            return self._initialise(self.linear(x, tf.math.l2_normalize(self.V, self.axes, epsilon=1e-12)))
        return self.affine(x, *_weights(self))

    def _initialise(self, t):
        mean, variance = tf.nn.moments(t, list(range(t.shape.rank - 1)))
        g = self.init_scale / tf.sqrt(variance + self.epsilon)
        self.g.assign(g)
        self.b.assign(-mean * g)
        return g * (t - mean)


class conv2d(_weight_normalised):
    """Weight-normalised convolution [B, H, W, C] -> [B, H', W', F]; zeros around x as `padding` says.

    Args:
        num_filters: F.
        filter_size: (height, width) of the filter.
        strides: (vertical, horizontal).
        init_scale: see the base class.
    """

    kind = "conv2d"
    axes = (-4, -3, -2)

    def __init__(self, num_filters: int, filter_size=(3, 3), strides=(1, 1), init_scale: float = 1.0):
        super().__init__(num_filters, init_scale)
        self.filter_size = tuple(filter_size)
        self.strides = tuple(strides)

    def direction_shape(self, channels):
        return [*self.filter_size, channels, self.num_filters]

    @property
    def input_channels(self):
        """C, once the layer is built."""
        return self.V.shape[2]

    def margins(self, x_shape) -> elementwise.Margins:
        """The zeros around a map [B, H, W, C]: here as many as TensorFlow's SAME asks for."""
        sides = []
        for size, field, stride in zip(x_shape[1:3], self.filter_size, self.strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + field - size, 0)
            sides.append((total // 2, total - total // 2))
        return tuple(sides)

    def call(self, x, has_margins=False):
        """has_margins says that x comes with its zeros around it."""
        if not has_margins:
            x = tf.pad(x, [[0, 0], *self.margins(x.shape), [0, 0]])
        return super().call(x)

    def for_maps(self, dtype, w, b):
        return [w, b, *convolution.made_of(w, self.strides, dtype)]

    def linear(self, x, w):
        return tf.nn.conv2d(x, w, self.strides, "VALID")

    def affine(self, x, w, b, *of_w):
        return convolution.convolve(x, w, b, self.strides, *of_w)


class down_shifted_conv2d(conv2d):
    """A convolution whose output at a row sees this row and the filter's height - 1 rows above, as wide as the filter.

    Causal only once its output is moved down by a row. As the original: height - 1 zeros on top, (width - 1) / 2 on
    each side. With a cache, it is given a row, [B, 1, W, C], and finds the row before it there.
    """

    def __init__(self, num_filters: int, filter_size=(2, 3), strides=(1, 1), init_scale: float = 1.0):
        super().__init__(num_filters, filter_size, strides, init_scale)

    def margins(self, x_shape):
        height, width = self.filter_size
        return (height - 1, 0), ((width - 1) // 2, (width - 1) // 2)

    def call(self, x, has_margins=False, cache=None):
        if cache is None:
            return super().call(x, has_margins)
        w, b = _weights(self)
        rows = tf.concat([cache.row_before(self, x), x], 1)
        sides = [(self.filter_size[1] - 1) // 2] * 2
        return tf.nn.conv2d(tf.pad(rows, [[0, 0], [0, 0], sides, [0, 0]]), w, (1, self.strides[1]), "VALID") + b


class down_right_shifted_conv2d(conv2d):
    """A convolution whose output at a pixel sees this pixel and what lies above and to the left of it.

    With a cache, whose filter must be (2, 2), it is given the features of one pixel, [B, C], and finds there what its
    filter's other parts have made of the pixels above and to the left; strides are the caller's affair.
    """

    def __init__(self, num_filters: int, filter_size=(2, 2), strides=(1, 1), init_scale: float = 1.0):
        super().__init__(num_filters, filter_size, strides, init_scale)

    def margins(self, x_shape):
        height, width = self.filter_size
        return (height - 1, 0), (width - 1, 0)

    def call(self, x, has_margins=False, cache=None):
        return super().call(x, has_margins) if cache is None else cache.look_back(self, x)

    def for_pixels(self, w, b):
        if self.filter_size != (2, 2):
            return [w, b]
        # The upper row of the filter, what it has on the left, and the pixel's own.
        return [w, b, tf.reshape(w[0], [-1, self.num_filters]), w[-1, 0], w[-1, -1]]

    def above(self, row):
        """What the filter's upper row makes of a row of features [W, B, C], for the row below it: [W, B, F]."""
        _, b, w_above, _, _ = _weights(self)
        return _matmul(tf.concat([_from_left(row), row], -1), w_above) + b

    def left_and_here(self, x):
        """What a pixel's features [B, C] add to the output to the right of it, and to its own: [B, F] each."""
        *_, w_left, w_here = _weights(self)
        return tf.matmul(x, w_left), tf.matmul(x, w_here)


class deconv2d(_weight_normalised):
    """Weight-normalised transposed convolution, [B, H, W, C] -> [B, H*s + fh - 1, W*s + fw - 1, F], VALID.

    Args:
        num_filters: F.
        filter_size: (fh, fw).
        strides: (vertical, horizontal) s.
        init_scale: see the base class.
    """

    kind = "deconv2d"
    axes = (-4, -3, -1)

    def __init__(self, num_filters: int, filter_size=(3, 3), strides=(1, 1), init_scale: float = 1.0):
        super().__init__(num_filters, init_scale)
        self.filter_size = tuple(filter_size)
        self.strides = tuple(strides)

    def direction_shape(self, channels):
        return [*self.filter_size, self.num_filters, channels]

    def linear(self, x, w):
        height, width = (
            size * stride + field - 1
            for size, stride, field in zip(x.shape[1:3], self.strides, self.filter_size, strict=True)
        )
        shape = [tf.shape(x)[0], height, width, self.num_filters]
        y = tf.cast(
            tf.nn.conv2d_transpose(tf.cast(x, tf.float32), tf.cast(w, tf.float32), shape, self.strides, "VALID"),
            x.dtype,
        )
        return tf.ensure_shape(y, [x.shape[0], height, width, self.num_filters])


class down_shifted_deconv2d(deconv2d):
    """deconv2d that undoes the size of a strided down_shifted_conv2d: the last fh - 1 rows and the sides are cut.

    With a cache, it is given the row of the smaller map, [B, 1, W, C], which the cache's row lies in.
    """

    def __init__(self, num_filters: int, filter_size=(2, 3), strides=(1, 1), init_scale: float = 1.0):
        super().__init__(num_filters, filter_size, strides, init_scale)

    def call(self, x, cache=None):
        height, width = self.filter_size
        side = (width - 1) // 2
        if cache is None:
            y = super().call(x)
            return y[:, : y.shape[1] - height + 1, side : y.shape[2] - side]
        w, b = _weights(self)
        part = cache.row_phase % self.strides[0]
        shape = [x.shape[0], 1, x.shape[2] * self.strides[1] + width - 1, self.num_filters]
        y = tf.nn.conv2d_transpose(x, w[part : part + 1], shape, (1, self.strides[1]), "VALID") + b
        return y[:, :, side : y.shape[2] - side]


class down_right_shifted_deconv2d(deconv2d):
    """deconv2d that undoes the size of a strided down_right_shifted_conv2d: last fh - 1 rows, fw - 1 columns cut.

    With a cache, it is given the features of the smaller map's pixel, [B, C], which the cache's pixel lies in.
    """

    def __init__(self, num_filters: int, filter_size=(2, 2), strides=(1, 1), init_scale: float = 1.0):
        super().__init__(num_filters, filter_size, strides, init_scale)

    def call(self, x, cache=None):
        if cache is None:
            y = super().call(x)
            height, width = self.filter_size
            return y[:, : y.shape[1] - height + 1, : y.shape[2] - width + 1]
        w, b = _weights(self)
        part = w[cache.row_phase % self.strides[0], cache.column_phase % self.strides[1]]
        return tf.matmul(x, part, transpose_b=True) + b


class dense(_weight_normalised):
    """Weight-normalised linear map of the last axis, [..., C] -> [..., F]."""

    kind = "dense"
    axes = (-2,)
    epsilon = 1e-10

    def direction_shape(self, channels):
        return [channels, self.num_filters]

    def linear(self, x, w):
        return _matmul(x, w)

    def affine(self, x, w, b):
        # Added before the result has the map's shape again: TensorFlow makes one operation of such a product and sum.
        w, b = tf.cast(w, x.dtype), tf.cast(b, x.dtype)
        return _of_pixels(lambda pixels: elementwise.add_bias(tf.matmul(pixels, w), b), x)


nin = dense
"""Network in network, the original's name for a dense layer over the channels of a map: a 1x1 convolution."""


def variable_names(model: keras.Model) -> list[str]:
    """The original's names of `model.trainable_variables`, in order: `model/conv2d_0/V`, `model/conv2d_0/g`, ...

    The original numbers the layers of each kind over the whole model, in order of creation.
    """
    names, counters = [], {}
    for variable in model.trainable_variables:
        kind, leaf = variable.path.split("/")[-2:]
        if leaf in ("V", "hw"):
            counters[kind] = counters.get(kind, -1) + 1
        names.append(f"model/{kind}_{counters[kind]}/{leaf}")
    return names


def _matmul(x, w):
    """x [..., C] times w [C, F]: one matrix product over all pixels; TensorFlow's batched one goes image by image."""
    return _of_pixels(lambda pixels: tf.matmul(pixels, w), x)


def _of_pixels(function, x):
    """A function of [N, C] to [N, F] of all pixels of x [..., C]: [..., F]."""
    if x.shape.rank == 2:
        return function(x)
    y = function(tf.reshape(x, [-1, x.shape[-1]]))
    return tf.reshape(y, [*_shape(x)[:-1], y.shape[-1]])


# Shifts and functions without variables


def down_shift(x: tf.Tensor, step: int = 1) -> tf.Tensor:
    """Moves a map [B, H, W, C] down by `step` rows; zeros come in on top."""
    return _moved(x, 1, step)


def right_shift(x: tf.Tensor, step: int = 1) -> tf.Tensor:
    """Moves a map [B, H, W, C] right by `step` columns; zeros come in on the left."""
    return _moved(x, 2, step)


def left_shift(x: tf.Tensor, step: int = 1) -> tf.Tensor:
    """Moves a map [B, H, W, C] left by `step` columns; zeros come in on the right."""
    return _moved(x, 2, -step)


def _moved(x, axis, step):
    margins = [[max(step, 0), max(-step, 0)] if i == axis else [0, 0] for i in range(4)]
    rest = [size - abs(step) if i == axis else -1 for i, size in enumerate(x.shape)]
    # tf.slice as in _first.
    return tf.pad(tf.slice(x, [after for _, after in margins], rest), margins)


def _from_left(row):
    """A row [W, B, C] moved right by one; zeros come in."""
    return tf.pad(row[:-1], [[1, 0], [0, 0], [0, 0]])


def _from_right(row):
    """A row [W, B, C] moved left by one; zeros come in."""
    return tf.pad(row[1:], [[0, 1], [0, 0], [0, 0]])


def average_pool(x: tf.Tensor, size: int) -> tf.Tensor:
    """Averages over cells of size x size pixels, [B, H, W, C] -> [B, H / size, W / size, C]."""
    return tf.nn.avg_pool2d(x, size, size, "SAME")


def repeat_pixels(x: tf.Tensor, size: int) -> tf.Tensor:
    """Repeats each pixel over a cell of size x size, [B, H, W, C] -> [B, H * size, W * size, C]."""
    return tf.repeat(tf.repeat(x, size, 1), size, 2) if size > 1 else x


def dropout_words(shape: tf.Tensor | list, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """The random numbers that say which elements of a map dropout keeps, [B, N], for `fused.kept`.

    Args:
        shape: the map's, [B, ...].
        seed: two integers, and the number of the first image. Each image has a stream of its own, by its number: the
            masks of a batch are the same in parts as in one.
    """
    batch, *rest = shape
    dtype, _, elements = elementwise.word_of(rate)
    number = -(-int(np.prod(rest)) // elements)
    blocks = -(-number * dtype.size // 16)  # Philox's, of 16 bytes each, which are counted
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed[:2])
    counter += tf.stack([tf.cast(seed[2], tf.uint64) * blocks, 0])
    random = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[batch, 4 * blocks], key=key, counter=counter, alg=_PHILOX, dtype=tf.uint32
    )
    return tf.reshape(tf.bitcast(random, dtype), [batch, -1])[:, :number]


_PHILOX = tf.random.Algorithm.PHILOX.value


def split_seed(seed: tf.Tensor | None, number: int) -> list[tf.Tensor | None]:
    """`number` independent seeds of dropout, as dropout_words takes them, from one; of no seed, as many times none."""
    if seed is None:
        return [None] * number
    return [tf.concat([part, seed[2:]], 0) for part in tf.unstack(tf.random.split(seed[:2], number))]


# Composite layers


class causal_shift_nin(Layer):
    """A nin that sees the pixels to the left, above, above left and above right: a causal convolution by shifts.

    The channels are split into four parts (left, upleft, up, upright), each moved its own way. As in the original,
    the fourth part is never read: the upleft part serves twice. Its mem_saving_causal_shift_nin computes the same.
    """

    def __init__(self, num_filters: int, init_scale: float = 1.0):
        super().__init__()
        self.nin = nin(num_filters, init_scale)

    def call(self, x, cache=None):
        if cache is not None:
            return cache.look_back(self, x)
        left, upleft, up, _ = tf.split(x, 4, -1)
        seen = [right_shift(left), right_shift(down_shift(upleft)), down_shift(up), down_shift(left_shift(upleft))]
        return self.nin(tf.concat(seen, -1))

    def above(self, row):
        """As down_right_shifted_conv2d's."""
        w, b = _weights(self.nin)
        _, upleft, up, _ = tf.split(row, 4, -1)
        return _matmul(tf.concat([_from_left(upleft), up, _from_right(upleft)], -1), w[row.shape[-1] // 4 :]) + b

    def left_and_here(self, x):
        """As down_right_shifted_conv2d's; nothing of its own pixel is seen."""
        w, _ = _weights(self.nin)
        channels = x.shape[-1] // 4
        return tf.matmul(x[:, :channels], w[:channels]), None

    @property
    def input_channels(self):
        return self.nin.V.shape[0]


class conditional_weights(Layer):
    """What the labels add to a map: h [B, L] -> h @ hw [B, F]; hw ~ N(0, 0.05), no weight normalisation."""

    def __init__(self, num_filters: int):
        super().__init__(name="conditional_weights")
        self.num_filters = num_filters

    def build(self, h_shape):
        shape = [h_shape[-1], self.num_filters]
        self.hw = self.add_weight(shape, keras.initializers.RandomNormal(stddev=0.05), name="hw")

    def effective(self):
        return [self.hw]

    def call(self, h):
        (hw,) = _weights(self)
        return tf.matmul(h, hw)


class gated_resnet(Layer):
    """A residual block with a gate: x [B, H, W, C] -> x + p * sigmoid(q), of the same shape (paper, figure 3).

    `p` and `q` are what two `conv` layers, with dropout between them, make of x, of an optional second map `a`
    [B, H, W, A], and of optional labels `h` [B, L]. The layers that this takes are made at the first call, by what it
    is given: from then on it must be given the same.

    Args:
        conv: a layer class, called as conv(num_filters, init_scale=...): it decides which pixels are seen.
        nonlinearity: a name in `nonlinearities`.
        dropout_p: the probability of zeroing an element; dropout acts only where a call gives a seed.
    """

    def __init__(self, conv: type[keras.layers.Layer], nonlinearity: str = "elu", dropout_p: float = 0.0):
        super().__init__()
        self.conv = conv
        self.nonlinearity = nonlinearity
        self.dropout_p = dropout_p

    def build(self, x_shape, a_shape=None, h_shape=None):
        filters = x_shape[-1]
        # In the original's order of creation, which gives the variables their names.
        self.conv_in = self.conv(filters)
        self.nin_a = nin(filters) if a_shape else None
        self.conv_out = self.conv(2 * filters, init_scale=0.1)
        self.labels = conditional_weights(2 * filters) if h_shape else None

    def call(self, x, a=None, h=None, seed=None, cache=None):
        c1 = self._convolved(self.conv_in, x, cache=cache)
        if a is not None:
            c1 += self._convolved(self.nin_a, a)
        c2 = self._convolved(self.conv_out, c1, seed, cache)
        if h is not None:
            labels = tf.cast(self.labels(h), c2.dtype)
            c2 += labels if c2.shape.rank == 2 else labels[:, None, None]
        return elementwise.gate(x, c2)

    def _convolved(self, conv, x, seed=None, cache=None):
        """conv(nonlinearity of x), with dropout before conv if there is a seed."""
        if cache is not None:
            return conv(nonlinearities[self.nonlinearity](x), cache=cache)
        settings = {"has_margins": True} if isinstance(conv, conv2d) else {}
        margins = conv.margins(x.shape) if settings else None
        random = None
        if seed is not None and self.dropout_p:
            channels = x.shape[-1] * (2 if self.nonlinearity == "concat_elu" else 1)
            random = dropout_words([*_shape(x)[:-1], channels], self.dropout_p, seed)
        return conv(elementwise.activate(x, self.nonlinearity, margins, random, self.dropout_p), **settings)


_QUERY_CHUNKS = 4  # measured: more chunks skip more hidden keys, but each costs a few ops more


def causal_attention(
    key: tf.Tensor, mixin: tf.Tensor, query: tf.Tensor, downsample: int = 1, causal_unit: int = 1
) -> tf.Tensor:
    """Each pixel's mean of the values of all pixels before it in raster order, weighted by key and query.

    Single head, no projection. The weight of a value is exp((dot - max) / sqrt(D)) / (sum + 1e-6), dot the product of
    key and query, sum and max over the visible keys. A pixel with nothing before it gets zeros. (Paper, section 2.2;
    formula as the original's, whose mem_saving_causal_attention is the same function.)

    Queries go in chunks, each against the keys before it only: about half the work, the same result.

    Args:
        key: [B, H, W, D].
        mixin: the values, [B, H, W, M].
        query: [B, H, W, D].
        downsample: d; keys and values are max-pooled d x d (SAME). A pooled key is visible where all its pixels are.
        causal_unit: positions come in units of so many, in raster order, and a query sees only earlier units.

    Returns:
        [B, H, W, M].
    """
    height, width = query.shape[1:3]
    last_unit = tf.reshape(tf.range(height * width, dtype=tf.float32) // causal_unit, [1, height, width, 1])
    if downsample > 1:
        key, mixin, last_unit = (
            tf.nn.max_pool2d(map_, downsample, downsample, "SAME") for map_ in (key, mixin, last_unit)
        )
    flat_key, flat_mixin = _flatten_pixels(key), _flatten_pixels(mixin)
    flat_query = _flatten_pixels(query) / query.shape[-1] ** 0.5
    last_unit = tf.reshape(last_unit, [-1])

    rows = -(-height // _QUERY_CHUNKS)
    stops = [min(row + rows, height) * width for row in range(0, height, rows)]
    starts = [0, *stops[:-1]]
    mixed = []
    for chunk, start, stop in zip(tf.split(flat_query, np.diff([0, *stops]), 1), starts, stops, strict=True):
        # No later row of pooled cells is complete before the chunk's last pixel.
        seen = -(-stop // (width * downsample)) * key.shape[2]
        visible = last_unit[:seen] < (tf.range(start, stop, dtype=tf.float32) // causal_unit)[:, None]
        mixed.append(_attend(_first(flat_key, seen), _first(flat_mixin, seen), chunk, visible))
    return tf.reshape(tf.concat(mixed, 1), [*_shape(query)[:-1], mixin.shape[-1]])


def _attend(key, mixin, query, visible):
    """Attention of queries [B, Q, D], already scaled, over the keys [B, N, D] that `visible` [Q, N] admits."""
    some = tf.reduce_any(visible, -1, keepdims=True)

    @tf.custom_gradient
    def differentiable(key, mixin, query):
        logits = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
        softmax = tf.nn.softmax(logits + tf.where(visible, 0.0, -1e30))
        factor = tf.cast(attention_factor(softmax, some), mixin.dtype)
        probabilities = tf.cast(softmax, mixin.dtype)
        mixed = factor * tf.matmul(probabilities, mixin)

        def gradient(d_mixed):
            d_product = factor * d_mixed
            d_logits = elementwise.softmax_gradient(
                probabilities,
                tf.matmul(d_product, mixin, transpose_b=True),
                tf.reduce_sum(tf.cast(mixed * d_mixed, tf.float32), -1, keepdims=True),
            )
            return (
                tf.matmul(d_logits, query, transpose_a=True),
                tf.matmul(probabilities, d_product, transpose_a=True),
                tf.matmul(d_logits, key),
            )

        return mixed, gradient

    return differentiable(key, mixin, query)


def attention_factor(probabilities: tf.Tensor, some: tf.Tensor) -> tf.Tensor:
    """What makes softmax's probabilities [..., N] the original's: [..., 1]; 0 where a query sees not `some` key.

    The original divides exp(logit - max) by its sum + 1e-6. Its largest element is 1, so the softmax's is 1 / sum, and
    this factor makes the one quotient the other; as constant as 1e-6 lets it be, it needs no gradient.
    """
    largest = tf.reduce_max(probabilities, -1, keepdims=True)
    return tf.where(some, 1 / (1 + 1e-6 * largest), 0)


def _first(x, number):
    # Not x[:, :number]: the gradient of a strided slice takes several times as long as that of tf.slice.
    return tf.slice(x, [0, 0, 0], [-1, number, -1])


def _flatten_pixels(x):
    return tf.reshape(x, [_shape(x)[0], x.shape[1] * x.shape[2], x.shape[-1]])


def _shape(x):
    """The shape of x with what is known when the graph is traced as integers: only B may be unknown."""
    return [tf.shape(x)[0] if size is None else size for size in x.shape]
