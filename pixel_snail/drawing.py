"""What --nr_samples and --complete ask for: batches of samples, their labels, and the pictures of them."""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import data
from data import untrusted
from pixel_snail import sampling
from pixel_snail.errors import UserError
from pixel_snail.reports import plotting
from pixel_snail.runs import folder as run_folder

COMPLETIONS = 4
"""How many completions each image gets, unless --nr_samples says."""


def drawer(
    model: keras.Model,
    data_set: data.DataSet,
    number: int,
    batch: int,
    nr_mix: int,
    seed: int,
    temperature: float = 1.0,
) -> Callable[..., np.ndarray]:
    """A function that draws so many images, a batch at a time: on a CPU, which batch an image is in does not change it.

    Args:
        batch: how many images to draw at a time on a GPU: see sampling.batch_size.

    Returns:
        draw(weights, classes=None, given=None, keep_rows=0) -> images in [-1, 1], [number, H, W, 3]. weights are
        nn.fold's; classes [number] are of a conditional network; of images `given`, the upper rows are kept.

    Raises:
        UserError: a batch needs more memory than there is; the function itself: the parameters are not finite.
    """
    batch = sampling.batch_size(batch)
    sampling.check_memory(model, batch, data_set.image_shape)
    sampler = sampling.sampler(model, batch, data_set.image_shape, temperature)

    def draw(weights: Mapping, classes=None, given=None, keep_rows=0):
        images = []
        for first in range(0, number, batch):
            last = min(first + batch, number)
            # A batch that is not full is filled up with repetitions, and these thrown away.
            chosen = np.minimum(np.arange(first, first + batch), number - 1)
            drawn, _ = sampler(
                weights,
                *sampling.uniforms(seed, first, batch, data_set.image_shape, nr_mix),
                h=tf.one_hot(classes[chosen], data_set.nr_labels) if data_set.nr_labels else None,
                given=None if given is None else given[chosen],
                keep_rows=keep_rows,
                title=f"sampling {first + 1}-{last} of {number}",
            )
            images.append(drawn[: last - first])
        images = np.concatenate(images)
        if not np.isfinite(images).all():
            raise UserError("samples are not finite: the checkpoint's parameters are not, or far from any trained ones")
        return images

    return draw


def save_samples(images: np.ndarray, folder: str, data_set: str, columns: int | None = None) -> str:
    """Writes `<data_set>_samples.png`, a grid, and `.npy`, the images as drawn; returns the picture's path."""
    stem = os.path.join(folder, f"{data_set}_samples")
    run_folder.write(f"{stem}.npy", lambda path: np.save(path, images))
    run_folder.write(f"{stem}.png", lambda path: plotting.save_grid(images, path, columns))
    return f"{stem}.png"


def save_completions(truth: np.ndarray, completions: np.ndarray, keep_rows: int, folder: str, data_set: str) -> str:
    """Writes `<data_set>_completions.png`, a row for each image (itself, what is kept of it, its completions), and
    `.npy`, the completions as drawn, [N, n, H, W, 3]; returns the picture's path.

    Args:
        truth: [N, H, W, 3].
        completions: [N * n, H, W, 3], those of an image together.
    """
    completions = completions.reshape(len(truth), -1, *truth.shape[1:])
    masked = truth.copy()
    masked[:, keep_rows:] = 0
    rows = np.concatenate([truth[:, None], masked[:, None], completions], 1)
    stem = os.path.join(folder, f"{data_set}_completions")
    run_folder.write(f"{stem}.npy", lambda path: np.save(path, completions))
    grid = rows.reshape(-1, *truth.shape[1:])
    run_folder.write(f"{stem}.png", lambda path: plotting.save_grid(grid, path, columns=rows.shape[1]))
    return f"{stem}.png"


def images_to_complete(path: str, image_shape: tuple[int, ...]) -> np.ndarray:
    """The images in a file, [N, H, W, 3] in [-1, 1].

    Args:
        path: a PNG, JPEG or WebP picture of one image or of a grid of them, or an .npy array [N, H, W, 3] or
            [H, W, 3]: of 8-bit values, or in [-1, 1] as samples are saved.
        image_shape: (H, W, 3).

    Raises:
        UserError: it can't be read, or its images are of another size.
    """
    height, width, _ = image_shape
    if Path(path).suffix != ".npy":
        picture = untrusted.picture(path, path)
        if picture.shape[0] % height or picture.shape[1] % width:
            raise UserError(
                f"{path} is {picture.shape[1]} x {picture.shape[0]} pixels, neither an image of {width} x {height} nor "
                "a grid of them"
            )
        tiles = picture.reshape(-1, height, picture.shape[1] // width, width, 3).swapaxes(1, 2)
        return (tiles.reshape(-1, *image_shape) / 127.5 - 1).astype(np.float32)
    images = untrusted.npy(path)
    if images.ndim == 3:
        images = images[None]
    if images.shape[1:] != tuple(image_shape) or not len(images):
        raise UserError(f"{path} is an array {images.shape}, not of images {tuple(image_shape)}")
    if images.dtype == np.uint8:
        return (images / 127.5 - 1).astype(np.float32)
    if images.dtype.kind != "f" or not np.abs(images).max() <= 1:
        raise UserError(f"{path} has {images.dtype} values that are neither 8-bit nor in [-1, 1]")
    return images.astype(np.float32)


def rows_to_keep(flags: argparse.Namespace, image_shape: tuple[int, ...]) -> int:
    """How many upper rows of an image stay: --keep_rows, by default half of them.

    Raises:
        UserError: the images have no more rows than that.
    """
    height = image_shape[0]
    if flags.keep_rows is None:
        return height // 2
    if flags.keep_rows >= height:
        raise UserError(f"--keep_rows={flags.keep_rows} leaves nothing to draw: images have {height} rows")
    return flags.keep_rows


def classes_to_draw(
    classes: list[int] | None, number: int, nr_labels: int | None
) -> tuple[np.ndarray | None, int | None]:
    """The class of each sample, and how many there are in a row of their picture: one row a class.

    Args:
        classes: --classes; by default all.
        number: of samples, at least; a row is full.
        nr_labels: None where the network is not conditional: then so is the result.

    Raises:
        UserError: there is no such class, or there are none.
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
    """The class of each image that is completed: --classes has one for all or one for each.

    Raises:
        UserError: it has not, or as classes_to_draw.
    """
    chosen, _ = classes_to_draw(classes, 0, nr_labels)
    if chosen is None:
        return None
    if not classes or len(classes) not in (1, images):
        raise UserError(f"--complete needs the classes of the {images} images: --classes=, one for all or one for each")
    return np.resize(classes, images)
