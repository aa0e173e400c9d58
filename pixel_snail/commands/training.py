"""What train.py does: epochs of steps under a tf.distribute strategy, with tests, checkpoints and samples."""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from pixel_snail import checkpoint, progress, sampling, steps
from pixel_snail.backend import keras, tf
from pixel_snail.batches import check_batch_size, epoch_order, training_batches
from pixel_snail.commands import signals
from pixel_snail.dataset import DataSet
from pixel_snail.errors import UserError, counted
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.model import build_network, check_side, leak_warning, leaking
from pixel_snail.network import Network
from pixel_snail.optimizer import PolyakAdam, cosine_annealing
from pixel_snail.parallel import devices, memory, replicas
from pixel_snail.parallel.cluster import Cluster, cluster_from_environment
from pixel_snail.reports import comparisons, plotting
from pixel_snail.runs import earlier_runs, history, search
from pixel_snail.runs.average import Age
from pixel_snail.runs.folder import RunFolder
from pixel_snail.runs.history import History
from pixel_snail.runs.retention import Checkpoints
from pixel_snail.settings import NETWORK_DEFAULTS
from pixel_snail.storage import files
from pixel_snail.weights import fold

_DIGITS = {"epoch": "d", "time": ".2f", "lr": ".6g", "train_bpd": ".4f", "test_bpd": ".4f"}
"""The figures of an epoch, by the original's names, and how they are rounded."""

_FIRST_CURVE = 60
"""Seconds of training until the learning curve is first drawn; it is drawn again whenever they have doubled."""


def train(flags: argparse.Namespace, load_data: Callable[[argparse.Namespace], DataSet]) -> None:
    """Does what train.py's flags say. A user's mistakes are found before a folder is made.

    On a signal that asks it to stop (see signals.Signals) it saves, if it has taken a step, and returns.

    Args:
        load_data: loads the data set that the flags name.

    Raises:
        UserError: files that are missing, broken or of another network; a loss or a gradient that is not finite; a
            worker that was lost; or, at the end, something that could not be written.
    """
    cluster = cluster_from_environment()
    with cluster.together(), memory.shortage_told(memory.MORE_MEMORY):
        _train(flags, load_data, cluster)


