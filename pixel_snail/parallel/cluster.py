"""The workers of a run on several machines: the exchange of values, and the report of a lost worker.

TensorFlow's environment variable TF_CONFIG names the workers:

    {"cluster": {"worker": ["host:port", "host:port"]}, "task": {"type": "worker", "index": 0}}
"""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from pixel_snail.backend import keras, tf
from pixel_snail.errors import UserError

_GROUP = 1000
"""The group key of this module's collective operations; the strategy counts its own keys from 1."""

_FLAGS_THAT_MAY_DIFFER = """
    data_dir cache_dir save_dir load_params init_from nr_gpu json complete mask compress
""".split()
"""Flags that may differ between workers: paths; and --nr_gpu, because `wait_for_all` compares the replicas."""


@dataclasses.dataclass
class Cluster:
    """The workers of a run: processes with one or more replicas each. Only the first, the chief, writes files.

    Attributes:
        addresses: host:port of each worker, the chief's first; empty if there is only one worker.
        index: the number of this worker.
        advice: what the user should do after a worker was lost.
        WAIT_SECONDS: how long a worker waits for the others to start.
    """

    WAIT_SECONDS: ClassVar[int] = 300

    addresses: tuple[str, ...] = ()
    index: int = 0
    advice: str = "start all workers again"
    _operations: int = dataclasses.field(default=0, init=False)
    _places: np.ndarray | None = dataclasses.field(default=None, init=False)  # set by `wait_for_all`

    @property
    def size(self) -> int:
        """The number of workers."""
        return max(1, len(self.addresses))

    @property
    def is_chief(self) -> bool:
        return self.index == 0

    def name(self, index: int) -> str:
        """A worker's name in messages."""
        return f"{'the chief' if index == 0 else f'worker {index}'} ({self.addresses[index]})"

    def gather(self, value: np.ndarray, timeout: float = 0) -> np.ndarray:
        """Gathers a value from each worker, [workers, ...]; all workers must call it, with one shape and dtype.

        Args:
            timeout: seconds to wait for the others; 0: without limit.
        """
        value = np.asarray(value)
        if self.size == 1:
            return value[None]
        with tf.device("CPU:0"):
            gathered = tf.raw_ops.CollectiveGatherV2(
                input=value[None], ordering_token=[], timeout_seconds=timeout, **self._operation()
            )
        return gathered.numpy() if self._places is None else gathered.numpy()[self._places]

    def broadcast_from_chief(self, variables: Iterable[keras.Variable]) -> None:
        """Copies the values of the chief's variables to every worker's."""
        for variable in variables if self.size > 1 else ():
            value = tf.convert_to_tensor(variable)
            with tf.device("CPU:0"):
                if self.is_chief:
                    tf.raw_ops.CollectiveBcastSendV2(input=value, **self._operation())
                    continue
                value = tf.raw_ops.CollectiveBcastRecvV2(T=value.dtype, shape=value.shape, **self._operation())
            variable.assign(value)

    def wait_for_all(self, kind: str, replicas: int) -> None:
        """Waits for all workers. Raises UserError on each if one has other devices than the chief.

        Args:
            kind: of the devices that the worker uses, "CPU" or "GPU".
            replicas: how many of them.
        """
        # TensorFlow gathers in an order of its own, in which the tenth worker may come before the second.
        self._places = np.argsort(self.gather(self.index, timeout=self.WAIT_SECONDS))
        self.check_agreement({"the kind of devices": kind, "the number of replicas (--nr_gpu)": replicas})

    def gather_objects(self, value: Any) -> list[Any]:
        """Gathers a value from each worker. JSON must be able to hold the value."""
        text = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.int32)
        longest = int(self.gather(len(text)).max())
        # JSON ignores spaces at the end.
        texts = self.gather(np.pad(text, (0, longest - len(text)), constant_values=ord(" ")))
        return [json.loads(text.astype(np.uint8).tobytes()) for text in texts]

    def check_agreement(self, values: Mapping[str, Any]) -> None:
        """Raises UserError on every worker if a worker's values differ from the chief's.

        Args:
            values: by their names in the error message.
        """
        first, *others = self.gather_objects(values)
        for index, other in enumerate(others, 1):
            for name in first | other:
                if first.get(name) != other.get(name):
                    raise UserError(
                        f"the workers disagree: {name} is {first.get(name)} on {self.name(0)} "
                        f"and {other.get(name)} on {self.name(index)}: give all workers the same flags, data and "
                        "checkpoint"
                    )

    def check_flags(self, flags: argparse.Namespace) -> None:
        """Raises UserError on every worker if a worker's flags differ from the chief's, paths and --nr_gpu apart."""
        values = {f"--{name}": value for name, value in vars(flags).items() if name not in _FLAGS_THAT_MAY_DIFFER}
        given = {
            f"--{name}": "given" if getattr(flags, name, None) else "not given" for name in ("load_params", "init_from")
        }
        self.check_agreement(values | given)

    def check_same_checkpoint(self, tensors: Iterable[tf.Tensor]) -> None:
        """Raises UserError on every worker if a worker's tensors differ from the chief's, which a checkpoint gave."""
        checksum = 0
        for tensor in tensors if self.size > 1 else ():
            checksum = zlib.crc32(np.ascontiguousarray(tensor), checksum)
        first, *others = self.gather_objects(checksum)
        for index, other in enumerate(others, 1):
            if other != first:
                raise UserError(
                    f"{self.name(index)} has read another checkpoint than {self.name(0)}: copy the chief's to each "
                    "machine, or give all workers a path of the same checkpoint"
                )

    def chief_first(self, function: Callable, *arguments: Any) -> Any:
        """Calls a function on the chief first and then on the other workers, and returns its result.

        So if the function fills a folder that the workers share, only the chief does the work.
        """
        if not self.is_chief:
            self.gather(0)
        result = function(*arguments)
        if self.is_chief:
            self.gather(0)
        return result

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within it, the loss of a worker raises UserError; no worker leaves it before all have come to its end.

        Raises:
            UserError: a worker was lost.
        """
        try:
            yield
            self.gather(0)
            self._part()
        except UserError:
            # All workers find the same mistake. Each needs the time to report it before it notices that this one ends.
            self._part()
            raise
        except tf.errors.OpError as error:
            message = str(error.message)
            # A task followed by a device is not the lost worker, but the place where an operation ran.
            peer = re.search(r"/job:worker/(?:replica:0/)?task:(\d+)\b(?!/device)", message)
            aborted = re.search("Collective ops is aborted by: *(.*)", message)
            if self.size == 1 or not (peer or aborted):
                raise
            lost = self.name(int(peer[1])) if peer else f"a worker ({aborted[1]})"
            raise UserError(
                f"{lost} has ended or does not answer; its own output may say why: {self.advice}"
            ) from error

    def _part(self):
        # A worker that has gathered all values must not leave before the others have gathered them, too.
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


def cluster_from_environment() -> Cluster:
    """The cluster that TF_CONFIG describes. Without TF_CONFIG, or if it names one worker: this process alone.

    Raises:
        UserError: TF_CONFIG is invalid.
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
        raise UserError(f"TF_CONFIG's cluster has {len(chief)} chiefs: only one is possible")
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
