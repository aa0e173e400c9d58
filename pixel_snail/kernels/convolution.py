"""Convolutions: TensorFlow's, or one of two other algorithms where it is faster.

On CPUs, 2x2 and 2x3 filters with many channels (C * F, see `_wide`) use Winograd's minimal filtering on large maps
(Winograd 1980; Lavin & Gray 2016 for networks). In one dimension, four inputs d give three outputs y of a filter with
two taps w, or two outputs of one with three taps. They need four products instead of six:

    y = A^T [(G w) * (B^T d)],   B^T = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 -1 0 1],

    two taps:    G = [1 0; 1/2 1/2; 1/2 -1/2; 0 1],              A^T = [1 1 1 0; 0 1 -1 0; 0 1 1 1],
    three taps:  G = [1 0 0; 1/2 1/2 1/2; 1/2 -1/2 1/2; 0 0 1],  A^T = [1 1 1 0; 0 1 -1 1].

G takes the taps as the coefficients of a polynomial and gives its values at 0, 1, -1 and infinity (the last
coefficient); those at 1 and -1 are halved. A does the same without halving, for a polynomial with as many coefficients
as outputs; the algorithm uses its transpose. In two dimensions, with the G and A of each direction's number of taps,

    Y = A^T [(G w G^T) * (B^T d B)] A,

and a tile of 4 x 4 inputs needs 16 products instead of 36. The convolution is sixteen matrix products, [tiles, C] x
[C, F]. The transforms of inputs and outputs before and after them need additions only.

In bfloat16, TensorFlow's convolutions have fast gradients only on GPUs and on CPUs with AMX, so they are used there. On
other CPUs, these filters use Winograd's algorithm in bfloat16 too, and other filters are one matrix product over
shifted copies of the map. Strided filters are computed in float32.
"""

import functools
import operator

from pixel_snail.backend import tf
from pixel_snail.kernels import elementwise
from pixel_snail.kernels.gradients import custom_gradient
from pixel_snail.kernels.xla import compiled, is_large, of_words, words
from pixel_snail.parallel import devices


def convolve(
    x: tf.Tensor,
    w: tf.Tensor,
    b: tf.Tensor,
    strides: tuple[int, int] = (1, 1),
    transformed: tf.Tensor | None = None,
) -> tf.Tensor:
    """A convolution without padding, plus a bias: [B, H, W, C] -> [B, H - fh + 1, W - fw + 1, F] with strides of 1.

    Args:
        x: [B, H, W, C], float32 or bfloat16; the result has the same type.
        w: [fh, fw, C, F], float32, as is its gradient.
        b: [F], float32, as is its gradient.
        strides: (vertical, horizontal).
        transformed: `transform` of w, if it is already computed.
    """
    if _uses_winograd(w, strides, x.dtype) and _transforms_are_compiled(x, w):
        return winograd(x, w, b, transformed)
    return elementwise.add_bias(_convolve(x, tf.cast(w, x.dtype), strides), tf.cast(b, x.dtype))


def _convolve(x, w, strides):
    if x.dtype == tf.bfloat16 and not _has_fast_bfloat16():
        if strides != (1, 1):
            return tf.cast(tf.nn.conv2d(tf.cast(x, tf.float32), tf.cast(w, tf.float32), strides, "VALID"), x.dtype)
        return shifted_copies(x, w)
    return tf.nn.conv2d(x, w, strides, "VALID")


def transform(w: tf.Tensor, strides: tuple[int, int], dtype: tf.DType) -> tf.Tensor | None:
    """The Winograd transform, [16, C, F], of a float32 filter [fh, fw, C, F].

    Args:
        dtype: the type of the maps, and of the transform.

    Returns:
        None if `convolve` does not use Winograd's algorithm for such a filter.
    """
    return _transform(w, dtype) if _uses_winograd(w, strides, dtype) else None


def _uses_winograd(w, strides, dtype):
    wide = w.shape[:2] in ((2, 2), (2, 3)) and strides == (1, 1) and w.shape[2] * w.shape[3] >= _wide()
    fast_otherwise = _has_fast_bfloat16() if dtype == tf.bfloat16 else devices.number_of_gpus() > 0
    return wide and not fast_otherwise


def _transforms_are_compiled(x, w):
    """Whether XLA compiles the transforms of maps and outputs. If not, they take longer than the products they save."""
    batch, rows, columns, _ = x.shape
    height, width, channels, filters = w.shape
    return is_large(tf.TensorShape([batch, rows - height + 1, columns - width + 1, min(channels, filters)]))


def _wide():
    """The smallest C * F with which Winograd's fewer products save more time than its transforms cost.

    Measured on a CPU with AMX, whose plain convolutions are faster, and on one without.
    """
    return 2**16 if devices.has_amx() else 2**12


def _has_fast_bfloat16():
    """Whether TensorFlow's convolutions of bfloat16 have fast gradients."""
    return devices.number_of_gpus() > 0 or devices.has_amx()


