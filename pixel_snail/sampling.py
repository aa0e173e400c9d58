"""Draws images pixel by pixel, in raster order."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pixel_snail import logistic_mixture, progress


def uniforms(seed: int, images: int, image_shape: tuple[int, ...], nr_mix: int) -> tuple[np.ndarray, np.ndarray]:
    """Random numbers for what `sampler` makes: u_mix [B, H, W, K] and u_logistic [B, H, W, 3], in [0, 1).

    Each image has a stream of its own: it does not depend on how many are drawn with it.
    """
    height, width, channels = image_shape
    draws = [
        np.random.default_rng([seed, image]).random([height, width, nr_mix + channels], np.float32)
        for image in range(images)
    ]
    draws = np.stack(draws)
    return draws[..., :nr_mix], draws[..., nr_mix:]


def sampler(predict: Callable[..., tf.Tensor]) -> Callable[..., np.ndarray]:
    """A function that draws images with a network that predicts each pixel from those before it.

    As in the original, the canvas starts as zeros, and the pixels are not rounded to 8 bits before the next ones are
    predicted from them. A progress bar counts the rows.

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
