"""Helpers of the benchmarks: separate processes, memory of a device, the network of the flags, and images."""

import argparse
import concurrent.futures
import contextlib
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.process import peak_gb
from data import photos
from pixel_snail.commands import command_line
from pixel_snail.errors import UserError, options_named_as_flags
from pixel_snail.likelihoods.levels import dtype_of
from pixel_snail.network import Network
from pixel_snail.settings import NETWORK_DEFAULTS
from pixel_snail.storage import pictures

IMAGES = {"image_size": 32, "channels": 3, "levels": 256}
"""The images that are measured without the flags of these names: 32 x 32, 8-bit RGB."""


def new_process(**settings) -> concurrent.futures.Executor:
    """An executor that calls functions in one new process; settings are ProcessPoolExecutor's.

    On a GPU, the process takes memory as it needs it. By default, it would take all, and nothing would be left for
    another process that it is compared with.
    """
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # the process inherits it
    return concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), **settings)


def in_a_process(function: Callable, *arguments) -> object:
    """Returns function(*arguments), computed in a new process, whose memory nothing else has used."""
    with new_process() as process:
        return process.submit(function, *arguments).result()


def device_peak_gb() -> float:
    """The peak memory in GB that TensorFlow has used on the first GPU; without a GPU, that of this process."""
    from pixel_snail.backend import tf
    from pixel_snail.parallel import devices

    if not devices.number_of_gpus():
        return peak_gb()
    return round(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e9, 2)


def flags_of_networks(parser: command_line.Parser) -> None:
    """Adds the flags of one network, batch and size; without --nr_filters and --batch_size, several are measured."""
    command_line.add_network_flags(parser)
    parser.set_defaults(nr_filters=None)
    parser.add_argument("--batch_size", type=command_line.positive_int)
    flags_of_images(parser)


def flags_of_images(parser: command_line.Parser) -> None:
    """Adds the flags of the images, which are square; the defaults are those of IMAGES."""
    for name, default in IMAGES.items():
        parser.add_argument(f"--{name}", type=command_line.positive_int, default=default)


def described(flags: argparse.Namespace) -> dict:
    """The network and the images of a result, for its JSON line."""
    names = ("model", "nr_filters", "batch_size", "image_size", "channels", "levels", "likelihood")
    return {name: getattr(flags, name) for name in names}


def random_images(flags: argparse.Namespace, number: int) -> np.ndarray:
    """Images of uniform random values, [number, H, W, C], the same on every machine."""
    shape = (number, flags.image_size, flags.image_size, flags.channels)
    return np.random.default_rng(0).integers(0, flags.levels, shape, dtype_of(flags.levels))


def grey_photos() -> tuple[np.ndarray, np.ndarray]:
    """The training and the test crops of the data set `photos` as grey images of MNIST's size, uint8 [N, 28, 28, 1]."""
    return tuple(pictures.grey(crops[:, 2:30, 2:30]) for crops in photos.load())


@contextlib.contextmanager
def mistakes_reported(parser: command_line.Parser) -> Iterator[None]:
    """Within it, a UserError ends the program with one line on stderr and code 2."""
    try:
        yield
    except UserError as error:
        parser.error(str(error))


def check_network(parser: command_line.Parser, flags: argparse.Namespace) -> None:
    """Ends the program, as `mistakes_reported` does, if no network can be built from the flags."""
    with mistakes_reported(parser):
        in_a_process(_build, flags)


def _build(flags):
    with options_named_as_flags():
        network(argparse.Namespace(**vars(flags) | {"nr_filters": flags.nr_filters or 32}))


def measure_each(flags: argparse.Namespace, measure: Callable[[argparse.Namespace], dict], batches: list[int]) -> None:
    """Prints measure(flags) as JSON, in a process of its own, for each network and batch that the flags ask for.

    Args:
        batches: the sizes of batches without --batch_size. Without --nr_filters, F is 32, 64 and 256.
    """
    filters = [flags.nr_filters] if flags.nr_filters else [32, 64, 256]
    batches = [flags.batch_size] if flags.batch_size else batches
    for flags.nr_filters, flags.batch_size in itertools.product(filters, batches):
        print(json.dumps(in_a_process(measure, flags)), flush=True)


def network(flags: argparse.Namespace, dropout_p: float = 0.0) -> Network:
    """The network that the flags describe, for images of `flags_of_images`."""
    from pixel_snail import model

    settings = {name: getattr(flags, name) for name in NETWORK_DEFAULTS}
    image_shape = (flags.image_size, flags.image_size, flags.channels)
    return model.build_network(**settings, image_shape=image_shape, levels=flags.levels, dropout_p=dropout_p)


def initialised_network(flags: argparse.Namespace) -> Network:
    """`network`, initialised on two random images, without dropout."""
    from pixel_snail.steps import network_inputs
    from pixel_snail.weights import data_dependent_initialisation

    made = network(flags)
    x, _ = network_inputs({"images": random_images(flags, 2)}, made.description)
    with data_dependent_initialisation():
        made(x)
    return made
