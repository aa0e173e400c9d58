"""Several machines: who the workers of a run are, what they tell each other, and how the loss of one is told.

TF_CONFIG, TensorFlow's own environment variable, names them:

    {"cluster": {"worker": ["host:port", "host:port"]}, "task": {"type": "worker", "index": 0}}
"""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import socket
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy
from tensorflow.python.eager import context

from pixel_snail import signals
from pixel_snail.errors import UserError, first_line

WAIT_SECONDS = 300
"""How long a worker waits for the others to start."""

_GROUP = 1000
"""The key of the collective operations of this module; the strategy counts its own from 1."""

_OWN_FLAGS = ("data_dir", "save_dir", "load_params", "nr_gpu", "json", "complete")
"""The flags that may differ between workers: paths, and --nr_gpu, whose result is what must not."""


@dataclasses.dataclass
class Cluster:
    """The workers of a run, processes that have a replica or more each. The first is the chief: it alone writes.

    Attributes:
        addresses: host:port of each worker, the chief's first; empty if there is one worker only.
        index: which of them this process is.
        advice: what to do after a worker was lost.
    """

    addresses: tuple[str, ...] = ()
    index: int = 0
    advice: str = "start all workers again"
    _operations: int = dataclasses.field(default=0, init=False)
    _places: np.ndarray | None = dataclasses.field(default=None, init=False)  # once the workers have come together

    @property
    def size(self) -> int:
        """The number of workers."""
        return max(1, len(self.addresses))

    @property
    def is_chief(self) -> bool:
        return self.index == 0

    def name(self, index: int) -> str:
        """What a worker is called in messages."""
        return f"{'the chief' if index == 0 else f'worker {index}'} ({self.addresses[index]})"

    def gather(self, value: np.ndarray, timeout: float = 0) -> np.ndarray:
        """The value of each worker, [workers, ...], once all have called this with values of one shape and dtype."""
        value = np.asarray(value)
        if self.size == 1:
            return value[None]
        with tf.device("CPU:0"):
            gathered = tf.raw_ops.CollectiveGatherV2(
                input=value[None], ordering_token=[], timeout_seconds=timeout, **self._operation()
            )
        return gathered.numpy() if self._places is None else gathered.numpy()[self._places]

    def copy_the_chiefs(self, variables: Iterable[keras.Variable]) -> None:
        """Gives the variables of every worker the values of the chief's."""
        for variable in variables if self.size > 1 else ():
            value = tf.convert_to_tensor(variable)
            with tf.device("CPU:0"):
                if self.is_chief:
                    tf.raw_ops.CollectiveBcastSendV2(input=value, **self._operation())
                    continue
                value = tf.raw_ops.CollectiveBcastRecvV2(T=value.dtype, shape=value.shape, **self._operation())
            variable.assign(value)

    def meet(self, replicas: int) -> None:
        """Waits for all workers, and raises UserError on each if one has another number of replicas than the chief."""
        # In TensorFlow's order of the workers, the tenth may come before the second.
        self._places = np.argsort(self.gather(self.index, timeout=WAIT_SECONDS))
        self.check_agreement({"the number of replicas (--nr_gpu)": replicas})

    def gather_objects(self, value: Any) -> list[Any]:
        """What can be told as JSON, of each worker."""
        text = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.int32)
        longest = int(self.gather(len(text)).max())
        # Spaces at the end are no part of JSON.
        texts = self.gather(np.pad(text, (0, longest - len(text)), constant_values=ord(" ")))
        return [json.loads(text.astype(np.uint8).tobytes()) for text in texts]

    def check_agreement(self, values: Mapping[str, Any]) -> None:
        """Raises UserError on every worker if one's values, by their names, are not the chief's."""
        first, *others = self.gather_objects(values)
        for index, other in enumerate(others, 1):
            for name in first | other:
                if first.get(name) != other.get(name):
                    raise UserError(
                        f"the workers disagree: {name} is {first.get(name)} on {self.name(0)} "
                        f"and {other.get(name)} on {self.name(index)}"
                    )

    def check_flags(self, flags: argparse.Namespace) -> None:
        """Raises UserError on every worker if one's flags are not the chief's, but for those of its own machine."""
        values = {f"--{name}": value for name, value in vars(flags).items() if name not in _OWN_FLAGS}
        self.check_agreement(values | {"that --load_params is given": bool(flags.load_params)})

    def check_same_checkpoint(self, tensors: Iterable[tf.Tensor]) -> None:
        """Raises UserError on every worker if one has read other tensors than the chief."""
        checksum = 0
        for tensor in tensors if self.size > 1 else ():
            checksum = zlib.crc32(np.ascontiguousarray(tensor), checksum)
        self.check_agreement({"the checksum of the checkpoint's tensors": checksum})

    def chief_first(self, function: Callable, *arguments: Any) -> Any:
        """What the function returns; it is called by the others when the chief's call has ended.

        So that a folder which they share is filled only once.
        """
        if not self.is_chief:
            self.gather(0)
        result = function(*arguments)
        if self.is_chief:
            self.gather(0)
        return result

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """No worker leaves before all have come to the end, and the loss of one is told.

        Raises:
            UserError: a worker was lost.
        """
        try:
            yield
            self.gather(0)
            self._part()
        except UserError:
            # A mistake that all of them found: let the others find it too, rather than lose this one.
            self._part()
            raise
        except tf.errors.OpError as error:
            message = str(error.message)
            # Where a device follows, it is only said where an operation ran.
            peer = re.search(r"/job:worker/(?:replica:0/)?task:(\d+)\b(?!/device)", message)
            aborted = re.search("Collective ops is aborted by: *(.*)", message)
            if self.size == 1 or not (peer or aborted):
                raise
            lost = self.name(int(peer[1])) if peer else f"a worker ({aborted[1]})"
            raise UserError(f"{lost} is gone, its own output may tell why: {self.advice}") from error

    def _part(self):
        # The first to have another's value must not leave before the other has its own.
        if self._places is not None:
            with contextlib.suppress(tf.errors.OpError):
                self.gather(0, timeout=5)

    def _operation(self):
        self._operations += 1
        return {
            "group_size": self.size,
            "group_key": _GROUP,
            "instance_key": self._operations,
            "communication_hint": "ring",
        }


