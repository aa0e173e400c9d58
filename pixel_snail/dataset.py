"""Images and labels as users give them: arrays for one network, and data sets of two splits."""

import collections
import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from pixel_snail.errors import UserError, counted, first_line


@dataclasses.dataclass(frozen=True)
class Split:
    """Images, with their labels and names. A DataSet checks them.

    Args:
        images: uint8 [N, H, W, 3], RGB: an array, or an object with `shape`, `dtype` and `len`, indexed like an array.
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

    Raises:
        UserError: images, labels or names do not have the form that Split describes; there are no images; the shapes
            of training and test images differ; or a label is not that of a class. The classes are those of class_names;
            without names, they count up to the largest label of the training images.
    """

    train: Split | None
    test: Split
    source: str = ""
    unverified: str | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    levels: int = 256

    def __post_init__(self):
        for name, split in self._splits().items():
            _check_images(name, split)
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
        """(H, W, 3)."""
        return _shape(self.test.images)[1:]

    @property
    def nr_labels(self) -> int | None:
        """L, the number of classes; labels count from 0. None if the images have no labels."""
        labels = (self.test if self.train is None else self.train).labels
        if labels is None:
            return None
        return len(self.class_names) if self.class_names else int(labels.max()) + 1

    def sizes(self) -> dict[str, object]:
        """Sizes that workers compare, to make sure that all have the same data set."""
        shapes = {
            f"the shape of the {name} images": [len(split), *self.image_shape] for name, split in self._splits().items()
        }
        return shapes | {"the number of classes": self.nr_labels}

    def without_labels(self) -> "DataSet":
        train, test = (split and dataclasses.replace(split, labels=None) for split in (self.train, self.test))
        return dataclasses.replace(self, train=train, test=test, class_names=None)


def _is_text(name):
    try:
        name.encode()
    except UnicodeEncodeError:  # of a file's name that is not UTF-8
        return False
    return True


def _shape(images):
    return tuple(images.shape)


def _check_images(name, split):
    """Raises UserError unless the images are of the form that Split describes. Two of them are read."""
    if not isinstance(split, Split):
        raise UserError(f"the {name} split is a {type(split).__name__}: give a pixel_snail.dataset.Split")
    images, must = split.images, f"give the {name} images as an array uint8 [N, H, W, 3]"
    try:
        shape, dtype, number = _shape(images), np.dtype(images.dtype), len(images)
    except (AttributeError, TypeError) as error:
        raise UserError(f"the {name} images are a {type(images).__name__}: {must}, such as np.stack(images)") from error
    if dtype != np.uint8:
        first = "scale them to 0 to 255, round them, then use" if dtype.kind == "f" else "use"
        raise UserError(f"the {name} images are {dtype}, not uint8: {first} images.astype(np.uint8)")
    mend = ""
    if len(shape) == 3 or shape[3:] == (1,):
        mend = "; if these are grey images [N, H, W], repeat their values: np.repeat(images[..., None], 3, axis=-1)"
    elif len(shape) == 4 and shape[1] == 3 != shape[3]:
        mend = ", as images.transpose(0, 2, 3, 1) does"
    if len(shape) != 4 or shape[3] != 3 or number != shape[0] or not all(shape[1:]):
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
    if (read.dtype, read.shape) != (np.uint8, (min(number, 2), *shape[1:])):
        raise UserError(
            f"two of the {name} images are {read.dtype} {read.shape}, not uint8 {(2, *shape[1:])}: {must}, such as "
            "np.asarray(images)"
        )


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

    Objects that are indexed like an array, such as data sets of h5py and memory-mapped files, are not read: they may be
    larger than memory.

    Args:
        images: uint8 [N, H, W, 3]: an array, a tensor of any library, a list of images, or an object that is indexed
            like an array.
        image_shape: (H, W, 3).

    Raises:
        UserError: they have another form; the message says how to convert them, if their shape or values show it.
    """
    expected = f"uint8 [N, {', '.join(map(str, image_shape))}]"
    if isinstance(images, (str, os.PathLike)):
        raise UserError(f"images must be {expected}, not a path: read the picture first, with PIL.Image for example")
    images = _as_array(images, f"images must be {expected}")
    if images.dtype != np.uint8 or tuple(images.shape[1:]) != tuple(image_shape):
        hint = _how_to_convert(images, tuple(image_shape))
        raise UserError(f"images must be {expected}, not {images.dtype} {list(images.shape)}{hint}")
    return images


def checked_labels(labels: object, number: int, nr_labels: int | None) -> np.ndarray | None:
    """Checks the labels of images for a network, and returns them, integers [N]; None if it is not conditional.

    Args:
        labels: an array, a tensor or a sequence.
        number: N.
        nr_labels: L; None: the network is not conditional.

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


