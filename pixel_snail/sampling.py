"""Draws images pixel by pixel, in raster order."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pixel_snail import logistic_mixture, progress
from pixel_snail.backend import tf
from pixel_snail.blocks import AttentionBlock, background
from pixel_snail.cache import ImageCache
from pixel_snail.errors import UserError
from pixel_snail.network import Network
from pixel_snail.parallel import devices
from pixel_snail.weights import folded, for_pixels, layers_in

BATCH_ON_CPU = 8
"""Images drawn at a time on a CPU, always.

Matrix products of another number of rows round differently, and the difference grows from pixel to pixel. With batches
of one size, each image is the same, bit by bit, however many are drawn. Larger batches save a CPU little, except at
F 256.
"""


def drawer(network: Network, batch_on_gpu: int = 32, temperature: float = 1.0) -> Callable[..., np.ndarray]:
    """A function that draws any number of images with a causal network, a batch at a time.

    Args:
        batch_on_gpu: images drawn at a time on a GPU; on a CPU, BATCH_ON_CPU are.
        temperature: scales the noise: of the choice among mixture components, and of the logistic distributions.

    Returns:
        draw(weights, number, seed, classes=None, given=None, keep_rows=0, verbose=1) -> images, float32 in [-1, 1],
        [number, H, W, 3], not rounded to 8 bits. `weights` are weights.fold's; `classes` [number] are needed by a
        conditional network; of images `given` [number, H, W, 3], the upper `keep_rows` rows are kept. It raises
        UserError if the parameters are not finite.

    Raises:
        UserError: a batch needs more memory than the machine has.
    """
    description = network.description
    batch = batch_on_gpu if devices.number_of_gpus() else BATCH_ON_CPU
    check_memory(network, batch)
    draw_batch = batch_drawer(network, batch, temperature)

    def draw(weights, number, seed, classes=None, given=None, keep_rows=0, verbose=1):
        images = []
        for first in range(0, number, batch):
            last = min(first + batch, number)
            # A batch that is not full is filled up with repetitions, which are thrown away.
            chosen = np.minimum(np.arange(first, first + batch), number - 1)
            drawn, _ = draw_batch(
                weights,
                *uniforms(seed, first, batch, description.image_shape, description.nr_logistic_mix),
                h=tf.one_hot(classes[chosen], description.nr_labels) if description.nr_labels else None,
                given=None if given is None else given[chosen],
                keep_rows=keep_rows,
                title=f"sampling {first + 1}-{last} of {number}",
                verbose=verbose,
            )
            images.append(drawn[: last - first])
        images = np.concatenate(images)
        if not np.isfinite(images).all():
            raise UserError("samples are not finite: the checkpoint's parameters are damaged or untrained")
        return images

    return draw


def uniforms(seed: int, first: int, images: int, image_shape: tuple[int, ...], nr_mix: int) -> list[np.ndarray]:
    """Random numbers in [0, 1) for images number `first` and following: u_mix [B, H, W, K], u_logistic [B, H, W, 3].

    Each image has a stream of its own, so that its numbers do not depend on which images are drawn with it.
    """
    height, width, channels = image_shape
    draws = [
        np.random.default_rng([seed, image]).random([height, width, nr_mix + channels], np.float32)
        for image in range(first, first + images)
    ]
    return np.split(np.stack(draws), [nr_mix], -1)


class _Row(NamedTuple):
    """The inputs of a row of pixels: random numbers [B, W, K] and [B, W, 3], given pixels [B, W, 3], and whether these
    are to be kept."""

    u_mix: tf.Tensor
    u_logistic: tf.Tensor
    given: tf.Tensor
    is_given: tf.Tensor


def batch_drawer(
    network: Network, batch: int, temperature: float = 1.0, jit: bool = True
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A function that draws a batch of images with a causal network; each pixel's features are computed once.

    As in the original, the canvas starts as zeros, and pixels are not rounded to 8 bits before the next ones are
    predicted from them.

    Args:
        batch: B.
        temperature: see `drawer`.
        jit: whether XLA compiles it. A step is a thousand small operations, which TensorFlow starts more slowly.

    Returns:
        draw(weights, u_mix [B, H, W, K], u_logistic [B, H, W, 3], h=None, given=None, keep_rows=0, title=...,
        verbose=1) -> (images [B, H, W, 3] in [-1, 1], the network's outputs for each of their pixels [B, H, W, 10 K],
        or 9 K where they are channel-wise). `weights` are weights.fold's, h labels [B, L]; of images `given`
        [B, H, W, 3], the upper `keep_rows` rows are kept. A progress bar with that title counts the rows.
    """
    image_shape = network.description.image_shape
    height, width, _ = image_shape
    cache = new_cache(network, batch)

    @tf.function(jit_compile=jit)
    def draw_row(y, phase, row, h, layers, weights):
        def step(x, phase, loop, outputs):
            cache.begin_step(x, phase, loop)
            here = tf.nest.map_structure(lambda of_row: tf.gather(of_row, x, axis=1), row._replace(is_given=()))
            pixel, output = _draw_pixel(
                functools.partial(network.output_layer, network(None, h=h, cache=cache), h=h, cache=cache),
                here.u_mix,
                here.u_logistic,
                temperature,
                lambda drawn, channel=slice(None): tf.where(row.is_given, here.given[:, channel], drawn),
            )
            return cache.end_step_with(pixel), outputs.write(x, output)

        def steps(x, loop, outputs):
            for i in range(network.period):
                loop, outputs = step(x + i, i, loop, outputs)
            return x + network.period, loop, outputs

        with folded(dict(zip(layers, weights, strict=True))):
            cache.begin_row(y, phase)
            network(None, h=h, cache=cache)
            loop = tf.constant(0), cache.end_row_pass(), tf.TensorArray(tf.float32, width)
            _, loop, outputs = tf.while_loop(lambda x, loop, outputs: x < width, steps, loop)
            return cache.end_row(loop), tf.transpose(outputs.stack(), [1, 0, 2])

    advance = tf.function(cache.advance)

    def draw(weights, u_mix, u_logistic, h=None, given=None, keep_rows=0, title="sampling", verbose=1):
        cache.reset()
        weights = for_pixels(weights)
        layers, of_layers = tuple(weights), list(weights.values())
        given = np.zeros([batch, *image_shape], np.float32) if given is None else given
        rows = []
        bar = progress.bar(range(height), desc=title, unit="row", disable=not verbose)
        if not draw_row.experimental_get_tracing_count():
            bar.set_postfix_str("compiling the first row")
        for y in bar:
            advance(tf.constant(y))
            inputs = (tf.constant(values[:, y]) for values in (u_mix, u_logistic, given))
            row = _Row(*inputs, is_given=tf.constant(y < keep_rows))
            drawn = draw_row(tf.constant(y), y % network.period, row, h, layers, of_layers)
            rows.append([tensor.numpy() for tensor in drawn])
            bar.set_postfix_str("", refresh=False)
        images, outputs = (np.stack(values, 1) for values in zip(*rows, strict=True))
        return images, outputs

    return draw


