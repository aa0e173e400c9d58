"""Conditions: vectors or maps, besides labels, from which a network predicts an image.

A condition is a vector of numbers [D]; a map of numbers [h, w, D]; or a map of codes [h, w], such as those of an upper
level of a VQ-VAE. The sides of a map divide those of the image.
"""

import dataclasses
import math

import numpy as np

from pixel_snail.errors import UserError, check_option, counted, is_whole
from pixel_snail.inputs.images import as_array
from pixel_snail.likelihoods.levels import MOST_LEVELS, NUMBERS_OF_LEVELS, is_number_of_levels
from pixel_snail.storage import values


@dataclasses.dataclass(frozen=True)
class Condition:
    """The kind of condition that a network takes.

    Attributes:
        shape: (D,), (h, w, D) or (h, w); None for a network that takes no condition.
        levels: the number of codes of a map of codes; None: the condition has numbers.
        resnet: how many gated_resnets a map goes through; 0 for vectors.
    """

    shape: tuple[int, ...] | None
    levels: int | None = None
    resnet: int = 0

    def __str__(self) -> str:
        if len(self.shape) == 1:
            return f"vectors of {counted(*self.shape, 'number')}"
        size = " x ".join(map(str, self.shape))
        kind = "numbers" if self.levels is None else f"codes from 0 to {self.levels - 1}"
        through = f", through {counted(self.resnet, 'residual block')}" if self.resnet else ""
        return f"maps of {size} {kind}{through}"


NO_CONDITION = Condition(None)
"""What is recorded for a network that takes no condition."""


def checked_kind(shape: object, levels: object, resnet: object, image_shape: tuple[int, int, int]) -> Condition | None:
    """The kind of condition that a network is built for; None if `shape` is None.

    Args:
        shape, levels, resnet: as in Condition. For vectors, `resnet` has no effect.
        image_shape: (H, W, C).

    Raises:
        UserError: a value is not possible; `levels` is given without `shape`, or for a shape other than (h, w); or the
            sides of a map do not divide those of the image.
    """
    check_option("condition_resnet", resnet, is_whole(resnet, least=0), "a whole number, 0 or more")
    if shape is None:
        if levels is not None:
            raise UserError(f"condition_levels={levels!r} is for a network with a condition: give condition_shape too")
        return None
    kinds = "(D,), (h, w, D) or, for codes, (h, w)"
    if not hasattr(shape, "__len__") or not all(is_whole(size, least=1) for size in shape) or not 1 <= len(shape) <= 3:
        raise UserError(f"condition_shape must be {kinds}, not {shape!r}")
    shape = tuple(map(int, shape))
    if len(shape) == 2 and levels is None:
        raise UserError(
            f"condition_shape={shape} is a map of codes: give condition_levels, their number; a map of numbers is "
            "(h, w, D)"
        )
    if levels is not None:
        if len(shape) != 2:
            raise UserError(f"condition_levels is for a map of codes, (h, w), not for condition_shape={shape}")
        check_option("condition_levels", levels, is_number_of_levels(levels), NUMBERS_OF_LEVELS)
    if len(shape) > 1 and (image_shape[0] % shape[0] or image_shape[1] % shape[1]):
        raise UserError(
            f"a condition of {shape[0]} x {shape[1]} can't be laid over images of {image_shape[0]} x {image_shape[1]}: "
            "its sides must divide theirs"
        )
    return Condition(shape, None if levels is None else int(levels), int(resnet) if len(shape) > 1 else 0)


