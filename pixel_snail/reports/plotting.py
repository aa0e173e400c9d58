"""Pictures of a run: grids of images, the learning curve, and maps of the bits that each pixel takes."""

import math
import os
from collections.abc import Sequence

import numpy as np
import PIL.Image

from pixel_snail import files
from pixel_snail.pictures import to_8_bits


def save_samples(images: np.ndarray, folder: str, data_set: str, columns: int | None = None) -> str:
    """Writes images as `<data_set>_samples.png`, a grid, and unrounded as `.npy`; returns the path of the grid.

    Args:
        images: [N, H, W, 3] in [-1, 1].
        columns: of the grid; by default as many as rows.

    Raises:
        UserError: they can't be written.
    """
    stem = os.path.join(folder, f"{data_set}_samples")
    files.write(f"{stem}.npy", lambda path: np.save(path, images))
    files.write(f"{stem}.png", lambda path: save_grid(images, path, columns))
    return f"{stem}.png"


def save_completions(truth: np.ndarray, completions: np.ndarray, keep_rows: int, folder: str, data_set: str) -> str:
    """Writes completions as a picture and an array; returns the path of the picture.

    `<data_set>_completions.png` has a row for each image: the image, its kept rows, its completions. The `.npy` has the
    completions unrounded, [N, n, H, W, 3].

    Args:
        truth: the images, [N, H, W, 3] in [-1, 1].
        completions: [N * n, H, W, 3]: the n completions of the first image, then those of the second, and so on.
        keep_rows: how many upper rows of each image were kept.

    Raises:
        UserError: they can't be written.
    """
    completions = completions.reshape(len(truth), -1, *truth.shape[1:])
    kept = truth.copy()
    kept[:, keep_rows:] = 0
    rows = np.concatenate([truth[:, None], kept[:, None], completions], 1)
    stem = os.path.join(folder, f"{data_set}_completions")
    files.write(f"{stem}.npy", lambda path: np.save(path, completions))
    grid = rows.reshape(-1, *truth.shape[1:])
    files.write(f"{stem}.png", lambda path: save_grid(grid, path, columns=rows.shape[1]))
    return f"{stem}.png"


def save_grid(images: np.ndarray, path: str, columns: int | None = None) -> None:
    """Writes images [B, H, W, 3] in [-1, 1] as a PNG, a grid of `columns` columns, by default a square."""
    count, height, width, channels = images.shape
    side = columns or math.ceil(math.sqrt(count))
    tiles = np.zeros([side * math.ceil(count / side), height, width, channels], np.uint8)
    tiles[:count] = to_8_bits(images)
    rows = tiles.reshape(-1, side, height, width, channels).swapaxes(1, 2)
    PIL.Image.fromarray(rows.reshape(-1, side * width, channels)).save(path)


def save_learning_curve(steps: list[list[float]], test: list[float], path: str) -> None:
    """Writes bits/dim over optimisation steps as a PNG.

    Args:
        steps: the training bits/dim of each step, in a list for each epoch.
        test: the test bits/dim after each epoch.
    """
    from matplotlib.figure import Figure  # imported where it is used: it takes a second

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="bits/dim")
    every_step = np.concatenate([*steps, []])
    axes.plot(np.arange(1, len(every_step) + 1), every_step, color="0.8", lw=0.8, label="training, each step")
    ends = np.cumsum([len(epoch) for epoch in steps])
    middles = ends - np.array([len(epoch) for epoch in steps]) / 2
    means = [np.mean(epoch) if epoch else np.nan for epoch in steps]  # of an epoch, every update may be refused
    axes.plot(middles, means, "o-", ms=4, label="training, mean of each epoch")
    axes.plot(ends, test, "o-", ms=4, label="test, averaged parameters")
    # The first steps are far above the rest: with them in view, the curve would look flat.
    shown = every_step[every_step <= np.percentile(every_step, 90)] if len(every_step) else np.array(test)
    axes.set_ylim(min(shown.min(), *test) - 0.1, max(shown.max(), test[-1]) + 0.5)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)


def save_bit_maps(images: np.ndarray, maps: np.ndarray, bits_per_dim: Sequence[float], path: str) -> None:
    """Writes a PNG: images, each above a map of its bits, and a histogram of the bits/dim of all images.

    Args:
        images: uint8 [n, H, W, 3]: the images with the fewest bits of a test set, then those with the most.
        maps: the bits of each of their pixels, [n, H, W], shown on one colour scale.
        bits_per_dim: of every image of the test set.
    """
    from matplotlib.figure import Figure

    easiest = -(-len(images) // 2)
    figure = Figure(figsize=(12, 9.5), layout="constrained")
    grid, histogram = figure.subfigures(2, 1, height_ratios=[3, 1])
    axes = grid.subplots(4, easiest, squeeze=False)
    for row in axes.flat:
        row.set_axis_off()
    for i, (image, bits) in enumerate(zip(images, maps, strict=True)):
        block, column = divmod(i, easiest)
        above, below = axes[2 * block, column], axes[2 * block + 1, column]
        above.imshow(image)
        above.set_title(f"{bits.mean() / 3:.2f}", fontsize=10)
        shown = below.imshow(bits, cmap="magma", vmin=0, vmax=np.percentile(maps, 99.5))
    grid.suptitle("the images with the fewest bits/dim, and below them those with the most")
    grid.colorbar(shown, ax=axes, label="bits per pixel", shrink=0.8)
    plot = histogram.subplots()
    plot.hist(bits_per_dim, bins=min(100, max(10, len(bits_per_dim) // 10)), color="0.4")
    plot.axvline(np.mean(bits_per_dim), color="tab:red", label=f"mean: {np.mean(bits_per_dim):.3f}")
    plot.set(xlabel="bits/dim of an image", ylabel="images")
    plot.legend()
    figure.savefig(path, dpi=100)
