"""Checkpoints in the original's format: what its Saver wrote is read here, and what is written here it reads.

A TensorFlow checkpoint of named tensors:

| tensor | name |
| --- | --- |
| parameter | `model/conv2d_0/V`, ... (see nn.variable_names) |
| its average | the same + `/ExponentialMovingAverage` |
| Adam's t, steps taken + 1, a float | `Variable` |
| Adam's v and m of parameter i | `Variable_{2i+1}`, `Variable_{2i+2}` |
| how far the run is, which the original's lacks and its Saver passes over | `pixel_snail/epoch`, ... (see history.py) |

The format has a checksum of every tensor, which is checked whenever one is read.

`python -m pixel_snail.checkpoint PREFIX` prints what a checkpoint holds.
"""

import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pixel_snail import nn
from pixel_snail.errors import UserError, first_line
from pixel_snail.optimizer import PolyakAdam, flatten

AVERAGE = "/ExponentialMovingAverage"
PROGRESS = "pixel_snail/"
_STEPS = PROGRESS + "steps_taken"  # Adam's t is a float: it can't count beyond 2^24
# Endings of folders; one that is replaced is whole, and counts until the other is there.
_ASIDE, _REMOVED, _REPLACED = ".writing", ".removed", ".replaced"
_PARAMETER = re.compile(r"model/((conv2d|deconv2d|dense)_\d+/[Vgb]|conditional_weights_\d+/hw)")


def save(prefix: str, model: keras.Model, optimizer: PolyakAdam, progress: Mapping[str, np.ndarray]) -> None:
    """Writes a run's state as `PREFIX.index` and `PREFIX.data-00000-of-00001`, in a folder of their own.

    They are written aside and synced, and the folder renamed: there is never half a checkpoint under its name, even if
    the machine loses power. What was under that name before is replaced.

    Args:
        progress: what `read_progress` is to return.

    Raises:
        OSError: no permission, no space: all is as before.
    """
    folder, name = os.path.split(prefix)
    aside = folder + _ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    os.makedirs(aside)
    tensors = _state(model, optimizer)
    tensors |= {PROGRESS + name: tf.convert_to_tensor(value) for name, value in progress.items()}
    try:
        tf.raw_ops.SaveV2(
            prefix=os.path.join(aside, name),
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=list(tensors.values()),
        )
        for path in (*(os.path.join(aside, file) for file in os.listdir(aside)), aside):
            _sync(path)
    except (tf.errors.OpError, OSError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(getattr(error, "message", None) or str(error)) from error
    if os.path.exists(folder):
        shutil.rmtree(folder + _REPLACED, ignore_errors=True)
        os.rename(folder, folder + _REPLACED)
    os.rename(aside, folder)
    _sync(os.path.dirname(folder))
    shutil.rmtree(folder + _REPLACED, ignore_errors=True)


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(prefix: str) -> None:
    """Removes a checkpoint's folder; there is never a part of it under its name.

    Raises:
        OSError: no permission.
    """
    folder = os.path.dirname(prefix)
    os.rename(folder, folder + _REMOVED)
    shutil.rmtree(folder + _REMOVED)


def newest_first(folder: str) -> list[str]:
    """The prefixes of all checkpoints below a folder: of the run that was saved last first, in each by steps taken."""
    indices = [
        index
        for index in Path(folder).rglob("*.ckpt.index")
        if not any(part.endswith((_ASIDE, _REMOVED)) for part in index.relative_to(folder).parts)
    ]
    saved = {index: index.stat().st_mtime for index in indices}
    of_run = {}
    for index, time in saved.items():
        of_run[_run_of(index)] = max(time, of_run.get(_run_of(index), time))

    def age(index):
        return of_run[_run_of(index)], str(_run_of(index)), _steps_taken(index), saved[index]

    return [str(index).removesuffix(".index") for index in sorted(indices, key=age, reverse=True)]


def _run_of(index):
    return index.parent.parent


def _steps_taken(index):
    try:
        return _steps_in(Reader(str(index).removesuffix(".index")))
    except UserError:  # damaged, perhaps the newest: to be named; or of a network alone
        return math.inf


def remove_leftovers(folder: str) -> None:
    """Removes what a crash left of a run's checkpoints that were being written, removed or replaced."""
    for ending in (_ASIDE, _REMOVED, _REPLACED):
        for leftover in Path(folder).glob(f"*{ending}"):
            if ending != _REPLACED or Path(str(leftover).removesuffix(ending)).exists():
                shutil.rmtree(leftover, ignore_errors=True)


def find(path: str) -> str:
    """The prefix of a checkpoint, given as its prefix, as one of its files, or as a folder: the newest below it that is
    whole. Damaged ones that are newer are named on stderr.

    Raises:
        UserError: there is none.
    """
    if os.path.isdir(path):
        candidates = newest_first(path)
        if not candidates:
            raise UserError(f"no checkpoint (*.ckpt.index) below the folder {path}")
        for prefix in candidates:
            try:
                Reader(prefix).check()
                return prefix
            except UserError as error:
                print(f"warning: {error}; passed over", file=sys.stderr, flush=True)
        raise UserError(f"all {len(candidates)} checkpoints below the folder {path} are damaged")
    for ending in (".index", ".data-00000-of-00001"):
        path = path.removesuffix(ending)
    if not os.path.exists(f"{path}.index"):
        raise UserError(f"no checkpoint at {path}: there is no file {path}.index")
    return path


def load(prefix: str, model: keras.Model, optimizer: PolyakAdam | None = None, averaged: bool = False) -> None:
    """Reads a checkpoint into a built model and, for training to go on, a built optimizer.

    Args:
        averaged: whether the model gets the averages of the parameters in their place.

    Raises:
        UserError: it can't be read, lacks a tensor, or is of another network: the message names the likely flag.
    """
    reader = Reader(prefix)
    names = nn.variable_names(model)
    shapes = {name: tuple(variable.shape) for name, variable in zip(names, model.trainable_variables, strict=True)}
    reader.check_network(shapes)
    # All is read before anything is assigned: an error leaves the model as it was.
    values = reader.read_like([name + AVERAGE if averaged else name for name in names], shapes.values())
    if optimizer is not None:
        averages = reader.read_like([name + AVERAGE for name in names], shapes.values())
        velocity = reader.read_like([f"Variable_{2 * i + 1}" for i in range(len(names))], shapes.values())
        momentum = reader.read_like([f"Variable_{2 * i + 2}" for i in range(len(names))], shapes.values())
        optimizer.iterations.assign(_steps_in(reader))
        optimizer.average.assign(flatten(averages))
        optimizer.velocity.assign(flatten(velocity))
        optimizer.momentum.assign(flatten(momentum))
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)


