"""Pictures of a run: grids of images, the learning curve, and maps of the bits that each pixel takes.

Images have any number of channels and levels. Pictures show them on 8 bits: black is the value 0, white the last one.
Images of one channel are grey, of three RGB; of others, the channels stand side by side, each as a grey picture.
"""

import functools
import math
import os
import types
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from pixel_snail.likelihoods.levels import from_values, is_8_bit_rgb, to_values
from pixel_snail.storage import files, pictures


def save_samples(
    images: np.ndarray,
    folder: str,
    data_set: str,
    classes: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    levels: int = 256,
) -> str:
    """Writes images as `<data_set>_samples.png`, a grid, and as an array; returns the path of the grid.

    The array, `<data_set>_samples.npy`, has 8-bit RGB unrounded: float32 in [-1, 1]. It has other images as values from
    0 to levels - 1: uint8, or uint16 above 256 levels.

    Args:
        images: [N, H, W, C] in [-1, 1].
        classes: the class of each image, integers [N]: each class has a row of the grid.
        class_names: the names of all classes, which are written beside their rows.
        levels: L.

    Raises:
        UserError: they can't be written.
    """
    stem = os.path.join(folder, f"{data_set}_samples")
    _save_array(images, levels, f"{stem}.npy")
    if classes is None:
        files.write(f"{stem}.png", lambda path: save_grid(images, path))
    else:
        shown = list(dict.fromkeys(classes.tolist()))
        rows = [images[classes == one] for one in shown]
        names = [class_names[one] for one in shown] if class_names else None
        files.write(f"{stem}.png", lambda path: save_rows(rows, path, names))
    return f"{stem}.png"


def save_completions(
    truth: np.ndarray, completions: np.ndarray, is_given: np.ndarray, folder: str, data_set: str, levels: int = 256
) -> str:
    """Writes completions as a picture and an array; returns the path of the picture.

    `<data_set>_completions.png` has a row for each image: the image, its given pixels, its completions. The `.npy` has
    the completions [N, n, H, W, C], as save_samples writes images.

    Args:
        truth: the images, [N, H, W, C] in [-1, 1].
        completions: [N * n, H, W, C]: the n completions of the first image, then those of the second, and so on.
        is_given: which pixels of each image were given, booleans [N, H, W]; the others are shown grey.
        levels: L.

    Raises:
        UserError: they can't be written.
    """
    completions = completions.reshape(len(truth), -1, *truth.shape[1:])
    given = np.where(is_given[..., None], truth, np.float32(0))
    rows = np.concatenate([truth[:, None], given[:, None], completions], 1)
    stem = os.path.join(folder, f"{data_set}_completions")
    _save_array(completions, levels, f"{stem}.npy")
    grid = rows.reshape(-1, *truth.shape[1:])
    files.write(f"{stem}.png", lambda path: save_grid(grid, path, columns=rows.shape[1]))
    return f"{stem}.png"


def _save_array(images, levels, path):
    saved = images if is_8_bit_rgb(images.shape[-1], levels) else to_values(images, levels)
    files.write(path, lambda path: np.save(path, saved))


def save_grid(images: np.ndarray, path: str, columns: int | None = None) -> None:
    """Writes images [B, H, W, C] in [-1, 1] as a PNG, a grid.

    Args:
        columns: by default, the grid is the full rectangle that is nearest to a square, so that no empty tile looks
            like an image.
    """
    count = len(images)
    columns = columns or min(n for n in range(1, count + 1) if count % n == 0 and n * n >= count)
    save_rows([images[first : first + columns] for first in range(0, count, columns)], path)


def save_rows(rows: Sequence[np.ndarray], path: str, names: Sequence[str] | None = None) -> None:
    """Writes rows of images, each [n, H, W, C] in [-1, 1], as a PNG. Shorter rows are filled up with white.

    Args:
        names: the names of the rows, written on their left.
    """
    columns = max(map(len, rows))
    rows = [_on_8_bits(images) for images in rows]
    height, width, channels = rows[0].shape[1:]
    grid = np.full([len(rows), height, columns, width, channels], 255, np.uint8)
    for row, images in zip(grid, rows, strict=True):
        row[:, : len(images)] = images.swapaxes(0, 1)
    picture = pictures.as_picture(grid.reshape(len(rows) * height, columns * width, channels))
    if names:
        picture = _with_names(picture, names, height)
    picture.save(path, "PNG")


def _on_8_bits(images):
    """Images [n, H, W, C] in [-1, 1] as pictures of 8 bits: RGB, or grey [n, H, W', 1]; see the module."""
    images = to_values(images)
    if images.shape[-1] == 3:
        return images
    return np.concatenate(np.split(images, images.shape[-1], axis=-1), axis=2)