def from_environment() -> Cluster:
    """What TF_CONFIG says; without it, or if it names one worker, a cluster of this process alone.

    Raises:
        UserError: TF_CONFIG is broken.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return Cluster()
    try:
        config = json.loads(text)
    except ValueError as error:
        raise UserError(f"TF_CONFIG is not JSON: {error}") from error
    jobs = _entry(config, "cluster", dict)
    for job, addresses in jobs.items():
        if job not in ("chief", "worker"):
            raise UserError(f"TF_CONFIG's cluster has a job {job!r}: only chief and worker are known")
        if not isinstance(addresses, list) or not all(re.fullmatch(r".+:\d+", str(address)) for address in addresses):
            raise UserError(
                f'TF_CONFIG\'s cluster must have a list of "host:port" as {job}, not {json.dumps(addresses)}'
            )
    chief = jobs.get("chief", [])
    addresses = (*chief, *jobs.get("worker", []))
    if len(chief) > 1:
        raise UserError(f"TF_CONFIG's cluster has {len(chief)} chiefs: one is the most")
    if len(set(addresses)) < max(1, len(addresses)):
        raise UserError(f"TF_CONFIG's cluster has no workers, or one of them twice: {json.dumps(jobs)}")
    task = _entry(config, "task", dict)
    kind, index = _entry(task, "type", str), _entry(task, "index", int)
    if kind not in jobs:
        raise UserError(f"TF_CONFIG's task is of type {kind!r}, which its cluster does not have")
    if not 0 <= index < len(jobs[kind]):
        raise UserError(f"TF_CONFIG's task has index {index}, but its cluster has {len(jobs[kind])} of type {kind!r}")
    if len(addresses) == 1:
        return Cluster()
    return Cluster(addresses, index if kind == "chief" else len(chief) + index)


def _entry(config, name, kind):
    value = config.get(name) if isinstance(config, dict) else None
    if not isinstance(value, kind):
        kinds = {dict: "an object", str: "a string", int: "a number"}
        raise UserError(f'TF_CONFIG must have {kinds[kind]} "{name}", as {_EXAMPLE}')
    return value


_EXAMPLE = '{"cluster": {"worker": ["host:port", "host:port"]}, "task": {"type": "worker", "index": 0}}'


def strategy(cluster: Cluster, kind: str, replicas: int) -> tf.distribute.Strategy:
    """The strategy of a cluster of several workers; waits until all of them have started.

    Must be called before TensorFlow has computed anything.

    Args:
        kind: "CPU" or "GPU", of which each worker takes the first.
        replicas: how many of them; the same on every worker.

    Raises:
        UserError: the workers don't all start, or with other numbers of replicas, or the port is taken.
    """
    print(
        f"{cluster.name(cluster.index)}, one of {cluster.size} workers: "
        f"waiting for the others, up to {WAIT_SECONDS} s ...",
        file=sys.stderr,
        flush=True,
    )
    # The loss of a worker is told in one line, without TensorFlow's.
    tf.get_logger().setLevel("CRITICAL")
    # The coordination service, which TensorFlow would start, waits for the others without end and ignores SIGTERM
    # meanwhile; without it, the strategy looks after its peers itself.
    context.context().configure_coordination_service("")
    try:
        with signals.ends_at_once():
            return _Strategy(cluster, kind, replicas)
    except tf.errors.UnknownError as error:
        raise UserError(
            f"can't listen at {cluster.addresses[cluster.index]}, the address of this worker in TF_CONFIG: "
            f"is its port taken? ({error.message})"
        ) from error
    except (RuntimeError, tf.errors.OpError) as error:
        raise UserError(_why_not_together(cluster, error)) from error


class _Strategy(tf.distribute.Strategy):
    """MultiWorkerMirroredStrategy, which can't be told how many devices, nor to take logical CPUs."""

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
    # A worker that has died breaks its connections at once; one that no longer answers is found within 10 + 2 * 10 s.
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
        # It begins with a collective operation whose key depends on the number of replicas.
        self._cluster.meet(self._devices_of_a_worker[1])
        super()._start_check_health_thread()


def _why_not_together(cluster, error):
    silent = [i for i in range(cluster.size) if i != cluster.index and not _answers(cluster.addresses[i])]
    if silent:
        return f"no answer from {', '.join(map(cluster.name, silent))}, after up to {WAIT_SECONDS} s: is it started?"
    reason = re.sub(r"\{\{.*?\}\} ?", "", first_line(error))
    return (
        "the workers did not come together, though something answers at the address of each; is their TF_CONFIG the "
        f"same, and does no http_proxy come between them? ({reason})"
    )


def _answers(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def batches(strategy: tf.distribute.Strategy, made: Callable[[int, Sequence[int]], tf.data.Dataset], cluster: Cluster):
    """Batches for the replicas of this worker.

    Args:
        made: a function of the number of all replicas, and of the numbers of this worker's.
    """
    replicas = strategy.num_replicas_in_sync
    own = range(replicas)[cluster.index * replicas // cluster.size :][: replicas // cluster.size]
    return strategy.distribute_datasets_from_function(lambda _: made(replicas, own))
