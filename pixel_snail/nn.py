"""The layers and functions that PixelSNAIL is built from, under the original's names.

Layers with variables are Keras layers; the rest are functions. Names are lower case, as in the original's nn.py.
Shapes: B images, H rows, W columns, C channels, F filters; maps are [B, H, W, C]. Filters have fh rows, fw columns.

Sources: weight normalisation and data-dependent initialisation, Salimans & Kingma 2016 (see weights.py); shifts and
gated_resnet, Salimans et al. 2017 (PixelCNN++); causal_attention, PixelSNAIL, section 2.

Causal layers can also be called with a `cache` (see cache.py): then they compute one row or one pixel of their map.
"""

import functools
from collections.abc import Callable

import numpy as np

from pixel_snail.backend import keras, tf
from pixel_snail.errors import UserError
from pixel_snail.kernels import attention, convolution, dropout, elementwise, gather
from pixel_snail.likelihoods import values
from pixel_snail.settings import NONLINEARITIES
from pixel_snail.weights import Layer, PixelFilter, TransformedFilter, WeightNormalised

# Shifts


def down_shift(x: tf.Tensor, step: int = 1) -> tf.Tensor:
    """Moves a map [B, H, W, C] down by `step` rows; zeros come in on top."""
    return _moved(x, 1, step)


def right_shift(x: tf.Tensor, step: int = 1) -> tf.Tensor:
    """Moves a map [B, H, W, C] right by `step` columns; zeros come in on the left."""
    return _moved(x, 2, step)


def left_shift(x: tf.Tensor, step: int = 1) -> tf.Tensor:
    """Moves a map [B, H, W, C] left by `step` columns; zeros come in on the right."""
    return _moved(x, 2, -step)


# Weight-normalised layers


class dense(WeightNormalised):
    """Weight-normalised linear map of the last axis, [..., C] -> [..., F]."""

    kind = "dense"
    axes = (-2,)
    epsilon = 1e-10

    def direction_shape(self, channels):
        return [channels, self.num_filters]

    def linear(self, x, w):
        return _matmul(x, w)

    def affine(self, x, w, b):
        # The bias is added before the reshape to a map: TensorFlow then fuses product and sum into one operation.
        w, b = tf.cast(w, x.dtype), tf.cast(b, x.dtype)
        return _of_pixels(lambda pixels: elementwise.add_bias(tf.matmul(pixels, w), b), x)


nin = dense
"""Network in network, the original's name for a dense layer over the channels of a map: a 1x1 convolution."""


