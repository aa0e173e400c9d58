"""A data set: two splits of images, perhaps with labels, and what a user should know of them."""

import dataclasses

import numpy as np

from pixel_snail.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
    """Images, uint8 [N, H, W, 3], RGB, and their labels, integers [N], if the data set has any."""

    images: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclasses.dataclass(frozen=True)
class DataSet:
    """The training and the test split, and their origin.

    Args:
        source: what the images were read from, in words.
        unverified: why the test images may not be the published ones; None if they were verified, or if the data set
            has no published test images.
        class_names: the names of the classes, in the order of their labels; None if there are no labels or no names.
        notes: what a user should know of how the images were read: sentences, such as which pictures were left out.

    Raises:
        UserError: a label is not that of a class. The classes are those of class_names; without names, they count up to
            the largest label of the training images.
    """

    train: Split
    test: Split
    source: str = ""
    unverified: str | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        for name, split in (("training", self.train), ("test", self.test)):
            if split.labels is None or self.nr_labels is None:
                continue
            outside = np.flatnonzero((split.labels < 0) | (split.labels >= self.nr_labels))
            if len(outside):
                raise UserError(
                    f"{name} image {outside[0]} has the label {split.labels[outside[0]]}, but the classes of the "
                    f"training images are 0 to {self.nr_labels - 1}"
                )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, 3)."""
        return self.train.images.shape[1:]

    @property
    def nr_labels(self) -> int | None:
        """L, the number of classes; labels count from 0. None if the images have no labels."""
        if self.train.labels is None:
            return None
        return len(self.class_names) if self.class_names else int(self.train.labels.max()) + 1

    def sizes(self) -> dict[str, object]:
        """Sizes that workers compare, to make sure that all have the same data set."""
        return {
            "the shape of the training images": [len(self.train), *self.image_shape],
            "the shape of the test images": [len(self.test), *self.image_shape],
            "the number of classes": self.nr_labels,
        }

    def without_labels(self) -> "DataSet":
        train, test = Split(self.train.images), Split(self.test.images)
        return dataclasses.replace(self, train=train, test=test, class_names=None)
