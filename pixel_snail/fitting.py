"""Training from Python: the state of Distribution.fit and Distribution.save between their calls."""

import contextlib
import dataclasses
import math
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from pixel_snail import checkpoint
from pixel_snail.backend import tf
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.dataset import Split
from pixel_snail.errors import Stopped, UserError, check_option, is_number, is_whole
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.likelihoods.levels import are_also_in_nats
from pixel_snail.network import Network
from pixel_snail.parallel.batches import check_batch_size
from pixel_snail.parallel.cluster import Cluster
from pixel_snail.runs import average, history
from pixel_snail.runs.average import Age
from pixel_snail.runs.clock import Clock
from pixel_snail.runs.history import History
from pixel_snail.settings import TrainingSettings
from pixel_snail.trainer import Trainer, Watcher
from pixel_snail.weights import are_initial, restored_on_failure


@dataclasses.dataclass
class FitHistory:
    """The figures of a call of `fit`, so far.

    Attributes:
        steps: the bits/dim of each step's batch before the step; NaN if the update was refused and passed over.
        learning_rates: the learning rate of each step.
        train: for each epoch, the mean bits/dim of its steps.
        test: for each epoch, the bits/dim of the validation images with the averaged parameters; empty if there are no
            validation images.
        test_unaveraged: the same with the parameters themselves; NaN if the average was not young.
        seconds: for each epoch, how long it took, including its test.
    """

    steps: list[float] = dataclasses.field(default_factory=list)
    learning_rates: list[float] = dataclasses.field(default_factory=list)
    train: list[float] = dataclasses.field(default_factory=list)
    test: list[float] = dataclasses.field(default_factory=list)
    test_unaveraged: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)


