"""Checkpoints in the original's format: reads what its Saver wrote, and writes the tensors that its Saver reads.

A TensorFlow checkpoint of named tensors:

| tensor | name |
| --- | --- |
| parameter | `model/conv2d_0/V`, ... (see `variable_names`) |
| its Polyak average | the same + `/ExponentialMovingAverage` |
| Adam's t, steps taken + 1, a float | `Variable` |
| Adam's v and m of parameter i | `Variable_{2i+1}`, `Variable_{2i+2}` |
| which network it is | `pixel_snail/network/model`, ... (see network.Description) |
| how far the run is | `pixel_snail/epoch`, ... (see runs/history.py) |

The original's checkpoints lack the last two kinds, and its Saver passes over them. The format has a checksum of every
tensor, which is checked whenever the tensor is read.
"""

import collections
import contextlib
import dataclasses
import os
import re
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pixel_snail.backend import keras, tf
from pixel_snail.errors import UserError, counted, first_line, option
from pixel_snail.inputs import conditions
from pixel_snail.inputs.labels import renamed_class
from pixel_snail.likelihoods.levels import is_number_of_levels
from pixel_snail.network import Description, Network
from pixel_snail.optimizer import PolyakAdam, flatten
from pixel_snail.settings import LIKELIHOODS
from pixel_snail.storage import files, prefixes

AVERAGE = "/ExponentialMovingAverage"
OWN_PREFIX = "pixel_snail/"
NETWORK = OWN_PREFIX + "network/"
_STEPS = OWN_PREFIX + "steps_taken"  # Adam's t is a float: it can't count beyond 2^24
_PARAMETER = re.compile(r"model/[^/]+_\d+/[^/]+")
_LATER_FIELDS = ("class_names", "levels", "likelihood", "condition_shape", "condition_levels", "condition_resnet")
"""The fields of a network's description that checkpoints of earlier versions lack."""

NOT_OURS = "not written by this program or the original"
"""What is said of checkpoints of other programs."""


class Mismatch(UserError):
    """A checkpoint can be read, but is of another network, or lacks the averages that were asked for."""


def variable_names(network: keras.Model) -> list[str]:
    """The original's names of `network.weights`, in order: `model/conv2d_0/V`, `model/conv2d_0/g`, ...

    The original numbers the layers of each kind over the whole network, in order of creation.
    """
    names, number = {}, collections.Counter()  # a dictionary for its order
    for variable in network.weights:
        kind, leaf = variable.path.split("/")[-2:]
        if f"model/{kind}_{number[kind]}/{leaf}" in names:  # the next layer of this kind
            number[kind] += 1
        names[f"model/{kind}_{number[kind]}/{leaf}"] = None
    return list(names)


def save(
    prefix: str,
    network: Network,
    optimizer: PolyakAdam,
    progress: Mapping[str, np.ndarray],
    parameters: Sequence[tf.Tensor] | None = None,
) -> None:
    """Writes a training's state as `PREFIX.index` and `PREFIX.data-00000-of-00001`, in a folder of their own.

    The folder is written whole or not at all; it replaces what was under its name.

    Args:
        progress: how far the training is, for `Checkpoint.progress`.
        parameters: in the order of `network.weights`; by default, the network's.

    Raises:
        OSError: no permission, no space: all is as before.
    """
    folder, name = os.path.split(prefix)
    tensors = _state(network, optimizer, parameters or network.weights) | _description(network)
    tensors |= {OWN_PREFIX + name: tf.convert_to_tensor(value) for name, value in progress.items()}
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    files.remove_unfinished(folder)
    with files.replacing(folder) as aside:
        os.mkdir(aside)
        try:
            tf.raw_ops.SaveV2(
                prefix=os.fsencode(os.path.abspath(aside / name)),
                tensor_names=list(tensors),
                shape_and_slices=[""] * len(tensors),
                tensors=list(tensors.values()),
            )
        except tf.errors.OpError as error:
            raise OSError(first_line(error)) from error


