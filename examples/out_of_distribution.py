"""Measures how well three scores separate the images of two data sets, of which a model was trained on the first.

python -m examples.out_of_distribution --model=CHECKPOINT --background=CHECKPOINT --data_dir=DIR --other_dir=DIR
"""

from pixel_snail.commands import packages  # noqa: F401

# isort: split
import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import data
import pixel_snail
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.commands import command_line, progress, streams
from pixel_snail.errors import UserError, counted, option
from pixel_snail.out_of_distribution import LikelihoodRatio
from pixel_snail.reports import comparisons, plotting
from pixel_snail.runs import earlier_runs, search
from pixel_snail.storage import files

SCORES = {
    "log_likelihood": "log-likelihood, nats",
    "likelihood_ratio": "likelihood ratio, nats",
    "complexity": "complexity: PNG bits minus model bits",
}
"""The scores, each with its name in tables and pictures. A high score says that the image is in the distribution."""


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in argv, by default the program's; a mistake prints one line on stderr and exits with code 2."""
    parser = command_line.Parser(prog="python -m examples.out_of_distribution", description=__doc__.splitlines()[0])
    add, path = parser.add_argument, command_line.path
    add("--model", type=path, required=True, help="the checkpoint of the model, or a folder: its newest one")
    add("--background", type=path, required=True, help="that of the background model, trained with --mutation_rate")
    add("--data_set", default="fashion_mnist", help="the data set of the model's training, as train.py takes it")
    add("--data_dir", type=path, default="./data", help="where it lies")
    add("--other_data_set", default="mnist", help="the data set that counts as out of the distribution")
    add("--other_dir", type=path, default="./data", help="where it lies")
    add("--cache_dir", type=path, help="for the conversions of both data sets, as train.py takes it")
    add("--skip_bad", action="store_true", help="leave out pictures that can't be read, as train.py does")
    add("--number", type=command_line.positive_int, help="test images of each set, evenly spaced; without it, all")
    add("--batch_size", type=command_line.positive_int, default=8, help="images computed at once")
    add("--picture", type=path, help="a PNG file to write, with histograms of the scores")
    add("--json", type=path, help="write the result there")
    return parser.parse_args(argv)


def options_of(checkpoint: Checkpoint, name: str) -> dict[str, object]:
    """The flags of the data in a checkpoint's run, such as binarize, as options of data.load.

    Without a run that recorded them, or if the run had another data set than `name`, they are the defaults.
    """
    flags = argparse.Namespace(**dict.fromkeys(command_line.MODEL_DEFAULTS | command_line.DATA_DEFAULTS))
    flags.data_set = name
    earlier_runs.fill_in_flags(flags, checkpoint)
    return data.options(flags)


def test_images(
    name: str,
    data_dir: str,
    options: Mapping[str, object],
    image_shape: tuple[int, int, int],
    levels: int,
    number: int | None = None,
) -> np.ndarray:
    """Test images of a data set, values [N, H, W, C], in the form that a model takes.

    Args:
        name: of the data set, as --data_set takes it.
        options: further options of data.load. Those that the data set does not take are left out.
        image_shape, levels: (H, W, C) and L of the model. The data set is cropped, made grey and reduced to them as far
            as the flags of train.py can do that.
        number: N; None, or more than there are: all.

    Raises:
        UserError: the data set can't be loaded, or its images have another form.
    """
    height, width, channels = image_shape
    form = {"image_size": command_line.image_size(f"{height}x{width}"), "grey": channels == 1}
    form = {flag: value for flag, value in (options | form).items() if command_line.takes(name, flag)}
    is_of_binarized = bool(options.get("binarize"))
    if not is_of_binarized:
        form["levels"] = levels
    elif name == "arrays":
        form["levels"] = options.get("levels")
    data_set = data.load(name, Path(data_dir), only_test=True, **form)
    if is_of_binarized and data_set.levels != 2:  # images of two levels are taken as they are
        data_set = data.load(name, Path(data_dir), only_test=True, **form, binarize=True)
    for note in data_set.notes:
        print(f"{name}: {note}", flush=True)
    if levels == 2 and data_set.reduction and not is_of_binarized and options.get("levels") is None:
        print(
            f"{name}: values above 127 become 1, because the model's run recorded no --binarize; "
            "if the model was trained with --binarize, its scores of these images mean nothing",
            flush=True,
        )
    if data_set.image_shape != image_shape:
        raise UserError(
            f"the images of {name} are {data_set.image_shape}, but those of {option('model')} {image_shape}: give a "
            "data set of such images"
        )
    images = data_set.test.images
    number = min(number or len(images), len(images))
    if number < 2:
        raise UserError(f"{counted(number, 'test image')} of {name} is too few: a standard error needs two")
    return np.asarray(images[np.linspace(0, len(images) - 1, number).round().astype(int)])


