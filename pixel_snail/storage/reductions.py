"""Views of images, which show them with fewer levels. The images are read, and reduced, when they are needed."""

import numpy as np

from pixel_snail.errors import UserError, check_option, is_whole
from pixel_snail.likelihoods.levels import check_levels, reduced
from pixel_snail.storage import values

FIXED_SEED = 2**31
"""The seed of the values that a Binarized has when it is indexed: the next one above the largest of a training."""
BINARIZED = f"binarized anew in each epoch; the test set always from seed {FIXED_SEED}"
"""How images were reduced to those of Binarized, for DataSet.reduction."""


class Reduced:
    """8-bit images seen with fewer levels: a value v becomes v * levels // 256.

    It is indexed like an array, by whatever indexes the images.

    Args:
        images: uint8 [N, H, W, C]: an array, or an object with `shape`, `dtype` and `len`, indexed like an array.
        levels: the number of levels, from 2 to 256.

    Raises:
        UserError: the images are not uint8, or there can't be so many levels.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, images: np.ndarray, levels: int):
        check_option("levels", levels, is_whole(levels, 2) and levels <= 256, "a whole number from 2 to 256")
        if _dtype(images) != np.uint8:
            raise UserError(f"images of fewer levels are made from images uint8 [N, H, W, C], not {_described(images)}")
        self._images, self.levels = images, levels
        self.shape = tuple(images.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        return reduced(np.asarray(self._images[index]), self.levels)


class _Drawn:
    """Grey images as images of two levels, drawn from a seed, for an epoch; arguments as for Binarized."""

    dtype = np.dtype(np.uint8)
    levels = 2

    def __init__(self, images, levels, seed, epoch):
        self._images, self._white, self._seed, self._epoch = images, levels - 1, seed, epoch
        self.shape = tuple(images.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        if isinstance(index, slice):
            numbers = np.arange(*index.indices(len(self)))
        else:
            numbers = np.asarray(index)
            if numbers.dtype == bool:
                numbers = np.flatnonzero(numbers)
            if isinstance(index, tuple) or numbers.ndim > 1 or numbers.dtype.kind not in "iu":
                raise IndexError("binarized images are indexed by a number, a slice, or an array of numbers")
            numbers = np.where(numbers < 0, numbers + len(self), numbers)
        grey = np.asarray(self._images[index])
        if not numbers.ndim:
            return self._one(grey, int(numbers))
        drawn = [self._one(image, int(i)) for image, i in zip(grey, numbers, strict=True)]
        return np.stack(drawn) if drawn else grey.astype(self.dtype)

    def _one(self, grey, i):
        # The order of the images in an epoch is drawn from [seed, epoch], which NumPy takes for [seed, epoch, 0].
        rng = np.random.default_rng([self._seed, self._epoch, i + 1])
        thresholds = rng.integers(self._white, size=grey.shape, dtype=np.uint8 if self._white < 256 else np.uint16)
        return (grey > thresholds).astype(self.dtype)


class Binarized(_Drawn):
    """Grey images as images of two levels, whose values are drawn: v becomes 1 with the probability v / (levels - 1).

    Training draws all values anew in each epoch (`in_epoch`). Indexed, the object always has the same values, which are
    drawn from FIXED_SEED: so a test is repeatable. An image's values depend only on the seed, the epoch and the image's
    number, not on the images read with it.

    It is indexed by a number, a slice, or an array of numbers.

    Args:
        images: integers [N, H, W, 1]: an array, or an object with `shape`, `dtype` and `len`, indexed like an array.
        levels: the number of levels of these images; white is levels - 1.

    Raises:
        UserError: the images have another form, or values that are not from 0 to levels - 1.
    """

    def __init__(self, images: np.ndarray, levels: int = 256):
        check_levels(levels)
        dtype, shape = _dtype(images), tuple(getattr(images, "shape", ()))
        if dtype is None or dtype.kind not in "iu" or len(shape) != 4 or shape[3] != 1:
            mend = "; use images[..., None]" if len(shape) == 3 else ""
            if dtype is not None and dtype.kind == "f":
                mend = "; scale them to 0 to 255, round them, then use images.astype(np.uint8)"
            raise UserError(
                f"images are binarized from grey images, integers [N, H, W, 1], not {_described(images)}{mend}"
            )
        if outside := values.first_outside(images, levels):
            raise UserError(
                f"{outside[1]}: to be binarized, values must be from 0 to {levels - 1}, with {levels} levels"
            )
        super().__init__(images, levels, FIXED_SEED, epoch=0)

    def in_epoch(self, seed: int, epoch: int) -> _Drawn:
        """The same images with the values that a training with this seed sees in this epoch."""
        return _Drawn(self._images, self._white + 1, seed, epoch)


def _dtype(images):
    dtype = getattr(images, "dtype", None)
    return dtype if isinstance(dtype, np.dtype) else None


def _described(images):
    dtype = _dtype(images)
    return f"a {type(images).__name__}" if dtype is None else f"{dtype} {list(images.shape)}"