def _steps_in(reader):
    name = _STEPS if _STEPS in reader.shapes else "Variable"
    (value,) = reader.read([name])
    try:
        return int(value) - (name == "Variable")
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"the checkpoint {reader.prefix} is of another program: {name} is no count of steps") from error


def read_progress(prefix: str) -> dict[str, np.ndarray]:
    """What `save` was told of the run's progress; nothing, if the original wrote the checkpoint.

    Raises:
        UserError: it can't be read.
    """
    reader = Reader(prefix)
    names = [name for name in reader.shapes if name.startswith(PROGRESS)]
    return {name[len(PROGRESS) :]: value for name, value in zip(names, reader.read(names), strict=True)}


def _state(model, optimizer):
    names = nn.variable_names(model)
    averages, velocities, momentums = (
        optimizer.split(vector.value) for vector in (optimizer.average, optimizer.velocity, optimizer.momentum)
    )
    state = {name: tf.convert_to_tensor(v) for name, v in zip(names, model.trainable_variables, strict=True)}
    state |= {name + AVERAGE: average for name, average in zip(names, averages, strict=True)}
    state[_STEPS] = tf.cast(optimizer.iterations.value, tf.int64)
    state["Variable"] = tf.cast(optimizer.iterations.value + 1, tf.float32)
    for i, (v, m) in enumerate(zip(velocities, momentums, strict=True)):
        state[f"Variable_{2 * i + 1}"] = v
        state[f"Variable_{2 * i + 2}"] = m
    return state


