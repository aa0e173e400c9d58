"""The flags of an earlier run: found again for evaluating its checkpoint, or for going on with it."""

import argparse
import contextlib
import json
import reprlib
from pathlib import Path

from pixel_snail import checkpoint
from pixel_snail import flags as command_line
from pixel_snail.errors import UserError

_NOT_COMPARED = """
    data_dir save_dir max_epochs max_minutes save_interval save_minutes keep sample_interval sample_batch skip_nonfinite
    resume
""".split()
"""Flags that do not affect a run's course: --resume goes on with a run that had others of these."""


def newest_run(flags: argparse.Namespace) -> tuple[Path, str] | None:
    """The folder of the newest run of the same flags below --save_dir that has a whole checkpoint, and its prefix."""
    for path in sorted(Path(flags.save_dir).glob(f"pixelsnail_{flags.data_set}_*"), reverse=True):
        try:
            run = json.loads((path / "flags.json").read_text())
        except (OSError, ValueError, RecursionError):
            continue
        ours = vars(flags)
        if not isinstance(run, dict):
            continue
        run = command_line.DATA_DEFAULTS | run  # a run of an earlier version lacks the flags added since
        if any(run.get(name) != ours[name] for name in ours if name not in _NOT_COMPARED):
            continue
        with contextlib.suppress(UserError):
            return path, checkpoint.find(str(path))
    return None


def fill_in_flags(flags: argparse.Namespace, prefix: str) -> None:
    """Gives flags of the network and the data set that are None their values in a checkpoint's run, or their defaults.

    The network is read from the checkpoint or, if that does not tell, from `flags.json` in the run's folder, above the
    checkpoint's own; the data set is read from there. A data set other than the run's gets none of the run's flags.

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
            raise UserError(f"--{name}={given}, but the run of {prefix} had --{name}={run[name]}: leave the flag out")
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
            f"the run's flags can't be read from {path}: {type(error).__name__}, {str(error)[:200]}"
        ) from error
    for name, value in run.items():
        if not command_line.is_possible(name, value):
            raise UserError(f"{path} is broken: {name} can't be {reprlib.repr(value)}")
    return run