class Training:
    """The training of a Distribution's network, from one call of `fit` to the next.

    After a call, the network's variables hold the Polyak averages, so that everything that uses the network predicts
    with them, including Keras's own methods. The parameters themselves are kept here.

    Args:
        network, strategy, cluster: see Trainer.
        is_new: whether the network still needs its data-dependent initialisation; False: it has been loaded; None: it
            is unknown, and `fit` does not initialise it.
        age: the age of a Polyak average that begins with the network's present parameters.

    Attributes:
        network: the network.
        thread: the number of the thread in which a call of `fit` trains now; None, if none does.
    """

    def __init__(
        self, network: Network, strategy: tf.distribute.Strategy, cluster: Cluster, is_new: bool | None, age: Age
    ):
        self.is_new, self.age = bool(is_new), age
        self._is_loaded = is_new is False
        self.network, self._strategy, self._cluster = network, strategy, cluster
        self._trainer: Trainer | None = None  # of the previous call
        self.thread: int | None = None
        self._parameters: list[tf.Tensor] = []

    def trainer(self, settings: TrainingSettings, images: Split) -> Trainer:
        """The trainer for a call of `fit`, which must run it within `parameters_in_network`.

        It is the trainer of the previous call if the settings are the same, else a new one with the same state.

        Raises:
            UserError: memory does not suffice, or there are too few images.
        """
        self._begin_anew_if_changed()
        before = self._trainer
        if before is not None and before.network is self.network and before.settings == settings:
            before.check_batch_size(images)
            self._end_epoch_of_other_images(before, images)
            return before
        trainer = Trainer(self.network, settings, self._strategy, self._cluster)
        trainer.check_batch_size(images)
        if before is None and self.is_new:
            check_batch_size(images, settings.init_batch_size, "init_batch_size")
        trainer.check_memory()
        if before is not None:
            trainer.take_over(before)
        elif self.is_new:
            with restored_on_failure(self.network):
                trainer.initialise(images)
        else:
            trainer.begin()
        if before is None:
            trainer.history.age = dataclasses.replace(self.age)
            self._parameters = self._in_network()
        self._trainer, self.is_new = trainer, False
        self._end_epoch_of_other_images(trainer, images)
        return trainer

    def _end_epoch_of_other_images(self, trainer, images):
        """Ends an interrupted epoch if the call is on another number of images, or if no batch of it is left."""
        history = trainer.history
        history.begin_on(len(images))
        if history.images and len(images) - history.images < trainer.global_batch:
            history.end_epoch()

    def check_idle(self) -> None:
        """Raises UserError while a call of `fit` trains."""
        if self.thread is not None:
            raise UserError("on_epoch calls fit, which is running: let it end first, by raising StopIteration")

    def move(self, strategy: tf.distribute.Strategy) -> Network:
        """Replaces the network by a copy on the replicas of another strategy, and returns the copy."""
        with strategy.scope():
            copy = type(self.network).from_config(self.network.get_config())
            for variable, value in zip(copy.weights, self.network.weights, strict=True):
                variable.assign(tf.convert_to_tensor(value))
        self.network, self._strategy = copy, strategy
        return copy

    def resume(self, opened: Checkpoint) -> None:
        """Restores a training from an opened checkpoint.

        Raises:
            UserError: the checkpoint is of another network, lacks the optimizer's state, or can't be read.
        """
        trainer = Trainer(self.network, TrainingSettings(), self._strategy, self._cluster)
        trainer.load(opened, history.read(opened) or History(age=average.read(opened)))
        self._trainer, self.is_new = trainer, False
        self._wait()

    @contextlib.contextmanager
    def parameters_in_network(self) -> Iterator[None]:
        """Within it, the network's variables hold the parameters instead of the averages."""
        self._assign(self._parameters)
        self._parameters = []  # saves memory during the training: no second copy of the parameters
        self.thread = threading.get_ident()
        try:
            yield
        finally:
            self._wait()
            self.thread = None

    @contextlib.contextmanager
    def averages_in_network(self) -> Iterator[None]:
        """Within it, and within `parameters_in_network`, the network's variables hold the averages again."""
        self._wait()
        try:
            yield
        finally:
            self._assign(self._parameters)
            self._parameters = []

    def save(self, prefix: str) -> None:
        """Writes a checkpoint that records its network, and from which the training can go on.

        Of several workers, the chief writes it, and the others wait.

        Raises:
            UserError: there is a folder of this name, or a checkpoint of this name beside other files; or it can't be
                written, and the files are as before.
        """
        self._begin_anew_if_changed()
        if self.is_new:
            raise UserError("the network is new and has random parameters only: fit or initialise it, then save it")
        trainer, parameters = self._trainer, self._parameters
        if trainer is None:  # no training: the averages equal the parameters
            trainer, parameters = Trainer(self.network, TrainingSettings(), self._strategy, self._cluster), None
            trainer.begin()
            trainer.history.age = Age(self.age.of_initial, of_loaded=0.0)
        progress, failure = trainer.history.tensors(), None
        try:
            if self._cluster.is_chief:
                checkpoint.save_beside_others(prefix, self.network, trainer.optimizer, progress, parameters)
        except OSError as error:
            failure = f"can't write {prefix}: {error.strerror or error}"
        except UserError as error:
            failure = str(error)
        if failure := self._cluster.gather_objects(failure)[0]:
            raise UserError(failure)

    def is_begun(self) -> bool:
        """Whether the parameters were trained or loaded."""
        return self._trainer is not None or self._is_loaded or self._is_changed_since_build()

    def _is_changed_since_build(self):
        return self.is_new and not are_initial(self.network)

    def _begin_anew_if_changed(self):
        """Drops the training if somebody else has changed the network's variables, such as network.load_weights.

        A new network then counts as loaded: the data-dependent initialisation would replace its g and b.
        """
        if self._is_changed_since_build():
            warnings.warn("the network's parameters were changed since build: they count as loaded", stacklevel=4)
            self.is_new, self._is_loaded, self.age = False, True, Age(of_initial=None, of_loaded=1.0)
        if self._trainer is None or self.thread is not None:
            return
        averages = self._trainer.optimizer.averages()
        pairs = zip(self.network.weights, averages, strict=True)
        if all(np.array_equal(tf.convert_to_tensor(variable), average) for variable, average in pairs):
            return
        warnings.warn("the network's parameters were changed since fit: a new training begins with them", stacklevel=4)
        self._trainer, self._parameters = None, []
        self._is_loaded, self.age = True, Age(of_initial=None, of_loaded=1.0)

    def _wait(self):
        """Copies the parameters from the network's variables to here, and the averages into the variables."""
        self._parameters = self._in_network()
        self._assign(self._trainer.optimizer.averages())

    def _in_network(self):
        return [tf.identity(tf.convert_to_tensor(variable)) for variable in self.network.weights]

    def _assign(self, values):
        for variable, value in zip(self.network.weights, values, strict=True):
            variable.assign(value)


def clock_of_a_call(trainer: Trainer, epochs: int | None, minutes: float | None) -> Clock:
    """The clock of a call of `fit`.

    Args:
        trainer: of the call.
        epochs: how many further epochs to train; None: no limit.
        minutes: how long to train; None: no limit.
    """
    history, lr_to_zero = trainer.history, trainer.settings.lr_to_zero
    last_epoch = None if epochs is None else history.epoch + epochs
    history.seconds = 0.0
    history.refused = 0
    trainer.optimizer.refused.assign(0)
    history.plan = history.plan_until(last_epoch) if lr_to_zero and epochs else None
    first_epoch = history.plan[0] if history.plan else 0
    return Clock(history, last_epoch, minutes, lr_to_zero, first_epoch)


