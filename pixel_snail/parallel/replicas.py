"""The replicas of a network: the devices and machines that compute it."""

import contextlib
import sys
from collections.abc import Callable, Sequence

from pixel_snail.backend import tf
from pixel_snail.errors import UserError, counted
from pixel_snail.parallel import devices, micro_batches, multi_worker
from pixel_snail.parallel.cluster import Cluster

_until_the_program_ends = contextlib.ExitStack()


def strategy(
    nr_gpu: int | None = None, cluster: Cluster | None = None, in_micro_batches: bool = True
) -> tf.distribute.Strategy:
    """The strategy for the requested devices.

    On one device it is the default strategy; on several, MirroredStrategy, with a copy of the network on each; with
    several workers, MultiWorkerMirroredStrategy. If TensorFlow can't use a GPU that the machine has, a line on stderr
    says why.

    On GPUs, the rest of the process computes without TF32 (see devices.without_tf32): only programs of ours call this
    function. (--bfloat16 is the way to trade digits for time.)

    Args:
        nr_gpu: the number of replicas of a worker; by default all GPUs. On a machine without GPUs, that many logical
            CPU devices, by default one.
        cluster: the workers, if there may be several.
        in_micro_batches: whether most of the work is done in micro-batches. If so, an operation gets few threads of a
            CPU: see micro_batches.share_cores.

    Raises:
        UserError: there are fewer GPUs, or TensorFlow has already started with fewer logical CPU devices, or the
            workers don't come together.
    """
    gpus = devices.number_of_gpus()
    if gpus:
        replicas = gpus if nr_gpu is None else nr_gpu
        if replicas > gpus:
            raise UserError(
                f"--nr_gpu={nr_gpu}, but this machine has {counted(gpus, 'GPU')}: give a smaller number, or leave "
                "--nr_gpu out"
            )
        _until_the_program_ends.enter_context(devices.without_tf32())
        _leave_other_gpus(replicas)
        kind = "GPU"
    else:
        replicas = 1 if nr_gpu is None else nr_gpu
        if in_micro_batches:
            micro_batches.share_cores()
            micro_batches.limit_arenas()
        _make_logical_cpus(replicas)
        kind = "CPU"
        if why := devices.why_no_gpu():
            print(f"note: {why}", file=sys.stderr, flush=True)
    if cluster is not None and cluster.size > 1:
        return multi_worker.strategy(cluster, kind, replicas)
    names = [f"{kind}:{i}" for i in range(replicas)]
    return tf.distribute.get_strategy() if replicas == 1 else tf.distribute.MirroredStrategy(names)


def on_this_machine(strategy: tf.distribute.Strategy) -> int:
    """How many of a strategy's replicas this machine has."""
    return len(strategy.extended.worker_devices) if strategy.num_replicas_in_sync > 1 else 1


def described(strategy: tf.distribute.Strategy, cluster: Cluster) -> str:
    """The devices of all replicas, as lines for the log: "devices: 4 x NVIDIA A100-SXM4-80GB".

    All workers must call this function. If their devices differ, the line names the devices of each worker.
    """
    replicas = on_this_machine(strategy)
    of_workers = cluster.gather_objects(devices.described(replicas))
    if len(set(of_workers)) > 1:
        text = "; ".join(f"{cluster.name(i)}: {of_worker}" for i, of_worker in enumerate(of_workers))
    else:
        text = of_workers[0] + (f", on each of {cluster.size} workers" if cluster.size > 1 else "")
    if replicas > 1 and not devices.number_of_gpus():
        text += (
            f"\nno GPU is used: the {replicas} replicas of --nr_gpu are logical CPU devices. They share the cores, so "
            "nothing gets faster: this is for tests"
        )
    return f"devices: {text}"


def batches(
    strategy: tf.distribute.Strategy,
    dataset: Callable[[int, Sequence[int]], tf.data.Dataset],
    cluster: Cluster,
) -> tf.data.Dataset:
    """Batches for the replicas of this worker.

    Args:
        dataset: a function of the number of all replicas and of the numbers of this worker's replicas.
    """
    replicas = strategy.num_replicas_in_sync
    own = range(replicas)[cluster.index * replicas // cluster.size :][: replicas // cluster.size]
    return strategy.distribute_datasets_from_function(lambda _: dataset(replicas, own))


def _leave_other_gpus(number):
    """Leaves all GPUs but the first ones to other programs. TensorFlow would take the memory of all that it sees."""
    try:
        tf.config.set_visible_devices(tf.config.get_visible_devices("GPU")[:number], "GPU")
    except RuntimeError:  # TensorFlow has started
        return


def _make_logical_cpus(number):
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * number)
    except RuntimeError as error:  # TensorFlow has started: its devices can't be changed any more
        available = len(tf.config.list_logical_devices("CPU"))
        if available < number:
            raise UserError(
                f"--nr_gpu={number}, but TensorFlow already runs with {counted(available, 'logical CPU device')}"
            ) from error
