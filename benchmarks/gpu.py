"""Checks the results and measures the speed of this machine's GPUs, in one command.

- golden numbers: all 17 networks against the original's results, as in the tests, in float32; for three of them also
  with every function compiled that XLA compiles for large maps. The largest errors allowed are ten times those that the
  tests allow on a CPU, because GPUs add in another order. With TF32, NVIDIA's shorter float32, which train.py and
  eval.py leave off, the errors are only stated.
- random words: dropout draws the same random bits as on a CPU.
- replicas, with several GPUs: whether all GPUs together take the same steps as one GPU on the joint batch, dropout
  included; how much faster they are; and whether a repeated run on one GPU is the same bit by bit.
- training, in float32 and in bfloat16: a step, an evaluation and the GPU's memory beside the plain network, in turns.
- sampling: a batch, beside an evaluation of it and the naive loop.

Each check runs in a process of its own. A check that fails, or can't be computed, is reported with its reason; the
others go on, and the exit code is 1. Prints a JSON line for each check and at last a table in Markdown; progress goes
to stderr. Without GPUs, all of it runs on the CPU, with two logical CPU devices as replicas.

    python -m benchmarks.gpu                                                  # F 32, 64, 256
    python -m benchmarks.gpu --nr_filters=32 --networks=h6_shift --seconds=1  # a part, in a few minutes
"""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measuring, process, sampling, training
from pixel_snail import settings
from pixel_snail.commands import command_line, progress
from pixel_snail.errors import first_line

TESTS = Path(__file__).parents[1] / "tests"

ALLOWED = {
    "outputs": 1e-5,
    "loss": 1e-4,
    "gradient": 2e-2,
    "median_gradient": 2e-3,
    "steps": 1e-4,
    "averaged_outputs": 1e-4,
    "steps_from_checkpoint": 1e-4,
    "samples": 1e-1,
}
"""The largest errors that are allowed on a GPU, by the names that tests/golden_numbers.py gives them."""

COMPILED = ["h12_noup_smallkey", "model", "pxpp"]
"""The networks that are also computed with every function compiled: one of each kind of convolution."""

STEPS = 3


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line.Parser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    command_line.add_network_flags(parser)
    parser.set_defaults(**measuring.IMAGES, nr_filters=None, recompute=False, grad_accum=1)
    positive = {"type": command_line.positive_int}
    parser.add_argument("--nr_gpu", **positive, help="replicas; without it, all GPUs, or two logical CPU devices")
    parser.add_argument("--batch_size", default=8, **positive, help="images of each replica in each step")
    parser.add_argument("--sample_batch", default=32, **positive, help="images drawn at a time on a GPU")
    parser.add_argument("--image_size", default=32, **positive)
    parser.add_argument(
        "--networks", nargs="+", choices=settings.MODELS, help="check the golden numbers of these networks only"
    )
    parser.add_argument(
        "--seconds",
        type=command_line.non_negative_float,
        default=training.SECONDS,
        help="time each step and evaluation for at least so long",
    )
    flags = parser.parse_args(argv)
    filters = [flags.nr_filters] if flags.nr_filters else [32, 64, 256]
    rows = []

    def check(title, in_words, function, *arguments, apart=True):
        """Calls a function, in a process `apart` unless it starts its own, and reports its result; returns that."""
        progress.say(f"{title} ...")
        try:
            result = measuring.in_a_process(function, *arguments) if apart else function(*arguments)
        except Exception as error:  # whatever a GPU or its driver can't do is a result
            result = {"failed": f"{type(error).__name__}: {first_line(error)}"}
        print(json.dumps({"check": title} | result), flush=True)
        failed = result.get("failed")
        rows.append((title, f"failed: {failed}" if failed else in_words(result), bool(failed)))
        return result

    machine = check("devices", lambda result: result["devices"], devices_and_versions, flags.nr_gpu)
    has_gpus = machine.get("gpus", 0) > 0
    check("golden numbers, float32", _golden_in_words, golden, flags.networks, "float32")
    if compiled := [name for name in COMPILED if name in (flags.networks or COMPILED)]:
        check("golden numbers, float32, all compiled", _golden_in_words, golden, compiled, "compiled")
    if has_gpus:
        check("golden numbers, TF32", _golden_in_words, golden, flags.networks, "TF32")
    check("random words", lambda _: "those of a CPU, bit by bit", random_words)
    number = flags.nr_gpu or machine.get("gpus") or 2
    for flags.nr_filters in filters:
        name = f"{flags.model}, F {flags.nr_filters}, {flags.image_size}x{flags.image_size}"
        if number > 1:
            check(f"{number} replicas, {name}", _replicas_in_words, replicas_and_one, flags, number)
        for flags.bfloat16 in (False, True):
            kind = "bfloat16" if flags.bfloat16 else "float32"
            title = f"training, {name}, {kind}, batch {flags.batch_size}"
            check(title, _training_in_words, training.measure, flags, True, flags.seconds, apart=False)
    if has_gpus:  # otherwise, batches are those of a CPU
        flags.batch_size = flags.sample_batch
    for flags.nr_filters in filters:
        name = f"{flags.model}, F {flags.nr_filters}, {flags.image_size}x{flags.image_size}"
        check(f"sampling, {name}, batch {flags.batch_size}", _sampling_in_words, sampling.measure, flags)
    print("\n| check | result |\n| --- | --- |")
    for title, text, _ in rows:
        print(f"| {title} | {text.replace('|', '/')} |")
    sys.exit(int(any(failed for *_, failed in rows)))


