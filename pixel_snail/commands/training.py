"""The work of train.py: makes the data set, the network and the trainer that its flags describe, and runs them."""

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Callable

import numpy as np

from pixel_snail.backend import keras
from pixel_snail.commands import command_line, progress, signals
from pixel_snail.dataset import DataSet
from pixel_snail.errors import UserError
from pixel_snail.inputs.conditions import Condition
from pixel_snail.model import build_network, check_size, leak_warning
from pixel_snail.parallel import devices, memory, replicas
from pixel_snail.parallel.batches import check_batch_size
from pixel_snail.parallel.cluster import cluster_from_environment
from pixel_snail.reports import comparisons
from pixel_snail.runs import beginning, search
from pixel_snail.runs.folder import RunFolder
from pixel_snail.runs.retention import Checkpoints
from pixel_snail.runs.run import Run
from pixel_snail.settings import CONDITION_RESNET, NETWORK_DEFAULTS, TrainingSettings
from pixel_snail.storage import files
from pixel_snail.storage.reductions import Mutated
from pixel_snail.trainer import Trainer


def train(flags: argparse.Namespace, load_data: Callable[[argparse.Namespace], DataSet]) -> None:
    """Trains as the flags say. Wrong flags, data and checkpoints are reported before the run's folder is made.

    After a signal that asks the run to stop (see signals.Signals), it saves a checkpoint, if it has taken a step, and
    returns.

    Args:
        flags: of train.py.
        load_data: loads the data set that the flags name.

    Raises:
        UserError: a file is missing, broken or of another network; a loss or a gradient is not finite; memory does not
            suffice; a worker was lost; or, reported at the end, a file could not be written.
    """
    cluster = cluster_from_environment()
    with cluster.together(), memory.shortage_reported(memory.MORE_MEMORY):
        _train(flags, load_data, cluster)


def _train(flags, load_data, cluster):
    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    settings = TrainingSettings(**{name: getattr(flags, name) for name in names})
    if flags.paper and cluster.is_chief:
        run = {name: getattr(flags, name) for name in comparisons.paper_flags[flags.paper]}
        print(f"--paper={flags.paper}:", *(f"--{name}={value}" for name, value in run.items()), flush=True)
    if cluster.is_chief:
        files.check_writable(flags.save_dir, "save_dir")
    begins = beginning.of_flags(flags)
    if flags.image_size:
        check_size(flags.model, *command_line.height_and_width(flags.image_size))  # before pictures are converted to it
    keras.utils.set_random_seed(flags.seed)
    strategy = replicas.strategy(flags.nr_gpu, cluster)
    cluster.check_flags(flags)
    data_set = _with_mutations(cluster.chief_first(load_data, flags), flags.mutation_rate)
    if flags.class_conditional and data_set.nr_labels is None:
        raise UserError(f"the data set {flags.data_set} has no labels: drop --class_conditional")
    global_batch = flags.batch_size * strategy.num_replicas_in_sync
    check_batch_size(data_set.train, flags.batch_size, "batch_size", strategy.num_replicas_in_sync)
    if not begins.opened and not flags.init_from:
        check_batch_size(data_set.train, flags.init_batch_size, "init_batch_size")
    condition = _condition_of(flags, data_set)
    begins.check_data_set(condition, data_set.class_names)
    so_far = begins.history
    if so_far.begin_on(len(data_set.train)):
        begins.notes.append(f"there are now {len(data_set.train):,} training images: a new epoch begins")
    so_far.end_tested_epoch(len(data_set.train), global_batch)
    cluster.check_agreement(
        data_set.sizes()
        | {"the checkpoint's epoch": so_far.epoch, "the number of its images already used in that epoch": so_far.images}
    )
    if over := begins.what_is_over(flags):
        if cluster.is_chief:
            print(over)
        return
    progress.say(f"building {flags.model}, {flags.nr_filters} filters ...")
    with strategy.scope():
        network = build_network(
            **{name: getattr(flags, name) for name in NETWORK_DEFAULTS},
            image_shape=data_set.image_shape,
            nr_labels=data_set.nr_labels,
            class_names=data_set.class_names,
            levels=data_set.levels,
            dropout_p=flags.dropout_p,
            **{f"condition_{name}": value for name, value in vars(condition).items()},
        )
    trainer = Trainer(network, settings, strategy, cluster)
    trainer.check_memory()
    newest = begins.prefix
    begins.start(trainer, data_set.train, flags)
    with (
        contextlib.closing(RunFolder(flags, cluster, begins.folder)) as folder,
        signals.Signals() as asked,
    ):
        if begins.folder and cluster.is_chief and search.find(str(folder.path)).prefix != newest:
            raise UserError(
                f"another process has trained in {folder.path} since this command read {newest}: repeat the command"
            )
        folder.log(f"run folder: {folder.path}")
        folder.log(replicas.described(strategy, cluster))
        folder.log(json.dumps(vars(flags), indent=4, sort_keys=True))
        folder.log(f"# of Parameters {sum(int(np.prod(v.shape)) for v in network.weights)}")
        folder.log(f"dataset size: {len(data_set.train)}")
        folder.log(f"replicas: {strategy.num_replicas_in_sync}")
        for note in [*_notes(flags, cluster, network, data_set), *begins.notes]:
            folder.log(note)
        checkpoints = Checkpoints(folder, flags.data_set, flags.keep, flags.save_minutes, newest)
        Run(flags, data_set, trainer, folder, checkpoints, asked).go()
        if folder.failure:
            raise UserError(f"not all of {folder.path} could be written; the last failure: {folder.failure}")


