"""The training of a network, by epochs and steps. train.py and Distribution.fit both run the Trainer."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from pixel_snail import checkpoint, steps
from pixel_snail.backend import tf
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.commands import progress
from pixel_snail.dataset import Split
from pixel_snail.errors import Stopped, UserError, option
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.network import Network
from pixel_snail.optimizer import PolyakAdam, cosine_annealing
from pixel_snail.parallel import devices, memory, replicas
from pixel_snail.parallel.batches import check_batch_size, epoch_order, training_batches
from pixel_snail.parallel.cluster import Cluster
from pixel_snail.runs.clock import Clock
from pixel_snail.runs.history import History
from pixel_snail.settings import TrainingSettings
from pixel_snail.weights import hidden_directions

Test = Callable[[Sequence[tf.Tensor]], float]
"""A function of parameters, in the order of `network.weights`, that returns the bits/dim of the test images."""


class Watcher:
    """Methods that a Trainer calls while it runs. Here they do nothing; subclasses override those that they need.

    Each worker has its own watcher. The Trainer calls each method on all workers, after the same step.
    """

    def around_step(self) -> contextlib.AbstractContextManager:
        """A context within which the Trainer takes each step."""
        return contextlib.nullcontext()

    def after_step(self, bits_per_dim: float, learning_rate: float) -> None:
        """Called after each step. `bits_per_dim` is NaN if the update was refused and passed over."""

    def passed_over(self, where: str, refused: int) -> None:
        """Called when an update was refused and passed over.

        Args:
            where: the reason, the step and its images, in words.
            refused: how many updates have been refused so far.
        """

    def how_to_go_on(self) -> str:
        """What the user should do after the training has diverged: a part of the error message."""
        return "go on"

    def wants_to_stop(self) -> bool:
        """Whether the Trainer is to stop now, by raising Stopped."""
        return False

    def wants_to_save(self) -> bool:
        """Whether the Trainer is to call `save` now."""
        return False

    def save(self) -> None:
        """Saves the training's state."""

    def tested(self, figures: dict[str, float]) -> None:
        """Called after each test: at the end of an epoch, or when the time is over.

        Args:
            figures: "epoch"; "time", the seconds since the previous figures; "lr", the rate of the last step;
                "train_bpd", the mean bits/dim of the steps since the previous test; with test images, "test_bpd" of the
                averaged parameters and, while the average is young, "test_bpd_unaveraged" of the parameters themselves.
        """

    def after_epoch(self, epoch: int, is_last: bool) -> None:
        """Called after `tested`. `is_last` says whether the training ends here: by its epochs or by its time."""


