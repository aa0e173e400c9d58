"""Each algorithm for a convolution, with its gradients, against TensorFlow's in float64."""

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail.kernels import convolution, xla


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(xla, "SMALL", 0)  # else the tests' small tensors would not be compiled


def values_and_gradients(convolve, arguments, weights):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        y = convolve(*arguments)
        loss = tf.reduce_sum(tf.cast(y, weights.dtype) * weights)
    return [y, *tape.gradient(loss, arguments)]


def assert_is_tensorflows(convolve, dtype, size, filter_size, tolerance, rng):
    """Compares the values and gradients of convolve(x, w, b), or of shifted_copies(x, w), to TensorFlow's."""
    takes_bias = convolve is not convolution.shifted_copies
    x, w, b = rng.normal(size=[2, *size, 3]), rng.normal(size=[*filter_size, 3, 5]), rng.normal(size=5)
    height, width = (side - extent + 1 for side, extent in zip(size, filter_size, strict=True))
    weights = rng.normal(size=[2, height, width, 5])
    # Both convolutions get the same numbers, already rounded to `dtype`.
    arguments = [tf.cast(value, dtype) for value in ([x, w, b] if takes_bias else [x, w])]
    expected = values_and_gradients(
        lambda x, w, b=0.0: tf.nn.conv2d(x, w, 1, "VALID") + b, [tf.cast(a, tf.float64) for a in arguments], weights
    )
    if takes_bias:  # parameters are float32
        arguments[1:] = [tf.cast(a, tf.float32) for a in arguments[1:]]
    actual = tf.function(values_and_gradients, autograph=False)(convolve, arguments, tf.cast(weights, tf.float32))
    for a, e, its_dtype in zip(actual, expected, [dtype, *(a.dtype for a in arguments)], strict=True):
        assert a.dtype == its_dtype
        np.testing.assert_allclose(tf.cast(a, tf.float64), e, rtol=0, atol=tolerance * np.abs(e).max())


@pytest.mark.parametrize("filter_size", [(2, 2), (2, 3), (3, 2), (3, 3)])
@pytest.mark.parametrize("outputs", [(1, 1), (2, 3), (4, 8), (7, 6), (32, 32)])
def test_winograds_way_is_the_convolution(outputs, filter_size, rng):
    size = [number + taps - 1 for number, taps in zip(outputs, filter_size, strict=True)]
    assert_is_tensorflows(convolution.winograd, tf.float32, size, filter_size, 2e-6, rng)

    def transformed_before(x, w, b):
        return convolution.winograd(x, w, b, tf.stop_gradient(convolution._weights(w)))

    assert_is_tensorflows(transformed_before, tf.float32, size, filter_size, 2e-6, rng)


@pytest.mark.parametrize("filter_size", [(2, 2), (2, 3)])
def test_winograds_algorithm_is_used_only_where_all_its_transforms_of_maps_are_compiled(filter_size, monkeypatch):
    monkeypatch.setattr(xla, "SMALL", 2**12)
    monkeypatch.setattr(convolution, "_wide", lambda: 2**12)  # with AMX, only wider filters use Winograd's algorithm
    used = []
    for side in range(6, 12):  # of the outputs: 64 channels of 8 x 8 are 2^12 elements
        x, w, b = (
            tf.TensorSpec([1, side + filter_size[0] - 1, side + filter_size[1] - 1, 64]),
            tf.TensorSpec([*filter_size, 64, 64]),
            tf.TensorSpec([64]),
        )
        y = tf.TensorSpec([1, side, side, 64])
        step = tf.function(lambda x, w, b, y: values_and_gradients(convolution.convolve, [x, w, b], y), autograph=False)
        operations = step.get_concrete_function(x, w, b, y).graph.get_operations()
        used.append(all(operation.type != "Conv2D" for operation in operations))
        # The transforms slice maps.
        sliced = [operation.outputs[0].shape.rank for operation in operations if operation.type == "StridedSlice"]
        assert all(rank < 4 for rank in sliced), side
    assert used == [False, False, False, True, True, True]


@pytest.mark.parametrize("filter_size", [(2, 2), (2, 3), (1, 3), (2, 1)])
@pytest.mark.parametrize("dtype, tolerance", [(tf.float32, 2e-6), (tf.bfloat16, 1e-2)])  # bfloat16: 2^-8 is 0.4%
def test_a_product_over_shifted_copies_is_the_convolution(filter_size, dtype, tolerance, rng):
    assert_is_tensorflows(convolution.shifted_copies, dtype, (5, 7), filter_size, tolerance, rng)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_bfloat16_is_convolved_with_tensorflows_fast_gradients_and_without(fast, wide, monkeypatch, rng):
    monkeypatch.setattr(convolution, "_has_fast_bfloat16", lambda: fast)
    monkeypatch.setattr(convolution, "_wide", lambda: 0 if wide else 2**16)
    # Winograd's algorithm rounds more often.
    assert_is_tensorflows(convolution.convolve, tf.bfloat16, (5, 7), (2, 2), 2e-2 if wide else 1e-2, rng)


@pytest.mark.parametrize("channels, filters", [(4, 8), (256, 256)])
def test_narrow_and_wide_filters_are_convolved_alike(channels, filters, rng):
    x = tf.cast(rng.normal(size=[1, 6, 6, channels]), tf.float32)
    w = tf.cast(rng.normal(size=[2, 2, channels, filters]) / channels**0.5, tf.float32)
    b = tf.cast(rng.normal(size=filters), tf.float32)
    expected = tf.nn.conv2d(x, w, 1, "VALID") + b
    np.testing.assert_allclose(convolution.convolve(x, w, b), expected, rtol=0, atol=2e-5)
    # In a bfloat16 network, the last layer's maps are float32: it must ignore a filter's transform in bfloat16.
    for dtype in (tf.float32, tf.bfloat16):
        prepared = convolution.convolve(x, w, b, (1, 1), convolution.transform(w, (1, 1), dtype))
        np.testing.assert_allclose(prepared, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("filter_size", [(2, 2), (2, 3)])
def test_a_batch_of_unknown_size_is_convolved_as_one_of_known_size(filter_size, rng):
    x, w, b = (tf.cast(rng.normal(size=s), tf.float32) for s in ([3, 6, 7, 8], [*filter_size, 8, 9], [9]))
    height, width = (side - extent + 1 for side, extent in zip((6, 7), filter_size, strict=True))
    weights = tf.cast(rng.normal(size=[3, height, width, 9]), tf.float32)

    def compute(x, w, b, weights):
        return values_and_gradients(convolution.winograd, [x, w, b], weights)

    unknown = tf.function(compute, autograph=False).get_concrete_function(
        tf.TensorSpec([None, *x.shape[1:]]), w, b, tf.TensorSpec([None, *weights.shape[1:]])
    )
    for actual, expected in zip(unknown(x, w, b, weights), compute(x, w, b, weights), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
