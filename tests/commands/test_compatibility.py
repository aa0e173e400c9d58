"""A data set that does not fit the network of a checkpoint is refused, and the message says what to do."""

import types

import numpy as np
import pytest

from pixel_snail.commands import compatibility
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError
from pixel_snail.storage.reductions import BINARIZED


def opened_of(image_shape, levels):
    """A checkpoint of a network of such images; None for image_shape: of the original, which records neither."""
    recorded = types.SimpleNamespace(image_shape=image_shape, levels=levels, class_names=None)
    description = recorded if image_shape else None
    return types.SimpleNamespace(prefix="run/a.ckpt", nr_labels=lambda: None, description=lambda: description)


def flags_of(data_set, **others):
    given = {"class_conditional": False, "image_size": None, "grey": False, "binarize": False, "data_set": data_set}
    return types.SimpleNamespace(**given | others)


@pytest.mark.parametrize(
    "network, data_set, flags, message",
    [
        (
            ((8, 8, 1), 2),
            ((8, 8, 1), 256, None),
            {},
            "is of images with 2 levels, but the data set mnist has 256: ",
        ),
        (((8, 8, 1), 2), ((8, 8, 1), 256, None), {}, "give --binarize or --levels=2$"),
        (((8, 8, 3), 2), ((8, 8, 3), 256, None), {}, "give --levels=2$"),
        (
            ((8, 8, 1), 32),
            ((8, 8, 1), 2, BINARIZED),
            {"binarize": True},
            "has 2: give --levels=32 in place of --binarize$",
        ),
        *(
            (((8, 8, 1), levels), ((8, 8, 1), 2, BINARIZED), {"binarize": True, "data_set": name}, "leave --bin.* out$")
            for name, levels in (("arrays", 16), ("tfds:a", 65_536))
        ),
        (((8, 8, 1), 256), ((8, 8, 1), 2, BINARIZED), {"binarize": True}, "has 2: leave --binarize out$"),
        ((None, None), ((8, 8, 3), 32, "levels=32"), {}, "with 256 levels, but .* has 32: leave --levels out$"),
        (
            ((8, 8, 1), 1024),
            ((8, 8, 1), 256, None),
            {},
            "with 1,024 levels, .* has 256: evaluate it on the data",
        ),
        (
            ((8, 8, 1), 256),
            ((8, 8, 3), 256, None),
            {},
            "is of grey images, but the data set mnist has RGB images: ev",
        ),
        (((8, 8, 1), 256), ((8, 8, 3), 256, None), {"data_set": "folder"}, "folder has RGB images: add --grey$"),
        (((8, 8, 1), 2), ((8, 8, 3), 256, None), {"data_set": "tfds:a"}, "tfds:a has RGB images: add --grey$"),
        (
            (None, None),
            ((8, 8, 1), 256, None),
            {"grey": True},
            "is of RGB images, but .* has grey images: leave --gre",
        ),
        (
            ((8, 8, 1), 16),
            ((8, 8, 1), 8, None),
            {"data_set": "arrays"},
            "has 8: give --levels=16 if its values are numbers from 0 to 15, as in the training$",
        ),
        (((8, 8, 4), 9), ((8, 8, 2), 9, None), {}, "is of images with 4 channels, but .* images with 2 channels: eval"),
    ],
)
def test_a_data_set_of_other_channels_or_levels_is_refused_with_advice(network, data_set, flags, message):
    image_shape, levels, reduction = data_set
    images = types.SimpleNamespace(image_shape=image_shape, levels=levels, reduction=reduction)
    with pytest.raises(UserError, match=message) as error:
        compatibility.images_and_classes(flags_of(**{"data_set": "mnist"} | flags), opened_of(*network), images)
    assert str(error.value).startswith("the network of run/a.ckpt is of ") and "\n" not in str(error.value)


def test_test_images_alone_may_lack_the_last_classes():
    of_test, others = Split(np.zeros([2, 8, 8, 1], np.uint8), np.array([0, 2])), Split(np.zeros([1, 8, 8, 1], np.uint8))
    opened, flags = opened_of((8, 8, 1), 256), flags_of("arrays", class_conditional=True)
    for number in (3, 5):
        opened.nr_labels = lambda number=number: number
        assert compatibility.images_and_classes(flags, opened, DataSet(None, of_test))[2] == number
    training = Split(of_test.images, of_test.labels)
    for data_set, words in (
        (DataSet(training, of_test), "conditional on 5 classes, but the data set arrays has 3"),
        (DataSet(None, of_test, class_names=("a", "b", "c")), "on 5 classes, but the data set arrays has 3"),
        (DataSet(None, others), "on 5 classes, but the data set arrays has no labels"),
    ):
        with pytest.raises(UserError, match=words):
            compatibility.images_and_classes(flags, opened, data_set)
    opened.nr_labels = lambda: 2
    with pytest.raises(UserError, match="on 2 classes, but the data set arrays has 3"):
        compatibility.images_and_classes(flags, opened, DataSet(None, of_test))


def test_without_a_test_images_have_the_shape_and_levels_that_the_checkpoint_records():
    for image_size, expected in ((None, (28, 20, 1)), (16, (16, 16, 1)), ("12x8", (12, 8, 1))):
        flags = flags_of("mnist", image_size=image_size)
        assert compatibility.images_and_classes(flags, opened_of((28, 20, 1), 2), None)[:2] == (expected, 2)
    flags = flags_of("cifar", image_size="12x8")
    assert compatibility.images_and_classes(flags_of("cifar"), opened_of(None, None), None)[:2] == ((32, 32, 3), 256)
    assert compatibility.images_and_classes(flags, opened_of(None, None), None)[:2] == ((12, 8, 3), 256)
