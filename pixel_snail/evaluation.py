"""bits/dim of a checkpoint over a whole test set, and samples from it."""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import data
from pixel_snail import checkpoint, codecs, drawing, logistic_mixture, nn, progress
from pixel_snail import flags as command_line
from pixel_snail import model as models
from pixel_snail.errors import UserError
from pixel_snail.parallel import cluster as clusters
from pixel_snail.parallel import micro_batches, replicas
from pixel_snail.reports import comparisons, plotting
from pixel_snail.runs import folder as run_folder

_SHOWN = 8
"""How many of the easiest and of the hardest images a picture shows."""


def evaluate(flags: argparse.Namespace) -> None:
    """Does what eval.py's flags say.

    Raises:
        UserError: files that are missing, broken, of another network, or can't be written; a worker that was lost.
    """
    cluster = clusters.from_environment()
    with cluster.together():
        _evaluate(flags, cluster)


def _evaluate(flags, cluster):
    if cluster.is_chief:
        if flags.json:
            run_folder.check_file_writable(flags.json)
        if flags.save_dir:
            run_folder.check_writable(flags.save_dir)
    prefix = checkpoint.find(flags.load_params)
    run_folder.complete_flags(flags, prefix, command_line.MODEL_DEFAULTS, command_line.DATA_DEFAULTS)
    _check_size(flags, prefix)
    if flags.model in models.leaking:
        if flags.nr_samples or flags.complete:
            raise UserError(f"{models.leak_warning(flags.model)}, and it can't sample: drop --nr_samples, --complete")
        if cluster.is_chief:
            print(models.leak_warning(flags.model))
    strategy = replicas.strategy(flags.nr_gpu, cluster, in_parts=not flags.skip_test)
    cluster.check_flags(flags)
    data_set = cluster.chief_first(load_data, flags)
    plan = _what_to_draw(flags, data_set) if cluster.is_chief else None
    with strategy.scope():
        model = build_model(flags, data_set, dropout_p=0.0)
        checkpoint.load(prefix, model, averaged=not flags.raw)
    cluster.check_agreement(data_set.sizes())
    cluster.check_same_checkpoint(model.trainable_variables)
    if not flags.skip_test:
        _test(flags, prefix, strategy, cluster, model, data_set)
    if plan is not None:
        print(plan(model))


def _check_size(flags, prefix):
    """Raises UserError if the network is far larger than the checkpoint's: to build it might take all memory."""
    parameters = checkpoint.Reader(prefix).parameters()
    widest = max((width for shape in parameters.values() for width in shape), default=0)
    for name, most in (("nr_filters", widest), ("nr_logistic_mix", widest), ("nr_resnet", len(parameters))):
        if getattr(flags, name) > most:
            raise UserError(
                f"the checkpoint {prefix} is of another network: --{name}={getattr(flags, name)} is too much for its "
                f"{len(parameters)} tensors, at most {widest} wide; python -m pixel_snail.checkpoint {prefix} tells of "
                "which it is"
            )


def _test(flags, prefix, strategy, cluster, model, data_set):
    """Evaluates the whole test set; the chief prints a table, and writes --json and the picture."""
    step = test_step(strategy, model, lambda: model.trainable_variables, data_set.nr_labels)
    values = per_value(step(), strategy, data_set.test, flags.batch_size, cluster=cluster)
    nats, extremes = _nats_and_extremes(values)
    if not cluster.is_chief:
        return
    result = _result(flags, prefix, data_set, nats)
    print(f"bits/dim: {result['bits_per_dim']:.4f} {_plus_or_minus(result)}", flush=True)
    result["files_bits_per_dim"] = codecs.bits_per_dim(data_set.test.images)
    if flags.json:
        run_folder.write(flags.json, lambda path: Path(path).write_text(json.dumps(result, indent=1) + "\n"))
    if flags.save_dir:
        print(f"where the bits go: {_save_bit_maps(flags, data_set, result, extremes)}")
    print(_table(result), flush=True)