def _train(flags, load_data, cluster):
    if flags.paper and cluster.is_chief:
        run = {name: getattr(flags, name) for name in comparisons.paper_flags[flags.paper]}
        print(f"--paper={flags.paper}:", *(f"--{name}={value}" for name, value in run.items()), flush=True)
    if flags.batch_size % flags.grad_accum:
        raise UserError(
            f"--batch_size={flags.batch_size} can't be cut into --grad_accum={flags.grad_accum} equal parts: choose a "
            "divisor of --batch_size"
        )
    if cluster.is_chief:
        files.check_writable(flags.save_dir, "save_dir")
    run_folder, opened, why_new = earlier_runs.newest_run(flags) if flags.resume else (None, None, None)
    if not run_folder and flags.load_params:
        opened = search.find(flags.load_params)
    prefix = opened.prefix if opened else None
    told = history.read(opened) if opened else None
    so_far = told or History()
    if opened and not run_folder:
        so_far.age = Age(so_far.age.of_initial if told else None, of_loaded=1.0)
    if flags.image_size:
        check_side(flags.model, flags.image_size)  # before pictures are converted to it
    keras.utils.set_random_seed(flags.seed)
    strategy = replicas.strategy(flags.nr_gpu, cluster)
    cluster.check_flags(flags)
    data_set = cluster.chief_first(load_data, flags)
    if flags.class_conditional and data_set.nr_labels is None:
        raise UserError(f"the data set {flags.data_set} has no labels: drop --class_conditional")
    global_batch = flags.batch_size * strategy.num_replicas_in_sync
    check_batch_size(data_set.train, flags.batch_size, "batch_size", strategy.num_replicas_in_sync)
    check_batch_size(data_set.train, flags.init_batch_size, "init_batch_size")
    if so_far.is_tested and len(data_set.train) - so_far.images < global_batch:
        so_far.end_epoch()
    cluster.check_agreement(
        data_set.sizes()
        | {"the checkpoint's epoch": so_far.epoch, "the number of its images already used in that epoch": so_far.images}
    )
    if over := _what_is_over(flags, so_far):
        done, limit = over
        if not run_folder:
            raise UserError(f"{prefix} {done}, and the limit is {limit}: raise it")
        if cluster.is_chief:
            print(f"{prefix} {done}, and the limit is {limit}: nothing is left to do")
        return
    with strategy.scope():
        network, optimizer = _network_and_optimizer(flags, cluster, strategy, data_set, opened, so_far)
    restored = search.summary(opened, None if run_folder else flags.load_params) if opened else None
    del opened  # the run may remove this checkpoint: as long as it is open, it takes its space on the disk
    with (
        contextlib.closing(RunFolder(flags, cluster, run_folder)) as folder,
        signals.Signals() as asked,
    ):
        folder.log(f"run folder: {folder.path}")
        folder.log(replicas.described(strategy, cluster))
        folder.log(json.dumps(vars(flags), indent=4, sort_keys=True))
        folder.log(f"# of Parameters {sum(int(np.prod(v.shape)) for v in network.weights)}")
        folder.log(f"dataset size: {len(data_set.train)}")
        folder.log(f"replicas: {strategy.num_replicas_in_sync}")
        if cluster.size > 1:
            folder.log(f"workers: {', '.join(cluster.addresses)}")
        elif flags.average_machines:
            folder.log("--average_machines changes nothing on one machine")
        if flags.model in leaking:
            folder.log(leak_warning(flags.model))
        if flags.bfloat16 and not devices.number_of_gpus() and devices.lacks_bfloat16():
            folder.log("--bfloat16 saves memory only, and no time: this processor has no instructions for bfloat16")
        for note in _notes(flags, data_set):
            folder.log(note)
        if prefix:
            folder.log(f"restored {restored}")
            if not told:
                folder.log(
                    "it has the parameters, their averages, Adam's state and, by its steps, the learning rate, but no "
                    "epoch and no figures: epochs count from 0"
                )
            folder.log(f"going on in epoch {so_far.epoch}, after {so_far.images} of its images")
        elif flags.resume:
            folder.log(f"{why_new}: a new run begins")
        _Run(
            flags=flags,
            strategy=strategy,
            cluster=cluster,
            data_set=data_set,
            network=network,
            optimizer=optimizer,
            folder=folder,
            checkpoints=Checkpoints(folder, flags.data_set, flags.keep, flags.save_minutes, prefix),
            history=so_far,
            asked=asked,
        ).go()
        if folder.failure:
            raise UserError(f"not all of {folder.path} could be written; the last failure: {folder.failure}")


def _what_is_over(flags, so_far):
    """How long a run has already trained, and the flag that limits it, in words; None if it may go on."""
    if so_far.epoch >= flags.max_epochs:
        return f"has already done {counted(so_far.epoch, 'epoch')}", f"--max_epochs={flags.max_epochs}"
    minutes = so_far.seconds / 60
    if flags.lr_to_zero and flags.max_minutes and minutes >= flags.max_minutes and so_far.is_tested:
        return f"has already trained {minutes:.2f} minutes", f"--max_minutes={flags.max_minutes:g}"
    return None


def _notes(flags, data_set):
    """What a user should know of the images before any figure is printed."""
    published = comparisons.paper_test_sets.get(flags.data_set)
    reason = comparisons.why_not_published(flags.data_set, len(data_set.test), data_set.unverified)
    if published and len(data_set.train) != published.train_images:
        reason = f"the published training set has {published.train_images:,} images"
    return [*data_set.notes, *([f"warning: no result will be comparable with the paper's: {reason}"] if reason else [])]


