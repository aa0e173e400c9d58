"""Draws images pixel by pixel, in raster order."""

import contextlib
import functools
import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pixel_snail.backend import tf
from pixel_snail.blocks import AttentionBlock, background
from pixel_snail.cache import ImageCache
from pixel_snail.commands import progress
from pixel_snail.errors import UserError, check_option, counted, is_number, is_whole, option, plain
from pixel_snail.kernels.packing import pack, unpack
from pixel_snail.likelihoods import categorical, logistic_mixture
from pixel_snail.network import Network, argument_h
from pixel_snail.parallel import devices, memory
from pixel_snail.parallel.side_by_side import results_in_order
from pixel_snail.storage import values
from pixel_snail.weights import Weights, for_pixels, layers_in, using

BATCH_ON_CPU = 8
"""The number of images that a CPU draws at a time, always the same.

The rounding of matrix products depends on their number of rows, and a difference grows from pixel to pixel. With
batches of one size, each image is the same, bit by bit, however many are drawn. Larger batches save a CPU little time,
except at F 256.
"""


class Noise(NamedTuple):
    """The settings of random draws.

    Fields:
        temperature: scales the noise. For a mixture, this is the noise of the choice of a component and that of the
            logistic distributions; for codes, the logits are divided by the temperature.
        top_k, top_p: limits of codes; see likelihoods.categorical.sample.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    @property
    def is_limited(self) -> bool:
        """Whether some codes are never drawn."""
        return (self.top_k, self.top_p) != (None, None)


NOISE = Noise()
"""The settings of exact draws from the network's distribution."""


def checked_noise(temperature: object, top_k: object, top_p: object, network: Network) -> Noise:
    """The noise of a drawing.

    Raises:
        UserError: a value is not possible, or top_k or top_p is given, but the network does not predict codes.
    """
    is_possible = is_number(temperature) and 0 <= temperature < math.inf
    check_option("temperature", temperature, is_possible, "a number, 0 or more")
    check_option("top_k", top_k, top_k is None or is_whole(top_k, least=1), "a whole number above 0")
    check_option("top_p", top_p, top_p is None or (is_number(top_p) and 0 < top_p <= 1), "a number above 0, at most 1")
    noise = Noise(float(temperature), plain(top_k), plain(top_p))
    if noise.is_limited and network.codes is None:
        name = "top_p" if top_k is None else "top_k"
        instead = option("temperature")
        raise UserError(f"{option(name)} is for codes, but the network's values are numbers: use {instead}")
    return noise


def drawer(network: Network, batch_on_gpu: int = 32) -> Callable[..., np.ndarray]:
    """A function that draws any number of images with a causal network, in batches.

    Args:
        batch_on_gpu: the number of images in a batch on a GPU; on a CPU, it is BATCH_ON_CPU, and each core draws
            batches of its own.

    Returns:
        draw(weights, number, seed, classes=None, condition=None, given=None, is_given=None, noise=NOISE, workers=None,
        verbose=1) -> images, float32 in [-1, 1], [number, H, W, C]; 8-bit RGB is not rounded. `weights` are those of
        `normalised_weights`; a conditional network needs `classes` [number] or `condition` [number, ...]; of images
        `given` [number, H, W, C], the pixels `is_given`, booleans [number, H, W], are kept, or none; `workers` is the
        most batches that are drawn at once, by default as many as there are cores. It raises UserError if the
        parameters are not finite.

    Raises:
        Shortage: a batch needs more memory than the machine has.
    """
    description = network.description
    batch = batch_on_gpu if devices.number_of_gpus() else BATCH_ON_CPU
    at_once = most_at_once(network, batch)
    drawer_of = functools.cache(functools.partial(batch_drawer, network, batch, at_once=at_once))
    drawer_of(is_limited=False)  # which takes its memory now

    def draw(
        weights,
        number,
        seed,
        classes=None,
        condition=None,
        given=None,
        is_given=None,
        noise=NOISE,
        workers=None,
        verbose=1,
    ):
        draw_batch = drawer_of(is_limited=noise.is_limited)

        def images_from(first, go_on):
            # A batch that is not full is filled up with repetitions, which are thrown away.
            chosen = np.minimum(np.arange(first, first + batch), number - 1)
            drawn, _ = draw_batch(
                weights,
                *uniforms(seed, first, batch, description.image_shape, description.drawn_components),
                h=argument_h(_chosen(classes, chosen), _chosen(condition, chosen), description),
                given=_chosen(given, chosen),
                is_given=_chosen(is_given, chosen),
                noise=noise,
                each_row=lambda: progress.step_of(bar, go_on),
            )
            return drawn

        firsts = range(0, number, batch)
        rows, title = len(firsts) * description.image_shape[0], f"sampling {counted(number, 'image')}"
        with progress.bar(total=rows, desc=title, unit="row", disable=not verbose) as bar:
            batches = results_in_order(images_from, firsts, min(len(firsts), at_once, workers or at_once))
            images = np.concatenate(list(batches))[:number]
        if not np.isfinite(images).all():
            raise UserError("samples are not finite: the checkpoint's parameters are damaged or untrained; use another")
        return images

    return draw


