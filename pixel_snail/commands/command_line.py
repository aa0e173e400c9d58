"""The command line that train.py and eval.py share, with the original's flags and their abbreviations."""

import argparse
import contextlib
import difflib
import errno
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from absl.flags import argparse_flags

from pixel_snail import settings
from pixel_snail.commands import streams
from pixel_snail.errors import UserError, options_named_as_flags
from pixel_snail.likelihoods.levels import NUMBERS_OF_LEVELS, is_number_of_levels
from pixel_snail.storage import paths, prefixes
from pixel_snail.storage.pictures import MAX_PIXELS

# An abbreviation of these means the same flag as in the original, even where it also fits a flag added since.
_ORIGINAL = """
    --help --data_dir --save_dir --data_set --save_interval --load_params --model --nr_resnet --nr_filters
    --nr_logistic_mix --resnet_nonlinearity --class_conditional --learning_rate --lr_decay --batch_size
    --init_batch_size --dropout_p --max_epochs --nr_gpu --polyak_decay --seed
""".split()


class _Help(argparse.HelpFormatter):
    """Adds the default of each flag that has one."""

    def _get_help_string(self, action):
        is_plain = action.default in (None, False, argparse.SUPPRESS)
        return action.help if is_plain else f"{action.help or ''} (default: %(default)s)".strip()


class Parser(argparse_flags.ArgumentParser):
    """An argument parser that reports a mistake in one line and exits with code 2."""

    def __init__(self, **settings):
        super().__init__(formatter_class=_Help, **settings)

    def parse_args(self, args: Sequence[str] | None = None, namespace=None) -> argparse.Namespace:
        args = sys.argv[1:] if args is None else args
        flags, unknown = self.parse_known_args([_completed(argument) for argument in args], namespace)
        if unknown:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            self.error(
                f"unrecognized arguments: {' '.join(unknown)}{did_you_mean(unknown[0].partition('=')[0], known)}"
            )
        return flags

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {UserError(message)}\n")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the known name that is nearest to it, if one is near."""
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _completed(argument):
    name, equals, value = argument.partition("=")
    meant = [flag for flag in _ORIGINAL if flag.startswith(name)] if name.startswith("--") and name != "--" else []
    return meant[0] + equals + value if len(meant) == 1 else argument


OF_TFDS = "tfds:NAME"
"""The form of the names of data sets of TensorFlow Datasets; NAME may be NAME:CONFIG."""

DATA_DEFAULTS = {
    "data_dir": "./data",
    "data_set": "cifar",
    "image_size": None,
    "downsample": False,
    "skip_bad": False,
    "max_megapixels": MAX_PIXELS // 10**6,
    "test_folder": None,
    "cache_dir": None,
    "levels": None,
    "binarize": False,
    "grey": False,
}
"""The flags that decide the data set, and their defaults."""

DATA_OPTIONS = {
    "folder": ("image_size", "downsample", "skip_bad", "max_megapixels", "test_folder", "cache_dir", "grey"),
    "imagenet_resized": ("image_size", "cache_dir"),
    OF_TFDS: ("image_size", "grey", "cache_dir"),
    "imagenet": ("cache_dir",),
    "imagenet64": ("cache_dir",),
    "mnist": ("cache_dir",),
    "fashion_mnist": ("cache_dir",),
}
"""The flags of DATA_DEFAULTS that only some data sets take, by the names of these sets."""


def name_in_tfds(data_set: str) -> str | None:
    """NAME of a data set that --data_set names tfds:NAME; None for other data sets."""
    return data_set.removeprefix("tfds:") if data_set.startswith("tfds:") else None


def takes(data_set: str, name: str) -> bool:
    """Whether a data set takes a flag that only some data sets take."""
    return name in DATA_OPTIONS.get(data_set if name_in_tfds(data_set) is None else OF_TFDS, ())


