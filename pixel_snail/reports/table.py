"""The result of an evaluation, as JSON and as a table."""

import functools
from collections.abc import Sequence

import numpy as np

from pixel_snail.errors import counted, printable
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.likelihoods.levels import are_also_in_nats
from pixel_snail.reports import comparisons
from pixel_snail.runs.average import Age

_WORST = 10
"""How many images the table names."""


def result(
    nats: np.ndarray,
    image_shape: tuple[int, int, int],
    *,
    levels: int,
    likelihood: str,
    reduction: str | None,
    data_set: str,
    source: str,
    model: str,
    load_params: str,
    averaged: bool,
    age: Age | None,
    causal: bool,
    class_conditional: bool,
    unverified: str | None,
    names: Sequence[str] | None = None,
    accuracy: np.ndarray | None = None,
    condition: str | None = None,
) -> dict[str, object]:
    """The content of eval.py's JSON, without `files_bits_per_dim` and the entries of --compress.

    The channels are named R, G and B if there are three, else by their numbers from 1. For images of two levels, the
    figures are also in nats an image: `nats_per_image`, the mean, its standard error, and a third value of each entry
    of `worst_first`. For codes, they are also nats a code, `nats_per_code`, and its exponential, `perplexity`; and
    `accuracy`, the share of codes that are the likeliest by their prediction.

    Args:
        nats: minus the log-likelihood of each channel of each test image, in nats, [N, C].
        image_shape: (H, W, C).
        levels: L.
        likelihood: its name.
        data_set: the name that --data_set takes.
        reduction, source, unverified: see dataset.DataSet.
        model, load_params: the specification's name and the checkpoint's prefix.
        averaged: whether the parameters are the Polyak averages.
        age: the age of the averages; None, if they are not used.
        causal: whether the network is causal; otherwise its figure is not a likelihood.
        class_conditional: whether the network was given the labels.
        names: the names of the images, if they have any.
        accuracy: of codes, the result of Distribution.accuracy.
        condition: the kind of the network's condition, in words; None: it takes none.
    """
    bits = logistic_mixture.bits_per_dim(nats.sum(1), image_shape)
    worst_first = np.argsort(-bits, kind="stable").tolist()
    published = comparisons.published_test_sets.get((data_set, reduction))
    channels = "RGB" if image_shape[2] == 3 else [str(number) for number in range(1, image_shape[2] + 1)]
    of_channels = logistic_mixture.bits_per_dim_per_channel(nats, image_shape)
    in_nats = nats.sum(1) if are_also_in_nats(levels) else None
    figures = {
        "data_set": data_set,
        "source": source,
        "model": model,
        "load_params": load_params,
        "averaged": averaged,
        "weight_of_initial_parameters": age.of_initial if age else None,
        "weight_of_loaded_average": age.of_loaded if age else None,
        "causal": causal,
        "image_shape": list(image_shape),
        "levels": levels,
        "likelihood": likelihood,
        "reduction": reduction,
        "condition": condition,
        "images": len(bits),
        "test_set_images": published.images if published else len(bits),
        "bits_per_dim": float(bits.mean()),
        "bits_per_dim_stderr": _stderr(bits),
        "bits_per_dim_per_channel": {
            channel: float(of_channel.mean()) for channel, of_channel in zip(channels, of_channels.T, strict=True)
        },
        "bits_per_dim_per_image": bits.tolist(),
        "names": None if names is None else list(names),
        "worst_first": [[i if names is None else names[i], float(bits[i])] for i in worst_first],
        "why_not_comparable": comparisons.why_not_comparable(
            data_set, reduction, len(bits), causal, class_conditional, unverified
        ),
    }
    if in_nats is not None:
        figures |= {"nats_per_image": float(in_nats.mean()), "nats_per_image_stderr": _stderr(in_nats)}
        for entry, i in zip(figures["worst_first"], worst_first, strict=True):
            entry.append(float(in_nats[i]))
    if likelihood == "categorical":
        of_codes = nats.sum(1) / np.prod(image_shape)
        figures |= {"nats_per_code": float(of_codes.mean()), "nats_per_code_stderr": _stderr(of_codes)}
        figures["perplexity"] = float(np.exp(of_codes.mean()))
        figures |= {"accuracy": float(accuracy.mean()), "accuracy_stderr": _stderr(accuracy)}
    if figures["why_not_comparable"] is None and published.paper is not None:
        figures["paper_bits_per_dim"] = published.paper
    return figures


def _stderr(values):
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None


