"""Pictures of a run: grids of images and the learning curve."""

import math

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
