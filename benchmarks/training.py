"""Measures a training step and an evaluation beside the plain network, which is written the original's way (plain.py).

Prints a JSON line for each network and batch. The two networks run in separate processes, which take turns step by
step: if the machine slows down, it slows both. An evaluation is one batch of many, so that our weights are prepared
once, outside the timing. `gflops` is the arithmetic of a plain step, counted as three times that of a plain
evaluation, per second of our step. `peak_share` is `gflops` divided by the speed of a product of two 4096 x 4096
matrices.

    python -m benchmarks.training                                    # F 32, 64, 256; batch 8
    python -m benchmarks.training --nr_filters=64 --batch_size=8     # one; --bfloat16, --recompute, --model, ...
    python -m benchmarks.training --nr_filters=64 --growth           # batches of 1 to 32; images of 16, 32 and 64
    python -m benchmarks.training --image_size=28 --channels=1 --levels=2  # other images
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import statistics
from collections.abc import Callable, Sequence

from benchmarks.measuring import (
    check_network,
    described,
    device_peak_gb,
    flags_of_images,
    network,
    new_process,
    random_images,
)
from benchmarks.process import timed
from pixel_snail.commands import command_line, progress
from pixel_snail.network import Network

STEPS, SECONDS = 5, 20
"""Steps and evaluations are timed until at least STEPS were taken and SECONDS have passed; the median is reported."""

MATRIX = 4096
"""Rows and columns of the matrices whose product `peak_share` compares with."""


def main() -> None:
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    command_line.add_network_flags(parser)
    command_line.add_step_flags(parser)
    parser.set_defaults(nr_filters=None)
    parser.add_argument("--batch_size", type=command_line.positive_int, default=8)
    flags_of_images(parser)
    parser.add_argument("--growth", action="store_true", help="how the cost grows; without the plain network")
    flags = parser.parse_args()
    check_network(parser, flags)
    sizes = [(flags.batch_size, flags.image_size)]
    if flags.growth:
        sizes = [*((batch, 32) for batch in (1, 2, 4, 8, 16, 32)), (8, 16), (8, 64)]
    filters = [flags.nr_filters] if flags.nr_filters else [32, 64, 256]
    for flags.nr_filters, (flags.batch_size, flags.image_size) in itertools.product(filters, sizes):
        print(json.dumps(measure(flags, with_plain=not flags.growth)), flush=True)


def measure(flags: argparse.Namespace, with_plain: bool, seconds: float = SECONDS) -> dict:
    """Measures a network of --nr_filters on batches of --batch_size, beside the plain network or without it.

    Args:
        seconds: see `in_turns`.
    """
    with contextlib.ExitStack() as stack:
        turns = [stack.enter_context(_Process(flags, plain)) for plain in ((False, True) if with_plain else (False,))]
        for process in turns:  # not timed, since the first step compiles
            process.step()
        steps = in_turns([process.step for process in turns], seconds)
        peaks = [process.peak_gb() for process in turns]
        for process in turns:
            process.evaluate()
        evaluations = in_turns([process.evaluate for process in turns], seconds)
        gflop = turns[-1].gflop()
    with new_process() as process:
        peak_gflops = process.submit(_peak_gflops, flags.bfloat16).result()
    seconds, *plain_seconds = (round(statistics.median(of_one), 5) for of_one in zip(*steps, strict=True))
    evaluation, *plain_evaluation = (round(statistics.median(of_one), 5) for of_one in zip(*evaluations, strict=True))
    result = {
        **described(flags),
        "bfloat16": flags.bfloat16,
        "recompute": flags.recompute,
        "grad_accum": flags.grad_accum,
        "step_seconds": seconds,
        "images_per_second": round(flags.batch_size / seconds, 2),
        "peak_gb": peaks[0],
        "gflops": round(3 * gflop / seconds, 1),
        "peak_share": round(3 * gflop / seconds / peak_gflops, 3),
        "evaluation_seconds": evaluation,
    }
    if with_plain:
        result |= {
            "plain_step_seconds": plain_seconds[0],
            "plain_peak_gb": peaks[1],
            "plain_evaluation_seconds": plain_evaluation[0],
            "ratio": round(seconds / plain_seconds[0], 3),
            "memory_ratio": round(peaks[0] / peaks[1], 3),
            "evaluation_ratio": round(evaluation / plain_evaluation[0], 3),
        }
    return result


def in_turns(measured: Sequence[Callable[[], float]], seconds: float) -> list[list[float]]:
    """Calls the functions in turns; each returns its seconds. The result is a list of these seconds for every turn.

    It ends after STEPS turns or more, once they have taken `seconds` together. A progress bar counts the seconds.
    """
    turns = []
    with progress.bar(total=round(seconds), desc="measuring", unit="s", leave=False) as bar:
        while len(turns) < STEPS or sum(map(sum, turns)) < seconds:
            turns.append([function() for function in measured])
            bar.update(min(round(sum(map(sum, turns))), bar.total) - bar.n)
    return turns


def _peak_gflops(bfloat16):
    """The speed of a product of two MATRIX x MATRIX matrices on all cores, or on a GPU, in GFLOP/s."""
    from pixel_snail.backend import tf

    tf.config.experimental.enable_tensor_float_32_execution(False)
    matrix = tf.random.normal([MATRIX, MATRIX], dtype=tf.bfloat16 if bfloat16 else tf.float32)
    multiply = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0])
    return 2 * MATRIX**3 / 1e9 / min(timed(lambda: multiply().numpy()) for _ in range(5))


class _Process:
    """A network in a process of its own. A method calls the function of the same name in that process's `_made`."""

    def __init__(self, flags, plain):
        self._plain = plain
        self._pool = new_process(initializer=_make, initargs=(flags, plain))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._pool.shutdown()

    def __getattr__(self, name):
        return lambda: self._pool.submit(_call, self._plain, name).result()


