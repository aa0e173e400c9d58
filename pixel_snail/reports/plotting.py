"""Pictures of a run: grids of images, the learning curve, and where the bits go."""

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image


def save_grid(images: np.ndarray, path: str, columns: int | None = None) -> None:
    """Writes images [B, H, W, 3] in [-1, 1], tiled into rows of `columns` or else into a square, as a PNG."""
    count, height, width, channels = images.shape
    side = columns or math.ceil(math.sqrt(count))
    tiles = np.zeros([side * math.ceil(count / side), height, width, channels], np.uint8)
    tiles[:count] = np.clip(np.round(images * 127.5 + 127.5), 0, 255)
    rows = tiles.reshape(-1, side, height, width, channels).swapaxes(1, 2)
    PIL.Image.fromarray(rows.reshape(-1, side * width, channels)).save(path)


def save_learning_curve(steps: list[list[float]], test: list[float], path: str) -> None:
    """Writes bits/dim over optimisation steps as a PNG.

    Args:
        steps: of each epoch, the training bits/dim of its steps.
        test: test bits/dim after each epoch.
    """
    from matplotlib.figure import Figure  # imported where it is used: it takes a second

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="bits/dim")
    every_step = np.concatenate(steps)
    axes.plot(np.arange(1, len(every_step) + 1), every_step, color="0.8", lw=0.8, label="training, each step")
    ends = np.cumsum([len(epoch) for epoch in steps])
    middles = ends - np.array([len(epoch) for epoch in steps]) / 2
    axes.plot(middles, [np.mean(epoch) for epoch in steps], "o-", ms=4, label="training, mean of each epoch")
    axes.plot(ends, test, "o-", ms=4, label="test, averaged parameters")
    # The first steps are far above the rest and would flatten it.
    axes.set_ylim(min(every_step.min(), *test) - 0.1, max(np.percentile(every_step, 90), test[-1]) + 0.5)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)


def save_bit_maps(images: np.ndarray, maps: np.ndarray, bits_per_dim: Sequence[float], path: str) -> None:
    """Writes a PNG of images over the maps of their bits, all on one colour scale, and a histogram over all images.

    Args:
        images: uint8 [n, H, W, 3]: the easiest of a set, then the hardest.
        maps: bits of each of their pixels, [n, H, W].
        bits_per_dim: of every image of the set.
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