def save_beside_others(prefix: str, *state: object) -> None:
    """Like `save`, but the folder may have other files, which stay.

    A checkpoint is two files, which only a folder of its own can replace at once. So a checkpoint of the same name is
    replaced only if the folder has nothing else, and if it can itself be replaced: it is neither the current directory,
    nor above it, nor a place where a disk is mounted.

    Args:
        state: the arguments of `save` after the prefix.

    Raises:
        UserError: a checkpoint of this name can't be replaced, or there is a folder of this name.
        OSError: no permission, no space: all is as before.
    """
    folder, name = os.path.split(os.path.abspath(prefix))
    if os.path.isdir(prefix) or not os.path.basename(prefix):
        raise UserError(f"{prefix} is a folder: give the checkpoint a name in it, such as {folder}/params.ckpt")
    real = os.path.realpath(folder)  # not a link to the folder, which would be replaced itself
    files_there = os.listdir(real) if os.path.isdir(real) else None
    others = [file for file in files_there or () if not _is_file_of(name, file)]
    has_one = len(others) < len(files_there or ())
    in_use = os.path.ismount(real) or os.path.commonpath([real, os.getcwd()]) == real
    if files_there is None or (has_one and not others and not in_use):
        save(os.path.join(real, name), *state)
        return
    if has_one:
        why_not = ", and the folder can't be replaced, because a disk is mounted on it or this process is in it"
        if others:
            why_not = f" and other files, such as {min(others)}"
        raise UserError(
            f"{folder} has a checkpoint {name}{why_not}: choose another name, or give each checkpoint a folder of its "
            f"own, such as {folder}/{name}/params.ckpt"
        )
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as aside:
        save(os.path.join(aside, "whole", name), *state)
        # The file that makes it a checkpoint comes last.
        for ending in ("data-00000-of-00001", "index"):
            os.replace(os.path.join(aside, "whole", f"{name}.{ending}"), f"{os.path.join(folder, name)}.{ending}")


class UnreadableError(UserError):
    """A checkpoint exists but can't be read (no permission, a failing disk): no other one is taken in its place."""


def load(opened: "Checkpoint", network: Network, optimizer: PolyakAdam | None = None, averaged: bool = False) -> None:
    """Reads a checkpoint into a network and, for training to go on, a built optimizer.

    Args:
        averaged: whether the network gets the Polyak averages in place of the parameters.

    Raises:
        Mismatch: it is of another network, and the message names the likely option; or it lacks the averages.
        UserError: it can't be read, or lacks another tensor.
    """
    shapes = _shapes(network)
    names = list(shapes)
    opened.check_network(shapes, network.description)
    # All is read before anything is assigned: an error leaves the network as it was.
    values = _parameters(opened, shapes, averaged)
    if optimizer is not None:
        if names[0] + AVERAGE not in opened.shapes or "Variable_1" not in opened.shapes:
            what = "Polyak averages" if names[0] + AVERAGE not in opened.shapes else "state of Adam"
            raise UserError(
                f"the checkpoint {opened.prefix} has no {what}, so that training can't go on from it: give "
                f"{option('load_params', in_python='load')} another checkpoint, or train from its parameters with "
                f"{option('init_from', in_python='optimizer=False')}"
            )
        averages = opened.read_like([name + AVERAGE for name in names], shapes.values())
        velocity = opened.read_like([f"Variable_{2 * i + 1}" for i in range(len(names))], shapes.values())
        momentum = opened.read_like([f"Variable_{2 * i + 2}" for i in range(len(names))], shapes.values())
        optimizer.iterations.assign(opened.steps_taken())
        optimizer.average.assign(flatten(averages))
        optimizer.velocity.assign(flatten(velocity))
        optimizer.momentum.assign(flatten(momentum))
    for variable, value in zip(network.weights, values, strict=True):
        variable.assign(value)


