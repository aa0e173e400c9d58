"""How a convolution is computed: by TensorFlow, or in two other ways where they are faster.

Wide 2x2 filters, on a CPU, by Winograd's minimal filtering (Winograd 1980; Lavin & Gray 2016 for networks). In one
dimension, three outputs of a filter of two taps need four products instead of six: with d the four inputs that the
outputs y see, and w the taps,

    y = A^T [(G w) * (B^T d)],   B^T = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 -1 0 1],
    G = [1 0; 1/2 1/2; 1/2 -1/2; 0 1],   A^T = [1 1 1 0; 0 1 -1 0; 0 1 1 1].

In two dimensions, tiles of 3 x 3 outputs need 16 products instead of 36: sixteen matrix products over all tiles, each
C x F, between transforms that only add. In float32 the error is that of a plain convolution to within a factor of two.

In bfloat16, TensorFlow's convolution has a fast gradient on GPUs and on CPUs with AMX only. On others, wide filters go
Winograd's way as well, and narrower ones are applied as one matrix product over shifted copies of the map.
"""

import functools
from pathlib import Path

import tensorflow as tf

from pixel_snail.kernels import elementwise
from pixel_snail.kernels.xla import compiled, of_words, words


def convolve(
    x: tf.Tensor,
    w: tf.Tensor,
    b: tf.Tensor,
    strides: tuple[int, int] = (1, 1),
    transformed: tf.Tensor | None = None,
) -> tf.Tensor:
    """A convolution without zeros around, and a bias: x [B, H, W, C], w [h, w, C, F], b [F] -> [B, H-h+1, W-w+1, F].

    Args:
        x: float32 or bfloat16, and so is the result. w and b, and their gradients, are float32.
        transformed: what `made_of` made of w, if that was done before.
    """
    if _goes_winograds_way(w, strides, x.dtype):
        return winograd(x, w, b, transformed)
    return elementwise.add_bias(_convolve(x, tf.cast(w, x.dtype), strides), tf.cast(b, x.dtype))


def _convolve(x, w, strides):
    if x.dtype == tf.bfloat16 and not _has_fast_bfloat16():
        if strides != (1, 1):
            return tf.cast(tf.nn.conv2d(tf.cast(x, tf.float32), tf.cast(w, tf.float32), strides, "VALID"), x.dtype)
        return shifted_copies(x, w)
    return tf.nn.conv2d(x, w, strides, "VALID")


def made_of(w: tf.Tensor, strides: tuple[int, int], dtype: tf.DType) -> list[tf.Tensor]:
    """What `convolve` of maps of a type makes of the filter [h, w, C, F], float32, before it sees one: a tensor, or
    none."""
    return [_made(w, dtype)] if _goes_winograds_way(w, strides, dtype) else []


def _goes_winograds_way(w, strides, dtype):
    wide = w.shape[:2] == (2, 2) and strides == (1, 1) and w.shape[2] * w.shape[3] >= _wide()
    fast_otherwise = _has_fast_bfloat16() if dtype == tf.bfloat16 else _has_gpu()
    return wide and not fast_otherwise


def _wide():
    """C * F from which on Winograd's products save more than its transforms cost, as measured on a CPU with AMX, whose
    plain convolutions are faster, and on one without."""
    return 2**16 if _has_amx() else 2**12


def _has_fast_bfloat16():
    """Whether TensorFlow's convolutions of bfloat16 have fast gradients."""
    return _has_gpu() or _has_amx()


def _has_gpu():
    return bool(tf.config.list_physical_devices("GPU"))


