"""The replicas of a run: which devices it computes on."""

import tensorflow as tf

from pixel_snail.errors import UserError
from pixel_snail.parallel import cluster as clusters
from pixel_snail.parallel import micro_batches


def strategy(
    nr_gpu: int | None = None, cluster: clusters.Cluster | None = None, in_parts: bool = True
) -> tf.distribute.Strategy:
    """One device: the default strategy; several: MirroredStrategy, a copy of the network on each; several workers:
    MultiWorkerMirroredStrategy.

    Args:
        nr_gpu: the number of replicas of a worker; by default all GPUs. On a machine without GPUs, that many logical
            CPU devices, by default one.
        cluster: the workers, if there may be several.
        in_parts: whether most of what is to be done is done in parts (see parts.py), for which CPUs are prepared.

    Raises:
        UserError: there are fewer GPUs, or TensorFlow has already started with fewer logical CPU devices, or the
            workers don't come together.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        replicas = len(gpus) if nr_gpu is None else nr_gpu
        if replicas > len(gpus):
            raise UserError(f"--nr_gpu={nr_gpu}, but this machine has {len(gpus)} GPUs")
        kind = "GPU"
    else:
        replicas = 1 if nr_gpu is None else nr_gpu
        if in_parts:
            micro_batches.share_cores()
        _make_logical_cpus(replicas)
        kind = "CPU"
    if cluster is not None and cluster.size > 1:
        return clusters.strategy(cluster, kind, replicas)
    names = [f"{kind}:{i}" for i in range(replicas)]
    return tf.distribute.get_strategy() if replicas == 1 else tf.distribute.MirroredStrategy(names)


def replicas_here(strategy: tf.distribute.Strategy) -> int:
    """How many of a strategy's replicas this machine has."""
    return len(strategy.extended.worker_devices) if strategy.num_replicas_in_sync > 1 else 1


def _make_logical_cpus(number):
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * number)
    except RuntimeError as error:  # TensorFlow has started: its devices can't be changed any more
        available = len(tf.config.list_logical_devices("CPU"))
        if available < number:
            raise UserError(
                f"--nr_gpu={number}, but TensorFlow runs with {available} logical CPU devices already"
            ) from error
