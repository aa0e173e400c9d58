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

from pixel_snail.compiling import compiled

_WIDE = 2**16
"""C * F from which on Winograd's products save more than its transforms cost, as measured."""


def convolve(
    x: tf.Tensor, w: tf.Tensor, strides: tuple[int, int] = (1, 1), transformed: tf.Tensor | None = None
) -> tf.Tensor:
    """A convolution without zeros around: x [B, H, W, C], w [h, w, C, F] of its type -> [B, H-h+1, W-w+1, F].

    Args:
        transformed: what `made_of` made of w, if that was done before.
    """
    if _goes_winograds_way(w, strides, x.dtype):
        return winograd(x, w, transformed)
    if x.dtype == tf.bfloat16 and not _has_fast_bfloat16():
        if strides != (1, 1):
            return tf.cast(tf.nn.conv2d(tf.cast(x, tf.float32), tf.cast(w, tf.float32), strides, "VALID"), x.dtype)
        return shifted_copies(x, w)
    return tf.nn.conv2d(x, w, strides, "VALID")


def made_of(w: tf.Tensor, strides: tuple[int, int], dtype: tf.DType) -> list[tf.Tensor]:
    """What `convolve` of maps of a type makes of the filter [h, w, C, F], float32, before it sees one: a tensor, or
    none."""
    return [tf.cast(_weights(w), dtype)] if _goes_winograds_way(w, strides, dtype) else []


def _goes_winograds_way(w, strides, dtype):
    wide = w.shape[:2] == (2, 2) and strides == (1, 1) and w.shape[2] * w.shape[3] >= _WIDE
    fast_otherwise = _has_fast_bfloat16() if dtype == tf.bfloat16 else tf.config.list_physical_devices("GPU")
    return wide and not fast_otherwise


@functools.cache
def _has_fast_bfloat16():
    """Whether TensorFlow's convolutions of bfloat16 have fast gradients: on GPUs, and CPUs with Intel's AMX."""
    if tf.config.list_physical_devices("GPU"):
        return True
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def shifted_copies(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """`convolve` as one matrix product, [pixels, h * w * C] x [h * w * C, F]."""
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


def winograd(x: tf.Tensor, w: tf.Tensor, transformed: tf.Tensor | None = None) -> tf.Tensor:
    """`convolve` of a filter [2, 2, C, F] by Winograd's way.

    Args:
        transformed: the filter's transform, if it is at hand; of another type, it is of no use. The gradient is the
            filter's.
    """

    def transformed_after(tensor):
        # Not all layers' at once, as soon as the weights are known: these are four times as large.
        with tf.control_dependencies([tensor]):
            return transformed if transformed is not None and transformed.dtype == w.dtype else _weights(w)

    @tf.custom_gradient
    def differentiable(x, w):
        size = (x.shape[1] - 1, x.shape[2] - 1)
        y = _outputs(tf.matmul(_inputs(x), transformed_after(x)), size)

        def gradient(dy):
            # The transformed maps, twice as large as the maps, are not kept: they cost little to make again.
            with tf.control_dependencies([dy]):
                products = _outputs_gradient(dy)
                dx = _inputs_gradient(tf.matmul(products, transformed_after(dy), transpose_b=True), size)
                dw = _weights_gradient(tf.matmul(_inputs(x), products, transpose_a=True))
            return dx, dw

        return y, gradient

    return differentiable(x, w)


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
def _outputs(products, size):
    """A^T products A: [16, B * tiles, F] -> [B, H, W, F]."""

    def thirds(parts):
        p0, p1, p2, p3 = parts
        return [p0 + p1 + p2, p1 - p2, p1 + p2 + p3]

    products = tf.reshape(products, [4, 4, -1, *map(_tiles, size), products.shape[-1]])
    by_row = zip(*(thirds(tf.unstack(by_column)) for by_column in tf.unstack(products)), strict=True)
    return _interleaved([thirds(columns) for columns in by_row])[:, : size[0], : size[1]]


@compiled
def _outputs_gradient(dy):
    """[B, H, W, F] -> [16, B * tiles, F]."""
    tiles = [_tiles(side) for side in dy.shape[1:3]]
    for axis, number in zip((1, 3), tiles, strict=True):
        a, b, c = _thirds(dy, axis, 3, number)
        dy = tf.stack([a, a + b + c, a - b + c, c])
    return tf.reshape(dy, [16, -1, dy.shape[-1]])


@compiled
def _weights(w):
    """G w G^T: [2, 2, C, F] -> [16, C, F]."""
    for axis in (0, 1):
        a, b = tf.unstack(w, axis=axis)
        w = tf.stack([a, (a + b) / 2, (a - b) / 2, b])
    return tf.reshape(w, [16, *w.shape[2:]])


@compiled
def _weights_gradient(d):
    """[16, C, F] -> [2, 2, C, F]."""

    def taps(parts, axis):
        d0, d1, d2, d3 = parts
        return tf.stack([d0 + (d1 + d2) / 2, (d1 - d2) / 2 + d3], axis)

    by_column = tf.unstack(tf.reshape(d, [4, 4, *d.shape[1:]]))
    return taps([taps(tf.unstack(by_row), 0) for by_row in by_column], 1)


def _interleaved(thirds):
    """The map of which thirds[i][j], [B, tiles down, tiles across, C], are every third row and column."""
    y = tf.stack([tf.stack(row, 3) for row in thirds], 2)
    return tf.reshape(y, [-1, 3 * y.shape[1], 3 * y.shape[3], y.shape[5]])
