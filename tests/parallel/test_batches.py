"""Photographs and batches: no image is lost or repeated, and no test pixel occurs in training."""

import numpy as np
import pytest

from data import photos
from pixel_snail.dataset import Split
from pixel_snail.errors import UserError, options_named_as_flags
from pixel_snail.parallel.batches import check_batch_size, training_batches
from pixel_snail.parallel.batches import test_batches as batches_of_test


@pytest.fixture(scope="module")
def photo_splits():
    return photos.load()


def test_photos_are_thousands_of_training_and_hundreds_of_test_crops(photo_splits):
    train, test = photo_splits
    assert train.dtype == test.dtype == np.uint8
    assert train.shape == (5638, 32, 32, 3)
    assert test.shape == (244, 32, 32, 3)


def test_photos_are_the_same_every_time(photo_splits):
    for split, again in zip(photo_splits, photos.load(), strict=True):
        np.testing.assert_array_equal(split, again)


def test_no_test_pixel_of_a_photo_occurs_in_training():
    """On a photograph whose pixels all differ, so that the value of a pixel tells its place."""
    height, width = 427, 640
    places = np.arange(height * width)
    photo = (
        np.stack([places % 256, places // 256 % 256, places // 65536], -1).reshape(height, width, 3).astype(np.uint8)
    )
    train, test = (
        {int(p[0]) + 256 * int(p[1]) + 65536 * int(p[2]) for p in crops.reshape(-1, 3)}
        for crops in photos._split(photo)
    )
    assert not train & test
    assert test == set(np.flatnonzero(photos.test_cells(height, width)))
    assert 0.05 < len(test) / (height * width) < 0.2


def test_crops_are_windows_of_the_photograph():
    photo = photos._read("chelsea.png")
    assert photo.shape == (300, 451, 3)
    train, _ = photos._split(photo)
    np.testing.assert_array_equal(train[0], photo[:32, :32])
    np.testing.assert_array_equal(train[1], photo[:32, 16:48])


def numbered_split(images, labels=True):
    """Images of one pixel, whose value is the image's number; so is its label."""
    numbers = np.arange(images, dtype=np.uint8)
    return Split(np.broadcast_to(numbers[:, None, None, None], [images, 1, 1, 3]), numbers if labels else None)


def test_an_epoch_of_training_is_a_permutation_without_its_remainder():
    epochs = [list(training_batches(numbered_split(50), 8, seed=1, epoch=epoch)) for epoch in (0, 1, 1)]
    orders = [np.concatenate([batch["images"][:, 0, 0, 0] for batch in batches]) for batches in epochs]
    for batches, order in zip(epochs, orders, strict=True):
        assert order.shape == (48,)
        assert len(set(order)) == 48
        np.testing.assert_array_equal(order, np.concatenate([batch["labels"] for batch in batches]))
    assert (orders[0] != orders[1]).any()
    np.testing.assert_array_equal(orders[1], orders[2])


def test_an_epoch_goes_on_after_the_images_that_were_seen():
    whole, rest = (
        np.concatenate([batch["labels"] for batch in training_batches(numbered_split(50), 8, 1, 3, seen)])
        for seen in (0, 16)
    )
    np.testing.assert_array_equal(rest, whole[16:])


def test_test_batches_are_all_images_once_in_order():
    batches = list(batches_of_test(numbered_split(21), 8))
    order = np.concatenate([batch["images"][:, 0, 0, 0] for batch in batches])
    np.testing.assert_array_equal(order, [*range(21), 20, 20, 20])
    assert all(batch["images"].shape == (8, 1, 1, 3) for batch in batches)


def test_batches_without_labels_have_none():
    (batch,) = batches_of_test(numbered_split(3, labels=False), 3)
    assert set(batch) == {"images"}


def test_images_may_be_memory_mapped(tmp_path):
    np.save(tmp_path / "images.npy", np.arange(40 * 4 * 4 * 3, dtype=np.uint8).reshape(40, 4, 4, 3))
    split = Split(np.load(tmp_path / "images.npy", mmap_mode="r"))
    images = np.concatenate([batch["images"] for batch in batches_of_test(split, 8)])
    np.testing.assert_array_equal(images, split.images)


@pytest.mark.parametrize(
    "kind, expected", [(np.uint8, "uint8"), (np.uint16, "int32"), (">i8", "int32"), (bool, "int32")]
)
def test_values_are_uint8_or_else_int32(kind, expected):
    images = np.arange(2 * 3 * 2 * 5).reshape(2, 3, 2, 5).astype(kind)
    (batch,) = batches_of_test(Split(images), 2)
    assert batch["images"].dtype == expected
    np.testing.assert_array_equal(batch["images"], images)


def test_each_epoch_of_training_asks_the_images_for_its_own():
    class Numbered:
        dtype, shape = np.dtype(np.uint8), (6, 1, 1, 3)

        def __init__(self, value=0):
            self.value = value

        def in_epoch(self, seed, epoch):
            return Numbered(10 * seed + epoch)

        def __len__(self):
            return 6

        def __getitem__(self, index):
            return np.full([len(index), 1, 1, 3], self.value, np.uint8)

    split = Split(Numbered())
    for seed, epoch in ((3, 0), (3, 4)):
        values = {int(batch["images"][0, 0, 0, 0]) for batch in training_batches(split, 2, seed, epoch)}
        assert values == {10 * seed + epoch}
    assert {int(batch["images"][0, 0, 0, 0]) for batch in batches_of_test(split, 2)} == {0}


def test_a_batch_larger_than_the_data_set_is_refused():
    with pytest.raises(UserError, match=r"^batch_size=8 is larger than the training set, which has 7 images: lower it"):
        training_batches(numbered_split(7), 8, seed=0, epoch=0)


def test_a_batch_of_several_replicas_larger_than_the_data_set_is_refused():
    check_batch_size(numbered_split(8), 2, replicas=4)
    message = r"^--batch_size=2 on each of 4 replicas is larger than the training set, which has 7 images: lower it"
    with options_named_as_flags(), pytest.raises(UserError, match=message):
        check_batch_size(numbered_split(7), 2, replicas=4)


def test_missing_photographs_are_a_clear_error(monkeypatch):
    monkeypatch.setattr(photos, "FILES", ("nowhere.png",))
    with pytest.raises(UserError, match=r"nowhere\.png is missing: pip install"):
        photos.load()