def check_workers(workers: int | None) -> None:
    """Raises UserError unless `workers` is a number of batches that may be computed at once, or None."""
    is_possible = workers is None or is_whole(workers, least=1)
    check_option("workers", workers, is_possible, "a whole number above 0, or None for all cores")


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
    """Computes the pixels of batches of images with a causal network, row by row; each pixel's features once.

    Several threads may use one RowByRow, each for a batch of its own. They share the compiled function.

    Args:
        network: the network.
        batch: B.
        choose: a function that chooses a predicted pixel: choose(outputs_of, here, carried) -> (pixel, kept, carried).
            `outputs_of` is the network's last layer, a function of `known` (see blocks.ChannelWiseOutput); `here` has
            the inputs of `row` at this pixel; `carried` goes from pixel to pixel. `pixel` is [B, C] in [-1, 1];
            `kept` are results, [B, ...] each.
        kept: the types of these results.
        jit: whether XLA compiles the computation of a row. A step has a thousand small operations, which TensorFlow
            starts more slowly than XLA.
        at_once: how many batches may be computed at once, each with a cache of its own; more threads wait.
    """

    def __init__(
        self,
        network: Network,
        batch: int,
        choose: Callable,
        kept: Sequence[tf.DType],
        jit: bool = True,
        at_once: int = 1,
    ):
        cache, (_, width, _) = new_cache(network, batch), network.description.image_shape
        self._shapes = [variable.shape for variable in cache.variables]
        # The variables of caches that no thread uses; those of the later caches are made when a thread needs them.
        self._free = queue.LifoQueue()
        for variables in [None] * (at_once - 1) + [cache.variables]:
            self._free.put(variables)
        self._layers, self._like = (), []  # the layers that have weights, and the shapes and types of these
        self._has_run = False

        @tf.function(autograph=False)
        def advance(y, variables):
            cache.use(iter(variables))
            cache.advance(y)

        @tf.function(jit_compile=jit, autograph=False)
        def row(y, variables, inputs, carried, h, packed):
            progress.announce_compilation()

            def step(x, loop, carried, results):
                cache.begin_step(x, loop)
                here = tf.nest.map_structure(lambda of_row: tf.gather(of_row, x, axis=1), inputs)
                h_here = tf.gather(h[:, 0], x, axis=1) if _is_map(h) else h
                ul = network(None, h=h_here, cache=cache)
                outputs_of = functools.partial(network.output_layer, ul, h=h_here, cache=cache)
                pixel, new, carried = choose(outputs_of, here, carried)
                results = [array.write(x, value) for array, value in zip(results, [pixel, *new], strict=True)]
                return x + 1, cache.end_step_with(network.embed(pixel)), carried, results

            with using(dict(zip(self._layers, unpack(packed, like=self._like), strict=True))):
                cache.use(iter(variables))
                cache.begin_row(y)
                network(None, h=h, cache=cache)
                results = [tf.TensorArray(type_, width) for type_ in (tf.float32, *kept)]
                state = tf.constant(0), cache.end_row_pass(), carried, results
                _, loop, carried, results = tf.while_loop(lambda x, *_: x < width, step, state)
                cache.end_row(loop)
                pixels, *results = [_batch_first(array.stack()) for array in results]
                return pixels, results, carried

        # These functions are traced again for each network and size of batch, and TensorFlow would warn of that.
        # The attribute is private; if it is removed, only the warning comes back.
        row._omit_frequent_tracing_warning = advance._omit_frequent_tracing_warning = True
        self._advance, self._row = advance, row
        self._conditioned = functools.partial(
            network.conditioned, seed=None, image_shape=network.description.image_shape
        )

    @contextlib.contextmanager
    def images(self, weights: Weights, h: tf.Tensor | None = None) -> Iterator[Callable]:
        """Within it, this thread computes the rows of a batch of images, from the first on.

        Args:
            weights: those of `normalised_weights`.
            h: labels and conditions, the argument h of a conditional network.

        Yields:
            row(y, inputs, carried=()) computes row y of the images; rows must be computed in order, from 0 on.
            `inputs` is a nest of tensors [B, W, ...], `carried` a nest of tensors for the first pixel. It returns the
            pixels [B, W, C], the results [B, W, ...], and `carried` of the last pixel.
        """
        weights = for_pixels(weights)
        with using(weights):
            h, _ = self._conditioned(h)
        packed = pack(list(weights.values()))
        variables = self._free.get()
        try:
            if variables is None:
                variables = [tf.Variable(tf.zeros(shape), trainable=False) for shape in self._shapes]
            else:
                for variable in variables:
                    variable.assign(tf.zeros(variable.shape))

            def row(y, inputs, carried=()):
                with contextlib.nullcontext() if self._has_run else _first_run:
                    if not self._has_run:
                        self._layers, self._like = tuple(weights), _shapes_and_types(list(weights.values()))
                    self._advance(tf.constant(y), variables)
                    h_of_row = h[:, y : y + 1] if _is_map(h) else h
                    results = self._row(tf.constant(y), variables, inputs, carried, h_of_row, packed)
                    self._has_run = True
                return results

            yield row
        finally:
            self._free.put(variables)


