"""Compares the networks with TensorFlow Probability's PixelCNN, a PixelCNN++.

Prints JSON lines and draws a picture:

- for each size and batch, the seconds of a training step and of an evaluation, and the peak memory of the program in
  training. The two networks take turns, each in a program of its own;
- for each size, the seconds that 8 images take to draw, and before that those of compiling. Ours draws them once while
  it compiles; in the peer's program, TensorFlow only traces the drawing;
- for each of three networks of one size, the bits/dim of test photographs during ten minutes of training each. The
  clock starts with the program and stops during tests; each network gets the same batches.

    python -m benchmarks.peers --picture=docs/peers.png     # 45 to 50 minutes
    python -m benchmarks.peers --minutes=0                  # without training
    python -m benchmarks.peers --grey                       # only timings, of grey images of 28 x 28
    python -m benchmarks.peers --grey --images=digits.npy   # the same with other images

With --grey, the settings are those of the peer's example for MNIST. In that example, its network has maps of two sizes,
and not of three as PixelCNN++. So both networks are measured with two sizes, and then with three: `sizes`.

The first call installs the packages of contest_tfp.txt into .venv-peers.
"""

import contextlib
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from benchmarks.contest import Contestant
from benchmarks.measuring import grey_photos, mistakes_reported
from benchmarks.training import in_turns
from data import photos
from pixel_snail.commands import command_line
from pixel_snail.errors import UserError
from pixel_snail.parallel import devices
from pixel_snail.storage import files, pictures

SIZES = (32, 64)
"""The numbers of filters of the compared networks."""

PIXEL_CNN_PP = {"model": "pxpp", "nr_resnet": 2, "nr_logistic_mix": 10, "resnet_nonlinearity": "concat_elu"}
PIXEL_SNAIL = {"model": "h12_noup_smallkey", "nr_resnet": 3, "nr_logistic_mix": 10, "resnet_nonlinearity": "elu"}

TRAINED = {
    "pxpp": (False, PIXEL_CNN_PP | {"nr_filters": 32}),
    "TFP PixelCNN": (True, PIXEL_CNN_PP | {"nr_filters": 32}),
    "h12_noup_smallkey": (False, PIXEL_SNAIL | {"nr_filters": 40}),
}
"""For each name: whether TensorFlow Probability's program trains it, and its settings. The numbers of parameters in use
are within 2% of each other."""

BATCH_SIZES = (8, 32)
DROPOUT = 0.5
DRAWN = 8

GREY = PIXEL_CNN_PP | {"nr_resnet": 1, "nr_filters": 32, "nr_logistic_mix": 5, "dropout_p": 0.3}
"""The settings of the example for MNIST in the documentation of tfp.distributions.PixelCNN, version 0.25."""

MAP_SIZES = (2, 3)
"""The numbers of sizes of maps that --grey measures: that of the example, and that of PixelCNN++."""

GREY_BATCH_SIZES = (8, 16, 32)
"""The batch sizes that --grey measures; that of the example is 16."""

INIT_BATCH_SIZE = 100
MINUTES = 10
IN_TRAINING = {"batch_size": 8, "dropout_p": 0.0, "polyak_decay": 0.99}
"""Without dropout, since the runs are short. With an average of the parameters over about 100 steps, because the
bits/dim of single steps scatter."""