def scores_of(ratio: LikelihoodRatio, images: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """The scores of images [N, H, W, C], by their names in SCORES, each float64 [N].

    Images that PNG files can't hold, such as those of five channels, have no score of complexity.
    """
    log_prob = ratio.model.log_prob(images, batch_size=batch_size)
    # The same as ratio.score(images), which would compute log_prob again.
    of_background = ratio.background.log_prob(images, batch_size=batch_size)
    found = {"log_likelihood": log_prob, "likelihood_ratio": log_prob - of_background}
    shown = progress.bar(images, desc="PNG files", unit="image", leave=False)
    pngs = [comparisons.png_file(image, ratio.model.levels) for image in shown]
    if None not in pngs:
        found["complexity"] = np.array([8 * len(png) for png in pngs]) + log_prob / np.log(2)
    return found


def auroc(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    """The area under the receiver operating characteristic of a score, and its standard error.

    The area is the probability that an image in the distribution has a higher score than one out of it; equal scores
    count half. Its standard error is that of DeLong, DeLong and Clarke-Pearson (1988): for each image, take the share
    of images of the other kind that the score orders rightly against it. The squared standard error is the variance of
    these shares divided by the number of images, summed over the two kinds.

    Args:
        inside, outside: the scores of the images of each kind, [N] and [M], at least two of each.
    """
    right = []
    for mine, others, sign in ((inside, outside, 1), (outside, inside, -1)):
        others = np.sort(sign * others)
        below = [np.searchsorted(others, sign * mine, side) for side in ("left", "right")]
        right.append(np.mean(below, axis=0) / len(others))
    return float(right[0].mean()), float(np.sqrt(sum(share.var(ddof=1) / len(share) for share in right)))


def table(aurocs: Mapping[str, tuple[float, float]], scores: Sequence[Mapping[str, np.ndarray]]) -> str:
    """The AUROC of each score, and its mean over the images in and out of the distribution.

    Args:
        aurocs: the results of `auroc`, by the scores' names.
        scores: the scores of the images in and out of the distribution, by the same names.
    """
    rows = [("", "AUROC", "std. error", "mean inside", "mean outside")]
    for name, (area, stderr) in aurocs.items():
        means = [f"{of_set[name].mean():,.2f}" for of_set in scores]
        rows.append((SCORES[name], f"{area:.4f}", f"{stderr:.4f}", *means))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


@plotting.in_matplotlibs_own_style
def save_histograms(
    aurocs: Mapping[str, tuple[float, float]],
    scores: Sequence[Mapping[str, np.ndarray]],
    names: Sequence[str],
    path: str,
) -> None:
    """Writes a PNG with a histogram of each score, for the images in and out of the distribution.

    Args:
        aurocs, scores: as for `table`.
        names: those of the two kinds of images.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(aurocs), 3.5), layout="constrained")
    for axes, (name, (area, _)) in zip(figure.subplots(1, len(aurocs)), aurocs.items(), strict=True):
        of_sets = [of_set[name] for of_set in scores]
        bins = np.histogram_bin_edges(np.concatenate(of_sets), bins=60)
        axes.hist(of_sets, bins=bins, density=True, histtype="stepfilled", alpha=0.6, label=names)
        axes.set(title=f"AUROC {area:.3f}", xlabel=SCORES[name], yticks=[])
        axes.legend()
    figure.savefig(path, dpi=100, format="png")


def opened_ratio(flags: argparse.Namespace) -> tuple[LikelihoodRatio, dict[str, Checkpoint]]:
    """The ratio of the networks that --model and --background name, and their checkpoints by these names.

    Raises:
        UserError: both are one checkpoint; a checkpoint can't be read, or does not record its network; or a network is
            conditional, or they are over images of different kinds.
    """
    opened = {name: search.find(getattr(flags, name)) for name in ("model", "background")}
    for name, checkpoint in opened.items():
        print(f"{name}: {search.summary(checkpoint, getattr(flags, name))}", flush=True)
        if checkpoint.description() is None:
            raise UserError(
                f"the checkpoint {checkpoint.prefix} does not record its network, as those of the original do not: in "
                "Python, load both networks with pixel_snail.load(path, model=..., image_shape=...), and compare them "
                "with pixel_snail.likelihood_ratio"
            )
    prefixes = {name: checkpoint.prefix for name, checkpoint in opened.items()}
    if len(set(map(os.path.realpath, prefixes.values()))) == 1:
        raise UserError(
            f"--model={flags.model} and --background={flags.background} are the same checkpoint, "
            f"{prefixes['model']}: a folder means the newest checkpoint in it or below it; name the runs' folders"
        )
    ratio = pixel_snail.likelihood_ratio(*map(pixel_snail.load, prefixes.values()))
    for name, model in (("model", ratio.model), ("background", ratio.background)):
        if model.nr_labels is not None or model.condition is not None:
            raise UserError(
                f"--{name} is conditional, but images out of the distribution have no labels and conditions: give a "
                "network without them"
            )
    return ratio, opened


def work(flags: argparse.Namespace) -> None:
    """Computes the scores, and prints and writes what the flags say."""
    files.check_outputs(flags, ("picture", "json"))
    places = (flags.data_set, flags.data_dir), (flags.other_data_set, flags.other_dir)
    if len({(name, os.path.realpath(folder)) for name, folder in places}) == 1:
        raise UserError(
            f"both data sets are {flags.data_set} in {flags.data_dir}: give another --other_data_set or --other_dir"
        )
    of_both = {name: getattr(flags, name) for name in ("skip_bad", "cache_dir") if getattr(flags, name)}
    for name in of_both:
        if not any(command_line.takes(data_set, name) for data_set, _ in places):
            raise UserError(f"--{name} is neither for {flags.data_set} nor for {flags.other_data_set}: leave it out")
    with streams.text_elsewhere(flags.json):
        ratio, opened = opened_ratio(flags)
        of_run = options_of(opened["model"], flags.data_set) | of_both
        # Other images are binarized or reduced as the model's are. The further flags of the run are for its own set:
        # with --binarize, also --levels, the number that its images have before values are drawn.
        name = "binarize" if of_run["binarize"] else "levels"
        of_others = of_both | {name: of_run[name]}
        form = ratio.model.image_shape, ratio.model.levels, flags.number
        sets = [test_images(*place, more, *form) for place, more in zip(places, (of_run, of_others), strict=True)]
        scores = [scores_of(ratio, images, flags.batch_size) for images in sets]
        aurocs = {name: auroc(*(of_set[name] for of_set in scores)) for name in scores[0]}
        for kind, (name, folder), images in zip(("inside", "outside"), places, sets, strict=True):
            print(f"{kind} the distribution: {counted(len(images), 'test image')} of {name} in {folder}")
        print(table(aurocs, scores), flush=True)
        if flags.json:
            given = ("data_set", "data_dir", "other_data_set", "other_dir")
            result = {name: checkpoint.prefix for name, checkpoint in opened.items()}
            result |= {name: getattr(flags, name) for name in given}
            result |= {"images": len(sets[0]), "other_images": len(sets[1])}
            result["auroc"] = {name: area for name, (area, _) in aurocs.items()}
            result["auroc_stderr"] = {name: stderr for name, (_, stderr) in aurocs.items()}
            for key, of_set in zip(("scores", "other_scores"), scores, strict=True):
                result[key] = {name: values.tolist() for name, values in of_set.items()}
            text = json.dumps(result, indent=1) + "\n"
            files.write(flags.json, lambda path: Path(path).write_text(text))
        if flags.picture:
            names = [f"{kind}: {name}" for kind, (name, _) in zip(("inside", "outside"), places, strict=True)]
            files.write(flags.picture, lambda path: save_histograms(aurocs, scores, names, path))


if __name__ == "__main__":
    command_line.run(parse_flags, work)
