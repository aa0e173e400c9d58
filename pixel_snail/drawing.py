"""What eval.py draws: samples, by class if the network is conditional, and completions of images."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from pixel_snail import distribution, pictures
from pixel_snail.distribution import Distribution
from pixel_snail.errors import UserError
from pixel_snail.reports import plotting

COMPLETIONS = 4
"""How many completions each image gets, unless --nr_samples says."""


def what_to_draw(
    flags: argparse.Namespace,
    image_shape: tuple[int, int, int],
    nr_labels: int | None,
    class_names: Sequence[str] | None,
) -> Callable[[Distribution], str] | None:
    """A function of the distribution that draws what the flags ask for and returns, in words, what it drew and where.

    Args:
        flags: eval.py's.
        image_shape: (H, W, 3).
        nr_labels, class_names: see Distribution.

    Returns:
        None, if the flags ask for nothing.

    Raises:
        UserError: the flags contradict each other or the network, or the images to complete can't be read.
    """
    settings = {"seed": flags.seed, "temperature": flags.temperature, "batch_on_gpu": flags.sample_batch}
    chosen = class_numbers(flags.classes, nr_labels, class_names)
    if flags.complete:
        truth, remark = images_to_complete(flags.complete, image_shape, flags.resize)
        if remark:
            print(f"{flags.complete}: {remark}", flush=True)
        keep_rows = distribution.rows_to_keep(flags.keep_rows, image_shape)
        classes = classes_to_complete(chosen, len(truth), nr_labels)
        each = flags.nr_samples or COMPLETIONS

        def complete(model):
            labels = None if classes is None else np.repeat(classes, each)
            given = np.repeat(truth, each, 0)
            images = model.draw(len(given), labels, given=given, keep_rows=keep_rows, **settings)
            path = plotting.save_completions(truth, images, keep_rows, flags.save_dir, flags.data_set)
            return f"completions: {each} of each of {len(truth)} images: {path}"

        return complete

    classes = classes_to_draw(chosen, flags.nr_samples, nr_labels)
    number = flags.nr_samples if classes is None else len(classes)
    kinds = 0 if classes is None else len(set(classes.tolist()))
    of_each = f", {number // kinds} of each of {kinds} classes" if kinds else ""

    def sample(model):
        images = model.draw(number, classes, **settings)
        path = plotting.save_samples(images, flags.save_dir, flags.data_set, classes, class_names)
        return f"samples: {number} images{of_each}: {path}"

    return sample if flags.nr_samples else None


def images_to_complete(path: str, image_shape: tuple[int, int, int], resize: bool) -> tuple[np.ndarray, str]:
    """The images in a file, [N, H, W, 3] in [-1, 1], and what was done to the picture, in words; "" for nothing.

    Args:
        path: a PNG, JPEG or WebP picture, or an .npy array [N, H, W, 3] or [H, W, 3], of 8-bit values or, as samples
            are saved, in [-1, 1].
        image_shape: (H, W, 3). A picture whose sides are multiples of H and W is a grid of images; of another larger
            one, the middle is taken.
        resize: whether a picture is resized instead, until it just covers (H, W), before the middle is taken.

    Raises:
        UserError: it can't be read, its images are of another size, or it can't be told what its values mean.
    """
    if Path(path).suffix != ".npy":
        return _picture_to_complete(path, image_shape, resize)
    images = pictures.read_npy(path)
    if images.ndim == 3:
        images = images[None]
    if images.shape[1:] != tuple(image_shape) or not len(images):
        raise UserError(f"{path} is an array {images.shape}, not of images {tuple(image_shape)}")
    if images.dtype == np.uint8:
        return pictures.from_8_bits(images), ""
    if images.dtype.kind != "f" or not np.abs(images).max() <= 1:
        raise UserError(f"{path} has {images.dtype} values that are neither 8-bit nor in [-1, 1]")
    if images.min() >= 0:
        raise UserError(
            f"{path} has values from {images.min():.3g} to {images.max():.3g}: it can't be told whether black is 0 or "
            "-1; save 8-bit values, such as np.uint8(np.round(255 * images)) if black is 0"
        )
    return images.astype(np.float32), ""


def _picture_to_complete(path, image_shape, resize):
    height, width, _ = image_shape
    picture = pictures.read_picture(path, path)
    rows, columns, _ = picture.shape
    size = f"{columns} x {rows} pixels"
    remark = ""
    if resize and (rows, columns) != (height, width):
        factor = max(height / rows, width / columns)
        rows, columns = max(height, round(rows * factor)), max(width, round(columns * factor))
        picture = np.asarray(PIL.Image.fromarray(picture).resize((columns, rows), PIL.Image.Resampling.LANCZOS))
        remark = f"resized from {size} to {columns} x {rows}"
    if rows < height or columns < width:
        raise UserError(
            f"{path} is {size}, smaller than the network's images of {width} x {height}: --resize enlarges it"
        )
    if not rows % height and not columns % width:
        tiles = picture.reshape(-1, height, columns // width, width, 3).swapaxes(1, 2).reshape(-1, *image_shape)
        if len(tiles) > 1:
            remark = f"{size}, cut into a grid of {columns // width} x {rows // height} images; --resize makes it one"
        return pictures.from_8_bits(tiles), remark
    top, left = (rows - height) // 2, (columns - width) // 2
    middle = picture[top : top + height, left : left + width]
    if (rows, columns) != (height, width):
        remark = f"{remark or size}, of which the middle {width} x {height} are taken"
    return pictures.from_8_bits(middle[None]), remark


def class_numbers(classes: list[str] | None, nr_labels: int | None, names: Sequence[str] | None) -> list[int] | None:
    """The labels of --classes, which are given by their numbers or names; None if it is not given.

    Args:
        nr_labels: L; None: the network is not conditional.
        names: of the L classes, if they have names.

    Raises:
        UserError: there is no such class, or the network is not conditional.
    """
    if classes is None:
        return None
    if nr_labels is None:
        raise UserError("--classes is for networks trained with --class_conditional")
    known = {str(number): number for number in range(nr_labels)} | {name: i for i, name in enumerate(names or ())}
    for name in classes:
        if name not in known:
            of_names = f": {', '.join(names)}" if names else ""
            raise UserError(f"--classes: there is no class {name}; the classes are 0 to {nr_labels - 1}{of_names}")
    return [known[name] for name in classes]


def classes_to_draw(classes: list[int] | None, number: int, nr_labels: int | None) -> np.ndarray | None:
    """The class of each sample, the same number of each; None if the network is not conditional.

    Args:
        classes: the classes to draw; by default all.
        number: the least number of samples; it is rounded up so that all classes have as many.
        nr_labels: L; None: the network is not conditional.
    """
    if nr_labels is None:
        return None
    classes = list(range(nr_labels)) if classes is None else classes
    return np.repeat(classes, -(-number // len(classes)))


def classes_to_complete(classes: list[int] | None, images: int, nr_labels: int | None) -> np.ndarray | None:
    """The class of each image to complete: `classes` has one for all images or one for each.

    Raises:
        UserError: it has another number of classes.
    """
    if nr_labels is None:
        return None
    if not classes or len(classes) not in (1, images):
        raise UserError(f"--complete needs the classes of the {images} images: --classes=, one for all or one for each")
    return np.resize(classes, images)
