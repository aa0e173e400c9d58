"""Images of 8 bits, and the numbers in [-1, 1] that networks see in their place."""

import numpy as np


def scaled(values):
    """The values 0, ..., 255 as numbers in [-1, 1]: a float32 array or tensor, of any shape."""
    return (values - 127.5) / 127.5


def from_8_bits(images: np.ndarray) -> np.ndarray:
    """Scales uint8 images to float32 in [-1, 1]."""
    return scaled(images.astype(np.float32))


def to_8_bits(images: np.ndarray) -> np.ndarray:
    """Rounds images in [-1, 1] to uint8."""
    return np.clip(np.round(images * 127.5 + 127.5), 0, 255).astype(np.uint8)
