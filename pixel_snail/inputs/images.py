"""Images as users give them, checked for a network."""

import os

import numpy as np

from pixel_snail.errors import UserError, first_line
from pixel_snail.likelihoods.levels import dtype_of
from pixel_snail.storage import values


def checked_images(images: object, image_shape: tuple[int, int, int], levels: int = 256) -> np.ndarray:
    """Checks images for a network, and returns them as an array or as an object that is indexed like one.

    Objects that are indexed like an array, such as data sets of h5py and memory-mapped files, may be larger than
    memory. uint8 images of 256 levels are not read; of others, the values are examined, unless their type or their
    attribute `levels` keeps them within the levels.

    Args:
        images: values [N, H, W, C]: an array, a tensor of any library, a list of images, or an object that is indexed
            like an array. They are uint8 if there are 256 levels, else of any type of integers. If C is 1, arrays,
            tensors and lists may be [N, H, W].
        image_shape: (H, W, C).
        levels: the number of levels, L: values are from 0 to L - 1.

    Raises:
        UserError: they have another form; the message says how to convert them, if their shape or values show it.
    """
    expected = f"{type_in_words(levels)} [N, {', '.join(map(str, image_shape))}]"
    if isinstance(images, (str, os.PathLike)):
        raise UserError(f"images must be {expected}, not a path: read the picture first, with PIL.Image for example")
    images = as_array(images, f"images must be {expected}")
    if isinstance(images, np.ndarray) and (*images.shape[1:], 1) == tuple(image_shape):
        images = images[..., None]
    if not is_type_of(images.dtype, levels) or tuple(images.shape[1:]) != tuple(image_shape):
        hint = _how_to_convert(images, tuple(image_shape), levels)
        raise UserError(f"images must be {expected}, not {images.dtype} {list(images.shape)}{hint}")
    if wrong := wrong_value(images, levels):
        raise UserError(wrong)
    return images


def is_type_of(dtype: np.dtype, levels: int) -> bool:
    """Whether images of so many levels may have this type: uint8 for 256, else any integers; for 2, also booleans."""
    if levels == 256:
        return dtype == np.uint8
    return isinstance(dtype, np.dtype) and (dtype.kind in "iu" or (dtype.kind == "b" and levels == 2))


def type_in_words(levels: int) -> str:
    """The type of arrays of values, in words."""
    return "uint8" if levels == 256 else f"integers from 0 to {levels - 1}"


def wrong_value(images: np.ndarray, levels: int) -> str | None:
    """The message if a value is not from 0 to levels - 1, or if the images' attribute `levels` differs; else None."""
    own = getattr(images, "levels", levels)
    if own not in (None, levels):
        return (
            f"images, a {type(images).__name__}, have {own} levels, not {levels}: give both the same number of levels"
        )
    found = values.first_outside(images, levels)
    if found is None:
        return None
    value, where = found
    mend = f"; if these are 8-bit images, use {from_8_bits(levels)}" if levels < value + 1 <= 256 else ""
    return f"{where}, but values must be from 0 to {levels - 1}, with {levels} levels{mend}"


def from_8_bits(levels: int) -> str:
    return "(images > 127).astype(np.uint8)" if levels == 2 else f"np.uint8(np.uint16(images) * {levels} // 256)"


def as_array(given: object, must_be: str) -> np.ndarray:
    """The given images, labels or conditions as an array, or as they are if they are indexed like one.

    Objects that are indexed like an array, such as data sets of h5py, may be larger than memory. `must_be` begins
    the message of the UserError.
    """
    if isinstance(getattr(given, "dtype", None), np.dtype) and hasattr(given, "__getitem__"):
        return given
    try:
        return np.asarray(given)
    except Exception as error:  # unequal images, or any error of another library's tensors
        shapes = [list(np.shape(value)) for value in given] if isinstance(given, (list, tuple)) else []
        other = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
        why = first_line(error) if other is None else f"number 0 has the shape {shapes[0]}, {other} has {shapes[other]}"
        raise UserError(f"{must_be}, not {type(given).__name__}: {why}") from error


def _how_to_convert(images, image_shape, levels):
    """How to convert images to the form that is needed, as the end of a message; "" if they do not show it."""
    height, width, channels = image_shape
    shape = tuple(images.shape)
    number = shape[0] if shape else 0
    likely = {
        image_shape: "give a single image as [image]",
        (number, channels, height, width): "move the channels to the end: images.transpose(0, 2, 3, 1)",
    }
    if channels == 3:
        likely |= {
            (height, width): "if this is a grey image, repeat it: np.repeat(image[None, ..., None], 3, axis=-1)",
            (number, height, width): "if these are grey images, repeat them: np.repeat(images[..., None], 3, axis=-1)",
            (number, height, width, 1): "if these are grey images, repeat them: np.repeat(images, 3, axis=-1)",
            (number, height, width, 4): "leave the alpha channel out: images[..., :3]",
        }
    elif channels == 1:
        likely |= {
            (height, width): "give a single image as image[None, ..., None]",
            (number, height, width): "add the channel: images[..., None]",
            (number, height, width, 3): "the network is for grey images: convert each with PIL's Image.convert('L')",
        }
    if shape in likely:
        return f"; {likely[shape]}"
    if shape[1:] != image_shape:
        return f"; crop or scale the images to {height} x {width}" if len(shape) == 4 and shape[3] == channels else ""
    if images.dtype.kind not in "fiu" or not isinstance(images, np.ndarray) or not images.size:
        return ""
    if images.dtype.kind == "f" and (where := values.first_nan(images)):
        return f"; {where}"
    low, high = images.min(), images.max()
    if levels == 2:
        at = 0.5 if high <= 1 else 127
        return f"; for black and white, use (images > {at}).astype(np.uint8)" if 0 <= low <= high <= 255 else ""
    # Integers from 0 to 1 may be of any number of levels.
    if (images.dtype.kind == "f" or high > 1) and (found := scaling(low, high, levels)):
        given, formula = found
        return f"; if {given}, convert the images with np.{dtype_of(levels).__name__}({formula})"
    if low >= 0 and levels < 256 and high <= 255:
        return f"; if these are 8-bit images, use {from_8_bits(levels)}"
    return ""


def scaling(low: float, high: float, levels: int) -> tuple[str, str] | None:
    """How images with values from low to high become values from 0 to levels - 1.

    Returns:
        What black and white probably are, in words, and the formula in Python; None if the values do not show it.
    """
    white = levels - 1
    if 0 <= low <= high <= 1:
        return "black is 0 and white is 1", f"np.round({white} * images)"
    if -1 <= low < 0 <= high <= 1:
        return "black is -1 and white is 1", f"np.round({white / 2} * images + {white / 2})"
    if 0 <= low <= high <= white:
        return f"black is 0 and white is {white}", "np.round(images)"
    return None