def devices_and_versions(nr_gpu: int | None) -> dict:
    """The devices, and the versions of the packages that compute on them."""
    from pixel_snail.backend import keras, tf
    from pixel_snail.parallel import devices, replicas

    gpus = devices.number_of_gpus()
    strategy = replicas.strategy(nr_gpu)
    build = tf.sysconfig.get_build_info()
    return {
        "devices": devices.described(replicas.on_this_machine(strategy)),
        "gpus": gpus,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "cuda": build.get("cuda_version"),
        "cudnn": build.get("cudnn_version"),
    }


def golden(networks: list[str] | None, kind: str) -> dict:
    """The errors of networks' golden numbers.

    Args:
        networks: their names; None: all.
        kind: "float32"; "compiled", with every function compiled; or "TF32".
    """
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    import golden_numbers
    from pixel_snail.backend import tf
    from pixel_snail.kernels import xla
    from pixel_snail.parallel import replicas

    replicas.strategy(1)
    tf.config.experimental.enable_tensor_float_32_execution(kind == "TF32")
    small, xla.SMALL = xla.SMALL, 0 if kind == "compiled" else xla.SMALL
    names = networks or golden_numbers.NAMES
    errors, failed = {}, []
    try:
        for name in progress.bar(names, desc=f"golden numbers, {kind}", unit="network", leave=False):
            try:
                errors[name] = golden_numbers.errors_of_a_batch(name) | golden_numbers.errors_of_steps(name)
                if golden_numbers.has_samples(name):
                    errors[name]["samples"] = golden_numbers.error_of_samples(name)
            except Exception as error:
                failed.append(f"{name}: {type(error).__name__}: {first_line(error)}")
    finally:
        xla.SMALL = small
    if kind != "TF32":
        failed += [
            f"{name}: the error of {what} is {error:.1e}, above {ALLOWED[what]:.0e}"
            for name, of_name in errors.items()
            for what, error in of_name.items()
            if not error <= ALLOWED[what]
        ]
    errors = {name: {what: float(f"{error:.2g}") for what, error in of.items()} for name, of in errors.items()}
    computed = [what for what in ALLOWED if any(what in of for of in errors.values())]
    largest = {what: max(of[what] for of in errors.values() if what in of) for what in computed}
    result = {"networks": len(errors), "largest_errors": largest, "errors": errors}
    return result | ({"failed": "; ".join(failed)} if failed else {})


def random_words() -> dict:
    """Compares the random words of dropout on the first device with those on the CPU."""
    import numpy as np

    from pixel_snail.backend import tf
    from pixel_snail.kernels import dropout
    from pixel_snail.parallel import devices, replicas

    replicas.strategy(1)

    def words(rate):
        of_image, _ = dropout.split_seed(tf.constant([1, 2, 3]), 2)
        return dropout.random_words([4, 32, 32, 64], rate, of_image)

    for rate in (0.5, 0.3):
        results = []
        for device in ("CPU:0", "GPU:0" if devices.number_of_gpus() else "CPU:0"):
            with tf.device(device):
                results.append(tf.function(words)(rate).numpy())
        if not np.array_equal(*results):
            return {"failed": f"at rate {rate}, {np.mean(results[0] != results[1]):.0%} of the random words differ"}
    return {}