def load_parameters(opened: "Checkpoint", network: Network, averaged: bool) -> tuple[list[str], list[str]]:
    """Reads a checkpoint's parameters into a network that may differ in the size of images and in the classes.

    The weights of the labels are read only if the classes are the same: equally many and, where the checkpoint and the
    network both have names of classes, with the same names.

    Args:
        averaged: whether to read the Polyak averages of the parameters, or the parameters themselves.

    Returns:
        The names of the parameters that were read, and of those that keep their values.

    Raises:
        Mismatch: the networks differ in more than that, or the checkpoint lacks the averages.
        UserError: the checkpoint can't be read.
    """
    shapes = _shapes(network)
    recorded, ours = opened.description(), network.description
    has_same_classes = recorded is None or renamed_class(recorded.class_names, ours.class_names) is None
    labels = {name for name in shapes if name.endswith("/hw")}
    taken_labels = {name for name in labels if has_same_classes and opened.shapes.get(name) == shapes[name]}
    wanted = {name: shape for name, shape in shapes.items() if name not in labels - taken_labels}
    opened.check_network(wanted, ours, for_fine_tuning=True)
    variables = dict(zip(shapes, network.weights, strict=True))
    for name, value in zip(wanted, _parameters(opened, wanted, averaged), strict=True):
        variables[name].assign(value)
    return list(wanted), [name for name in shapes if name not in wanted]


def _shapes(network):
    """The shapes of a network's parameters, by the original's names."""
    variables = zip(variable_names(network), network.weights, strict=True)
    return {name: tuple(variable.shape) for name, variable in variables}


def _parameters(opened, shapes, averaged):
    """The parameters of these names and shapes in a checkpoint, or their averages."""
    wanted = [name + AVERAGE if averaged else name for name in shapes]
    if averaged and not set(wanted) <= opened.shapes.keys():
        raw = option("raw", in_python="averaged=False")
        raise Mismatch(f"the checkpoint {opened.prefix} lacks Polyak averages; {raw} takes the parameters themselves")
    return opened.read_like(wanted, shapes.values())


def _state(network, optimizer, parameters):
    names = variable_names(network)
    averages, velocities, momentums = (
        optimizer.split(vector.value) for vector in (optimizer.average, optimizer.velocity, optimizer.momentum)
    )
    state = {name: tf.convert_to_tensor(v) for name, v in zip(names, parameters, strict=True)}
    state |= {name + AVERAGE: average for name, average in zip(names, averages, strict=True)}
    state[_STEPS] = tf.cast(optimizer.iterations.value, tf.int64)
    state["Variable"] = tf.cast(optimizer.iterations.value + 1, tf.float32)
    for i, (v, m) in enumerate(zip(velocities, momentums, strict=True)):
        state[f"Variable_{2 * i + 1}"] = v
        state[f"Variable_{2 * i + 2}"] = m
    return state


def _description(network):
    """The tensors that say which network it is.

    Tensors can't be None: a network that is not conditional on labels has 0 classes, classes without names have an
    empty list of names, and a network without a condition has one without sizes.
    """
    values = dataclasses.asdict(network.description)
    for name in ("nr_labels", "condition_levels"):
        values[name] = values[name] or 0
    values["condition_shape"] = tf.constant(list(values["condition_shape"] or ()), tf.int32)
    values["class_names"] = tf.constant(list(values["class_names"] or ()), tf.string)
    return {NETWORK + name: tf.convert_to_tensor(value) for name, value in values.items()}


