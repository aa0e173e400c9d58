"""The plain network: every network and its training written the original's way, the baseline of the benchmarks.

Each layer computes its formula literally, one TensorFlow operation after another: attention over whole maps with a
mask, weights normalised at every use, scales applied to maps, maps shifted by concatenation, TensorFlow's own dropout.
Adam and the Polyak average update variable by variable. The wiring is that of model.py and pixel_cnn_pp.py, which is
the original's.
"""

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import tensorflow as tf

from pixel_snail import nn, steps
from pixel_snail.commands import progress
from pixel_snail.kernels import dropout
from pixel_snail.likelihoods import categorical, logistic_mixture
from pixel_snail.likelihoods.named import likelihoods
from pixel_snail.network import Network


@contextlib.contextmanager
def layers() -> Iterator[None]:
    """Within it, models compute the plain way; their `seed` only switches dropout on."""
    with (
        mock.patch.object(nn.conv2d, "call", _conv2d),
        mock.patch.object(nn.down_shifted_conv2d, "call", _conv2d),
        mock.patch.object(nn.down_right_shifted_conv2d, "call", _conv2d),
        mock.patch.object(nn.deconv2d, "call", _deconv2d),
        mock.patch.object(nn.dense, "call", _dense),
        mock.patch.object(nn.gated_resnet, "call", _gated_resnet),
        mock.patch.object(nn, "down_shift", _down_shift),
        mock.patch.object(nn, "right_shift", _right_shift),
        mock.patch.object(nn, "left_shift", _left_shift),
        mock.patch.object(nn, "causal_attention", causal_attention),
        mock.patch.object(nn, "repeat_pixels", _repeat_pixels),
        mock.patch.object(dropout, "split_seed", lambda seed, number: [seed] * number),
    ):
        yield


def train_step(model: Network) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that takes one step of Adam on images, values [B, H, W, C], and returns their loss in nats."""
    parameters = [variable.value for variable in model.trainable_variables]
    averages, momentums, velocities = (
        [tf.Variable(start(parameter)) for parameter in parameters]
        for start in (tf.identity, tf.zeros_like, tf.zeros_like)
    )
    t = tf.Variable(1.0)

    @tf.function(autograph=False)
    def step(images):
        with layers(), tf.GradientTape() as tape:
            loss = _loss(model, images, seed=tf.zeros([2], tf.int32))
        gradients = tape.gradient(loss, parameters)
        for p, g, average, m, v in zip(parameters, gradients, averages, momentums, velocities, strict=True):
            m.assign(0.95 * m + 0.05 * g)
            v.assign(0.9995 * v + 0.0005 * tf.square(g))
            p.assign_sub(1e-3 * (m / (1 - 0.95**t)) / tf.sqrt(v / (1 - 0.9995**t) + 1e-6))
            average.assign(0.9995 * average + 0.0005 * p)
        t.assign_add(1.0)
        return loss

    return step


def evaluation_step(model: Network) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that returns the loss of images, values [B, H, W, C], in nats."""

    @tf.function(autograph=False)
    def step(images):
        with layers():
            return _loss(model, images)

    return step


def _loss(model, images, seed=None):
    levels = model.description.levels
    x, _ = steps.network_inputs({"images": images}, model.description)
    return tf.reduce_sum(likelihoods[model.description.likelihood].loss_per_image(x, model(x, seed=seed), levels))


def _conv2d(self, x, cache=None):
    w = self.g * tf.math.l2_normalize(self.V, [0, 1, 2])
    return tf.nn.bias_add(
        tf.nn.conv2d(tf.pad(x, [[0, 0], *self.margins(x.shape), [0, 0]]), w, self.strides, "VALID"), self.b
    )


def _deconv2d(self, x):
    w = tf.reshape(self.g, [1, 1, -1, 1]) * tf.math.l2_normalize(self.V, [0, 1, 3])
    batch, height, width, _ = x.shape
    shape = [
        batch,
        height * self.strides[0] + self.filter_size[0] - 1,
        width * self.strides[1] + self.filter_size[1] - 1,
        self.num_filters,
    ]
    return tf.nn.bias_add(tf.nn.conv2d_transpose(x, w, shape, self.strides, "VALID"), self.b)


def _dense(self, x):
    y = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), self.V)
    scale = self.g / tf.sqrt(tf.reduce_sum(tf.square(self.V), 0))
    return tf.reshape(scale * y + self.b, [*x.shape[:-1], self.num_filters])


def _gated_resnet(self, x, a=None, h=None, seed=None, cache=None):
    c1 = self.conv_in(nn.nonlinearities[self.nonlinearity](x))
    if a is not None:
        c1 += self.nin_a(nn.nonlinearities[self.nonlinearity](a))
    c1 = nn.nonlinearities[self.nonlinearity](c1)
    if seed is not None:
        c1 = tf.nn.dropout(c1, self.dropout_p)
    c2 = self.conv_out(c1)
    if h is not None:
        c2 += self.labels(h)[:, None, None]
    p, q = tf.split(c2, 2, -1)
    return x + p * tf.nn.sigmoid(q)


