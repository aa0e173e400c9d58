"""Views of images: with fewer levels, or with values drawn anew in each epoch, which do not depend on the batch."""

import pickle

import h5py
import numpy as np
import pytest

from data.converted import MappedImages
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError
from pixel_snail.likelihoods.levels import dtype_of
from pixel_snail.parallel.batches import epoch_order, training_batches
from pixel_snail.storage.reductions import FIXED_SEED, Binarized, Mutated, Reduced

GREY = np.random.default_rng(0).integers(0, 256, [20, 4, 5, 1], np.uint8)
INDICES = [3, -1, slice(None), slice(2, 9, 3), slice(7, 2), [0, 4, 5], np.arange(20) % 3 == 0, np.array([], int)]


@pytest.fixture(params=["array", "mapped file", "HDF5"])
def images(request, tmp_path):
    if request.param == "mapped file":
        GREY.tofile(tmp_path / "images")
        yield MappedImages(tmp_path / "images", GREY.shape)
    elif request.param == "HDF5":
        with h5py.File(tmp_path / "images.h5", "w") as file:
            file["images"] = GREY
            yield file["images"]
    else:
        yield GREY


@pytest.mark.parametrize("index", INDICES, ids=repr)
@pytest.mark.parametrize(
    "view",
    [
        Binarized,
        lambda images: Reduced(images, 32),
        lambda images: Mutated(images, 0.3),
        lambda images: Mutated(Binarized(images), 0.3, 2),
    ],
    ids=["binarized", "reduced", "mutated", "binarized, then mutated"],
)
def test_a_part_of_a_view_is_that_part_of_the_whole(view, index, images):
    seen = view(images)
    part, whole = seen[index], seen[:]
    np.testing.assert_array_equal(part, whole[index])
    assert part.dtype == seen.dtype == np.uint8
    assert (len(seen), seen.shape) == (20, (20, 4, 5, 1))


