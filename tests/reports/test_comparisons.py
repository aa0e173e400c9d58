"""Which results are compared with published figures, and the flags of the paper's runs."""

import numpy as np
import pytest

import train as train_command
from pixel_snail.reports import comparisons
from pixel_snail.storage.reductions import BINARIZED

COMPARABLE = {
    "data_set": "cifar",
    "reduction": None,
    "images": 10_000,
    "causal": True,
    "class_conditional": False,
    "unverified": None,
}


@pytest.mark.parametrize("data_set, reduction", [("cifar", None), ("mnist", None), ("mnist", BINARIZED)])
def test_the_whole_verified_test_set_is_compared(data_set, reduction):
    of_set = {"data_set": data_set, "reduction": reduction}
    assert comparisons.why_not_comparable(**COMPARABLE | of_set) is None


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"images": 9_999}, "the published test set has 10,000 images"),
        ({"unverified": "the files are others"}, "the files are others"),
        ({"causal": False}, "from themselves"),
        ({"class_conditional": True}, "labels"),
        ({"data_set": "imagenet_resized", "images": 50_000, "unverified": "of 2017"}, "of 2017"),
        ({"data_set": "photos"}, "no published figure is of these images"),
        ({"data_set": "imagenet", "images": 50_000}, "49,999"),
        ({"reduction": "levels=32"}, "no published figure is of these images"),
        ({"data_set": "mnist", "reduction": "levels=2"}, "no published figure is of these images"),
        ({"data_set": "mnist", "reduction": BINARIZED, "images": 60_000}, "test set has 10,000 images"),
        ({"data_set": "mnist", "reduction": BINARIZED, "unverified": "the files are others"}, "the files are others"),
        ({"data_set": "mnist", "class_conditional": True}, "is given the images' labels, others are not"),
        ({"data_set": "fashion_mnist"}, "no published figure is of these images"),
        # That the images are others comes first.
        ({"images": 7, "causal": False, "class_conditional": True}, "the published test set has 10,000 images"),
        ({"unverified": "the files are others", "causal": False}, "the files are others"),
    ],
)
def test_anything_else_is_not(change, reason):
    assert reason in comparisons.why_not_comparable(**COMPARABLE | change)


@pytest.mark.parametrize("bits, verdict", [(2.8601, "within"), (2.8399, "within"), (2.88, "beyond"), (2.8, "beyond")])
def test_the_difference_is_measured_by_the_standard_error(bits, verdict):
    (_, paper, _), (_, difference, remark), *others = comparisons.comparison(
        comparisons.published_test_sets["cifar", None], bits, stderr=0.01
    )
    assert paper == 2.85
    assert difference == pytest.approx(bits - 2.85)
    assert remark == f"{verdict} twice the standard error"
    assert len(others) >= 3


def test_sets_that_the_paper_lacks_have_the_figures_of_others_only():
    eight_bit, binary = (comparisons.published_test_sets["mnist", reduction] for reduction in (None, BINARIZED))
    assert (eight_bit.in_nats, binary.in_nats) == (False, True)
    assert [figure for _, figure, _ in comparisons.comparison(binary, 0.15, 0.01)] == [78.61, 81.45, 81.5, 77.56]
    assert {figure for _, figure, _ in comparisons.comparison(eight_bit, 0.8, 0.01)} == {1.06, 1.05, 0.99, 0.97, 2.8}
    assert comparisons.has_no_paper_figure("mnist", BINARIZED)
    assert not comparisons.has_no_paper_figure("cifar", None)
    assert not comparisons.has_no_paper_figure("photos", None)


def test_paper_stands_for_the_flags_of_the_published_runs():
    cifar = train_command.parse_flags(["--paper=cifar"])
    assert (cifar.data_set, cifar.nr_logistic_mix, cifar.dropout_p, cifar.polyak_decay) == ("cifar", 10, 0.5, 0.9995)
    imagenet = train_command.parse_flags(["--paper=imagenet"])
    assert (imagenet.data_set, imagenet.nr_logistic_mix) == ("imagenet", 32)
    assert (imagenet.dropout_p, imagenet.polyak_decay) == (0.0, 0.9997)
    for flags in (cifar, imagenet):
        assert (flags.model, flags.nr_filters, flags.nr_resnet) == ("h12_noup_smallkey", 256, 4)
        assert (flags.batch_size, flags.learning_rate) == (8, 1e-3)


def test_flags_given_beside_paper_win_wherever_they_stand():
    for argv in (["-b4", "--paper=imagenet", "-m10"], ["--paper=imagenet", "-m10", "-b4"]):
        flags = train_command.parse_flags(argv)
        assert (flags.batch_size, flags.nr_logistic_mix, flags.polyak_decay) == (4, 10, 0.9997)


def test_a_picture_too_large_for_webp_has_no_size_in_it():
    assert comparisons.file_sizes(np.zeros([1, 16_383, 3], np.uint8)).keys() == {"PNG", "WebP"}
    assert comparisons.file_sizes(np.zeros([16_384, 1, 3], np.uint8)).keys() == {"PNG"}
