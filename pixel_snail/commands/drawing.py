"""The pictures that eval.py draws: samples, by class if the network is conditional, and completions of images."""

import argparse
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import PIL.Image

from pixel_snail.dataset import Split
from pixel_snail.distribution import Distribution
from pixel_snail.errors import UserError, counted
from pixel_snail.inputs import masks
from pixel_snail.likelihoods.levels import from_values, is_8_bit_rgb, reduced, to_values
from pixel_snail.reports import plotting
from pixel_snail.storage import paths, pictures, values

COMPLETIONS = 4
"""How many completions each image gets, unless --nr_samples says."""


def what_to_draw(
    flags: argparse.Namespace,
    image_shape: tuple[int, int, int],
    levels: int,
    nr_labels: int | None,
    class_names: Sequence[str] | None,
    test: Split | None = None,
) -> Callable[[Distribution], str] | None:
    """A function of the distribution that draws the images of the flags, writes them, and returns a line about them.

    Args:
        flags: of eval.py.
        image_shape: (H, W, C).
        levels, nr_labels, class_names: see Distribution.
        test: of a network with a condition, the test images, whose conditions the samples take, and whose labels unless
            --classes names others.

    Returns:
        None if the flags ask for no images.

    Raises:
        UserError: the flags contradict each other or the network, or the images to complete, or masks, can't be read.
    """
    settings = {name: getattr(flags, name) for name in ("seed", "temperature", "top_k", "top_p")}
    settings |= {"batch_on_gpu": flags.sample_batch}
    chosen = class_numbers(flags.classes, nr_labels, class_names)
    if flags.complete:
        max_pixels = flags.max_megapixels * 10**6
        truth, what_was_done = images_to_complete(flags.complete, image_shape, flags.resize, max_pixels, levels)
        if what_was_done:
            print(f"{flags.complete}: {what_was_done}", flush=True)
        mask = masks.read(flags.mask, len(truth), image_shape, max_pixels) if flags.mask else None
        is_given = masks.given_pixels(len(truth), image_shape, flags.keep_rows, mask)
        classes = classes_of_images(chosen, len(truth), nr_labels)
        each = flags.nr_samples or COMPLETIONS
        of_images = f"each of {len(truth):,} images" if len(truth) > 1 else "1 image"

        def complete(model):
            labels = None if classes is None else np.repeat(classes, each)
            given = {"given": np.repeat(truth, each, 0), "mask": np.repeat(is_given, each, 0)}
            images = model.draw(each * len(truth), labels, **given, **settings)
            path = plotting.save_completions(truth, images, is_given, flags.save_dir, flags.data_set, levels)
            return f"completions: {each} of {of_images}: {path}"

        return complete

    # With conditions, the labels are those of the same test images.
    takes_own = test is not None and chosen is None
    classes, condition = None if takes_own else classes_to_draw(chosen, flags.nr_samples, nr_labels), None
    number = flags.nr_samples if classes is None else len(classes)
    kinds = 0 if classes is None else len(set(classes.tolist()))
    which = f", {number // kinds} of each of {kinds} classes" if kinds > 1 else ", of one class" if kinds else ""
    rows_of = classes
    if test is not None and number:
        of_images, condition = test.labels_and_conditions(number)
        classes, rows_of = of_images if takes_own else classes, None
        which = f", with the conditions of the first {counted(min(number, len(test)), 'test image')}, in their order"
        which += ", repeated" if number > len(test) else ""

    def sample(model):
        images = model.draw(number, classes, condition, **settings)
        path = plotting.save_samples(images, flags.save_dir, flags.data_set, rows_of, class_names, levels)
        return f"samples: {counted(number, 'image')}{which}: {path}"

    return sample if flags.nr_samples else None


def images_to_complete(
    path: str,
    image_shape: tuple[int, int, int],
    resize: bool = False,
    max_pixels: int = pictures.MAX_PIXELS,
    levels: int = 256,
) -> tuple[np.ndarray, str]:
    """The images in a file, [N, H, W, C] in [-1, 1], and how the picture was changed, in words; "" if it was not.

    Args:
        path: a picture, or an .npy file [N, H, W, C] or [H, W, C]; of grey images also [N, H, W] or [H, W]. It has
            values from 0 to levels - 1, or numbers in [-1, 1] that stand for values. Only those of 8-bit RGB may lie
            between two values, as samples are saved.
        image_shape: (H, W, C). A picture whose sides are multiples of H and W is a grid of images. Another larger
            picture is cropped to its middle. For grey images, a picture becomes grey by the luma of ITU-R 601.
        resize: whether a picture is always one image: it is resized until it just covers H x W, then cropped.
        max_pixels: see pictures.read_picture.
        levels: L. If it is below 256, a picture's values v become v * L // 256.

    Raises:
        UserError: it can't be read, its images are of another size, it has other values, the range of its values is
            ambiguous, or a picture can't have such images.
    """
    source = paths.readable_again(path)
    if not pictures.is_npy(source):
        return _picture_to_complete(source, path, image_shape, resize, max_pixels, levels)
    images = pictures.read_npy(source, path)
    shape = images.shape
    if image_shape[2] == 1 and shape[-2:] == image_shape[:2] and len(shape) < 4:
        images = images[..., None]
    if images.ndim == 3:
        images = images[None]
    if images.shape[1:] != tuple(image_shape) or not len(images):
        raise UserError(f"{path} is an array {shape}, not of images {tuple(image_shape)}")
    if images.dtype.kind in "iu" or (images.dtype.kind == "b" and levels == 2):
        if outside := values.first_outside(images, levels):
            raise UserError(
                f"{path}: {outside[1]}, but the values of the network's images are from 0 to {levels - 1}: save such "
                "values"
            )
        return from_values(images, levels), ""
    return _from_floats(images, path, levels), ""


