"""The search for checkpoints below a path. A folder means the newest undamaged checkpoint in it.

A run may save and remove checkpoints meanwhile. A file or folder that this user may not read is never taken for absent.
"""

import contextlib
import math
import os
import re
import sys
from pathlib import Path

from pixel_snail.checkpoint import Checkpoint, UnreadableError
from pixel_snail.errors import UserError, counted
from pixel_snail.storage import files, paths, prefixes


def find(path: str) -> Checkpoint:
    """Opens the checkpoint that a path names.

    Args:
        path: one of
            - the prefix itself;
            - a file of the checkpoint: `PREFIX.index`, `PREFIX.data-00000-of-00001`, or the original's `PREFIX.meta`;
            - a text file called `checkpoint`, in which TensorFlow's Saver writes the prefix of its newest checkpoint;
            - a folder, which means the newest undamaged checkpoint below it. Newer, damaged ones are named on
              stderr.

    Raises:
        UserError: there is none, or a folder or file can't be looked into.
    """
    prefix = prefixes.prefix_at(path)
    return _newest_below(path) if prefix is None else Checkpoint(prefix)


def newest_first(folder: str) -> list[str]:
    """The prefixes of all checkpoints below a folder, newest first: runs by their last save, then by steps taken.

    A checkpoint that was saved from Python counts as a run of its own. A damaged checkpoint counts as the newest of its
    run.

    Raises:
        UserError: a folder can't be looked into.
    """
    return [prefix for prefix, _ in _newest_first(folder)]


def summary(opened: Checkpoint, path: str | None = None) -> str:
    """A checkpoint in one line: its network and its steps, if the checkpoint records them.

    Args:
        path: the path that was given to `find`. If it is a folder with several runs, the line has their number.
    """
    recorded = opened.description()
    parts = [f"{recorded.model}, {counted(recorded.nr_filters, 'filter')}"] if recorded else []
    if opened.has_steps:
        parts.append(f"{counted(opened.steps_taken(), 'step')} taken")
    line = f"{opened.prefix}: {', '.join(parts)}"
    found = [] if path is None else newest_first(path)  # none below a file
    runs = set(map(_run_of, found))
    others = f"; the newest of {len(found)} checkpoints of {len(runs)} runs below {path}"
    return line + others if len(runs) > 1 else line


class _VanishedError(Exception):
    """Another process has removed a folder or checkpoint that was just listed."""


def _newest_first(folder):
    """The prefixes of newest_first, each with its `_status`."""
    of_prefix = None
    while of_prefix is None:
        with contextlib.suppress(_VanishedError):
            of_prefix = {prefix: _status(prefix) for prefix in _prefixes(folder)}
    last_save = {}
    for prefix, about in of_prefix.items():
        last_save[_run_of(prefix)] = max(about.st_mtime, last_save.get(_run_of(prefix), -math.inf))

    def age(item):
        prefix, about = item
        return last_save[_run_of(prefix)], str(_run_of(prefix)), _steps_taken_at(prefix), about.st_mtime

    return sorted(of_prefix.items(), key=age, reverse=True)


def _prefixes(folder):
    """The prefixes of all checkpoints below a folder, without half-written and half-removed ones and exported models.

    Raises:
        _VanishedError: a folder is not there any more.
        UserError: it can't be looked into.
    """
    found = []
    entries = paths.entries(folder)
    if any(entry.name == prefixes.EXPORTED for entry in entries):  # its variables look like a checkpoint
        return found
    for entry in entries:
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
        except OSError as error:
            raise UserError(f"can't look at {entry.path}: {error.strerror or error}") from error
        if files.is_leftover(Path(entry.name)) or entry.name == "lost+found":  # the system's, closed to users
            continue
        if is_folder:
            found += _prefixes(entry.path)
            if not os.path.lexists(entry.path):
                raise _VanishedError
        elif entry.name.endswith(".index"):
            found.append(entry.path.removesuffix(".index"))
    return found


def _status(prefix):
    """The file status of a listed checkpoint's index; raises _VanishedError if the file is not there any more."""
    about = paths.status(f"{prefix}.index")
    if about is not None:
        return about
    try:
        return os.lstat(f"{prefix}.index")  # a link that leads nowhere is a checkpoint that can't be read
    except OSError as error:
        raise _VanishedError from error


def _is_same(prefix, about):
    """Whether a checkpoint is still the one whose _status is `about`."""
    try:
        now = _status(prefix)
    except _VanishedError:
        return False
    fields = ("st_dev", "st_ino", "st_mtime_ns")  # a new file may get the number of a removed one
    return all(getattr(now, field) == getattr(about, field) for field in fields)


def is_of_a_run(folder: str | Path) -> bool:
    """Whether a checkpoint's folder is named as runs name them, see history.History.name."""
    return re.fullmatch(r"-?\d+(_\d+)?", Path(folder).name) is not None


def _run_of(prefix):
    """The folder of the run that a checkpoint is in. A checkpoint that is in none, as saved from Python, has itself."""
    folder = Path(prefix).parent
    for run in (folder, *folder.parents[:2]):  # a copy may lie in a folder within the run's
        if (run / "flags.json").exists():
            return run
    return folder.parent if is_of_a_run(folder) else Path(prefix)


def _steps_taken_at(prefix):
    try:
        return Checkpoint(prefix).steps_taken()
    except UserError:  # damaged, perhaps the newest, which `find` must name; or without the state of Adam
        return math.inf


def _newest_below(folder):
    """Opens the newest undamaged checkpoint below a folder.

    A run may save and remove checkpoints meanwhile: if one goes before it is open, the search begins again.
    """
    while candidates := _newest_first(folder):
        passed_over = []
        for prefix, about in candidates:
            try:
                reader = Checkpoint(prefix)
                reader.check()
            except UserError as error:
                if not _is_same(prefix, about):
                    break
                if isinstance(error, UnreadableError):
                    raise
                passed_over.append(error)
                continue
            _warn_of(passed_over)
            return reader
        else:
            _warn_of(passed_over)
            number = f"none of the {len(candidates):,} checkpoints" if len(candidates) > 1 else "the only checkpoint"
            can = "can" if len(candidates) > 1 else "can't"
            raise UserError(f"{number} below the folder {folder} {can} be read: choose another")
    raise UserError(f"no checkpoint (a file *.index) below the folder {folder}")


def _warn_of(passed_over):
    for error in passed_over:
        print(f"warning: {error}; passed over", file=sys.stderr, flush=True)