class Checkpoint:
    """A checkpoint that was opened: it stays readable if another process removes or replaces its files.

    Its errors are UserErrors. TensorFlow's reader turns a damaged file into an exception of almost any type: all are
    caught.

    Attributes:
        prefix: where it was opened.
        shapes: of its tensors, by name.

    Raises:
        UnreadableError: a file is there, but can't be read.
        UserError: there is no such checkpoint, or it is damaged.
    """

    def __init__(self, prefix: str):
        self.prefix = prefix
        with contextlib.ExitStack() as held:
            try:
                links = held.enter_context(tempfile.TemporaryDirectory(prefix="pixel_snail_"))
            except OSError as error:
                raise UnreadableError(f"can't make a temporary folder: {error.strerror or error}") from error
            try:
                linked = _linked(prefix, links, held)
            except FileNotFoundError as error:
                raise UserError(f"can't read {prefix}.index: {error.strerror}") from error
            except OSError as error:
                raise UnreadableError(
                    f"can't read {error.filename or f'{prefix}.index'}: {error.strerror or error}"
                ) from error
            try:
                self._reader = tf.train.load_checkpoint(linked)
                self.shapes = {k: tuple(v) for k, v in self._reader.get_variable_to_shape_map().items()}
            except Exception as error:
                raise UserError(
                    f"can't read the checkpoint {prefix}, which may be damaged: {first_line(error)}"
                ) from error
            weakref.finalize(self, held.pop_all().close)

    def read(self, names: list[str]) -> list[np.ndarray]:
        """The tensors of these names."""
        missing = [name for name in names if name not in self.shapes]
        if missing:
            more = f" and {counted(len(missing) - 1, 'other tensor')}" if len(missing) > 1 else ""
            raise UserError(f"the checkpoint {self.prefix} lacks {missing[0]}{more}: choose another")
        try:
            return [self._reader.get_tensor(name) for name in names]
        except Exception as error:
            raise UserError(f"the checkpoint {self.prefix} is damaged ({first_line(error)}): choose another") from error

    def read_like(self, names: list[str], shapes: Iterable[tuple[int, ...]]) -> list[np.ndarray]:
        """As read; raises UserError also if they are not float32 of these shapes."""
        values = self.read(names)
        for name, value, shape in zip(names, values, shapes, strict=True):
            if value.dtype != np.float32 or value.shape != shape:
                raise UserError(
                    f"the checkpoint {self.prefix} was {NOT_OURS}: {name} is {value.dtype} of shape "
                    f"{list(value.shape)}, not float32 {_described(shape)}"
                )
        return values

    def check(self) -> None:
        """Raises UserError if a tensor can't be read."""
        for name in self.shapes:
            self.read([name])

    def description(self) -> Description | None:
        """The network that the checkpoint records; None for a checkpoint of the original, which records none.

        Raises:
            UserError: the recorded values are not possible.
        """
        fields = [
            field.name
            for field in dataclasses.fields(Description)
            if field.name not in _LATER_FIELDS or NETWORK + field.name in self.shapes
        ]
        if not any(NETWORK + name in self.shapes for name in fields):
            return None
        values = dict(zip(fields, self.read([NETWORK + name for name in fields]), strict=True))
        try:
            values = {
                "image_shape": tuple(int(size) for size in values.pop("image_shape")),
                "nr_labels": int(values.pop("nr_labels")) or None,
                "dropout_p": float(values.pop("dropout_p")),
                "class_names": tuple(name.decode() for name in values.pop("class_names", ())) or None,
                "levels": int(values.pop("levels", 256)),
                "condition_shape": tuple(int(size) for size in values.pop("condition_shape", ())) or None,
                "condition_levels": int(values.pop("condition_levels", 0)) or None,
                "condition_resnet": int(values.pop("condition_resnet", 0)),
                **{name: int(values.pop(name)) for name in ("nr_resnet", "nr_filters", "nr_logistic_mix")},
                **{name: value.decode() for name, value in values.items()},
            }
            height, width, channels = values["image_shape"]
            sizes = (height, width, *(values[name] for name in ("nr_resnet", "nr_filters", "nr_logistic_mix")))
            if min(*sizes, channels, values["nr_labels"] or 1) < 1 or not is_number_of_levels(values["levels"]):
                raise ValueError
            if values.get("likelihood", LIKELIHOODS[0]) not in LIKELIHOODS:
                raise ValueError
            conditions.checked_kind(
                *(values[f"condition_{name}"] for name in ("shape", "levels", "resnet")), values["image_shape"]
            )
            if values["class_names"] and len(values["class_names"]) != values["nr_labels"]:
                raise ValueError
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"the checkpoint {self.prefix} was {NOT_OURS}: its description of the network is not possible"
            ) from error
        return Description(**values)

    @property
    def has_steps(self) -> bool:
        """Whether the checkpoint records how many steps its parameters have taken."""
        return _STEPS in self.shapes or "Variable" in self.shapes

    @property
    def has_averages(self) -> bool:
        """Whether the checkpoint has Polyak averages of the parameters."""
        return any(name + AVERAGE in self.shapes for name in self.parameters())

    def steps_taken(self) -> int:
        """How many optimisation steps the parameters have taken.

        Raises:
            UserError: the checkpoint does not record it, or another program wrote it.
        """
        name = _STEPS if _STEPS in self.shapes else "Variable"
        (value,) = self.read([name])
        try:
            return int(value) - (name == "Variable")
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"the checkpoint {self.prefix} was {NOT_OURS}: {name} is no count of steps") from error

    def progress(self) -> dict[str, np.ndarray]:
        """The `progress` given to `save`; nothing, if the original wrote the checkpoint.

        Raises:
            UserError: it can't be read.
        """
        names = [name for name in self.shapes if name.startswith(OWN_PREFIX) and not name.startswith(NETWORK)]
        return {name[len(OWN_PREFIX) :]: value for name, value in zip(names, self.read(names), strict=True)}

    def nr_labels(self) -> int | None:
        """The number of classes of a class-conditional network; None for any other network."""
        if recorded := self.description():
            return recorded.nr_labels
        labels = self.shapes.get("model/conditional_weights_0/hw")
        return labels[0] if labels else None

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the network's parameters, by name. Tensors that another program may have added are left out.

        Raises:
            UserError: there are no parameters.
        """
        parameters = {name: shape for name, shape in self.shapes.items() if _PARAMETER.fullmatch(name)}
        if not parameters:
            raise UserError(f"the checkpoint {self.prefix} was {NOT_OURS}: it has no variable model/conv2d_0/V")
        return parameters

    def check_network(
        self, expected: dict[str, tuple[int, ...]], network: Description, for_fine_tuning: bool = False
    ) -> None:
        """Raises Mismatch if the checkpoint is of another network.

        Args:
            expected: the shapes of the network's parameters.
            network: which network it is.
            for_fine_tuning: whether the networks may differ in their levels and classes, so that `expected` may lack
                the weights of the labels.
        """
        found, recorded = self.parameters(), self.description()
        passed_over = ["image_shape", "dropout_p", "class_names"]
        passed_over += ["condition_shape", "condition_levels", "condition_resnet"]  # compared as `condition`
        if for_fine_tuning:
            found = {name: shape for name, shape in found.items() if name in expected or not name.endswith("/hw")}
            passed_over += ["nr_labels"] if network.codes else ["nr_labels", "levels"]
        if recorded is not None:
            has, asked = (
                {"channels": of.image_shape[2], "condition": of.condition} | dataclasses.asdict(of)
                for of in (recorded, network)
            )
            differing = [
                _difference(name, has[name], asked[name])
                for name in has
                if has[name] != asked[name] and name not in passed_over
            ]
            if differing:
                raise Mismatch(
                    f"the checkpoint {self.prefix} is of another network: {', '.join(differing)}; give its values, "
                    "or another checkpoint"
                )
        if found == expected:
            return
        if recorded is None and network.image_shape[2] != 3:
            raise Mismatch(
                f"the checkpoint {self.prefix} does not record its network, so it is of images with 3 channels, as the "
                f"original's are, not {network.image_shape[2]}: give such images, or another checkpoint"
            )
        differing = [name for name in expected if found.get(name) != expected[name]] + sorted(found - expected.keys())
        name = differing[0]
        raise Mismatch(
            f"the checkpoint {self.prefix} is of another network: its {name} is {_described(found.get(name))}, not "
            f"{_described(expected.get(name))}; the difference is probably {_likely_option(found, expected, network)}"
        )


def _linked(prefix, links, held):
    """Opens a checkpoint's files, links them into a folder, and returns their prefix there.

    TensorFlow takes the prefix that it reads for a pattern, so that it can't read `lr[1e-3]/params.ckpt`, and it reads
    no path that is not UTF-8. It opens the files when a tensor is read. On Linux, the links lead to descriptors: what
    they opened can be read even if its name is gone.

    Args:
        held: closes the files.
    """
    directory, name = os.path.split(os.path.abspath(prefix))
    # All from the same folder, even if another takes its name meanwhile.
    within = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    held.callback(os.close, within)
    endings = {file.removeprefix(f"{name}.") for file in os.listdir(within) if _is_file_of(name, file)}
    for ending in sorted({"index"} | endings - {"meta"}):
        try:
            descriptor = os.open(f"{name}.{ending}", os.O_RDONLY, dir_fd=within)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{prefix}.{ending}") from error
        held.callback(os.close, descriptor)
        of_descriptor = f"/proc/self/fd/{descriptor}"
        is_linux = os.path.exists(of_descriptor)
        os.symlink(
            of_descriptor if is_linux else os.path.join(directory, f"{name}.{ending}"),
            os.path.join(links, f"linked.{ending}"),
        )
    return os.path.join(links, "linked")


def _is_file_of(name, file):
    of_checkpoint = prefixes.FILE_OF_CHECKPOINT.fullmatch(file)
    return bool(of_checkpoint) and of_checkpoint[1] == name


def _difference(field, has, asked):
    """In words, how a checkpoint's network differs from the requested one in a field of Description."""
    if field in ("channels", "levels"):
        return f"it is of images with {counted(has, field[:-1])}, not {asked:,}"
    if field == "condition":
        return f"its condition is {has or 'none'}, not {asked or 'none'}"
    if field != "nr_labels":
        return f"its {option(field)} is {has}, not {asked}"
    if has and asked:
        return f"its number of classes is {has}, not {asked}"
    return f"it was trained {'with' if has else 'without'} {option('class_conditional', in_python='nr_labels')}"


