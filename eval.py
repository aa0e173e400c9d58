"""Evaluates a checkpoint on the whole test set, in bits/dim, and draws samples from it."""

import argparse
from collections.abc import Sequence

from pixel_snail import evaluation
from pixel_snail import flags as command_line


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in argv, by default the program's; a mistake is told on stderr and exits with code 2."""
    parser = command_line.Parser(description=__doc__, prog="eval.py")
    # What is not given, the folder of the checkpoint's run tells.
    command_line.add_data_flags(parser, defaults=False)
    command_line.add_model_flags(parser, defaults=False)
    command_line.add_run_flags(parser)
    add = parser.add_argument
    add("-r", "--load_params", metavar="PREFIX", required=True, help="the checkpoint, or a folder: its newest one")
    add("--raw", action="store_true", help="use the parameters themselves, not their running average")
    add("--json", metavar="PATH", help="write the result there")
    add("--nr_samples", type=command_line.non_negative_int, default=0, help="images to draw, into --save_dir")
    add(
        "--classes", type=class_list, help="of a conditional network: which to draw, as 0,3,5; default: all, a row each"
    )
    add("-o", "--save_dir", help="where the samples go")
    flags = parser.parse_args(argv)
    if flags.nr_samples and not flags.save_dir:
        parser.error("--nr_samples needs --save_dir, the folder for the samples")
    return flags


def class_list(text: str) -> list[int]:
    """The type of --classes."""
    return [command_line.non_negative_int(number) for number in text.split(",")]


if __name__ == "__main__":
    command_line.run(evaluation.evaluate, parse_flags())