def _network_and_optimizer(flags, cluster, strategy, data_set, opened, so_far):
    """The network and its optimizer: initialised from data, or as in a checkpoint."""
    progress.say(f"building {flags.model}, {flags.nr_filters} filters ...")
    network = build_network(
        **{name: getattr(flags, name) for name in NETWORK_DEFAULTS},
        image_shape=data_set.image_shape,
        nr_labels=data_set.nr_labels,
        class_names=data_set.class_names,
        dropout_p=flags.dropout_p,
    )
    least = partial(steps.least_memory, strategy, network, flags.batch_size)
    with memory.shortage_told("lower --nr_filters, --nr_resnet or --batch_size"):
        memory.check(least(flags.batch_size, recompute=True), "a training step needs")
    with memory.shortage_told(_to_save_memory(flags, data_set.image_shape)):
        needed = least(flags.grad_accum, bfloat16=flags.bfloat16, recompute=flags.recompute)
        memory.check(needed, "a training step needs")
    machines = cluster.size if flags.average_machines else 1
    optimizer = PolyakAdam(flags.learning_rate, flags.lr_decay, flags.polyak_decay, machines=machines)
    if opened:
        optimizer.build(network.weights)
        checkpoint.load(opened, network, optimizer)
        optimizer.refused.assign(so_far.refused)
        so_far.lr_factor = so_far.lr_factor if flags.lr_to_zero else 1.0
        optimizer.lr_factor.assign(so_far.lr_factor)
        cluster.check_same_checkpoint([*network.weights, optimizer.average, optimizer.velocity])
    else:
        with memory.shortage_told("lower --init_batch_size"):
            (batch,) = training_batches(data_set.train, flags.init_batch_size, flags.seed, epoch=0).take(1)
            steps.initialise(network, batch, flags.seed)
        # Workers on other processors may have rounded differently.
        cluster.broadcast_from_chief(network.weights)
        optimizer.build(network.weights)
    return network, optimizer


def _to_save_memory(flags, image_shape):
    """The two ways that save most memory in a training step, in words; docs/performance.md has the figures."""
    on_gpus = devices.number_of_gpus() > 0
    parts = [] if flags.grad_accum == flags.batch_size else [f"--grad_accum={flags.batch_size}"]
    recompute = [] if flags.recompute else ["--recompute"]
    # A CPU computes the batch in small parts anyway. With --recompute, bfloat16 saves it little.
    best = [*parts, *recompute] if on_gpus else [*recompute, *parts]
    if not flags.bfloat16 and (on_gpus or not flags.recompute):
        best.append("--bfloat16")
    most = devices.available_memory()
    if most is not None and 10 * flags.batch_size * math.prod(image_shape) > most:
        best.insert(0, "a smaller --batch_size")  # the images alone take much
    return f"try {', or else '.join([*best, 'a smaller --nr_filters'][:2])}"


