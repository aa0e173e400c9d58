"""A run of training: epochs of steps under a tf.distribute strategy, tests, checkpoints, and what it leaves behind."""

import argparse
import contextlib
import json
import math
import time
from functools import partial

import keras
import numpy as np
import tensorflow as tf

import data
from pixel_snail import checkpoint, drawing, evaluation, logistic_mixture, nn, progress, signals, steps
from pixel_snail import model as models
from pixel_snail.errors import UserError
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.parallel import cluster as clusters
from pixel_snail.parallel import replicas
from pixel_snail.reports import comparisons, plotting
from pixel_snail.runs import folder as run_folder
from pixel_snail.runs import history, retention


def train(flags: argparse.Namespace) -> None:
    """Does what train.py's flags say; everything that a user may have got wrong is checked before a folder is made.

    SIGTERM and SIGINT have it save and return.

    Raises:
        UserError: files that are missing, broken or of another network; a loss or a gradient that is not finite; a
            worker that was lost; or, at the end, something that could not be written.
    """
    cluster = clusters.from_environment()
    with cluster.together():
        _train(flags, cluster)


def _train(flags, cluster):
    if flags.paper and cluster.is_chief:
        run = {name: getattr(flags, name) for name in comparisons.runs[flags.paper]}
        print(f"--paper={flags.paper}:", *(f"--{name}={value}" for name, value in run.items()), flush=True)
    if flags.batch_size % flags.grad_accum:
        raise UserError(
            f"--batch_size={flags.batch_size} can't be cut into --grad_accum={flags.grad_accum} equal parts"
        )
    if cluster.is_chief:
        run_folder.check_writable(flags.save_dir)
    run, prefix = (run_folder.newest_run(flags) if flags.resume else None) or (None, None)
    if not run and flags.load_params:
        prefix = checkpoint.find(flags.load_params)
    told = history.read(prefix) if prefix else None
    so_far = told or history.History()
    keras.utils.set_random_seed(flags.seed)
    strategy = replicas.strategy(flags.nr_gpu, cluster)
    cluster.check_flags(flags)
    data_set = cluster.chief_first(evaluation.load_data, flags)
    global_batch = flags.batch_size * strategy.num_replicas_in_sync
    data.check_batch_size(data_set.train, max(global_batch, flags.init_batch_size))
    if so_far.is_tested and len(data_set.train) - so_far.images < global_batch:
        so_far.end_epoch()
    cluster.check_agreement(
        data_set.sizes()
        | {"the checkpoint's epoch": so_far.epoch, "the number of images that it has behind it": so_far.images}
    )
    if so_far.epoch >= flags.max_epochs:
        behind = f"{prefix} has {so_far.epoch} epochs behind it"
        if not run:
            raise UserError(f"{behind}: raise --max_epochs={flags.max_epochs}")
        if cluster.is_chief:
            print(f"{behind}, as --max_epochs={flags.max_epochs} asks: nothing is left to do")
        return
    with strategy.scope():
        model = evaluation.build_model(flags, data_set, flags.dropout_p)
        machines = cluster.size if flags.average_machines else 1
        optimizer = PolyakAdam(flags.learning_rate, flags.lr_decay, flags.polyak_decay, machines=machines)
        if prefix:
            optimizer.build(model.trainable_variables)
            checkpoint.load(prefix, model, optimizer)
            optimizer.refused.assign(so_far.refused)
            cluster.check_same_checkpoint([*model.trainable_variables, optimizer.average, optimizer.velocity])
        else:
            (batch,) = data.training_batches(data_set.train, flags.init_batch_size, flags.seed, epoch=0).take(1)
            steps.initialise(model, *evaluation.network_inputs(batch, data_set.nr_labels), flags.seed)
            # Another kind of machine may have rounded otherwise.
            cluster.copy_the_chiefs(model.trainable_variables)
            optimizer.build(model.trainable_variables)

    with (
        contextlib.closing(run_folder.RunFolder(flags, cluster, run)) as folder,
        signals.Signals() as asked,
    ):
        folder.log(f"run folder: {folder.path}")
        folder.log(json.dumps(vars(flags), indent=4, sort_keys=True))
        folder.log(f"# of Parameters {sum(int(np.prod(v.shape)) for v in model.trainable_variables)}")
        folder.log(f"dataset size: {len(data_set.train)}")
        folder.log(f"replicas: {strategy.num_replicas_in_sync}")
        if cluster.size > 1:
            folder.log(f"workers: {', '.join(cluster.addresses)}")
        if flags.model in models.leaking:
            folder.log(models.leak_warning(flags.model))
        if prefix:
            folder.log(f"restored {prefix}: {optimizer.steps_taken()} steps taken")
            if not told:
                folder.log(
                    "it has the parameters, their averages, Adam's state and, by its steps, the learning rate; epochs "
                    "and figures start afresh"
                )
            folder.log(f"going on in epoch {so_far.epoch}, after {so_far.images} of its images")
        elif flags.resume:
            folder.log(f"no run of these flags with a checkpoint below {flags.save_dir}: this is its beginning")
        _Run(flags, strategy, cluster, data_set, model, optimizer, folder, so_far, prefix, asked).go()
        if folder.failure:
            raise UserError(f"not all of {folder.path} could be written; the last failure: {folder.failure}")


