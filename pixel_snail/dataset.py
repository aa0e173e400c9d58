"""A data set: two splits of images; arrays in, tf.data out.

Images may be memory-mapped: only the rows of a batch are read, when it is due, so that a set may be larger than
memory.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pixel_snail.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
    """Images, uint8 [N, H, W, 3], RGB, and their labels, integers [N], if the set has any."""

    images: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclasses.dataclass(frozen=True)
class DataSet:
    """The two splits, and what is known of them.

    Args:
        source: what the images were read from, for people.
        unverified: why the test images can't be taken for the published ones, where there are such; None where a
            checksum says that they are.
    """

    train: Split
    test: Split
    source: str = ""
    unverified: str | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, 3)."""
        return self.train.images.shape[1:]

    @property
    def nr_labels(self) -> int | None:
        """L, if the images have labels, which count from 0."""
        return None if self.train.labels is None else int(self.train.labels.max()) + 1

    def sizes(self) -> dict[str, object]:
        """What must be the same wherever this is the same data set."""
        return {
            "the shape of the training images": [len(self.train), *self.image_shape],
            "the shape of the test images": [len(self.test), *self.image_shape],
            "the number of classes": self.nr_labels,
        }

    def without_labels(self) -> "DataSet":
        return dataclasses.replace(self, train=Split(self.train.images), test=Split(self.test.images))


def training_batches(
    split: Split,
    batch_size: int,
    seed: int,
    epoch: int,
    seen: int = 0,
    parts: int = 1,
    own: Sequence[int] = (0,),
) -> tf.data.Dataset:
    """An epoch of training: a fresh permutation, each image at most once, the remainder of a batch left out.

    Yields {"images": uint8 [B, H, W, 3]}, with "labels", int32 [B], where there are labels.

    Args:
        batch_size: images a step, over all replicas.
        seen: how many images of the permutation are left out, because the epoch goes on after them.
        parts: into how many parts, one after another, each batch is cut: the replicas.
        own: which of them are yielded, each as a batch of its own, B = batch_size / parts; others are not read.

    Raises:
        UserError: the split has less than a batch.
    """
    check_batch_size(split, batch_size)
    order = epoch_order(split, seed, epoch)[seen:]
    return _batches(split, order[: len(order) // batch_size * batch_size], batch_size, parts, own)


def epoch_order(split: Split, seed: int, epoch: int) -> np.ndarray:
    """The permutation in which an epoch of training takes the images of a split."""
    return np.random.default_rng([seed, epoch]).permutation(len(split))


def test_batches(split: Split, batch_size: int, parts: int = 1, own: Sequence[int] = (0,)) -> tf.data.Dataset:
    """All images once, in order, as training_batches yields them, and cut into parts as there.

    The last batch is filled up with repetitions of the last image: whoever sums over images must stop at len(split).
    """
    order = np.arange(-(-len(split) // batch_size) * batch_size)
    return _batches(split, np.minimum(order, len(split) - 1), batch_size, parts, own)


def check_batch_size(split: Split, batch_size: int) -> None:
    """Raises UserError if a batch of training is larger than its split."""
    if batch_size > len(split):
        raise UserError(
            f"a batch of {batch_size} images (over all replicas) is larger than the training set, which has "
            f"{len(split)}: lower --batch_size, --init_batch_size or --nr_gpu"
        )


def _batches(split, order, batch_size, parts, own):
    part_size = batch_size // parts
    order = order.reshape(-1, parts, part_size)[:, own].reshape(-1, part_size)

    def read(indices):
        batch = {"images": tf.numpy_function(split.images.__getitem__, [indices], tf.uint8, stateful=False)}
        batch["images"] = tf.ensure_shape(batch["images"], [part_size, *split.images.shape[1:]])
        if split.labels is not None:
            batch["labels"] = tf.gather(tf.constant(split.labels, tf.int32), indices)
        return batch

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # TensorFlow waits for the thread that tunes a pipeline, up to a minute, when one is left: there is nothing to tune.
    options.autotune.enabled = False
    batches = tf.data.Dataset.from_tensor_slices(order).map(read)
    return batches.prefetch(2).with_options(options)
