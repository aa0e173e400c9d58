"""The effect of --bfloat16 on learning: 200 steps on photographs, from the same parameters, on the same batches.

Each seed decides the initial parameters and the order of the images of three runs: float32; bfloat16; and nudged, which
is float32 from parameters perturbed by bfloat16's rounding error.

Prints a JSON line with the bits/dim of every run: `training`, over the last 20 steps; `test`, on the test images with
the parameters; and `averaged`, with the Polyak averages. `..._higher` is the relative increase of nudged and bfloat16
over float32: its mean over the seeds and the standard error.

At the default, nearly constant learning rate, two runs that differ by rounding are soon one or two percent apart. The
mean over a few seeds then can't distinguish bfloat16 from chance. At a lower or quickly falling rate, runs stay closer.

    python -m benchmarks.bfloat16 --nr_filters=32 --nr_resnet=1 --learning_rate=2e-4
"""

import argparse
import itertools
import json
import statistics

import numpy as np

import data
from benchmarks.measuring import IMAGES, network
from pixel_snail import steps
from pixel_snail.backend import keras, tf
from pixel_snail.commands import command_line, progress
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.optimizer import PolyakAdam, flatten
from pixel_snail.parallel import replicas
from pixel_snail.parallel.batches import training_batches

STEPS = 200
POLYAK_DECAY = 0.98  # averages over about 50 of the 200 steps


def main() -> None:
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    command_line.add_network_flags(parser)
    parser.set_defaults(**IMAGES)
    parser.add_argument("--batch_size", type=command_line.positive_int, default=8)
    parser.add_argument("--learning_rate", type=command_line.positive_float, default=1e-3)
    parser.add_argument("--lr_decay", type=command_line.positive_float, default=0.999998)
    parser.add_argument("--seeds", type=command_line.positive_int, default=4)
    flags = parser.parse_args()
    if flags.seeds < 2:
        parser.error("--seeds: one run does not show the effect of chance")
    learned = learn(flags)
    result = {"steps": STEPS, "learning_rate": flags.learning_rate, "lr_decay": flags.lr_decay}
    for name in ("training", "test", "averaged"):
        bits = {kind: [run[name] for run in runs] for kind, runs in learned.items()}
        result[name] = bits
        for kind in ("nudged", "bfloat16"):
            higher = [b / a - 1 for a, b in zip(bits["float32"], bits[kind], strict=True)]
            stderr = statistics.stdev(higher) / len(higher) ** 0.5
            result[f"{name}_{kind}_higher"] = [round(statistics.mean(higher), 5), round(stderr, 5)]
    print(json.dumps(result))


def learn(flags: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """The bits/dim after STEPS steps, by kind of run: for each seed its `training`, `test` and `averaged`."""
    data_set = data.load("photos", None)
    strategy = replicas.strategy(1)
    model = network(flags, dropout_p=0.5)
    optimizer = PolyakAdam(flags.learning_rate, flags.lr_decay, polyak_decay=POLYAK_DECAY)
    optimizer.build(model.trainable_variables)
    no_state = [variable.numpy() for variable in optimizer.variables]
    steps_of = {
        bfloat16: steps.train_step(strategy, model, optimizer, seed=0, bfloat16=bfloat16) for bfloat16 in (False, True)
    }
    evaluator = steps.Evaluator(strategy, model)
    tested = {"test": lambda: model.weights, "averaged": optimizer.averages}

    def mean_test_bits(parameters):
        batches = evaluator.in_batches("nats", parameters, data_set.test, flags.batch_size, leave=False)
        nats = steps.summed_over_pixels(batches).sum(1)
        return float(logistic_mixture.bits_per_dim(nats, data_set.image_shape).mean())

    def run(parameters, bfloat16, batches, desc):
        for variable, value in zip(model.trainable_variables, parameters, strict=True):
            variable.assign(value)
        for variable, value in zip(optimizer.variables, no_state, strict=True):
            variable.assign(value)
        optimizer.average.assign(flatten(parameters))
        step = steps_of[bfloat16]
        losses = [float(step(batch)) for batch in progress.bar(batches, desc=desc, unit="step")]
        bits = logistic_mixture.bits_per_dim(tf.constant(losses), data_set.image_shape, flags.batch_size)
        result = {"training": float(np.mean(bits[-20:]))}
        result |= {name: mean_test_bits(parameters()) for name, parameters in tested.items()}
        return {name: round(value, 4) for name, value in result.items()}

    learned = {"float32": [], "nudged": [], "bfloat16": []}
    for seed in range(flags.seeds):
        epochs = (training_batches(data_set.train, flags.batch_size, seed, epoch) for epoch in itertools.count())
        batches = list(itertools.islice(itertools.chain.from_iterable(epochs), STEPS))
        start = initial_parameters(flags, batches[0], seed)
        for kind, runs in learned.items():
            parameters = nudged(start, seed) if kind == "nudged" else start
            runs.append(run(parameters, kind == "bfloat16", batches, f"seed {seed}, {kind}"))
    return learned


def initial_parameters(flags: argparse.Namespace, batch: dict[str, tf.Tensor], seed: int) -> list[np.ndarray]:
    """The parameters of a seed after the data-dependent initialisation on a batch."""
    keras.utils.set_random_seed(seed)
    model = network(flags, dropout_p=0.5)
    steps.initialise(model, batch, seed)
    return [variable.numpy() for variable in model.trainable_variables]


def nudged(parameters: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """The parameters with random errors as large as bfloat16's: 8 digits, standard deviation about 2^-9 / sqrt(3)."""
    rng = np.random.default_rng(seed)
    return [p * (1 + 2**-9 / 3**0.5 * rng.standard_normal(p.shape, np.float32)) for p in parameters]


if __name__ == "__main__":
    main()
