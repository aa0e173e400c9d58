"""A process of a cluster: train.py or eval.py with a tiny data set and network.

    PYTHONPATH=.:tests python tests/parallel/worker.py train|eval FLAGS...

Importing it imports TensorFlow, which then has computed nothing: a process that has imported it may be forked.
"""

import os
import signal
import sys

from pixel_snail.backend import tf  # first: it keeps TensorFlow quiet

# isort: split
import numpy as np
from networks import OneStep

import data
import eval as eval_command
import train as train_command
from pixel_snail import backend, settings
from pixel_snail.commands import evaluation, training  # noqa: F401 - the commands import them when they are called
from pixel_snail.dataset import DataSet, Split
from pixel_snail.model import specs
from pixel_snail.parallel import cluster


def run(command: str, argv: list[str]) -> None:
    """Runs a command, and exits."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # saves more than it costs here
    cluster.Cluster.WAIT_SECONDS = int(os.environ.get("WAIT_SECONDS", 60))
    specs["h0"] = OneStep
    settings.MODELS = (*settings.MODELS, "h0")
    images = np.random.default_rng(0).integers(0, 256, [24, 8, 8, 3], np.uint8)
    data.data_sets["tiny"] = lambda data_dir: DataSet(Split(images[:19]), Split(images[19:]))
    {"train": train_command, "eval": eval_command}[command].main(argv)


def run_forked(command: str, argv: list[str], environment: dict[str, str], out: str, err: str) -> None:
    """The same in a process that was forked after the imports, with its own environment, output and session."""
    os.setsid()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    backend._PROCESS = os.getpid()
    run(command, argv)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
