"""Whether the data set that eval.py is given fits the network of the checkpoint."""

import argparse

from pixel_snail.checkpoint import Checkpoint
from pixel_snail.commands.command_line import height_and_width, takes
from pixel_snail.dataset import DataSet
from pixel_snail.errors import UserError, counted
from pixel_snail.inputs.conditions import checked_condition
from pixel_snail.inputs.labels import renamed_class
from pixel_snail.parallel.cluster import Cluster

_IMAGE_SIZE = 32
"""The side of drawn images if neither the checkpoint nor --image_size gives it."""


def images_and_classes(
    flags: argparse.Namespace, opened: Checkpoint, data_set: DataSet | None
) -> tuple[tuple[int, int, int], int, int | None, tuple[str, ...] | None]:
    """The shape and the levels of the images; of a conditional network, the number of classes, and their names.

    Args:
        flags: of eval.py.
        opened: the network's checkpoint.
        data_set: the data set; None: nothing is evaluated, and images are drawn as the checkpoint and the flags say.

    Raises:
        UserError: the images of the data set have other channels, levels or classes than those of the network.
    """
    prefix, nr_labels, recorded = opened.prefix, opened.nr_labels(), opened.description()
    if flags.class_conditional != bool(nr_labels):
        is_conditional, do = ("is", "add") if nr_labels else ("is not", "drop")
        raise UserError(f"the network of {prefix} {is_conditional} conditional on classes: {do} --class_conditional")
    names = recorded.class_names if recorded else None
    height, width, channels = recorded.image_shape if recorded else (_IMAGE_SIZE, _IMAGE_SIZE, 3)
    levels = recorded.levels if recorded else 256
    if data_set is None:
        if flags.image_size:
            height, width = height_and_width(flags.image_size)
        return (height, width, channels), levels, nr_labels, names
    _check_kind(flags, prefix, channels, levels, data_set)
    own = data_set.nr_labels
    # Of test images alone, without names of classes, the largest label decides: the last classes may be missing.
    is_exact = data_set.train or data_set.class_names or not own
    if nr_labels and (own != nr_labels if is_exact else own > nr_labels):
        theirs, ours = counted(nr_labels, "class", "classes"), f"has {own}" if own else "has no labels"
        raise UserError(
            f"the network of {prefix} is conditional on {theirs}, but the data set {flags.data_set} {ours}: evaluate "
            "it on the data set of its training"
        )
    if renamed := renamed_class(names, data_set.class_names):
        raise UserError(
            f"the network of {prefix} was trained on other classes than those of the data set {flags.data_set}, for "
            f"example {renamed[0]} instead of {renamed[1]}: evaluate it on the data set of its training"
        )
    return data_set.image_shape, levels, nr_labels, names or data_set.class_names


def with_the_networks_condition(
    flags: argparse.Namespace, cluster: Cluster, opened: Checkpoint, data_set: DataSet | None
) -> DataSet | None:
    """The data set, with conditions only if the network takes any.

    Args:
        flags, opened, data_set: as for `images_and_classes`.
        cluster: the workers. Only the chief prints the note that conditions are not used.

    Raises:
        UserError: the network takes conditions that the data set does not have, or that are to be drawn from without
            a data set.
    """
    recorded, given = opened.description(), data_set and data_set.test.condition
    kind = recorded and recorded.condition
    if kind is None:
        if given is None:
            return data_set
        if cluster.is_chief:
            print("note: the network takes no condition: the conditions of the data set are not used", flush=True)
        return data_set.without_conditions()
    is_conditional = f"the network of {opened.prefix} is conditional on {kind}"
    if flags.complete:
        raise UserError(f"{is_conditional}, which --complete can't give: complete images from Python, with condition=")
    if data_set is None:
        raise UserError(
            f"{is_conditional}: leave --skip_test out, because samples take the conditions of the test images"
        )
    if given is None:
        raise UserError(
            f"{is_conditional}, but the data set {flags.data_set} has none: give --data_set=arrays with test_condition"
        )
    try:
        checked_condition(given, len(data_set.test), kind)
    except UserError as error:
        raise UserError(f"{is_conditional}, and the data set {flags.data_set} has others: {error}") from error
    return data_set


def _check_kind(flags, prefix, channels, levels, data_set):
    """Raises UserError if the images of a data set have other channels or levels than those of the network."""
    ours, name = data_set.image_shape[2], flags.data_set
    elsewhere = "evaluate it on the data set of its training"
    if ours != channels:
        do = elsewhere
        if channels == 1 and takes(name, "grey"):
            do = "add --grey"
        elif channels == 3 and flags.grey:
            do = "leave --grey out"
        theirs, ours = _images_of(channels), _images_of(ours)
        raise UserError(f"the network of {prefix} is of {theirs}, but the data set {name} has {ours}: {do}")
    if data_set.levels != levels:
        unreduced, do = 256 if data_set.reduction else data_set.levels, elsewhere
        if flags.binarize:
            is_reduced = levels < 256 and name != "arrays"
            do = f"give --levels={levels} in place of --binarize" if is_reduced else "leave --binarize out"
        elif data_set.reduction and levels == unreduced:
            do = "leave --levels out"
        elif name == "arrays" and not data_set.reduction and data_set.levels < levels:
            do = f"give --levels={levels} if its values are numbers from 0 to {levels - 1}, as in the training"
        elif levels < unreduced == 256:
            do = f"give {'--binarize or ' if levels == 2 and channels == 1 else ''}--levels={levels}"
        raise UserError(
            f"the network of {prefix} is of images with {levels:,} levels, but the data set {name} has "
            f"{data_set.levels:,}: {do}"
        )


def _images_of(channels):
    return {1: "grey images", 3: "RGB images"}.get(channels, f"images with {channels} channels")
