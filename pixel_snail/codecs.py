"""What image files spend on images: the yardstick beside a model's bits/dim."""

import io

import numpy as np
import PIL.Image

_SETTINGS = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 6},
}


MOST_IMAGES = 1000
"""Of more images than that, so many are taken, evenly spaced: ten thousand would take minutes."""


def bits_per_dim(images: np.ndarray) -> dict[str, float]:
    """Bits per dimension of each lossless format at its smallest, each image a file of its own, headers included.

    Args:
        images: uint8 [N, H, W, 3]; of more than MOST_IMAGES, that many.
    """
    chosen = np.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES)).round().astype(int)
    images = images[chosen]
    return {
        name: sum(_file_size(image, name, settings) for image in images) * 8 / images.size
        for name, settings in _SETTINGS.items()
    }


def _file_size(image, name, settings):
    stream = io.BytesIO()
    PIL.Image.fromarray(image).save(stream, format=name, **settings)
    return stream.tell()
