"""Chains of small operations, each compiled into one pass over memory, with gradients that keep little.

A training step made of TensorFlow's single operations spends as much time on memory as on arithmetic. What is computed
is said in nn.py's words; it is the same to rounding. For a gradient, each function keeps what the next layer keeps
anyway, and no map in between.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from pixel_snail.kernels.xla import compiled

Margins = tuple[tuple[int, int], tuple[int, int]]


def normalised(v: Sequence[tf.Tensor], g: Sequence[tf.Tensor], axes: tuple[int, ...]) -> list[tf.Tensor]:
    """Of each v, which are of one shape, g * v / |v|: the norm is taken over `axes`, g has the other ones, in order.

    Args:
        axes: counted from the last.
    """
    number = len(v)

    @tf.custom_gradient
    def differentiable(*vectors):
        v, g = tf.stack(vectors[:number]), tf.stack(vectors[number:])
        squares = tf.reduce_sum(tf.square(v), axes, keepdims=True)
        inverse = tf.math.rsqrt(tf.maximum(squares, _SMALLEST_SQUARE))
        scale = tf.reshape(g, squares.shape) * inverse

        def gradient(*dw):
            # Stacked anew rather than kept: it is as large as all the weights.
            with tf.control_dependencies(dw[:1]):
                v, dw = tf.stack(vectors[:number]), tf.stack(dw)
            dg = inverse * tf.reduce_sum(dw * v, axes, keepdims=True)
            # The norm of a v next to zero is a constant.
            turned = tf.where(inverse < _SMALLEST_SQUARE**-0.5, dg * inverse, 0)
            dv = _turn_and_scale(dw, v, turned, scale)
            return [*tf.unstack(dv), *tf.unstack(tf.reshape(dg, g.shape))]

        return tf.unstack(v * scale), gradient

    return differentiable(*map(tf.convert_to_tensor, [*v, *g]))


_SMALLEST_SQUARE = 1e-12


@compiled
def _turn_and_scale(dw, v, turned, scale):
    return scale * (dw - v * turned)


def add_bias(x: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """x [..., C] + b [C]."""

    @tf.custom_gradient
    def differentiable(x, b):
        return tf.nn.bias_add(x, b), lambda dy: (dy, sum_of_pixels(dy))

    return differentiable(x, tf.convert_to_tensor(b))


def sum_of_pixels(x: tf.Tensor) -> tf.Tensor:
    """[..., C] -> [C]."""
    # As a matrix product: TensorFlow's sum over all axes but the last takes three times as long.
    x = tf.reshape(x, [-1, x.shape[-1]])
    return tf.matmul(tf.ones([1, tf.shape(x)[0]], x.dtype), x)[0]


def gate(x: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    """x [..., F] + p * sigmoid(q), p and q [..., F] the halves of c [..., 2F]."""

    @tf.custom_gradient
    def differentiable(x, c):
        return _gate(x, c), lambda dy: (dy, tf.concat(_gate_gradient(c, dy), -1))

    return differentiable(x, c)


@compiled
def _gate(x, c):
    p, q = tf.split(c, 2, -1)
    return x + p * tf.sigmoid(q)


@compiled
def _gate_gradient(c, dy):
    p, q = tf.split(c, 2, -1)
    s = tf.sigmoid(q)
    return dy * s, dy * p * s * (1 - s)


def concat_elu(x: tf.Tensor) -> tf.Tensor:
    """elu of x and of -x, side by side: [..., C] -> [..., 2C]."""
    return tf.nn.elu(tf.concat([x, -x], -1))


nonlinearities: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "concat_elu": concat_elu,
    "elu": tf.nn.elu,
    "relu": tf.nn.relu,
}
"""What --resnet_nonlinearity may name."""


def _elu(x):
    # What tf.nn.elu computes on CPUs, to the bit. XLA makes an expm1 of that, which takes twice the time of all this.
    return tf.where(x > 0, x, tf.exp(x) - 1)


_formulas = nonlinearities | {"concat_elu": lambda x: _elu(tf.concat([x, -x], -1)), "elu": _elu}
"""The nonlinearities, for XLA."""


def activate(
    x: tf.Tensor, nonlinearity: str, margins: Margins | None = None, random: tf.Tensor | None = None, rate: float = 0.0
) -> tf.Tensor:
    """The nonlinearity of x [B, H, W, C], with dropout if there are random numbers for it, and zeros around it.

    Args:
        nonlinearity: a name in `nonlinearities`.
        margins: rows above and below, columns left and right.
        random: what `kept` is given for the result's shape but for the margins.
        rate: the probability with which dropout does not keep an element: what is kept is divided by 1 - rate.
    """

    @tf.custom_gradient
    def differentiable(x):
        y = _activate(x, random, nonlinearity, margins, rate)
        return y, lambda dy: _activate_gradient(y, random, dy, nonlinearity, margins, rate)

    return differentiable(x)


@compiled
def _activate(x, random, nonlinearity, margins, rate):
    y = _formulas[nonlinearity](x)
    if random is not None:
        y = tf.where(kept(random, y.shape, rate), y / (1 - rate), 0)
    return y if margins is None else tf.pad(y, [[0, 0], *margins, [0, 0]])


@compiled
def _activate_gradient(y, random, dy, nonlinearity, margins, rate):
    if margins is not None:
        (top, bottom), (left, right) = margins
        y, dy = (map_[:, top : map_.shape[1] - bottom, left : map_.shape[2] - right] for map_ in (y, dy))
    if random is not None:
        y, dy = y * (1 - rate), tf.where(kept(random, y.shape, rate), dy / (1 - rate), 0)
    dx = tf.where(y > 0, dy, 0 if nonlinearity == "relu" else dy * (y + 1))
    if nonlinearity == "concat_elu":
        plus, minus = tf.split(dx, 2, -1)
        dx = plus - minus
    return dx


def kept(random: tf.Tensor, shape: tf.TensorShape, rate: float) -> tf.Tensor:
    """Which elements dropout keeps: each with probability 1 - rate, to 2^-16 (exactly, if rate is a multiple of that).

    Args:
        random: [B, N], N at least the number of an image's elements divided by those that a word serves; of the type
            and for as many as `word_of` says.
        shape: [B, ...].
    """
    dtype, bits, elements = word_of(rate)
    threshold = min(round(rate * 2**bits), 2**bits - 1)
    # Elements far apart share a word: neighbours are computed side by side, each of its own word.
    masks, thresholds = (
        tf.constant([[value << bits * i] for i in range(elements)], dtype) for value in (2**bits - 1, threshold)
    )
    keep = tf.bitwise.bitwise_and(random[:, None], masks) >= thresholds
    keep = tf.reshape(keep, [-1, elements * random.shape[1]])[:, : shape[1:].num_elements()]
    return tf.reshape(keep, [-1, *shape[1:]])


def word_of(rate: float) -> tuple[tf.DType, int, int]:
    """Of what a dropout mask is made: the type of its random words, the bits that an element takes, and how many
    elements a word serves. Random numbers are what dropout costs."""
    bits = next((bits for bits in (1, 2, 4, 8) if (rate * 2**bits).is_integer()), 16)
    return (tf.uint16, 16, 1) if bits == 16 else (tf.uint8, bits, 8 // bits)


@compiled
def softmax_gradient(probabilities: tf.Tensor, d_probabilities: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """The gradient of the logits [..., N]; `mean` [..., 1] is that of d_probabilities under the probabilities."""
    return probabilities * (d_probabilities - mean)


@compiled
def adam_step(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    m: tf.Tensor,
    v: tf.Tensor,
    learning_rate: tf.Tensor,
    corrections: Sequence[tf.Tensor],
    betas: Sequence[float],
    epsilon: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The parameters after a step of optimizer.PolyakAdam, and where they and Adam's new state are finite; of vectors
    of one length."""
    m, v = _moved(m, gradient, betas[0]), _moved(v, tf.square(gradient), betas[1])
    updated = parameter - learning_rate * (m / corrections[0]) / tf.sqrt(v / corrections[1] + epsilon)
    # A gradient that is not finite, or whose square is not, shows in v, and so does what would make m so.
    return updated, tf.math.is_finite(v) & tf.math.is_finite(updated)


@compiled
def running_mean(mean: tf.Tensor, value: tf.Tensor, decay: float, of_squares: bool = False) -> tf.Tensor:
    """decay mean + (1 - decay) value, or of the value's square; of vectors of one length."""
    return _moved(mean, tf.square(value) if of_squares else value, decay)


def _moved(mean, value, decay):
    return decay * mean + (1 - decay) * value
