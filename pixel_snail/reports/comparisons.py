"""Published figures, and what may be compared with them."""

import dataclasses

ORIGINAL = "PixelSNAIL, Chen et al. 2018"
_PIXELRNN = "PixelRNN, van den Oord et al. 2016, arXiv 1601.06759"
_GATED_PIXELCNN = "Gated PixelCNN, van den Oord et al. 2016, arXiv 1606.05328"
_PIXELCNNPP = "PixelCNN++, Salimans et al. 2017, arXiv 1701.05517"
_IMAGE_TRANSFORMER = "Image Transformer, Parmar et al. 2018, arXiv 1802.05751"
_SPARSE_TRANSFORMER = "Sparse Transformer, Child et al. 2019, arXiv 1904.10509"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A test set of the paper.

    Args:
        images: how many it has.
        bits_per_dim: the paper's figure.
        others: (model and source, bits/dim) of others whose likelihoods are exact too, on the same images.
    """

    images: int
    bits_per_dim: float
    others: tuple[tuple[str, float], ...]


benchmarks = {
    "cifar": Benchmark(
        images=10_000,
        bits_per_dim=2.85,
        others=(
            (_PIXELRNN, 3.00),
            (_GATED_PIXELCNN, 3.03),
            (_PIXELCNNPP, 2.92),
            (_IMAGE_TRANSFORMER, 2.90),
            (_SPARSE_TRANSFORMER, 2.80),
        ),
    ),
    "imagenet": Benchmark(
        images=49_999,
        bits_per_dim=3.80,
        others=(
            (_PIXELRNN, 3.86),
            (_GATED_PIXELCNN, 3.83),
            (_IMAGE_TRANSFORMER, 3.77),
        ),
    ),
    "imagenet64": Benchmark(
        images=49_999,
        bits_per_dim=3.52,
        others=(
            (_PIXELRNN, 3.63),
            (_GATED_PIXELCNN, 3.57),
            (_SPARSE_TRANSFORMER, 3.44),
        ),
    ),
}
"""By --data_set."""

_CIFAR_RUN = {
    "data_set": "cifar",
    "model": "h12_noup_smallkey",
    "nr_filters": 256,
    "nr_resnet": 4,
    "nr_logistic_mix": 10,
    "resnet_nonlinearity": "elu",
    "dropout_p": 0.5,
    "polyak_decay": 0.9995,
    "batch_size": 8,
    "learning_rate": 1e-3,
}
runs = {
    "cifar": _CIFAR_RUN,
    "imagenet": _CIFAR_RUN | {"data_set": "imagenet", "nr_logistic_mix": 32, "dropout_p": 0.0, "polyak_decay": 0.9997},
}
"""The flags of the paper's runs, by what --paper may name."""


def why_not_comparable(
    data_set: str, images: int, causal: bool, class_conditional: bool, unverified: str | None
) -> str | None:
    """Why a result must not be put beside the paper's, in one clause; None if it may be.

    Args:
        data_set: as --data_set names it.
        images: how many test images were seen.
        causal: whether the network's figure is a likelihood.
        class_conditional: whether it was told the labels.
        unverified: why these may not be the published images, from data.DataSet.
    """
    if not causal:
        return "the network predicts pixels from themselves"
    if data_set not in benchmarks:
        return unverified or "they are of other images"
    if class_conditional:
        return "the network is told the images' labels, the paper's is not"
    if images != benchmarks[data_set].images:
        return f"the published test set has {benchmarks[data_set].images:,} images"
    return unverified


def comparison(data_set: str, bits_per_dim: float, stderr: float) -> list[tuple[str, float, str]]:
    """The rows of a table, (what, bits/dim, remark): the paper's figure, the difference from it, and others'."""
    benchmark = benchmarks[data_set]
    difference = bits_per_dim - benchmark.bits_per_dim
    close = abs(difference) <= 2 * stderr
    return [
        (ORIGINAL, benchmark.bits_per_dim, "the paper"),
        ("difference from the paper", difference, f"{'within' if close else 'beyond'} twice the standard error"),
        *((name, bits, "") for name, bits in benchmark.others),
    ]
