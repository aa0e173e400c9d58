"""The flags of an earlier run: found again for evaluating its checkpoint, or for going on with it."""

import argparse
import json
import reprlib
from pathlib import Path
from typing import NamedTuple

from pixel_snail import checkpoint
from pixel_snail import flags as command_line
from pixel_snail.errors import UserError

_NOT_COMPARED = """
    data_dir save_dir save_interval save_minutes keep sample_interval sample_batch skip_nonfinite resume new_run
""".split()
"""Flags that do not affect a run's course: --resume goes on with a run that had others of these."""

_ENDS = ["max_epochs", "max_minutes"]
"""The flags that end a run. They affect its course only with --lr_to_zero."""

_ADDED = command_line.DATA_DEFAULTS | {"lr_to_zero": False}
"""Flags that a run of an earlier version may lack, and their defaults."""


class Found(NamedTuple):
    """What --resume found: the run's folder and the prefix of its checkpoint, or else why a new run begins."""

    folder: Path | None
    prefix: str | None
    why_new: str | None = None


def newest_run(flags: argparse.Namespace) -> Found:
    """Finds the newest run of the same flags below --save_dir that has a checkpoint.

    Raises:
        UserError: the checkpoints of that run can't be read; or all runs of the data set with a checkpoint had other
            flags, so that one of them may be meant. --new_run and --load_params say that a new run is meant.
    """
    runs = [(path, _differing(run, flags)) for path, run in _runs(flags)]
    same = [path for path, differing in runs if not differing]
    for path in same:
        if checkpoint.newest_first(str(path)):
            try:
                return Found(path, checkpoint.find(str(path)))
            except UserError as error:
                raise UserError(
                    f"--resume: the run {path} has these flags, but {error}; move the run away to begin a new one"
                ) from error
    if same:
        return Found(None, None, f"{same[0]} has these flags, but it ended before its first checkpoint was whole")
    others = [(path, differing) for path, differing in runs if checkpoint.newest_first(str(path))]
    if others and not (flags.new_run or flags.load_params):
        path, differing = min(others, key=lambda run: len(run[1]))
        raise UserError(
            f"--resume: no run in {flags.save_dir} has these flags; the nearest is {path}, which had "
            f"{', '.join(differing)}: repeat its flags to go on with it, or add --new_run to begin a new run"
        )
    return Found(None, None, f"no run in {flags.save_dir} has these flags")


def _runs(flags):
    """The folders of the runs of the same data set, newest first, and their flags."""
    # A digit, the year's first, follows: else the runs of imagenet_resized would count as imagenet's.
    for path in sorted(Path(flags.save_dir).glob(f"pixelsnail_{flags.data_set}_[0-9]*"), reverse=True):
        try:
            run = json.loads((path / "flags.json").read_text())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(run, dict):
            yield path, run


def _differing(run, flags):
    """How a run's flags differ from `flags`, one string each."""
    left_out = _NOT_COMPARED if flags.lr_to_zero else [*_NOT_COMPARED, *_ENDS]
    ours = {name: value for name, value in vars(flags).items() if name not in left_out}
    theirs = {name: run.get(name, _ADDED.get(name)) for name in ours}
    return [
        f"{_as_given(name, theirs[name])} (here {_as_given(name, ours[name])})"
        for name in ours
        if theirs[name] != ours[name]
    ]


def _as_given(name, value):
    """A flag as it is given on the command line."""
    if value is None or value is False:
        return f"no --{name}"
    return f"--{name}" if value is True else f"--{name}={value}"


def fill_in_flags(flags: argparse.Namespace, prefix: str) -> None:
    """Gives flags of the network and the data set that are None their values in a checkpoint's run, or their defaults.

    The network is read from the checkpoint or, if that does not tell, from the run's `flags.json`, which lies in the
    folder above the checkpoint's; the data set is read from `flags.json`. Another data set than the run's gets none of
    the run's data flags.

    Args:
        flags: changed in place.
        prefix: the checkpoint's.

    Raises:
        UserError: a flag contradicts the run's network, or the checkpoint or flags.json is broken.
    """
    network, data = command_line.MODEL_DEFAULTS, command_line.DATA_DEFAULTS
    run = _run_flags(Path(prefix).absolute().parent.parent / "flags.json")
    description = checkpoint.Reader(prefix).description()
    if description is not None:
        run |= {name: getattr(description, name) for name in network if name != "class_conditional"}
        run["class_conditional"] = description.nr_labels is not None
    for name in network:
        given = getattr(flags, name)
        if given is not None and run.get(name, given) != given:
            ours, theirs = _as_given(name, given), _as_given(name, run[name])
            raise UserError(f"{ours}, but the run of {prefix} had {theirs}: leave the flag out")
    if flags.data_set not in (None, run.get("data_set")):
        run = {name: value for name, value in run.items() if name in network}
    for name, default in (network | data).items():
        if getattr(flags, name) is None:
            setattr(flags, name, run.get(name, default))


def _run_flags(path):
    """The flags of the network and the data set in a flags.json; none, if there is no such file."""
    if not path.exists():
        return {}
    try:
        run = json.loads(path.read_text())
        run = {name: run[name] for name in (*command_line.MODEL_DEFAULTS, "data_set")} | {
            name: run[name] for name in command_line.DATA_DEFAULTS if name in run
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"the run's flags can't be read from {path} ({type(error).__name__}, {str(error)[:200]}): move the file "
            "away, and give the flags"
        ) from error
    for name, value in run.items():
        if not command_line.is_possible(name, value):
            raise UserError(
                f"{path} is broken: {name} can't be {reprlib.repr(value)}; move the file away, and give the flags"
            )
    return run
