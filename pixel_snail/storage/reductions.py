"""Views of images: with fewer levels, or with values drawn anew in each epoch.

The images are read, and reduced or drawn, when they are needed.
"""

import dataclasses

import numpy as np

from pixel_snail.errors import UserError, check_option, is_number, is_whole
from pixel_snail.likelihoods.levels import check_levels, dtype_of, reduced
from pixel_snail.storage import values

FIXED_SEED = 2**31
"""The seed of drawn values when a view is indexed: the next one above the largest of a training."""
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
        own = getattr(images, "levels", 256)
        if _dtype(images) != np.uint8 or own not in (None, 256):
            of_levels = "" if own in (None, 256) else f" of {own} levels"
            raise UserError(
                f"images of fewer levels are made from 8-bit images, uint8 [N, H, W, C] of 256 levels, not "
                f"{_described(images)}{of_levels}"
            )
        self._images, self.levels = images, levels
        self.shape = tuple(images.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        return reduced(np.asarray(self._images[index]), self.levels)

    def in_epoch(self, seed: int, epoch: int) -> "Reduced":
        """The images that a training with this seed sees in this epoch: others only if `images` draws them anew."""
        return Reduced(in_epoch(self._images, seed, epoch), self.levels)


def in_epoch(images: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The images that a training with this seed sees in this epoch: others only if they are drawn anew (see Split)."""
    drawn_anew = getattr(images, "in_epoch", None)
    return images if drawn_anew is None else drawn_anew(seed, epoch)


class _Drawn:
    """Images whose values are drawn from a seed, for an epoch.

    Args:
        images: values [N, H, W, C].
        law: how values are drawn. `law.drawn(image, rng)` draws those of an image, whose levels and type are
            `law.levels` and `law.dtype`; `law.stream` is appended to the seed, so that two laws use different random
            numbers.
        seed, epoch: they and an image's number decide its random numbers.
    """

    def __init__(self, images, law, seed, epoch):
        self._images, self._law, self._seed, self._epoch = images, law, seed, epoch
        self.shape, self.levels, self.dtype = tuple(images.shape), law.levels, np.dtype(law.dtype)

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
                raise IndexError("drawn images are indexed by a number, a slice, or an array of numbers")
            numbers = np.where(numbers < 0, numbers + len(self), numbers)
        given = np.asarray(self._images[index])
        if not numbers.ndim:
            return self._one(given, int(numbers))
        drawn = [self._one(image, int(i)) for image, i in zip(given, numbers, strict=True)]
        return np.stack(drawn) if drawn else given.astype(self.dtype)

    def _one(self, image, i):
        # The order of the images in an epoch is drawn from [seed, epoch], which NumPy takes for [seed, epoch, 0].
        rng = np.random.default_rng([self._seed, self._epoch, i + 1, *self._law.stream])
        return self._law.drawn(image, rng)


class _DrawnAnew(_Drawn):
    """Images whose values training draws anew in each epoch. Indexed, they have values drawn from FIXED_SEED."""

    def __init__(self, images, law):
        super().__init__(images, law, FIXED_SEED, epoch=0)

    def in_epoch(self, seed: int, epoch: int) -> _Drawn:
        """The same images with the values that a training with this seed sees in this epoch."""
        return _Drawn(in_epoch(self._images, seed, epoch), self._law, seed, epoch)


@dataclasses.dataclass(frozen=True)
class _Binarization:
    """A value v becomes 1 with the probability v / white, else 0."""

    white: int
    stream = ()
    levels = 2
    dtype = np.uint8

    def drawn(self, grey, rng):
        thresholds = rng.integers(self.white, size=grey.shape, dtype=np.uint8 if self.white < 256 else np.uint16)
        return (grey > thresholds).astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class _Mutation:
    """With the probability `rate`, a value is replaced by one drawn uniformly from all levels."""

    rate: float
    levels: int
    dtype: np.dtype
    stream = (1,)  # not 0: NumPy takes the seed [a, b, 0] for [a, b], that of binarization

    def drawn(self, image, rng):
        is_replaced = rng.random(image.shape) < self.rate
        others = rng.integers(self.levels, size=image.shape, dtype=dtype_of(self.levels))
        return np.where(is_replaced, others, image).astype(self.dtype)


class Binarized(_DrawnAnew):
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
        _check_integers(images, levels, "binarized", "grey images, integers [N, H, W, 1]", channels=1)
        super().__init__(images, _Binarization(levels - 1))


class Mutated(_DrawnAnew):
    """Images of which some values are replaced: each, with the probability `rate`, by one drawn uniformly.

    The drawn value is from 0 to levels - 1, and may equal the old one. A network that is trained on such images is a
    background model (see docs/out_of_distribution.md).

    Training replaces other values in each epoch (`in_epoch`). If `images` is a Binarized, training first binarizes
    anew, then replaces values. Indexed, the object always has the same values, which are drawn from FIXED_SEED. An
    image's values depend only on the seed, the epoch and the image's number. The random numbers are independent of
    Binarized's.

    It is indexed by a number, a slice, or an array of numbers.

    Args:
        images: integers [N, H, W, C]: an array, or an object with `shape`, `dtype` and `len`, indexed like an array.
        rate: the probability that a value is replaced, from 0 to 1.
        levels: the number of levels of the images. With two, they may be booleans.

    Raises:
        UserError: the images have another form, or values that are not from 0 to levels - 1; or there is no such rate.
    """

    def __init__(self, images: np.ndarray, rate: float, levels: int = 256):
        check_option("rate", rate, is_number(rate) and 0 <= rate <= 1, "a number from 0 to 1")
        _check_integers(images, levels, "mutated", "integers [N, H, W, C]")
        super().__init__(images, _Mutation(float(rate), levels, dtype_of(levels)))


def _check_integers(images, levels, participle, form, channels=None):
    """Raises UserError unless images are integers [N, H, W, C] from 0 to levels - 1.

    Args:
        participle: what becomes of them, for the message.
        form: what they must be, in words.
        channels: the only possible C; None: any.
    """
    check_levels(levels)
    dtype, shape = _dtype(images), tuple(getattr(images, "shape", ()))
    kinds = "iub" if levels == 2 else "iu"
    if dtype is None or dtype.kind not in kinds or len(shape) != 4 or channels not in (None, shape[3]):
        mend = "; use images[..., None]" if len(shape) == 3 else ""
        if dtype is not None and dtype.kind == "f":
            to = dtype_of(levels).__name__
            mend = f"; scale them to 0 to {levels - 1}, round them, then use images.astype(np.{to})"
        raise UserError(f"images are {participle} from {form}, not {_described(images)}{mend}")
    own = getattr(images, "levels", None)
    if own not in (None, levels):
        raise UserError(f"images, a {type(images).__name__}, have {own} levels, not {levels}: give levels={own}")
    if outside := values.first_outside(images, levels):
        raise UserError(
            f"{outside[1]}: to be {participle}, values must be from 0 to {levels - 1}, with {levels} levels"
        )


def _dtype(images):
    dtype = getattr(images, "dtype", None)
    return dtype if isinstance(dtype, np.dtype) else None


def _described(images):
    dtype = _dtype(images)
    return f"a {type(images).__name__}" if dtype is None else f"{dtype} {list(images.shape)}"
