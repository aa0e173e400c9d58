"""Chains of small operations, each compiled into one pass over memory, with gradients that keep little.

A training step made of TensorFlow's single operations spends as much time on memory as on arithmetic. What is computed
is said in nn.py's words; it is the same to rounding. For a gradient, each function keeps what the next layer keeps
anyway, and no map in between.
"""

from collections.abc import Callable

import tensorflow as tf

from pixel_snail.compiling import compiled

Margins = tuple[tuple[int, int], tuple[int, int]]


def normalised(v: tf.Tensor, g: tf.Tensor, axes: tuple[int, ...], channel_axis: int) -> tf.Tensor:
    """g * v / |v|, the norm taken over `axes`; g lies along `channel_axis`, the last or the last but one."""

    def along(channels):
        return tf.expand_dims(channels, 1) if channel_axis == -2 else channels

    @tf.custom_gradient
    def differentiable(v, g):
        inverse = tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(v), axes), _SMALLEST_SQUARE))

        def gradient(dw):
            dg = inverse * tf.reduce_sum(dw * v, axes)
            # The norm of a v next to zero is a constant.
            turned = tf.where(inverse < _SMALLEST_SQUARE**-0.5, dg * inverse, 0)
            return _turn_and_scale(dw, v, along(turned), along(g * inverse)), dg

        return v * along(g * inverse), gradient

    return differentiable(tf.convert_to_tensor(v), tf.convert_to_tensor(g))


_SMALLEST_SQUARE = 1e-12


@compiled
def _turn_and_scale(dw, v, turned, scale):
    return scale * (dw - v * turned)


def add_bias(x: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """x [..., C] + b [C]."""

    @tf.custom_gradient
    def differentiable(x, b):
        return tf.nn.bias_add(x, b), lambda dy: (dy, _sum_of_pixels(dy))

    return differentiable(x, tf.convert_to_tensor(b))


def _sum_of_pixels(x):
    # As a matrix product: TensorFlow's sum over all axes but the last takes three times as long.
    x = tf.reshape(x, [-1, x.shape[-1]])
    return tf.matmul(tf.ones([1, tf.shape(x)[0]], x.dtype), x)[0]


def gate(x: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    """x [..., F] + p * sigmoid(q), p and q [..., F] the halves of c [..., 2F]."""

    @tf.custom_gradient
    def differentiable(x, c):
        return _gate(x, c), lambda dy: (dy, _gate_gradient(c, dy))

    return differentiable(x, c)


@compiled
def _gate(x, c):
    p, q = tf.split(c, 2, -1)
    return x + p * tf.sigmoid(q)


@compiled
def _gate_gradient(c, dy):
    p, q = tf.split(c, 2, -1)
    s = tf.sigmoid(q)
    return tf.concat([dy * s, dy * p * s * (1 - s)], -1)


def concat_elu(x: tf.Tensor) -> tf.Tensor:
    """elu of x and of -x, side by side: [..., C] -> [..., 2C]."""
    return tf.nn.elu(tf.concat([x, -x], -1))


nonlinearities: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "concat_elu": concat_elu,
    "elu": tf.nn.elu,
    "relu": tf.nn.relu,
}
"""What --resnet_nonlinearity may name."""


def activate(
    x: tf.Tensor, nonlinearity: str, margins: Margins | None = None, keep: tf.Tensor | None = None, rate: float = 0.0
) -> tf.Tensor:
    """The nonlinearity of x [B, H, W, C], with dropout where `keep` says, and zeros around it.

    Args:
        nonlinearity: a name in `nonlinearities`.
        margins: rows above and below, columns left and right.
        keep: of the result's shape but for the margins, which elements dropout keeps; without it, all.
        rate: the probability with which it doesn't: what is kept is divided by 1 - rate.
    """

    @tf.custom_gradient
    def differentiable(x):
        y = _activate(x, keep, nonlinearity, margins, 1 / (1 - rate))
        return y, lambda dy: _activate_gradient(y, keep, dy, nonlinearity, margins, 1 - rate)

    return differentiable(x)


@compiled
def _activate(x, keep, nonlinearity, margins, scale):
    y = nonlinearities[nonlinearity](x)
    if keep is not None:
        y = tf.where(keep, y * scale, 0)
    return y if margins is None else tf.pad(y, [[0, 0], *margins, [0, 0]])


@compiled
def _activate_gradient(y, keep, dy, nonlinearity, margins, kept):
    if margins is not None:
        (top, bottom), (left, right) = margins
        y, dy = (map_[:, top : map_.shape[1] - bottom, left : map_.shape[2] - right] for map_ in (y, dy))
    if keep is not None:
        y, dy = y * kept, tf.where(keep, dy / kept, 0)
    dx = tf.where(y > 0, dy, 0 if nonlinearity == "relu" else dy * (y + 1))
    if nonlinearity == "concat_elu":
        plus, minus = tf.split(dx, 2, -1)
        dx = plus - minus
    return dx


@compiled
def softmax_gradient(probabilities: tf.Tensor, d_probabilities: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """The gradient of the logits [..., N]; `mean` [..., 1] is that of d_probabilities under the probabilities."""
    return probabilities * (d_probabilities - tf.cast(mean, d_probabilities.dtype))


@compiled
def adam_step(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    m: tf.Tensor,
    v: tf.Tensor,
    average: tf.Tensor,
    learning_rate: tf.Tensor,
    corrections: tuple[tf.Tensor, tf.Tensor],
    betas: tuple[float, float],
    epsilon: float,
    polyak_decay: float,
) -> tuple[tf.Tensor, ...]:
    """The parameters, m, v and the average after a step of optimizer.PolyakAdam, of vectors of the same length."""
    m = betas[0] * m + (1 - betas[0]) * gradient
    v = betas[1] * v + (1 - betas[1]) * tf.square(gradient)
    parameter -= learning_rate * (m / corrections[0]) / tf.sqrt(v / corrections[1] + epsilon)
    return parameter, m, v, polyak_decay * average + (1 - polyak_decay) * parameter
