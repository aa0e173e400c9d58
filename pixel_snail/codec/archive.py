"""Writes any number of images into one file, and reads them back."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

import pixel_snail
from pixel_snail import sampling
from pixel_snail.backend import tf
from pixel_snail.codec import container, rounding
from pixel_snail.codec.coder import ImageCoder
from pixel_snail.commands import progress
from pixel_snail.errors import UserError, is_whole, option
from pixel_snail.inputs.conditions import checked_condition
from pixel_snail.kernels.elementwise import SMALLEST_SQUARE
from pixel_snail.likelihoods.levels import dtype_of, is_8_bit_rgb
from pixel_snail.model import leak_warning
from pixel_snail.network import Network, argument_h
from pixel_snail.parallel import devices, memory
from pixel_snail.parallel.side_by_side import results_in_order
from pixel_snail.storage import values
from pixel_snail.weights import WeightNormalised, Weights, normalised_weights

_MANY = 64
"""More images than these are coded in larger batches, if they are small."""

_SMALL = 1024
"""The most bytes of a small image, uncompressed."""

_LARGEST = (container.MOST_IN_A_GROUP, container.MOST_IN_A_GROUP // 2)
"""The largest batches of many small images; the second one if the first does not fit into memory."""

_PORTABLE = "python -m pixel_snail.codec compress --portable"


class Archiver:
    """Writes and reads files of images with a causal network.

    Args:
        network: the network, with its parameters.

    Raises:
        UserError: the network leaks.
    """

    def __init__(self, network: Network):
        self._network = network
        if network.leaks:
            name = network.description.model
            raise UserError(f"{leak_warning(name)}, and no decoder could repeat its predictions: it can't compress")
        # Each takes memory, and a file chooses the size of its batches.
        self._coders = functools.lru_cache(maxsize=2)(functools.partial(ImageCoder, network))
        self._lock = threading.Lock()

    @devices.without_tf32()
    def compress(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        condition: np.ndarray | None = None,
        pictures: Sequence[container.Picture] | None = None,
        checkpoint: tuple[str, bool] | None = None,
        *,
        batch_size: int | None = None,
        verify: bool = True,
        workers: int | None = None,
        verbose: int = 1,
    ) -> bytes:
        """A file of images.

        Args:
            images: values, integers [N, H, W, C]; only a batch at a time is read.
            labels: integers [N], of a conditional network.
            condition: [N, ...], of a network with a condition. The file has its checksum only.
            pictures: the pictures that were cut into the images.
            checkpoint: see container.Header.
            batch_size: the number of images that are computed at once and share a stream; by default, that of
                `default_batch_size`.
            verify: whether to decode each group once it is encoded.
            workers: the most batches that are computed at once, by default as many as there are cores. It does not
                change the file.
            verbose: 0: no progress bar.

        Raises:
            UserError: batch_size or a picture's name is not allowed, memory does not suffice, a prediction is not
                finite, or decoding did not restore the pixels.
        """
        description, condition = self._network.description, _exact(condition)
        batch_size = default_batch_size(len(images), self._network) if batch_size is None else batch_size
        if not is_whole(batch_size, least=1) or batch_size > container.MOST_IN_A_GROUP:
            raise UserError(
                f"{option('batch_size')}={batch_size!r} is not a whole number from 1 to {container.MOST_IN_A_GROUP}"
            )
        header = container.Header(
            _description(description),
            _checksum(variable.numpy() for variable in self._network.weights),
            rounding.description(),
            len(images),
            batch_size,
            None if labels is None else [int(label) for label in labels],
            None if pictures is None else list(pictures),
            checkpoint,
            None if condition is None else _checksum([condition]),
        )
        container.check(header)
        coder = self._coder(batch_size)

        def group_of(batch, go_on):
            each_row = lambda: progress.step_of(bar, go_on)
            of_batch = values.rows(images, np.arange(batch.first, batch.last)).astype(dtype_of(description.levels))
            given = _filled(of_batch, batch_size)
            stream = coder.encode(batch.weights, given, batch.sizes, batch.h, each_row)
            pixels = _coded_pixels(given, batch.sizes)
            if verify:
                decoded = coder.decode(batch.weights, stream, batch.sizes, batch.h, each_row)
                if not np.array_equal(_coded_pixels(decoded, batch.sizes), pixels):
                    raise UserError(
                        f"decoding {_numbers(batch)} gave other pixels: this machine does not compute the same "
                        "twice, and nothing is written; test its memory, or on a GPU set CUDA_VISIBLE_DEVICES=-1"
                    )
            return container.Group(stream, container.checksum(pixels))

        with self._bar(header, "compressing", 1 + verify, verbose) as bar:
            at_once = _at_once(coder, header, workers)
            groups = list(results_in_order(group_of, self._batches(header, condition), at_once))
        return container.write(header, groups)

    def decompress(
        self,
        header: container.Header,
        groups: Sequence[container.Group],
        condition: np.ndarray | None = None,
        workers: int | None = None,
        verbose: int = 1,
    ) -> Iterator[np.ndarray | UserError]:
        """The images of a file, group by group: [b, H, W, C], or the error that says why they can't be decoded.

        Args:
            header, groups: as from container.read.
            condition: as in compress; for all images of the file.
            workers: as in compress.
            verbose: 0: no progress bar.

        Raises:
            UserError: the file was written with another network or checkpoint, or by a version of this program that
                rounds differently; or memory does not suffice.
        """
        self._check(header)
        condition = self._checked_condition(header, condition)
        coder = self._coder(header.batch)

        def images_of(batch_and_group, go_on):
            batch, group = batch_and_group
            which = f"{_numbers(batch)} of {header.images}"
            if group.stream is None:
                return UserError(f"{which} can't be decoded: that part of the file is damaged or cut off")
            with devices.without_tf32():
                images = self._decoded(coder, batch, group, lambda: progress.step_of(bar, go_on))
                reason = _reason(header.machine) if images is None else None
            if images is None:
                return UserError(f"{which} can't be decoded here: {reason}")
            return images[: batch.last - batch.first]

        with self._bar(header, "decompressing", 1, verbose) as bar:
            batches = zip(self._batches(header, condition), groups, strict=True)
            yield from results_in_order(images_of, batches, _at_once(coder, header, workers))

    @staticmethod
    def _decoded(coder, batch, group, each_row):
        """The images of a group; None if they differ from the encoded images."""
        try:
            images = coder.decode(batch.weights, group.stream, batch.sizes, batch.h, each_row)
        except UserError:  # wrongly decoded pixels may lead to predictions that are not finite
            return None
        return images if container.checksum(_coded_pixels(images, batch.sizes)) == group.pixels else None

    def _coder(self, batch_size):
        with self._lock:  # threads that need the same coder share it
            return self._coders(batch_size)

    def _check(self, header):
        """Raises UserError if a file's network, checkpoint or number of drawing is not the present one."""
        ours = _description(self._network.description) | {"levels": self._network.description.levels}
        theirs = header.network | {"levels": header.levels}
        for name in sorted({*ours, *theirs}):
            if theirs.get(name) != ours.get(name):
                called = {"nr_labels": "number of classes", "levels": "number of levels"}.get(name)
                there, here = (rounding.in_words(of.get(name)) for of in (theirs, ours))
                do = "use the checkpoint that it was written with"
                if name == "image_shape":  # a checkpoint can be loaded for images of any size
                    do += ", loaded with the same image_shape"
                raise UserError(
                    f"the file is of another network: its {called or rounding.in_words(name)} is {there}, not {here}; "
                    f"{do}"
                )
        if header.weights != _checksum(variable.numpy() for variable in self._network.weights):
            raise UserError(
                "the file is of another checkpoint: the network is the same, but its parameters differ; use the "
                "checkpoint that the file was written with, averaged or raw as it was then"
            )
        if version := rounding.other_version(header.machine):
            raise UserError(
                f"the file was written by version {version} of this program, whose drawing rounds differently from "
                f"that of this version, {pixel_snail.__version__}: decompress it with version {version}"
            )
        nr_labels = self._network.description.nr_labels
        if nr_labels is not None and (header.labels is None or any(label >= nr_labels for label in header.labels)):
            raise UserError("the file is damaged: it has no valid class for each image; get it anew")

    def _checked_condition(self, header, condition):
        """The condition of a file's images as it was compressed. Raises UserError if another one is given, or none."""
        condition = _exact(checked_condition(condition, header.images, self._network.description.condition))
        if condition is not None and _checksum([condition]) != header.condition:
            raise UserError(
                "the file was compressed with another condition: give the condition of the same images, in their order"
            )
        return condition

    def _batches(self, header, condition):
        weights, sizes = _weights(self._network), header.sizes()
        for first in range(0, header.images, header.batch):
            last = min(first + header.batch, header.images)
            labels = None if header.labels is None else _filled(np.array(header.labels[first:last]), header.batch)
            of_batch = None if condition is None else _filled(condition[first:last], header.batch)
            h = argument_h(labels, of_batch, self._network.description)
            of_batch = np.array(list(itertools.islice(sizes, last - first)))
            yield _Batch(first, last, _filled(of_batch, header.batch), h, weights)

    def _bar(self, header, title, passes, verbose):
        """A progress bar that counts rows of batches."""
        sizes = header.sizes()
        rows = 0
        while of_batch := list(itertools.islice(sizes, header.batch)):
            rows += max(height for height, _ in of_batch)
        return progress.bar(total=passes * rows, desc=title, unit="row", disable=not verbose)


