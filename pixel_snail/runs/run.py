"""A training run of train.py: the files that it writes into its folder, and how signals stop it."""

import argparse
import contextlib
import os
from functools import partial

import numpy as np

from pixel_snail.backend import tf
from pixel_snail.commands import signals
from pixel_snail.dataset import DataSet
from pixel_snail.distribution import Distribution
from pixel_snail.errors import Stopped, counted
from pixel_snail.likelihoods.levels import are_also_in_nats
from pixel_snail.likelihoods.logistic_mixture import nats_per_image
from pixel_snail.parallel import devices, memory
from pixel_snail.reports import plotting
from pixel_snail.runs.clock import Clock
from pixel_snail.runs.folder import RunFolder
from pixel_snail.runs.retention import Checkpoints
from pixel_snail.storage import files
from pixel_snail.trainer import Trainer, Watcher

DIGITS = {"epoch": "d", "time": ".2f", "lr": ".6g", "train_bpd": ".4f", "test_bpd": ".4f"}
"""The figures of an epoch, by the original's names, and how they are rounded."""

_IN_NATS = {
    "loss": "loss_nats",
    "train_bpd": "train_nats",
    "test_bpd": "test_nats",
    "test_bpd_unaveraged": "test_nats_unaveraged",
}
"""For images of two levels, the names of figures in nats an image, by those of the figures in bits/dim."""

_FIRST_CURVE = 60
"""Seconds of training before the learning curve is first drawn. It is drawn again whenever this time has doubled."""