class Reader:
    """A checkpoint file, its errors told as UserErrors.

    TensorFlow's reader turns a damaged file into an exception of almost any type: all are caught.
    """

    def __init__(self, prefix):
        self.prefix = prefix
        try:
            self._reader = tf.train.load_checkpoint(prefix)
            self.shapes = {k: tuple(v) for k, v in self._reader.get_variable_to_shape_map().items()}
        except Exception as error:
            raise UserError(f"can't read the checkpoint {prefix}, which may be damaged: {first_line(error)}") from error

    def read(self, names: list[str]) -> list[np.ndarray]:
        missing = [name for name in names if name not in self.shapes]
        if missing:
            hint = "; --raw evaluates the plain parameters" if missing[0].endswith(AVERAGE) else ""
            raise UserError(f"the checkpoint {self.prefix} lacks {len(missing)} tensors, {missing[0]} first{hint}")
        try:
            return [self._reader.get_tensor(name) for name in names]
        except Exception as error:
            raise UserError(f"the checkpoint {self.prefix} is damaged: {first_line(error)}") from error

    def read_like(self, names: list[str], shapes: Iterable[tuple[int, ...]]) -> list[np.ndarray]:
        """As read; raises UserError, too, if they are not of these shapes and float32."""
        values = self.read(names)
        for name, value, shape in zip(names, values, shapes, strict=True):
            if value.dtype != np.float32 or value.shape != shape:
                raise UserError(
                    f"the checkpoint {self.prefix} is of another program: {name} is {value.dtype} of shape "
                    f"{list(value.shape)}, not float32 {_described(shape)}"
                )
        return values

    def check(self) -> None:
        """Raises UserError if a tensor can't be read."""
        for name in self.shapes:
            self.read([name])

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the network's parameters; what else a program has put into its checkpoint is passed over.

        Raises:
            UserError: there are none.
        """
        parameters = {name: shape for name, shape in self.shapes.items() if _PARAMETER.fullmatch(name)}
        if not parameters:
            raise UserError(f"the checkpoint {self.prefix} is of another program: it has no variable model/conv2d_0/V")
        return parameters

    def check_network(self, expected: dict[str, tuple[int, ...]]) -> None:
        """Raises UserError if the checkpoint's parameters are not those of the network."""
        found = self.parameters()
        if found == expected:
            return
        differing = [name for name in expected if found.get(name) != expected[name]] + sorted(found - expected.keys())
        name = differing[0]
        raise UserError(
            f"the checkpoint {self.prefix} is of another network: {name} is {_described(found.get(name))} there and "
            f"{_described(expected.get(name))} here; the difference is probably {_likely_flag(found, expected)}"
        )


def _described(shape):
    return "absent" if shape is None else f"of shape {list(shape)}"


def _likely_flag(found, expected):
    """Which flags most probably make the shapes in `found` those in `expected`."""
    flags = []
    stem = next(iter(expected))
    if stem in found and found[stem] != expected[stem]:
        flags.append(f"--nr_filters (there {found[stem][-1]}, here {expected[stem][-1]})")
    kinds_found, kinds_expected = ({name.split("/")[1] for name in names} for names in (found, expected))
    if any(kind.startswith("conditional") for kind in kinds_found ^ kinds_expected):
        flags.append("--class_conditional")
    elif kinds_found != kinds_expected:
        flags.append("--nr_resnet or --model")
    else:
        outputs = list(expected)[-1]
        if found[outputs] != expected[outputs]:
            flags.append(f"--nr_logistic_mix (there {found[outputs][0] // 10}, here {expected[outputs][0] // 10})")
        elif not flags:
            flags.append("--resnet_nonlinearity or --model")
    return " and ".join(flags)


if __name__ == "__main__":
    from pixel_snail import flags as command_line
    from pixel_snail import inspection

    parser = command_line.Parser(prog="python -m pixel_snail.checkpoint", description="Prints what a checkpoint holds.")
    parser.add_argument("path", metavar="PREFIX", help="the checkpoint, or a folder: its newest one")
    command_line.run(lambda flags: inspection.show(flags.path), parser.parse_args())
