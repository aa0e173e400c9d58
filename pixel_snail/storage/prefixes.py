"""The checkpoint that a path names. TensorFlow, whose import takes seconds, is not needed."""

import os
import re
import stat
from pathlib import Path

from pixel_snail.errors import UserError, first_line
from pixel_snail.storage import paths

FILE_OF_CHECKPOINT = re.compile(r"(.+)\.(index|meta|data-\d{5}-of-\d{5})", re.DOTALL)
"""The prefix and the ending of a checkpoint's file."""

EXPORTED = "saved_model.pb"
"""A file that every exported model has."""

_NEWEST = re.compile(r'^model_checkpoint_path: "(.*)"$', re.MULTILINE)  # in the file that Savers call `checkpoint`


def prefix_at(path: str) -> str | None:
    """The prefix of the checkpoint that a path names; None for a folder, whose newest checkpoint must be searched for.

    Args:
        path: as runs.search.find takes it.

    Raises:
        UserError: there is no such folder or checkpoint, or it can't be examined.
    """
    about = paths.status(path)
    if about is not None and stat.S_ISDIR(about.st_mode):
        if paths.status(os.path.join(path, EXPORTED)) is not None:
            raise UserError(
                f"{path} is an exported model (a SavedModel), which can't be loaded back: give the checkpoint that it "
                "was exported from or, in Python, the .keras file of its network"
            )
        return None
    if paths.status(f"{path}.index") is not None:
        return path
    prefix = path
    if of_file := FILE_OF_CHECKPOINT.fullmatch(path):
        prefix = of_file[1]
    elif os.path.basename(path) == "checkpoint" and about is not None:
        prefix = _noted_in(path)
    if paths.status(f"{prefix}.index") is not None:
        return prefix
    give = "give a run's folder, or a file of a checkpoint, such as params_cifar.ckpt.index"
    if about is None:
        raise UserError(f"no such folder or checkpoint: {prefix}; {give}")
    if prefix == path:
        raise UserError(f"{path} is there, but is no checkpoint: {give}")
    raise UserError(f"the checkpoint of {path} lacks its file {prefix}.index: {give}")


def new_prefix(path: object) -> str:
    """The prefix of a checkpoint that is to be written.

    Raises:
        UserError: it is no path, or ends like a file of another kind.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"path must be a checkpoint's prefix, such as runs/mine/params.ckpt, not {path!r}")
    path = paths.expanded(os.fspath(path))
    if path.endswith((".keras", ".index", ".h5", ".npz", ".data-00000-of-00001")):
        keras_file = "model.network.save writes a .keras file; " if path.endswith(".keras") else ""
        raise UserError(f"{path} is no name of a checkpoint: {keras_file}give a prefix, such as runs/mine/params.ckpt")
    return path


def _noted_in(file):
    """The prefix in a Saver's text file. If nothing is there, the checkpoint of that name beside the text file."""
    try:
        noted = _NEWEST.search(Path(file).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"can't read {file}: {getattr(error, 'strerror', None) or first_line(error)}") from error
    if not noted:
        raise UserError(f"{file} does not say which checkpoint is the newest: give its prefix")
    prefix = os.path.join(os.path.dirname(file), noted[1])
    moved = os.path.join(os.path.dirname(file), os.path.basename(noted[1]))
    return moved if paths.status(f"{prefix}.index") is None else prefix