def main() -> None:
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, help=f"of training, for each of three networks; without it, {MINUTES}")
    parser.add_argument("--seconds", type=float, default=30, help="of each timing")
    parser.add_argument("--picture", help="the PNG file of bits/dim over minutes")
    parser.add_argument("--grey", action="store_true", help="measure grey images of 28 x 28 instead, without training")
    parser.add_argument("--images", help="an .npy file of images for --grey, uint8 [N, 28, 28]; else photographs")
    flags = parser.parse_args()
    if flags.grey and (flags.picture or flags.minutes is not None):
        parser.error("--minutes and --picture are for the training, which --grey leaves out: leave them or --grey out")
    minutes = MINUTES if flags.minutes is None else flags.minutes
    if flags.images and not flags.grey:
        parser.error("--images is for --grey: add it")
    with mistakes_reported(parser):
        if flags.picture:
            files.check_file_writable(flags.picture, "picture")
        images = grey_images(flags.images) if flags.grey else photos.load()
    python = environment(Path(__file__).parents[1] / ".venv-peers", Path(__file__).with_name("contest_tfp.txt"))
    ours = functools.partial(Contestant, sys.executable, "benchmarks.contest_ours")
    peers = functools.partial(Contestant, python, "benchmarks.contest_tfp")
    print(json.dumps({"devices": devices.described(1)}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        images = save_images(folder, *images)
        if flags.grey:
            for sizes in MAP_SIZES:
                print_timings(ours, peers, GREY | images | {"sizes": sizes}, GREY_BATCH_SIZES, flags.seconds)
            return
        for nr_filters in SIZES:
            settings = PIXEL_CNN_PP | images | {"nr_filters": nr_filters, "dropout_p": DROPOUT}
            print_timings(ours, peers, settings, BATCH_SIZES, flags.seconds)
        curves = []
        for name, (is_the_peers, settings) in TRAINED.items() if minutes else ():
            settings = settings | images | IN_TRAINING
            curves.append(trained(name, peers if is_the_peers else ours, settings, minutes))
            print(json.dumps(curves[-1]), flush=True)
        if flags.picture and curves:
            draw_curves(curves, flags.picture)


def environment(folder: Path, requirements: Path) -> str:
    """The Python interpreter of an environment with the required packages; makes it unless it is there."""
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        say(f"installing the packages of {requirements.name} into {folder.name}: about a minute")
        venv.create(folder, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", requirements], check=True, stdout=sys.stderr)
        installed.write_text(requirements.read_text())
    return str(python)


def save_images(folder: str, train: np.ndarray, test: np.ndarray) -> dict[str, str]:
    """Writes images in a random order, the same on every machine, as files that every program reads."""
    files = {}
    for name, images in (("train", train), ("test", test)):
        files[name] = str(Path(folder) / f"{name}.npy")
        np.save(files[name], np.random.default_rng(0).permutation(images))
    return files


def grey_images(path: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Training and test images, uint8 [N, 28, 28, 1]: crops of photographs, or both those of an .npy file.

    Raises:
        UserError: the file can't be read, or has other images or too few.
    """
    if path is None:
        return grey_photos()
    images = pictures.read_npy(Path(path), path)
    most = max(GREY_BATCH_SIZES)
    if images.dtype != np.uint8 or images.shape[1:] not in ((28, 28), (28, 28, 1)) or len(images) < most:
        has = f"{images.dtype} {list(images.shape)}"
        raise UserError(f"{path} has {has}: give at least {most} grey images, uint8 [N, 28, 28]")
    images = images.reshape(-1, 28, 28, 1)
    return images, images


def print_timings(ours: Callable, peers: Callable, settings: dict, batch_sizes: Iterable[int], seconds: float) -> None:
    """Prints the results of `compared`, for each size of batch, and of `drawn`; the arguments are theirs."""
    for batch_size in batch_sizes:
        print(json.dumps(compared(ours, peers, settings | {"batch_size": batch_size}, seconds)), flush=True)
    print(json.dumps(drawn(ours, peers, settings | {"batch_size": DRAWN})), flush=True)


def compared(ours: Callable, peers: Callable, settings: dict, seconds: float) -> dict:
    """Measures training steps and evaluations of two networks with the same settings, in turns.

    Args:
        ours, peers: start a program with settings and return the Contestant.
        settings: those of both networks.
        seconds: how long to measure steps, and then evaluations, of both programs together.
    """
    size = _named(settings, "nr_filters", "batch_size")
    say(f"training steps and evaluations: {size}")
    with ours(settings) as our, peers(settings) as peer:
        both = (our, peer)
        for one in both:
            one.initialise(settings["batch_size"])
            one.step()  # compiles
        steps = in_turns([one.step for one in both], seconds)
        peaks = [one.peak_gb() for one in both]
        for one in both:
            one.prepare()
            one.evaluate()  # compiles
        evaluations = in_turns([one.evaluate for one in both], seconds)
        (our_parameters, _), (all_of_peer, used_by_peer) = [one.parameters() for one in both]
    return size | {
        "parameters": our_parameters,
        "peers_used_parameters": used_by_peer,
        "peers_parameters": all_of_peer,
        **_beside("step_seconds", map(statistics.median, zip(*steps, strict=True)), 4),
        **_beside("evaluation_seconds", map(statistics.median, zip(*evaluations, strict=True)), 4),
        **_beside("peak_gb", peaks, 2),
    }


def drawn(ours: Callable, peers: Callable, settings: dict, number: int = DRAWN, times: int = 1) -> dict:
    """Measures how long both take to draw.

    Args:
        ours, peers, settings: those of `compared`.
        number: the images that are drawn at once.
        times: how many times; the median counts.
    """
    say(f"drawing {number} images; the peer's program computes the whole network for every pixel")
    seconds, compiling = [], []
    for start in (ours, peers):
        with start(settings | {"to_draw": True}) as one:
            one.initialise(settings["batch_size"])
            compiling.append(round(one.compile_drawing(number), 2))
            seconds.append(statistics.median(one.draw(number) for _ in range(times)))
    return _named(settings, "nr_filters") | {
        "images": number,
        **_beside("drawing_seconds", seconds, 2),
        "compiling_seconds": compiling[0],
        "peers_compiling_seconds": compiling[1],
    }


def _named(settings, *names):
    """The settings that a result has: those of these names and, if it is given, the number of sizes of maps."""
    return {name: settings[name] for name in (*names, "sizes") if name in settings}


def _beside(name, values, digits):
    """Both values, rounded, and ours divided by the peer's."""
    our, peers = values
    return {name: round(our, digits), f"peers_{name}": round(peers, digits), f"{name}_ratio": round(our / peers, 4)}


def trained(name: str, start: Callable, settings: dict, minutes: float) -> dict:
    """Trains a network and returns its bits/dim over time; `start` as in `compared`."""
    say(f"training {name} for {minutes:g} minutes")
    with start(settings) as network:
        network.initialise(INIT_BATCH_SIZE)
        return _of_training(name, settings, network, network.train(minutes))


def trained_in_turns(trainings: dict[str, tuple[Callable, dict]], minutes: float, turn: float) -> list[dict]:
    """Trains several networks in turns, so that other programs on the machine slow all of them alike.

    Args:
        trainings: for each name, `start` and the settings of `trained`.
        minutes: of each training.
        turn: seconds of a turn.

    Returns:
        For each network, what `trained` returns.
    """
    say(f"training {', '.join(trainings)} in turns, for {minutes:g} minutes each")
    networks, results = {}, {}
    with contextlib.ExitStack() as programs:
        while len(results) < len(trainings):
            for name, (start, settings) in trainings.items():
                if name in results:
                    continue
                if name not in networks:
                    networks[name] = programs.enter_context(start(settings))
                    networks[name].initialise(INIT_BATCH_SIZE)
                if tested := networks[name].train(minutes, turn):
                    results[name] = _of_training(name, settings, networks[name], tested)
    return list(results.values())


def _of_training(name, settings, network, tested):
    """The result of a training from its tests, [(seconds, steps, bits/dim), ...]."""
    seconds, steps, bits = zip(*tested, strict=True)
    return {
        "network": name,
        **_named(settings, "nr_filters", "batch_size"),
        "used_parameters": network.parameters()[1],
        "is_causal": network.is_causal(),
        "steps": steps[-1],
        "bits_per_dim": round(bits[-1], 4),
        "seconds": seconds,
        "bits_per_dim_after": [round(value, 4) for value in bits],
    }


def draw_curves(curves: list[dict], path: str) -> None:
    """Writes a PNG: the bits/dim of each network over minutes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="minutes of training, compilation included", ylabel="bits/dim of test images")
    for curve in curves:
        minutes = np.array(curve["seconds"]) / 60
        label = f"{curve['network']}: {curve['bits_per_dim']:.3f}"
        axes.plot(minutes, curve["bits_per_dim_after"], "o-", ms=3, label=label)
    lowest, high = np.percentile([bits for curve in curves for bits in curve["bits_per_dim_after"]], [0, 90])
    axes.set_ylim(lowest - 0.1, high + 0.2)  # the first tests are far above the rest
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
