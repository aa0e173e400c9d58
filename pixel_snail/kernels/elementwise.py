"""Chains of elementwise operations, each compiled into one pass over memory, with gradients that keep little.

With TensorFlow's single operations, a training step spends as much time on memory as on arithmetic. The results are
those of the formulas in nn.py to rounding. For its gradient, each function keeps only tensors that the next layer keeps
anyway, and no map in between.
"""

import dataclasses
from collections.abc import Callable, Sequence

from pixel_snail.backend import tf
from pixel_snail.kernels import dropout
from pixel_snail.kernels.gradients import custom_gradient
from pixel_snail.kernels.xla import compiled, is_large

Margins = tuple[tuple[int, int], tuple[int, int]]
"""The zeros around a map: (rows above, below), (columns left, right)."""

SMALLEST_SQUARE = 1e-12
"""Weight normalisation is W = g V / sqrt(max(sum(V^2), SMALLEST_SQUARE)), as TensorFlow's l2_normalize has it.

`normalised` computes it for training, evaluation and drawing. The data-dependent initialisation (weights.py) takes
l2_normalize itself. Compression (codec/archive.py) takes it in float64, as TensorFlow's square roots differ between
processors.
"""


def normalised(v: Sequence[tf.Tensor], g: Sequence[tf.Tensor], axes: tuple[int, ...]) -> list[tf.Tensor]:
    """Weight normalisation of several layers at once: g * v / |v| for each v.

    Args:
        v: tensors of one shape.
        g: a scale for each v; its shape has those axes of v, in order, that are not in `axes`.
        axes: the axes of v over which the norm is computed, counted from the last: -1, -2, ...
    """
    number = len(v)

    @tf.custom_gradient
    def differentiable(*vectors):
        v, g = tf.stack(vectors[:number]), tf.stack(vectors[number:])
        squares = tf.reduce_sum(tf.square(v), axes, keepdims=True)
        inverse = tf.math.rsqrt(tf.maximum(squares, SMALLEST_SQUARE))
        scale = tf.reshape(g, squares.shape) * inverse

        def gradient(*dw):
            # v is stacked again rather than kept: it is as large as all the weights.
            with tf.control_dependencies(dw[:1]):
                v, dw = tf.stack(vectors[:number]), tf.stack(dw)
            dg = inverse * tf.reduce_sum(dw * v, axes, keepdims=True)
            # A norm below the smallest is replaced by the smallest, a constant: it has no gradient.
            turned = tf.where(inverse < SMALLEST_SQUARE**-0.5, dg * inverse, 0)
            dv = _turn_and_scale(dw, v, turned, scale)
            return [*tf.unstack(dv), *tf.unstack(tf.reshape(dg, g.shape))]

        return tf.unstack(v * scale), gradient

    return differentiable(*map(tf.convert_to_tensor, [*v, *g]))


@compiled
def _turn_and_scale(dw, v, turned, scale):
    return scale * (dw - v * turned)


