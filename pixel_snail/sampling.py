"""Draws images pixel by pixel, in raster order."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pixel_snail.backend import tf
from pixel_snail.blocks import AttentionBlock, background
from pixel_snail.cache import ImageCache
from pixel_snail.commands import progress
from pixel_snail.errors import UserError, counted
from pixel_snail.kernels.packing import pack, unpack
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.network import Network
from pixel_snail.parallel import devices, memory
from pixel_snail.weights import Weights, for_pixels, layers_in, using

BATCH_ON_CPU = 8
"""The number of images that a CPU draws at a time, always the same.

The rounding of matrix products depends on their number of rows, and a difference grows from pixel to pixel. With
batches of one size, each image is the same, bit by bit, however many are drawn. Larger batches save a CPU little time,
except at F 256.
"""


def drawer(network: Network, batch_on_gpu: int = 32) -> Callable[..., np.ndarray]:
    """A function that draws any number of images with a causal network, a batch at a time.

    Args:
        batch_on_gpu: images drawn at a time on a GPU; a CPU draws BATCH_ON_CPU at a time.

    Returns:
        draw(weights, number, seed, classes=None, given=None, keep_rows=0, temperature=1.0, verbose=1) -> images,
        float32 in [-1, 1], [number, H, W, C]; 8-bit RGB is not rounded. `weights` are those of `normalised_weights`;
        `classes` [number] are needed by a conditional network; of images `given` [number, H, W, C], the upper
        `keep_rows` rows are kept; `temperature` scales the noise: of the choice among mixture components, and of the
        logistic distributions. It raises UserError if the parameters are not finite.

    Raises:
        Shortage: a batch needs more memory than the machine has.
    """
    description = network.description
    batch = batch_on_gpu if devices.number_of_gpus() else BATCH_ON_CPU
    check_memory(network, batch)
    draw_batch = batch_drawer(network, batch)

    def draw(weights, number, seed, classes=None, given=None, keep_rows=0, temperature=1.0, verbose=1):
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
                temperature=temperature,
                title=f"sampling {first + 1}-{last} of {number}",
                verbose=verbose,
            )
            images.append(drawn[: last - first])
        images = np.concatenate(images)
        if not np.isfinite(images).all():
            raise UserError("samples are not finite: the checkpoint's parameters are damaged or untrained; use another")
        return images

    return draw


def uniforms(seed: int, first: int, images: int, image_shape: tuple[int, ...], nr_mix: int) -> list[np.ndarray]:
    """Random numbers in [0, 1) for the images from number `first` on: u_mix [B, H, W, K], u_logistic [B, H, W, C].

    Each image has a stream of its own, so that its numbers do not depend on which images are drawn with it.
    """
    height, width, channels = image_shape
    draws = [
        np.random.default_rng([seed, image]).random([height, width, nr_mix + channels], np.float32)
        for image in range(first, first + images)
    ]
    return np.split(np.stack(draws), [nr_mix], -1)


_first_run = threading.Lock()
"""Held while a row function runs for the first time. The library that TensorFlow 2.21 runs compiled sums through
sometimes crashes if two threads set it up at once."""


class RowByRow:
    """Computes the pixels of a batch of images with a causal network, row by row; each pixel's features once.

    Several threads may use one RowByRow: they take turns, a batch at a time.

    Args:
        network: the network.
        batch: B.
        choose: a function that chooses a predicted pixel: choose(outputs_of, here, carried) -> (pixel, kept, carried).
            `outputs_of` is the network's last layer, a function of `known` (see blocks.ChannelWiseOutput); `here` has
            the inputs of `row` at this pixel; `carried` goes from pixel to pixel. `pixel` is [B, C] in [-1, 1];
            `kept` are results, [B, ...] each.
        kept: the types of these results.
        jit: whether XLA compiles the computation of a row. A step has a thousand small operations, which TensorFlow
            starts more slowly than XLA. For a network of period p, XLA compiles each of the first p rows.
    """

    def __init__(self, network: Network, batch: int, choose: Callable, kept: Sequence[tf.DType], jit: bool = True):
        self._cache = new_cache(network, batch)
        self._period = network.period
        self._advance = tf.function(self._cache.advance, autograph=False)
        self._layers, self._weights = (), []
        self._lock = threading.Lock()  # of the cache and the weights
        self._phases_run = set()
        cache, (_, width, _) = self._cache, network.description.image_shape

        @tf.function(jit_compile=jit, autograph=False)
        def row(y, phase, inputs, carried, h, layers, packed):
            progress.announce_compilation()

            def step(x, phase, loop, carried, results):
                cache.begin_step(x, phase, loop)
                here = tf.nest.map_structure(lambda of_row: tf.gather(of_row, x, axis=1), inputs)
                outputs_of = functools.partial(network.output_layer, network(None, h=h, cache=cache), h=h, cache=cache)
                pixel, new, carried = choose(outputs_of, here, carried)
                results = [array.write(x, value) for array, value in zip(results, new, strict=True)]
                return cache.end_step_with(pixel), carried, results

            def steps(x, loop, carried, results):
                for i in range(network.period):
                    loop, carried, results = step(x + i, i, loop, carried, results)
                return x + network.period, loop, carried, results

            with using(dict(zip(layers, unpack(packed, like=self._weights), strict=True))):
                cache.begin_row(y, phase)
                network(None, h=h, cache=cache)
                state = tf.constant(0), cache.end_row_pass(), carried, [tf.TensorArray(type_, width) for type_ in kept]
                _, loop, carried, results = tf.while_loop(lambda x, *_: x < width, steps, state)
                return cache.end_row(loop), [_batch_first(array.stack()) for array in results], carried

        # These functions are traced again for each phase, network and size of batch, and TensorFlow would warn of that.
        # The attribute is private; if it is removed, only the warning comes back.
        row._omit_frequent_tracing_warning = self._advance._omit_frequent_tracing_warning = True
        self._row = row

    @contextlib.contextmanager
    def images(self, weights: Weights, h: tf.Tensor | None = None) -> Iterator[None]:
        """Within it, this thread computes the rows of a batch of images, from the first on; other threads wait.

        Args:
            weights: those of `normalised_weights`.
            h: one-hot labels [B, classes], of a conditional network.
        """
        with self._lock:
            self._cache.reset()
            weights = for_pixels(weights)
            self._layers, self._weights, self._h = tuple(weights), list(weights.values()), h
            self._packed = pack(self._weights)
            yield

    def row(self, y: int, inputs: object, carried: object = ()) -> tuple[tf.Tensor, list[tf.Tensor], object]:
        """Computes row y of the images. Rows must be computed in order, from 0 on.

        Args:
            inputs: a nest of tensors [B, W, ...].
            carried: a nest of tensors, for the first pixel.

        Returns:
            The pixels [B, W, C], the results [B, W, ...], and `carried` of the last pixel.
        """
        self._advance(tf.constant(y))
        phase = y % self._period
        with contextlib.nullcontext() if phase in self._phases_run else _first_run:
            results = self._row(tf.constant(y), phase, inputs, carried, self._h, self._layers, self._packed)
        self._phases_run.add(phase)
        return results


class _Row(NamedTuple):
    """The inputs of a row of pixels: random numbers [B, W, K] and [B, W, C], given pixels [B, W, C], and which values
    of these to keep, booleans [B, W, C]."""

    u_mix: tf.Tensor
    u_logistic: tf.Tensor
    given: tf.Tensor
    is_given: tf.Tensor


def batch_drawer(network: Network, batch: int, jit: bool = True) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A function that draws a batch of images with a causal network.

    As in the original, the canvas starts as zeros, and pixels of 8-bit RGB are not rounded before the next ones are
    predicted from them. Other values are rounded (see network.Description.drawn_levels).

    Args:
        batch: B.
        jit: see RowByRow.

    Returns:
        draw(weights, u_mix [B, H, W, K], u_logistic [B, H, W, C], h=None, given=None, keep_rows=0, temperature=1.0,
        title=..., verbose=1) -> (images [B, H, W, C] in [-1, 1], the network's outputs for each of their pixels
        [B, H, W, 10 K] for C = 3, or 9 K if they are channel-wise). `weights` are those of `normalised_weights`, h
        one-hot labels [B, classes]; of images `given` [B, H, W, C], the upper `keep_rows` rows are kept; `temperature`
        as in `drawer`. A progress bar with that title counts the rows.
    """
    image_shape, levels = network.description.image_shape, network.description.drawn_levels
    height, width, channels = image_shape

    def choose(outputs_of, here, temperature):
        pixel, output = _draw_pixel(
            outputs_of,
            here.u_mix,
            here.u_logistic,
            temperature,
            levels,
            lambda drawn, channel: tf.where(here.is_given[:, channel], here.given[:, channel], drawn),
        )
        return pixel, [output], temperature

    by_rows = RowByRow(network, batch, choose, [tf.float32], jit)

    def draw(weights, u_mix, u_logistic, h=None, given=None, keep_rows=0, temperature=1.0, title="sampling", verbose=1):
        given = np.zeros([batch, *image_shape], np.float32) if given is None else given
        # A tensor: a Python number would be compiled in, anew for each temperature.
        temperature = tf.constant(temperature, tf.float32)
        rows = []
        with (
            by_rows.images(weights, h),
            progress.bar(total=height, desc=title, unit="row", disable=not verbose) as bar,
        ):
            for y in range(height):
                inputs = (tf.constant(values[:, y]) for values in (u_mix, u_logistic, given))
                inputs = _Row(*inputs, is_given=tf.fill([batch, width, channels], y < keep_rows))
                with progress.step_of(bar):
                    pixels, (outputs,), _ = by_rows.row(y, inputs, temperature)
                rows.append((pixels.numpy(), outputs.numpy()))
        drawn, outputs = (np.stack(values, 1) for values in zip(*rows, strict=True))
        return drawn, outputs

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
        background(tf.zeros([1, height, width, channels])),
        channels,
    )