class Trainer:
    """Trains a network: holds its optimizer and the history of its training, and takes the steps.

    Before `run`, call one of `begin`, `initialise`, `load` and `take_over`.

    Args:
        network: the network to train. Its variables must have been made in the strategy's scope.
        settings: of the training.
        strategy, cluster: the replicas and the workers.

    Attributes:
        optimizer: Adam, with the Polyak average of the parameters.
        history: how far the training is, and its figures so far.
        global_batch: the number of images of a step, over all replicas.
    """

    def __init__(
        self, network: Network, settings: TrainingSettings, strategy: tf.distribute.Strategy, cluster: Cluster
    ):
        self.network, self.settings, self.strategy, self.cluster = network, settings, strategy, cluster
        self.history = History()
        self.global_batch = settings.batch_size * strategy.num_replicas_in_sync
        machines = cluster.size if settings.average_machines else 1
        with strategy.scope():
            self.optimizer = PolyakAdam(
                settings.learning_rate,
                settings.lr_decay,
                settings.polyak_decay,
                machines=machines,
                muon=hidden_directions(network) if settings.muon else (),
            )
        self._step = steps.train_step(
            strategy,
            network,
            self.optimizer,
            settings.seed,
            settings.grad_accum,
            bfloat16=settings.bfloat16,
            recompute=settings.recompute,
        )

    def check_batch_size(self, images: Split) -> None:
        """Raises UserError if there are fewer images than a step needs."""
        check_batch_size(images, self.settings.batch_size, "batch_size", self.strategy.num_replicas_in_sync)

    def check_memory(self) -> None:
        """Raises UserError if a step certainly needs more memory than this process can get."""
        settings = self.settings
        least = partial(steps.least_memory, self.strategy, self.network, settings.batch_size)
        smaller = f"lower {option('nr_filters')}, {option('nr_resnet')} or {option('batch_size')}"
        with memory.shortage_reported(smaller):
            memory.check(least(settings.batch_size, recompute=True), "a training step needs")
        with memory.shortage_reported(how_to_save_memory(self.settings, self.network.description.image_shape)):
            needed = least(settings.grad_accum, bfloat16=settings.bfloat16, recompute=settings.recompute)
            memory.check(needed, "a training step needs")

    def begin(self) -> None:
        """Begins a training with the network's present parameters, which are also the first Polyak average."""
        with self.strategy.scope():
            self.optimizer.build(self.network.weights)

    def initialise(self, images: Split) -> None:
        """Begins a training with the data-dependent initialisation, on a batch of the training images."""
        with memory.shortage_reported(f"lower {option('init_batch_size')}"):
            (batch,) = training_batches(images, self.settings.init_batch_size, self.settings.seed, epoch=0).take(1)
            steps.initialise(self.network, batch, self.settings.seed)
        # Workers on other processors may have rounded differently.
        self.cluster.broadcast_from_chief(self.network.weights)
        self.begin()

    def load(self, opened: Checkpoint, history: History) -> None:
        """Restores a training from a checkpoint.

        Args:
            opened: the checkpoint, with the parameters, the averages and Adam's state.
            history: the history to go on with.

        Raises:
            UserError: the checkpoint is of another network, lacks the optimizer's state, or can't be read.
        """
        self.begin()
        with self.strategy.scope():
            checkpoint.load(opened, self.network, self.optimizer)
        self._go_on(history)
        optimizer = self.optimizer
        self.cluster.check_same_checkpoint([*self.network.weights, optimizer.average, optimizer.velocity])

    def take_over(self, other: "Trainer") -> None:
        """Copies the state of another trainer, which has trained the same network with other settings."""
        self.begin()
        for name in ("iterations", "average", "velocity", "momentum"):
            getattr(self.optimizer, name).assign(tf.convert_to_tensor(getattr(other.optimizer, name).value))
        self._go_on(other.history)

    def _go_on(self, history):
        self.history = history
        self.optimizer.refused.assign(history.refused)
        history.lr_factor = history.lr_factor if self.settings.lr_to_zero else 1.0
        self.optimizer.lr_factor.assign(history.lr_factor)

    def run(
        self, images: Split, clock: Clock, test: Test | None = None, watcher: Watcher | None = None, verbose: int = 1
    ) -> None:
        """Trains until the clock says that the training ends.

        All workers test, save and stop after the same step.

        Args:
            images: the training images.
            clock: says when the training ends.
            test: computes the bits/dim of the test images after each epoch; None: there are no test images.
            watcher: its methods are called during the training.
            verbose: 0: no progress bar.

        Raises:
            UserError: there are too few images for a step; memory does not suffice; or the loss or a gradient was not
                finite in more steps than skip_nonfinite, and the parameters are those before the last such step.
            Stopped: the watcher of a worker wants to stop. `run` may then be called again.
        """
        self.check_batch_size(images)
        self._images, self._clock, self._test = images, clock, test
        self._watcher = watcher or Watcher()
        self._verbose = verbose
        self.history.begin_on(len(images))
        self.history.end_tested_epoch(len(images), self.global_batch)
        with memory.shortage_reported(how_to_save_memory(self.settings, self.network.description.image_shape)):
            while self._epoch():
                pass

    def _epoch(self):
        """Trains for an epoch and tests; returns whether the training goes on."""
        epoch, self._beginning = self.history.epoch, time.monotonic()
        self._train_to_the_end_of_the_epoch()
        self._watcher.tested(self._figures())
        if self._is_epoch_over():
            self.history.end_epoch()
        is_last = self._clock.is_last(self.history.epoch) or self._is_late()
        self._watcher.after_epoch(epoch, is_last)
        return not is_last

    def _is_epoch_over(self):
        return len(self._images) - self.history.images < self.global_batch

    def _train_to_the_end_of_the_epoch(self):
        """Trains on the rest of the epoch's permutation, or until the time is over."""
        self.stop_if_asked()
        epoch, seen = self.history.epoch, self.history.images
        batches = replicas.batches(
            self.strategy,
            partial(training_batches, self._images, self.global_batch, self.settings.seed, epoch, seen),
            self.cluster,
        )
        total = (len(self._images) - seen) // self.global_batch
        is_shown = bool(self._verbose and self.cluster.is_chief)
        with progress.bar(total=total, desc=f"epoch {epoch}", unit="step", leave=False, disable=not is_shown) as bar:
            for batch in batches:
                with progress.step_of(bar), self._watcher.around_step():
                    bits = self.step(batch)
                rate = self.optimizer.last_learning_rate()
                if not math.isnan(bits):
                    bar.set_postfix(loss=f"{bits:.3f}", lr=f"{rate:.2e}", refresh=False)
                # tqdm measures by the wall clock, which may be set back.
                if (steps_a_second := bar.format_dict["rate"] or 0) > 0:
                    bar.total = round(min(total, bar.n + steps_a_second * self._clock.seconds_left()))
                self._watcher.after_step(bits, rate)
                if self._decide():
                    break

    def step(self, batch: dict[str, tf.Tensor]) -> float:
        """Takes a training step on a batch, which is divided among the replicas.

        Returns:
            The batch's bits/dim before the step; NaN if the update was refused and passed over.

        Raises:
            UserError: the update was refused, and skip_nonfinite allows no further refusal.
        """
        if self.settings.lr_to_zero:
            steps_an_epoch = len(self._images) // self.global_batch
            epochs = self.history.epoch + self.history.images / self.global_batch / steps_an_epoch
            self.history.lr_factor = cosine_annealing(self._clock.part_over(epochs))
            self.optimizer.lr_factor.assign(self.history.lr_factor)
        loss = float(self._step(batch))
        self._clock.start()
        refused = self.optimizer.updates_refused()
        bits = None
        if refused > self.history.refused:
            self.history.refused = refused
            self._report_refusal(loss, refused)
        else:
            bits = float(logistic_mixture.bits_per_dim(loss, self._images.images.shape[1:], self.global_batch))
        self.history.add_step(bits, self.global_batch, self.settings.polyak_decay)
        return math.nan if bits is None else bits

    def _report_refusal(self, loss, refused):
        what = f"the loss is {loss}" if not np.isfinite(loss) else "a gradient is not finite"
        epoch, seen = self.history.epoch, self.history.images
        indices = epoch_order(self._images, self.settings.seed, epoch)[seen : seen + self.global_batch]
        where = (
            f"{what} in step {seen // self.global_batch} of epoch {epoch}, of the training images "
            f"{', '.join(map(str, indices))}"
        )
        if refused > self.settings.skip_nonfinite:
            raise UserError(
                f"{where}: the run has diverged; lower {option('learning_rate')}, and {self._watcher.how_to_go_on()}; "
                f"or pass over N such batches with {option('skip_nonfinite')}=N"
            )
        self._watcher.passed_over(where, refused)

    def _decide(self):
        """Calls the watcher's `save` if it is due, and returns whether the time is over.

        Raises:
            Stopped: the watcher of a worker wants to stop.
        """
        mine = self._watcher.wants_to_stop(), self._watcher.wants_to_save(), self._clock.seconds()
        stop, save, seconds = self.cluster.gather(np.array(mine, np.float64)).T
        is_late = self._clock.is_late(seconds[0])
        if stop.any():
            raise Stopped
        if save[0]:
            self._watcher.save()
        return is_late

    def stop_if_asked(self) -> None:
        """Raises Stopped on all workers if the watcher of one wants to stop."""
        if self.cluster.gather(int(self._watcher.wants_to_stop())).any():
            raise Stopped

    def _is_late(self):
        # By the chief's clock, so that all workers stop after the same step.
        return self._clock.is_late(self.cluster.gather(np.float64(self._clock.seconds()))[0])

    def _figures(self):
        """Tests, and returns the figures of the epoch for Watcher.tested.

        If the training is stopped within a test, it later repeats the whole test: the history only has figures that
        were reported.
        """
        of_epoch = self.history.untested_steps
        figures = {"lr": self.optimizer.last_learning_rate(), "train_bpd": float(np.mean(of_epoch or math.nan))}
        if self._test:
            figures["test_bpd"] = self._test(self.optimizer.averages())
            if self.history.age.why_young():
                figures["test_bpd_unaveraged"] = self._test(self.network.weights)
            self.history.add_test(figures["test_bpd"], figures.get("test_bpd_unaveraged"))
        return {"epoch": self.history.epoch, "time": time.monotonic() - self._beginning, **figures}


def how_to_save_memory(settings: TrainingSettings, image_shape: tuple[int, int, int]) -> str:
    """Advice: the two options that save most memory in a training step. docs/performance.md has the figures."""
    on_gpus = devices.number_of_gpus() > 0
    is_cut = settings.grad_accum == settings.batch_size
    parts = [] if is_cut else [f"{option('grad_accum')}={settings.batch_size}"]
    recompute = [] if settings.recompute else [option("recompute", in_python="recompute=True")]
    # A CPU computes the batch in small parts anyway. With --recompute, bfloat16 saves it little.
    best = [*parts, *recompute] if on_gpus else [*recompute, *parts]
    if not settings.bfloat16 and (on_gpus or not settings.recompute):
        best.append(option("bfloat16", in_python="bfloat16=True"))
    most = devices.available_memory()
    if most is not None and 10 * settings.batch_size * math.prod(image_shape) > most:
        best.insert(0, f"a smaller {option('batch_size')}")  # the images alone take a tenth of the memory
    best.append(f"a smaller {option('nr_filters')}")
    return f"try {', or else '.join(best[:2])}"