def checked_condition(condition: object, number: int, kind: Condition | None) -> np.ndarray | None:
    """Checks the conditions of images for a network, and returns them as an array or an object indexed like one.

    Args:
        condition: one for each image, [N, ...]: floating-point numbers, or integers if they are codes.
        number: N.
        kind: the kind of condition that the network takes, or None. Maps of codes may be [N, h, w, 1].

    Raises:
        UserError: the array has another shape or type; a number is not finite; a code is not from 0 to levels - 1; the
            condition is missing; or it is given although the network takes none.
    """
    if kind is None:
        if condition is not None:
            raise UserError("the network takes no condition: leave condition out")
        return None
    if condition is None:
        raise UserError(f"the network is conditional on {kind}: give condition, {_expected(kind, number)}")
    condition = as_array(condition, f"condition must be {_expected(kind, number)}")
    if kind.levels is not None and isinstance(condition, np.ndarray) and condition.shape[1:] == (*kind.shape, 1):
        condition = condition[..., 0]  # as codes are drawn
    shape = tuple(condition.shape)
    is_of_kind = condition.dtype.kind in ("f" if kind.levels is None else "iu")
    if shape != (number, *kind.shape) or not is_of_kind:
        hint = _how_to_convert(condition, (number, *kind.shape), kind)
        raise UserError(f"condition must be {_expected(kind, number)}, not {condition.dtype} {list(shape)}{hint}")
    _check_values(condition, kind.levels, "condition")
    return condition


def kind_of(conditions: dict[str, np.ndarray]) -> tuple[tuple[int, ...], int | None]:
    """(shape, levels) of a data set's conditions, as in Condition.

    levels is one more than the largest code of all splits, at least 2; None for numbers.

    Args:
        conditions: the arrays [N, ...] of the splits; the keys name them in messages.

    Raises:
        UserError: they are of no form that networks take, of unequal forms, or have values that are not possible.
    """
    shapes, levels = {}, None
    for name, condition in conditions.items():
        dtype, shape = np.dtype(condition.dtype), tuple(condition.shape[1:])
        if dtype.kind in "iu" and len(shape) != 2:
            of_classes = "; give classes as labels" if not shape else ""
            raise UserError(
                f"{name} is {dtype} [{_sizes(('N', *shape))}]: integers are codes, [N, h, w]; give "
                f"numbers as float32{of_classes}"
            )
        if dtype.kind not in "fiu" or (dtype.kind == "f" and len(shape) not in (1, 3)) or not math.prod(shape):
            raise UserError(
                f"{name} is {dtype} [{_sizes(('N', *shape))}]: give floating-point numbers [N, D] or "
                "[N, h, w, D], or integers [N, h, w]"
            )
        shapes[name] = (shape, dtype.kind == "f")
        if dtype.kind == "f":
            _check_values(condition, None, name)
        else:
            _check_values(condition, MOST_LEVELS, name)
            largest = max(int(chunk.max()) for _, chunk in values.chunks(condition))
            levels = max(levels or 2, largest + 1)
    if len(set(shapes.values())) > 1:
        (one, (of_one, _)), (other, (of_other, _)) = shapes.items()
        raise UserError(f"{one} is [N, {_sizes(of_one)}], {other} is [N, {_sizes(of_other)}]: both need the same form")
    return next(iter(shapes.values()))[0], levels


def _check_values(condition, levels, name):
    """Raises UserError if a number is not finite or, with `levels`, if an integer is not from 0 to levels - 1."""
    if levels is not None:
        if outside := values.first_outside(condition, levels):
            raise UserError(f"{name}: the one of {outside[1]}: give codes from 0 to {levels - 1}")
        return
    for start, chunk in values.chunks(condition):
        with np.errstate(over="ignore"):
            is_bad = ~np.isfinite(chunk.astype(np.float32))
        if is_bad.any():
            place = tuple(np.argwhere(is_bad)[0])
            raise UserError(
                f"{name}: the one of image {start + place[0]} has the value {chunk[place]}: give finite float32 numbers"
            )


def _expected(kind, number):
    what = "floats" if kind.levels is None else f"integers from 0 to {kind.levels - 1}"
    return f"{what} [{number}, {_sizes(kind.shape)}]"


def _sizes(shape):
    return ", ".join(map(str, shape))


def _how_to_convert(condition, expected, kind):
    """How to convert a condition to the form that is needed, as the end of a message; "" if that is not known."""
    if condition.shape == expected:
        to = "astype(np.float32)" if kind.levels is None else "round().astype(int)"
        return f"; use condition.{to}, if its values are numbers of that kind" if condition.dtype.kind in "fiub" else ""
    if condition.shape == expected[1:]:
        return "; give one for each image: np.repeat(condition[None], N, axis=0)"
    if (*condition.shape, 1) == expected:
        return "; use condition[..., None]"
    return "; use condition[..., 0]" if condition.shape == (*expected, 1) else ""
