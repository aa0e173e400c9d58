"""Crops of the seven colour photographs in the scikit-image package: nothing to download.

Each photograph is divided into cells of 64 x 64 pixels. Every eighth cell is a test cell and is cut into four test
crops; test cells scatter over the photograph. Training crops start every 16 pixels, unless they would touch a test
cell. So both splits show the same photographs, but no test pixel occurs in training. The number of crops of a
photograph is limited, because half the area of the two largest photographs is black.
"""

import importlib.resources

import numpy as np
import PIL.Image

from pixel_snail.errors import UserError

SIZE = 32
FILES = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "motorcycle_left.png",
)
_CELL = 64
_TEST_EVERY = 8
_STRIDE = 16
_MOST_TRAIN, _MOST_TEST = 1000, 48  # crops of one photograph


def load() -> tuple[np.ndarray, np.ndarray]:
    """Returns the training and the test crops, uint8 [N, 32, 32, 3]. They are the same on every machine.

    Raises:
        UserError: scikit-image or a photograph of its package is missing.
    """
    splits = [_split(_read(file)) for file in FILES]
    return tuple(np.concatenate(crops) for crops in zip(*splits, strict=True))


def test_cells(height: int, width: int) -> np.ndarray:
    """A mask of the pixels of a photograph that belong to test cells: booleans [height, width]."""
    rows, columns = height // _CELL, width // _CELL
    # 3 and 8 have no common factor, so that neighbouring rows have their test cells in different columns.
    is_test = (np.arange(rows)[:, None] * 3 + np.arange(columns)) % _TEST_EVERY == _TEST_EVERY // 2
    pixels = np.zeros([height, width], bool)
    pixels[: rows * _CELL, : columns * _CELL] = is_test.repeat(_CELL, 0).repeat(_CELL, 1)
    return pixels


def _read(file):
    try:
        # Opened by its path: skimage.data's functions may download a file that the package lacks.
        with (importlib.resources.files("skimage") / "data" / file).open("rb") as stream:
            return np.asarray(PIL.Image.open(stream).convert("RGB"))
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise UserError(f"scikit-image's photograph {file} is missing: pip install -r requirements.txt") from error


def _split(photo):
    is_test = test_cells(*photo.shape[:2])
    train, test = [], []
    for y in range(0, photo.shape[0] - SIZE + 1, _STRIDE):
        for x in range(0, photo.shape[1] - SIZE + 1, _STRIDE):
            window = np.s_[y : y + SIZE, x : x + SIZE]
            if not is_test[window].any():
                train.append(photo[window])
            elif y % SIZE == 0 and x % SIZE == 0 and is_test[window].all():
                test.append(photo[window])
    return _spread(train, _MOST_TRAIN), _spread(test, _MOST_TEST)


def _spread(crops, most):
    """At most `most` of the crops, evenly spaced."""
    chosen = np.linspace(0, len(crops) - 1, min(most, len(crops))).round().astype(int)
    return np.stack([crops[i] for i in chosen])
