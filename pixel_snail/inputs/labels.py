"""Labels as users give them, checked for a network."""

import numpy as np

from pixel_snail.errors import UserError, counted
from pixel_snail.inputs.images import as_array


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
        hint = {(number, nr_labels): "; use labels.argmax(1)", (number, 1): "; use labels[:, 0]"}.get(labels.shape, "")
        if labels.shape == (number,) and labels.dtype.kind == "f":
            hint = "; use labels.astype(int)"
        raise UserError(f"labels must be integers [{number}], not {labels.dtype} {list(labels.shape)}{hint}")
    outside = np.flatnonzero((labels < 0) | (labels >= nr_labels))
    if len(outside):
        raise UserError(
            f"image {outside[0]} has the label {labels[outside[0]]}, but the network knows the classes 0 to "
            f"{nr_labels - 1}"
        )
    return labels
