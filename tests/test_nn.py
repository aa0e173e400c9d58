"""Each layer against a plain, slow NumPy version of its formula, in float64."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import plain
from pixel_snail import nn
from pixel_snail.kernels import dropout
from pixel_snail.weights import data_dependent_initialisation

# The rounding error of float32 sums over tens of elements of order 1.
TOLERANCE = 1e-5

NUMPY_NONLINEARITIES = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "relu": lambda x: np.maximum(x, 0),
    "concat_elu": lambda x: NUMPY_NONLINEARITIES["elu"](np.concatenate([x, -x], -1)),
}


def assert_close(actual, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


def with_random_variables(layer, rng, *shapes, **named_shapes):
    """Builds the layer and gives its variables values of order 1."""
    layer(*(tf.zeros(shape) for shape in shapes), **{name: tf.zeros(shape) for name, shape in named_shapes.items()})
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return layer


def values(layer):
    return [np.asarray(variable, np.float64) for variable in layer.trainable_variables]


def plain_conv2d(x, w, strides, top, bottom, left, right):
    x = np.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]])
    fh, fw = w.shape[:2]
    height, width = (x.shape[1] - fh) // strides[0] + 1, (x.shape[2] - fw) // strides[1] + 1
    y = np.zeros([x.shape[0], height, width, w.shape[3]])
    for i, j in itertools.product(range(height), range(width)):
        window = x[:, i * strides[0] : i * strides[0] + fh, j * strides[1] : j * strides[1] + fw]
        y[:, i, j] = np.einsum("bhwc,hwcf->bf", window, w)
    return y


def plain_deconv2d(x, w, strides):
    fh, fw = w.shape[:2]
    height, width = x.shape[1:3]
    y = np.zeros([x.shape[0], height * strides[0] + fh - 1, width * strides[1] + fw - 1, w.shape[2]])
    for i, j in itertools.product(range(height), range(width)):
        spread = np.einsum("bc,hwfc->bhwf", x[:, i, j], w)
        y[:, i * strides[0] : i * strides[0] + fh, j * strides[1] : j * strides[1] + fw] += spread
    return y


@pytest.mark.parametrize("step", [1, 2])
def test_shifts_move_by_step_and_let_zeros_in(rng, step):
    x = rng.normal(size=[2, 5, 6, 3]).astype(np.float32)
    down, right, left = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    down[:, step:] = x[:, :-step]
    right[:, :, step:] = x[:, :, :-step]
    left[:, :, :-step] = x[:, :, step:]
    np.testing.assert_array_equal(nn.down_shift(x, step), down)
    np.testing.assert_array_equal(nn.right_shift(x, step), right)
    np.testing.assert_array_equal(nn.left_shift(x, step), left)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("filter_size", [(3, 3), (2, 3), (1, 1)])
def test_conv2d_is_a_same_convolution_of_normalised_weights(rng, filter_size, strides):
    layer = with_random_variables(nn.conv2d(4, filter_size, strides), rng, [1, 6, 5, 3])
    x = rng.normal(size=[2, 6, 5, 3])
    v, g, b = values(layer)
    w = g * v / np.sqrt((v**2).sum((0, 1, 2)))
    same = tf.nn.conv2d(x, w, strides, "SAME") + b
    assert_close(layer(tf.cast(x, tf.float32)), np.asarray(same))


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("filter_size", [(2, 3), (1, 3), (3, 5)])
def test_down_shifted_conv2d_sees_rows_above_and_both_sides(rng, filter_size, strides):
    layer = with_random_variables(nn.down_shifted_conv2d(4, filter_size, strides), rng, [1, 6, 4, 3])
    x = rng.normal(size=[2, 6, 4, 3])
    v, g, b = values(layer)
    w = g * v / np.sqrt((v**2).sum((0, 1, 2)))
    side = (filter_size[1] - 1) // 2
    assert_close(layer(tf.cast(x, tf.float32)), plain_conv2d(x, w, strides, filter_size[0] - 1, 0, side, side) + b)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("filter_size", [(2, 2), (2, 1), (3, 2)])
def test_down_right_shifted_conv2d_sees_above_and_left(rng, filter_size, strides):
    layer = with_random_variables(nn.down_right_shifted_conv2d(4, filter_size, strides), rng, [1, 6, 4, 3])
    x = rng.normal(size=[2, 6, 4, 3])
    v, g, b = values(layer)
    w = g * v / np.sqrt((v**2).sum((0, 1, 2)))
    expected = plain_conv2d(x, w, strides, filter_size[0] - 1, 0, filter_size[1] - 1, 0) + b
    assert_close(layer(tf.cast(x, tf.float32)), expected)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_deconv2d_spreads_each_pixel_over_its_filter(rng, strides):
    layer = with_random_variables(nn.deconv2d(4, (3, 2), strides), rng, [1, 3, 5, 2])
    x = rng.normal(size=[2, 3, 5, 2])
    v, g, b = values(layer)
    w = g[:, None] * v / np.sqrt((v**2).sum((0, 1, 3)))[:, None]
    assert_close(layer(tf.cast(x, tf.float32)), plain_deconv2d(x, w, strides) + b)


@pytest.mark.parametrize("kind, filter_size", [("down_shifted", (2, 3)), ("down_right_shifted", (2, 2))])
def test_shifted_deconv2d_undoes_the_size_of_a_strided_convolution(rng, kind, filter_size):
    layer = with_random_variables(getattr(nn, f"{kind}_deconv2d")(4, strides=(2, 2)), rng, [1, 3, 4, 2])
    x = rng.normal(size=[2, 3, 4, 2])
    v, g, b = values(layer)
    full = plain_deconv2d(x, g[:, None] * v / np.sqrt((v**2).sum((0, 1, 3)))[:, None], (2, 2)) + b
    expected = full[:, :6, 1:9] if kind == "down_shifted" else full[:, :6, :8]
    assert expected.shape == (2, 6, 8, 4)
    assert_close(layer(tf.cast(x, tf.float32)), expected)


@pytest.mark.parametrize("shape", [[7, 5], [2, 3, 4, 5]])
def test_dense_scales_its_outputs_and_nin_is_dense_over_channels(rng, shape):
    layer = with_random_variables(nn.nin(3), rng, shape)
    x = rng.normal(size=shape)
    v, g, b = values(layer)
    assert_close(layer(tf.cast(x, tf.float32)), x @ v * g / np.sqrt((v**2).sum(0)) + b)


@pytest.mark.parametrize(
    "layer",
    [
        nn.conv2d(5),
        nn.down_shifted_conv2d(5),
        nn.down_right_shifted_conv2d(5, init_scale=0.1),
        nn.deconv2d(5, strides=(2, 2)),
        nn.down_shifted_deconv2d(5),
        nn.nin(5, init_scale=0.1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_initialisation_normalises_the_outputs_of_its_batch(rng, layer):
    x = tf.cast(rng.normal(1, 3, size=[4, 6, 6, 3]), tf.float32)
    layer(x)
    with data_dependent_initialisation():
        outputs = layer(x)
    again = np.asarray(layer(x))
    assert_close(outputs, again)
    # A shifted deconvolution normalises its outputs before it crops them.
    if not isinstance(layer, nn.down_shifted_deconv2d):
        np.testing.assert_allclose(again.mean((0, 1, 2)), 0, atol=1e-4 * layer.init_scale)
        np.testing.assert_allclose(again.std((0, 1, 2)), layer.init_scale, rtol=1e-4)


def test_causal_shift_nin_uses_upleft_twice_and_never_reads_upright(rng):
    layer = with_random_variables(nn.causal_shift_nin(6), rng, [1, 4, 5, 8])
    x = rng.normal(size=[2, 4, 5, 8])
    v, g, b = values(layer)
    padded = np.pad(x, [[0, 0], [1, 0], [1, 1], [0, 0]])
    here, above = padded[:, 1:], padded[:, :-1]
    seen = [here[:, :, :-2, 0:2], above[:, :, :-2, 2:4], above[:, :, 1:-1, 4:6], above[:, :, 2:, 2:4]]
    expected = np.concatenate(seen, -1) @ v * g / np.sqrt((v**2).sum(0)) + b
    assert_close(layer(tf.cast(x, tf.float32)), expected)
    x[..., 6:] = 100
    assert_close(layer(tf.cast(x, tf.float32)), expected)


@pytest.mark.parametrize("conv", [nn.down_right_shifted_conv2d, nn.down_shifted_conv2d, nn.nin])
@pytest.mark.parametrize("nonlinearity", ["elu", "relu", "concat_elu"])
def test_gated_resnet_is_its_formula(rng, nonlinearity, conv):
    layer = nn.gated_resnet(conv, nonlinearity)
    with_random_variables(layer, rng, [1, 4, 5, 3], a=[1, 4, 5, 2], h=[1, 7])
    x, a, h = (rng.normal(size=shape) for shape in ([2, 4, 5, 3], [2, 4, 5, 2], [2, 7]))
    v1, g1, b1, va, ga, ba, v2, g2, b2, hw = values(layer)
    f = NUMPY_NONLINEARITIES[nonlinearity]

    def plain(x, v, g, b):
        w = g * v / np.sqrt((v**2).sum(tuple(range(v.ndim - 1))))
        if conv is nn.nin:
            return x @ w + b
        side = {nn.down_right_shifted_conv2d: (1, 0), nn.down_shifted_conv2d: (1, 1)}[conv]
        return plain_conv2d(x, w, (1, 1), 1, 0, *side) + b

    c1 = plain(f(x), v1, g1, b1) + f(a) @ va * ga / np.sqrt((va**2).sum(0)) + ba
    p, q = np.split(plain(f(c1), v2, g2, b2) + (h @ hw)[:, None, None], 2, -1)
    actual = layer(
        *(tf.cast(t, tf.float32) for t in (x,)), **{k: tf.cast(t, tf.float32) for k, t in (("a", a), ("h", h))}
    )
    assert_close(actual, x + p / (1 + np.exp(-q)))


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.3])
def test_the_dropout_mask_keeps_its_share_and_is_repeated_by_its_seed(rate):
    def mask(images, *seed):
        shape = [images, 7, 11, 13]
        return dropout.kept(dropout.random_words(shape, rate, tf.constant(seed)), tf.TensorShape(shape), rate).numpy()

    keep = mask(10, 1, 2, 0)
    # The standard deviation of the share in 10,010 draws is 0.005 at most.
    assert abs(keep.mean() - (1 - rate)) < 0.02
    np.testing.assert_array_equal(keep, mask(10, 1, 2, 0))
    assert (keep != mask(10, 1, 3, 0)).any()
    assert (keep[:1] != keep[1:]).any((1, 2, 3)).all()
    # Elements that share a random word are independent, too: the correlations at all distances are zero, up to a
    # standard deviation of 0.01.
    flat = keep.reshape(-1) - keep.mean()
    correlations = np.fft.irfft(np.abs(np.fft.rfft(flat)) ** 2, flat.size) / flat.size / flat.var()
    assert np.abs(correlations[1:]).max() < 0.06
    np.testing.assert_array_equal(keep[7:], mask(3, 1, 2, 7), "an image's mask depends on the others in its batch")


def plain_attention(key, mixin, query, downsample):
    """The original's formula of attention, pixel by pixel and key by key."""
    batch, height, width, channels = query.shape
    mixed = np.zeros([batch, height, width, mixin.shape[-1]])
    cells = list(itertools.product(range(-(-height // downsample)), range(-(-width // downsample))))
    for b, y, x in itertools.product(range(batch), range(height), range(width)):
        dots, seen = [], []
        for i, j in cells:
            cell = np.s_[b, i * downsample : (i + 1) * downsample, j * downsample : (j + 1) * downsample]
            last_row = min((i + 1) * downsample, height) - 1
            last_column = min((j + 1) * downsample, width) - 1
            if last_row * width + last_column < y * width + x:
                dots.append(query[b, y, x] @ key[cell].max((0, 1)))
                seen.append(mixin[cell].max((0, 1)))
        if dots:
            weights = np.exp((np.array(dots) - max(dots)) / np.sqrt(channels))
            mixed[b, y, x] = weights @ np.array(seen) / (weights.sum() + 1e-6)
    return mixed


@pytest.mark.parametrize("downsample", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (4, 6), (7, 3), (1, 5)])
@pytest.mark.parametrize("magnitude", [1, 30])
def test_causal_attention_is_the_plain_loop(rng, size, downsample, magnitude):
    key, query = (magnitude * rng.normal(size=[2, *size, 3]) for _ in range(2))
    mixin = rng.normal(size=[2, *size, 5])
    actual = nn.causal_attention(*(tf.cast(t, tf.float32) for t in (key, mixin, query)), downsample)
    # With magnitude 30, dot products are of order 1,000, and their errors of order 1e-4 enter the exponential.
    assert_close(actual, plain_attention(key, mixin, query, downsample), tolerance=1e-6 if magnitude == 1 else 1e-3)


@pytest.mark.parametrize("downsample", [1, 2])
def test_the_gradient_of_causal_attention_is_that_of_the_formula(rng, downsample):
    maps = [tf.cast(rng.normal(size=[2, 6, 4, channels]), tf.float32) for channels in (3, 5, 3)]
    weights = tf.cast(rng.normal(size=[2, 6, 4, 5]), tf.float32)
    gradients = []
    for attention in (nn.causal_attention, plain.causal_attention):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            mixed = tf.reduce_sum(weights * attention(*maps, downsample))
        gradients.append(tape.gradient(mixed, maps))
    for actual, expected in zip(*gradients, strict=True):
        assert_close(actual, expected, tolerance=5e-6)


def test_the_first_pixel_attends_to_nothing_and_leaves_no_nan_in_gradients(rng):
    key, mixin, query = (tf.cast(rng.normal(size=[1, 3, 3, 4]), tf.float32) for _ in range(3))
    with tf.GradientTape() as tape:
        tape.watch([key, mixin, query])
        mixed = nn.causal_attention(key, mixin, query)
    np.testing.assert_array_equal(mixed[0, 0, 0], np.zeros(4))
    for gradient in tape.gradient(mixed, [key, mixin, query]):
        assert np.isfinite(gradient).all()
