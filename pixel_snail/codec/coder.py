"""Codes a batch of images as one stream, by the probabilities that a network predicts.

The stream has the pixels in raster order; for each pixel first the first channel's values of all images, then the
second channel's, and so on. Encoder and decoder must compute the same probabilities, bit by bit. So both run the same
compiled function, whose flag `decodes` chooses whether a pixel's values come from the image or from the stream.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pixel_snail import sampling
from pixel_snail.backend import tf
from pixel_snail.codec.range_coder import Decoder, Encoder, cumulative_frequencies, cumulative_frequencies_of
from pixel_snail.errors import UserError
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.likelihoods.levels import dtype_of, scaled
from pixel_snail.network import Network
from pixel_snail.weights import Weights


class _Row(NamedTuple):
    """The inputs of a row: the values to encode, int32 [B, W, C], and which pixels are inside their image, [B, W]."""

    values: tf.Tensor
    is_inside: tf.Tensor


class _Carried(NamedTuple):
    """The state between pixels: the decoder, whether it is used, and the values of the previous pixel."""

    decoder: Decoder
    decodes: tf.Tensor
    before: tf.Tensor


class ImageCoder:
    """Encodes and decodes batches of images with a causal network.

    Args:
        network: the network.
        batch: B, the number of images in a batch. Encoder and decoder must use the same number, because it affects how
            sums are rounded.
        jit: see sampling.RowByRow.

    Several threads may use one ImageCoder.

    Raises:
        Shortage: a batch needs more memory than the machine has.

    Attributes:
        at_once: how many batches may be coded at once; more threads wait.
    """

    def __init__(self, network: Network, batch: int, jit: bool = True):
        self.batch, self.at_once = batch, sampling.most_at_once(network, batch)
        self.height, self.width, self.channels = network.description.image_shape
        self.levels = network.description.levels
        choose = functools.partial(_choose, channels=self.channels, levels=self.levels, codes=network.codes)
        # The values, the bounds of their intervals, and whether the prediction was finite.
        self._pixels = sampling.RowByRow(network, batch, choose, [tf.int32, tf.int32, tf.bool], jit, self.at_once)

    def encode(
        self,
        weights: Weights,
        images: np.ndarray,
        sizes: np.ndarray | None = None,
        h: tf.Tensor | None = None,
        each_row: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> bytes:
        """Encodes images, and returns the stream.

        Args:
            weights: those of `normalised_weights`.
            images: values, integers [B, H, W, C].
            sizes: the numbers of rows and columns of each image that are coded, from the upper left, integers [B, 2];
                by default all. Other pixels take no bits.
            h: the argument h of a conditional network.
            each_row: makes a context in which a row is computed.

        Raises:
            UserError: a prediction is not finite.
        """
        encoder = Encoder()

        def write(is_inside, bounds):
            # [B, W, C, 2] -> [W, C, B, 2]
            shape = [self.width, self.channels, self.batch]
            coded = np.moveaxis(bounds, 0, 2)[np.broadcast_to(is_inside.T[:, None], shape)]
            encoder.write(coded[:, 0], coded[:, 1])

        self._run(weights, images.astype(np.int32), sizes, h, None, write, each_row)
        return encoder.words().astype("<u4").tobytes()

    def decode(
        self,
        weights: Weights,
        stream: bytes,
        sizes: np.ndarray | None = None,
        h: tf.Tensor | None = None,
        each_row: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> np.ndarray:
        """Decodes a stream: images [B, H, W, C], uint8 or, above 256 levels, uint16. Pixels that are not coded are 0.

        If the stream is damaged, or was written on a machine that rounds differently, the images are wrong.
        Arguments and errors as in `encode`.
        """
        whole = stream + bytes(-len(stream) % 4)
        words = np.frombuffer(whole, "<u4").astype(np.uint32)
        values = np.zeros([self.batch, self.height, self.width, self.channels], np.int32)
        decoded = self._run(weights, values, sizes, h, words, lambda *_: None, each_row)
        return decoded.astype(dtype_of(self.levels))

    def _run(self, weights, values, sizes, h, words, write, each_row):
        """Goes through the images' pixels, and returns the values [B, H, W, C]; encodes if `words` is None."""
        sizes = np.full([self.batch, 2], [self.height, self.width]) if sizes is None else np.asarray(sizes)
        result = np.zeros(values.shape, np.int32)
        most = self.channels * self.width * self.batch  # words that a row takes
        decodes, words = words is not None, np.zeros(0, np.uint32) if words is None else words
        decoder, at = Decoder.begin(_part(words, 0, 2)), 0
        with self._pixels.images(weights, h) as compute_row:
            for y in range(sizes[:, 0].max()):
                is_inside = (y < sizes[:, :1]) & (np.arange(self.width) < sizes[:, 1:])
                at += int(decoder.position)
                decoder = decoder._replace(words=_part(words, at, most), position=0)
                carried = _Carried(decoder, decodes, np.zeros([self.batch, self.channels], np.int32))
                row, carried = _Row(values[:, y], is_inside), tf.nest.map_structure(tf.constant, carried)
                with each_row():
                    _, (result_row, bounds, is_finite), carried = compute_row(y, row, carried)
                if not is_finite.numpy().all():
                    raise UserError(
                        "predictions are not finite: the checkpoint's parameters are damaged or untrained; use another"
                    )
                decoder = carried.decoder
                result[:, y] = np.where(is_inside[..., None], result_row.numpy(), 0)
                write(is_inside, bounds.numpy())
        return result


def _part(words, first, number):
    """words[first : first + number], with zeros for words past the end, as constriction reads them."""
    part = words[first : first + number]
    return np.concatenate([part, np.zeros(number - len(part), np.uint32)])


def _choose(outputs_of, here, carried, channels, levels, codes):
    """Chooses a pixel's values for sampling.RowByRow: those of the row's inputs or, if `decodes`, of the stream."""
    scaled_values = scaled(np.arange(levels, dtype=np.float32), levels)
    decoder, decodes, before = carried
    known, values, bounds, log_likelihood = tf.zeros([before.shape[0], 0]), [], [], 0.0

    def know_next(outputs):
        """The channels in [-1, 1] that are known once the next one is coded."""
        nonlocal decoder, known, log_likelihood
        channel = len(values)
        if codes is None:
            logits, mean, log_scale = logistic_mixture.next_channel(outputs, known, channels, levels)
            # The channels share the component: components that made the known channels likely get more weight.
            below = logistic_mixture.probabilities_below(logits + log_likelihood, mean, log_scale, levels)
            cumulative = cumulative_frequencies(below)
        else:
            cumulative = cumulative_frequencies_of(tf.nn.softmax(outputs))
        value, decoder = decoder.read(cumulative, here.is_inside)
        value = tf.where(decodes, value, here.values[:, channel])
        # Outside the image, the values of the pixel on the left are repeated.
        value = tf.where(here.is_inside, value, before[:, channel])
        values.append(value)
        bounds.append(tf.gather(cumulative, tf.stack([value, value + 1], -1), batch_dims=1))
        x = tf.gather(scaled_values, value)[:, None]
        known = tf.concat([known, x], -1)
        if codes is None:
            log_likelihood += logistic_mixture.logistic_log_prob(x, mean, log_scale, levels)
        return known

    outputs = outputs_of(known=lambda *outputs: know_next(outputs))
    for _ in range(channels - len(values)):
        know_next(outputs)
    is_finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(o), -1) for o in tf.nest.flatten(outputs)], 0)
    values = tf.stack(values, -1)
    return known, [values, tf.stack(bounds, 1), is_finite], _Carried(decoder, decodes, values)