class _Run:
    """The epochs of a run, from where its history ends.

    Whatever the workers decide, such as to stop, they decide after the same step or batch.
    """

    def __init__(self, flags, strategy, cluster, data_set, model, optimizer, folder, so_far, prefix, asked):
        self.flags, self.strategy, self.cluster, self.data_set = flags, strategy, cluster, data_set
        self.model, self.optimizer, self.folder, self.history, self.asked = model, optimizer, folder, so_far, asked
        self.checkpoints = retention.Checkpoints(folder, flags.data_set, flags.keep, flags.save_minutes, prefix)
        self.global_batch = flags.batch_size * strategy.num_replicas_in_sync
        nr_labels, network = data_set.nr_labels, {"bfloat16": flags.bfloat16, "recompute": flags.recompute}
        self.step = steps.train_step(strategy, model, optimizer, nr_labels, flags.seed, flags.grad_accum, **network)
        self.test_step = evaluation.test_step(strategy, model, optimizer.averages, nr_labels)
        self.draw = None
        if flags.sample_interval and flags.model not in models.leaking:
            batch, nr_mix = flags.sample_batch, flags.nr_logistic_mix
            self.draw = drawing.drawer(model, data_set, self.global_batch, batch, nr_mix, flags.seed)
        if cluster.is_chief:
            self.summaries = tf.summary.create_file_writer(str(folder.path / "tensorboard"))
        else:
            self.summaries = tf.summary.create_noop_writer()
        self.started = self.epoch_started = time.time()
        self.steps_here = 0
        self.cluster.advice = self._advice()

    def go(self) -> None:
        try:
            while self._epoch():
                pass
        except signals.Stopped:
            self._stopped()

    def _epoch(self):
        """Trains, tests, saves and samples; returns whether the run goes on."""
        epoch = self.history.epoch
        self._train()
        self._test()
        if len(self.data_set.train) - self.history.images < self.global_batch:
            self.history.end_epoch()
        is_last = self.history.epoch == self.flags.max_epochs or self._out_of_time()
        if epoch % self.flags.save_interval == 0 or is_last:
            self._save()
        # After the checkpoint: of a large network, samples take a while.
        if self.draw and self.cluster.is_chief and epoch % self.flags.sample_interval == 0:
            # If asked to stop, this worker does so where the others wait for it.
            with contextlib.suppress(signals.Stopped), self.asked.at_once():
                self._sample()
        return not is_last

    def _train(self):
        """Trains for the rest of the epoch, or until the time is over."""
        self._stop_if_asked()
        epoch, seen = self.history.epoch, self.history.images
        batches = clusters.batches(
            self.strategy,
            partial(data.training_batches, self.data_set.train, self.global_batch, self.flags.seed, epoch, seen),
            self.cluster,
        )
        total = (len(self.data_set.train) - seen) // self.global_batch
        watched = self.cluster.is_chief
        with progress.bar(total=total, desc=f"epoch {epoch}", unit="step", leave=False, disable=not watched) as bar:
            if self.steps_here == 0:
                bar.set_postfix_str("compiling the first step")
            for batch in batches:
                # Until there is something to lose, nothing is waited for; but no worker leaves the others in a step.
                with self.asked.at_once(self.steps_here == 0 and self.cluster.size == 1):
                    bits = self._step(batch)
                if bits is not None:
                    rate = self.optimizer.last_learning_rate()
                    bar.set_postfix(loss=f"{bits:.3f}", lr=f"{rate:.2e}", refresh=False)
                if steps_a_second := bar.format_dict["rate"]:
                    in_time = bar.n + 1 + steps_a_second * max(0, self._seconds_left())
                    bar.total = round(min(total, in_time))
                bar.update()
                if self._decide():
                    break

    def _step(self, batch):
        """Takes a step and returns its bits/dim; None, if the update was refused and is passed over.

        Raises:
            UserError: it was refused, and more are than --skip_nonfinite allows.
        """
        loss = float(self.step(batch))
        refused = self.optimizer.updates_refused()
        if refused > self.history.refused:
            self._tell_of_refusal(loss, refused)
            self.history.refused = refused
            bits = None
        else:
            bits = float(logistic_mixture.bits_per_dim(loss, self.data_set.image_shape, self.global_batch))
            self._summarise({"loss": bits}, self.optimizer.steps_taken())
        self.history.add_step(bits, self.global_batch)
        self.steps_here += 1
        return bits

    def _tell_of_refusal(self, loss, refused):
        what = f"the loss is {loss}" if not np.isfinite(loss) else "a gradient is not finite"
        epoch, seen = self.history.epoch, self.history.images
        indices = data.epoch_order(self.data_set.train, self.flags.seed, epoch)[seen : seen + self.global_batch]
        where = (
            f"{what} in step {seen // self.global_batch} of epoch {epoch}, of the training images "
            f"{', '.join(map(str, indices))}"
        )
        if refused > self.flags.skip_nonfinite:
            newest = self.checkpoints.newest
            go_on = f"go on from the last good checkpoint with --load_params={newest}, or start" if newest else "start"
            raise UserError(
                f"{where}: the run has diverged; {go_on} again with a lower --learning_rate; or pass over such batches "
                "with --skip_nonfinite"
            )
        self.folder.log(f"warning: {where}: passed over, {refused} of --skip_nonfinite={self.flags.skip_nonfinite}")

    def _decide(self):
        """Saves, if it is time to, and returns whether the time is over.

        Raises:
            signals.Stopped: a worker was asked to stop.
        """
        mine = bool(self.asked.received), self.checkpoints.is_due(), self._seconds_left() < 0
        stop, save, late = self.cluster.gather(np.array(mine, np.int32)).T
        if stop.any():
            raise signals.Stopped
        if save[0]:
            self._save()
        return bool(late[0])

    def _stop_if_asked(self):
        if self.cluster.gather(int(bool(self.asked.received))).any():
            raise signals.Stopped

    def _seconds_left(self):
        minutes = self.flags.max_minutes
        return math.inf if minutes is None else self.started + 60 * minutes - time.time()

    def _out_of_time(self):
        # By the chief's clock, so that all workers stop after the same step.
        return bool(self.cluster.gather(int(self._seconds_left() < 0))[0])

    def _test(self):
        """Tests the averaged parameters on the whole test set, and tells the epoch's figures."""
        values = evaluation.per_value(
            self.test_step(),
            self.strategy,
            self.data_set.test,
            self.flags.batch_size,
            leave=False,
            cluster=self.cluster,
            before_each=self._stop_if_asked,
        )
        nats = evaluation.nats_per_channel(values).sum(1)
        of_epoch = self.history.untested_steps
        self.history.add_test(float(logistic_mixture.bits_per_dim(nats, self.data_set.image_shape).mean()))
        now = time.time()
        scalars = {
            "epoch": self.history.epoch,
            "time": now - self.epoch_started,
            "lr": self.optimizer.last_learning_rate(),
            "train_bpd": float(np.mean(of_epoch)) if of_epoch else float("nan"),
            "test_bpd": self.history.test[-1],
        }
        self.epoch_started = now
        self.folder.log("\n".join(f"{name} {value}" for name, value in scalars.items()))
        self._summarise(scalars, self.optimizer.steps_taken())
        if self.cluster.is_chief:
            curve = self.folder.path / "learning_curve.png"
            draw = partial(plotting.save_learning_curve, self.history.steps, self.history.test)
            self.folder.attempt(str(curve), lambda: run_folder.write(curve, draw))

    def _summarise(self, scalars, step):
        def write():
            with self.summaries.as_default():
                for name, value in scalars.items():
                    tf.summary.scalar(name, value, step=step)

        self.folder.attempt("TensorBoard's summaries", write, again_after=60)

    def _save(self):
        """Has the chief take a checkpoint, and all workers know of it."""
        saved = self.cluster.is_chief and self.checkpoints.save(self.model, self.optimizer, self.history)
        # When the chief has come here, the checkpoint is whole.
        saved, self.checkpoints.newest = self.cluster.gather_objects((saved, self.checkpoints.newest))[0]
        if saved:
            self.folder.log(f"saved {self.checkpoints.newest}")
        self.cluster.advice = self._advice()

    def _sample(self):
        weights = nn.fold(self.model, self.optimizer.averages())
        images = self.draw(weights, np.arange(self.global_batch) % (self.data_set.nr_labels or 1))
        save = partial(drawing.save_samples, images, self.folder.path, self.flags.data_set)
        self.folder.attempt("the samples", save)

    def _stopped(self):
        """Saves, and tells how to go on."""
        if self.steps_here:
            self._save()
        if not self.cluster.is_chief:
            return
        by = self.asked.received or "a signal to another worker"
        self.folder.log(f"stopped by {by} after {self.optimizer.steps_taken()} steps: {self._advice()}")

    def _advice(self):
        newest, where = self.checkpoints.newest, " on every worker" if self.cluster.size > 1 else ""
        if not newest:
            return f"start again{where}: nothing is saved yet"
        if self.flags.resume:
            return f"the same command{where} goes on, from {newest}"
        return f"go on with --load_params={newest}{where}"