def shifted_copies(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """A convolution with strides of 1 as one matrix product, [pixels, fh * fw * C] x [fh * fw * C, F].

    x [B, H, W, C] and w [fh, fw, C, F], of one type -> [B, H - fh + 1, W - fw + 1, F].
    """
    height, width, _, filters = w.shape

    @custom_gradient
    def differentiable(x, w):
        flat_w = tf.reshape(w, [-1, filters])
        y = tf.reshape(tf.matmul(_copies(x, height, width), flat_w), _outputs_shape(x, height, width, filters))

        def gradient(dy):
            dy = tf.reshape(dy, [-1, filters])
            dx = _copies_gradient(tf.matmul(dy, flat_w, transpose_b=True), height, width, x.shape[1], x.shape[2])
            # The copies, as large as fh * fw maps, are computed again rather than kept, and not before dy is there.
            with tf.control_dependencies([dy]):
                dw = tf.matmul(_copies(x, height, width), dy, transpose_a=True)
            return dx, tf.reshape(dw, w.shape)

        return y, gradient

    return differentiable(x, w)


def _outputs_shape(x, height, width, filters):
    return [-1, x.shape[1] - height + 1, x.shape[2] - width + 1, filters]


def _copies(x, height, width):
    down, across = x.shape[1] - height + 1, x.shape[2] - width + 1
    copies = [x[:, i : i + down, j : j + across] for i in range(height) for j in range(width)]
    return tf.reshape(tf.concat(copies, -1), [-1, height * width * x.shape[-1]])


@compiled
def _copies_gradient(copies, height, width, rows, columns):
    channels = copies.shape[-1] // (height * width)
    copies = tf.reshape(copies, [-1, rows - height + 1, columns - width + 1, height * width * channels])
    dx = 0.0
    for k, copy in enumerate(tf.split(copies, height * width, -1)):
        i, j = divmod(k, width)
        copy = tf.pad(copy, [[0, 0], [i, height - 1 - i], [j, width - 1 - j], [0, 0]])
        dx += copy
    return dx


def winograd(x: tf.Tensor, w: tf.Tensor, b: tf.Tensor, transformed: tf.Tensor | None = None) -> tf.Tensor:
    """`convolve` with a filter [fh, fw, C, F], fh and fw 2 or 3, and strides of 1, by Winograd's algorithm.

    Args:
        transformed: the filter's transform, if it is already computed; ignored if its type is not x's. The gradient
            goes to w, not to `transformed`.
    """
    taps = tuple(w.shape[:2])
    size = tuple(side - number + 1 for side, number in zip(x.shape[1:3], taps, strict=True))

    def transformed_after(tensor):
        # Without the dependency, TensorFlow would compute the transforms of all layers at once, as soon as the weights
        # are known. A transform is up to four times as large as its filter.
        with tf.control_dependencies([tensor]):
            return transformed if transformed is not None and transformed.dtype == x.dtype else _transform(w, x.dtype)

    @custom_gradient
    def differentiable(x, w, b):
        y = _outputs(words(tf.matmul(_inputs(x, taps), transformed_after(x))), b, size, taps)

        def gradient(dy):
            # The transformed maps, 1.8 or 2.7 times as large as the maps, are cheap: they are computed again, not kept.
            with tf.control_dependencies([dy]):
                products = _outputs_gradient(dy, taps)
                dx = _inputs_gradient(tf.matmul(products, transformed_after(dy), transpose_b=True), size, taps)
                dw = _weights_gradient(words(tf.matmul(_inputs(x, taps), products, transpose_a=True)), taps)
            return dx, dw, elementwise.sum_of_pixels(tf.cast(products[_SUMS], tf.float32))

        return y, gradient

    return differentiable(x, w, tf.convert_to_tensor(b))


def _transform(w, dtype):
    return tf.cast(_weights(w), dtype)


def _values(coefficients):
    """A polynomial's values at 0, 1, -1 and infinity, from two or three coefficients."""
    even, odd = (functools.reduce(operator.add, coefficients[first::2]) for first in (0, 1))
    return [coefficients[0], even + odd, even - odd, coefficients[-1]]


def _values_transposed(values, number):
    """The transpose of `_values` for `number` coefficients."""
    first, plus, minus, last = values
    both, difference = plus + minus, plus - minus
    inner = [difference] if number == 3 else []
    return [first + both, *inner, (both if number == 3 else difference) + last]


def _tiling(size, taps):
    """Along each side of a map with `size` outputs: the outputs of a tile, and the number of tiles."""
    steps = [5 - number for number in taps]
    return [(step, -(-side // step)) for side, step in zip(size, steps, strict=True)]


def _phases(x, axis, number, step, tiles):
    """x[0::step], x[1::step], ..., `number` of them, along an axis; each is padded with zeros to the length `tiles`."""
    phases = []
    for first in range(number):
        phase = x[(slice(None),) * axis + (slice(first, first + step * (tiles - 1) + 1, step),)]
        lacking = [[0, tiles - phase.shape[axis] if i == axis else 0] for i in range(x.shape.rank)]
        phases.append(tf.pad(phase, lacking))
    return phases


_AXES = (1, 3)
"""The axis of the rows, and that of the columns once the four phases of the rows are stacked in front."""


@compiled
def _inputs(x, taps):
    """B^T d B, the transform of the inputs: [B, H + fh - 1, W + fw - 1, C] -> [16, B * tiles, C]."""
    size = [side - number + 1 for side, number in zip(x.shape[1:3], taps, strict=True)]
    for axis, (step, tiles) in zip(_AXES, _tiling(size, taps), strict=True):
        a, b, c, d = _phases(x, axis, 4, step, tiles)
        x = tf.stack([a - c, b + c, c - b, d - b])
    return tf.reshape(x, [16, -1, x.shape[-1]])


@compiled
def _inputs_gradient(d, size, taps):
    """The gradient of `_inputs`: [16, B * tiles, C] -> [B, H + fh - 1, W + fw - 1, C]."""
    tilings = _tiling(size, taps)
    inputs = [side + number - 1 for side, number in zip(size, taps, strict=True)]

    def phases(parts, axis):
        d0, d1, d2, d3 = parts
        of_tile = [d0, d1 - d2 - d3, d1 + d2 - d0, d3]
        step, tiles = tilings[axis - 1]
        further = -(-inputs[axis - 1] // step) - tiles
        here, after = ([margin if i == axis else [0, 0] for i in range(4)] for margin in ([0, further], [1, 0]))
        sums = [tf.pad(part, here) for part in of_tile[:step]]
        # The last inputs of a tile are also the first of the next tile. In the last tile they may lie outside the map.
        for phase, part in enumerate(of_tile[step:]):
            sums[phase] += tf.pad(part if further else part[(slice(None),) * axis + (slice(-1),)], after)
        return sums

    d = tf.reshape(d, [4, 4, -1, *(tiles for _, tiles in tilings), d.shape[-1]])
    of_rows = [phases([d[column, row] for column in range(4)], 2) for row in range(4)]
    if taps[1] == 3:
        # Once stacked, the sums over columns are in memory. XLA would compute them again wherever they are read:
        # measured, the whole function would take five times as long. With two taps, it is faster without.
        stacked = tf.stack([tf.stack(columns) for columns in of_rows])
        of_rows = [[stacked[row, column] for column in range(stacked.shape[1])] for row in range(4)]
    of_columns = [phases(rows, 1) for rows in zip(*of_rows, strict=True)]
    return _interleaved(list(zip(*of_columns, strict=True)))[:, : inputs[0], : inputs[1]]


@compiled
def _outputs(products, b, size, taps):
    """A^T products A + b: products [16, B * tiles, F], or their `words` -> [B, H, W, F]."""
    (down, rows), (across, columns) = _tiling(size, taps)
    pieces = tf.reshape(products, [4, 4, -1, rows, columns, products.shape[-1]])
    by_column = [_values_transposed([of_words(pieces[j, i]) for i in range(4)], down) for j in range(4)]
    y = _interleaved([_values_transposed(values, across) for values in zip(*by_column, strict=True)])
    y = y[:, : size[0], : size[1]] + b
    return tf.cast(y, tf.bfloat16) if products.dtype == tf.uint16 else y


@compiled
def _outputs_gradient(dy, taps):
    """The gradient of `_outputs`, with respect to the products: [B, H, W, F] -> [16, B * tiles, F]."""
    for axis, (step, tiles) in zip(_AXES, _tiling(dy.shape[1:3], taps), strict=True):
        dy = tf.stack(_values(_phases(dy, axis, step, step, tiles)))
    return tf.reshape(dy, [16, -1, dy.shape[-1]])


_SUMS = 5
"""`_outputs_gradient(dy)[_SUMS]` has the sum of dy over each tile; the gradient of the bias is their sum."""


@compiled
def _weights(w):
    """G w G^T, the transform of the filter: [fh, fw, C, F] -> [16, C, F]."""
    for axis in (0, 1):
        first, plus, minus, last = _values(tf.unstack(w, axis=axis))
        w = tf.stack([first, plus / 2, minus / 2, last])
    return tf.reshape(w, [16, *w.shape[2:]])


@compiled
def _weights_gradient(d, taps):
    """The gradient of `_weights`: [16, C, F], or its `words` -> [fh, fw, C, F], float32."""

    def of_taps(values, number):
        first, plus, minus, last = values
        return _values_transposed([first, plus / 2, minus / 2, last], number)

    d = tf.reshape(d, [4, 4, *d.shape[1:]])
    by_column = [tf.stack(of_taps([of_words(d[j, i]) for i in range(4)], taps[0])) for j in range(4)]
    return tf.stack(of_taps(by_column, taps[1]), 1)


def _interleaved(phases):
    """The map [B, step * tiles, step' * tiles', C] with map[:, i::step, j::step'] = phases[i][j]."""
    y = tf.stack([tf.stack(row, 3) for row in phases], 2)
    return tf.reshape(y, [-1, len(phases) * y.shape[1], len(phases[0]) * y.shape[3], y.shape[5]])
