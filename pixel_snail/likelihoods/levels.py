"""The values of images: integers from 0 to L - 1, and the numbers in [-1, 1] that networks see in their place.

`levels` is L, the number of values that a channel of a pixel can have: from 2 to 65,536. 8-bit images have 256.
"""

import numpy as np

from pixel_snail.errors import check_option, is_whole

MOST_LEVELS = 2**16
NUMBERS_OF_LEVELS = f"a whole number from 2 to {MOST_LEVELS:,}"
"""The possible numbers of levels, in words."""


def is_number_of_levels(value: object) -> bool:
    """Whether images can have so many levels."""
    return is_whole(value, least=2) and value <= MOST_LEVELS


def check_levels(levels: object) -> None:
    """Raises UserError if images can't have so many levels."""
    check_option("levels", levels, is_number_of_levels(levels), NUMBERS_OF_LEVELS)


def is_8_bit_rgb(channels: int, levels: int) -> bool:
    """Whether these are the images of the original: they are drawn without rounding, and stored as it stores them."""
    return (channels, levels) == (3, 256)


def are_also_in_nats(levels: int) -> bool:
    """Whether figures in bits/dim are also given in nats an image, as the literature does for images of two levels."""
    return levels == 2


def scaled(values, levels: int = 256):
    """Values as numbers in [-1, 1]: a float32 array or tensor, of any shape."""
    half = (levels - 1) / 2
    return (values - half) / half


def from_values(images: np.ndarray, levels: int = 256) -> np.ndarray:
    """Scales images of values, of any integer type, to float32 in [-1, 1]."""
    return scaled(images.astype(np.float32), levels)


def to_values(images: np.ndarray, levels: int = 256) -> np.ndarray:
    """Rounds images in [-1, 1] to values; the result has the type of `dtype_of`."""
    half = (levels - 1) / 2
    return np.clip(np.round(images * half + half), 0, levels - 1).astype(dtype_of(levels))


def dtype_of(levels: int) -> type[np.unsignedinteger]:
    """The type of arrays of values: uint8 up to 256 levels, else uint16."""
    return np.uint8 if levels <= 256 else np.uint16


def reduced(values: np.ndarray, levels: int) -> np.ndarray:
    """Reduces 8-bit values, uint8, to fewer levels: v * levels // 256, as Glow's images of 5 bits."""
    return (values.astype(np.uint16) * levels // 256).astype(np.uint8)
