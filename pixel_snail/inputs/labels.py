"""Labels as users give them, checked for a network."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from pixel_snail.errors import UserError, counted
from pixel_snail.inputs.images import as_array


def one_for_each(shape: tuple[int, ...], number: int) -> str | None:
    """How to convert labels [N, n] of N images to [N], in Python; None if they have another shape."""
    if len(shape) != 2 or shape[0] != number or not shape[1]:
        return None
    return "labels[:, 0]" if shape[1] == 1 else "labels.argmax(1)"


def renamed_class(names: Sequence[str] | None, others: Sequence[str] | None) -> tuple[str, str] | None:
    """The first class whose names in two lists differ, and its name in each; None if there is none, or no names."""
    for pair in zip(names or (), others or (), strict=False):
        # Earlier versions recorded a name in the Unicode form in which the system stores it.
        if len({unicodedata.normalize("NFC", name) for name in pair}) == 2:
            return pair
    return None


def checked_labels(labels: object, number: int, nr_labels: int | None) -> np.ndarray | None:
    """Checks the labels of images for a network, and returns them, integers [N]; None if it takes none.

    Args:
        labels: an array, a tensor or a sequence.
        number: N.
        nr_labels: the number of classes; None: the network takes no labels.

    Raises:
        UserError: the labels have another shape or type, are not from 0 to nr_labels - 1, are missing, or are given
            although the network takes none.
    """
    if nr_labels is None:
        if labels is not None:
            raise UserError("the network is not conditional on classes: leave labels out")
        return None
    if labels is None:
        classes = counted(nr_labels, "class", "classes")
        raise UserError(f"the network is conditional on {classes}: give labels, integers [{number}]")
    labels = np.asarray(as_array(labels, f"labels must be integers [{number}]"))
    if labels.shape != (number,) or (number and labels.dtype.kind not in "iu"):
        do = one_for_each(labels.shape, number) if labels.shape[1:] in [(1,), (nr_labels,)] else None
        if labels.shape == (number,) and labels.dtype.kind == "f":
            do = "labels.astype(int)"
        hint = f"; use {do}" if do else ""
        raise UserError(f"labels must be integers [{number}], not {labels.dtype} {list(labels.shape)}{hint}")
    outside = np.flatnonzero((labels < 0) | (labels >= nr_labels))
    if len(outside):
        raise UserError(
            f"image {outside[0]} has the label {labels[outside[0]]}, but the network knows the classes 0 to "
            f"{nr_labels - 1}"
        )
    return labels