@functools.cache
def _has_amx():
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def shifted_copies(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The convolution, maps and filter of one type, as one matrix product, [pixels, h * w * C] x [h * w * C, F]."""
    height, width, _, filters = w.shape

    @tf.custom_gradient
    def differentiable(x, w):
        flat_w = tf.reshape(w, [-1, filters])
        y = tf.reshape(tf.matmul(_copies(x, height, width), flat_w), _outputs_shape(x, height, width, filters))

        def gradient(dy):
            dy = tf.reshape(dy, [-1, filters])
            dx = _copies_gradient(tf.matmul(dy, flat_w, transpose_b=True), height, width, x.shape[1], x.shape[2])
            # The copies are as large as many maps: they are not kept but made again, when they are due.
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
    """`convolve` with a filter [2, 2, C, F] by Winograd's way.

    Args:
        transformed: the filter's transform, if it is at hand; of another type than x, it is of no use. The gradient is
            the filter's.
    """

    def transformed_after(tensor):
        # Not all layers' at once, as soon as the weights are known: these are four times as large.
        with tf.control_dependencies([tensor]):
            return transformed if transformed is not None and transformed.dtype == x.dtype else _made(w, x.dtype)

    @tf.custom_gradient
    def differentiable(x, w, b):
        size = (x.shape[1] - 1, x.shape[2] - 1)
        y = _outputs(words(tf.matmul(_inputs(x), transformed_after(x))), b, size)

        def gradient(dy):
            # The transformed maps, twice as large as the maps, are not kept: they cost little to make again.
            with tf.control_dependencies([dy]):
                products = _outputs_gradient(dy)
                dx = _inputs_gradient(tf.matmul(products, transformed_after(dy), transpose_b=True), size)
                dw = _weights_gradient(words(tf.matmul(_inputs(x), products, transpose_a=True)))
            return dx, dw, elementwise.sum_of_pixels(tf.cast(products[_SUMS], tf.float32))

        return y, gradient

    return differentiable(x, w, tf.convert_to_tensor(b))


def _made(w, dtype):
    return tf.cast(_weights(w), dtype)


def _tiles(size):
    return -(-size // 3)


def _thirds(x, axis, number, tiles):
    """Of an axis, x[0::3], x[1::3], ..., so many, each as long as there are tiles; what x lacks for that is zeros."""
    thirds = []
    for first in range(number):
        third = x[(slice(None),) * axis + (slice(first, first + 3 * tiles - 2, 3),)]
        lacking = [[0, tiles - third.shape[axis] if i == axis else 0] for i in range(x.shape.rank)]
        thirds.append(tf.pad(third, lacking))
    return thirds


@compiled
def _inputs(x):
    """B^T d B: [B, H+1, W+1, C] -> [16, B * tiles, C]."""
    tiles = [_tiles(side - 1) for side in x.shape[1:3]]
    for axis, number in zip((1, 3), tiles, strict=True):  # the second time, the first axis is that of the first four
        a, b, c, d = _thirds(x, axis, 4, number)
        x = tf.stack([a - c, b + c, c - b, d - b])
    return tf.reshape(x, [16, -1, x.shape[-1]])


@compiled
def _inputs_gradient(d, size):
    """[16, B * tiles, C] -> [B, H+1, W+1, C]."""

    def thirds(parts, axis):
        # The last input of a tile is the first one of the next, which is missing where the map ends.
        d0, d1, d2, d3 = parts
        further = size[axis - 1] // 3 + 1 - d0.shape[axis]
        here, after = ([margin if i == axis else [0, 0] for i in range(4)] for margin in ([0, further], [1, 0]))
        before = d3 if further else d3[(slice(None),) * axis + (slice(-1),)]
        return [tf.pad(d0, here) + tf.pad(before, after), tf.pad(d1 - d2 - d3, here), tf.pad(d1 + d2 - d0, here)]

    d = tf.reshape(d, [4, 4, -1, *map(_tiles, size), d.shape[-1]])
    by_row = zip(*(thirds(tf.unstack(by_column), 1) for by_column in tf.unstack(d)), strict=True)
    return _interleaved([thirds(columns, 2) for columns in by_row])[:, : size[0] + 1, : size[1] + 1]


@compiled
def _outputs(products, b, size):
    """A^T products A + b: [16, B * tiles, F], or its words -> [B, H, W, F]."""

    def thirds(parts):
        p0, p1, p2, p3 = parts
        return [p0 + p1 + p2, p1 - p2, p1 + p2 + p3]

    pieces = tf.reshape(products, [4, 4, -1, *map(_tiles, size), products.shape[-1]])
    by_column = [thirds([of_words(pieces[j, i]) for i in range(4)]) for j in range(4)]
    y = _interleaved([thirds(columns) for columns in zip(*by_column, strict=True)])[:, : size[0], : size[1]] + b
    return tf.cast(y, tf.bfloat16) if products.dtype == tf.uint16 else y


@compiled
def _outputs_gradient(dy):
    """[B, H, W, F] -> [16, B * tiles, F]."""
    tiles = [_tiles(side) for side in dy.shape[1:3]]
    for axis, number in zip((1, 3), tiles, strict=True):
        a, b, c = _thirds(dy, axis, 3, number)
        dy = tf.stack([a, a + b + c, a - b + c, c])
    return tf.reshape(dy, [16, -1, dy.shape[-1]])


_SUMS = 5
"""Which of the sixteen, in `_outputs_gradient`, are the sums of all of a tile's outputs."""


@compiled
def _weights(w):
    """G w G^T: [2, 2, C, F] -> [16, C, F]."""
    for axis in (0, 1):
        a, b = tf.unstack(w, axis=axis)
        w = tf.stack([a, (a + b) / 2, (a - b) / 2, b])
    return tf.reshape(w, [16, *w.shape[2:]])


@compiled
def _weights_gradient(d):
    """[16, C, F], or its words -> [2, 2, C, F], float32."""

    def taps(parts, axis):
        d0, d1, d2, d3 = parts
        return tf.stack([d0 + (d1 + d2) / 2, (d1 - d2) / 2 + d3], axis)

    d = tf.reshape(d, [4, 4, *d.shape[1:]])
    return taps([taps([of_words(d[j, i]) for i in range(4)], 0) for j in range(4)], 1)


def _interleaved(thirds):
    """The map of which thirds[i][j], [B, tiles down, tiles across, C], are every third row and column."""
    y = tf.stack([tf.stack(row, 3) for row in thirds], 2)
    return tf.reshape(y, [-1, 3 * y.shape[1], 3 * y.shape[3], y.shape[5]])
