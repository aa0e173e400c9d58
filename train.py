"""Trains a PixelSNAIL. The flags are the original's and some more: docs/command_line.md says which."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

if getattr(sys.flags, "safe_path", False):  # python -P, PYTHONSAFEPATH=1: Python leaves out the program's folder
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

# isort: split
import data
from pixel_snail.commands import command_line
from pixel_snail.reports import comparisons
from pixel_snail.settings import CONDITION_RESNET, TrainingSettings


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in argv, by default the program's; a mistake prints one line on stderr and exits with code 2."""
    parser = command_line.Parser(description=__doc__, prog="train.py")
    command_line.add_data_flags(parser, data.data_sets)
    command_line.add_model_flags(parser)
    command_line.add_run_flags(parser)
    command_line.add_step_flags(parser)
    add = parser.add_argument
    add(
        "--paper",
        choices=comparisons.paper_flags,
        help="the paper's flags for this data set; flags that you also give win",
    )
    add(
        "-o",
        "--save_dir",
        type=command_line.path,
        default="./data/save",
        help="the folder in which the run's folder is made",
    )
    add(
        "-t",
        "--save_interval",
        type=command_line.positive_int,
        default=10,
        help="a checkpoint after each epoch that is a multiple of it",
    )
    add(
        "--save_minutes",
        type=command_line.non_negative_float,
        default=15,
        help="at most this many minutes between checkpoints; 0: no limit",
    )
    add(
        "--keep",
        type=command_line.non_negative_int,
        default=3,
        help="how many of the newest checkpoints stay, besides the best; 0: all",
    )
    add(
        "-r",
        "--load_params",
        metavar="PREFIX",
        type=command_line.path,
        help="start from this checkpoint: its prefix, one of its files, or a folder",
    )
    add(
        "--init_from",
        metavar="PREFIX",
        type=command_line.path,
        help="begin with the averaged parameters of this checkpoint, also of another data set, size, levels or classes",
    )
    add("--raw", action="store_true", help="with --init_from: the parameters themselves, not their average")
    add("--resume", action="store_true", help="go on with the newest run of the same flags in --save_dir, if any")
    add("--new_run", action="store_true", help="with --resume: begin a new run beside runs of other flags")
    add(
        "--skip_nonfinite",
        type=command_line.non_negative_int,
        default=TrainingSettings.skip_nonfinite,
        help="batches with a non-finite loss or gradient to pass over",
    )
    add(
        "-l",
        "--learning_rate",
        type=command_line.positive_float,
        default=TrainingSettings.learning_rate,
        help="the learning rate before any decay",
    )
    add(
        "-e",
        "--lr_decay",
        type=command_line.positive_float,
        default=TrainingSettings.lr_decay,
        help="factor of the rate, applied before every step",
    )
    add(
        "--lr_to_zero",
        action="store_true",
        help="lower the learning rate to 0 by the end of the run: of its epochs, or of the minutes of all its starts",
    )
    add(
        "--muon",
        action="store_true",
        help="update the directions of weight-normalised layers by Muon instead of Adam: learns more in each step",
    )
    add(
        "-a",
        "--init_batch_size",
        type=command_line.positive_int,
        default=TrainingSettings.init_batch_size,
        help="images of the data-dependent initialisation",
    )
    add(
        "--mutation_rate",
        type=command_line.closed_probability,
        default=0.0,
        help="the probability of replacing a value of the training images by a random one, for a background model",
    )
    add("-p", "--dropout_p", type=command_line.probability, default=0.5, help="the probability of zeroing an element")
    add(
        "--condition_resnet",
        type=command_line.non_negative_int,
        default=CONDITION_RESNET,
        help="residual blocks that the map of a condition goes through; 0: none",
    )
    add(
        "--condition_levels",
        type=command_line.levels,
        help="how many codes a condition of codes can have; without it, one more than the largest in the data set",
    )
    add("-x", "--max_epochs", type=command_line.positive_int, default=5000, help="epochs of the whole run")
    add(
        "--max_minutes",
        type=command_line.positive_float,
        help="train this many minutes from the end of the first step, then test and save",
    )
    add(
        "--sample_interval",
        type=command_line.non_negative_int,
        default=1,
        help="samples after each epoch that is a multiple of it; 0: none",
    )
    add(
        "--polyak_decay",
        type=command_line.probability,
        default=TrainingSettings.polyak_decay,
        help="decay of the parameters' Polyak average",
    )
    add(
        "--average_machines",
        action="store_true",
        help="average gradients over machines, as the original does, instead of summing them",
    )
    flags = parser.parse_args(argv)
    if flags.paper:
        parser.set_defaults(**comparisons.paper_flags[flags.paper])
        flags = parser.parse_args(argv)
    if flags.raw and not flags.init_from:
        parser.error("--raw is for --init_from")
    if flags.load_params and flags.init_from:
        parser.error(
            "--load_params goes on with a run, --init_from begins one with another run's parameters: drop one of them"
        )
    return flags


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Trains as the flags say, and exits."""

    def train(flags):
        command_line.check_paths(flags)
        data.check_paths(flags)
        # Imports TensorFlow, which takes seconds: wrong flags are reported before.
        from pixel_snail.commands import training

        training.train(flags, load_data=data.from_flags)

    command_line.run(parse_flags, train, argv)


if __name__ == "__main__":
    main()
