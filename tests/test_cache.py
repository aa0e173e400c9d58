"""Each causal layer, computed by pixels or rows with a cache, against itself on the whole map."""

import types

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail import nn
from pixel_snail.cache import Cache, _Memory
from pixel_snail.weights import for_pixels, normalised_weights, using

B, H, W, C, F = 2, 4, 6, 8, 5
# The rounding error of sums over tens of products of order 1, taken in another order.
TOLERANCE = 1e-5


def built(layer, *shape, **named):
    layer(tf.zeros(shape), **named)
    for variable in layer.trainable_variables:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    return layer


def walk(cache, step, begin_row=lambda y: None):
    """Calls step(y, x) for every pixel in raster order and returns the results as a map [B, H, W, ...]."""
    rows = []
    for y in range(cache.height):
        cache.begin_row(tf.constant(y))
        begin_row(y)
        loop = cache.end_row_pass()
        row = []
        for x in range(cache.width):
            cache.begin_step(tf.constant(x), loop)
            row.append(step(y, x))
            loop = cache.end_step()
        cache.end_row(loop)
        rows.append(tf.stack(row, 1))
    return tf.stack(rows, 1)


@pytest.mark.parametrize("kind", [nn.down_right_shifted_conv2d, nn.causal_shift_nin])
def test_a_causal_convolution_pixel_by_pixel(kind, rng):
    conv = built(kind(F), B, H, W, C)
    map_ = tf.constant(rng.normal(size=[B, H, W, C]), tf.float32)
    with using(for_pixels(normalised_weights(conv, conv.trainable_variables))):
        actual = walk(cache := Cache([[conv]], B, H, W, F), lambda y, x: conv(map_[:, y, x], cache=cache))
    np.testing.assert_allclose(actual, conv(map_), rtol=0, atol=TOLERANCE)


def test_convolutions_that_feed_each_other_do_not_mix_their_memories(rng):
    first, second = built(nn.down_right_shifted_conv2d(F), B, H, W, C), built(nn.causal_shift_nin(C), B, H, W, F - 1)
    map_ = tf.constant(rng.normal(size=[B, H, W, C]), tf.float32)
    cache = Cache([[first, second]], B, H, W, F)
    first_weights, second_weights = (normalised_weights(conv, conv.trainable_variables) for conv in (first, second))
    with using(for_pixels(first_weights | second_weights)):
        actual = walk(cache, lambda y, x: second(first(map_[:, y, x], cache=cache)[:, : F - 1], cache=cache))
    np.testing.assert_allclose(actual, second(first(map_)[..., : F - 1]), rtol=0, atol=10 * TOLERANCE)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_a_convolution_of_the_rows_above_row_by_row(strides, rng):
    conv = built(nn.down_shifted_conv2d(F, strides=strides), B, H, W, C)
    map_ = tf.constant(rng.normal(size=[B, H, W, C]), tf.float32)
    cache = Cache([[conv]], B, H, W, F)
    rows = [conv(map_[:, y : y + 1], cache=cache) for y in range(H)]
    np.testing.assert_allclose(tf.concat(rows[:: strides[0]], 1), conv(map_), rtol=0, atol=TOLERANCE)


def test_transposed_convolutions_row_by_row_and_pixel_by_pixel(rng):
    map_ = tf.constant(rng.normal(size=[B, H // 2, W // 2, C]), tf.float32)
    of_rows = built(nn.down_shifted_deconv2d(F, strides=(2, 2)), B, H // 2, W // 2, C)
    of_pixels = built(nn.down_right_shifted_deconv2d(F, strides=(2, 2)), B, H // 2, W // 2, C)
    cache = types.SimpleNamespace()
    rows = []
    for y in range(H):
        cache.y = y
        row = of_rows(map_[:, y // 2 : y // 2 + 1], cache=cache)
        np.testing.assert_allclose(row, of_rows(map_)[:, y : y + 1], rtol=0, atol=TOLERANCE)
        pixels = []
        for x in range(W):
            cache.x = x
            pixels.append(of_pixels(map_[:, y // 2, x // 2], cache=cache))
        rows.append(tf.stack(pixels, 1))
    np.testing.assert_allclose(tf.stack(rows, 1), of_pixels(map_), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("height, width", [(4, 6), (5, 7)])
@pytest.mark.parametrize("hier, downsample", [(1, 1), (2, 1), (1, 2)])
def test_attention_pixel_by_pixel(hier, downsample, height, width, rng):
    height, width = (height, width) if hier == 1 else (height // hier * hier, width // hier * hier)
    key, mixin, query = (
        tf.constant(2 * rng.normal(size=[B, height, width, channels]), tf.float32) for channels in (3, 4, 3)
    )
    block = types.SimpleNamespace(
        hier=hier,
        downsample=downsample,
        key_channels=3,
        key_mixin=types.SimpleNamespace(nin=types.SimpleNamespace(num_filters=7)),
    )
    memory = _Memory(block, B, height, width)
    rows = []
    for y in range(height):
        memory.advance(tf.constant(y))
        memory.begin_row(tf.constant(y))
        loop, row = memory.end_row_pass(), []
        for x in range(width):
            memory.begin_step(tf.constant(x), loop)
            row.append(memory.look_up(lambda y=y, x=x: query[:, y, x]))
            memory.remember(tf.concat([key[:, y, x], mixin[:, y, x]], -1))
            loop = memory.loop
        memory.end_row(loop)
        rows.append(tf.stack(row, 1))
    if hier > 1:
        key, mixin = nn.average_pool(key, hier), nn.average_pool(mixin, hier)
        query = query[:, ::hier, ::hier]
    expected = nn.causal_attention(key, mixin, query, downsample, query.shape[2] if hier > 1 else 1)
    np.testing.assert_allclose(tf.stack(rows, 1), nn.repeat_pixels(expected, hier), rtol=0, atol=TOLERANCE)