class conv2d(WeightNormalised):
    """Weight-normalised convolution, [B, H, W, C] -> [B, H', W', F], with zeros around x as `margins` says.

    Args:
        num_filters: F.
        filter_size: (fh, fw).
        strides: (vertical, horizontal).
        init_scale: see WeightNormalised.
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
        """The zeros around a map [B, H, W, C], (rows above, below), (columns left, right): here TensorFlow's SAME."""
        sides = []
        for size, field, stride in zip(x_shape[1:3], self.filter_size, self.strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + field - size, 0)
            sides.append((total // 2, total - total // 2))
        return tuple(sides)

    def call(self, x, has_margins=False):
        """Convolves x; has_margins: x already comes with the zeros around it."""
        if not has_margins:
            x = tf.pad(x, [[0, 0], *self.margins(x.shape), [0, 0]])
        return super().call(x)

    def linear(self, x, w):
        return tf.nn.conv2d(x, w, self.strides, "VALID")

    def affine(self, x, w, b, transformed=None):
        return convolution.convolve(x, w, b, self.strides, transformed)

    def for_maps(self, dtype, weights):
        transformed = convolution.transform(weights.w, self.strides, dtype)
        return weights if transformed is None else TransformedFilter(*weights, transformed)


class down_shifted_conv2d(conv2d):
    """A convolution whose output at a row sees this row and the fh - 1 rows above it, (fw - 1) / 2 columns either side.

    It is causal only once its output is moved down by a row. With a cache, x is one row, [B, 1, W, C], and the cache
    has the row above it.
    """

    def __init__(self, num_filters: int, filter_size=(2, 3), strides=(1, 1), init_scale: float = 1.0):
        super().__init__(num_filters, filter_size, strides, init_scale)

    def margins(self, x_shape):
        height, width = self.filter_size
        return (height - 1, 0), ((width - 1) // 2, (width - 1) // 2)

    def call(self, x, has_margins=False, cache=None):
        if cache is None:
            return super().call(x, has_margins)
        w, b = self.weights_now()
        rows = tf.concat([cache.row_before(self, x), x], 1)
        sides = [(self.filter_size[1] - 1) // 2] * 2
        return tf.nn.conv2d(tf.pad(rows, [[0, 0], [0, 0], sides, [0, 0]]), w, (1, self.strides[1]), "VALID") + b


class down_right_shifted_conv2d(conv2d):
    """A convolution whose output at a pixel sees this pixel and those above and to the left of it.

    With a cache, the filter must be (2, 2), x is one pixel's features, [B, C], and the cache has the contributions of
    the pixels above and to the left. The caller takes care of strides.
    """

    def __init__(self, num_filters: int, filter_size=(2, 2), strides=(1, 1), init_scale: float = 1.0):
        super().__init__(num_filters, filter_size, strides, init_scale)

    def margins(self, x_shape):
        height, width = self.filter_size
        return (height - 1, 0), (width - 1, 0)

    def call(self, x, has_margins=False, cache=None):
        return super().call(x, has_margins) if cache is None else cache.look_back(self, x)

    def for_pixels(self, weights):
        if self.filter_size != (2, 2):
            return weights
        above, here = (tf.reshape(row, [-1, self.num_filters]) for row in tf.unstack(weights.w))
        return PixelFilter(*weights, above=above, here=here)

    def above(self, row):
        """As in cache.CausalConvolution."""
        weights = self.weights_now()
        return _matmul(tf.concat([_from_left(row), row], -1), weights.above) + weights.b

    def here(self, left, x):
        """As in cache.CausalConvolution."""
        return tf.matmul(tf.concat([left, x], -1), self.weights_now().here)


class deconv2d(WeightNormalised):
    """Weight-normalised transposed convolution, VALID: [B, H, W, C] -> [B, H*s + fh - 1, W*s + fw - 1, F].

    Args:
        num_filters: F.
        filter_size: (fh, fw).
        strides: (vertical, horizontal) s.
        init_scale: see WeightNormalised.
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
    """deconv2d that restores the size of a strided down_shifted_conv2d's input: the last fh - 1 rows and both sides are
    cut off.

    With a cache, x is the row of the smaller map, [B, 1, W, C], that covers the current row.
    """

    def __init__(self, num_filters: int, filter_size=(2, 3), strides=(1, 1), init_scale: float = 1.0):
        super().__init__(num_filters, filter_size, strides, init_scale)

    def call(self, x, cache=None):
        height, width = self.filter_size
        side = (width - 1) // 2
        if cache is None:
            y = super().call(x)
            return tf.slice(y, [0, 0, side, 0], [-1, y.shape[1] - height + 1, y.shape[2] - 2 * side, -1])
        w, b = self.weights_now()
        shape = [x.shape[0], 1, x.shape[2] * self.strides[1] + width - 1, self.num_filters]
        w = tf.gather(w, [cache.y % self.strides[0]])
        y = tf.nn.conv2d_transpose(x, w, shape, (1, self.strides[1]), "VALID") + b
        return y[:, :, side : y.shape[2] - side]


class down_right_shifted_deconv2d(deconv2d):
    """deconv2d that restores the size of a strided down_right_shifted_conv2d's input: the last fh - 1 rows and fw - 1
    columns are cut off.

    With a cache, x is the features [B, C] of the smaller map's pixel that covers the current pixel.
    """

    def __init__(self, num_filters: int, filter_size=(2, 2), strides=(1, 1), init_scale: float = 1.0):
        super().__init__(num_filters, filter_size, strides, init_scale)

    def call(self, x, cache=None):
        if cache is None:
            y = super().call(x)
            height, width = self.filter_size
            return tf.slice(y, [0, 0, 0, 0], [-1, y.shape[1] - height + 1, y.shape[2] - width + 1, -1])
        w, b = self.weights_now()
        w = tf.gather(tf.gather(w, cache.y % self.strides[0]), cache.x % self.strides[1])
        return tf.matmul(x, w, transpose_b=True) + b


class causal_shift_nin(Layer):
    """A causal convolution by shifts: a nin over the pixels to the left, above left, above and above right.

    The channels are split into four parts (left, upleft, up, upright), each moved its own way. As in the original, the
    fourth part is never read and upleft is used twice. The original's mem_saving_causal_shift_nin is the same function.
    With a cache, x is one pixel's features, as in down_right_shifted_conv2d.
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

    @property
    def input_channels(self):
        """C, once the layer is built."""
        return self.nin.V.shape[0]

    def above(self, row):
        """As in cache.CausalConvolution."""
        w, b = self.nin.weights_now()
        _, upleft, up, _ = tf.split(row, 4, -1)
        return _matmul(tf.concat([_from_left(upleft), up, _from_right(upleft)], -1), w[row.shape[-1] // 4 :]) + b

    def here(self, left, x):
        """As in cache.CausalConvolution; the pixel itself is not seen."""
        w, _ = self.nin.weights_now()
        channels = x.shape[-1] // 4
        return tf.matmul(left[:, :channels], w[:channels])


class conditional_weights(Layer):
    """The contribution of labels and conditions to a map: h @ hw, [B, D] -> [B, F], or [B, H, W, D] -> [B, H, W, F].

    Of labels alone, h is one-hot. hw ~ N(0, 0.05); it is not weight-normalised.
    """

    def __init__(self, num_filters: int):
        super().__init__()
        self.num_filters = num_filters

    def build(self, h_shape):
        shape = [h_shape[-1], self.num_filters]
        self.hw = self.add_weight(shape, keras.initializers.RandomNormal(stddev=0.05), name="hw")

    def call(self, h):
        (hw,) = self.weights_now()
        return _matmul(h, hw)

    @property
    def parameters(self):
        return (self.hw,)


CODE_CHANNELS = 16
"""E, the width of the vectors that `embedding` learns for codes."""


class embedding(Layer):
    """A learned vector for each of L codes: numbers in [-1, 1] that stand for codes, [..., 1] -> [..., E].

    The vectors have E = CODE_CHANNELS numbers, are initialised from N(0, 0.1), and are not weight-normalised. Layers
    normalise what they compute from them; so with smaller numbers, the same steps of Adam change more.
    """

    def __init__(self, codes: int):
        super().__init__()
        self.codes = codes

    def build(self, x_shape):
        shape = [self.codes, CODE_CHANNELS]
        self.vectors = self.add_weight(shape, keras.initializers.RandomNormal(stddev=0.1), name="vectors")

    def call(self, x):
        (vectors,) = self.weights_now()
        return gather.rows(vectors, values.nearest(x[..., 0], self.codes))

    @property
    def parameters(self):
        return (self.vectors,)


# Blocks


def concat_elu(x: tf.Tensor) -> tf.Tensor:
    """elu(x) and elu(-x), side by side: [..., C] -> [..., 2C]."""
    return tf.nn.elu(tf.concat([x, -x], -1))


nonlinearities: dict[str, Callable[[tf.Tensor], tf.Tensor]] = dict(
    zip(NONLINEARITIES, (concat_elu, tf.nn.elu, tf.nn.relu), strict=True)
)
"""The nonlinearities, by the names that --resnet_nonlinearity takes."""

fast_nonlinearities = {
    concat_elu: elementwise.CONCAT_ELU,
    tf.nn.elu: elementwise.ELU,
    tf.nn.relu: elementwise.RELU,
}
"""The faster forms of functions in `nonlinearities`. For other functions, TensorFlow derives the gradient."""


class gated_resnet(Layer):
    """A residual block with a gate, [B, H, W, F] -> [B, H, W, F] (paper, figure 3, grey box; PixelCNN++).

    With f the nonlinearity:

        c1 = conv(f(x)) + nin(f(a))             a, a second map [B, H, W, A], is optional
        c2 = conv(dropout(f(c1))) + h @ hw      h, labels and conditions [B, D] or [B, H, W, D], are optional
        result = x + p * sigmoid(q)             p and q [B, H, W, F] are the halves of c2

    The first call creates the inner layers that its arguments need; later calls must have the same arguments.

    Args:
        conv: a layer class, called as conv(num_filters, init_scale=...). It decides which pixels the block sees.
        nonlinearity: a name in `nonlinearities`.
        dropout_p: the probability of zeroing an element; dropout acts only in calls with a seed.

    Raises:
        UserError: `nonlinearities` has no such name.
    """

    def __init__(self, conv: type[keras.layers.Layer], nonlinearity: str = "elu", dropout_p: float = 0.0):
        super().__init__()
        if nonlinearity not in nonlinearities:
            raise UserError(f"unknown nonlinearity {nonlinearity!r}; known: {', '.join(sorted(nonlinearities))}")
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
            of_h = tf.cast(self.labels(h), c2.dtype)
            c2 += of_h if of_h.shape.rank == c2.shape.rank else of_h[:, None, None]
        return elementwise.gate(x, c2)

    def _convolved(self, conv, x, seed=None, cache=None):
        """conv(f(x)), with dropout in between if there is a seed."""
        f = nonlinearities[self.nonlinearity]
        if cache is not None:
            return conv(f(x), cache=cache)
        # Nonlinearity, dropout and the convolution's margins are one pass over memory.
        settings = {"has_margins": True} if isinstance(conv, conv2d) else {}
        margins = conv.margins(x.shape) if settings else None
        random = None
        if seed is not None and self.dropout_p:
            random = dropout.random_words([*_shape(x)[:-1], _channels_of(f, x.shape[-1])], self.dropout_p, seed)
        fast = fast_nonlinearities.get(f) or elementwise.Nonlinearity(f)
        return conv(elementwise.activate(x, fast, margins, random, self.dropout_p), **settings)


QUERY_CHUNKS = 4  # measured: more chunks skip more hidden keys, but each costs a few more operations


def causal_attention(
    key: tf.Tensor, mixin: tf.Tensor, query: tf.Tensor, downsample: int = 1, causal_unit: int = 1
) -> tf.Tensor:
    """Attention of each pixel over all pixels before it in raster order; single head, no projection.

    (Paper, section 2.2; formula as the original's, whose mem_saving_causal_attention is the same function.)
    For a query q and the visible keys k_j with their values v_j, D the number of key channels:

        weight_j = exp((q . k_j - max_j q . k_j) / sqrt(D))
        result = sum_j weight_j v_j / (sum_j weight_j + 1e-6)

    A pixel with nothing before it gets zeros.

    Args:
        key: [B, H, W, D].
        mixin: the values, [B, H, W, M].
        query: [B, H, W, D].
        downsample: d; keys and values are max-pooled d x d (SAME). A pooled key is visible once all its pixels are.
        causal_unit: u; pixels are counted in units of u in raster order, and a query sees only keys of earlier units.
            With u = W, a query sees the rows above its own.

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

    # Chunks of queries, each against the keys before its end only: about half the work, the same result.
    rows = -(-height // QUERY_CHUNKS)
    stops = [min(row + rows, height) * width for row in range(0, height, rows)]
    starts = [0, *stops[:-1]]
    mixed = []
    for chunk, start, stop in zip(tf.split(flat_query, np.diff([0, *stops]), 1), starts, stops, strict=True):
        # No later row of pooled cells is complete before the chunk's last pixel.
        seen = -(-stop // (width * downsample)) * key.shape[2]
        visible = last_unit[:seen] < (tf.range(start, stop, dtype=tf.float32) // causal_unit)[:, None]
        mixed.append(attention.attend(_first(flat_key, seen), _first(flat_mixin, seen), chunk, visible))
    return tf.reshape(tf.concat(mixed, 1), [*_shape(query)[:-1], mixin.shape[-1]])


def average_pool(x: tf.Tensor, size: int) -> tf.Tensor:
    """Averages over cells of size x size pixels, [B, H, W, C] -> [B, H / size, W / size, C]."""
    return tf.nn.avg_pool2d(x, size, size, "SAME")


def repeat_pixels(x: tf.Tensor, rows: int, columns: int | None = None) -> tf.Tensor:
    """Repeats each pixel over a cell, [B, H, W, C] -> [B, H * rows, W * columns, C]; cells are square by default."""
    columns = rows if columns is None else columns
    for axis, size in ((1, rows), (2, columns)):
        x = tf.repeat(x, size, axis) if size > 1 else x
    return x


def first_pixels(h: tf.Tensor | None, size: int) -> tf.Tensor | None:
    """The first pixel of each cell of size x size, of a map [B, H, W, D]; vectors [B, D] and None stay as they are."""
    return h if h is None or h.shape.rank == 2 or size == 1 else h[:, ::size, ::size]


# Helpers


@functools.cache
def _channels_of(f, channels):
    """The number of channels of f(x) for x of so many channels."""
    with tf.init_scope():
        return f(tf.zeros([1, channels])).shape[-1]


def _moved(x, axis, step):
    margins = [[max(step, 0), max(-step, 0)] if i == axis else [0, 0] for i in range(4)]
    rest = [size - abs(step) if i == axis else -1 for i, size in enumerate(x.shape)]
    return tf.pad(tf.slice(x, [after for _, after in margins], rest), margins)


def _from_left(row):
    """A row [W, B, C] moved right by one; zeros come in."""
    return tf.pad(row[:-1], [[1, 0], [0, 0], [0, 0]])


def _from_right(row):
    """A row [W, B, C] moved left by one; zeros come in."""
    return tf.pad(row[1:], [[0, 1], [0, 0], [0, 0]])


def _matmul(x, w):
    """x [..., C] times w [C, F] as one matrix product over all pixels; TensorFlow would take one for each image."""
    return _of_pixels(lambda pixels: tf.matmul(pixels, w), x)


def _of_pixels(function, x):
    """Applies a function from [N, C] to [N, F] to all pixels of x [..., C]: [..., F]."""
    if x.shape.rank == 2:
        return function(x)
    y = function(tf.reshape(x, [-1, x.shape[-1]]))
    return tf.reshape(y, [*_shape(x)[:-1], y.shape[-1]])


def _first(x, number):
    # tf.slice rather than x[:, :number]: the gradient of a strided slice takes several times as long.
    return tf.slice(x, [0, 0, 0], [-1, number, -1])


def _flatten_pixels(x):
    return tf.reshape(x, [_shape(x)[0], x.shape[1] * x.shape[2], x.shape[-1]])


def _shape(x):
    """The shape of x: integers, and a tensor for B if B is not known when the graph is traced."""
    return [tf.shape(x)[0] if size is None else size for size in x.shape]
