"""What --bfloat16 does to learning: 200 steps on photographs, from the same parameters, on the same batches.

Prints a JSON line: the bits/dim of the last 20 training steps, and of the test images by the parameters as they are and
by their averages, for each of some seeds, which decide the initial parameters and the order of the images: in float32,
in bfloat16, and nudged, in float32 from parameters that lie beside as far as bfloat16 rounds. And by how much of
float32's those of the other two are higher, in the mean, with its standard error.

At the default, nearly constant learning rate, two runs that differ by rounding soon lie a percent or two apart, and no
mean of a few tells bfloat16 from chance. At a lower rate, or if it falls quickly, they stay closer to each other.

    python -m benchmarks.bfloat16 --nr_filters=32 --nr_resnet=1 --learning_rate=2e-4
"""

import argparse
import itertools
import json
import statistics

import keras
import numpy as np
import tensorflow as tf

import data
from pixel_snail import evaluation, logistic_mixture, progress, steps
from pixel_snail import flags as command_line
from pixel_snail.optimizer import PolyakAdam, flatten
from pixel_snail.parallel import replicas

STEPS = 200
POLYAK_DECAY = 0.98  # over some 50 steps of the 200


def main() -> None:
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    command_line.add_model_flags(parser)
    parser.add_argument("--batch_size", type=command_line.positive_int, default=8)
    parser.add_argument("--learning_rate", type=command_line.positive_float, default=1e-3)
    parser.add_argument("--lr_decay", type=command_line.positive_float, default=0.999998)
    parser.add_argument("--seeds", type=command_line.positive_int, default=4)
    flags = parser.parse_args()
    if flags.seeds < 2:
        parser.error("--seeds: one run tells nothing of chance")
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
    """The bits/dim that STEPS steps lead to, for each kind of run and each seed."""
    data_set = data.data_sets["photos"](None)
    strategy = replicas.strategy(1)
    model = evaluation.build_model(flags, data_set, dropout_p=0.5)
    optimizer = PolyakAdam(flags.learning_rate, flags.lr_decay, polyak_decay=POLYAK_DECAY)
    optimizer.build(model.trainable_variables)
    no_state = [variable.numpy() for variable in optimizer.variables]
    steps_of = {
        bfloat16: steps.train_step(strategy, model, optimizer, None, seed=0, bfloat16=bfloat16)
        for bfloat16 in (False, True)
    }
    test_steps = {
        "test": evaluation.test_step(strategy, model, lambda: model.trainable_variables, None),
        "averaged": evaluation.test_step(strategy, model, optimizer.averages, None),
    }

    def mean_test_bits(test_step):
        values = evaluation.per_value(test_step(), strategy, data_set.test, flags.batch_size, leave=False)
        nats = evaluation.nats_per_channel(values).sum(1)
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
        result |= {name: mean_test_bits(test_step) for name, test_step in test_steps.items()}
        return {name: round(value, 4) for name, value in result.items()}

    learned = {"float32": [], "nudged": [], "bfloat16": []}
    for seed in range(flags.seeds):
        epochs = (data.training_batches(data_set.train, flags.batch_size, seed, epoch) for epoch in itertools.count())
        batches = list(itertools.islice(itertools.chain.from_iterable(epochs), STEPS))
        start = initial_parameters(flags, data_set, batches[0], seed)
        for kind, runs in learned.items():
            parameters = nudged(start, seed) if kind == "nudged" else start
            runs.append(run(parameters, kind == "bfloat16", batches, f"seed {seed}, {kind}"))
    return learned


def initial_parameters(
    flags: argparse.Namespace, data_set: data.DataSet, batch: dict[str, tf.Tensor], seed: int
) -> list[np.ndarray]:
    """Those of a seed, initialised on a batch."""
    keras.utils.set_random_seed(seed)
    model = evaluation.build_model(flags, data_set, dropout_p=0.5)
    steps.initialise(model, *evaluation.network_inputs(batch, None), seed)
    return [variable.numpy() for variable in model.trainable_variables]


def nudged(parameters: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Each beside itself by the standard deviation of rounding to bfloat16's 8 digits, about 2^-9 / sqrt(3)."""
    rng = np.random.default_rng(seed)
    return [p * (1 + 2**-9 / 3**0.5 * rng.standard_normal(p.shape, np.float32)) for p in parameters]


if __name__ == "__main__":
    main()