def default_batch_size(images: int, network: Network) -> int:
    """The number of images in a batch. For many images, the batch is larger, which takes less time per image.

    Each batch adds 16 bytes of sizes and checksums and about 4 bytes for the end of its stream. Images of at most a
    kilobyte are coded in larger batches, because a batch of 32 of them may take only a few hundred bytes. 8-bit RGB is
    coded as in earlier versions. Batches that do not fit into memory are made smaller.

    Raises:
        OutOfMemory: memory does not suffice for a single image.
    """
    description = network.description
    height, width, channels = description.image_shape
    size = height * width * channels * math.log2(description.levels) / 8
    sizes = [8] if images <= 16 else [32, 8]
    if images > _MANY and size <= _SMALL and not is_8_bit_rgb(channels, description.levels):
        # Batches of equal size: one that is not full takes as long as a full one.
        of_most = [math.ceil(images / math.ceil(images / most)) for most in _LARGEST]
        sizes = [*of_most, *sizes]
    for batch_size in sizes:
        with contextlib.suppress(memory.Shortage):
            sampling.check_memory(network, batch_size)
            return batch_size
    with memory.shortage_reported(memory.MORE_MEMORY):  # no smaller batch is left to advise
        sampling.check_memory(network, 1)
    return 1


def _at_once(coder, header, workers):
    """How many batches of a file are computed at once."""
    batches = math.ceil(header.images / header.batch)
    return max(1, min(batches, coder.at_once, workers or coder.at_once))


