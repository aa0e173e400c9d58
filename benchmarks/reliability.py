"""Reliability in figures: kills of a run and of workers, corrupted checkpoints, time to stop, and cost of saving.

    python -m benchmarks.reliability    # about 15 minutes; prints a JSON line for each measurement

Every run is train.py's command line in processes of its own, on pictures of noise.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image

from benchmarks.process import timed
from pixel_snail import checkpoint
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.commands import command_line
from pixel_snail.errors import UserError
from pixel_snail.model import build_network
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.runs import search

TINY = ["--model=h1", "-q1", "-n4", "-m2", "-b2", "-a4", "--image_size=8"]
STEPS_AN_EPOCH = 10
PATIENCE = 300
"""The most seconds that a process may take to start or to end."""

_ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=command_line.positive_int, default=40)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for measure in (
            lambda: kills_survived(folder / "kills", flags.kills),
            lambda: kills_survived(folder / "workers", 4, workers=2),
            lambda: corruptions_caught(folder / "kills", 1000),
            lambda: time_to_stop(folder / "stop"),
            lambda: cost_of_saving(folder / "saving"),
        ):
            print(json.dumps(measure()), flush=True)


class Run:
    """A run of train.py, started in one process or in several workers.

    Args:
        folder: holds the pictures, the run's folder, and the output of the processes.
        argv: flags of train.py, except the folders and the data set.
        workers: the number of processes.
    """

    def __init__(self, folder: Path, argv: list[str], workers: int = 1):
        self._steps = folder / "steps"
        self._steps.unlink(missing_ok=True)
        make_pictures(folder / "pictures")
        places = [f"--data_dir={folder}/pictures", "--data_set=folder", f"--save_dir={folder}/runs"]
        # With one thread, sums are always taken in the same order.
        environment = os.environ | {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
        self.processes, self.outputs = [], []
        for index in range(workers):
            if workers > 1:
                config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                environment["TF_CONFIG"] = json.dumps(config)
            self.outputs.append(folder / f"output{index}")
            with self.outputs[-1].open("w") as output:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "benchmarks.counted_training", str(self._steps), *places, *argv],
                        cwd=_ROOT,
                        env=environment,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def wait_for(self, text: str | None) -> None:
        """Waits until the first process has printed a text; None: until it has taken a step.

        Raises:
            RuntimeError: the process ended before that, or took longer than PATIENCE.
        """
        end = time.monotonic() + PATIENCE
        while not self._steps.exists() if text is None else text not in self.outputs[0].read_text():
            if self.processes[0].poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"no {text!r} in {self.outputs[0].read_text()!r}")
            time.sleep(0.02)

    def wait(self) -> list[int]:
        """Waits for all processes and returns their exit codes."""
        try:
            return [process.wait(PATIENCE) for process in self.processes]
        finally:
            self.kill()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def steps_taken(self) -> int:
        """The run's number of steps, saved or not; 0 before the first step, and while the number is being written."""
        return int(self._steps.read_text() or 0) if self._steps.exists() else 0


