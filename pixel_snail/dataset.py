"""Images and labels as users give them: arrays for one network, and data sets of two splits."""

import collections
import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from pixel_snail.errors import UserError, counted, first_line
from pixel_snail.likelihoods.levels import check_levels, dtype_of
from pixel_snail.storage import values


@dataclasses.dataclass(frozen=True)
class Split:
    """Images, with their labels and names. A DataSet checks them.

    Args:
        images: values [N, H, W, C]: an array, or an object with `shape`, `dtype` and `len`, indexed like an array. If
            the object has a method `in_epoch(seed, epoch)`, training calls it at the beginning of each epoch, and takes
            the images that it returns. If it has an attribute `levels`, its values are from 0 to levels - 1 and are not
            examined.
        labels: integers [N], if the data set has any.
        names: the names of the images, if they have any.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclasses.dataclass(frozen=True)
class DataSet:
    """The training and the test split, and their origin.

    Args:
        train: None if the data set is only for testing.
        source: the origin of the images, in words.
        unverified: why the test images may not be the published ones; None if they were verified, or if the data set
            has no published test images.
        class_names: the names of the classes, in the order of their labels; None if there are no labels or no names.
        notes: sentences for the user about the reading of the images, such as which pictures were left out.
        levels: the number of levels, from 2 to 65,536: values are from 0 to levels - 1.
        reduction: how the values were changed, precisely enough for comparing results; None: not at all.

    Raises:
        UserError: images, labels or names do not have the form that Split describes; a value is outside the levels;
            there are no images; the shapes of training and test images differ; or a label is not that of a class. The
            classes are those of class_names; without names, they count up to the largest label of the training images.
    """

    train: Split | None
    test: Split
    source: str = ""
    unverified: str | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    levels: int = 256
    reduction: str | None = None

    def __post_init__(self):
        check_levels(self.levels)
        for name, split in self._splits().items():
            _check_images(name, split, self.levels)
            _check_labels(name, split)
            if split.names is not None and len(split.names) != len(split):
                raise UserError(f"the {len(split)} {name} images have {len(split.names)} names: give each one a name")
        shapes = {name: _shape(split.images)[1:] for name, split in self._splits().items()}
        if len(set(shapes.values())) > 1:
            raise UserError(
                f"the training images are {shapes['training']}, the test images {shapes['test']}: give both the same "
                "shape"
            )
        labelled = [name for name, split in self._splits().items() if split.labels is not None]
        if len(labelled) == 1 < len(shapes):
            raise UserError(f"only the {labelled[0]} images have labels: give both splits labels, or none")
        self._check_classes()

    def _splits(self):
        return {"training": self.train, "test": self.test} if self.train is not None else {"test": self.test}

    def _check_classes(self):
        if self.class_names is not None:
            names = tuple(self.class_names)
            if isinstance(self.class_names, str) or not all(isinstance(name, str) for name in names):
                raise UserError(f"class_names must be a tuple of strings, not {self.class_names!r}")
            if bad := [name for name in names if not _is_text(name)]:
                raise UserError(
                    f"class_names has {bad[0]!r}, which can't be written as UTF-8: give the class another name"
                )
            twice = [name for name, number in collections.Counter(names).items() if number > 1]
            if twice:
                raise UserError(f"class_names has {twice[0]!r} twice: give each class a name of its own")
            object.__setattr__(self, "class_names", names)  # a list would never equal a checkpoint's tuple
        if isinstance(self.notes, str):
            raise UserError("notes must be a tuple of sentences, not a string")
        if self.nr_labels is None:
            return
        for name, split in self._splits().items():
            if split.labels.max() >= 2**31:
                raise UserError(
                    f"{name} image {split.labels.argmax()} has the label {split.labels.max()}: give labels that count "
                    "from 0"
                )
            outside = np.flatnonzero((split.labels < 0) | (split.labels >= self.nr_labels))
            if len(outside):
                raise UserError(
                    f"{name} image {outside[0]} has the label {split.labels[outside[0]]}, but the classes of the "
                    f"training images are 0 to {self.nr_labels - 1}"
                )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C)."""
        return _shape(self.test.images)[1:]

    @property
    def nr_labels(self) -> int | None:
        """The number of classes; labels count from 0. None if the images have no labels."""
        labels = (self.test if self.train is None else self.train).labels
        if labels is None:
            return None
        return len(self.class_names) if self.class_names else int(labels.max()) + 1

    def sizes(self) -> dict[str, object]:
        """Sizes that workers compare, to make sure that all have the same data set."""
        shapes = {
            f"the shape of the {name} images": [len(split), *self.image_shape] for name, split in self._splits().items()
        }
        return shapes | {"the number of levels": self.levels, "the number of classes": self.nr_labels}

    def without_labels(self) -> "DataSet":
        train, test = (split and dataclasses.replace(split, labels=None) for split in (self.train, self.test))
        return dataclasses.replace(self, train=train, test=test, class_names=None)