def _with_names(picture, names, height):
    """Adds a white margin on the left with a name for each row of the picture."""
    import matplotlib  # for its font, which has more characters than Pillow's

    size = max(6, min(14, height - 2))
    font = PIL.ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
    margin = max(math.ceil(font.getlength(name)) for name in names) + 8
    wider = PIL.Image.new(picture.mode, (margin + picture.width, picture.height), "white")
    wider.paste(picture, (margin, 0))
    draw = PIL.ImageDraw.Draw(wider)
    for row, name in enumerate(names):
        draw.text((margin - 4, (row + 0.5) * height), name, fill="black", font=font, anchor="rm")
    return wider


def in_matplotlibs_own_style(draw: Callable[..., None]) -> Callable[..., None]:
    """Draws in Matplotlib's default style: a matplotlibrc may ask for fonts or programs that are not there."""

    @functools.wraps(draw)
    def drawn(*arguments, **keywords):
        import matplotlib.style  # imported where it is used: it takes a second

        with matplotlib.style.context("default"):
            draw(*arguments, **keywords)

    return drawn


@in_matplotlibs_own_style
def save_learning_curve(
    steps: list[list[float]],
    test: list[float],
    path: str,
    unaveraged: Mapping[int, float] = types.MappingProxyType({}),
    nats_of_a_bit: float | None = None,
) -> None:
    """Writes bits/dim over optimisation steps as a PNG.

    Args:
        steps: the training bits/dim of each step, in a list for each epoch.
        test: the test bits/dim after each epoch; that of the last epoch may still be missing.
        unaveraged: the test bits/dim without averaging, by the numbers of the epochs that have it.
        nats_of_a_bit: the nats an image of one bit/dim, for a second axis on the right; None: there is none.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="bits/dim")
    every_step = np.concatenate([*steps, []])
    axes.plot(np.arange(1, len(every_step) + 1), every_step, color="0.8", lw=0.8, label="training, each step")
    ends = np.cumsum([len(epoch) for epoch in steps])
    middles = ends - np.array([len(epoch) for epoch in steps]) / 2
    means = [np.mean(epoch) if epoch else np.nan for epoch in steps]  # all updates of an epoch may be refused
    axes.plot(middles, means, "o-", ms=4, label="training, mean of each epoch")
    axes.plot(ends[: len(test)], test, "o-", ms=4, label="test, averaged parameters")
    if unaveraged:
        axes.plot(ends[list(unaveraged)], list(unaveraged.values()), "o-", ms=4, label="test, without averaging")
    # The first steps are far above the rest: with them in view, the curve would look flat.
    shown = every_step[every_step <= np.percentile(every_step, 90)] if len(every_step) else np.array(test)
    # A uniform prediction takes 1 bit for a value of two levels, 8 bits for one of 256.
    margin = 0.1 if nats_of_a_bit is None else 0.1 / 8
    lowest, highest = min([shown.min(), *test, *unaveraged.values()]), max([shown.max(), *test[-1:]])
    axes.set_ylim(lowest - margin, highest + 5 * margin)
    if nats_of_a_bit:
        of_nats = axes.secondary_yaxis("right", (lambda bits: bits * nats_of_a_bit, lambda nats: nats / nats_of_a_bit))
        of_nats.set_ylabel("nats an image")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)


@in_matplotlibs_own_style
def save_bit_maps(
    images: np.ndarray, maps: np.ndarray, bits_per_dim: Sequence[float], path: str, levels: int = 256
) -> None:
    """Writes a PNG: images, each above a map of its bits, and a histogram of the bits/dim of all images.

    Args:
        images: values [n, H, W, C]: the images with the fewest bits of a test set, then those with the most.
        maps: the bits of each of their pixels, [n, H, W], shown on one colour scale.
        bits_per_dim: the bits/dim of every image of the test set.
        levels: L.
    """
    easiest = -(-len(images) // 2)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9.5), layout="constrained")
    grid, histogram = figure.subfigures(2, 1, height_ratios=[3, 1])
    axes = grid.subplots(4, easiest, squeeze=False)
    for row in axes.flat:
        row.set_axis_off()
    channels = images.shape[-1]
    for i, (image, bits) in enumerate(zip(_on_8_bits(from_values(images, levels)), maps, strict=True)):
        block, column = divmod(i, easiest)
        above, below = axes[2 * block, column], axes[2 * block + 1, column]
        above.imshow(image, cmap="gray", vmin=0, vmax=255)  # for RGB, Matplotlib ignores these
        above.set_title(f"{bits.mean() / channels:.2f}", fontsize=10)
        shown = below.imshow(bits, cmap="magma", vmin=0, vmax=np.percentile(maps, 99.5))
    grid.suptitle("the images with the fewest bits/dim, and below them those with the most")
    grid.colorbar(shown, ax=axes, label="bits per pixel", shrink=0.8)
    plot = histogram.subplots()
    plot.hist(bits_per_dim, bins=min(100, max(10, len(bits_per_dim) // 10)), color="0.4")
    plot.axvline(np.mean(bits_per_dim), color="tab:red", label=f"mean: {np.mean(bits_per_dim):.3f}")
    plot.set(xlabel="bits/dim of an image", ylabel="images")
    plot.legend()
    figure.savefig(path, dpi=100)
