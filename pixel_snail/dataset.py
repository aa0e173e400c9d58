"""Data sets of two splits: images, and perhaps their labels, names and conditions."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from pixel_snail.errors import UserError, plain
from pixel_snail.inputs.conditions import kind_of
from pixel_snail.inputs.images import is_type_of, type_in_words, wrong_value
from pixel_snail.inputs.labels import one_for_each
from pixel_snail.likelihoods.levels import check_levels, dtype_of


@dataclasses.dataclass(frozen=True)
class Split:
    """Images, with their labels, conditions and names. A DataSet checks them.

    Args:
        images: values [N, H, W, C]: an array, or an object with `shape`, `dtype` and `len`, indexed like an array. If
            the object has a method `in_epoch(seed, epoch)`, training calls it at the beginning of each epoch, and takes
            the images that it returns. If it has an attribute `levels`, its values are from 0 to levels - 1 and are not
            examined.
        labels: integers [N], if the data set has any.
        names: the names of the images, if they have any.
        condition: one for each image, if the data set has any (see inputs/conditions.py): floating-point numbers [N, D]
            or [N, h, w, D], or integers [N, h, w]; an array, or an object that is indexed like one.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    names: Sequence[str] | None = None
    condition: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def labels_and_conditions(self, number: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The labels and conditions of the first images, `number` of them; if there are fewer, they are repeated."""
        chosen = np.arange(number) % len(self)
        labels = None if self.labels is None else self.labels[chosen]
        return labels, None if self.condition is None else np.asarray(self.condition[: chosen.max() + 1])[chosen]


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

    Attributes:
        condition_shape: the shape of an image's condition; None if the data set has none.
        condition_levels: the number of codes of conditions that are maps of codes.

    Raises:
        UserError: images, labels, conditions or names do not have the form that Split describes; a value is outside the
            levels; there are no images; the shapes of training and test images differ; or a label is not that of a
            class. The classes are those of class_names; without names, they count up to the largest label of the
            training images.
    """

    train: Split | None
    test: Split
    source: str = ""
    unverified: str | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    levels: int = 256
    reduction: str | None = None
    condition_shape: tuple[int, ...] | None = dataclasses.field(init=False)
    condition_levels: int | None = dataclasses.field(init=False)

    def __post_init__(self):
        check_levels(self.levels)
        object.__setattr__(self, "levels", plain(self.levels))
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
        self._check_conditions()
        self._check_classes()

    def _splits(self):
        return {"training": self.train, "test": self.test} if self.train is not None else {"test": self.test}

    def _check_conditions(self):
        conditions = {}
        for name, split in self._splits().items():
            if split.condition is not None:
                if not isinstance(getattr(split.condition, "dtype", None), np.dtype):
                    raise UserError(
                        f"the condition of the {name} images is a {type(split.condition).__name__}: make it an array"
                    )
                conditions[f"the condition of the {name} images"] = split.condition
                if len(split.condition) != len(split):
                    raise UserError(f"there are {len(split)} {name} images, but {len(split.condition)} conditions")
        if len(conditions) == 1 < len(self._splits()):
            raise UserError(f"there is only {next(iter(conditions))}: give both splits conditions, or none")
        shape, levels = kind_of(conditions) if conditions else (None, None)
        object.__setattr__(self, "condition_shape", shape)
        object.__setattr__(self, "condition_levels", levels)

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
            object.__setattr__(self, "class_names", names)  # a tuple also if a list is given
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
                    f"training images are 0 to {self.nr_labels - 1}: mend the labels, or leave all labels out"
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
        return shapes | {
            "the number of levels": self.levels,
            "the number of classes": self.nr_labels,
            "the shape of the conditions": self.condition_shape,
            "the number of the conditions' codes": self.condition_levels,
        }

    def without_conditions(self) -> "DataSet":
        train, test = (split and dataclasses.replace(split, condition=None) for split in (self.train, self.test))
        return dataclasses.replace(self, train=train, test=test)

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
    images, must = split.images, f"give the {name} images as an array of {type_in_words(levels)} [N, H, W, C]"
    try:
        shape, dtype, number = _shape(images), np.dtype(images.dtype), len(images)
    except (AttributeError, TypeError) as error:
        raise UserError(f"the {name} images are a {type(images).__name__}: {must}, such as np.stack(images)") from error
    if not is_type_of(dtype, levels):
        first = f"scale them to 0 to {levels - 1}, round them, then use" if dtype.kind == "f" else "use"
        if levels == 2 and dtype.kind == "f":
            first = "make them black and white, with images > 0.5 for example, then use"
        do = f"{first} images.astype(np.{dtype_of(levels).__name__})"
        raise UserError(f"the {name} images are {dtype}, not {type_in_words(levels)}: {do}")
    mend = ""
    if len(shape) == 3:
        mend = "; if these are grey images [N, H, W], use images[..., None]"
    elif looks_planar := len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) > 8:
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
    if wrong := wrong_value(images, levels):
        raise UserError(f"{name} {wrong}")


def _check_labels(name, split):
    labels, must = split.labels, f"give the labels of the {name} images as an array of integers [N]"
    if labels is None:
        return
    if not isinstance(labels, np.ndarray):
        raise UserError(f"the labels of the {name} images are a {type(labels).__name__}: {must}, as np.asarray does")
    if do := one_for_each(labels.shape, len(split)):
        raise UserError(f"the labels of the {name} images have the shape {labels.shape}: {must}, as {do} does")
    if labels.shape != (len(split),):
        raise UserError(f"there are {len(split)} {name} images, but labels of the shape {labels.shape}: {must}")
    if labels.dtype.kind not in "iu":
        mend = "np.unique(labels, return_inverse=True)[1]" if labels.dtype.kind in "USO" else "labels.astype(int)"
        raise UserError(f"the labels of the {name} images are {labels.dtype}: {must}, such as {mend}")
