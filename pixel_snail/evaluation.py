"""What eval.py does: bits/dim of a checkpoint over a whole test set, and images drawn from it."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pixel_snail import checkpoint, distribution, files, pictures, progress
from pixel_snail import model as models
from pixel_snail.dataset import DataSet
from pixel_snail.distribution import Distribution
from pixel_snail.errors import UserError
from pixel_snail.parallel import cluster as clusters
from pixel_snail.parallel import replicas
from pixel_snail.reports import comparisons, plotting, table
from pixel_snail.runs import same_flags
from pixel_snail.settings import NETWORK_DEFAULTS

COMPLETIONS = 4
"""How many completions each image gets, unless --nr_samples says."""

_SHOWN = 8
"""How many of the easiest and of the hardest images a picture shows."""

_IMAGE_SIZE = 32
"""The side of drawn images if neither the checkpoint nor --image_size gives it."""


def evaluate(flags: argparse.Namespace, load_data: Callable[[argparse.Namespace], DataSet]) -> None:
    """Does what eval.py's flags say.

    Args:
        load_data: loads the data set that the flags name.

    Raises:
        UserError: files that are missing, broken, of another network, or can't be written; a worker that was lost.
    """
    cluster = clusters.from_environment()
    with cluster.together():
        _evaluate(flags, load_data, cluster)


def _evaluate(flags, load_data, cluster):
    if cluster.is_chief:
        if flags.json:
            files.check_file_writable(flags.json)
        if flags.save_dir:
            files.check_writable(flags.save_dir)
    prefix = checkpoint.find(flags.load_params)
    same_flags.fill_in_flags(flags, prefix)
    if flags.model in models.leaking:
        if flags.nr_samples or flags.complete:
            raise UserError(f"{models.leak_warning(flags.model)}, and it can't sample: drop --nr_samples, --complete")
        if cluster.is_chief:
            print(models.leak_warning(flags.model))
    strategy = replicas.strategy(flags.nr_gpu, cluster, in_micro_batches=not flags.skip_test)
    cluster.check_flags(flags)
    data_set = None if flags.skip_test else cluster.chief_first(load_data, flags)
    image_shape, nr_labels = _images_and_classes(flags, prefix, data_set)
    # Mistakes in the flags of drawing are reported before anything is computed.
    draw = _what_to_draw(flags, image_shape, nr_labels) if cluster.is_chief else None
    progress.say(f"building {flags.model}, {flags.nr_filters} filters ...")
    model = distribution.load(
        prefix,
        **{name: getattr(flags, name) for name in NETWORK_DEFAULTS},
        image_shape=image_shape,
        nr_labels=nr_labels,
        averaged=not flags.raw,
        strategy=strategy,
        cluster=cluster,
    )
    cluster.check_agreement(data_set.sizes() if data_set else {})
    cluster.check_same_checkpoint(model.network.trainable_variables)
    if data_set:
        _test(flags, prefix, cluster, model, data_set)
    if draw:
        print(draw(model))


def _images_and_classes(flags, prefix, data_set):
    """The shape of the images, and the number of classes of a conditional network."""
    reader = checkpoint.Reader(prefix)
    nr_labels = reader.nr_labels()
    if flags.class_conditional != bool(nr_labels):
        is_conditional, do = ("is", "add") if nr_labels else ("is not", "drop")
        raise UserError(f"the network of {prefix} {is_conditional} conditional on classes: {do} --class_conditional")
    if data_set is None:
        told = reader.description()
        side = flags.image_size or _IMAGE_SIZE
        return told.image_shape if told and not flags.image_size else (side, side, 3), nr_labels
    if nr_labels and data_set.nr_labels != nr_labels:
        raise UserError(
            f"the network of {prefix} was trained on {nr_labels} classes, but the data set {flags.data_set} has "
            f"{data_set.nr_labels}"
        )
    return data_set.image_shape, data_set.nr_labels


def _test(flags, prefix, cluster, model: Distribution, data_set: DataSet):
    """Evaluates the whole test set; the chief prints a table, and writes --json and the picture."""
    test = data_set.test
    batches = model.nats_in_batches(test.images, test.labels, batch_size=flags.batch_size)
    nats, extremes = _nats_and_extremes(batches)
    if not cluster.is_chief:
        return
    figures = table.result(
        nats,
        data_set.image_shape,
        data_set=flags.data_set,
        source=data_set.source,
        model=flags.model,
        load_params=prefix,
        averaged=not flags.raw,
        causal=model.is_causal,
        class_conditional=flags.class_conditional,
        unverified=data_set.unverified,
    )
    print(table.summary(figures), flush=True)
    figures["files_bits_per_dim"] = comparisons.files_bits_per_dim(test.images)
    if flags.json:
        files.write(flags.json, lambda path: Path(path).write_text(json.dumps(figures, indent=1) + "\n"))
    if flags.save_dir:
        print(f"where the bits go: {_save_bit_maps(flags, test.images, figures, extremes)}")
    print(table.table(figures), flush=True)


def _nats_and_extremes(batches):
    """The nats of each channel of each image, [N, 3]; and, for the images with the fewest and the most nats, in that
    order, their numbers and the nats of their values."""
    sums, extremes = [], []
    for nats in batches:
        sums.append(nats.sum((1, 2), dtype=np.float64))
        first = sum(map(len, sums)) - len(nats)
        extremes += zip(range(first, first + len(nats)), nats, strict=True)
        extremes.sort(key=lambda image: image[1].sum())
        if len(extremes) > 2 * _SHOWN:
            extremes = [*extremes[:_SHOWN], *extremes[-_SHOWN:]]
    return np.concatenate(sums), extremes


def _save_bit_maps(flags, images, figures, extremes):
    path = os.path.join(flags.save_dir, f"{flags.data_set}_bits.png")
    shown = np.stack([images[number] for number, _ in extremes])
    maps = np.stack([nats.sum(-1) / np.log(2) for _, nats in extremes])
    bits = figures["bits_per_dim_per_image"]
    files.write(path, lambda path: plotting.save_bit_maps(shown, maps, bits, path))
    return path


def _what_to_draw(flags, image_shape, nr_labels):
    """A function of the distribution that draws what the flags ask for and returns where it is; None for nothing."""
    settings = {"seed": flags.seed, "temperature": flags.temperature, "batch_on_gpu": flags.sample_batch}
    if flags.complete:
        truth = images_to_complete(flags.complete, image_shape)
        keep_rows = distribution.rows_to_keep(flags.keep_rows, image_shape)
        classes = classes_to_complete(flags.classes, len(truth), nr_labels)
        each = flags.nr_samples or COMPLETIONS

        def complete(model):
            labels = None if classes is None else np.repeat(classes, each)
            given = np.repeat(truth, each, 0)
            images = model.draw(len(given), labels, given=given, keep_rows=keep_rows, **settings)
            path = plotting.save_completions(truth, images, keep_rows, flags.save_dir, flags.data_set)
            return f"completions: {path}"

        return complete

    classes, columns = classes_to_draw(flags.classes, flags.nr_samples, nr_labels)

    def sample(model):
        images = model.draw(flags.nr_samples if classes is None else len(classes), classes, **settings)
        return f"samples: {plotting.save_samples(images, flags.save_dir, flags.data_set, columns)}"

    return sample if flags.nr_samples else None


def images_to_complete(path: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """The images in a file, [N, H, W, 3] in [-1, 1].

    Args:
        path: a PNG, JPEG or WebP picture of one image or of a grid of them, or an .npy array [N, H, W, 3] or
            [H, W, 3], of 8-bit values or, as samples are saved, in [-1, 1].
        image_shape: (H, W, 3).

    Raises:
        UserError: it can't be read, or its images are of another size.
    """
    height, width, _ = image_shape
    if Path(path).suffix != ".npy":
        picture = pictures.read_picture(path, path)
        if picture.shape[0] % height or picture.shape[1] % width:
            raise UserError(
                f"{path} is {picture.shape[1]} x {picture.shape[0]} pixels, neither an image of {width} x {height} nor "
                "a grid of them"
            )
        tiles = picture.reshape(-1, height, picture.shape[1] // width, width, 3).swapaxes(1, 2)
        return pictures.from_8_bits(tiles.reshape(-1, *image_shape))
    images = pictures.read_npy(path)
    if images.ndim == 3:
        images = images[None]
    if images.shape[1:] != tuple(image_shape) or not len(images):
        raise UserError(f"{path} is an array {images.shape}, not of images {tuple(image_shape)}")
    if images.dtype == np.uint8:
        return pictures.from_8_bits(images)
    if images.dtype.kind != "f" or not np.abs(images).max() <= 1:
        raise UserError(f"{path} has {images.dtype} values that are neither 8-bit nor in [-1, 1]")
    return images.astype(np.float32)


def classes_to_draw(
    classes: list[int] | None, number: int, nr_labels: int | None
) -> tuple[np.ndarray | None, int | None]:
    """The class of each sample, and the number of columns of their grid, in which each class has a row.

    Args:
        classes: --classes; by default all.
        number: the least number of samples; it is rounded up so that all rows are full.
        nr_labels: L; None: the network is not conditional, and neither result applies.

    Raises:
        UserError: there is no such class, or the network is not conditional.
    """
    if nr_labels is None:
        if classes:
            raise UserError("--classes is for networks trained with --class_conditional")
        return None, None
    classes = classes or list(range(nr_labels))
    if max(classes) >= nr_labels:
        raise UserError(f"--classes: there is no class {max(classes)}, the last is {nr_labels - 1}")
    columns = -(-number // len(classes))
    return np.repeat(classes, columns), columns


def classes_to_complete(classes: list[int] | None, images: int, nr_labels: int | None) -> np.ndarray | None:
    """The class of each image to complete, from --classes, which has one for all images or one for each.

    Raises:
        UserError: it has another number of classes, or as classes_to_draw.
    """
    chosen, _ = classes_to_draw(classes, 0, nr_labels)
    if chosen is None:
        return None
    if not classes or len(classes) not in (1, images):
        raise UserError(f"--complete needs the classes of the {images} images: --classes=, one for all or one for each")
    return np.resize(classes, images)