def checked_split(images, labels, image_shape, nr_labels, levels=256) -> Split:
    """Images and labels to train or test a network on; arguments and errors as in checked_images and checked_labels.

    Raises:
        UserError: also if there are no images.
    """
    images = checked_images(images, image_shape, levels)
    if not len(images):
        raise UserError("there are no images: give at least one")
    return Split(images, checked_labels(labels, len(images), nr_labels))


def checked_validation(validation, image_shape, nr_labels, levels=256) -> Split:
    """As checked_split, for images or a tuple (images, labels)."""
    pair = validation if isinstance(validation, tuple) else (validation, None)
    if len(pair) != 2:
        raise UserError(f"validation must be images or (images, labels), not a tuple of {len(pair)}")
    try:
        return checked_split(*pair, image_shape, nr_labels, levels)
    except UserError as error:
        raise UserError(f"validation must be images or (images, labels): {error}") from error


def _as_array(values, must_be):
    """Values as an array, or as they are if they are indexed like one; `must_be` begins the message of the UserError.

    Objects that are indexed like an array, such as data sets of h5py, may be larger than memory.
    """
    if isinstance(getattr(values, "dtype", None), np.dtype) and hasattr(values, "__getitem__"):
        return values
    try:
        return np.asarray(values)
    except Exception as error:  # unequal images, or any error of another library's tensors
        shapes = [list(np.shape(value)) for value in values] if isinstance(values, (list, tuple)) else []
        other = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
        why = first_line(error) if other is None else f"number 0 has the shape {shapes[0]}, {other} has {shapes[other]}"
        raise UserError(f"{must_be}, not {type(values).__name__}: {why}") from error


def _how_to_convert(images, image_shape):
    """How to convert images to the form that is needed, as the end of a message; "" if they do not show it."""
    height, width, channels = image_shape
    shape = tuple(images.shape)
    number = shape[0] if shape else 0
    for likely, advice in (
        (image_shape, "give a single image as [image]"),
        ((height, width), "if this is a grey image, repeat it: np.repeat(image[None, ..., None], 3, axis=-1)"),
        ((number, height, width), "if these are grey images, repeat them: np.repeat(images[..., None], 3, axis=-1)"),
        ((number, channels, height, width), "move the channels to the end: images.transpose(0, 2, 3, 1)"),
        ((number, height, width, 4), "leave the alpha channel out: images[..., :3]"),
    ):
        if shape == likely:
            return f"; {advice}"
    if shape[1:] != image_shape:
        return f"; crop or scale the images to {height} x {width}" if len(shape) == 4 and shape[3] == channels else ""
    if images.dtype.kind not in "fiu" or not isinstance(images, np.ndarray) or not images.size:
        return ""
    low, high = images.min(), images.max()
    if images.dtype.kind == "f" and 0 <= low <= high <= 1:
        return "; if black is 0 and white is 1, convert the images with np.uint8(np.round(255 * images))"
    if images.dtype.kind == "f" and -1 <= low < 0 <= high <= 1:
        return "; if black is -1 and white is 1, convert the images with np.uint8(np.round(127.5 * images + 127.5))"
    if low >= 0 and 1 < high <= 255:
        return "; if black is 0 and white is 255, convert the images with np.uint8(np.round(images))"
    return ""
