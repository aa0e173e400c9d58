"""Convolutions: TensorFlow's, or one of two other algorithms where it is faster.

Wide 2x2 filters on a CPU use Winograd's minimal filtering (Winograd 1980; Lavin & Gray 2016 for networks). In one
dimension, three outputs y of a filter with two taps w need four products instead of six. With d the four inputs that
these outputs see:

    y = A^T [(G w) * (B^T d)],   B^T = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 -1 0 1],
    G = [1 0; 1/2 1/2; 1/2 -1/2; 0 1],   A^T = [1 1 1 0; 0 1 -1 0; 0 1 1 1].

In two dimensions, a tile of 3 x 3 outputs needs 16 products instead of 36. So the convolution is sixteen matrix
products over all tiles, each with a C x F matrix, between transforms of the maps that only add. In float32, the error
is within a factor of two of a plain convolution's.

In bfloat16, the gradient of TensorFlow's convolution is fast on GPUs and on CPUs with AMX only. On other CPUs, wide 2x2
filters use Winograd's algorithm in bfloat16 as well, and other filters are applied as one matrix product over shifted
copies of the map. Only strided filters compute in float32 there.
"""

from pixel_snail.backend import tf
from pixel_snail.kernels import elementwise
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
    wide = w.shape[:2] == (2, 2) and strides == (1, 1) and w.shape[2] * w.shape[3] >= _wide()
    fast_otherwise = _has_fast_bfloat16() if dtype == tf.bfloat16 else devices.number_of_gpus() > 0
    return wide and not fast_otherwise


def _transforms_are_compiled(x, w):
    """Whether XLA compiles the transforms of maps and outputs. If not, they take longer than the products they save."""
    batch, rows, columns, channels = x.shape
    return is_large(tf.TensorShape([batch, rows - 1, columns - 1, min(channels, w.shape[3])]))


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

    Maps and filter have the same type.
    """
    height, width, _, filters = w.shape

    @tf.custom_gradient
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
    """`convolve` with a filter [2, 2, C, F] and strides of 1, by Winograd's algorithm.

    Args:
        transformed: the filter's transform, if it is already computed; ignored if its type is not x's. The gradient
            goes to w, not to `transformed`.
    """

    def transformed_after(tensor):
        # Without the dependency, TensorFlow would compute the transforms of all layers at once, as soon as the weights
        # are known. A transform is four times as large as its filter.
        with tf.control_dependencies([tensor]):
            return transformed if transformed is not None and transformed.dtype == x.dtype else _transform(w, x.dtype)

    @tf.custom_gradient
    def differentiable(x, w, b):
        size = (x.shape[1] - 1, x.shape[2] - 1)
        y = _outputs(words(tf.matmul(_inputs(x), transformed_after(x))), b, size)

        def gradient(dy):
            # The transformed maps are computed again rather than kept: they are twice as large as the maps, and cheap.
            with tf.control_dependencies([dy]):
                products = _outputs_gradient(dy)
                dx = _inputs_gradient(tf.matmul(products, transformed_after(dy), transpose_b=True), size)
                dw = _weights_gradient(words(tf.matmul(_inputs(x), products, transpose_a=True)))
            return dx, dw, elementwise.sum_of_pixels(tf.cast(products[_SUMS], tf.float32))

        return y, gradient

    return differentiable(x, w, tf.convert_to_tensor(b))


def _transform(w, dtype):
    return tf.cast(_weights(w), dtype)


def _tiles(size):
    return -(-size // 3)


def _thirds(x, axis, number, tiles):
    """x[0::3], x[1::3], ..., `number` of them, along an axis; each is padded with zeros to the length `tiles`."""
    thirds = []
    for first in range(number):
        third = x[(slice(None),) * axis + (slice(first, first + 3 * tiles - 2, 3),)]
        lacking = [[0, tiles - third.shape[axis] if i == axis else 0] for i in range(x.shape.rank)]
        thirds.append(tf.pad(third, lacking))
    return thirds


@compiled
def _inputs(x):
    """B^T d B, the transform of the inputs: [B, H+1, W+1, C] -> [16, B * tiles, C]."""
    tiles = [_tiles(side - 1) for side in x.shape[1:3]]
    for axis, number in zip((1, 3), tiles, strict=True):  # columns move from axis 2 to 3 when the rows are stacked
        a, b, c, d = _thirds(x, axis, 4, number)
        x = tf.stack([a - c, b + c, c - b, d - b])
    return tf.reshape(x, [16, -1, x.shape[-1]])


@compiled
def _inputs_gradient(d, size):
    """The gradient of `_inputs`: [16, B * tiles, C] -> [B, H+1, W+1, C]."""

    def thirds(parts, axis):
        # The last input of a tile is also the first of the next tile. In the last tile it may lie outside the map.
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
    """A^T products A + b: products [16, B * tiles, F], or their `words` -> [B, H, W, F]."""

    def thirds(parts):
        p0, p1, p2, p3 = parts
        return [p0 + p1 + p2, p1 - p2, p1 + p2 + p3]

    pieces = tf.reshape(products, [4, 4, -1, *map(_tiles, size), products.shape[-1]])
    by_column = [thirds([of_words(pieces[j, i]) for i in range(4)]) for j in range(4)]
    y = _interleaved([thirds(columns) for columns in zip(*by_column, strict=True)])[:, : size[0], : size[1]] + b
    return tf.cast(y, tf.bfloat16) if products.dtype == tf.uint16 else y


@compiled
def _outputs_gradient(dy):
    """The gradient of `_outputs`, with respect to the products: [B, H, W, F] -> [16, B * tiles, F]."""
    tiles = [_tiles(side) for side in dy.shape[1:3]]
    for axis, number in zip((1, 3), tiles, strict=True):
        a, b, c = _thirds(dy, axis, 3, number)
        dy = tf.stack([a, a + b + c, a - b + c, c])
    return tf.reshape(dy, [16, -1, dy.shape[-1]])


_SUMS = 5
"""`_outputs_gradient(dy)[_SUMS]` has the sum of dy over each tile; the gradient of the bias is their sum."""


@compiled
def _weights(w):
    """G w G^T, the transform of the filter: [2, 2, C, F] -> [16, C, F]."""
    for axis in (0, 1):
        a, b = tf.unstack(w, axis=axis)
        w = tf.stack([a, (a + b) / 2, (a - b) / 2, b])
    return tf.reshape(w, [16, *w.shape[2:]])


@compiled
def _weights_gradient(d):
    """The gradient of `_weights`: [16, C, F], or its `words` -> [2, 2, C, F], float32."""

    def taps(parts, axis):
        d0, d1, d2, d3 = parts
        return tf.stack([d0 + (d1 + d2) / 2, (d1 - d2) / 2 + d3], axis)

    d = tf.reshape(d, [4, 4, *d.shape[1:]])
    return taps([taps([of_words(d[j, i]) for i in range(4)], 0) for j in range(4)], 1)


def _interleaved(thirds):
    """The map [B, 3 * tiles down, 3 * tiles across, C] with map[:, i::3, j::3] = thirds[i][j]."""
    y = tf.stack([tf.stack(row, 3) for row in thirds], 2)
    return tf.reshape(y, [-1, 3 * y.shape[1], 3 * y.shape[3], y.shape[5]])
