"""Draws a contact sheet of a data set's training images: one row of ten images for each class.

python -m data.cifar10_plotdata --data_set=cifar --save_dir=.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import data
from pixel_snail.commands import command_line
from pixel_snail.dataset import Split
from pixel_snail.errors import counted
from pixel_snail.likelihoods.levels import from_values
from pixel_snail.reports import plotting
from pixel_snail.storage import files, values

IMAGES = 10
"""Images in a row. A row shows one class; without labels, there are at most as many rows."""


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses argv, by default the program's arguments. A mistake prints a line on stderr and exits with code 2."""
    parser = command_line.Parser(description=__doc__.splitlines()[0], prog="python -m data.cifar10_plotdata")
    command_line.add_data_flags(parser, data.data_sets)
    parser.add_argument("-o", "--save_dir", type=command_line.path, default=".", help="where the picture goes")
    return parser.parse_args(argv)


def plot(flags: argparse.Namespace) -> None:
    """Writes the contact sheet to --save_dir, as `<data set>_images.png`.

    Raises:
        UserError: the data set is missing or broken, or the picture can't be written or would become part of it.
    """
    files.check_writable(flags.save_dir, "save_dir")
    data.check_apart(flags)
    data_set = data.load(flags.data_set, Path(flags.data_dir), **data.options(flags))
    chosen = rows(data_set.train)
    path = Path(flags.save_dir, f"{flags.data_set}_images.png")
    images = from_values(values.rows(data_set.train.images, chosen), data_set.levels)
    files.write(path, lambda path: plotting.save_grid(images, path, columns=IMAGES))
    for note in data_set.notes:
        print(note)
    test = counted(len(data_set.test), "test image")
    print(f"{len(data_set.train):,} training and {test} from {data_set.source}: {path}")


def rows(split: Split) -> np.ndarray:
    """The indices of the images on the sheet, row by row.

    These are the first ten images of each class. Without labels, or if a class has fewer images, they are up to 100
    images evenly spaced over the split.
    """
    if split.labels is not None:
        rows = [np.flatnonzero(split.labels == label)[:IMAGES] for label in np.unique(split.labels)]
        if all(len(row) == IMAGES for row in rows):
            return np.concatenate(rows)
    return np.linspace(0, len(split) - 1, min(len(split), IMAGES**2)).round().astype(int)


if __name__ == "__main__":
    command_line.run(parse_flags, plot)
