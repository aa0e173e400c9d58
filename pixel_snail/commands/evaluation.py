"""The work of eval.py: computes a checkpoint's bits/dim over a whole test set, compresses the set, draws images."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pixel_snail import loading, sampling
from pixel_snail.codec import archive, container
from pixel_snail.commands import compatibility, drawing, progress, streams
from pixel_snail.commands.command_line import height_and_width
from pixel_snail.dataset import DataSet
from pixel_snail.distribution import Distribution
from pixel_snail.errors import UserError
from pixel_snail.inputs.splits import checked_split
from pixel_snail.model import check_size, leak_warning, leaks
from pixel_snail.parallel import memory, replicas
from pixel_snail.parallel.cluster import cluster_from_environment
from pixel_snail.reports import comparisons, plotting, table
from pixel_snail.runs import average, earlier_runs, search
from pixel_snail.settings import NETWORK_DEFAULTS
from pixel_snail.storage import files, values

_SHOWN = 8
"""How many of the easiest and of the hardest images a picture shows."""


def evaluate(flags: argparse.Namespace, load_data: Callable[[argparse.Namespace], DataSet]) -> None:
    """Evaluates and draws as the flags say.

    Args:
        flags: of eval.py.
        load_data: loads the data set that the flags name.

    Raises:
        UserError: a file is missing, broken, of another network, or can't be written; memory does not suffice; or a
            worker was lost.
    """
    cluster = cluster_from_environment()
    with streams.text_elsewhere(flags.json), cluster.together(), memory.shortage_reported(memory.MORE_MEMORY):
        _evaluate(flags, load_data, cluster)


def _evaluate(flags, load_data, cluster):
    if cluster.is_chief:
        files.check_outputs(flags, ("json", "compress"))
        if flags.compress and files.is_stream(flags.compress):
            raise UserError(f"--compress={flags.compress} is a pipe or a device, which can't be read back: name a file")
        if flags.compress:
            container.check_replaceable(flags.compress, "compress")
        if flags.save_dir:
            files.check_writable(flags.save_dir, "save_dir")
    opened = search.find(flags.load_params)
    earlier_runs.fill_in_flags(flags, opened)
    if cluster.is_chief:
        print(f"checkpoint: {search.summary(opened, flags.load_params)}", flush=True)
    if leaks(flags.model):
        if drawn := [f"--{name}" for name in ("nr_samples", "complete") if getattr(flags, name)]:
            raise UserError(f"{leak_warning(flags.model)}, and it can't sample: drop {' and '.join(drawn)}")
        if flags.compress:
            raise UserError(f"{leak_warning(flags.model)}, and it can't compress: drop --compress")
        if cluster.is_chief:
            print(leak_warning(flags.model))
    if flags.image_size:
        check_size(flags.model, *height_and_width(flags.image_size))  # before pictures are converted to it
    strategy = replicas.strategy(flags.nr_gpu, cluster, in_micro_batches=not flags.skip_test)
    cluster.check_flags(flags)
    devices_in_words = replicas.described(strategy, cluster)
    if cluster.is_chief:
        print(devices_in_words, flush=True)
    data_set = None if flags.skip_test else cluster.chief_first(load_data, flags)
    for note in data_set.notes if data_set and cluster.is_chief else ():
        print(note, flush=True)
    image_shape, levels, nr_labels, class_names = compatibility.images_and_classes(flags, opened, data_set)
    data_set = compatibility.with_the_networks_condition(flags, cluster, opened, data_set)
    # Mistakes in the flags of drawing are reported before anything is computed.
    draw = None
    if cluster.is_chief:
        test = data_set.test if data_set and data_set.condition_shape else None
        draw = drawing.what_to_draw(flags, image_shape, levels, nr_labels, class_names, test)
    progress.say(f"building {flags.model}, {flags.nr_filters} filters ...")
    model = loading.load(
        opened,
        **{name: getattr(flags, name) for name in NETWORK_DEFAULTS},
        image_shape=image_shape,
        nr_labels=nr_labels,
        averaged=not flags.raw,
        strategy=strategy,
        cluster=cluster,
    )
    if draw:
        sampling.checked_noise(flags.temperature, flags.top_k, flags.top_p, model.network)
    cluster.check_agreement(data_set.sizes() if data_set else {})
    cluster.check_same_checkpoint(model.network.weights)
    if flags.compress and cluster.is_chief:
        archive.default_batch_size(len(data_set.test), model.network)  # raises a shortage of memory before the test
    age = None if flags.raw else average.read(opened)
    figures = _test(flags, opened.prefix, cluster, model, data_set, age) if data_set else {}
    if cluster.is_chief and not data_set and age and (young := age.why_young()):
        print(f"{young}; --raw draws with the parameters themselves", flush=True)
    if draw:
        print(draw(model))
    if not figures.get("read_back", True):
        raise UserError(f"{flags.compress} does not give back every pixel: the warnings above say why")


def _test(flags, prefix, cluster, model: Distribution, data_set: DataSet, age):
    """Evaluates the whole test set; the chief prints and returns the figures, and writes --json and the picture."""
    test = data_set.test
    checked = checked_split(model.network.description, test.images, test.labels, test.condition)
    figure = "nats" if model.network.codes is None else "nats_and_right"
    channels = data_set.image_shape[2]
    sums, extremes = _sums_and_extremes(model.figures_of(figure, checked, flags.batch_size), channels)
    nats, right = sums[:, :channels], sums[:, channels:]
    accuracy = right[:, 0] / math.prod(data_set.image_shape) if right.size else None
    if not cluster.is_chief:
        return {}
    figures = table.result(
        nats,
        data_set.image_shape,
        levels=data_set.levels,
        likelihood=flags.likelihood,
        reduction=data_set.reduction,
        data_set=flags.data_set,
        source=data_set.source,
        model=flags.model,
        load_params=prefix,
        averaged=not flags.raw,
        age=age,
        causal=model.is_causal,
        class_conditional=flags.class_conditional,
        unverified=data_set.unverified,
        names=test.names,
        accuracy=accuracy,
        condition=None if model.condition is None else str(model.condition),
    )
    print(table.summary(figures), flush=True)
    figures["files_bits_per_dim"] = comparisons.files_bits_per_dim(test.images, data_set.levels)
    try:
        if flags.compress:
            figures |= _compress(flags.compress, model, test, (os.path.abspath(prefix), not flags.raw))
    finally:  # compressing may fail, or be interrupted: the figures of the test are not lost
        if flags.json:
            # A name that is not UTF-8 is written as JSON's escapes.
            text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
            files.write(flags.json, lambda path: Path(path).write_bytes(text.encode(errors="backslashreplace")))
        print(table.table(figures), flush=True)
    if flags.save_dir:
        print(f"where the bits go: {_save_bit_maps(flags, data_set, figures, extremes)}", flush=True)
    return figures


def _compress(path, model, test, origin):
    """Writes the test images into a compressed file and reads it again; returns the entries of the JSON about it.

    Args:
        origin: the checkpoint, as in container.Header.
    """
    # Reading the file back is the verification.
    data = model.archiver.compress(test.images, test.labels, test.condition, checkpoint=origin, verify=False)
    files.write(path, lambda path: Path(path).write_bytes(data))
    header, groups = container.read(Path(path).read_bytes())
    read_back = True
    for i, images in enumerate(model.archiver.decompress(header, groups, test.condition)):
        if isinstance(images, UserError):
            print(f"warning: {path}: {images}", file=sys.stderr, flush=True)
            read_back = False
        else:
            first = i * header.batch
            read_back &= np.array_equal(images, values.rows(test.images, np.arange(first, first + len(images))))
    return {
        "bytes_on_disk": len(data),
        "bits_per_dim_on_disk": 8 * len(data) / math.prod(test.images.shape),
        "read_back": bool(read_back),
    }


def _sums_and_extremes(batches, channels):
    """The figures [b, H, W, ...] of batches, summed over the pixels of each image; and, for the images with the fewest
    and the most nats, in that order, their numbers and the nats of their values, [H, W, C]."""
    sums, extremes = [], []
    for figures in batches:
        sums.append(figures.sum((1, 2), dtype=np.float64))
        first = sum(map(len, sums)) - len(figures)
        extremes += zip(range(first, first + len(figures)), figures[..., :channels], strict=True)
        extremes.sort(key=lambda image: image[1].sum())
        if len(extremes) > 2 * _SHOWN:
            extremes = [*extremes[:_SHOWN], *extremes[-_SHOWN:]]
    return np.concatenate(sums), extremes


def _save_bit_maps(flags, data_set, figures, extremes):
    path = os.path.join(flags.save_dir, f"{flags.data_set}_bits.png")
    shown = values.rows(data_set.test.images, np.array([number for number, _ in extremes]))
    maps = np.stack([nats.sum(-1) / np.log(2) for _, nats in extremes])
    bits = figures["bits_per_dim_per_image"]
    files.write(path, lambda path: plotting.save_bit_maps(shown, maps, bits, path, data_set.levels))
    return path