def add_bias(x: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """x [..., C] + b [C], with a faster gradient of b than TensorFlow's."""

    @custom_gradient
    def differentiable(x, b):
        return tf.nn.bias_add(x, b), lambda dy: (dy, sum_of_pixels(dy))

    return differentiable(x, tf.convert_to_tensor(b))


def sum_of_pixels(x: tf.Tensor) -> tf.Tensor:
    """The sum over all axes but the last, [..., C] -> [C]."""
    # As a matrix product: TensorFlow's sum takes three times as long.
    x = tf.reshape(x, [-1, x.shape[-1]])
    return tf.matmul(tf.ones([1, tf.shape(x)[0]], x.dtype), x)[0]


def gate(x: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    """x + p * sigmoid(q), [..., F]; p and q are the halves of c [..., 2F]."""

    @custom_gradient
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
    return _side_by_side(dy * s, dy * p * s * (1 - s))


def _side_by_side(a, b):
    """tf.concat([a, b], -1) of two maps [..., F]."""
    if not is_large(a.shape):
        return tf.concat([a, b], -1)
    # XLA computes a choice between padded maps in one pass, but a concatenation in two or three.
    filters = a.shape[-1]
    before, after = ([[0, 0]] * (a.shape.rank - 1) + [margin] for margin in ([0, filters], [filters, 0]))
    return tf.where(tf.range(2 * filters) < filters, tf.pad(a, before), tf.pad(b, after))


def _elu(x):
    # On CPUs, equal to tf.nn.elu bit by bit. XLA compiles tf.nn.elu to an expm1, which takes twice as long as this.
    return tf.where(x > 0, x, tf.exp(x) - 1) if is_large(x.shape) else tf.nn.elu(x)


def _elu_gradient(y, dy):
    # Where y = elu(x) = exp(x) - 1, the derivative is y + 1. For small maps, which are not compiled, one operation.
    return tf.where(y > 0, dy, dy * (y + 1)) if is_large(y.shape) else tf.raw_ops.EluGrad(gradients=dy, outputs=y)


def _concat_elu(x):
    if not is_large(x.shape):
        return tf.nn.elu(tf.concat([x, -x], -1))
    # One of x and -x is not positive. The exponential of that one serves both.
    below = tf.exp(-tf.abs(x)) - 1
    return _side_by_side(tf.where(x > 0, x, below), tf.where(x < 0, -x, below))


def _concat_elu_gradient(y, dy):
    plus, minus = tf.split(_elu_gradient(y, dy), 2, -1)
    return plus - minus


@dataclasses.dataclass(frozen=True, eq=False)
class Nonlinearity:
    """A nonlinearity f, for `activate`.

    Args:
        formula: f, in a form that XLA compiles well.
        gradient: gradient(y, dy) is the gradient of x where y = f(x): it needs y only, which the next layer keeps
            anyway. None: TensorFlow derives the gradient from the formula, and keeps what it needs for it.
    """

    formula: Callable[[tf.Tensor], tf.Tensor]
    gradient: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None


ELU = Nonlinearity(_elu, _elu_gradient)
CONCAT_ELU = Nonlinearity(_concat_elu, _concat_elu_gradient)
RELU = Nonlinearity(tf.nn.relu, lambda y, dy: tf.where(y > 0, dy, 0))


def activate(
    x: tf.Tensor,
    nonlinearity: Nonlinearity,
    margins: Margins | None = None,
    random: tf.Tensor | None = None,
    rate: float = 0.0,
) -> tf.Tensor:
    """A nonlinearity of x [B, H, W, C], then dropout, then zeros around the map.

    Args:
        nonlinearity: the nonlinearity.
        margins: the zeros; None: no zeros.
        random: dropout.random_words for the shape of the result without margins; None: no dropout.
        rate: the probability that dropout zeroes an element; the others are divided by 1 - rate.
    """
    if nonlinearity.gradient is None:
        return _drop_and_pad(nonlinearity.formula(x), random, margins, rate)

    @custom_gradient
    def differentiable(x):
        y = _activate(x, random, nonlinearity, margins, rate)
        return y, lambda dy: _activate_gradient(y, random, dy, nonlinearity, margins, rate)

    return differentiable(x)


@compiled
def _activate(x, random, nonlinearity, margins, rate):
    return _drop_and_pad(nonlinearity.formula(x), random, margins, rate)


def _drop_and_pad(y, random, margins, rate):
    if random is not None:
        y = tf.where(dropout.kept(random, y.shape, rate), y / (1 - rate), 0)
    return y if margins is None else tf.pad(y, [[0, 0], *margins, [0, 0]])


@compiled
def _activate_gradient(y, random, dy, nonlinearity, margins, rate):
    if margins is not None:
        (top, bottom), (left, right) = margins
        size = [-1, y.shape[1] - top - bottom, y.shape[2] - left - right, -1]
        y, dy = (tf.slice(map_, [0, top, left, 0], size) for map_ in (y, dy))
    if random is not None:
        y, dy = y * (1 - rate), tf.where(dropout.kept(random, y.shape, rate), dy / (1 - rate), 0)
    return nonlinearity.gradient(y, dy)


@compiled
def softmax_gradient(probabilities: tf.Tensor, d_probabilities: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """The gradient of a softmax's logits, [..., N].

    Args:
        probabilities: the softmax, [..., N].
        d_probabilities: the gradient of the probabilities, [..., N].
        mean: sum(probabilities * d_probabilities), [..., 1].
    """
    return probabilities * (d_probabilities - mean)