def _with_mutations(data_set, rate):
    """The data set, but training sees other values in the training images, with the probability `rate`; see Mutated."""
    if not rate:
        return data_set
    train = dataclasses.replace(data_set.train, images=Mutated(data_set.train.images, rate, data_set.levels))
    note = (
        f"each value of the training images is replaced, with the probability {rate}, by one drawn uniformly from 0 to "
        f"{data_set.levels - 1}, anew in each epoch; the test images stay as they are"
    )
    return dataclasses.replace(data_set, train=train, notes=(*data_set.notes, note))


def _condition_of(flags: argparse.Namespace, data_set: DataSet) -> Condition:
    """The condition of the network for a data set; its shape is None if the data set has no conditions.

    Raises:
        UserError: --condition_levels is not for this data set, or too small for its codes.
    """
    levels, given = data_set.condition_levels, flags.condition_levels
    if given is not None:
        if levels is None:
            raise UserError(
                f"--condition_levels={given} is for conditions that are maps of codes, and the data set "
                f"{flags.data_set} has none: leave it out"
            )
        if given < levels:
            raise UserError(
                f"--condition_levels={given}, but the conditions have the code {levels - 1}: give {levels} or more"
            )
        levels = given
    return Condition(data_set.condition_shape, levels, flags.condition_resnet)


def _notes(flags, cluster, network, data_set):
    """Lines for the log about the machines, the network and the images, which precede all figures."""
    notes = []
    if cluster.size > 1:
        notes.append(f"workers: {', '.join(cluster.addresses)}")
    elif flags.average_machines:
        notes.append("--average_machines changes nothing on one machine")
    if network.codes and flags.nr_logistic_mix != NETWORK_DEFAULTS["nr_logistic_mix"]:
        notes.append("--nr_logistic_mix changes nothing with --likelihood=categorical")
    if (condition := network.condition) is not None:
        notes.append(f"conditional on {condition}")
    if flags.condition_resnet not in (CONDITION_RESNET, condition and condition.resnet):
        notes.append("--condition_resnet changes nothing, because the network takes no condition that is a map")
    if network.leaks:
        notes.append(leak_warning(flags.model))
    if flags.bfloat16 and not devices.number_of_gpus() and devices.lacks_bfloat16():
        notes.append("--bfloat16 saves memory only, and no time: this processor has no instructions for bfloat16")
    name = flags.data_set, data_set.reduction
    published = comparisons.published_test_sets.get(name)
    reason = comparisons.why_not_published(*name, len(data_set.test), data_set.unverified)
    if published and len(data_set.train) != published.train_images:
        reason = f"the published training set has {published.train_images:,} images"
    theirs = "published figures" if comparisons.has_no_paper_figure(*name) else "the paper's"
    not_comparable = [f"warning: no result will be comparable with {theirs}: {reason}"] if reason else []
    return [*notes, *data_set.notes, *not_comparable]
