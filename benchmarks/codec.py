"""Compares compression and decompression to drawing as many images, in one process.

Prints a JSON line for each network and batch: the seconds to draw a batch, to encode it and to decode it (medians of
runs that alternate); their ratios to drawing; the speeds in kB of values a second; and the seconds of compilation.

    python -m benchmarks.codec                                   # F 32, 64, 256; batches of 8, 32
    python -m benchmarks.codec --nr_filters=64 --batch_size=8    # one
    python -m benchmarks.codec --image_size=28 --channels=1 --levels=2  # other images
    python -m benchmarks.codec --workers                         # 64 images, with one worker and with all
    python -m benchmarks.codec --workers --nr_filters=256 --runs=1  # each once, in place of the median of three
    python -m benchmarks.codec --load_params=data/save/demo      # the parts of a file of the test set, in bits

With --workers, it prints instead the images a second of compressing and decompressing MANY images, in batches of 8,
with one worker and with as many as there are cores.

With --load_params, it prints instead, for the test set of --data_set, in bits/dim: the likelihood; the codec's
probabilities before they are rounded; after; the streams; the whole file. Beside them: the same images as PNG and WebP
files without loss, a file for each, and 8-bit RGB also as JPEG XL files. It also prints what share of the values would
take more than 24 bits by the likelihood, and how far the likelihood's probabilities of all levels are from summing to
one.
"""

import argparse
import functools
import json
import statistics

from benchmarks.measuring import (
    check_network,
    described,
    flags_of_networks,
    in_a_process,
    initialised_network,
    measure_each,
    mistakes_reported,
    random_images,
)
from benchmarks.process import peak_gb, timed
from pixel_snail.commands import command_line
from pixel_snail.parallel import devices

MANY, RUNS = 64, 3


def main() -> None:
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    flags_of_networks(parser)
    parser.add_argument("--workers", action="store_true", help=f"code {MANY} images with one worker and with all")
    parser.add_argument(
        "--runs", type=command_line.positive_int, default=RUNS, help="a figure is the median of so many"
    )
    parser.add_argument("-r", "--load_params", type=command_line.path)
    parser.add_argument("--data_set", default="photos")
    flags = parser.parse_args()
    if flags.load_params:
        with mistakes_reported(parser):
            print(json.dumps(in_a_process(composition, flags)), flush=True)
        return
    check_network(parser, flags)
    if flags.workers:
        measure_each(flags, by_workers, batches=[8])
    else:
        measure_each(flags, speed, batches=[8, 32])


def by_workers(flags: argparse.Namespace) -> dict:
    """The images a second of compressing and decompressing MANY images, by the number of workers."""
    from pixel_snail.codec import container
    from pixel_snail.codec.archive import Archiver

    archiver, images = Archiver(initialised_network(flags)), random_images(flags, MANY)

    def compress(workers):
        return archiver.compress(images, batch_size=flags.batch_size, verify=False, workers=workers, verbose=0)

    file = container.read(compress(None))  # compiles
    tasks = {
        "compressing": compress,
        "decompressing": lambda workers: list(archiver.decompress(*file, workers=workers, verbose=0)),
    }
    result = {**described(flags), "images": MANY, "cores": devices.number_of_cores()}
    for name, task in tasks.items():
        runs = [[timed(functools.partial(task, n)) for n in (1, None)] for _ in range(flags.runs)]
        one, every = (MANY / statistics.median(of_one) for of_one in zip(*runs, strict=True))
        result |= {f"{name}_one_worker": round(one, 2), f"{name}_all_workers": round(every, 2)}
        result |= {f"{name}_gain": round(every / one, 2)}
    return result


def speed(flags: argparse.Namespace) -> dict:
    import numpy as np

    from pixel_snail import sampling
    from pixel_snail.codec.coder import ImageCoder
    from pixel_snail.weights import normalised_weights

    batch = flags.batch_size
    model, images = initialised_network(flags), random_images(flags, batch)
    shape = model.description.image_shape
    weights = normalised_weights(model, model.trainable_variables)
    uniforms = sampling.uniforms(0, 0, batch, shape, model.description.drawn_components)
    draw, coder = sampling.batch_drawer(model, batch), ImageCoder(model, batch)
    draw(weights, *uniforms)
    first = timed(lambda: coder.encode(weights, images))
    stream = coder.encode(weights, images)
    assert np.array_equal(coder.decode(weights, stream), images)
    tasks = {
        "drawing": lambda: draw(weights, *uniforms),
        "encoding": lambda: coder.encode(weights, images),
        "decoding": lambda: coder.decode(weights, stream),
    }
    runs = [{name: timed(task) for name, task in tasks.items()} for _ in range(flags.runs)]
    seconds = {name: statistics.median(run[name] for run in runs) for name in tasks}
    return {
        **described(flags),
        "compile_seconds": round(first - seconds["encoding"], 1),
        **{f"{name}_seconds": round(value, 2) for name, value in seconds.items()},
        "encoding_ratio": round(seconds["encoding"] / seconds["drawing"], 3),
        "decoding_ratio": round(seconds["decoding"] / seconds["drawing"], 3),
        "encoding_kb_per_s": round(images.nbytes / 1000 / seconds["encoding"], 2),
        "decoding_kb_per_s": round(images.nbytes / 1000 / seconds["decoding"], 2),
        "peak_gb": peak_gb(),
    }


