"""The strategy for several workers, and the only use of TensorFlow's private API for clusters.

MultiWorkerMirroredStrategy can neither limit the devices that a worker uses nor use logical CPU devices. It also starts
a coordination service that ignores SIGTERM while it waits. So these private parts are used here:

- CollectiveAllReduceExtended, subclassed: `_initialize_local_devices`, `_start_check_health_thread` and the three
  `_check_health_*` settings. If they change, workers get other devices, or the loss of a worker is noticed late.
- `context.configure_coordination_service`. If it is removed, SIGTERM can't stop a waiting worker.
- `_collective_key_base`, an attribute that TensorFlow reads from strategies of several replicas.

tests/parallel/test_multi_worker.py runs all of this in real processes and fails if it no longer works.
"""

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from pixel_snail.backend import tf

# isort: split
from tensorflow.python.distribute import collective_all_reduce_strategy
from tensorflow.python.eager import context

from pixel_snail.errors import UserError, first_line
from pixel_snail.parallel.cluster import Cluster


def strategy(cluster: Cluster, kind: str, replicas: int) -> tf.distribute.Strategy:
    """The strategy of a cluster of several workers; waits until all of them have started.

    Must be called before TensorFlow has computed anything.

    Args:
        kind: the devices to use, "CPU" or "GPU".
        replicas: how many of them each worker uses, the first ones; the same number on every worker.

    Raises:
        UserError: not all workers start, or their numbers of replicas differ, or the port is taken.
    """
    print(
        f"{cluster.name(cluster.index)}, one of {cluster.size} workers: "
        f"waiting for the others, up to {cluster.WAIT_SECONDS} s ...",
        file=sys.stderr,
        flush=True,
    )
    # Cluster.together reports the loss of a worker in one line; TensorFlow's own messages are silenced.
    tf.get_logger().setLevel("CRITICAL")
    # Without the coordination service, the strategy checks the health of its peers itself.
    context.context().configure_coordination_service("")
    try:
        with ctrl_c_kills():
            return _Strategy(cluster, kind, replicas)
    except tf.errors.UnknownError as error:
        raise UserError(
            f"can't listen at {cluster.addresses[cluster.index]}, the address of this worker in TF_CONFIG: "
            f"if its port is taken, give it another in every worker's TF_CONFIG ({first_line(error)})"
        ) from error
    except (RuntimeError, tf.errors.OpError) as error:
        raise UserError(_why_not_together(cluster, error)) from error


@contextlib.contextmanager
def ctrl_c_kills() -> Iterator[None]:
    """Within it, Ctrl-C kills the process.

    For long waits inside TensorFlow with nothing to save: KeyboardInterrupt would be raised only after them. If SIGINT
    is ignored or has another handler, that stays. In another thread than the main one, this has no effect.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Strategy(tf.distribute.Strategy):
    """MultiWorkerMirroredStrategy with a given number of devices of a given kind on each worker."""

    _collective_key_base = 0

    def __init__(self, cluster: Cluster, kind: str, replicas: int):
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
            task_type="worker",
            task_id=cluster.index,
            rpc_layer="grpc",
        )
        options = tf.distribute.experimental.CommunicationOptions()
        super().__init__(_Extended(self, resolver, options, cluster, kind, replicas))


class _Extended(collective_all_reduce_strategy.CollectiveAllReduceExtended):
    # The death of a worker breaks its connections at once; a worker that hangs is noticed within 10 + 2 * 10 s.
    _check_health_interval = 10
    _check_health_timeout = 10
    _check_health_retry_limit = 2

    def __init__(self, strategy, resolver, options, cluster, kind, replicas):
        self._cluster = cluster
        self._devices_of_a_worker = kind, replicas
        super().__init__(strategy, cluster_resolver=resolver, communication_options=options)

    def _initialize_local_devices(self, cluster_resolver, worker_device):
        kind, replicas = self._devices_of_a_worker
        return tuple(f"{worker_device}/device:{kind}:{i}" for i in range(replicas)), kind

    def _start_check_health_thread(self):
        # The workers must agree on the number of replicas first: the thread begins with a collective operation, whose
        # key depends on it.
        self._cluster.wait_for_all(*self._devices_of_a_worker)
        super()._start_check_health_thread()


def _why_not_together(cluster, error):
    silent = [i for i in range(cluster.size) if i != cluster.index and not _answers(cluster.addresses[i])]
    if silent:
        names = ", ".join(map(cluster.name, silent))
        return f"no answer from {names}, after up to {cluster.WAIT_SECONDS} s: is it started?"
    return (
        "the workers did not come together, though something answers at the address of each; is their TF_CONFIG the "
        f"same, and does no http_proxy come between them? ({first_line(error)})"
    )


def _answers(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True