def new_cache(network: Network, batch: int) -> ImageCache:
    """An empty cache for drawing `batch` images with a network."""
    height, width, channels = network.description.image_shape
    layers_by_size = network.layers_by_size()
    attentions = [
        layer for outer in layers_by_size[0] for layer in layers_in(outer) if isinstance(layer, AttentionBlock)
    ]
    return ImageCache(
        layers_by_size,
        batch,
        height,
        width,
        network.description.nr_filters,
        attentions,
        background(tf.zeros([1, height, width, channels])) if attentions else None,
    )


def check_memory(network: Network, batch: int) -> None:
    """Raises UserError if drawing a batch needs more memory than the machine has left.

    On GPUs, which have memory of their own, nothing is checked.
    """
    try:
        with open("/proc/meminfo") as file:
            available = next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return
    # A cache exists as variables and, in the loop, once or twice as tensors.
    needed = 3 * batch * new_cache(network, 1).nbytes
    if needed > available and not devices.number_of_gpus():
        raise UserError(
            f"drawing {batch} images at a time needs about {needed / 1e9:.1f} GB, and {available / 1e9:.1f} GB are free"
        )


def _draw_pixel(outputs_of, u_mix, u_logistic, temperature, unless_given):
    """Draws a pixel [B, 3]; returns it and the outputs of the network's last layer, side by side.

    Args:
        outputs_of: the last layer, a function of `drawn` (see blocks.ChannelWiseOutput).
        unless_given: replaces drawn values by given ones.
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