def summary(figures: dict[str, object]) -> str:
    """The result in one line: bits/dim and its standard error, and whether the averages are young.

    For images of two levels, it also has nats an image; for codes, nats a code and the perplexity.
    """
    parts = [f"bits/dim: {figures['bits_per_dim']:.4f} {_plus_or_minus(figures)}"]
    if "nats_per_image" in figures:
        stderr = figures["nats_per_image_stderr"]
        spread = "" if stderr is None else f" +- {stderr:.2f}"
        parts.append(f"nats an image: {figures['nats_per_image']:.2f}{spread}")
    if "perplexity" in figures:
        most = np.log2(figures["levels"])
        parts.append(f"nats a code: {figures['nats_per_code']:.4f}, perplexity {figures['perplexity']:.1f}")
        parts.append(f"{figures['accuracy']:.2%} of codes predicted right")
        parts.append(f"without a prediction, a code takes {most:.4g} bits")
    return "; ".join([*parts, *_young(figures)])


def table(figures: dict[str, object]) -> str:
    """The result as a table: bits/dim, also by channel; published figures if comparable; those of image files.

    The title names the columns. For images of two levels, a second column has nats an image.
    """
    parameters = "averaged" if figures["averaged"] else "raw"
    of_channels = figures["bits_per_dim_per_channel"]
    shape = height, width, _ = figures["image_shape"]
    spread = _plus_or_minus(figures)
    if figures["images"] > 1 and "nats_per_image" in figures:
        stderrs = figures["bits_per_dim_stderr"], figures["nats_per_image_stderr"]
        spread = "+- {:.4f} and +- {:.2f} (standard error)".format(*stderrs)
    rows = [
        (f"{figures['model']}, {parameters} parameters", figures["bits_per_dim"], shape, spread),
        *(
            (f"  of {name if name in 'RGB' else f'channel {name}'}", bits, (height, width, 1), "")
            for name, bits in of_channels.items()
            if len(of_channels) > 1  # that of a single channel says nothing new
        ),
    ]
    if "bits_per_dim_on_disk" in figures:
        read_back = "every pixel was read back" if figures["read_back"] else "NOT read back"
        remark = f"{figures['bytes_on_disk']:,} bytes, {read_back}"
        rows.append(("on disk", figures["bits_per_dim_on_disk"], shape, remark))
    reason, published = figures["why_not_comparable"], (figures["data_set"], figures["reduction"])
    if reason is None:
        rows += _published(comparisons.published_test_sets[published], figures)
    sample = "" if figures["images"] <= comparisons.MOST_IMAGES else f"of {comparisons.MOST_IMAGES:,} of the images"
    rows += [(f"{name} files", bits, shape, sample) for name, bits in figures["files_bits_per_dim"].items()]
    columns = functools.partial(_columns, has_nats="nats_per_image" in figures)
    width = max(len(name) for name, *_ in rows)
    test_set = f"{counted(figures['test_set_images'], 'test image')} of {figures['data_set']} ({figures['source']})"
    in_nats = " and nats an image" if "nats_per_image" in figures else ""
    title = f"bits/dim{in_nats} on {figures['images']:,} of {test_set}"
    lines = [
        title,
        "-" * len(title),
        *(f"{name:{width}} {columns(bits, of_shape)} {remark}".rstrip() for name, bits, of_shape, remark in rows),
    ]
    worst = [(printable(str(name)), bits) for name, bits, *_ in figures["worst_first"][:_WORST]]
    width = max(len(name) for name, _ in worst)
    is_part = len(worst) < figures["images"]
    kind = f"the {len(worst)} images with the most bits/dim" if is_part else "all images, the most bits/dim first"
    lines += ["", f"{kind}{'' if figures['names'] else ' (by number, from 0)'}:"]
    lines += [f"  {name:{width}} {columns(bits, shape)}" for name, bits in worst]
    if reason is not None:
        theirs = "published figures" if comparisons.has_no_paper_figure(*published) else "the paper's figures"
        lines += ["", f"Not compared with {theirs}: {reason}."]
    lines += [f"The average is young: {young}." for young in _young(figures)]
    return "\n".join(["", *lines, ""])


def _published(test_set, figures):
    """Rows of the table, (name, bits/dim, shape, remark), with the published figures of a test set."""
    shape = figures["image_shape"]
    rows = comparisons.comparison(test_set, figures["bits_per_dim"], figures["bits_per_dim_stderr"])
    in_bits = (lambda nats: logistic_mixture.bits_per_dim(nats, shape)) if test_set.in_nats else (lambda bits: bits)
    return [(name, in_bits(figure), shape, remark) for name, figure, remark in rows]


def _columns(bits, shape, has_nats):
    """The table's column of bits/dim and, if it has one, that of the nats of all dimensions of a shape."""
    nats = f" {logistic_mixture.nats_per_image(bits, shape):9.2f}" if has_nats else ""
    return f"{bits:8.4f}{nats}"


def _plus_or_minus(figures):
    stderr = figures["bits_per_dim_stderr"]
    return "(one image)" if stderr is None else f"+- {stderr:.4f} (standard error)"


def _young(figures):
    """A list of one sentence: why the average is young, and what to do; empty if it is not young."""
    young = Age(figures["weight_of_initial_parameters"], figures["weight_of_loaded_average"]).why_young()
    return [f"{young}; --raw evaluates the parameters themselves"] if young else []
