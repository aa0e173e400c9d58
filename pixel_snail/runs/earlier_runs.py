"""The flags of an earlier run: found again for evaluating its checkpoint, or for going on with it."""

import argparse
import json
import re
import reprlib
from pathlib import Path
from typing import NamedTuple

from pixel_snail.checkpoint import Checkpoint
from pixel_snail.commands import command_line
from pixel_snail.errors import UserError
from pixel_snail.runs import folder, search
from pixel_snail.settings import CONDITION_RESNET
from pixel_snail.storage import paths

_NOT_COMPARED = """
    data_dir cache_dir save_dir save_interval save_minutes keep sample_interval sample_batch skip_nonfinite resume
    new_run
""".split()
"""Flags that do not affect a run's course: --resume goes on with a run even if it had other values of these."""

_ENDS = ["max_epochs", "max_minutes"]
"""The flags that end a run. They affect its course only with --lr_to_zero."""

_OF_VALUES = ("levels", "binarize")

_ADDED_OF_NETWORK = {"likelihood": command_line.MODEL_DEFAULTS["likelihood"]}
_ADDED = _ADDED_OF_NETWORK | command_line.DATA_DEFAULTS | {"lr_to_zero": False, "muon": False, "init_from": None}
_ADDED |= {"raw": False, "condition_resnet": CONDITION_RESNET, "condition_levels": None, "mutation_rate": 0.0}
"""Flags that a run of an earlier version may lack, and their defaults."""


class Found(NamedTuple):
    """The result of --resume's search: a run's folder and newest checkpoint, or else why a new run begins."""

    folder: Path | None
    opened: Checkpoint | None
    why_new: str | None = None


def newest_run(flags: argparse.Namespace) -> Found:
    """Finds the newest run of the same flags below --save_dir that has a checkpoint.

    Raises:
        UserError: a run that may be the right one can't be read; the run's checkpoints can't be read; another process
            trains in the run and has not saved yet; or all runs of the data set that have a checkpoint had other flags,
            and none of --new_run, --load_params and --init_from says that a new run is to begin.
    """
    same, others = [], []
    for path, run in _runs(flags):
        differing = _differing(run, flags)
        try:
            has_checkpoint = bool(search.newest_first(str(path)))
            if not differing and has_checkpoint:
                return Found(path, search.find(str(path)))
        except UserError as error:
            has = f"had {', '.join(differing)}" if differing else "has these flags"
            raise UserError(
                f"--resume: the run {path} {has}, but {error}; move the run away to begin a new one"
            ) from error
        if not differing:
            same.append(path)
        elif has_checkpoint:
            others.append((path, differing))
    for path in same:
        folder.check_unused(path)
    if same:
        return Found(None, None, f"{same[0]} has these flags, but it ended before its first checkpoint was whole")
    if others and not (flags.new_run or flags.load_params or flags.init_from):
        path, differing = min(others, key=lambda run: len(run[1]))
        raise UserError(
            f"--resume: no run in {flags.save_dir} has these flags; the nearest is {path}, which had "
            f"{', '.join(differing)}: repeat its flags to go on with it, or add --new_run to begin a new run"
        )
    return Found(None, None, f"no run in {flags.save_dir} has these flags")


def _runs(flags):
    """The folders of the runs of the same data set, newest first, and their flags.

    Raises:
        UserError: --save_dir or a run's flags can't be read.
    """
    # The time in full: else the runs of cifar_resized, or of cifar_2, would count as those of cifar.
    then = "this may be the run that --resume is to continue; mend the file, or move the run away"
    name = re.compile(rf"pixelsnail_{re.escape(flags.data_set)}_\d{{4}}(_\d\d){{5}}")
    for entry in reversed(paths.entries(flags.save_dir)):
        path = Path(flags.save_dir, entry.name)
        if name.fullmatch(entry.name) and (run := _read_flags(path / "flags.json", then)) is not None:
            yield path, run


def _read_flags(path, then):
    """The flags in a flags.json; None if there is no such file, because the run ended before it was written.

    Args:
        then: the consequence of an unreadable file and the advice, for the message.

    Raises:
        UserError: it can't be read, or does not hold a run's flags.
    """
    try:
        run = json.loads(path.read_text())
        if not isinstance(run, dict):
            raise TypeError(f"it holds a {type(run).__name__}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"can't read {path} ({error.strerror or error}): {then}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"the run's flags can't be read from {path} ({type(error).__name__}, {str(error)[:200]}): {then}"
        ) from error
    return run


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


def fill_in_flags(flags: argparse.Namespace, opened: Checkpoint) -> None:
    """Gives flags of the network and the data set that are None their values in a checkpoint's run, or their defaults.

    The network is read from the checkpoint or, if the checkpoint does not record it, from the run's `flags.json`, which
    lies in the folder above the checkpoint's. The data set is read from `flags.json`. If `flags` names another data
    set, the run's flags of its data are not used. If `flags` has one of --levels and --binarize, which together say
    what becomes of the values, the run's other one is not used.

    Args:
        flags: changed in place.
        opened: the checkpoint.

    Raises:
        UserError: a flag contradicts the run's network, or the checkpoint or flags.json is broken.
    """
    network, data = command_line.MODEL_DEFAULTS, command_line.DATA_DEFAULTS
    run = _run_flags(Path(opened.prefix).absolute().parent.parent / "flags.json")
    description = opened.description()
    if description is not None:
        run |= {name: getattr(description, name) for name in network if name != "class_conditional"}
        run["class_conditional"] = description.nr_labels is not None
    for name in network:
        given = getattr(flags, name)
        if given is not None and run.get(name, given) != given:
            ours, theirs = _as_given(name, given), _as_given(name, run[name])
            raise UserError(f"{ours}, but the run of {opened.prefix} had {theirs}: leave the flag out")
    if flags.data_set not in (None, run.get("data_set")):
        run = {name: value for name, value in run.items() if name in network}
    if any(getattr(flags, name) is not None for name in _OF_VALUES):
        run = {name: value for name, value in run.items() if name not in _OF_VALUES}
    for name, default in (network | data).items():
        if getattr(flags, name) is None:
            setattr(flags, name, run.get(name, default))


def _run_flags(path):
    """The flags of the network and the data set in a flags.json; none, if there is no such file."""
    then = "move the file away, and give the flags"
    recorded = _read_flags(path, then)
    if recorded is None:
        return {}
    recorded = _ADDED_OF_NETWORK | recorded
    network = (*command_line.MODEL_DEFAULTS, "data_set")
    if missing := [name for name in network if name not in recorded]:
        raise UserError(f"{path} is broken: it has no {missing[0]}; {then}")
    run = {name: recorded[name] for name in (*network, *command_line.DATA_DEFAULTS) if name in recorded}
    for name, value in run.items():
        if not command_line.is_possible(name, value):
            raise UserError(f"{path} is broken: {name} can't be {reprlib.repr(value)}; {then}")
    return run