def _what_to_draw(flags, data_set):
    """A function of the model that draws what the flags ask for and says where it is; None if they ask for nothing.

    What may be wrong with the flags is found here, before anything is computed.
    """

    def drawn_by(model, number, *arguments, **keywords):
        batch, nr_mix = flags.sample_batch, flags.nr_logistic_mix
        draw = drawing.drawer(model, data_set, number, batch, nr_mix, flags.seed, flags.temperature)
        return draw(nn.fold(model, model.trainable_variables), *arguments, **keywords)

    if flags.complete:
        truth = drawing.images_to_complete(flags.complete, data_set.image_shape)
        keep_rows = drawing.rows_to_keep(flags, data_set.image_shape)
        classes = drawing.classes_to_complete(flags.classes, len(truth), data_set.nr_labels)
        each = flags.nr_samples or drawing.COMPLETIONS

        def complete(model):
            labels = None if classes is None else np.repeat(classes, each)
            given = np.repeat(truth, each, 0)
            images = drawn_by(model, len(given), labels, given=given, keep_rows=keep_rows)
            path = drawing.save_completions(truth, images, keep_rows, flags.save_dir, flags.data_set)
            return f"completions: {path}"

        return complete

    classes, columns = drawing.classes_to_draw(flags.classes, flags.nr_samples, data_set.nr_labels)

    def sample(model):
        images = drawn_by(model, flags.nr_samples if classes is None else len(classes), classes)
        return f"samples: {drawing.save_samples(images, flags.save_dir, flags.data_set, columns)}"

    return sample if flags.nr_samples else None


def load_data(flags: argparse.Namespace) -> data.DataSet:
    """The data set that the flags name.

    Raises:
        UserError: it is not there, has no labels where they are needed, or what is written would become part of it.
    """
    if flags.data_set == "folder" and flags.save_dir:
        data.folder.check_apart(Path(flags.data_dir), Path(flags.save_dir))
    data_set = data.load(flags.data_set, Path(flags.data_dir), flags.image_size, flags.downsample)
    if flags.class_conditional and data_set.nr_labels is None:
        raise UserError(f"the data set {flags.data_set} has no labels: drop --class_conditional")
    if not flags.class_conditional:
        data_set = data_set.without_labels()
    return data_set


def build_model(flags: argparse.Namespace, data_set: data.DataSet, dropout_p: float) -> keras.Model:
    """The network that the flags name, for the images of the data set."""
    progress.say(f"building {flags.model}, {flags.nr_filters} filters ...")
    return models.build(
        flags.model,
        data_set.image_shape,
        data_set.nr_labels,
        nr_resnet=flags.nr_resnet,
        nr_filters=flags.nr_filters,
        nr_logistic_mix=flags.nr_logistic_mix,
        resnet_nonlinearity=flags.resnet_nonlinearity,
        dropout_p=dropout_p,
    )