class Fit(Watcher):
    """The watcher of a call of `fit`: fills the history, prints a line for each epoch, and ends the call at Ctrl-C.

    Args:
        training: of the Distribution.
        history: gets the figures of this call.
        on_epoch: called with the history after each epoch; it may raise StopIteration to end the training.
        verbose: 0: prints nothing.
    """

    def __init__(
        self,
        training: Training,
        history: FitHistory,
        on_epoch: Callable[[FitHistory], object] | None = None,
        verbose: int = 1,
    ):
        self.training, self.history, self.on_epoch, self.verbose = training, history, on_epoch, verbose
        self.is_interrupted = False
        self._is_ended = False
        self._steps_before = 0

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within it, Ctrl-C ends the training after the current step, or batch of a test, and a second one at once.

        Before the first step is done, Ctrl-C ends the training at once. Outside the main thread, where Python handles
        no signals, and if the program has set its own handler of SIGINT, Ctrl-C does what it did before.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
            with contextlib.suppress(Stopped):
                yield
            return

        def handle(number, frame):
            if self.is_interrupted or not self.history.steps:
                raise KeyboardInterrupt
            self.is_interrupted = True
            then = "\ninterrupted: ending after this step or batch; once more ends at once"
            with contextlib.suppress(RuntimeError):  # the signal may have come while something was being printed
                print(then, file=sys.stderr, flush=True)

        signal.signal(signal.SIGINT, handle)
        try:
            with contextlib.suppress(Stopped):
                yield
        finally:
            signal.signal(signal.SIGINT, before)
        if self.is_interrupted:
            raise KeyboardInterrupt from None

    def after_step(self, bits_per_dim, learning_rate):
        self.history.steps.append(bits_per_dim)
        self.history.learning_rates.append(learning_rate)

    def passed_over(self, where, refused):
        warnings.warn(f"{where}: passed over", stacklevel=2)

    def how_to_go_on(self):
        return (
            "fit again: the parameters are those before that step; if earlier steps have spoilt them, load your last "
            "checkpoint"
        )

    def wants_to_stop(self):
        return self.is_interrupted or self._is_ended

    def tested(self, figures):
        history = self.history
        bits = np.array(history.steps[self._steps_before :])  # of this epoch: the figures have all since the last test
        self._steps_before = len(history.steps)
        history.train.append(float(bits[np.isfinite(bits)].mean()) if np.isfinite(bits).any() else math.nan)
        history.seconds.append(figures["time"])
        line = f"epoch {figures['epoch']}: {figures['time']:.1f} s, training {history.train[-1]:.4f} bits/dim"
        line += self._in_nats(history.train[-1])
        if "test_bpd" in figures:
            history.test.append(figures["test_bpd"])
            history.test_unaveraged.append(figures.get("test_bpd_unaveraged", math.nan))
            line += f", validation {figures['test_bpd']:.4f}{self._in_nats(figures['test_bpd'])}"
        if "test_bpd_unaveraged" in figures:
            unaveraged = figures["test_bpd_unaveraged"]
            line += f", without averaging {unaveraged:.4f}{self._in_nats(unaveraged)}"
        if self.verbose:
            print(line, file=sys.stderr, flush=True)

    def _in_nats(self, bits_per_dim):
        """For images of two levels, the figure in nats an image, in parentheses; for others ""."""
        description = self.training.network.description
        if not are_also_in_nats(description.levels):
            return ""
        return f" ({logistic_mixture.nats_per_image(bits_per_dim, description.image_shape):.2f} nats an image)"

    def after_epoch(self, epoch, is_last):
        if self.on_epoch:
            with self.training.averages_in_network():
                try:
                    self.on_epoch(self.history)
                except StopIteration:
                    self._is_ended = True


def check_arguments(on_epoch: object, strategy: object) -> None:
    """Raises UserError unless these are what `fit` can call and train on."""
    if on_epoch is not None and not callable(on_epoch):
        raise UserError(f"on_epoch must be a function of the history, not {type(on_epoch).__name__}")
    if strategy is not None and not isinstance(strategy, tf.distribute.Strategy):
        raise UserError(
            f"strategy must be a tf.distribute.Strategy, such as tf.distribute.MirroredStrategy(), not {strategy!r}"
        )


def check_length(epochs: object, minutes: object) -> None:
    """Raises UserError unless `epochs` or `minutes`, arguments of `fit`, say how long to train."""
    if epochs is None and minutes is None:
        raise UserError("give epochs or minutes: how long to train")
    check_option("epochs", epochs, epochs is None or is_whole(epochs, least=1), "a whole number above 0")
    is_possible = minutes is None or (is_number(minutes) and 0 < minutes < math.inf)
    check_option("minutes", minutes, is_possible, "a number above 0")


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Within it, Keras draws the initial parameters that follow keras.utils.set_random_seed(seed).

    Keras takes the seeds of initial parameters from Python's random numbers, whose state is restored at the end.

    Args:
        seed: None: nothing is changed.
    """
    if seed is None:
        yield
        return
    before = random.getstate()
    random.seed(int(seed))  # Python's random numbers take no integers of NumPy
    try:
        yield
    finally:
        random.setstate(before)
