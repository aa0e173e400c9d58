"""Images as users give them to a network, with their labels and conditions, as a Split."""

from collections.abc import Sequence

import numpy as np

from pixel_snail.backend import tf
from pixel_snail.dataset import Split
from pixel_snail.errors import UserError
from pixel_snail.inputs.conditions import checked_condition
from pixel_snail.inputs.images import checked_images
from pixel_snail.inputs.labels import checked_labels
from pixel_snail.network import Description

Images = np.ndarray | tf.Tensor
"""Values from 0 to levels - 1, [N, H, W, C]: uint8 for 256 levels, else any integers. Tensors of other libraries, lists
of images and data sets of h5py are taken too. h5py's data sets are read a batch at a time."""

Labels = np.ndarray | tf.Tensor | Sequence[int] | None
"""Integers [N] from 0 to nr_labels - 1."""

Array = np.ndarray | tf.Tensor | None
"""Conditions: floating-point numbers [N, D] or [N, h, w, D], or integers [N, h, w] from 0 to condition_levels - 1."""


def checked_split(
    description: Description, images: object, labels: object = None, condition: object = None, least: int = 0
) -> Split:
    """Checks images [N, H, W, C], labels [N] and conditions [N, ...] for a network.

    Args:
        description: the network's description.
        least: the least number of images.

    Raises:
        UserError: they do not have the form that the network takes, or there are too few images.
    """
    images = checked_images(images, description.image_shape, description.levels)
    if len(images) < least:
        raise UserError("there are no images: give at least one")
    labels, condition = checked_given(description, len(images), labels, condition)
    return Split(images, labels, condition=condition)


def checked_given(
    description: Description, number: int, labels: object, condition: object
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Labels and conditions for `number` images of a network, checked.

    Raises:
        UserError: they do not have the form that the network takes.
    """
    return (
        checked_labels(labels, number, description.nr_labels),
        checked_condition(condition, number, description.condition),
    )


def checked_validation(description: Description, validation: object) -> Split:
    """Images to test a network on: images, or a tuple (images, labels) or (images, labels, condition).

    Raises:
        UserError: they do not have the form that the network takes, or there are none.
    """
    given = validation if isinstance(validation, tuple) else (validation,)
    forms = "images, (images, labels) or (images, labels, condition)"
    if not 1 <= len(given) <= 3:
        raise UserError(f"validation must be {forms}, not a tuple of {len(given)}")
    try:
        return checked_split(description, *given, least=1)
    except UserError as error:
        raise UserError(f"validation must be {forms}: {error}") from error