@pytest.mark.parametrize("levels", [2, 3, 32, 256])
def test_reduced_images_have_the_levels_of_the_formula(levels):
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    seen = Reduced(every, levels)
    np.testing.assert_array_equal(seen[:].ravel(), [v * levels // 256 for v in range(256)])
    assert seen.levels == levels


def test_images_that_are_reduced_after_they_were_drawn_are_drawn_anew_in_each_epoch():
    seen = Reduced(Mutated(GREY, 0.3), 8).in_epoch(3, 4)
    np.testing.assert_array_equal(seen[:], Mutated(GREY, 0.3).in_epoch(3, 4)[:] // 32)
    assert (seen[:] != Reduced(Mutated(GREY, 0.3), 8).in_epoch(3, 5)[:]).any() and seen.levels == 8


def test_a_value_becomes_one_with_the_probability_of_its_brightness_and_black_and_white_always_stay():
    """The law, for 8 bits and for 6 levels: the mean over many draws is within 5 standard errors of its law."""
    for levels in (6, 256):
        grey = np.broadcast_to(np.arange(levels).reshape(1, 1, levels, 1), [40, 100, levels, 1]).astype(np.uint8)
        p = np.arange(levels) / (levels - 1)
        for drawn in (Binarized(grey, levels)[:], Binarized(grey, levels).in_epoch(1, 2)[:]):
            assert set(np.unique(drawn)) == {0, 1}
            means = drawn.mean((0, 1, 3))
            assert (np.abs(means - p) <= 5 * np.sqrt(p * (1 - p) / 4000)).all()  # exact at 0 and 1


def test_sixteen_bit_values_are_drawn_too():
    grey = np.repeat(np.array([0, 1 << 14, (1 << 16) - 1], np.uint16), 4000).reshape(1, -1, 1, 1)
    means = Binarized(grey, 1 << 16)[0].reshape(3, -1).mean(1)
    np.testing.assert_allclose(means, [0, 0.25, 1], atol=5 * np.sqrt(0.25 * 0.75 / 4000))
    assert (means[0], means[2]) == (0, 1)


def test_values_differ_between_seeds_epochs_and_images_and_are_repeated_for_the_same_ones():
    grey = np.full([3, 8, 8, 1], 128, np.uint8)
    seen = Binarized(grey)
    draws = [seen[:], *(seen.in_epoch(seed, epoch)[:] for seed in (0, 1) for epoch in (0, 1))]
    assert len({image.tobytes() for draw in draws for image in draw}) == 3 * len(draws)
    np.testing.assert_array_equal(Binarized(grey.copy()).in_epoch(1, 0)[:], draws[3])
    np.testing.assert_array_equal(Binarized(grey.copy())[:], draws[0])


def test_the_fixed_values_stay_those_of_earlier_versions():
    """They define the test set: published results would change with them."""
    assert FIXED_SEED == 2**31
    seen = Binarized(np.arange(0, 256, 17, dtype=np.uint8).reshape(1, 4, 4, 1))
    golden = [[0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]]
    assert seen[0][..., 0].tolist() == golden


def test_a_pickled_view_gives_the_same_values():
    for view in (Binarized(GREY), Binarized(GREY).in_epoch(3, 4), Reduced(GREY, 7), Mutated(GREY, 0.5).in_epoch(3, 4)):
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(view))[:], view[:])


@pytest.mark.parametrize("rate", [0, 0.1, 1])
@pytest.mark.parametrize(
    "dtype, levels, channels",
    [
        (np.uint8, 256, 3),
        (bool, 2, 1),
        (np.uint8, 6, 2),
        (np.int8, 200, 1),
        (np.uint16, 1 << 16, 4),
        (np.int64, 512, 1),
    ],
)
def test_values_are_replaced_at_the_rate_by_any_level_with_the_same_probability(dtype, levels, channels, rate):
    """Within 5 standard errors: the share of changed values, (1 - 1 / L) rate, and at rate 1 that of each sixth."""
    images = np.ones([4, 60, 50, channels], dtype)
    parts = min(levels, 6)
    law = np.bincount(np.arange(levels) * parts // levels) / levels
    for drawn in (Mutated(images, rate, levels)[:], Mutated(images, rate, levels).in_epoch(1, 2)[:]):
        assert drawn.dtype == dtype_of(levels)  # which networks take
        assert drawn.shape == images.shape and 0 <= drawn.min() <= drawn.max() < levels
        p = rate * (1 - 1 / levels)
        assert abs((drawn != 1).mean() - p) <= 5 * np.sqrt(p * (1 - p) / images.size)
        if rate == 1:
            found = np.bincount(np.int64(drawn).ravel() * parts // levels) / drawn.size
            assert (np.abs(found - law) <= 5 * np.sqrt(law * (1 - law) / drawn.size)).all()


def test_every_value_of_an_image_is_replaced_independently_of_the_others():
    """Channels, neighbours and images: the shares of pairs that are both changed are the products of the shares."""
    changed = Mutated(np.full([200, 10, 10, 2], 300, np.uint16), 0.3, 1 << 16).in_epoch(0, 0)[:] != 300
    for one, other in (
        (changed[..., 0], changed[..., 1]),
        (changed[:, :, 1:], changed[:, :, :-1]),
        (changed[1:], changed[:-1]),
    ):
        assert abs((one & other).mean() - 0.09) <= 5 * np.sqrt(0.09 * 0.91 / one.size)


def test_mutations_differ_between_seeds_epochs_and_images_and_are_repeated_for_the_same_ones():
    images = np.full([3, 8, 8, 1], 128, np.uint8)
    seen = Mutated(images, 0.5)
    draws = [seen[:], *(seen.in_epoch(seed, epoch)[:] for seed in (0, 1) for epoch in (0, 1))]
    assert len({image.tobytes() for draw in draws for image in draw}) == 3 * len(draws)
    np.testing.assert_array_equal(Mutated(images.copy(), 0.5).in_epoch(1, 0)[:], draws[3])
    np.testing.assert_array_equal(Mutated(images.copy(), 0.5)[:], draws[0])


def test_values_drawn_anew_are_drawn_first_and_then_mutated():
    """A mutation changes half of the values that it draws: 0 and 1 have equal probabilities."""
    grey = np.full([50, 20, 20, 1], 128, np.uint8)
    binary = Binarized(grey)
    for rate in (0, 0.25, 1):
        mutated = Mutated(binary, rate, 2)
        for found, inner in ((mutated[:], binary[:]), (mutated.in_epoch(3, 4)[:], binary.in_epoch(3, 4)[:])):
            p = rate / 2
            assert abs((found != inner).mean() - p) <= 5 * np.sqrt(p * (1 - p) / grey.size)


def test_mutations_have_other_random_numbers_than_binarized_images_and_the_order_of_an_epoch():
    changed = Mutated(np.zeros([1, 40, 40, 1], np.uint16), 0.5, 1 << 16).in_epoch(3, 4)[0] != 0
    for of_others in ([3, 4], [3, 4, 1]):
        would_change = np.random.default_rng(of_others).random(changed.shape) < 0.5
        assert abs((changed == would_change).mean() - 0.5) <= 5 * np.sqrt(0.25 / changed.size)


def test_the_mutated_values_of_a_seed_an_epoch_and_an_image_stay_those_of_earlier_versions():
    """A resumed run would see others."""
    images = np.zeros([2, 3, 4, 1], np.uint8)
    golden = [[0, 0, 183, 0], [0, 0, 31, 0], [0, 234, 0, 0]]
    assert Mutated(images, 0.3, 256).in_epoch(42, 1)[1][..., 0].tolist() == golden


def numbered(batches):
    return np.concatenate([batch["images"] for batch in batches])


@pytest.mark.parametrize(
    "view", [Binarized, lambda images: Mutated(Binarized(images), 0.3, 2)], ids=["binarized", "mutated"]
)
def test_training_sees_new_values_in_each_epoch_whatever_the_batch_and_wherever_it_was_interrupted(view):
    split = Split(view(GREY))
    by_epoch = []
    for epoch in (0, 1):
        order = epoch_order(split, 5, epoch)
        whole = numbered(training_batches(split, 4, 5, epoch))
        expected = view(GREY).in_epoch(5, epoch)[:]
        np.testing.assert_array_equal(whole, expected[order])
        np.testing.assert_array_equal(numbered(training_batches(split, 10, 5, epoch)), whole)
        np.testing.assert_array_equal(numbered(training_batches(split, 4, 5, epoch, seen=8)), whole[8:])
        of_second = numbered(training_batches(split, 4, 5, epoch, replicas=2, own=(1,)))
        np.testing.assert_array_equal(of_second, whole.reshape(5, 2, 2, 4, 5, 1)[:, 1].reshape(10, 4, 5, 1))
        by_epoch.append(expected)
    assert (by_epoch[0] != by_epoch[1]).any()


def test_views_are_images_of_a_data_set_and_are_not_read_to_check_their_values():
    class Unread:
        dtype, shape = np.dtype(np.uint8), (1 << 40, 4, 5, 1)

        def __len__(self):
            return 1 << 40

        def __getitem__(self, index):
            assert len(index) == 2
            return np.zeros([2, 4, 5, 1], np.uint8)

    for view in (Binarized(Unread()), Reduced(Unread(), 32), Mutated(Unread(), 0.1)):
        assert DataSet(None, Split(view), levels=view.levels).image_shape == (4, 5, 1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Binarized(GREY[..., 0]), r"not uint8 \[20, 4, 5\]; use images\[..., None\]$"),
        (lambda: Binarized(np.repeat(GREY, 3, -1)), r"not uint8 \[20, 4, 5, 3\]$"),
        (lambda: Binarized(GREY / 255), r"not float64 \[20, 4, 5, 1\]; scale them to 0 to 255"),
        (lambda: Binarized(list(GREY)), "not a list$"),
        (lambda: Binarized(GREY, 100), r"^image 0 has the value \d+ at row .*from 0 to 99, with 100 levels$"),
        (lambda: Binarized(GREY, 1), "levels=1 is not a whole number from 2 to 65,536"),
        (lambda: Binarized(Reduced(GREY, 32)), "^images, a Reduced, have 32 levels, not 256: give levels=32$"),
        (lambda: Mutated(GREY[..., 0], 0.1), r"mutated from integers \[N, H, W, C\], not .*; use images\[..., None\]$"),
        (lambda: Mutated(GREY / 255, 0.1), r"not float64 \[20, 4, 5, 1\]; scale them to 0 to 255"),
        (
            lambda: Mutated(GREY, 0.1, 100),
            r"^image 0 has the value \d+ at row .*: to be mutated, values must be from 0",
        ),
        (lambda: Mutated(Binarized(GREY), 0.1), "^images, a Binarized, have 2 levels, not 256: give levels=2$"),
        (lambda: Mutated(GREY, 1.1), "rate=1.1 is not a number from 0 to 1"),
        (lambda: Mutated(GREY, float("nan")), "rate=nan is not a number from 0 to 1"),
        (lambda: Mutated(GREY > 9, 0.1), r"mutated from integers \[N, H, W, C\], not bool"),
        (lambda: Binarized(GREY)[0, 0, 0], "are indexed by a number, a slice, or an array of numbers"),
        (lambda: Reduced(GREY.astype(int), 8), r"made from 8-bit images, uint8 \[N, H, W, C\] of 256 levels, not int6"),
        (lambda: Reduced(Binarized(GREY), 2), r"of 256 levels, not uint8 \[.*\] of 2 levels"),
        (lambda: Reduced(GREY, 257), "levels=257 is not a whole number from 2 to 256"),
        (lambda: DataSet(None, Split(Binarized(GREY))), "test images, a Binarized, have 2 levels, not 256: give both"),
    ],
)
def test_images_that_can_not_be_reduced_or_binarized_are_refused_in_one_line(make, message):
    with pytest.raises((UserError, IndexError), match=message) as error:
        make()
    assert str(error.value).isprintable()