def network_inputs(batch: dict[str, tf.Tensor], nr_labels: int | None) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Images as the network sees them, in [-1, 1], and their labels one-hot, if it is conditional."""
    x = (tf.cast(batch["images"], tf.float32) - 127.5) / 127.5
    return x, None if nr_labels is None else tf.one_hot(batch["labels"], nr_labels)


def test_step(
    strategy: tf.distribute.Strategy, model: keras.Model, parameters: Callable, nr_labels: int | None
) -> Callable[[], Callable]:
    """A function that makes ready what to predict with, for many batches, and returns a step: a function that takes a
    batch, distributed over the replicas, to the nats of each value of each of its images, [B, H, W, 3], in order.

    Args:
        parameters: returns what to predict with, in the order of the model's.
    """
    layers = []

    def replica_weights():
        weights = nn.for_maps(nn.fold(model, parameters()))
        layers[:] = weights
        return list(weights.values())

    def replica_step(batch, weights):
        def nats(part):
            x, h = network_inputs(part, nr_labels)
            with nn.folded(dict(zip(layers, weights, strict=True))):
                return logistic_mixture.loss_per_channel(x, model(x, h=h))

        division = micro_batches.division(batch["images"].shape[0], replicas.replicas_here(strategy))
        return micro_batches.mapped(nats, batch, *division)

    @tf.function(autograph=False)
    def folded():
        return strategy.run(replica_weights)

    @tf.function(autograph=False)
    def step(weights, batch):
        return tf.concat(strategy.experimental_local_results(strategy.run(replica_step, [batch, weights])), 0)

    return lambda: partial(step, folded())


def per_value(
    step: Callable,
    strategy: tf.distribute.Strategy,
    split: data.Split,
    batch_size: int,
    leave: bool = True,
    cluster: clusters.Cluster | None = None,
    before_each: Callable[[], None] = lambda: None,
) -> Iterator[np.ndarray]:
    """The negative log-likelihood in nats of every value of every image of a split, once each, in order: [b, H, W, 3]
    for some of the images at a time, until all have come.

    Args:
        step: what `test_step`'s function returned.
        batch_size: images a replica.
        leave: whether the progress bar stays on the screen.
        cluster: the workers, if there may be several: each computes its part, and gets all.
        before_each: called before each batch; it may raise.

    Raises:
        UserError: the network's parameters are not finite.
    """
    cluster = cluster or clusters.Cluster()
    number = batch_size * strategy.num_replicas_in_sync
    batches = clusters.batches(strategy, lambda *parts: data.test_batches(split, number, *parts), cluster)
    total = -(-len(split) // number)
    seen = 0
    for batch in progress.bar(
        batches, desc="evaluating", total=total, leave=leave, unit="batch", disable=not cluster.is_chief
    ):
        before_each()
        nats = np.concatenate(cluster.gather(step(batch).numpy()))[: len(split) - seen]
        if not np.isfinite(nats).all():
            raise UserError(
                "the likelihood of test images is not finite: the checkpoint's parameters are not, or far from any "
                "that training gives"
            )
        seen += len(nats)
        yield nats


def nats_per_channel(values: Iterator[np.ndarray]) -> np.ndarray:
    """What `per_value` yields, summed over the pixels of each image: [N, 3], float64."""
    return np.concatenate([nats.sum((1, 2), dtype=np.float64) for nats in values])


def _nats_and_extremes(values):
    """nats_per_channel(values), and of the images with the fewest and the most nats, in that order, the numbers and
    the nats of their values."""
    sums, extremes = [], []
    for nats in values:
        sums.append(nats.sum((1, 2), dtype=np.float64))
        first = sum(map(len, sums)) - len(nats)
        extremes = sorted([*extremes, *zip(range(first, first + len(nats)), nats, strict=True)], key=_total)
        if len(extremes) > 2 * _SHOWN:
            extremes = [*extremes[:_SHOWN], *extremes[-_SHOWN:]]
    return np.concatenate(sums), extremes


def _total(image):
    return image[1].sum()


def _result(flags, prefix, data_set, nats):
    """What the JSON says, but for the files."""
    bits = logistic_mixture.bits_per_dim(nats.sum(1), data_set.image_shape)
    causal = flags.model not in models.leaking
    total = comparisons.benchmarks[flags.data_set].images if flags.data_set in comparisons.benchmarks else len(bits)
    result = {
        "data_set": flags.data_set,
        "source": data_set.source,
        "model": flags.model,
        "load_params": prefix,
        "averaged": not flags.raw,
        "causal": causal,
        "images": len(bits),
        "test_set_images": total,
        "bits_per_dim": float(bits.mean()),
        "bits_per_dim_stderr": float(bits.std(ddof=1) / len(bits) ** 0.5) if len(bits) > 1 else None,
        "bits_per_dim_per_channel": {
            # A channel has a third of an image's dimensions.
            channel: float(3 * logistic_mixture.bits_per_dim(nats[:, i], data_set.image_shape).mean())
            for i, channel in enumerate("RGB")
        },
        "bits_per_dim_per_image": bits.tolist(),
        "why_not_comparable": comparisons.why_not_comparable(
            flags.data_set, len(bits), causal, flags.class_conditional, data_set.unverified
        ),
    }
    if result["why_not_comparable"] is None:
        result["paper_bits_per_dim"] = comparisons.benchmarks[flags.data_set].bits_per_dim
    return result


def _save_bit_maps(flags, data_set, result, extremes):
    path = os.path.join(flags.save_dir, f"{flags.data_set}_bits.png")
    images = np.stack([data_set.test.images[number] for number, _ in extremes])
    maps = np.stack([nats.sum(-1) / np.log(2) for _, nats in extremes])
    bits = result["bits_per_dim_per_image"]
    run_folder.write(path, lambda path: plotting.save_bit_maps(images, maps, bits, path))
    return path


def _plus_or_minus(result):
    stderr = result["bits_per_dim_stderr"]
    return "(one image)" if stderr is None else f"+- {stderr:.4f} (standard error)"


def _table(result):
    parameters = "averaged" if result["averaged"] else "raw"
    rows = [
        (
            f"{result['model']}, {parameters} parameters",
            result["bits_per_dim"],
            _plus_or_minus(result),
        ),
        *((f"  of {channel}", bits, "") for channel, bits in result["bits_per_dim_per_channel"].items()),
    ]
    reason = result["why_not_comparable"]
    if reason is None:
        rows += comparisons.comparison(result["data_set"], result["bits_per_dim"], result["bits_per_dim_stderr"])
    files = "" if result["images"] <= codecs.MOST_IMAGES else f"of {codecs.MOST_IMAGES:,} of the images"
    rows += [(f"{name} files", bits, files) for name, bits in result["files_bits_per_dim"].items()]
    width = max(len(name) for name, _, _ in rows)
    title = (
        f"bits/dim on {result['images']:,} of {result['test_set_images']:,} test images of {result['data_set']} "
        f"({result['source']})"
    )
    lines = [title, "-" * len(title), *(f"{name:{width}} {bits:8.4f} {remark}".rstrip() for name, bits, remark in rows)]
    if reason is not None:
        lines += ["", f"Not compared with the paper's figures: {reason}."]
    return "\n".join(["", *lines, ""])