def replicas_and_one(flags: argparse.Namespace, number: int) -> dict:
    """Takes steps on `number` replicas and on one device, on the same batches of --batch_size images a replica."""
    import numpy as np

    from pixel_snail import steps
    from pixel_snail.backend import keras, tf
    from pixel_snail.dataset import Split
    from pixel_snail.optimizer import PolyakAdam, flatten
    from pixel_snail.parallel import replicas
    from pixel_snail.parallel.batches import training_batches
    from pixel_snail.parallel.cluster import Cluster

    several = replicas.strategy(number)
    together = flags.batch_size * number
    split = Split(measuring.random_images(flags, STEPS * together))

    def run(strategy):
        """Takes STEPS steps; returns their losses, the parameters, and a function that takes another step."""
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = measuring.network(flags, dropout_p=0.5)
            steps.initialise(model, {"images": split.images[: flags.batch_size]}, seed=0)
            optimizer = PolyakAdam()
            optimizer.build(model.trainable_variables)
        step = steps.train_step(strategy, model, optimizer, seed=0)
        batches = list(
            replicas.batches(strategy, functools.partial(training_batches, split, together, 0, 0, 0), Cluster())
        )
        losses = [float(step(batch)) for batch in batches]
        return np.array(losses), flatten(model.trainable_variables).numpy(), lambda: float(step(batches[0]))

    one = tf.distribute.get_strategy()
    losses, parameters, step_of_one = run(one)
    losses_again, parameters_again, _ = run(one)
    losses_of_several, parameters_of_several, step_of_several = run(several)
    timed = [functools.partial(process.timed, step) for step in (step_of_several, step_of_one)]
    turns = training.in_turns(timed, flags.seconds)
    seconds, seconds_of_one = np.median(turns, 0)
    result = {
        "replicas": number,
        "global_batch": together,
        "losses_error": float(np.abs(losses_of_several / losses - 1).max()),
        # A hundredth of a step. Where a gradient is near zero, rounding decides the direction of Adam's step.
        "parameters_apart": float(np.mean(np.abs(parameters_of_several - parameters) > 1e-5)),
        "repeats_bit_by_bit": bool((losses == losses_again).all() and (parameters == parameters_again).all()),
        "step_seconds": round(float(seconds), 4),
        "step_seconds_of_one": round(float(seconds_of_one), 4),
        "times_faster": round(float(seconds_of_one / seconds), 2),
    }
    if not (result["losses_error"] < 1e-4 and result["parameters_apart"] < 0.02):
        result["failed"] = (
            f"the replicas' steps differ from those of one device: losses by {result['losses_error']:.1e}, "
            f"{result['parameters_apart']:.1%} of the parameters by more than 1% of a step"
        )
    return result


def _golden_in_words(result):
    largest = result["largest_errors"]
    errors = ", ".join(f"{what.replace('_', ' ')} {error:.0e}" for what, error in largest.items())
    return f"{result['networks']} network{'s' * (result['networks'] > 1)}; largest errors: {errors}"


def _replicas_in_words(result):
    repeats = "repeats" if result["repeats_bit_by_bit"] else "does not repeat"
    return (
        f"the steps of one device: largest relative error of the losses {result['losses_error']:.0e}, "
        f"{result['parameters_apart']:.2%} of the parameters differ by more than 1% of a step; "
        f"{result['step_seconds']} s a step, {result['times_faster']} times as fast as one device; a run on one "
        f"device {repeats} bit by bit"
    )


def _training_in_words(result):
    return (
        f"step {result['step_seconds']} s ({result['ratio']} x plain network); memory {result['peak_gb']} GB "
        f"({result['memory_ratio']} x); evaluation {result['evaluation_seconds']} s ({result['evaluation_ratio']} x)"
    )


def _sampling_in_words(result):
    return (
        f"drawn in {result['sampling_seconds']} s, {result['ratio']} times as long as an evaluation; naive loop "
        f"{result['naive_seconds']} s; {result['peak_gb']} GB; compiled in {result['compile_seconds']} s"
    )


if __name__ == "__main__":
    main()
