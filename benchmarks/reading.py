"""Measures by how much reading the images of a data set lengthens a training step, for each way of reading.

Small grey images of black and white are read in four ways: as an array in memory; memory-mapped, as the data set
`arrays` reads .npy files; reduced from 256 levels, as with --levels=2; and drawn from grey images, as with --binarize.
One network trains on each in turns, STEPS steps at a time. Prints a JSON line for each way: the seconds of a step,
reading included; `ratio`, the median over the turns of these seconds divided by those with the array in memory;
`quartiles`, the lower and the upper one of these ratios; the `input_seconds` of a batch, without training; and their
part in a step, `share`. Images are crops of photographs, repeated to the number of MNIST's.

    python -m benchmarks.reading                  # pxpp, F 32, batch 16: three minutes
    python -m benchmarks.reading --seconds=600    # steadier ratios
"""

import argparse
import functools
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import measuring
from benchmarks.process import timed
from benchmarks.training import in_turns
from pixel_snail.commands import command_line

STEPS = 25
"""Steps in a turn. While the others have their turns, two batches are read ahead, which take no time of the turn."""

IMAGES = 60_000
BATCHES = 1000
"""How many batches are read without training."""

SETTINGS = {
    "model": "pxpp",
    "nr_resnet": 1,
    "nr_filters": 32,
    "nr_logistic_mix": 5,
    "resnet_nonlinearity": "concat_elu",
    "image_size": 28,
    "channels": 1,
    "levels": 2,
}


def main() -> None:
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    command_line.add_network_flags(parser)
    parser.set_defaults(**SETTINGS)
    parser.add_argument("--batch_size", type=command_line.positive_int, default=16)
    parser.add_argument(
        "--seconds", type=command_line.non_negative_float, default=180, help="of all steps that are timed"
    )
    flags = parser.parse_args()
    measuring.check_network(parser, flags)
    with measuring.mistakes_reported(parser), tempfile.TemporaryDirectory() as folder:
        for result in measure(flags, Path(folder)):
            print(json.dumps(result), flush=True)


def measure(flags: argparse.Namespace, folder: Path, number: int = IMAGES) -> Iterator[dict]:
    """Measures the steps and the reading.

    Args:
        folder: an empty folder, for the images that are memory-mapped.
        number: of the images.
    """
    from pixel_snail import steps
    from pixel_snail.optimizer import PolyakAdam
    from pixel_snail.parallel import replicas

    strategy = replicas.strategy(1)
    network = measuring.network(flags, dropout_p=0.3)
    batches = {way: _batches(images, flags.batch_size, strategy) for way, images in ways(folder, number).items()}
    steps.initialise(network, next(batches["memory"]), seed=0)
    optimizer = PolyakAdam()
    optimizer.build(network.trainable_variables)
    step = steps.train_step(strategy, network, optimizer, seed=0)
    float(step(next(batches["memory"])))  # compiles

    def seconds_of_steps(of_way):
        return timed(lambda: [float(step(next(of_way))) for _ in range(STEPS)])

    ways_in_turns = [functools.partial(seconds_of_steps, of_way) for of_way in batches.values()]
    turns = np.array(in_turns(ways_in_turns, flags.seconds)) / STEPS
    for way, seconds, ratios in zip(batches, np.median(turns, 0), (turns / turns[:, :1]).T, strict=True):
        inputs = timed(lambda way=way: [next(batches[way]) for _ in range(BATCHES)]) / BATCHES
        yield {
            "images": way,
            "model": flags.model,
            "nr_filters": flags.nr_filters,
            "batch_size": flags.batch_size,
            "turns": len(turns),
            "step_seconds": round(seconds, 5),
            "ratio": round(np.median(ratios), 4),
            "quartiles": [round(quartile, 4) for quartile in np.quantile(ratios, [0.25, 0.75])],
            "input_seconds": round(inputs, 6),
            "share": round(inputs / seconds, 4),
        }


def ways(folder: Path, number: int) -> dict[str, object]:
    """The training images of each way: values of two levels, uint8 [number, 28, 28, 1]; arguments as in `measure`."""
    import data
    from pixel_snail.storage.reductions import Binarized, Reduced

    grey, _ = measuring.grey_photos()
    grey = np.resize(grey, (number, *grey.shape[1:]))
    black_and_white = grey // 128
    for split, images in (("train", black_and_white), ("test", black_and_white[:1])):
        np.save(folder / f"{split}.npy", images)
    return {
        "memory": black_and_white,
        "mapped": data.load("arrays", folder).train.images,
        "reduced": Reduced(grey, 2),
        "binarized": Binarized(grey),
    }


def _batches(images, batch_size, strategy):
    """The batches of all epochs, as a training reads them."""
    from pixel_snail.dataset import Split
    from pixel_snail.parallel import replicas
    from pixel_snail.parallel.batches import training_batches
    from pixel_snail.parallel.cluster import Cluster

    split = Split(images)
    for epoch in itertools.count():
        yield from replicas.batches(
            strategy, functools.partial(training_batches, split, batch_size, 0, epoch, 0), Cluster()
        )


if __name__ == "__main__":
    main()
