"""Evaluates a checkpoint on the whole test set, in bits/dim, and draws samples from it."""

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

if getattr(sys.flags, "safe_path", False):  # python -P, PYTHONSAFEPATH=1: Python leaves out the program's folder
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

# isort: split
import data
from pixel_snail.commands import command_line


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in argv, by default the program's; a mistake prints one line on stderr and exits with code 2."""
    parser = command_line.Parser(description=__doc__, prog="eval.py")
    # Flags that are not given are read from the checkpoint and its run.
    command_line.add_data_flags(parser, data.data_sets, defaults=False)
    command_line.add_model_flags(parser, defaults=False)
    command_line.add_run_flags(parser)
    add = parser.add_argument
    add(
        "-r",
        "--load_params",
        metavar="PREFIX",
        type=command_line.path,
        required=True,
        help="the checkpoint, or a folder: its newest one",
    )
    add("--raw", action="store_true", help="use the parameters themselves, not their running average")
    add("--json", metavar="PATH", type=command_line.path, help="write the result there")
    add(
        "--compress",
        metavar="FILE",
        type=command_line.path,
        help="also write the test images there, compressed without loss, and read them back",
    )
    add(
        "--nr_samples",
        type=command_line.non_negative_int,
        default=0,
        help="how many images to draw; with --complete, completions of each image, without it 4",
    )
    add(
        "--classes",
        type=lambda text: text.split(","),
        help="classes to draw, such as 0,3,5 or cat,dog, a row each, without it all; with --complete, the images'",
    )
    add(
        "--complete",
        metavar="IMAGES",
        type=command_line.path,
        help="a picture or .npy file of images whose lower rows, or pixels outside of --mask, are drawn again",
    )
    add("--keep_rows", type=command_line.positive_int, help="with --complete: how many rows stay; without it half")
    add(
        "--mask",
        metavar="FILE",
        type=command_line.path,
        help="with --complete: a picture or .npy file, white or True where a pixel stays, instead of --keep_rows",
    )
    add(
        "--resize",
        action="store_true",
        help="with --complete: resize a picture of another size, instead of taking its middle or cutting it as a grid",
    )
    add("--temperature", type=command_line.non_negative_float, default=1.0, help="scales the noise of samples")
    add("--top_k", type=command_line.positive_int, help="of codes: draw only the K likeliest")
    add(
        "--top_p",
        type=command_line.share,
        help="of codes: of those that --top_k keeps, draw only the fewest likeliest with this share of probability",
    )
    add("--skip_test", action="store_true", help="only draw; needs no data set")
    add("-o", "--save_dir", type=command_line.path, help="the folder for pictures")
    flags = parser.parse_args(argv)
    if (flags.nr_samples or flags.complete) and not flags.save_dir:
        parser.error("--nr_samples and --complete need --save_dir, the folder for the samples")
    if flags.skip_test and not (flags.nr_samples or flags.complete):
        parser.error("--skip_test leaves nothing to do without --nr_samples or --complete")
    if flags.skip_test and flags.json:
        parser.error("--json is the result of the test, which --skip_test leaves out")
    if flags.skip_test and flags.compress:
        parser.error("--compress writes the test images, which --skip_test leaves out")
    for name in ("keep_rows", "mask", "resize"):
        if getattr(flags, name) and not flags.complete:
            parser.error(f"--{name} is for --complete")
    for name in ("classes", "temperature", "top_k", "top_p"):
        if getattr(flags, name) != parser.get_default(name) and not (flags.nr_samples or flags.complete):
            parser.error(f"--{name} is for --nr_samples and --complete")
    if flags.mask and flags.keep_rows:
        parser.error("--mask and --keep_rows both say which pixels stay: give one of them")
    return flags


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Evaluates and draws as the flags say, and exits."""

    def evaluate(flags):
        command_line.check_paths(flags)
        if not flags.skip_test:
            data.check_paths(flags)
        # Imports TensorFlow, which takes seconds: wrong flags are reported before.
        from pixel_snail.commands import evaluation

        evaluation.evaluate(flags, load_data=functools.partial(data.from_flags, only_test=True))

    command_line.run(parse_flags, evaluate, argv)


if __name__ == "__main__":
    main()