class _Row(NamedTuple):
    """The inputs of a row of pixels: random numbers [B, W, K] and [B, W, C], given pixels [B, W, C], and which values
    of these to keep, booleans [B, W, C]."""

    u_mix: tf.Tensor
    u_logistic: tf.Tensor
    given: tf.Tensor
    is_given: tf.Tensor


def batch_drawer(
    network: Network, batch: int, jit: bool = True, at_once: int = 1, is_limited: bool = False
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A function that draws a batch of images with a causal network.

    As in the original, the canvas starts as zeros, and pixels of 8-bit RGB are not rounded before the next ones are
    predicted from them. Other values are rounded (see network.Description.drawn_levels).

    Args:
        batch: B.
        jit, at_once: see RowByRow.
        is_limited: whether it draws with noise that is limited.

    Returns:
        draw(weights, u_mix [B, H, W, K], u_logistic [B, H, W, C], h=None, given=None, is_given=None, noise=NOISE,
        each_row=...) -> (images [B, H, W, C] in [-1, 1], the network's outputs for each of their pixels [B, H, W, 10 K]
        for C = 3, or 9 K if they are channel-wise). `weights` are those of `normalised_weights`, h is the network's
        argument; of images `given` [B, H, W, C], the pixels `is_given`, booleans [B, H, W], are kept, or none. Of
        codes, K is 0, and u_logistic chooses them. Each row is computed in a context that each_row() makes.
    """
    image_shape, levels = network.description.image_shape, network.description.drawn_levels
    height, width, channels = image_shape

    def choose(outputs_of, here, noise):
        unless_given = lambda drawn, channel: tf.where(here.is_given[:, channel], here.given[:, channel], drawn)
        if network.codes is not None:
            output = outputs_of(known=None)
            drawn = categorical.sample(output, here.u_logistic[:, 0], network.codes, *noise)
            return unless_given(drawn[:, None], slice(None)), [output], noise
        pixel, output = _draw_pixel(outputs_of, here.u_mix, here.u_logistic, *noise, levels, unless_given)
        return pixel, [output], noise

    by_rows = RowByRow(network, batch, choose, [tf.float32], jit, at_once)

    def draw(
        weights,
        u_mix,
        u_logistic,
        h=None,
        given=None,
        is_given=None,
        noise=NOISE,
        each_row=contextlib.nullcontext,
    ):
        given = np.zeros([batch, *image_shape], np.float32) if given is None else given
        is_given = np.zeros([batch, height, width], bool) if is_given is None else is_given
        is_given = np.repeat(is_given[..., None], channels, axis=-1)
        # Tensors: Python numbers would be compiled in, anew for each temperature.
        tensors = [tf.constant(noise.temperature, tf.float32)]
        if is_limited:
            top_k = network.codes if noise.top_k is None else min(noise.top_k, network.codes)
            # Without a limit, rounded sums of probabilities may be above 1.
            tensors += [tf.constant(top_k), tf.constant(2.0 if noise.top_p in (None, 1) else noise.top_p, tf.float32)]
        rows = []
        with by_rows.images(weights, h) as row:
            for y in range(height):
                inputs = (tf.constant(of_images[:, y]) for of_images in (u_mix, u_logistic, given, is_given))
                with each_row():
                    pixels, (outputs,), _ = row(y, _Row(*inputs), tensors)
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
        network.embedded_channels,
    )


def most_at_once(network: Network, batch: int) -> int:
    """How many batches this machine can compute at once, pixel by pixel: one on each core, if memory suffices.

    With GPUs, it is one.

    Raises:
        Shortage: as check_memory.
    """
    check_memory(network, batch)
    if devices.number_of_gpus():
        return 1
    available, cores = devices.available_memory(), devices.number_of_cores()
    return cores if available is None else max(1, min(cores, available // _needed(network, batch)))


def check_memory(network: Network, batch: int) -> None:
    """Raises memory.Shortage if drawing a batch needs more memory than this process can still get.

    On GPUs, which have memory of their own, nothing is checked.
    """
    available, needed = devices.available_memory(), _needed(network, batch)
    if available is not None and needed > available and not devices.number_of_gpus():
        raise memory.Shortage(
            f"computing {counted(batch, 'image')} at a time, pixel by pixel, needs about {memory.in_words(needed)}, "
            f"and {memory.in_words(available)} are free"
        )


def in_less_memory() -> str:
    """What to do, in words, where memory does not suffice for drawing."""
    fewer = f"lower {option('sample_batch', in_python='batch_on_gpu')}"
    return fewer if devices.number_of_gpus() else memory.MORE_MEMORY


def _needed(network, batch):
    """The bytes that drawing a batch takes."""
    # A cache exists as variables and, in the loop, once or twice as tensors. Measured, a further worker took 3.7 times
    # the size of its cache (docs/sampling.md).
    return 4 * batch * new_cache(network, 1).nbytes


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


def _chosen(array, indices):
    """The rows of an array; None, if there is none."""
    return None if array is None else values.rows(array, indices)


def _is_map(h):
    """Whether labels and conditions are a map, or a row of one; else they are vectors, or None."""
    return h is not None and h.shape.rank == 4


def _shapes_and_types(nest):
    return tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), nest)


def _batch_first(row):
    """[W, B, ...] -> [B, W, ...]."""
    return tf.transpose(row, [1, 0, *range(2, row.shape.rank)])
