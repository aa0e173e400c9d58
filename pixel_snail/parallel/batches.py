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
) -> tf.data.Dataset:
    """The batches of an epoch of training: the images in a new permutation, without an incomplete last batch.

    Yields {"images": values [B, H, W, C]} and, if the split has them, "labels": int32 [B], and "condition": float32 or
    int32 [B, ...]. The values of images are uint8 if the split's are, else int32. If the images have a method
    `in_epoch` (see Split), the batches hold the images that it returns.

    Args:
        batch_size: the global batch.
        seed, epoch: they decide the permutation, and the images that `in_epoch` returns.
        seen: how many images of the permutation to skip, when an interrupted epoch goes on.
        replicas: the number of all replicas. Each global batch is divided among them.
        own: the numbers of the replicas to yield batches for, one after the other, of B = batch_size / replicas images.

    Raises:
        UserError: the split is smaller than a batch.
    """
    check_batch_size(split, batch_size)
    order = epoch_order(split, seed, epoch)[seen:]
    split = dataclasses.replace(split, images=in_epoch(split.images, seed, epoch))
    return _batches(split, order[: len(order) // batch_size * batch_size], batch_size, replicas, own)


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


def _batches(split, order, batch_size, replicas, own):
    size = batch_size // replicas
    kind = np.uint8 if split.images.dtype == np.uint8 else np.int32
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