def _described(shape):
    return "absent" if shape is None else f"of shape {list(shape)}"


def _likely_option(found, expected, network):
    """The options that most probably turn the shapes in `found` into those in `expected`, of as many channels."""
    options = []
    stem = next(iter(expected))
    if stem in found and found[stem] != expected[stem]:
        options.append(f"{option('nr_filters')} ({found[stem][-1]} in the checkpoint, not {expected[stem][-1]})")
    kinds_found, kinds_expected = ({name.split("/")[1] for name in names} for names in (found, expected))
    labels = "model/conditional_weights_0/hw"
    if any(kind.startswith("conditional") for kind in kinds_found ^ kinds_expected):
        options.append(option("class_conditional", in_python="nr_labels"))
    elif kinds_found != kinds_expected:
        options.append(f"{option('nr_resnet')} or {option('model')}")
    elif labels in found and found[labels][0] != expected[labels][0]:
        options.append(f"the number of classes ({found[labels][0]} in the checkpoint, not {expected[labels][0]})")
    else:
        outputs = list(expected)[-1]
        if found[outputs] != expected[outputs]:
            components = network.nr_logistic_mix * found[outputs][0] // expected[outputs][0]
            in_words = f"{components} in the checkpoint, not {network.nr_logistic_mix}"
            options.append(f"{option('nr_logistic_mix')} ({in_words})")
        elif not options:
            options.append(f"{option('resnet_nonlinearity')} or {option('model')}")
    return " and ".join(options)
