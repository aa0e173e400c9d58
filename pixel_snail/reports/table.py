"""The result of an evaluation, as JSON and as a table."""

from collections.abc import Sequence

import numpy as np

from pixel_snail.errors import counted, printable
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.reports import comparisons
from pixel_snail.runs.average import Age

_WORST = 10
"""How many images the table names."""


def result(
    nats: np.ndarray,
    image_shape: tuple[int, int, int],
    *,
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
) -> dict[str, object]:
    """The content of eval.py's JSON, without `files_bits_per_dim` and the entries of --compress.

    Args:
        nats: minus the log-likelihood of each channel of each test image, in nats, [N, 3].
        image_shape: (H, W, 3).
        data_set: the name that --data_set takes.
        source, unverified: see dataset.DataSet.
        model, load_params: the specification's name and the checkpoint's prefix.
        averaged: whether the parameters are the Polyak averages.
        age: the age of the averages; None, if they are not used.
        causal: whether the network is causal; otherwise its figure is not a likelihood.
        class_conditional: whether the network was given the labels.
        names: the names of the images, if they have any.
    """
    bits = logistic_mixture.bits_per_dim(nats.sum(1), image_shape)
    worst_first = np.argsort(-bits, kind="stable").tolist()
    published = comparisons.paper_test_sets.get(data_set)
    figures = {
        "data_set": data_set,
        "source": source,
        "model": model,
        "load_params": load_params,
        "averaged": averaged,
        "weight_of_initial_parameters": age.of_initial if age else None,
        "weight_of_loaded_average": age.of_loaded if age else None,
        "causal": causal,
        "images": len(bits),
        "test_set_images": published.images if published else len(bits),
        "bits_per_dim": float(bits.mean()),
        "bits_per_dim_stderr": float(bits.std(ddof=1) / len(bits) ** 0.5) if len(bits) > 1 else None,
        "bits_per_dim_per_channel": {
            channel: float(bits.mean())
            for channel, bits in zip("RGB", logistic_mixture.bits_per_dim_per_channel(nats, image_shape).T, strict=True)
        },
        "bits_per_dim_per_image": bits.tolist(),
        "names": None if names is None else list(names),
        "worst_first": [[i if names is None else names[i], float(bits[i])] for i in worst_first],
        "why_not_comparable": comparisons.why_not_comparable(
            data_set, len(bits), causal, class_conditional, unverified
        ),
    }
    if figures["why_not_comparable"] is None:
        figures["paper_bits_per_dim"] = published.bits_per_dim
    return figures


def summary(figures: dict[str, object]) -> str:
    """The result in one line: bits/dim and its standard error, and whether the averages are young."""
    return "; ".join([f"bits/dim: {figures['bits_per_dim']:.4f} {_plus_or_minus(figures)}", *_young(figures)])


def table(figures: dict[str, object]) -> str:
    """The result as a table: bits/dim, also by channel; the paper's figures if comparable; those of image files."""
    parameters = "averaged" if figures["averaged"] else "raw"
    rows = [
        (f"{figures['model']}, {parameters} parameters", figures["bits_per_dim"], _plus_or_minus(figures)),
        *((f"  of {channel}", bits, "") for channel, bits in figures["bits_per_dim_per_channel"].items()),
    ]
    if "bits_per_dim_on_disk" in figures:
        read_back = "every pixel was read back" if figures["read_back"] else "NOT read back"
        rows.append(("on disk", figures["bits_per_dim_on_disk"], f"{figures['bytes_on_disk']:,} bytes, {read_back}"))
    reason = figures["why_not_comparable"]
    if reason is None:
        rows += comparisons.comparison(figures["data_set"], figures["bits_per_dim"], figures["bits_per_dim_stderr"])
    sample = "" if figures["images"] <= comparisons.MOST_IMAGES else f"of {comparisons.MOST_IMAGES:,} of the images"
    rows += [(f"{name} files", bits, sample) for name, bits in figures["files_bits_per_dim"].items()]
    width = max(len(name) for name, _, _ in rows)
    test_set = f"{counted(figures['test_set_images'], 'test image')} of {figures['data_set']} ({figures['source']})"
    title = f"bits/dim on {figures['images']:,} of {test_set}"
    lines = [title, "-" * len(title), *(f"{name:{width}} {bits:8.4f} {remark}".rstrip() for name, bits, remark in rows)]
    worst = [(printable(str(name)), bits) for name, bits in figures["worst_first"][:_WORST]]
    width = max(len(name) for name, _ in worst)
    is_part = len(worst) < figures["images"]
    kind = f"the {len(worst)} images with the most bits/dim" if is_part else "all images, the most bits/dim first"
    lines += ["", f"{kind}{'' if figures['names'] else ' (by number, from 0)'}:"]
    lines += [f"  {name:{width}} {bits:8.4f}" for name, bits in worst]
    if reason is not None:
        lines += ["", f"Not compared with the paper's figures: {reason}."]
    lines += [f"The average is young: {young}." for young in _young(figures)]
    return "\n".join(["", *lines, ""])


def _plus_or_minus(figures):
    stderr = figures["bits_per_dim_stderr"]
    return "(one image)" if stderr is None else f"+- {stderr:.4f} (standard error)"


def _young(figures):
    """A list of one sentence: why the average is young, and what to do; empty if it is not young."""
    young = Age(figures["weight_of_initial_parameters"], figures["weight_of_loaded_average"]).why_young()
    return [f"{young}; --raw evaluates the parameters themselves"] if young else []
