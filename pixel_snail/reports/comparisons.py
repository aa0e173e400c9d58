"""Figures to compare a result with: those of the paper and of other papers, and of lossless image files."""

import dataclasses
import io

import numpy as np
import PIL.Image

ORIGINAL = "PixelSNAIL, Chen et al. 2018"
_PIXELRNN = "PixelRNN, van den Oord et al. 2016, arXiv 1601.06759"
_GATED_PIXELCNN = "Gated PixelCNN, van den Oord et al. 2016, arXiv 1606.05328"
_PIXELCNNPP = "PixelCNN++, Salimans et al. 2017, arXiv 1701.05517"
_IMAGE_TRANSFORMER = "Image Transformer, Parmar et al. 2018, arXiv 1802.05751"
_SPARSE_TRANSFORMER = "Sparse Transformer, Child et al. 2019, arXiv 1904.10509"


@dataclasses.dataclass(frozen=True)
class PaperTestSet:
    """A test set of the paper.

    Args:
        images: the number of its images.
        train_images: the number of images of its training set.
        bits_per_dim: the paper's figure.
        others: (model and source, bits/dim) of other models with exact likelihoods, on the same images.
    """

    images: int
    train_images: int
    bits_per_dim: float
    others: tuple[tuple[str, float], ...]


paper_test_sets = {
    "cifar": PaperTestSet(
        images=10_000,
        train_images=50_000,
        bits_per_dim=2.85,
        others=(
            (_PIXELRNN, 3.00),
            (_GATED_PIXELCNN, 3.03),
            (_PIXELCNNPP, 2.92),
            (_IMAGE_TRANSFORMER, 2.90),
            (_SPARSE_TRANSFORMER, 2.80),
        ),
    ),
    "imagenet": PaperTestSet(
        images=49_999,
        train_images=1_281_149,
        bits_per_dim=3.80,
        others=(
            (_PIXELRNN, 3.86),
            (_GATED_PIXELCNN, 3.83),
            (_IMAGE_TRANSFORMER, 3.77),
        ),
    ),
    "imagenet64": PaperTestSet(
        images=49_999,
        train_images=1_281_149,
        bits_per_dim=3.52,
        others=(
            (_PIXELRNN, 3.63),
            (_GATED_PIXELCNN, 3.57),
            (_SPARSE_TRANSFORMER, 3.44),
        ),
    ),
}
"""The paper's test sets, by their --data_set names."""

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
paper_flags = {
    "cifar": _CIFAR_RUN,
    "imagenet": _CIFAR_RUN | {"data_set": "imagenet", "nr_logistic_mix": 32, "dropout_p": 0.0, "polyak_decay": 0.9997},
}
"""The flags of the paper's runs, by the names that --paper takes."""


def why_not_published(data_set: str, images: int, unverified: str | None) -> str | None:
    """Why test images may not be the published ones, in one clause; None if they are, or if none are published.

    Args:
        data_set: the name that --data_set takes.
        images: the number of test images.
        unverified: see dataset.DataSet.
    """
    published = paper_test_sets.get(data_set)
    if published and images != published.images:
        return f"the published test set has {published.images:,} images"
    return unverified


def why_not_comparable(
    data_set: str, images: int, causal: bool, class_conditional: bool, unverified: str | None
) -> str | None:
    """Why a result can't be compared with the paper's, in one clause; None if it can be.

    Args:
        causal: whether the network is causal; otherwise its figure is not a likelihood.
        class_conditional: whether the network was given the labels.
        data_set, images, unverified: as in why_not_published.
    """
    if reason := why_not_published(data_set, images, unverified):
        return reason
    if not causal:
        return "the network predicts pixels from themselves"
    if data_set not in paper_test_sets:
        return "no published figure is of these images"
    return "the network is given the images' labels, the paper's is not" if class_conditional else None


def comparison(data_set: str, bits_per_dim: float, stderr: float) -> list[tuple[str, float, str]]:
    """Rows of a table, (name, bits/dim, remark): the paper's figure, the difference from it, other papers' figures."""
    test_set = paper_test_sets[data_set]
    difference = bits_per_dim - test_set.bits_per_dim
    close = abs(difference) <= 2 * stderr
    return [
        (ORIGINAL, test_set.bits_per_dim, "the paper"),
        ("difference from the paper", difference, f"{'within' if close else 'beyond'} twice the standard error"),
        *((name, bits, "") for name, bits in test_set.others),
    ]


_FILE_SETTINGS = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 6},
}

_WEBP_SIDE = 16_383
"""WebP files hold no larger picture."""

MOST_IMAGES = 1000
"""At most this many images are compressed: ten thousand would take minutes."""


def files_bits_per_dim(images: np.ndarray) -> dict[str, float]:
    """Bits/dim of lossless image files, by format: one file an image, at the strongest compression, with headers.

    Args:
        images: uint8 [N, H, W, 3]. If N is above MOST_IMAGES, that many are chosen, evenly spaced.
    """
    chosen = np.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES)).round().astype(int)
    images = images[chosen]
    sizes = [file_sizes(image) for image in images]
    return {name: sum(of_image[name] for of_image in sizes) * 8 / images.size for name in _FILE_SETTINGS}


def file_sizes(picture: np.ndarray) -> dict[str, int]:
    """The bytes of a picture, uint8 [H, W, 3], as a lossless file of each format, at the strongest compression.

    Formats that can't hold so large a picture are left out.
    """
    sizes = {}
    for name, settings in _FILE_SETTINGS.items():
        if name == "WebP" and max(picture.shape[:2]) > _WEBP_SIDE:
            continue
        stream = io.BytesIO()
        PIL.Image.fromarray(picture).save(stream, format=name, **settings)
        sizes[name] = stream.tell()
    return sizes
