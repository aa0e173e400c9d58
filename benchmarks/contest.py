"""Measures networks side by side. Each runs in its own program, which may have its own Python environment.

A program calls `serve` with a function that makes its network. The benchmark starts the program with `Contestant` and
calls `step`, `evaluate` and so on through it; requests and replies are lines of JSON. This module needs NumPy and the
standard library only, so that it can be imported in every environment.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks.process import peak_gb, timed

TEST_EVERY = 30
"""Seconds of training between two tests."""


class Network(Protocol):
    """A network as a program of the contest makes it. Images are values, integers [B, H, W, C]."""

    def parameters(self) -> tuple[int, int]:
        """The number of trainable parameters, and the number of those that are not kept at zero by a mask."""

    def initialise(self, images: np.ndarray) -> None:
        """Initialises the parameters from data."""

    def step(self, images: np.ndarray, done: float = 0.0) -> None:
        """Takes a step of training. `done` is the part of the training that is done, from 0 to 1, for schedules."""

    def nats(self, images: np.ndarray) -> np.ndarray:
        """Minus the log-likelihood of each image in nats, [B], with the parameters of the last call of `prepare`."""

    def prepare(self) -> None:
        """Prepares `nats` for the current parameters, or for their average if the settings have "polyak_decay"."""

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """The network's outputs, [B, H, W, any number]."""

    def compile_drawing(self, number: int) -> None:
        """Compiles the drawing of `number` images at once."""

    def draw(self, number: int) -> None:
        """Draws `number` images."""


class Contestant:
    """Starts a program that serves a network, and calls its functions by name, as in contestant.step().

    Args:
        python: the Python interpreter of the program's environment.
        module: the program.
        settings: passed to the function given to `serve`. "batch_size", "train" and "test" (paths of .npy files of
            images, integers [N, H, W, C]) are required. "levels" is the number of values, by default 256.

    Raises:
        RuntimeError: in a call, if the program has ended.
    """

    def __init__(self, python: str, module: str, settings: dict):
        self.module = module
        self._process = subprocess.Popen(
            # This clock is the system's: both processes read the same.
            [python, "-m", module, json.dumps(settings | {"started": time.monotonic()})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.wait()

    def __getattr__(self, name: str) -> Callable:
        """A function of the program, by its name in `_functions`."""

        def call(*arguments):
            print(json.dumps([name, arguments]), file=self._process.stdin, flush=True)
            reply = self._process.stdout.readline()
            if not reply:
                raise RuntimeError(f"{self.module} ended in {name}: see its message above")
            return json.loads(reply)

        return call


def serve(make: Callable[[dict], Network]) -> None:
    """Makes a network from the settings on the command line, and answers requests until there are no more."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of libraries is no reply
    settings = json.loads(sys.argv[1])
    functions = _functions(make(settings), settings)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(functions[name](*arguments)), file=replies, flush=True)


def _functions(network, settings):
    images, test = np.load(settings["train"]), np.load(settings["test"])
    batch_size = settings["batch_size"]
    batch = images[:batch_size]
    training = None

    def step():
        return timed(lambda: network.step(batch))

    def evaluate():
        return timed(lambda: network.nats(batch))

    def compile_drawing(number):
        return timed(lambda: network.compile_drawing(number))

    def draw(number):
        return timed(lambda: network.draw(number))

    def is_causal():
        """Whether a changed pixel changes no output at that pixel and before it, and some output after it."""
        height, width = test.shape[1:3]
        changed = test[:1].copy()
        levels, pixel = settings.get("levels", 256), changed[:, height // 2, width // 2].astype(int)
        changed[:, height // 2, width // 2] = (pixel + levels // 2) % levels
        difference = np.abs(network.outputs(test[:1]) - network.outputs(changed)).max((0, -1)).reshape(-1)
        seen = height // 2 * width + width // 2 + 1
        return bool(difference[:seen].max() < 1e-5 < difference[seen:].max())

    def train(minutes, turn=math.inf):
        """Trains for a turn of so many seconds, or to the end; see `_train`. The next call goes on."""
        nonlocal training
        training = training or _train(network, images, test, batch_size, 60 * minutes, turn, settings["started"])
        return next(training)

    return {
        "parameters": network.parameters,
        "initialise": lambda number: network.initialise(images[:number]),
        "prepare": network.prepare,
        "peak_gb": peak_gb,
    } | {function.__name__: function for function in (step, evaluate, compile_drawing, draw, is_causal, train)}


def _train(network, images, test, batch_size, seconds, turn, started):
    """Trains until `seconds` have passed since `started`, not counting those of tests and those between turns.

    Yields:
        None after each turn of `turn` seconds, or a little more; at the end, (seconds that count, steps so far,
        bits/dim of the test images) for each test.
    """
    tested = []
    not_counted = steps = 0
    end_of_turn = turn
    over = time.monotonic() - started
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(images))
        for indices in order[: len(order) // batch_size * batch_size].reshape(-1, batch_size):
            network.step(images[indices], over / max(over, seconds))
            steps += 1
            over = time.monotonic() - started - not_counted
            if over > min(seconds, TEST_EVERY * (len(tested) + 1)) or steps == 1:
                begin = time.monotonic()
                tested.append((round(over, 1), steps, _bits_per_dim(network, test, batch_size)))
                not_counted += time.monotonic() - begin
                print(f"after {over:.0f} s: {tested[-1][2]:.4f} bits/dim", file=sys.stderr, flush=True)
            if over > seconds:
                yield tested
                return
            if over > end_of_turn:
                begin = time.monotonic()
                yield None
                not_counted += time.monotonic() - begin
                end_of_turn = over + turn


def _bits_per_dim(network, test, batch_size):
    network.prepare()
    # The last batch is filled up, so that nothing is compiled again.
    padded = np.concatenate([test, np.repeat(test[-1:], -len(test) % batch_size, 0)])
    nats = [network.nats(batch) for batch in np.split(padded, len(padded) // batch_size)]
    return float(np.concatenate(nats)[: len(test)].mean() / np.log(2) / test[0].size)
