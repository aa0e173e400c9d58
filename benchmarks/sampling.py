"""Compares sampling with caches to an evaluation of the same batch, and to the naive loop.

Prints a JSON line for each network and batch, measured in a process of its own: the seconds to compile, to draw the
batch, and to evaluate it once; the ratio of drawing to evaluating; and the seconds of the naive loop, which computes
the whole network for each pixel (extrapolated from a few pixels).

    python -m benchmarks.sampling                                   # F 32, 64, 256; batches of 1, 8, 32
    python -m benchmarks.sampling --nr_filters=64 --batch_size=8    # one
    python -m benchmarks.sampling --image_size=28 --channels=1 --levels=2  # other images
    python -m benchmarks.sampling --workers                         # 64 images, with one worker and with all
    python -m benchmarks.sampling --workers --nr_filters=256 --runs=1  # one drawing in place of the median of five

With --workers, it prints instead the images a second of MANY images, in batches of 8, with one worker and with as many
as there are cores. `one_core` has the images a second of a program that may use one core only.
"""

import argparse
import functools
import itertools
import os
import statistics

from benchmarks.measuring import (
    check_network,
    described,
    device_peak_gb,
    flags_of_networks,
    in_a_process,
    initialised_network,
    measure_each,
    random_images,
)
from benchmarks.process import timed
from pixel_snail.commands import command_line
from pixel_snail.parallel import devices

NAIVE_PIXELS = 4
MANY, RUNS = 64, 5


def main() -> None:
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    flags_of_networks(parser)
    parser.add_argument("--workers", action="store_true", help=f"draw {MANY} images with one worker and with all")
    parser.add_argument(
        "--runs", type=command_line.positive_int, default=RUNS, help="a figure is the median of so many"
    )
    flags = parser.parse_args()
    check_network(parser, flags)
    if flags.workers:
        measure_each(flags, by_workers, batches=[8])
    else:
        measure_each(flags, functools.partial(measure, runs=flags.runs), batches=[1, 8, 32])


def by_workers(flags: argparse.Namespace) -> dict:
    """The images a second of a drawing of MANY images, by the number of workers."""
    on_one_core = in_a_process(_images_a_second, flags, 1)
    one, every = in_a_process(_images_a_second, flags, None)
    return {
        **described(flags),
        "images": MANY,
        "cores": devices.number_of_cores(),
        "one_core": round(on_one_core[0], 2),
        "one_worker": round(one, 2),
        "all_workers": round(every, 2),
        "gain": round(every / one, 2),
        "gain_over_one_core": round(every / on_one_core[0], 2),
    }


def _images_a_second(flags, cores):
    """With one worker, then with all: medians of flags.runs drawings that alternate. `cores`: how many it may use."""
    if cores:
        os.sched_setaffinity(0, set(itertools.islice(os.sched_getaffinity(0), cores)))
    from pixel_snail import sampling
    from pixel_snail.weights import normalised_weights

    model = initialised_network(flags)
    weights = normalised_weights(model, model.trainable_variables)
    draw = sampling.drawer(model)
    draw(weights, 1, 0, verbose=0)  # compiles
    numbers = (1, None) if devices.number_of_cores() > 1 else (1,)

    def seconds(workers):
        return timed(lambda: draw(weights, MANY, 0, workers=workers, verbose=0))

    runs = [[seconds(workers) for workers in numbers] for _ in range(flags.runs)]
    return [MANY / statistics.median(of_one) for of_one in zip(*runs, strict=True)]


def measure(flags: argparse.Namespace, runs: int = RUNS) -> dict:
    from benchmarks.plain import naive_sampler
    from pixel_snail import sampling, steps
    from pixel_snail.backend import tf
    from pixel_snail.likelihoods.named import likelihoods
    from pixel_snail.parallel import replicas
    from pixel_snail.weights import normalised_weights

    replicas.strategy(1, in_micro_batches=False)
    batch = flags.batch_size
    model = initialised_network(flags)
    shape, levels = model.description.image_shape, model.description.levels
    likelihood = likelihoods[model.description.likelihood]
    x, _ = steps.network_inputs({"images": random_images(flags, batch)}, model.description)
    weights = normalised_weights(model, model.trainable_variables)
    uniforms = sampling.uniforms(0, 0, batch, shape, model.description.drawn_components)
    draw = sampling.batch_drawer(model, batch)
    first = timed(lambda: draw(weights, *uniforms))
    seconds = statistics.median(timed(lambda: draw(weights, *uniforms)) for _ in range(runs))
    peak = device_peak_gb()  # the peak of sampling: evaluating a large batch takes more

    evaluate = tf.function(lambda x: likelihood.loss_per_image(x, model(x), levels), autograph=False)
    evaluate(x)
    evaluation = statistics.median(timed(lambda: evaluate(x).numpy()) for _ in range(runs))

    # The naive loop draws one row of NAIVE_PIXELS pixels, and computes the network for a whole image at each of them.
    naive = naive_sampler(
        lambda x, h: model(tf.pad(x, rest))[:, :1, :NAIVE_PIXELS],
        levels=model.description.drawn_levels,
        codes=model.codes,
    )
    rest = [[0, 0], [0, shape[0] - 1], [0, shape[1] - NAIVE_PIXELS], [0, 0]]
    few = [u[:, :1, :NAIVE_PIXELS] for u in uniforms]
    naive(*few)
    naive_seconds = timed(lambda: naive(*few)) / NAIVE_PIXELS * shape[0] * shape[1]
    return {
        **described(flags),
        "compile_seconds": round(first - seconds, 1),
        "sampling_seconds": round(seconds, 2),
        "evaluation_seconds": round(evaluation, 3),
        "ratio": round(seconds / evaluation, 2),
        "naive_seconds": round(naive_seconds, 1),
        "naive_pixels_measured": NAIVE_PIXELS,
        "peak_gb": peak,
    }


if __name__ == "__main__":
    main()
