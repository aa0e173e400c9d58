"""Draws a contact sheet of a data set's training images: ten of each class, a row a class.

python -m data.cifar10_plotdata --data_set=cifar --save_dir=.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import data
from pixel_snail import flags as command_line
from pixel_snail.reports import plotting
from pixel_snail.runs import folder as run_folder

IMAGES = 10
"""Of each class; of a set without labels, its square."""


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in argv, by default the program's; a mistake is told on stderr and exits with code 2."""
    parser = command_line.Parser(description=__doc__.splitlines()[0], prog="python -m data.cifar10_plotdata")
    command_line.add_data_flags(parser)
    parser.add_argument("-o", "--save_dir", default=".", help="where the picture goes")
    return parser.parse_args(argv)


def plot(flags: argparse.Namespace) -> None:
    """Writes `<data set>_images.png`.

    Raises:
        UserError: the data set is missing or broken, or the picture can't be written.
    """
    run_folder.check_writable(flags.save_dir)
    data_set = data.load(flags.data_set, Path(flags.data_dir), flags.image_size, flags.downsample)
    chosen = rows(data_set.train)
    path = Path(flags.save_dir, f"{flags.data_set}_images.png")
    images = data_set.train.images[chosen] / 127.5 - 1
    run_folder.write(path, lambda path: plotting.save_grid(images, path, columns=IMAGES))
    print(f"{len(data_set.train):,} training and {len(data_set.test):,} test images from {data_set.source}: {path}")


def rows(split: data.Split) -> np.ndarray:
    """The numbers of the images to show, those of a row together: of each class the first ones; without labels, and
    where a class has too few to fill a row, images evenly spaced over the split."""
    if split.labels is not None:
        rows = [np.flatnonzero(split.labels == label)[:IMAGES] for label in np.unique(split.labels)]
        if all(len(row) == IMAGES for row in rows):
            return np.concatenate(rows)
    return np.linspace(0, len(split) - 1, min(len(split), IMAGES**2)).round().astype(int)


if __name__ == "__main__":
    command_line.run(plot, parse_flags())