class _Batch(NamedTuple):
    """A batch: its first image and the one after its last, their sizes [B, 2], labels [B, classes], and the weights."""

    first: int
    last: int
    sizes: np.ndarray
    h: tf.Tensor | None
    weights: Weights


def _numbers(batch):
    """The images of a batch in words."""
    one = batch.last == batch.first + 1
    return f"image {batch.last}" if one else f"images {batch.first + 1} to {batch.last}"


def _filled(values, number):
    """Appends zeros to values until there are `number`. Images whose size is zero are not coded."""
    return np.concatenate([values, np.zeros([number - len(values), *values.shape[1:]], values.dtype)])


def _coded_pixels(images, sizes):
    """The values of the pixels that are coded, [n]."""
    return np.concatenate(
        [image[:rows, :columns].ravel() for image, (rows, columns) in zip(images, sizes, strict=True)]
    )


def _exact(condition):
    """A condition as the network computes with it: float32, or int32 for codes; None stays None."""
    if condition is None:
        return None
    return np.asarray(condition[:]).astype(np.float32 if np.dtype(condition.dtype).kind == "f" else np.int32)


def _description(description):
    """The fields of a network's description that decide its predictions, besides the parameters.

    Files of 8-bit images have no field `levels`, only files of codes have `likelihood`, and only those of networks with
    a condition have its fields: earlier versions wrote none of them.
    """
    fields = dataclasses.asdict(description) | {"image_shape": list(description.image_shape)}
    if description.condition:
        fields["condition_shape"] = list(description.condition_shape)
    left_out = ["class_names", "dropout_p"]
    left_out += [] if description.levels != 256 else ["levels"]
    left_out += [] if description.codes else ["likelihood"]
    left_out += [] if description.condition else [name for name in fields if name.startswith("condition_")]
    return {name: value for name, value in fields.items() if name not in left_out}


def _weights(network):
    """The network's weights as from weights.normalised_weights, but in float64 by operations that IEEE 754 defines.

    TensorFlow takes the inverse of a norm by an approximation that differs between processors.
    """
    weights = normalised_weights(network, network.weights)
    for layer, of_layer in weights.items():
        if isinstance(layer, WeightNormalised):
            v, g = layer.V.numpy().astype(np.float64), layer.g.numpy()
            norm = np.sqrt(np.maximum(np.square(v).sum(layer.axes, keepdims=True), SMALLEST_SQUARE))
            weights[layer] = of_layer._replace(w=tf.constant(np.float32(g.reshape(norm.shape) / norm * v)))
    return weights


def _checksum(arrays):
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _reason(there):
    """Why the pixels of an undamaged stream are wrong."""
    difference = rounding.difference(there, rounding.description())
    if not difference:
        return (
            "sums are rounded differently here than where the file was written, though nothing that it records "
            "differs: decompress the file on the machine that wrote it, or compress the pictures again with "
            f"{_PORTABLE}"
        )
    return (
        f"sums are rounded differently here than where the file was written ({difference}): decompress the file with "
        "the same processor, versions and variables as there; if only the processor differs, compress the pictures "
        f"again with {_PORTABLE}"
    )
