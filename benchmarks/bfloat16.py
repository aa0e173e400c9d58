"""What --bfloat16 does to learning: 200 steps on photographs, from the same parameters, on the same batches.

Prints a JSON line: the bits/dim of the last 20 training steps and of the test images (by the parameters as they are,
not their averages), in float32 and in bfloat16, with each of some seeds of dropout; and by how much of float32's those
of bfloat16 are higher, in the mean, with its standard error: runs lie apart by chance, too.

    python -m benchmarks.bfloat16 --nr_filters=32 --nr_resnet=1
"""

import argparse
import itertools
import json
import statistics

from benchmarks.measuring import in_a_process
from pixel_snail import flags as command_line

STEPS = 200


def main() -> None:
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    command_line.add_model_flags(parser)
    parser.add_argument("--batch_size", type=command_line.positive_int, default=8)
    parser.add_argument("--seeds", type=command_line.positive_int, default=4)
    flags = parser.parse_args()
    if flags.seeds < 2:
        parser.error("--seeds: one run tells nothing of chance")
    learned = {
        kind: [in_a_process(learn, flags, kind == "bfloat16", seed) for seed in range(flags.seeds)]
        for kind in ("float32", "bfloat16")
    }
    result = {"steps": STEPS}
    for name in ("training", "test"):
        bits = {kind: [run[name] for run in runs] for kind, runs in learned.items()}
        higher = [b / a - 1 for a, b in zip(bits["float32"], bits["bfloat16"], strict=True)]
        stderr = statistics.stdev(higher) / len(higher) ** 0.5
        result[name] = bits | {"higher": round(statistics.mean(higher), 4), "stderr": round(stderr, 4)}
    print(json.dumps(result))


def learn(flags: argparse.Namespace, bfloat16: bool, dropout_seed: int) -> dict[str, float]:
    """The bits/dim that STEPS steps lead to."""
    import keras
    import numpy as np
    import tensorflow as tf

    import data
    from pixel_snail import devices, evaluation, logistic_mixture, progress, steps
    from pixel_snail.optimizer import PolyakAdam

    keras.utils.set_random_seed(0)
    data_set = data.data_sets["photos"](None)
    strategy = devices.strategy(1)
    model = evaluation.build_model(flags, data_set, dropout_p=0.5)
    epochs = (data.training_batches(data_set.train, flags.batch_size, 0, epoch) for epoch in itertools.count())
    batches = itertools.islice(itertools.chain.from_iterable(epochs), STEPS)
    (first,) = data.training_batches(data_set.train, flags.batch_size, 0, epoch=0).take(1)
    steps.initialise(model, *evaluation.network_inputs(first, None), seed=0)
    optimizer = PolyakAdam()
    optimizer.build(model.trainable_variables)
    step = steps.train_step(strategy, model, optimizer, None, dropout_seed, bfloat16=bfloat16)
    losses = [float(step(batch)) for batch in progress.bar(batches, desc="training", unit="step", total=STEPS)]
    bits = logistic_mixture.bits_per_dim(tf.constant(losses), data_set.image_shape, flags.batch_size)
    test_step = evaluation.test_step(strategy, model, lambda: model.trainable_variables, None)
    values = evaluation.per_value(test_step(), strategy, data_set.test, flags.batch_size)
    nats = evaluation.nats_per_channel(values).sum(1)
    return {
        "training": round(float(np.mean(bits[-20:])), 4),
        "test": round(float(logistic_mixture.bits_per_dim(nats, data_set.image_shape).mean()), 4),
    }


if __name__ == "__main__":
    main()