def _from_floats(images, path, levels):
    """Images of floating-point numbers in [-1, 1] as float32; raises UserError unless they stand for values."""
    if images.dtype.kind != "f" or not np.abs(images).max() <= 1:
        kind = "8-bit" if levels == 256 else f"from 0 to {levels - 1}"
        raise UserError(f"{path} has {images.dtype} values that are neither {kind} nor in [-1, 1]")
    if images.min() >= 0:
        most = levels - 1
        raise UserError(
            f"{path} has values from {images.min():.3g} to {images.max():.3g}: it is unclear whether black is 0 or "
            f"-1; save {'8-bit values' if levels == 256 else f'integers from 0 to {most}'}, such as "
            f"np.uint{8 if levels <= 256 else 16}(np.round({most} * images)) if black is 0"
        )
    if is_8_bit_rgb(images.shape[-1], levels):
        return images.astype(np.float32)
    rounded = from_values(to_values(images.astype(np.float64), levels), levels)
    if (is_between := np.abs(images - rounded) > 1e-6).any():
        image, row, column, channel = place = tuple(np.argwhere(is_between)[0])
        raise UserError(
            f"{path}: image {image} has {images[place]:.6g} at row {row}, column {column}, channel {channel}, which is "
            f"none of the network's {levels:,} levels in [-1, 1]: save values from 0 to {levels - 1}, as integers"
        )
    return rounded


def _picture_to_complete(source, path, image_shape, resize, max_pixels, levels):
    height, width, channels = image_shape
    if reason := pictures.why_no_picture(channels, levels):
        raise UserError(f"{path}: {reason}: give an .npy file of values")
    picture = pictures.read_picture(source, path, max_pixels)
    rows, columns, _ = picture.shape
    done = []
    is_resized = resize and (rows, columns) != (height, width)
    if is_resized:
        factor = max(height / rows, width / columns)
        size = max(width, round(columns * factor)), max(height, round(rows * factor))
        if size != (columns, rows):
            picture = np.asarray(PIL.Image.fromarray(picture).resize(size, PIL.Image.Resampling.LANCZOS))
            done.append(f"resized from {columns} x {rows} to {size[0]} x {size[1]} pixels")
        columns, rows = size
    if channels == 1:
        if (picture != picture[..., :1]).any():
            done.append("turned to grey")
        picture = pictures.grey(picture)
    if levels < 256:
        picture = reduced(picture, levels)
        done.append(f"reduced to {levels} levels")
    if not is_resized and rows % height == 0 and columns % width == 0:
        if (rows, columns) != (height, width):
            grid = f"{columns // width} x {rows // height} images of {width} x {height} pixels"
            done.append(f"cut into a grid of {grid}; --resize takes the picture as one image")
        return from_values(pictures.tiles(picture, height, width), levels), ", then ".join(done)
    if rows < height or columns < width:
        raise UserError(
            f"{path} has {columns} x {rows} pixels, but the network's images have {width} x {height}: --resize "
            "enlarges it"
        )
    if (rows, columns) != (height, width):
        done.append(f"cropped from {columns} x {rows} to the {width} x {height} pixels in its middle")
    return from_values(pictures.middle(picture, height, width)[None], levels), ", then ".join(done)


def class_numbers(classes: list[str] | None, nr_labels: int | None, names: Sequence[str] | None) -> list[int] | None:
    """The labels of the classes in --classes, which may be numbers or names; None without --classes.

    Args:
        nr_labels: the number of classes; None: the network is not conditional.
        names: the names of the classes, if they have names.

    Raises:
        UserError: there is no such class, or the network is not conditional.
    """
    if classes is None:
        return None
    if nr_labels is None:
        raise UserError("--classes is for class-conditional networks, and this one is not: leave it out")
    # Names in one of Unicode's forms: keyboards and systems write "é" in different ones.
    classes, forms = ([unicodedata.normalize("NFC", name) for name in some] for some in (classes, names or ()))
    known = {str(number): number for number in range(nr_labels)} | {name: i for i, name in enumerate(forms)}
    for name in classes:
        if name not in known:
            of_names = f"; the classes are {', '.join(names)}" if names else ""
            raise UserError(f"--classes: there is no class {name}, the last is {nr_labels - 1}{of_names}")
    return [known[name] for name in classes]


def classes_to_draw(classes: list[int] | None, number: int, nr_labels: int | None) -> np.ndarray | None:
    """The class of each sample, the same number of each; None if the network is not conditional.

    Args:
        classes: the classes to draw; by default all.
        number: the least number of samples; it is rounded up so that all classes have equally many.
        nr_labels: the number of classes; None: the network is not conditional.
    """
    if nr_labels is None:
        return None
    classes = list(range(nr_labels)) if classes is None else classes
    return np.repeat(classes, -(-number // len(classes)))


def classes_of_images(classes: list[int] | None, images: int, nr_labels: int | None) -> np.ndarray | None:
    """The class of each image to complete or compress: `classes` has one for all images or one for each.

    Raises:
        UserError: it has another number of classes.
    """
    if nr_labels is None:
        return None
    if not classes or len(classes) not in (1, images):
        wanted = "one class for all images, or one for each" if images > 1 else "the image's class"
        if not classes:
            raise UserError(f"the network is class-conditional: name {wanted} with --classes")
        named = counted(len(classes), "class", "classes")
        raise UserError(f"--classes names {named} for {counted(images, 'image')}: name {wanted}")
    return np.resize(classes, images)
