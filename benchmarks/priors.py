"""Compares two priors of a VQ-VAE's codes: a PixelSNAIL, and the PixelCNN of Keras's example of a VQ-VAE.

Prints JSON lines:

- for the batch size of each prior, the seconds of a training step and of an evaluation, and the peak memory of the
  program in training. The two networks take turns, each in a program of its own;
- the seconds that 100 maps take to draw, and before that those of compiling and of a first drawing;
- for each training, the nats a code of the test maps during some minutes. The trainings take turns too. A clock starts
  with the program, and stops during tests and the others' turns.

    python -m benchmarks.priors --codes=codes.npz --levels=128             # three trainings of three minutes
    python -m benchmarks.priors --codes=codes.npz --levels=128 --minutes=0 # without training

The file has the arrays `train` and `test`, integers [N, H, W] from 0 to levels - 1; train.py reads the same file. The
PixelCNN has the settings of the example. It is trained a second time with a learning rate that falls from
0.003 to 0.
"""

import functools
import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import peers
from benchmarks.contest import Contestant
from benchmarks.measuring import mistakes_reported
from data import arrays
from pixel_snail.commands import command_line
from pixel_snail.errors import UserError
from pixel_snail.parallel import devices

NETWORK = {
    "model": "h8_noup_smallkey",
    "nr_resnet": 1,
    "nr_filters": 64,
    "resnet_nonlinearity": "elu",
    "dropout_p": 0.0,
    "likelihood": "categorical",
}
"""The PixelSNAIL. The PixelCNN's sizes are in contest_pixelcnn.py."""

OURS = NETWORK | {"batch_size": 32, "learning_rate": 0.006, "lr_to_zero": True, "polyak_decay": 0.99}
PEERS = {"batch_size": 128}
"""The settings of the trainings; the second is that of the example.

As in the demo, the average is over about 100 steps. Three minutes are 2,000 steps on a busy machine: with an average
over 1,000 steps, the initial parameters would still have a weight of 13%.

The learning rates of the PixelSNAIL, and of the PixelCNN's second training, were chosen by short trainings, and by
2,000 of the training maps that these did not see: 0.006 among 0.001, 0.003, 0.006 and 0.01; 0.003 among 0.0003, 0.001
and 0.003.
"""

DRAWN, DRAWINGS = 100, 3
"""How many maps are drawn at once, and how many times; the median of these times counts."""

TURN = 10
"""Seconds of a training's turn."""


def main() -> None:
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--codes", type=Path, required=True, help="the .npz file of codes")
    parser.add_argument("--levels", type=command_line.levels, help="the size of the codebook; see train.py's --levels")
    parser.add_argument("--minutes", type=float, default=3, help="of each of the three trainings")
    parser.add_argument("--seconds", type=float, default=20, help="of each timing")
    flags = parser.parse_args()
    with mistakes_reported(parser):
        if not flags.codes.exists():
            raise UserError(f"there is no file {flags.codes}: --codes names the .npz file of codes")
        codes = arrays.load(flags.codes, flags.levels)
    print(json.dumps({"devices": devices.described(1), "processor": devices.processor().get("model name")}), flush=True)
    ours = functools.partial(Contestant, sys.executable, "benchmarks.contest_ours")
    peer = functools.partial(Contestant, sys.executable, "benchmarks.contest_pixelcnn")
    with tempfile.TemporaryDirectory() as folder:
        of_codes = peers.save_images(folder, codes.train.images[:], codes.test.images[:]) | {"levels": codes.levels}
        compare(ours, peer, of_codes, flags.seconds, flags.minutes)


def compare(ours: Callable, peer: Callable, codes: dict, seconds: float, minutes: float) -> None:
    """Prints a JSON line for each measurement.

    Args:
        ours, peer: start a program with settings and return the Contestant.
        codes: the settings "train", "test" and "levels" of both programs.
        seconds: of each timing.
        minutes: of each training; 0: none.
    """
    settings = NETWORK | codes
    for batch_size in (OURS["batch_size"], PEERS["batch_size"]):
        print_line(peers.compared(ours, peer, settings | {"batch_size": batch_size}, seconds))
    print_line(peers.drawn(ours, peer, settings | {"batch_size": DRAWN}, DRAWN, DRAWINGS))
    trainings = {
        "h8_noup_smallkey": (ours, codes | OURS),
        "PixelCNN": (peer, codes | PEERS),
        "PixelCNN, learning rate 0.003 to 0": (peer, codes | PEERS | {"learning_rate": 0.003, "lr_to_zero": True}),
    }
    for result in peers.trained_in_turns(trainings, minutes, TURN) if minutes else ():
        print_line(in_nats(result))


def in_nats(trained: dict) -> dict:
    """A result of peers.trained_in_turns with nats a code in place of bits/dim."""
    bits, after = trained.pop("bits_per_dim"), trained.pop("bits_per_dim_after")
    nats, *nats_after = (round(value * math.log(2), 4) for value in (bits, *after))
    return trained | {"nats_per_code": nats, "nats_per_code_after": nats_after}


def print_line(result: dict) -> None:
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
