"""Draws images pixel by pixel, in raster order."""

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pixel_snail import logistic_mixture, nn, progress
from pixel_snail.errors import UserError


def uniforms(seed: int, first: int, images: int, image_shape: tuple[int, ...], nr_mix: int) -> list[np.ndarray]:
    """Random numbers in [0, 1) for so many images from the first on: u_mix [B, H, W, K], u_logistic [B, H, W, 3].

    Each image has a stream of its own: it does not depend on which others are drawn with it.
    """
    height, width, channels = image_shape
    draws = [
        np.random.default_rng([seed, image]).random([height, width, nr_mix + channels], np.float32)
        for image in range(first, first + images)
    ]
    return np.split(np.stack(draws), [nr_mix], -1)


def batch_size(on_gpu: int) -> int:
    """How many images to draw at a time: on a GPU `on_gpu`, on a CPU always 8.

    Products of more rows round otherwise, which is amplified from pixel to pixel. In batches of one size, filled up if
    need be, each image is the same, bit by bit, however many are drawn. Larger ones save a CPU little, but at F 256.
    """
    return on_gpu if tf.config.list_physical_devices("GPU") else 8


def sampler(
    model: keras.Model, batch: int, image_shape: tuple[int, ...], temperature: float = 1.0, jit: bool = True
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A function that draws images with a causal network; each pixel's features are computed once (see cache.py).

    As in the original, the canvas starts as zeros, and pixels are not rounded to 8 bits before the next ones are
    predicted from them. A progress bar counts the rows.

    Args:
        model: from pixel_snail.model.
        batch: how many images it draws at a time.
        image_shape: (H, W, 3).
        temperature: scales the noise of the components' choice and of the logistics.
        jit: whether XLA compiles it: a step is a thousand small operations, which TensorFlow starts more slowly.

    Returns:
        draw(weights, u_mix [B, H, W, K], u_logistic [B, H, W, 3], h=None, given=None, keep_rows=0, title=...) ->
        (images [B, H, W, 3] in [-1, 1], the network's outputs for each of their pixels [B, H, W, 10 K], or 9 K where
        they are channel-wise). weights are nn.fold's, h labels [B, L]; of images `given` [B, H, W, 3], the upper rows
        are kept; the title is the progress bar's.
    """
    cache = model.new_cache(batch, image_shape)
    height, width = image_shape[:2]

    @tf.function(jit_compile=jit)
    def draw_row(y, phase, u_mix, u_logistic, given, is_given, h, layers, weights):
        def step(x, phase, loop, outputs):
            cache.begin_step(x, phase, loop)
            pixel, output = _draw_pixel(
                functools.partial(model.output_layer, model(None, h=h, cache=cache), h=h, cache=cache),
                *(tf.gather(row, x, axis=1) for row in (u_mix, u_logistic)),
                temperature,
                lambda drawn, channel=slice(None): tf.where(is_given, tf.gather(given, x, axis=1)[:, channel], drawn),
            )
            return cache.known(pixel), outputs.write(x, output)

        def steps(x, loop, outputs):
            for i in range(model.period):
                loop, outputs = step(x + i, i, loop, outputs)
            return x + model.period, loop, outputs

        with nn.folded(dict(zip(layers, weights, strict=True))):
            cache.begin_row(y, phase)
            model(None, h=h, cache=cache)
            loop = tf.constant(0), cache.begin_steps(), tf.TensorArray(tf.float32, width)
            _, loop, outputs = tf.while_loop(lambda x, loop, outputs: x < width, steps, loop)
            return cache.end_row(loop), tf.transpose(outputs.stack(), [1, 0, 2])

    advance = tf.function(cache.advance)

    def draw(weights, u_mix, u_logistic, h=None, given=None, keep_rows=0, title="sampling"):
        cache.reset()
        weights = nn.for_pixels(weights)
        given = np.zeros([batch, *image_shape], np.float32) if given is None else given
        rows = []
        bar = progress.bar(range(height), desc=title, unit="row")
        if not draw_row.experimental_get_tracing_count():
            bar.set_postfix_str("compiling the first row")
        for y in bar:
            advance(tf.constant(y))
            here = (tf.constant(values[:, y]) for values in (u_mix, u_logistic, given))
            is_given = tf.constant(y < keep_rows)
            row = draw_row(tf.constant(y), y % model.period, *here, is_given, h, tuple(weights), list(weights.values()))
            rows.append([tensor.numpy() for tensor in row])
            bar.set_postfix_str("", refresh=False)
        images, outputs = (np.stack(values, 1) for values in zip(*rows, strict=True))
        return images, outputs

    return draw


def check_memory(model: keras.Model, batch: int, image_shape: tuple[int, ...]) -> None:
    """Raises UserError if drawing a batch needs more memory than the machine has left.

    On GPUs, whose memory is their own, nothing is foretold.
    """
    try:
        with open("/proc/meminfo") as file:
            available = next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return
    # A cache is there as variables and, in the loop, once or twice as tensors.
    needed = 3 * batch * model.new_cache(1, image_shape).nbytes
    if needed > available and not tf.config.list_physical_devices("GPU"):
        raise UserError(
            f"drawing {batch} images at a time needs about {needed / 1e9:.1f} GB, and {available / 1e9:.1f} GB are free"
        )


def _draw_pixel(outputs_of, u_mix, u_logistic, temperature, unless_given):
    """A pixel [B, 3] drawn from the outputs of the network's last layer, and these outputs, side by side.

    Args:
        outputs_of: the last layer, which takes what shows it the channels drawn so far.
        unless_given: replaces what was drawn where it was given.
    """
    channels = []

    def drawn(*outputs):
        channel = len(channels)
        value = logistic_mixture.sample_channel_from_discretized_mix_logistic(
            outputs[0], outputs[-1], u_mix, u_logistic[:, channel], temperature
        )
        channels.append(unless_given(value, channel))
        return tf.stack(channels, -1)

    outputs = outputs_of(drawn=drawn)
    if isinstance(outputs, tuple):
        return drawn(*outputs), tf.concat(outputs, -1)
    pixel = logistic_mixture.sample_from_discretized_mix_logistic(outputs, u_mix, u_logistic, temperature)
    return unless_given(pixel), outputs


def naive_sampler(predict: Callable[..., tf.Tensor]) -> Callable[..., np.ndarray]:
    """The same as the original does it: the whole network for each pixel. What `sampler` is measured against.

    Args:
        predict: (images [B, H, W, 3], labels [B, L] or None) -> outputs [B, H, W, 10 K], or three of [B, H, W, 3 K]:
            then R is drawn first, G with R in the image, B with both.

    Returns:
        (u_mix [B, H, W, K], u_logistic [B, H, W, 3], labels or None) -> images in [-1, 1], [B, H, W, 3].
    """

    @tf.function
    def draw_row(canvas, y, u_mix_row, u_logistic_row, h):
        height, width = canvas.shape[1:3]
        for x in tf.range(width):
            here = tf.reshape(tf.equal(tf.range(height * width), y * width + x), [1, height, width, 1])
            u_mix, u_logistic = u_mix_row[:, x], u_logistic_row[:, x]
            outputs = predict(canvas, h)
            if isinstance(outputs, tuple):
                for channel in range(3):
                    if channel:
                        outputs = predict(canvas, h)
                    of_pixel = [l[:, y, x] for l in outputs]
                    value = logistic_mixture.sample_channel_from_discretized_mix_logistic(
                        of_pixel[0], of_pixel[channel], u_mix, u_logistic[:, channel]
                    )
                    this_channel = tf.reshape(tf.range(3) == channel, [1, 1, 1, 3])
                    canvas = tf.where(here & this_channel, value[:, None, None, None], canvas)
            else:
                pixel = logistic_mixture.sample_from_discretized_mix_logistic(outputs[:, y, x], u_mix, u_logistic)
                canvas = tf.where(here, pixel[:, None, None], canvas)
        return canvas

    def draw(u_mix, u_logistic, h=None):
        canvas = tf.zeros([*u_mix.shape[:3], 3])
        for y in progress.bar(range(u_mix.shape[1]), desc="sampling", unit="row"):
            canvas = draw_row(canvas, tf.constant(y), tf.constant(u_mix[:, y]), tf.constant(u_logistic[:, y]), h)
        return canvas.numpy()

    return draw