def step_and_evaluation(flags: argparse.Namespace, strategy, model: Network, plain: bool) -> tuple[Callable, Callable]:
    """The functions to measure: one takes a step on images, values [B, H, W, C], the other evaluates them."""
    from benchmarks import plain as plain_network
    from pixel_snail import steps
    from pixel_snail.optimizer import PolyakAdam

    if plain:
        return plain_network.train_step(model), plain_network.evaluation_step(model)
    optimizer = PolyakAdam()
    optimizer.build(model.trainable_variables)
    settings = {"bfloat16": flags.bfloat16, "recompute": flags.recompute}
    step = steps.train_step(strategy, model, optimizer, 0, flags.grad_accum, **settings)
    evaluator = steps.Evaluator(strategy, model)
    prepared = functools.cache(lambda: evaluator.prepared(optimizer.averages()))
    return lambda images: step({"images": images}), lambda images: evaluator.nats({"images": images}, prepared())


_made = {}
"""The functions that `_make` has created in this process, by whether they are the plain network's, and by name."""


def _call(plain, name):
    return _made[plain][name]()


def _make(flags, plain):
    import numpy as np

    from benchmarks.plain import evaluation_step
    from pixel_snail.backend import tf
    from pixel_snail.parallel import replicas

    strategy = replicas.strategy(1, in_micro_batches=not plain)
    model = network(flags, dropout_p=0.5)
    images = tf.constant(random_images(flags, flags.batch_size))
    train, evaluate = step_and_evaluation(flags, strategy, model, plain)

    def gflop():
        graph = evaluation_step(model).get_concrete_function(images).graph
        options = tf.compat.v1.profiler.ProfileOptionBuilder(
            tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
        )
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            counts = tf.compat.v1.profiler.profile(graph, options=options.with_empty_output().build())
        return counts.total_float_ops / 1e9

    _made[plain] = {
        "step": lambda: timed(lambda: np.asarray(train(images))),
        "evaluate": lambda: timed(lambda: np.asarray(evaluate(images))),
        "peak_gb": device_peak_gb,
        "gflop": gflop,
    }


if __name__ == "__main__":
    main()
