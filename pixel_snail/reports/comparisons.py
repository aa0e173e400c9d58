"""Figures to compare a result with: those of the paper and of other papers, and of lossless image files."""

import dataclasses
import io

import numpy as np

from pixel_snail.likelihoods.levels import dtype_of
from pixel_snail.storage import pictures
from pixel_snail.storage.reductions import BINARIZED

ORIGINAL = "PixelSNAIL, Chen et al. 2018"
_PIXELRNN = "PixelRNN, van den Oord et al. 2016, arXiv 1601.06759"
_GATED_PIXELCNN = "Gated PixelCNN, van den Oord et al. 2016, arXiv 1606.05328"
_PIXELCNNPP = "PixelCNN++, Salimans et al. 2017, arXiv 1701.05517"
_IMAGE_TRANSFORMER = "Image Transformer, Parmar et al. 2018, arXiv 1802.05751"
_SPARSE_TRANSFORMER = "Sparse Transformer, Child et al. 2019, arXiv 1904.10509"
_PYTORCH_GENERATIVE = "in pytorch-generative, its README"
_FLOWS = "listed in zalandoresearch/fashion-mnist, issue 144"
_OF_FLOWS = "an upper bound; the size of its images is not given"
_DRAWN_ANEW = "values drawn anew in each epoch"


@dataclasses.dataclass(frozen=True)
class PublishedTestSet:
    """A test set with published figures.

    Args:
        images: the number of its images.
        train_images: the number of images of its training set.
        others: (model and source, figure, remark) for models on the same images, and for image files.
        paper: the paper's figure, always in bits/dim; None: the paper does not use the set.
        in_nats: whether the figures of others are in nats an image; otherwise they are in bits/dim.
    """

    images: int
    train_images: int
    others: tuple[tuple[str, float, str], ...]
    paper: float | None = None
    in_nats: bool = False


published_test_sets: dict[tuple[str, str | None], PublishedTestSet] = {
    ("cifar", None): PublishedTestSet(
        images=10_000,
        train_images=50_000,
        paper=2.85,
        others=(
            (_PIXELRNN, 3.00, ""),
            (_GATED_PIXELCNN, 3.03, ""),
            (_PIXELCNNPP, 2.92, ""),
            (_IMAGE_TRANSFORMER, 2.90, ""),
            (_SPARSE_TRANSFORMER, 2.80, ""),
        ),
    ),
    ("imagenet", None): PublishedTestSet(
        images=49_999,
        train_images=1_281_149,
        paper=3.80,
        others=(
            (_PIXELRNN, 3.86, ""),
            (_GATED_PIXELCNN, 3.83, ""),
            (_IMAGE_TRANSFORMER, 3.77, ""),
        ),
    ),
    ("imagenet64", None): PublishedTestSet(
        images=49_999,
        train_images=1_281_149,
        paper=3.52,
        others=(
            (_PIXELRNN, 3.63, ""),
            (_GATED_PIXELCNN, 3.57, ""),
            (_SPARSE_TRANSFORMER, 3.44, ""),
        ),
    ),
    ("mnist", None): PublishedTestSet(
        images=10_000,
        train_images=60_000,
        others=(
            (f"Real NVP, {_FLOWS}", 1.06, _OF_FLOWS),
            (f"Glow, {_FLOWS}", 1.05, _OF_FLOWS),
            (f"i-ResNet, {_FLOWS}", 1.05, _OF_FLOWS),
            (f"FFJORD, {_FLOWS}", 0.99, _OF_FLOWS),
            (f"Residual Flow, {_FLOWS}", 0.97, _OF_FLOWS),
            ("PNG files, fhkingma/bitswap, issue 1", 2.80, ""),
        ),
    ),
    # Not the fixed set of Larochelle and Murray 2011, of which many papers report figures.
    ("mnist", BINARIZED): PublishedTestSet(
        images=10_000,
        train_images=60_000,
        in_nats=True,
        others=(
            (f"PixelSNAIL {_PYTORCH_GENERATIVE}", 78.61, _DRAWN_ANEW),
            (f"PixelCNN {_PYTORCH_GENERATIVE}", 81.45, _DRAWN_ANEW),
            (f"Gated PixelCNN {_PYTORCH_GENERATIVE}", 81.50, _DRAWN_ANEW),
            ("Locally masked PixelCNN, Jain et al. 2020, its README", 77.56, "8 orders of the pixels"),
        ),
    ),
}
"""Test sets with published figures, by their --data_set names and reductions (see dataset.DataSet)."""

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


def has_no_paper_figure(data_set: str, reduction: str | None) -> bool:
    """Whether a test set has published figures, but none in the PixelSNAIL paper; arguments as in why_not_published."""
    published = published_test_sets.get((data_set, reduction))
    return published is not None and published.paper is None