def check_memory(network: Network, batch: int) -> None:
    """Raises memory.Shortage if drawing a batch needs more memory than this process can still get.

    On GPUs, which have memory of their own, nothing is checked.
    """
    available = devices.available_memory()
    # A cache exists as variables and, in the loop, once or twice as tensors.
    needed = 3 * batch * new_cache(network, 1).nbytes
    if available is not None and needed > available and not devices.number_of_gpus():
        raise memory.Shortage(
            f"computing {counted(batch, 'image')} at a time, pixel by pixel, needs about {memory.in_words(needed)}, "
            f"and {memory.in_words(available)} are free"
        )


def _draw_pixel(outputs_of, u_mix, u_logistic, temperature, levels, unless_given):
    """Draws a pixel [B, C]; returns it and the outputs of the network's last layer, side by side.

    Args:
        outputs_of: the last layer, a function of `known` (see blocks.ChannelWiseOutput).
        temperature: a tensor [].
        levels: L, if drawn values are to be rounded; None for 8-bit RGB.
        unless_given: replaces drawn values by given ones.
    """
    channels = []

    def drawn(*outputs):
        channel = len(channels)
        value = logistic_mixture.sample_channel_from_discretized_mix_logistic(
            outputs[0], outputs[-1], u_mix, u_logistic[:, channel], temperature, levels
        )
        channels.append(unless_given(value, channel))
        return tf.stack(channels, -1)

    outputs = outputs_of(known=drawn)
    if isinstance(outputs, tuple):
        return drawn(*outputs), tf.concat(outputs, -1)
    pixel = logistic_mixture.sample_from_discretized_mix_logistic(outputs, u_mix, u_logistic, temperature, levels)
    return unless_given(pixel, slice(None)), outputs


def _batch_first(row):
    """[W, B, ...] -> [B, W, ...]."""
    return tf.transpose(row, [1, 0, *range(2, row.shape.rank)])