def causal_attention(key, mixin, query, downsample=1, causal_unit=1):
    """nn.causal_attention, with the same arguments, over all keys at once."""
    batch, height, width, channels = query.shape
    last_unit = tf.reshape(tf.range(height * width, dtype=tf.float32) // causal_unit, [1, height, width, 1])
    unit = tf.reshape(last_unit, [-1, 1])
    if downsample > 1:
        key, mixin, last_unit = (
            tf.nn.max_pool2d(map_, downsample, downsample, "SAME") for map_ in (key, mixin, last_unit)
        )
    mask = tf.cast(tf.reshape(last_unit, [1, -1]) < unit, tf.float32)
    flat_key, flat_mixin, flat_query = (tf.reshape(map_, [batch, -1, map_.shape[-1]]) for map_ in (key, mixin, query))
    dot = tf.matmul(flat_query, flat_key, transpose_b=True) - (1 - mask) * 1e10
    dot -= tf.reduce_max(dot, -1, keepdims=True)
    weights = tf.exp(dot / np.float32(channels**0.5)) * mask
    probabilities = weights / (tf.reduce_sum(weights, -1, keepdims=True) + 1e-6)
    return tf.reshape(tf.matmul(probabilities, flat_mixin), [batch, height, width, mixin.shape[-1]])


def _down_shift(x):
    return tf.concat([tf.zeros_like(x[:, :1]), x[:, :-1]], 1)


def _right_shift(x):
    return tf.concat([tf.zeros_like(x[:, :, :1]), x[:, :, :-1]], 2)


def _left_shift(x):
    return tf.concat([x[:, :, 1:], tf.zeros_like(x[:, :, :1])], 2)


def _repeat_pixels(x, size):
    return tf.nn.depth_to_space(tf.tile(x, [1, 1, 1, size**2]), size) if size > 1 else x


def naive_sampler(
    predict: Callable[..., tf.Tensor], temperature: float = 1.0, levels: int | None = None, codes: int | None = None
) -> Callable[..., np.ndarray]:
    """A function that draws images the original's way: for each pixel, it computes the whole network.

    Args:
        predict: (images [B, H, W, C], labels [B, classes] or None) -> outputs [B, H, W, 10 K] for C = 3, [B, H, W,
            3 K] for C = 1 (for other C, see logistic_mixture.outputs_per_component), or three tensors [B, H, W, 3 K].
            With three tensors, it is called again for each channel: G is drawn given R, B given both.
        temperature: scales the noise.
        levels: L: each drawn value is rounded before others are predicted from it. None: drawn values are not rounded
            (see network.Description.drawn_levels).
        codes: L, if the values are codes: `predict` then returns their logits [B, H, W, L].

    Returns:
        draw(u_mix [B, H, W, K], u_logistic [B, H, W, C], labels or None) -> images in [-1, 1], [B, H, W, C].
    """

    @tf.function
    def draw_row(canvas, y, u_mix_row, u_logistic_row, h):
        height, width = canvas.shape[1:3]
        for x in tf.range(width):
            here = tf.reshape(tf.equal(tf.range(height * width), y * width + x), [1, height, width, 1])
            u_mix, u_logistic = u_mix_row[:, x], u_logistic_row[:, x]
            outputs = predict(canvas, h)
            if codes is not None:
                code = categorical.sample(outputs[:, y, x], u_logistic[:, 0], codes, temperature)
                canvas = tf.where(here, code[:, None, None, None], canvas)
            elif isinstance(outputs, tuple):
                for channel in range(3):
                    if channel:
                        outputs = predict(canvas, h)
                    of_pixel = [l[:, y, x] for l in outputs]
                    value = logistic_mixture.sample_channel_from_discretized_mix_logistic(
                        of_pixel[0], of_pixel[channel], u_mix, u_logistic[:, channel], temperature, levels
                    )
                    this_channel = tf.reshape(tf.range(3) == channel, [1, 1, 1, 3])
                    canvas = tf.where(here & this_channel, value[:, None, None, None], canvas)
            else:
                pixel = logistic_mixture.sample_from_discretized_mix_logistic(
                    outputs[:, y, x], u_mix, u_logistic, temperature, levels
                )
                canvas = tf.where(here, pixel[:, None, None], canvas)
        return canvas

    def draw(u_mix, u_logistic, h=None):
        canvas = tf.zeros(u_logistic.shape)
        for y in progress.bar(range(u_mix.shape[1]), desc="sampling", unit="row"):
            canvas = draw_row(canvas, tf.constant(y), tf.constant(u_mix[:, y]), tf.constant(u_logistic[:, y]), h)
        return canvas.numpy()

    return draw