def why_not_published(data_set: str, reduction: str | None, images: int, unverified: str | None) -> str | None:
    """Why test images may not be the published ones, in one clause; None if they are, or if none are published.

    Args:
        data_set: the name that --data_set takes.
        images: the number of test images.
        reduction, unverified: see dataset.DataSet.
    """
    published = published_test_sets.get((data_set, reduction))
    if published and images != published.images:
        return f"the published test set has {published.images:,} images"
    return unverified


def why_not_comparable(
    data_set: str,
    reduction: str | None,
    images: int,
    causal: bool,
    class_conditional: bool,
    unverified: str | None,
) -> str | None:
    """Why a result can't be compared with published figures, in one clause; None if it can be.

    Args:
        causal: whether the network is causal; otherwise its figure is not a likelihood.
        class_conditional: whether the network was given the labels.
        data_set, reduction, images, unverified: as in why_not_published.
    """
    if reason := why_not_published(data_set, reduction, images, unverified):
        return reason
    if not causal:
        return "the network predicts pixels from themselves"
    if (data_set, reduction) not in published_test_sets:
        return "no published figure is of these images"
    theirs = "others are not" if has_no_paper_figure(data_set, reduction) else "the paper's is not"
    return f"the network is given the images' labels, {theirs}" if class_conditional else None


def comparison(test_set: PublishedTestSet, bits_per_dim: float, stderr: float) -> list[tuple[str, float, str]]:
    """Rows of a table, (name, figure, remark): the paper's figure, the difference from it, the figures of others.

    The paper's figure and the difference from it are in bits/dim, the figures of others in the test set's unit.
    """
    rows = []
    if test_set.paper is not None:
        difference = bits_per_dim - test_set.paper
        close = abs(difference) <= 2 * stderr
        rows = [
            (ORIGINAL, test_set.paper, "the paper"),
            ("difference from the paper", difference, f"{'within' if close else 'beyond'} twice the standard error"),
        ]
    return [*rows, *test_set.others]


_WEBP_SIDE = 16_383
"""WebP files hold no larger picture."""

MOST_IMAGES = 1000
"""At most this many images are compressed: ten thousand would take minutes."""


def files_bits_per_dim(images: np.ndarray, levels: int = 256) -> dict[str, float]:
    """Bits/dim of lossless image files, by format: one file an image, at the strongest compression, with headers.

    Formats that can't hold the images are left out; see lossless_files.

    Args:
        images: values [N, H, W, C]. If N is above MOST_IMAGES, that many are chosen, evenly spaced.
        levels: L.
    """
    chosen = np.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES)).round().astype(int)
    images = images[chosen]
    sizes = [file_sizes(image, levels) for image in images]
    return {name: sum(of_image[name] for of_image in sizes) * 8 / images.size for name in sizes[0]}


def file_sizes(image: np.ndarray, levels: int = 256) -> dict[str, int]:
    """The bytes of an image's lossless files, by format; arguments as for lossless_files."""
    return {name: len(content) for name, content in lossless_files(image, levels).items()}


def lossless_files(image: np.ndarray, levels: int = 256) -> dict[str, bytes]:
    """An image as a lossless file of each format, by the format's name, at the strongest compression.

    The samples in the files are the values themselves: photographs of few levels were larger with values scaled to 255.
    WebP takes at most 256 levels and 16,383 pixels a side; it has grey images as RGB. Formats that can't hold the image
    are left out.

    Args:
        image: values [H, W, C].
        levels: L.
    """
    png = png_file(image, levels)
    if png is None:
        return {}
    found = {"PNG": png}
    if levels <= 256 and max(image.shape[:2]) <= _WEBP_SIDE:
        stream = io.BytesIO()
        # exact: colours stay as they are where alpha is 0.
        picture = pictures.as_picture(image.astype(dtype_of(levels)))
        picture.save(stream, format="WebP", lossless=True, quality=100, method=6, exact=True)
        found["WebP"] = stream.getvalue()
    return found


def png_file(image: np.ndarray, levels: int = 256) -> bytes | None:
    """An image as a PNG file, as in lossless_files; None if PNG can't hold it. Arguments as for lossless_files.

    It has a grey image in as few bits as its levels need, 1, 2, 4, 8 or 16, or in 8 if that file is smaller. Other
    images have 8 bits and at most 256 levels: two channels are grey and alpha, three RGB, four RGB and alpha.
    """
    channels = image.shape[2]
    if channels > 4 or (channels > 1 and levels > 256):
        return None
    possible = (1, 2, 4, 8) if channels == 1 else (8,)
    bits = [bits for bits in possible if levels <= 2**bits] or [16]
    samples = image.astype(dtype_of(levels))
    return min((pictures.png(samples, each) for each in {bits[0], bits[-1]}), key=len)