def kills_survived(folder: Path, kills: int, workers: int = 1, epochs: int | None = None, seed: int = 0) -> dict:
    """Kills a run, or one of its workers, at random moments, and compares its result with an undisturbed run's.

    Saving may be hit, too. After each kill, the same command starts the run again; after the last one, the run trains
    to its end.

    Returns:
        The figures of the comparison. `largest_difference` is over all losses, parameters, averages, and Adam's state.
    """
    chance = random.Random(seed)
    epochs = epochs or 3 * kills
    argv = [*TINY, f"-x{epochs}", "-t1", "--save_minutes=0.0005", "--sample_interval=0", "--resume"]
    undisturbed = Run(folder / "undisturbed", argv, workers)
    if any(undisturbed.wait()):
        raise RuntimeError(undisturbed.outputs[0].read_text())
    in_saving, lost = 0, []
    for kill in range(kills):
        run = Run(folder / "killed", argv, workers)
        run.wait_for("\nsaved ")
        # The moment is chosen by steps: by the clock, the run might end before the last kill.
        target = run.steps_taken() + chance.randint(0, STEPS_AN_EPOCH * epochs // kills - 15)
        while run.steps_taken() < target and run.processes[0].poll() is None:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        run.processes[kill % workers].kill()
        run.processes[kill % workers].wait()
        if workers > 1:
            run.wait()
        in_saving += any((folder / "killed").glob("runs/*/.writing_*")) + any(
            (folder / "killed").glob("runs/*/.re*d_*")
        )
        saved = tensors(search.find(f"{folder}/killed/runs").prefix)["pixel_snail/steps_taken"]
        lost.append(max(0, run.steps_taken() - int(saved)))
    last = Run(folder / "killed", argv, workers)
    if any(last.wait()):
        raise RuntimeError(last.outputs[0].read_text())
    expected, found = (tensors(search.find(f"{folder}/{name}/runs").prefix) for name in ("undisturbed", "killed"))
    assert expected.keys() == found.keys()
    return {
        "kills": kills,
        "workers": workers,
        "killed_in_saving": in_saving,
        "steps": int(found["pixel_snail/steps_taken"]),
        "steps_lost_mean": round(float(np.mean(lost)), 2),
        "steps_lost_most": max(lost),
        "bit_equal": all(np.array_equal(expected[name], found[name]) for name in expected),
        "largest_difference": max(float(np.abs(expected[name] - found[name]).max(initial=0)) for name in expected),
    }


def tensors(prefix: str) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, by name, except the description of its network.

    Raises:
        UserError: the checkpoint can't be read.
    """
    reader = Checkpoint(prefix)
    reader.check()
    names = [name for name in reader.shapes if not name.startswith(checkpoint.NETWORK)]
    return dict(zip(names, reader.read(names), strict=True))


def corruptions_caught(folder: Path, number: int) -> dict:
    """Corrupts the newest checkpoint below a folder `number` times, each time from the original, and reads it."""
    prefix = search.find(str(folder)).prefix
    expected = tensors(prefix)
    rng = np.random.default_rng(0)
    outcomes = {"caught": 0, "harmless": 0, "accepted_with_wrong_values": 0}
    for i in range(number):
        file = Path(prefix + (".index", ".data-00000-of-00001")[i % 2])
        content = file.read_bytes()
        file.write_bytes(corrupted(rng, content))
        try:
            found = tensors(prefix)
            same = found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in expected)
            outcomes["harmless" if same else "accepted_with_wrong_values"] += 1
        except UserError:
            outcomes["caught"] += 1
        finally:
            file.write_bytes(content)
    return {"corruptions": number} | outcomes


def corrupted(rng: np.random.Generator, content: bytes) -> bytes:
    """The content of a file with a bit flipped, its end cut off, or fewer than 512 bytes zeroed or overwritten."""
    values = np.frombuffer(content, np.uint8).copy()
    place = rng.integers(len(values))
    kind = rng.integers(4)
    if kind == 0:
        values[place] ^= 1 << rng.integers(8)
    elif kind == 1:
        values = values[:place]
    else:
        block = values[place : place + rng.integers(1, 512)]
        block ^= block if kind == 2 else rng.integers(1, 256, len(block), np.uint8)
    return values.tobytes()


def time_to_stop(folder: Path) -> dict:
    """The seconds from SIGTERM to the end of a run (F 64, 32x32, batch 8) that compiles, trains, tests or samples."""
    argv = ["-n64", "-x5000", "--image_size=32", "--resume"]
    seconds = {}
    for moment in ("compiling the first step", "training", "evaluating", "sampling"):
        run = Run(folder, argv if moment == "sampling" else [*argv, "--sample_interval=0"])
        run.wait_for(moment if moment != "training" else None)
        begin = time.monotonic()
        run.processes[0].send_signal(signal.SIGTERM)
        (code,) = run.wait()
        seconds[moment] = round(time.monotonic() - begin, 1)
        if code != 0:
            raise RuntimeError(run.outputs[0].read_text())
    return {"nr_filters": 64, "seconds_to_stop": seconds}


def cost_of_saving(folder: Path) -> dict:
    """The seconds to save a checkpoint of the released size, and their share of a run with default --save_minutes."""
    model = build_network("h12_noup_smallkey", (32, 32, 3), nr_resnet=4, nr_filters=256, nr_logistic_mix=10)
    optimizer = PolyakAdam()
    optimizer.build(model.trainable_variables)
    prefix = str(folder / "0" / "params_cifar.ckpt")
    seconds = max(timed(lambda: checkpoint.save(prefix, model, optimizer, {})) for _ in range(3))
    return {"nr_filters": 256, "save_seconds": round(seconds, 1), "share": round(seconds / (15 * 60 + seconds), 4)}


def make_pictures(folder: Path) -> None:
    """Writes pictures of noise, 20 for training and 8 for testing, unless they exist."""
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        with contextlib.suppress(FileExistsError):
            (folder / name).mkdir(parents=True)
            for i in range({"train": 20, "test": 8}[name]):
                PIL.Image.fromarray(rng.integers(0, 256, [32, 32, 3], np.uint8)).save(folder / name / f"{i}.png")


def _free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    main()
