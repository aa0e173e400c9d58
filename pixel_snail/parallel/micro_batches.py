"""A batch computed in parts: one after another to save memory, and side by side to use a CPU's cores.

TensorFlow can divide each operation among the cores, but thousands of small ones divide badly, and cores wait for each
other after each. Here an operation has one core, and a core a part of the batch, small enough to stay close to it.
"""

import os
from collections.abc import Callable

import tensorflow as tf

_IMAGES = 2
"""How many images a part has where a core computes it: as measured; one has too little work in each operation."""

_AT_ONCE = 8
"""How many parts are computed side by side at most; with more cores, each has several."""


def share_cores() -> None:
    """Gives each operation as many cores as a part has, if TensorFlow has not started and nobody said otherwise."""
    if "TF_NUM_INTRAOP_THREADS" not in os.environ:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(max(1, _cores() // _AT_ONCE))
        except RuntimeError:
            return


def division(images: int, replicas: int, rounds: int = 1, smallest: bool = False) -> tuple[int, int]:
    """How to divide a replica's batch: into how many parts, and how many of them to compute at once.

    Args:
        images: those of the batch.
        replicas: how many share this machine.
        rounds: no more images are computed at once than a batch divided into so many parts has in each.
        smallest: whether a CPU's parts are to be as small as they can be: it takes less memory, and a little longer.
    """
    if tf.config.list_physical_devices("GPU"):
        return rounds, 1
    together = images // rounds
    cores = max(1, min(_cores(), _AT_ONCE) // replicas)
    size = 1 if smallest or together % _IMAGES or together < cores * _IMAGES else _IMAGES
    return images // size, min(cores, together // size)


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def summed(function: Callable, zeros: list[tf.Tensor], batch: dict[str, tf.Tensor], number: int, at_once: int) -> list:
    """The sums over the parts of a batch of what `function` makes of each, and of the number of its first image.

    Args:
        zeros: of the sums' shapes.
        number, at_once: see `division`.
    """
    if number == 1:
        return function(batch, 0)
    parts, size = _cut(batch, number)

    def add(i, sums):
        terms = function({name: value[i] for name, value in parts.items()}, i * size)
        return i + 1, [total + term for total, term in zip(sums, terms, strict=True)]

    return tf.while_loop(lambda i, _: i < number, add, (0, list(zeros)), parallel_iterations=at_once)[1]


def mapped(function: Callable, batch: dict[str, tf.Tensor], number: int, at_once: int) -> tf.Tensor:
    """What `function` makes of the parts of a batch, float32 [B / number, ...] each, as one tensor [B, ...]."""
    if number == 1:
        return function(batch)
    parts, _ = _cut(batch, number)
    results = tf.map_fn(function, parts, parallel_iterations=at_once, fn_output_signature=tf.float32)
    return tf.reshape(results, [-1, *results.shape[2:]])


def _cut(batch, number):
    """A batch's tensors as [number, B / number, ...], and B / number."""
    size = next(iter(batch.values())).shape[0] // number
    return {name: tf.reshape(value, [number, size, *value.shape[1:]]) for name, value in batch.items()}, size