def composition(flags: argparse.Namespace) -> dict:
    import numpy as np

    import data
    import pixel_snail
    from pixel_snail.backend import tf
    from pixel_snail.codec import container, range_coder
    from pixel_snail.likelihoods import logistic_mixture
    from pixel_snail.likelihoods.levels import is_8_bit_rgb, scaled
    from pixel_snail.reports import comparisons
    from pixel_snail.steps import network_inputs

    model = pixel_snail.load(flags.load_params)
    images = data.load(flags.data_set, None).test.images[:]
    channels, levels = model.image_shape[2], model.levels
    every_value = scaled(tf.range(levels, dtype=tf.float32), levels)[:, None]

    @tf.function(autograph=False)
    def sums_over(images):
        """Sums over the values of a batch, by the names of their means in the result."""
        x, _ = network_inputs({"images": images}, model.network.description)
        outputs = model.network(x)
        known, log_likelihood, of_channels = x[..., :0], 0.0, []
        for channel in range(channels):
            logits, mean, log_scale = logistic_mixture.next_channel(outputs, known, channels, levels)
            log_prob = logistic_mixture.logistic_log_prob(x[..., channel, None], mean, log_scale, levels)
            log_weights = tf.nn.log_softmax(logits + log_likelihood)
            likelihood = -tf.reduce_logsumexp(log_weights + log_prob, -1)
            cumulative = range_coder.cumulative_frequencies(
                logistic_mixture.probabilities_below(logits + log_likelihood, mean, log_scale, levels)
            )
            value = tf.cast(images[..., channel], tf.int32)
            rank = value.shape.rank
            lower, upper = (tf.gather(cumulative, (value + end)[..., None], batch_dims=rank)[..., 0] for end in (0, 1))
            coded = range_coder.BITS - tf.math.log(tf.cast(upper - lower, tf.float32)) / np.log(2)
            exact = _mass(log_weights, mean, log_scale, value, levels)
            sums = tf.reduce_sum(
                tf.exp(
                    tf.reduce_logsumexp(
                        log_weights[..., None, :]
                        + logistic_mixture.logistic_log_prob(
                            every_value, mean[..., None, :], log_scale[..., None, :], levels
                        ),
                        -1,
                    )
                ),
                -1,
            )
            of_values = {
                "likelihood": likelihood / np.log(2),
                "exact_masses": -tf.math.log(exact) / np.log(2),
                "frequencies": coded,
                "values_beyond_24_bits": likelihood / np.log(2) > range_coder.BITS,
                "mean_of_sum_minus_one": sums - 1,
                "mean_absolute_sum_minus_one": tf.abs(sums - 1),
            }
            of_channels.append({name: tf.reduce_sum(tf.cast(of, tf.float64)) for name, of in of_values.items()})
            known = x[..., : channel + 1]
            log_likelihood += log_prob
        return tf.nest.map_structure(lambda *channels: tf.add_n(channels), *of_channels)

    of_batches = [sums_over(images[i : i + 4]) for i in range(0, len(images), 4)]
    means = tf.nest.map_structure(lambda *sums: float(tf.add_n(sums)) / images.size, *of_batches)
    file = model.compress(images, verify=False)
    _, groups = container.read(file)
    streams = sum(len(group.stream) for group in groups)
    rows = {
        **{name: means.pop(name) for name in ("likelihood", "exact_masses", "frequencies")},
        "streams": 8 * streams / images.size,
        "file": 8 * len(file) / images.size,
    }
    files = comparisons.files_bits_per_dim(images, levels)
    if is_8_bit_rgb(channels, levels):
        files["JPEG XL"] = _jpeg_xl_bits_per_dim(images)
    return {
        "images": len(images),
        **{name: round(value, 6) for name, value in rows.items()},
        **{
            f"{name}_above_likelihood": f"{100 * (rows[name] / rows['likelihood'] - 1):.4f} %"
            for name in list(rows)[1:]
        },
        **{name: round(bits, 6) for name, bits in files.items()},
        **means,
        "file_bytes": len(file),
        "stream_bytes": streams,
        "groups": len(groups),
    }


def _jpeg_xl_bits_per_dim(images):
    """Bits/dim of lossless JPEG XL files, one for each image, at the strongest compression."""
    import imagecodecs
    import numpy as np

    sizes = []
    for image in images:
        file = imagecodecs.jpegxl_encode(image, lossless=True, effort=10)
        assert np.array_equal(imagecodecs.jpegxl_decode(file), image)
        sizes.append(len(file))
    return 8 * sum(sizes) / images.size


def _mass(log_weights, mean, log_scale, value, levels):
    """The exact probability of values, in float64: the mixture's mass between the borders of a value's interval."""
    import numpy as np

    from pixel_snail.backend import tf

    scale, mean, value = tf.exp(-tf.cast(log_scale, tf.float64)), tf.cast(mean, tf.float64), value[..., None]
    border = (2 * tf.cast(value, tf.float64) - levels) / (levels - 1)
    infinite = tf.constant(np.inf, tf.float64)
    lower = tf.where(value == 0, -infinite, scale * (border - mean))
    upper = tf.where(value == levels - 1, infinite, scale * (border + 2 / (levels - 1) - mean))
    # Of two borders above the mean, the masses above them are subtracted: those below are too close to one.
    mirrored = lower > 0
    low, high = tf.where(mirrored, -upper, lower), tf.where(mirrored, -lower, upper)
    mass = tf.sigmoid(high) - tf.sigmoid(low)
    weights = tf.nn.softmax(tf.cast(log_weights, tf.float64))
    return tf.maximum(tf.reduce_sum(weights * mass, -1), 1e-300)


if __name__ == "__main__":
    main()
