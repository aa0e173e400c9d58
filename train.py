"""Trains a PixelSNAIL: `python train.py --help` lists the flags, which are the original's."""

import argparse
import functools
from collections.abc import Sequence
from typing import NoReturn

import data
from pixel_snail import flags as command_line
from pixel_snail import training
from pixel_snail.reports import comparisons


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in argv, by default the program's; a mistake is told on stderr and exits with code 2."""
    parser = command_line.Parser(description=__doc__, prog="train.py")
    command_line.add_data_flags(parser, data.data_sets)
    command_line.add_model_flags(parser)
    command_line.add_run_flags(parser)
    command_line.add_step_flags(parser)
    add = parser.add_argument
    add("--paper", choices=comparisons.runs, help="all flags of the paper's run on it; flags given beside it win")
    add("-o", "--save_dir", default="./data/save", help="the run's folder is made in it")
    add("-t", "--save_interval", type=command_line.positive_int, default=10, help="epochs between checkpoints")
    add("--save_minutes", type=command_line.non_negative_float, default=15, help="most minutes between them; 0: any")
    add("--keep", type=command_line.non_negative_int, default=3, help="newest checkpoints, beside the best; 0: all")
    add("-r", "--load_params", metavar="PREFIX", help="a checkpoint to go on from, or a run's folder")
    add("--resume", action="store_true", help="go on with the newest run of the same flags in --save_dir, if any")
    add("--skip_nonfinite", type=command_line.non_negative_int, default=0, help="batches that may be passed over")
    add("-l", "--learning_rate", type=command_line.positive_float, default=1e-3, help="of the first step")
    add("-e", "--lr_decay", type=command_line.positive_float, default=0.999998, help="multiplies the rate at each step")
    add("-a", "--init_batch_size", type=command_line.positive_int, default=8, help="of the initialisation")
    add("-p", "--dropout_p", type=command_line.probability, default=0.5, help="the probability of zeroing an element")
    add("-x", "--max_epochs", type=command_line.positive_int, default=5000, help="of the whole run")
    add("--max_minutes", type=command_line.positive_float, help="stop training, then test and save, after so long")
    add("--sample_interval", type=command_line.non_negative_int, default=1, help="epochs between samples; 0: none")
    add("--polyak_decay", type=command_line.probability, default=0.9995, help="of the parameters' running average")
    add("--average_machines", action="store_true", help="average gradients over machines, as the original; else: sum")
    flags = parser.parse_args(argv)
    if flags.paper:
        parser.set_defaults(**comparisons.runs[flags.paper])
        flags = parser.parse_args(argv)
    return flags


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Trains as the flags say, and exits."""
    command_line.run(functools.partial(training.train, load_data=data.from_flags), parse_flags(argv))


if __name__ == "__main__":
    main()
