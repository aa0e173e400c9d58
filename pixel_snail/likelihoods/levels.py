"""The values of images: integers from 0 to L - 1, and the numbers in [-1, 1] that networks see in their place.

`levels` is L, the number of values that a channel of a pixel can have: from 2 to 65,536. 8-bit images have 256.
"""

import numpy as np

MOST_LEVELS = 2**16


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