def add_data_flags(parser: Parser, data_sets: Iterable[str], defaults: bool = True) -> None:
    """Adds the flags of DATA_DEFAULTS.

    Args:
        data_sets: the names that --data_set takes.
        defaults: whether a flag that is not given gets its default; otherwise it gets None.
    """
    default = DATA_DEFAULTS if defaults else dict.fromkeys(DATA_DEFAULTS)
    add = parser.add_argument
    add("-i", "--data_dir", type=path, default=default["data_dir"], help="where the data sets lie")
    add(
        "-d",
        "--data_set",
        type=_data_set([*data_sets, OF_TFDS]),
        default=default["data_set"],
        help=f"{_names([*data_sets, OF_TFDS])}, where NAME may have a configuration: NAME:CONFIG",
    )
    add(
        "--image_size",
        type=image_size,
        help=f"side of the images of folder and imagenet_resized, without it 32; for folder and {OF_TFDS} also HxW",
    )
    add(
        "--downsample",
        action="store_true",
        default=default["downsample"],
        help="with --data_set=folder: make pictures smaller before they are cropped",
    )
    add(
        "--skip_bad",
        action="store_true",
        default=default["skip_bad"],
        help="with --data_set=folder: leave out pictures that can't be used, and name them",
    )
    add(
        "--max_megapixels",
        type=positive_int,
        default=default["max_megapixels"],
        help="with --data_set=folder, and with eval.py --complete: the largest picture that can be used",
    )
    add(
        "--test_folder",
        help="with --data_set=folder: the test folder beside train; without it: test, val, valid or validation; for "
        "eval.py, . takes all pictures",
    )
    add(
        "--cache_dir",
        type=path,
        help=f"where converted pictures go, with --data_set=folder, {OF_TFDS}, ImageNet and sets that TensorFlow "
        "Datasets gets; without it, .pixel_snail in --data_dir",
    )
    add(
        "--levels",
        type=levels,
        help="the number of levels: 8-bit images are reduced to it; for arrays, it is the number that they have",
    )
    add(
        "--binarize",
        action="store_true",
        default=default["binarize"],
        help="with grey images: draw black or white for each pixel, by its brightness, anew in each epoch",
    )
    add(
        "--grey",
        action="store_true",
        default=default["grey"],
        help=f"with --data_set=folder and {OF_TFDS}: make pictures grey",
    )


MODEL_DEFAULTS = settings.NETWORK_DEFAULTS | {"class_conditional": False}
"""The flags that decide the network, and their defaults."""


def add_model_flags(parser: Parser, defaults: bool = True) -> None:
    """Adds the flags of MODEL_DEFAULTS; `defaults` as in add_data_flags."""
    add_network_flags(parser, defaults)
    parser.add_argument(
        "-c",
        "--class_conditional",
        action="store_true",
        default=MODEL_DEFAULTS["class_conditional"] if defaults else None,
        help="condition on the images' labels",
    )


def add_network_flags(parser: Parser, defaults: bool = True) -> None:
    """Adds the flags of settings.NETWORK_DEFAULTS; `defaults` as in add_data_flags."""
    default = settings.NETWORK_DEFAULTS if defaults else dict.fromkeys(settings.NETWORK_DEFAULTS)
    add = parser.add_argument
    add("--model", type=_known("model", settings.MODELS), default=default["model"], help=_names(settings.MODELS))
    add("-q", "--nr_resnet", type=positive_int, default=default["nr_resnet"], help="residual steps in each block")
    add("-n", "--nr_filters", type=positive_int, default=default["nr_filters"], help="channels of the feature maps")
    add("-m", "--nr_logistic_mix", type=positive_int, default=default["nr_logistic_mix"], help="mixture components")
    add(
        "-z",
        "--resnet_nonlinearity",
        type=_known("resnet_nonlinearity", settings.NONLINEARITIES),
        default=default["resnet_nonlinearity"],
        help=_names(settings.NONLINEARITIES),
    )
    add(
        "--likelihood",
        type=_known("likelihood", settings.LIKELIHOODS),
        default=default["likelihood"],
        help="logistic_mixture for images; categorical for codes without an order, such as those of a VQ-VAE",
    )


def add_run_flags(parser: Parser) -> None:
    """Adds the other flags that train.py and eval.py share: of the replicas, batches and seed."""
    parser.add_argument(
        "-b",
        "--batch_size",
        type=positive_int,
        default=settings.TrainingSettings.batch_size,
        help="images of each replica in each step",
    )
    parser.add_argument(
        "-g", "--nr_gpu", type=positive_int, help="replicas; without it, all GPUs, or one logical CPU device"
    )
    parser.add_argument(
        "--sample_batch", type=positive_int, default=32, help="images drawn at a time on a GPU; on a CPU, 8"
    )
    parser.add_argument(
        "-s",
        "--seed",
        type=seed,
        default=settings.TrainingSettings.seed,
        help="of initial parameters, order of the images, dropout and samples",
    )


def add_step_flags(parser: Parser) -> None:
    """Adds the flags that make a training step faster or save memory. Only --bfloat16 changes the results."""
    add = parser.add_argument
    add("--bfloat16", action="store_true", help="compute the network in bfloat16; what is learned stays in float32")
    add(
        "--recompute",
        action="store_true",
        help="keep only activations between blocks, compute the others again: less memory",
    )
    add(
        "--grad_accum",
        type=positive_int,
        default=settings.TrainingSettings.grad_accum,
        help="divide each replica's batch into this many parts: less memory",
    )