EVERY_TENTH = "every tenth image is in the test set, and not in the training set"
"""The division of images of which none are called the test set, in words."""


def every_tenth(number: int) -> np.ndarray:
    """Which images EVERY_TENTH takes for the test set, booleans [number]: of fewer than ten, the last one."""
    return np.arange(number) % 10 == min(10, number) - 1


def _is_text(name):
    try:
        name.encode()
    except UnicodeEncodeError:  # of a file's name that is not UTF-8
        return False
    return True


def _shape(images):
    return tuple(images.shape)


def _check_images(name, split, levels):
    """Raises UserError unless the images are of the form that Split describes. Two of them are read.

    All are read if their type alone does not keep their values within the levels.
    """
    if not isinstance(split, Split):
        raise UserError(f"the {name} split is a {type(split).__name__}: give a pixel_snail.dataset.Split")
    images, must = split.images, f"give the {name} images as an array of {_kind(levels)} [N, H, W, C]"
    try:
        shape, dtype, number = _shape(images), np.dtype(images.dtype), len(images)
    except (AttributeError, TypeError) as error:
        raise UserError(f"the {name} images are a {type(images).__name__}: {must}, such as np.stack(images)") from error
    if not _is_type_of(dtype, levels):
        first = f"scale them to 0 to {levels - 1}, round them, then use" if dtype.kind == "f" else "use"
        if levels == 2 and dtype.kind == "f":
            first = "make them black and white, with images > 0.5 for example, then use"
        do = f"{first} images.astype(np.{dtype_of(levels).__name__})"
        raise UserError(f"the {name} images are {dtype}, not {_kind(levels)}: {do}")
    mend = ""
    if len(shape) == 3:
        mend = "; if these are grey images [N, H, W], use images[..., None]"
    elif looks_planar := len(shape) == 4 and shape[1] in (1, 3) and shape[3] > 4:
        mend = ", as images.transpose(0, 2, 3, 1) does"
    if len(shape) != 4 or looks_planar or number != shape[0] or not all(shape[1:]):
        raise UserError(f"the {name} images have the shape {shape}: {must}{mend}")
    if not number:
        raise UserError(f"there are no {name} images: give at least one")
    try:
        read = np.asarray(images[np.unique([0, number - 1])])
    except Exception as error:  # of whatever stands in for an array
        raise UserError(
            f"the {name} images, a {type(images).__name__}, can't be indexed by an array of numbers "
            f"({type(error).__name__}): {must}, such as np.asarray(images)"
        ) from error
    if (read.dtype, read.shape) != (dtype, (min(number, 2), *shape[1:])):
        raise UserError(
            f"two of the {name} images are {read.dtype} {read.shape}, not {dtype} {(2, *shape[1:])}: {must}, such as "
            "np.asarray(images)"
        )
    if wrong := _wrong_value(images, levels):
        raise UserError(f"{name} {wrong}")


def _is_type_of(dtype, levels):
    """Whether arrays of this type can have values of so many levels."""
    if levels == 256:
        return dtype == np.uint8
    return isinstance(dtype, np.dtype) and (dtype.kind in "iu" or (dtype.kind == "b" and levels == 2))


def _kind(levels):
    """The type of arrays of values, in words."""
    return "uint8" if levels == 256 else f"integers from 0 to {levels - 1}"


def _wrong_value(images, levels):
    """The first value outside of the levels, where it is, and the advice for it; None if there is none."""
    own = getattr(images, "levels", levels)
    if own not in (None, levels):
        return (
            f"images, a {type(images).__name__}, have {own} levels, not {levels}: give both the same number of levels"
        )
    found = values.first_outside(images, levels)
    if found is None:
        return None
    value, where = found
    mend = f"; if these are 8-bit images, use {_from_8_bits(levels)}" if levels < value + 1 <= 256 else ""
    return f"{where}, but values must be from 0 to {levels - 1}, with {levels} levels{mend}"


def _from_8_bits(levels):
    return "(images > 127).astype(np.uint8)" if levels == 2 else f"np.uint8(np.uint16(images) * {levels} // 256)"


