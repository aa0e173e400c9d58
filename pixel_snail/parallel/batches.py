"""The batches of a split, as tf.data.Dataset.

Images may be memory-mapped: only the images of a batch are read, when the batch is needed. So a split may be larger
than memory.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pixel_snail.backend import tf
from pixel_snail.dataset import Split
from pixel_snail.errors import UserError, counted, option
from pixel_snail.storage.reductions import in_epoch
from pixel_snail.storage.values import rows


def training_batches(
    split: Split,
    batch_size: int,
    seed: int,
    epoch: int,
    seen: int = 0,
    replicas: int = 1,
    own: Sequence[int] = (0,),
    soft_targets: bool = False,
) -> tf.data.Dataset:
    """The batches of an epoch of training: the images in a new permutation, without an incomplete last batch.

    Yields {"images": values [B, H, W, C]} and, if the split has them, "labels": int32 [B], and "condition": float32 or
    int32 [B, ...]. The values of images are uint8 if the split's are, else int32. If the images have a method
    `in_epoch` (see Split), the batches hold the images that it returns. With soft targets, they also hold
    "probabilities": those with which each value was drawn as 1, float32 [B, H, W, 1].

    Args:
        batch_size: the global batch.
        seed, epoch: they decide the permutation, and the images that `in_epoch` returns.
        seen: how many images of the permutation to skip, when an interrupted epoch goes on.
        replicas: the number of all replicas. Each global batch is divided among them.
        own: the numbers of the replicas to yield batches for, one after the other, of B = batch_size / replicas images.
        soft_targets: whether batches hold "probabilities"; the images must be those of storage.reductions.Binarized.

    Raises:
        UserError: the split is smaller than a batch.
    """
    check_batch_size(split, batch_size)
    order = epoch_order(split, seed, epoch)[seen:]
    images = in_epoch(split.images, seed, epoch)
    split = dataclasses.replace(split, images=images.with_probabilities if soft_targets else images)
    order = order[: len(order) // batch_size * batch_size]
    batches = _batches(split, order, batch_size, replicas, own)
    return batches.map(_with_soft_targets) if soft_targets else batches


def epoch_order(split: Split, seed: int, epoch: int) -> np.ndarray:
    """The permutation of a split's images in an epoch of training, integers [N]."""
    return np.random.default_rng([seed, epoch]).permutation(len(split))


def test_batches(split: Split, batch_size: int, replicas: int = 1, own: Sequence[int] = (0,)) -> tf.data.Dataset:
    """The batches of a test: all images once, in order. Arguments and yields are those of `training_batches`.

    The last batch is filled up with repetitions of the last image: only the first len(split) results count.
    """
    order = np.arange(-(-len(split) // batch_size) * batch_size)
    return _batches(split, np.minimum(order, len(split) - 1), batch_size, replicas, own)


def check_batch_size(split: Split, batch_size: int, name: str = "batch_size", replicas: int = 1) -> None:
    """Raises UserError if a training batch has more images than the split.

    Args:
        batch_size: the images of each replica.
        name: the option that gives batch_size.
        replicas: the number of replicas.
    """
    if batch_size * replicas > len(split):
        given, has = f"{option(name)}={batch_size}", counted(len(split), "image")
        if replicas > 1:
            raise UserError(
                f"{given} on each of {replicas} replicas is larger than the training set, which has {has}: lower it, "
                f"or {option('nr_gpu', in_python='the number of replicas')}"
            )
        raise UserError(f"{given} is larger than the training set, which has {has}: lower it")


def check_soft_targets(split: Split) -> None:
    """Raises UserError unless the values of the images are drawn with known probabilities."""
    if getattr(split.images, "with_probabilities", None) is None:
        give = option("binarize", in_python="images of pixel_snail.Binarized")
        raise UserError(f"{option('soft_targets')} is for images whose values are drawn as black or white: give {give}")


def _with_soft_targets(batch):
    """A batch whose "images" are values and their probabilities, [B, H, W, 2 C], with these as two tensors."""
    images, probabilities = tf.split(batch["images"], 2, -1)
    return batch | {"images": tf.cast(images, tf.uint8), "probabilities": probabilities}


def _batches(split, order, batch_size, replicas, own):
    size = batch_size // replicas
    kind = split.images.dtype if split.images.dtype in (np.uint8, np.float32) else np.int32
    order = order.reshape(-1, replicas, size)[:, own].reshape(-1, size)

    def read(indices):
        batch = {"images": _chosen(split.images, indices, kind, size)}
        if split.labels is not None:
            batch["labels"] = tf.gather(tf.constant(split.labels, tf.int32), indices)
        if split.condition is not None:
            is_numbers = np.dtype(split.condition.dtype).kind == "f"
            batch["condition"] = _chosen(split.condition, indices, np.float32 if is_numbers else np.int32, size)
        return batch

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # There is nothing to tune, and leaving a pipeline would wait up to a minute for the thread that tunes it.
    options.autotune.enabled = False
    batches = tf.data.Dataset.from_tensor_slices(order).map(read)
    return batches.prefetch(2).with_options(options)


def _chosen(values, indices, kind, size):
    """The values of `size` images, [size, ...], read when the batch is needed."""

    def read(indices):
        return np.ascontiguousarray(rows(values, indices), kind)

    return tf.ensure_shape(tf.numpy_function(read, [indices], kind, stateful=False), [size, *values.shape[1:]])