def is_possible(name: str, value: object) -> bool:
    """Whether a flag in DATA_DEFAULTS or MODEL_DEFAULTS can have this value."""
    registries = {
        "model": settings.MODELS,
        "resnet_nonlinearity": settings.NONLINEARITIES,
        "likelihood": settings.LIKELIHOODS,
    }
    default = (DATA_DEFAULTS | MODEL_DEFAULTS)[name]
    if name in registries:
        return isinstance(value, str) and value in registries[name]
    if value is None:
        return default is None
    if name in _PARSED:
        with contextlib.suppress(argparse.ArgumentTypeError):
            return type(value) in (int, str) and _PARSED[name](str(value)) == value  # "28x28" is parsed as 28
        return False
    kind = {"test_folder": str, "cache_dir": str}.get(name, type(default))
    return type(value) is kind and (kind is not int or value > 0)


def _number(kind: type, is_valid: Callable[[float], bool], what: str) -> Callable[[str], float]:
    """The argparse type of a flag: a number of type `kind` for which is_valid holds; `what` describes it in words."""

    def parsed(text):
        with contextlib.suppress(ValueError):
            number = kind(text)
            if is_valid(number):
                return number
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return parsed


def image_size(text: str) -> int | str:
    """The argparse type of --image_size: the side of a square, or HxW, such as "28x20", of a rectangle."""
    match = re.fullmatch(r"0*([1-9][0-9]{0,8})(?:x0*([1-9][0-9]{0,8}))?", text, re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0, or HEIGHTxWIDTH, such as 28x20")
    height, width = match[1], match[2] or match[1]
    return int(height) if height == width else f"{height}x{width}"


def height_and_width(size: int | str) -> tuple[int, int]:
    """(H, W) of a value of --image_size."""
    height, _, width = str(size).partition("x")
    return int(height), int(width or height)


positive_int = _number(int, lambda n: n > 0, "a whole number above 0")
non_negative_int = _number(int, lambda n: n >= 0, "a whole number, 0 or more")
seed = _number(int, lambda n: 0 <= n < 2**31, "a whole number from 0 to 2^31 - 1")
positive_float = _number(float, lambda x: 0 < x < math.inf, "a number above 0")
non_negative_float = _number(float, lambda x: 0 <= x < math.inf, "a number, 0 or more")
levels = _number(int, is_number_of_levels, NUMBERS_OF_LEVELS)
share = _number(float, lambda x: 0 < x <= 1, "a number above 0, at most 1")
probability = _number(float, lambda x: 0 <= x < 1, "in [0, 1)")
closed_probability = _number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")


_PARSED = {"image_size": image_size, "levels": levels}
"""The argparse types of those flags in DATA_DEFAULTS whose values must have a certain form or lie within limits."""


def path(text: str) -> str:
    """The argparse type of a path; see paths.expanded."""
    try:
        return paths.expanded(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def check_paths(flags: argparse.Namespace) -> None:
    """Raises UserError, before TensorFlow is imported, if a file that the flags name is not there.

    With --resume, a checkpoint is read only if there is no run to go on with.
    """
    for given in (flags.load_params, getattr(flags, "init_from", None)):
        if given and not getattr(flags, "resume", False):
            prefixes.prefix_at(given)
    for name, content in (("complete", "images"), ("mask", "masks")):
        given = getattr(flags, name, None)
        if given and paths.status(given) is None:
            raise UserError(f"there is no file --{name}={given}: give a picture or an .npy file of {content}")


def run(
    parse_flags: Callable[[Sequence[str] | None], argparse.Namespace],
    work: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Runs a command and exits: with 0; with 2, and one line on stderr, for a UserError and for a full disk; with 130
    for Ctrl-C.

    Args:
        parse_flags: a function that parses argv. For a wrong flag, it exits with 2.
        work: a function that does the command's work, given its flags.
        argv: the arguments, by default the program's.
    """
    streams.prepare()
    try:
        flags = parse_flags(argv)
        with options_named_as_flags():
            work(flags)
        sys.stdout.flush()  # here, so that a full disk is told in one line
    except UserError as error:
        for note in getattr(error, "__notes__", ()):
            print(note, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        _exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = error.filename or "the output"
        print(f"error: can't write {what}: {error.strerror}; free some space, and repeat the command", file=sys.stderr)
        _exit(2)
    _exit(0)


def _exit(code):
    """Exits with a code, although stdout may be on a full disk: Python itself would then exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        streams.discard(1)
    sys.exit(code)


def _known(kind, known):
    def name(text):
        if text not in known:
            raise argparse.ArgumentTypeError(
                f"unknown {kind} {text!r}; known: {_names(known)}{did_you_mean(text, known)}"
            )
        return text

    return name


def _data_set(known):
    named = _known("data set", known)

    def name(text):
        if name_in_tfds(text) is None:
            return named(text)
        if not re.fullmatch(r"tfds:\w+(:[\w.+-]+)?", text, re.ASCII):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not {OF_TFDS} or {OF_TFDS}:CONFIG, such as tfds:svhn_cropped"
            )
        return text

    return name


def _names(known):
    return ", ".join(sorted(known))