class Run(Watcher):
    """The watcher of a run: writes log, checkpoints, samples and curve into the run's folder, and stops at signals.

    Args:
        flags: of train.py.
        data_set: the images.
        trainer: of the network, ready to run.
        folder: the run's folder.
        checkpoints: the checkpoints in that folder.
        asked: the signals by which somebody asks the run to stop.
    """

    def __init__(
        self,
        flags: argparse.Namespace,
        data_set: DataSet,
        trainer: Trainer,
        folder: RunFolder,
        checkpoints: Checkpoints,
        asked: signals.Signals,
    ):
        self.flags, self.data_set, self.trainer = flags, data_set, trainer
        self.folder, self.checkpoints, self.asked = folder, checkpoints, asked
        self.cluster, self.history = trainer.cluster, trainer.history
        self.clock = Clock(self.history, flags.max_epochs, flags.max_minutes, flags.lr_to_zero)
        self.model = Distribution(
            trainer.network, trainer.strategy, self.cluster, parameters=trainer.optimizer.averages
        )
        self.draws = bool(flags.sample_interval) and self.model.is_causal
        self.summaries = tf.summary.create_noop_writer()
        if self.cluster.is_chief:
            folder.attempt("write TensorBoard's summaries", self._open_summaries)
        self.steps_here = 0
        self.next_curve = _FIRST_CURVE
        self.curve = folder.path / "learning_curve.png"
        self.samples = None
        self.cluster.advice = self._to_go_on()

    def go(self) -> None:
        """Trains to the end, or until a signal asks the run to stop."""
        try:
            with self._going_on_after_a_shortage():
                if self.draws:
                    with memory.advised(self._to_draw_in_less()):
                        self.model.prepare_drawing(self.flags.sample_batch)
                self.trainer.run(self.data_set.train, self.clock, self._test_bpd, watcher=self)
            self._log_the_end()
        except Stopped:
            self._stop()

    def _open_summaries(self):
        self.summaries = tf.summary.create_file_writer(os.fsencode(self.folder.path.absolute() / "tensorboard"))

    def _test_bpd(self, parameters):
        return self.model.mean_bits_per_dim(
            self.data_set.test, parameters, self.flags.batch_size, before_each=self.trainer.stop_if_asked
        )

    def around_step(self):
        # In the first step, there is nothing to save yet: a signal ends the run at once. But with several workers, all
        # finish the step, because the others would wait for a worker that left it.
        is_first = self.steps_here == 0 and self.cluster.size == 1
        return self.asked.at_once("ending: no step is done yet, nothing is to be saved" if is_first else None)

    def after_step(self, bits_per_dim, learning_rate):
        self.steps_here += 1
        if not np.isnan(bits_per_dim):
            self._summarise(self._with_nats({"loss": bits_per_dim}))
        if self.clock.seconds_here() > self.next_curve:
            self.next_curve *= 2
            self._draw_curve()

    def passed_over(self, where, refused):
        self.folder.log(f"warning: {where}: passed over, {refused} of --skip_nonfinite={self.flags.skip_nonfinite}")

    def how_to_go_on(self):
        newest = self.checkpoints.newest
        return f"go on from the last good checkpoint, {self._loading(newest)}" if newest else "start again"

    def wants_to_stop(self):
        return bool(self.asked.received)

    def wants_to_save(self):
        return self.checkpoints.is_due()

    def tested(self, figures):
        figures = self._with_nats(figures)
        shown = DIGITS | {name: ".2f" for name in ("train_nats", "test_nats") if name in figures}
        self.folder.log("\n".join(f"{name} {figures[name]:{digits}}" for name, digits in shown.items()))
        if "test_bpd_unaveraged" in figures:
            nats = f", test_nats {figures['test_nats_unaveraged']:.2f}" if "test_nats_unaveraged" in figures else ""
            self.folder.log(
                f"few steps have been averaged so far: {self.history.age.why_young()}; without averaging, test_bpd is "
                f"{figures['test_bpd_unaveraged']:{DIGITS['test_bpd']}}{nats}"
            )
        self._summarise(figures)
        self._draw_curve()

    def after_epoch(self, epoch, is_last):
        if epoch % self.flags.save_interval == 0 or is_last:
            self.save()
        # After the checkpoint: samples of a large network take a while.
        if self.draws and self.cluster.is_chief and epoch % self.flags.sample_interval == 0:
            # A signal ends the drawing only. The run then stops where all workers decide together.
            with contextlib.suppress(Stopped), self.asked.at_once("stopping without new samples"):
                self._sample()

    def save(self):
        """Has the chief write a checkpoint; all workers learn its prefix."""
        # Before the checkpoint: if the run is then killed, TensorBoard has all figures that the checkpoint has.
        self.folder.attempt("write TensorBoard's summaries", self.summaries.flush, again_after=60)
        trainer = self.trainer
        saved = self.cluster.is_chief and self.checkpoints.save(trainer.network, trainer.optimizer, self.history)
        # The other workers wait here until the chief has written the checkpoint.
        saved, self.checkpoints.newest = self.cluster.gather_objects((saved, self.checkpoints.newest))[0]
        if saved:
            self.folder.log(f"saved {self.checkpoints.newest}")
        self.cluster.advice = self._to_go_on()

    def _sample(self):
        number, nr_labels = self.trainer.global_batch, self.data_set.nr_labels
        classes, condition = np.arange(number) % nr_labels if nr_labels else None, None
        if self.data_set.condition_shape:
            classes, condition = self.data_set.test.labels_and_conditions(number)
        with memory.advised(self._to_draw_in_less()):
            settings = {"seed": self.flags.seed, "batch_on_gpu": self.flags.sample_batch}
            images = self.model.draw(number, classes, condition, **settings)

        def save():
            # Each class has a row, but with conditions, the samples are in the order of the test images.
            rows_of, names = None if condition is not None else classes, self.data_set.class_names
            self.samples = plotting.save_samples(
                images, self.folder.path, self.flags.data_set, rows_of, names, self.model.levels
            )

        self.folder.attempt("write the samples", save)

    def _draw_curve(self):
        figures = self.history
        if self.cluster.is_chief and (any(figures.steps) or figures.test):
            shape, in_nats = self.model.image_shape, are_also_in_nats(self.model.levels)
            draw = partial(
                plotting.save_learning_curve,
                figures.steps,
                figures.test,
                unaveraged=figures.test_unaveraged,
                nats_of_a_bit=nats_per_image(1, shape) if in_nats else None,
            )
            self.folder.attempt(f"write {self.curve}", lambda: files.write(self.curve, draw))

    def _with_nats(self, figures):
        if not are_also_in_nats(self.model.levels):
            return figures
        of_bits = {nats: figures[bits] for bits, nats in _IN_NATS.items() if bits in figures}
        return figures | {name: nats_per_image(bits, self.model.image_shape) for name, bits in of_bits.items()}

    def _summarise(self, scalars):
        def write():
            with self.summaries.as_default():
                for name, value in scalars.items():
                    tf.summary.scalar(name, value, step=self.trainer.optimizer.steps_taken())

        self.folder.attempt("write TensorBoard's summaries", write, again_after=60)

    def _log_the_end(self):
        """Logs why the run ended, and the paths of its results."""
        epochs = self.history.epoch
        why = f"--max_epochs={epochs} is reached"
        if epochs < self.flags.max_epochs:
            why = f"--max_minutes={self.flags.max_minutes:g} are over, in epoch {epochs}"
        self.folder.log(f"ended after {counted(self.trainer.optimizer.steps_taken(), 'step')}: {why}")
        for what, path in (
            ("checkpoint", self.checkpoints.newest),
            ("samples", self.samples),
            ("learning curve", self.curve),
        ):
            if path:
                self.folder.log(f"{what}: {path}")

    def _stop(self):
        """Saves a checkpoint, and logs how to go on."""
        if self.steps_here:
            self.save()
        by = self.asked.received or "a signal to another worker"
        taken = counted(self.trainer.optimizer.steps_taken(), "step")
        self.folder.log(f"stopped by {by} after {taken}: {self._to_go_on()}")

    @contextlib.contextmanager
    def _going_on_after_a_shortage(self):
        """Within it, errors about memory also say how to go on from the last checkpoint."""
        try:
            yield
        except memory.OutOfMemory as error:
            if not self.checkpoints.newest:
                raise
            go_on = f"{self._loading(self.checkpoints.newest)}{self._where()} goes on from the last checkpoint"
            raise error.with_advice(f"{error.advice}; {go_on}") from error

    def _to_draw_in_less(self):
        fewer = "lower --sample_batch, or " if devices.number_of_gpus() and self.flags.sample_batch > 1 else ""
        return f"{fewer}draw no samples: --sample_interval=0"

    def _to_go_on(self):
        newest, where = self.checkpoints.newest, self._where()
        if not newest:
            return f"start again{where} (nothing is saved yet)"
        if self.flags.resume:
            return f"repeat the same command{where} to go on from {newest}"
        return f"to go on, repeat the command{where} with {self._loading(newest)}"

    def _loading(self, prefix):
        """The flag that goes on from a checkpoint, and the flags of the command that it replaces."""
        replaced = [f"--{name}" for name in ("init_from", "raw") if getattr(self.flags, name)]
        return f"--load_params={prefix}" + (f" in place of {' and '.join(replaced)}" if replaced else "")

    def _where(self):
        return " on every worker" if self.cluster.size > 1 else ""
