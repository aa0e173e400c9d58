"""Divides a batch into micro-batches: computed one after another to save memory, side by side to use a CPU's cores.

TensorFlow can divide each operation among the cores. But thousands of small operations divide badly, and after each one
the cores wait for each other. Here an operation runs on one core, and each core computes micro-batches of its own,
which are small enough to stay in its caches.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable

from pixel_snail.backend import tf
from pixel_snail.parallel import devices

_MOST_VALUES, _LEAST_IMAGES = 205_000, 2
"""The limit of a micro-batch's images times their `values_per_image`, if it has more than so many images.

With fewer values, the fixed costs of operations show. With more, memory grows, and a step is seldom much faster (table
in docs/performance.md).
"""

_MOST_VALUES_OF_TEST, _LEAST_IMAGES_OF_TEST = 2**18, 4
"""The same where activations are not kept for gradients: even so many images take less memory than in training."""

_AT_ONCE = 8
"""The most micro-batches computed side by side; with more cores, each micro-batch uses several."""

_M_ARENA_MAX = -8
"""The number of glibc's option in a call of mallopt, from malloc.h."""


def share_cores() -> None:
    """Limits the threads of an operation, because micro-batches already occupy the cores.

    One thread on up to 15 cores, else an eighth of the cores. Does nothing if TF_NUM_INTRAOP_THREADS is set or
    TensorFlow has started.
    """
    if "TF_NUM_INTRAOP_THREADS" not in os.environ:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(max(1, devices.number_of_cores() // _AT_ONCE))
        except RuntimeError:
            return


def limit_arenas() -> None:
    """Limits glibc's malloc to one arena for each core, two at least; its default is eight for each core.

    Threads allocate from different arenas, and an arena keeps the memory that its threads have freed. TensorFlow has
    many more threads than cores, but only as many threads as cores allocate at the same time. Measured on two cores:
    training takes 0.1 GB less memory and the same time.

    Does nothing if MALLOC_ARENA_MAX is set, or with another C library.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(AttributeError, TypeError):  # no mallopt; no C library that Python can load
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, max(2, devices.number_of_cores()))


def most_images(values_per_image: int, keeps_activations: bool = True) -> int:
    """How many images a CPU's micro-batch may have: a power of two.

    Args:
        values_per_image: as Network.values_per_image computes it.
        keeps_activations: whether activations are kept for gradients.
    """
    most, least = (_MOST_VALUES, _LEAST_IMAGES) if keeps_activations else (_MOST_VALUES_OF_TEST, _LEAST_IMAGES_OF_TEST)
    images = max(least, most // values_per_image)  # measured: with one, nearly every network is slower to train
    return 1 << images.bit_length() - 1


def division(images: int, replicas: int, most_images: int, rounds: int = 1) -> tuple[int, int]:
    """The number of micro-batches of a replica's batch, and how many of them are computed at once.

    Args:
        images: of the batch.
        replicas: how many share this machine.
        most_images: how many images a CPU's micro-batch may have, a power of two. It is halved until it divides the
            batch and every core has a micro-batch.
        rounds: at least so many groups of images are computed one after another (--grad_accum).
    """
    if devices.number_of_gpus():
        return rounds, 1
    together = images // rounds
    cores = max(1, min(devices.number_of_cores(), _AT_ONCE) // replicas)
    size = most_images
    while size > 1 and (together % size or together < cores * size):
        size //= 2
    return images // size, min(cores, together // size)


def summed(function: Callable, zeros: list[tf.Tensor], batch: dict[str, tf.Tensor], number: int, at_once: int) -> list:
    """The sums of function(micro-batch, number of its first image) over all micro-batches.

    Args:
        zeros: of the shapes of the function's results.
        batch: tensors [B, ...].
        number, at_once: see `division`.
    """
    if number == 1:
        return function(batch, 0)
    micro_batches, size = _divided(batch, number)

    def add(i, sums):
        terms = function({name: value[i] for name, value in micro_batches.items()}, i * size)
        return i + 1, [total + term for total, term in zip(sums, terms, strict=True)]

    return tf.while_loop(lambda i, _: i < number, add, (0, list(zeros)), parallel_iterations=at_once)[1]


def mapped(function: Callable, batch: dict[str, tf.Tensor], number: int, at_once: int) -> tf.Tensor:
    """The results of function(micro-batch), float32 [B / number, ...], concatenated to [B, ...].

    The arguments are those of `summed`.
    """
    if number == 1:
        return function(batch)
    micro_batches, _ = _divided(batch, number)
    results = tf.map_fn(function, micro_batches, parallel_iterations=at_once, fn_output_signature=tf.float32)
    return tf.reshape(results, [-1, *results.shape[2:]])


def _divided(batch, number):
    """A batch's tensors as [number, B / number, ...], and B / number."""
    size = next(iter(batch.values())).shape[0] // number
    return {name: tf.reshape(value, [number, size, *value.shape[1:]]) for name, value in batch.items()}, size