def _check_labels(name, split):
    labels, must = split.labels, f"give the labels of the {name} images as an array of integers [N]"
    if labels is None:
        return
    if not isinstance(labels, np.ndarray):
        raise UserError(f"the labels of the {name} images are a {type(labels).__name__}: {must}, as np.asarray does")
    if labels.ndim == 2 and len(labels) == len(split):
        raise UserError(
            f"the labels of the {name} images have the shape {labels.shape}: {must}, as labels.argmax(1) does"
        )
    if labels.shape != (len(split),):
        raise UserError(f"there are {len(split)} {name} images, but labels of the shape {labels.shape}: {must}")
    if labels.dtype.kind not in "iu":
        mend = "np.unique(labels, return_inverse=True)[1]" if labels.dtype.kind in "USO" else "labels.astype(int)"
        raise UserError(f"the labels of the {name} images are {labels.dtype}: {must}, such as {mend}")


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
    expected = f"{_kind(levels)} [N, {', '.join(map(str, image_shape))}]"
    if isinstance(images, (str, os.PathLike)):
        raise UserError(f"images must be {expected}, not a path: read the picture first, with PIL.Image for example")
    images = _as_array(images, f"images must be {expected}")
    if isinstance(images, np.ndarray) and (*images.shape[1:], 1) == tuple(image_shape):
        images = images[..., None]
    if not _is_type_of(images.dtype, levels) or tuple(images.shape[1:]) != tuple(image_shape):
        hint = _how_to_convert(images, tuple(image_shape), levels)
        raise UserError(f"images must be {expected}, not {images.dtype} {list(images.shape)}{hint}")
    if wrong := _wrong_value(images, levels):
        raise UserError(wrong)
    return images


def checked_labels(labels: object, number: int, nr_labels: int | None) -> np.ndarray | None:
    """Checks the labels of images for a network, and returns them, integers [N]; None if it is not conditional.

    Args:
        labels: an array, a tensor or a sequence.
        number: N.
        nr_labels: the number of classes; None: the network is not conditional.

    Raises:
        UserError: the labels have another form, are missing, or are given although the network is not conditional.
    """
    if nr_labels is None:
        if labels is not None:
            raise UserError("the network is not conditional on classes: leave labels out")
        return None
    if labels is None:
        classes = counted(nr_labels, "class", "classes")
        raise UserError(f"the network is conditional on {classes}: give labels, integers [{number}]")
    labels = np.asarray(_as_array(labels, f"labels must be integers [{number}]"))
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


def checked_split(
    images: object, labels: object, image_shape: tuple[int, int, int], nr_labels: int | None, levels: int = 256
) -> Split:
    """Images and labels to train or test a network on; arguments and errors as in checked_images and checked_labels.

    Raises:
        UserError: also if there are no images.
    """
    images = checked_images(images, image_shape, levels)
    if not len(images):
        raise UserError("there are no images: give at least one")
    return Split(images, checked_labels(labels, len(images), nr_labels))


def checked_validation(
    validation: object, image_shape: tuple[int, int, int], nr_labels: int | None, levels: int = 256
) -> Split:
    """As checked_split, for images or a tuple (images, labels)."""
    pair = validation if isinstance(validation, tuple) else (validation, None)
    if len(pair) != 2:
        raise UserError(f"validation must be images or (images, labels), not a tuple of {len(pair)}")
    try:
        return checked_split(*pair, image_shape, nr_labels, levels)
    except UserError as error:
        raise UserError(f"validation must be images or (images, labels): {error}") from error


def _as_array(given, must_be):
    """The given images or labels as an array, or as they are if they are indexed like one.

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
    low, high, white = images.min(), images.max(), levels - 1
    if levels == 2:
        at = 0.5 if high <= 1 else 127
        return f"; for black and white, use (images > {at}).astype(np.uint8)" if 0 <= low <= high <= 255 else ""
    if images.dtype.kind == "f" and 0 <= low <= high <= 1:
        given, formula = "black is 0 and white is 1", f"np.round({white} * images)"
    elif images.dtype.kind == "f" and -1 <= low < 0 <= high <= 1:
        given, formula = "black is -1 and white is 1", f"np.round({white / 2} * images + {white / 2})"
    elif low >= 0 and 1 < high <= white:
        given, formula = f"black is 0 and white is {white}", "np.round(images)"
    elif low >= 0 and levels < 256 and high <= 255:
        return f"; if these are 8-bit images, use {_from_8_bits(levels)}"
    else:
        return ""
    return f"; if {given}, convert the images with np.{dtype_of(levels).__name__}({formula})"