@dataclasses.dataclass(kw_only=True)
class _Run:
    """The epochs of a run, from where its history ends.

    Whatever the workers decide, such as to stop, they decide after the same step or batch.

    Attributes:
        flags: train.py's.
        strategy, cluster: the replicas and the workers.
        data_set: the images.
        network, optimizer: what is trained, and its state.
        folder, checkpoints: what the run leaves.
        history: how far the run is.
        asked: whether somebody asked the run to stop.
    """

    flags: argparse.Namespace
    strategy: tf.distribute.Strategy
    cluster: Cluster
    data_set: DataSet
    network: Network
    optimizer: PolyakAdam
    folder: RunFolder
    checkpoints: Checkpoints
    history: History
    asked: signals.Signals

    def __post_init__(self):
        flags, cluster = self.flags, self.cluster
        self.global_batch = flags.batch_size * self.strategy.num_replicas_in_sync
        self.step = steps.train_step(
            self.strategy,
            self.network,
            self.optimizer,
            flags.seed,
            flags.grad_accum,
            bfloat16=flags.bfloat16,
            recompute=flags.recompute,
        )
        self.test_step = steps.test_step(self.strategy, self.network)
        self.unaveraged = lambda: self.network.weights
        self.draw = None
        if flags.sample_interval and not self.network.leaks:
            with self._shortage_told(self._to_draw_in_less()):
                self.draw = sampling.drawer(self.network, flags.sample_batch)
        if cluster.is_chief:
            self.summaries = tf.summary.create_file_writer(os.fsencode(self.folder.path.absolute() / "tensorboard"))
        else:
            self.summaries = tf.summary.create_noop_writer()
        self.epoch_started = time.monotonic()
        self.trains_since = None  # until the first step is compiled
        # Only where time decides the learning rate: else the checkpoints of equal runs would differ by their seconds.
        self.keeps_time = flags.lr_to_zero and flags.max_minutes is not None
        self.seconds_before = self.history.seconds if self.keeps_time else 0
        self.last_second = math.inf if flags.max_minutes is None else 60 * flags.max_minutes
        self.next_curve = _FIRST_CURVE
        self.steps_here = 0
        self.curve = self.folder.path / "learning_curve.png"
        self.samples = None
        cluster.advice = self._advice()

    def go(self) -> None:
        try:
            with self._shortage_told(_to_save_memory(self.flags, self.data_set.image_shape)):
                while self._epoch():
                    pass
            self._ended()
        except signals.Stopped:
            self._stopped()

    def _epoch(self):
        """Trains, tests, saves and samples; returns whether the run goes on."""
        epoch = self.history.epoch
        self._train_to_the_end_of_the_epoch()
        self._test()
        if len(self.data_set.train) - self.history.images < self.global_batch:
            self.history.end_epoch()
        is_last = self.history.epoch == self.flags.max_epochs or self._out_of_time()
        if epoch % self.flags.save_interval == 0 or is_last:
            self._save()
        # After the checkpoint: samples of a large network take a while.
        if self.draw and self.cluster.is_chief and epoch % self.flags.sample_interval == 0:
            # If asked to stop, this worker stops where the others wait for it.
            with contextlib.suppress(signals.Stopped), self.asked.at_once("stopping without new samples"):
                self._sample()
        return not is_last

    def _train_to_the_end_of_the_epoch(self):
        """Trains on the rest of the epoch's permutation, or until the time is over."""
        self._stop_if_asked()
        epoch, seen = self.history.epoch, self.history.images
        batches = replicas.batches(
            self.strategy,
            partial(training_batches, self.data_set.train, self.global_batch, self.flags.seed, epoch, seen),
            self.cluster,
        )
        total = (len(self.data_set.train) - seen) // self.global_batch
        watched = self.cluster.is_chief
        with progress.bar(total=total, desc=f"epoch {epoch}", unit="step", leave=False, disable=not watched) as bar:
            for batch in batches:
                # Before the first step there is nothing to save: a signal ends the run at once. But with several
                # workers, none leaves the others alone in a step.
                is_first = self.steps_here == 0 and self.cluster.size == 1
                ending = "ending: no step is done yet, nothing is to be saved" if is_first else None
                with progress.step_of(bar), self.asked.at_once(ending):
                    bits = self._step(batch)
                if bits is not None:
                    rate = self.optimizer.last_learning_rate()
                    bar.set_postfix(loss=f"{bits:.3f}", lr=f"{rate:.2e}", refresh=False)
                # tqdm measures by the wall clock, which may be set back.
                if (steps_a_second := bar.format_dict["rate"] or 0) > 0:
                    in_time = bar.n + steps_a_second * max(0, self.last_second - self._seconds())
                    bar.total = round(min(total, in_time))
                if time.monotonic() - self.trains_since > self.next_curve:
                    self.next_curve *= 2
                    self._draw_curve()
                if self._decide():
                    break

    def _step(self, batch):
        """Takes a step and returns its bits/dim; None, if the update was refused and is passed over.

        Raises:
            UserError: it was refused, and more updates are than --skip_nonfinite allows.
        """
        if self.flags.lr_to_zero:
            self.history.lr_factor = cosine_annealing(self._part_over())
            self.optimizer.lr_factor.assign(self.history.lr_factor)
        loss = float(self.step(batch))
        self.trains_since = self.trains_since or time.monotonic()
        refused = self.optimizer.updates_refused()
        if refused > self.history.refused:
            self._report_refusal(loss, refused)
            self.history.refused = refused
            bits = None
        else:
            bits = float(logistic_mixture.bits_per_dim(loss, self.data_set.image_shape, self.global_batch))
            self._summarise({"loss": bits}, self.optimizer.steps_taken())
        self.history.add_step(bits, self.global_batch, self.flags.polyak_decay)
        self.steps_here += 1
        return bits

    def _report_refusal(self, loss, refused):
        what = f"the loss is {loss}" if not np.isfinite(loss) else "a gradient is not finite"
        epoch, seen = self.history.epoch, self.history.images
        indices = epoch_order(self.data_set.train, self.flags.seed, epoch)[seen : seen + self.global_batch]
        where = (
            f"{what} in step {seen // self.global_batch} of epoch {epoch}, of the training images "
            f"{', '.join(map(str, indices))}"
        )
        if refused > self.flags.skip_nonfinite:
            newest = self.checkpoints.newest
            go_on = f"go on from the last good checkpoint, --load_params={newest}" if newest else "start again"
            raise UserError(
                f"{where}: the run has diverged; lower --learning_rate, and {go_on}; or pass over N such batches with "
                "--skip_nonfinite=N"
            )
        self.folder.log(f"warning: {where}: passed over, {refused} of --skip_nonfinite={self.flags.skip_nonfinite}")

    def _decide(self):
        """Saves, if it is time to, and returns whether the time is over.

        Raises:
            signals.Stopped: a worker was asked to stop.
        """
        mine = bool(self.asked.received), self.checkpoints.is_due(), self._seconds()
        stop, save, seconds = self.cluster.gather(np.array(mine, np.float64)).T
        is_late = self._is_late(seconds[0])
        if stop.any():
            raise signals.Stopped
        if save[0]:
            self._save()
        return is_late

    def _stop_if_asked(self):
        if self.cluster.gather(int(bool(self.asked.received))).any():
            raise signals.Stopped

    def _seconds(self):
        """How long the run or, without --lr_to_zero, this start of it has trained, by this worker's clock."""
        return self.seconds_before + (0 if self.trains_since is None else time.monotonic() - self.trains_since)

    def _out_of_time(self):
        # By the chief's clock, so that all workers stop after the same step.
        return self._is_late(self.cluster.gather(np.float64(self._seconds()))[0])

    def _is_late(self, seconds):
        if self.keeps_time:
            self.history.seconds = float(seconds)
        return bool(seconds > self.last_second)

    def _part_over(self):
        """The part of the run that is over, by its epochs or by its minutes, whichever is more."""
        steps_an_epoch = len(self.data_set.train) // self.global_batch
        epochs = self.history.epoch + self.history.images / self.global_batch / steps_an_epoch
        return max(epochs / self.flags.max_epochs, self.history.seconds / self.last_second)

    def _test(self):
        """Tests the averaged parameters on the whole test set, and reports the epoch's figures.

        As long as the average is young, it also tests the parameters themselves. A run that is stopped in either test
        repeats both: the history never has a figure that was not reported.
        """
        of_epoch, young = self.history.untested_steps, self.history.age.why_young()
        averaged = self._test_bpd(self.optimizer.averages)
        unaveraged = self._test_bpd(self.unaveraged) if young else None
        self.history.add_test(averaged, unaveraged)
        now = time.monotonic()
        scalars = {
            "epoch": self.history.epoch,
            "time": now - self.epoch_started,
            "lr": self.optimizer.last_learning_rate(),
            "train_bpd": float(np.mean(of_epoch)) if of_epoch else float("nan"),
            "test_bpd": averaged,
        }
        self.epoch_started = now
        self.folder.log("\n".join(f"{name} {value:{_DIGITS[name]}}" for name, value in scalars.items()))
        if young:
            scalars["test_bpd_unaveraged"] = unaveraged
            self.folder.log(
                f"few steps have been averaged so far: {young}; without averaging, test_bpd is "
                f"{unaveraged:{_DIGITS['test_bpd']}}"
            )
        self._summarise(scalars, self.optimizer.steps_taken())
        self._draw_curve()

    def _test_bpd(self, parameters):
        """Bits/dim of the whole test set, predicted with the parameters that a function returns."""
        with self._shortage_told("lower --batch_size" if self.flags.batch_size > 1 else memory.MORE_MEMORY):
            batches = steps.nats_in_batches(
                self.test_step(parameters),
                self.strategy,
                self.data_set.test,
                self.flags.batch_size,
                leave=False,
                cluster=self.cluster,
                before_each=self._stop_if_asked,
            )
            nats = steps.nats_per_channel(batches).sum(1)
        return float(logistic_mixture.bits_per_dim(nats, self.data_set.image_shape).mean())

    def _draw_curve(self):
        if self.cluster.is_chief and (any(self.history.steps) or self.history.test):
            draw = partial(
                plotting.save_learning_curve,
                self.history.steps,
                self.history.test,
                unaveraged=self.history.test_unaveraged,
            )
            self.folder.attempt(f"write {self.curve}", lambda: files.write(self.curve, draw))

    def _summarise(self, scalars, step):
        def write():
            with self.summaries.as_default():
                for name, value in scalars.items():
                    tf.summary.scalar(name, value, step=step)

        self.folder.attempt("write TensorBoard's summaries", write, again_after=60)

    def _save(self):
        """Has the chief take a checkpoint, of which all workers then know."""
        # First: what a checkpoint tells is in TensorBoard too, even if the run is killed.
        self.folder.attempt("write TensorBoard's summaries", self.summaries.flush, again_after=60)
        saved = self.cluster.is_chief and self.checkpoints.save(self.network, self.optimizer, self.history)
        # When the chief has come here, the checkpoint is whole.
        saved, self.checkpoints.newest = self.cluster.gather_objects((saved, self.checkpoints.newest))[0]
        if saved:
            self.folder.log(f"saved {self.checkpoints.newest}")
        self.cluster.advice = self._advice()

    def _sample(self):
        weights = fold(self.network, self.optimizer.averages())
        nr_labels = self.data_set.nr_labels
        classes = np.arange(self.global_batch) % nr_labels if nr_labels else None
        with self._shortage_told(self._to_draw_in_less()):
            images = self.draw(weights, self.global_batch, self.flags.seed, classes)

        def save():
            names = self.data_set.class_names
            self.samples = plotting.save_samples(images, self.folder.path, self.flags.data_set, classes, names)

        self.folder.attempt("write the samples", save)

    def _ended(self):
        """Tells why the run ended, and where its results are."""
        epochs = self.history.epoch
        why = f"--max_epochs={epochs} is reached"
        if epochs < self.flags.max_epochs:
            why = f"--max_minutes={self.flags.max_minutes:g} are over, in epoch {epochs}"
        self.folder.log(f"ended after {counted(self.optimizer.steps_taken(), 'step')}: {why}")
        for what, path in (
            ("checkpoint", self.checkpoints.newest),
            ("samples", self.samples),
            ("learning curve", self.curve),
        ):
            if path:
                self.folder.log(f"{what}: {path}")

    def _stopped(self):
        """Saves, and tells how to go on."""
        if self.steps_here:
            self._save()
        if not self.cluster.is_chief:
            return
        by = self.asked.received or "a signal to another worker"
        self.folder.log(f"stopped by {by} after {counted(self.optimizer.steps_taken(), 'step')}: {self._advice()}")

    def _shortage_told(self, advice):
        """memory.shortage_told, with what goes on from the last checkpoint."""

        def in_full():
            newest, where = self.checkpoints.newest, " on every worker" if self.cluster.size > 1 else ""
            return f"{advice}; --load_params={newest}{where} goes on from the last checkpoint" if newest else advice

        return memory.shortage_told(in_full)

    def _to_draw_in_less(self):
        fewer = "lower --sample_batch, or " if devices.number_of_gpus() and self.flags.sample_batch > 1 else ""
        return f"{fewer}draw no samples: --sample_interval=0"

    def _advice(self):
        newest, where = self.checkpoints.newest, " on every worker" if self.cluster.size > 1 else ""
        if not newest:
            return f"start again{where} (nothing is saved yet)"
        if self.flags.resume:
            return f"repeat the same command{where} to go on from {newest}"
        return f"to go on, repeat the command{where} with --load_params={newest}"
