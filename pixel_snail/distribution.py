"""A network as a probability distribution over images: the Python interface, which the commands use too."""

import functools
import itertools
import math
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pixel_snail import sampling, steps
from pixel_snail.backend import check_process, tf
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.codec import container
from pixel_snail.codec.archive import Archiver
from pixel_snail.dataset import Split
from pixel_snail.errors import UserError, check_option, is_whole, option
from pixel_snail.fitting import Fit, FitHistory, Training, check_arguments, check_length, clock_of_a_call
from pixel_snail.inputs.masks import given_pixels, given_values
from pixel_snail.inputs.splits import Array, Images, Labels, checked_given, checked_split, checked_validation
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.likelihoods.levels import dtype_of, from_values, to_values
from pixel_snail.model import leak_warning
from pixel_snail.network import Network
from pixel_snail.parallel import devices, memory
from pixel_snail.parallel.cluster import Cluster
from pixel_snail.runs.average import Age
from pixel_snail.settings import TrainingSettings
from pixel_snail.storage import prefixes
from pixel_snail.weights import normalised_weights


class Distribution:
    """A distribution over images, as `load` and `build` return it.

    Methods take any number of images [N, H, W, C], as arrays or tensors, and compute them in batches. Images have the
    values 0 to levels - 1: uint8 for 256 levels, else any integers. `sample`, `complete` and `decompress` return uint8,
    or uint16 above 256 levels. Methods that may take more than a few seconds show progress on stderr; `verbose=0`
    silences it. A class-conditional network needs `labels`, integers [N] from 0 to nr_labels - 1; a network with a
    condition needs `condition`, one for each image. Several threads may call the methods at the same time and get the
    results of calls one after another; while one runs `fit` or `initialise`, the others must wait.

        model = pixel_snail.load("data/save/demo")
        model.bits_per_dim(images)                       # float64 [N]
        model.sample(16, seed=1)                         # [16, H, W, C]
        model.complete(images, keep_rows=16)             # [N, H, W, C]
        model.fit(images, validation=others, epochs=3)   # training, or fine-tuning
        model.save("runs/mine/params.ckpt")              # a checkpoint, which `load` reads
        model.network.save("model.keras")                # a Keras model like any other

    Args:
        network: a network of `build` or `load`, or one that Keras has loaded.
        strategy: the replicas that compute likelihoods; by default one device.
        cluster: the workers, if there are several; each must call the same methods.
        parameters: a function that returns the parameters to predict with, in the order of network.weights, such as
            PolyakAdam.averages; by default, the network's own.
        is_new: whether the first call of `fit` is to do the data-dependent initialisation; False: the parameters have
            been loaded, and `initialise` must not replace them; None: neither.

    Attributes:
        network: the keras.Model: float32 [B, H, W, C] in [-1, 1] -> the parameters of each pixel's mixture.
        spec: the name of its specification.
        image_shape: (H, W, C).
        levels: L, the number of values of a channel.
        nr_labels: the number of classes; None: the network is not conditional on them.
        condition: the kind of condition that the network takes (see inputs/conditions.py); None: it takes none.
        class_names: their names, in the order of the labels; None: they have none.
        is_causal: whether each pixel is predicted from earlier pixels only. If not, log_prob is no log-likelihood.
        history: the figures of the last call of `fit`; None before the first call.

    Raises:
        UserError: `network` is another Keras model, or has not been built.
    """

    def __init__(
        self,
        network: Network,
        strategy: tf.distribute.Strategy | None = None,
        cluster: Cluster | None = None,
        parameters: Callable[[], Sequence[tf.Tensor]] | None = None,
        is_new: bool | None = None,
    ):
        if not isinstance(network, Network) or network.description is None:
            raise UserError(
                "network must be the .network of a model from pixel_snail.build or pixel_snail.load, or read from a "
                f".keras file, not {type(network).__name__}"
            )
        if strategy is None:
            devices.warn_of_an_idle_gpu()
        self._cluster = cluster or Cluster()
        self._has_other_parameters = parameters is not None
        self._parameters = parameters or (lambda: self.network.weights)
        self._use(network, strategy or tf.distribute.get_strategy())
        age = Age() if is_new else Age(of_initial=None, of_loaded=1.0)
        self._training = Training(network, self._strategy, self._cluster, is_new, age)
        self.history: FitHistory | None = None
        self._lock = threading.Lock()
        self._has_warned = False

    def _use(self, network, strategy):
        """Predicts with this network, whose variables were made in the strategy's scope."""
        self.network = network
        self.spec = network.description.model
        self.image_shape = network.description.image_shape
        self.levels = network.description.levels
        self.nr_labels = network.description.nr_labels
        self.condition = network.description.condition
        self.class_names = network.description.class_names
        self.is_causal = not network.leaks
        self._strategy = strategy
        self._evaluator = steps.Evaluator(strategy, network)
        self._drawer = functools.cache(functools.partial(sampling.drawer, network))
        self._archiver = functools.cache(functools.partial(Archiver, network))

    def __reduce__(self):
        """Pickles the network, as Keras does. The state of a training is left out: `fit` of a copy begins anew."""
        if self._cluster.size > 1 or self._strategy is not tf.distribute.get_strategy() or self._has_other_parameters:
            raise UserError(
                "a Distribution made with strategy, cluster or parameters can't be pickled or copied: save and load it"
            )
        return _unpickled, (pickle.dumps(self.network), self._training.is_new)

    def __repr__(self) -> str:
        labels = "" if self.nr_labels is None else f", {self.nr_labels} classes"
        kind = "codes" if self.network.codes else "levels"
        levels = "" if (self.levels, kind) == (256, "levels") else f", {self.levels:,} {kind}"
        return f"<Distribution {self.spec} over images {self.image_shape}{levels}{labels}>"

    def log_prob(
        self, images: Images, labels: Labels = None, condition: Array = None, *, batch_size: int = 8, verbose: int = 1
    ) -> np.ndarray:
        """The log-likelihood of each image in nats, float64 [N].

        Args:
            images: values [N, H, W, C].
            labels: integers [N], of a conditional network.
            condition: of a network with a condition, one for each image, [N, ...].
            batch_size: images computed at once by a replica.
            verbose: 0: no progress bar.

        Raises:
            UserError: the arguments do not have that form, or a likelihood is not finite.
        """
        return -self._nats_per_channel(images, labels, condition, batch_size, verbose).sum(1)

    def bits_per_dim(
        self, images: Images, labels: Labels = None, condition: Array = None, *, batch_size: int = 8, verbose: int = 1
    ) -> np.ndarray:
        """Bits per dimension of each image, float64 [N]: -log_prob / (ln 2 * H * W * C). Arguments as in log_prob."""
        return -logistic_mixture.bits_per_dim(
            self.log_prob(images, labels, condition, batch_size=batch_size, verbose=verbose), self.image_shape
        )

    def bits_per_dim_per_channel(
        self, images: Images, labels: Labels = None, condition: Array = None, *, batch_size: int = 8, verbose: int = 1
    ) -> np.ndarray:
        """Bits per dimension of each channel, given the channels before it, for each image, float64 [N, C].

        Their mean is bits_per_dim. Arguments as in log_prob.
        """
        nats = self._nats_per_channel(images, labels, condition, batch_size, verbose)
        return logistic_mixture.bits_per_dim_per_channel(nats, self.image_shape)

    def accuracy(
        self, images: Images, labels: Labels = None, condition: Array = None, *, batch_size: int = 8, verbose: int = 1
    ) -> np.ndarray:
        """The share of each map's codes that the network finds likeliest, float64 [N]. Arguments as in log_prob.

        Raises:
            UserError: as in log_prob; or the network's values are numbers.
        """
        if self.network.codes is None:
            raise UserError("accuracy is for codes, but the network's values are numbers: use bits_per_dim")
        batches = self._in_batches("nats_and_right", images, labels, condition, batch_size, verbose)
        return self._summed(figures[..., 1:] for figures in batches)[:, 0] / math.prod(self.image_shape)

    def nats_in_batches(
        self, images: Images, labels: Labels = None, condition: Array = None, *, batch_size: int = 8, verbose: int = 1
    ) -> Iterator[np.ndarray]:
        """Minus the log-likelihood in nats of every value, batch by batch, for sets whose results exceed memory.

        Arguments and errors as in log_prob. It does not warn about a network that leaks.

        Yields:
            float32 [b, H, W, C], of the next b images: each channel's, given the channels and pixels before it.
        """
        yield from self._in_batches("nats", images, labels, condition, batch_size, verbose)

    def mean_bits_per_dim(
        self,
        split: Split,
        parameters: Sequence[tf.Tensor],
        batch_size: int = 8,
        before_each: Callable[[], None] = lambda: None,
        verbose: int = 1,
    ) -> float:
        """The mean bits/dim of the images of a split, predicted with given parameters, as training tests them.

        Args:
            split: images [N, H, W, C], with the labels and conditions that the network takes.
            parameters: in the order of network.weights.
            batch_size: images computed at once by a replica.
            before_each: called before each batch; it may raise.
            verbose: 0: no progress bar.

        Raises:
            UserError: as in log_prob.
        """
        settings = {"leave": False, "before_each": before_each, "verbose": verbose}
        batches = self.figures_of("nats", split, batch_size, parameters, **settings)
        nats = steps.summed_over_pixels(batches).sum(1)
        return float(logistic_mixture.bits_per_dim(nats, self.image_shape).mean())

    def _in_batches(self, figure, images, labels, condition, batch_size, verbose):
        split = checked_split(self.network.description, images, labels, condition)
        check_option("batch_size", batch_size, is_whole(batch_size, least=1), "a whole number above 0")
        if len(split):
            yield from self.figures_of(figure, split, batch_size, verbose=verbose)

    def figures_of(self, figure, split, batch_size, parameters=None, **settings) -> Iterator[np.ndarray]:
        """The figures of a split, batch by batch: as steps.Evaluator.in_batches, by default with own parameters."""
        self._check_scope()
        parameters = self._parameters() if parameters is None else parameters
        return self._evaluator.in_batches(figure, parameters, split, batch_size, cluster=self._cluster, **settings)

    def sample(
        self,
        number: int,
        labels: Labels = None,
        condition: Array = None,
        *,
        seed: int = 42,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        workers: int | None = None,
        verbose: int = 1,
    ) -> np.ndarray:
        """Draws images, [number, H, W, C].

        Args:
            number: how many.
            labels: integers [number], of a conditional network.
            condition: [number, ...], of a network with a condition.
            seed: decides the images, bit by bit. Image i is the same however many are drawn.
            temperature: scales the noise; 0: the most likely component's mean for each pixel, or the likeliest code.
            top_k, top_p: draw only the k likeliest codes; of these, the fewest with this share of their probability.
            workers: the most CPU cores that compute, each 8 images at a time; by default all, if memory suffices. The
                results are the same.
            verbose: 0: no progress bar.

        Raises:
            UserError: the network leaks, an argument is not possible, or memory does not suffice.
        """
        noise = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        drawn = self.draw(number, labels, condition, seed=seed, **noise, workers=workers, verbose=verbose)
        return to_values(drawn, self.levels)

    def complete(
        self,
        images: Images,
        keep_rows: int | None = None,
        labels: Labels = None,
        condition: Array = None,
        *,
        mask: Array = None,
        seed: int = 42,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        workers: int | None = None,
        verbose: int = 1,
    ) -> np.ndarray:
        """Keeps the upper rows of images, or the pixels of a mask, and draws the rest, [N, H, W, C].

        Pixels are drawn in raster order: those above a given pixel, or on its left in its row, do not know it.
        For several completions of each image, repeat the images: `complete(np.repeat(images, 4, axis=0))`.

        Args:
            images: values [N, H, W, C].
            keep_rows: how many upper rows stay; by default half of them, unless there is a mask.
            mask: booleans [N, H, W], or [H, W] for all images, True where a pixel stays.
            labels, condition, seed, temperature, top_k, top_p, workers, verbose: as in sample.

        Raises:
            UserError: as in sample; or the images, keep_rows or mask do not have that form, or leave nothing to draw.
        """
        images = checked_split(self.network.description, images, labels, condition).images
        mask = given_pixels(len(images), self.image_shape, keep_rows, mask)
        given = from_values(np.asarray(images[:]), self.levels)
        noise = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        settings = {"given": given, "mask": mask, "workers": workers, "verbose": verbose}
        drawn = self.draw(len(images), labels, condition, seed=seed, **noise, **settings)
        return to_values(drawn, self.levels)

    @devices.without_tf32()
    @memory.shortage_reported(sampling.in_less_memory)
    def draw(
        self,
        number: int,
        labels: Labels = None,
        condition: Array = None,
        *,
        seed: int = 42,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        given: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        batch_on_gpu: int = 32,
        workers: int | None = None,
        verbose: int = 1,
    ) -> np.ndarray:
        """Draws images as the original does: float32 in [-1, 1], [number, H, W, C].

        8-bit RGB is not rounded to 8 bits. Other values are rounded to their levels as they are drawn, before others
        are predicted from them.

        Args:
            given: images [number, H, W, C] in [-1, 1]; `mask`, booleans [number, H, W], is True where a pixel stays.
            batch_on_gpu: images drawn at a time on a GPU; on a CPU, always 8.
            number, labels, condition, seed, temperature, top_k, top_p, workers, verbose: as in sample.

        Raises:
            UserError: as in sample.
        """
        self._check_scope()
        if not self.is_causal:
            raise UserError(f"{leak_warning(self.spec)}, and it can't sample")
        check_option("number", number, is_whole(number, least=0), "a whole number, 0 or more")
        check_option("seed", seed, is_whole(seed, least=0), "a whole number, 0 or more")
        noise = sampling.checked_noise(temperature, top_k, top_p, self.network)
        sampling.check_workers(workers)
        given, mask = given_values(number, self.image_shape, given, mask)
        labels, condition = checked_given(self.network.description, number, labels, condition)
        if not number:
            return np.zeros([0, *self.image_shape], np.float32)
        draw = self.prepare_drawing(batch_on_gpu)
        weights = normalised_weights(self.network, self._parameters())
        return draw(weights, number, seed, labels, condition, given, mask, noise, workers, verbose)

    @memory.shortage_reported(sampling.in_less_memory)
    def prepare_drawing(self, batch_on_gpu: int = 32) -> Callable[..., np.ndarray]:
        """Takes the memory that drawing needs; returns sampling.drawer's function, which `draw` calls with these sizes.

        Raises:
            UserError: memory does not suffice.
        """
        with self._lock:  # threads that draw share the drawer, which is compiled once
            return self._drawer(batch_on_gpu)

    @memory.shortage_reported(lambda: f"lower {option('batch_size')}")
    def compress(
        self,
        images: Images,
        labels: Labels = None,
        condition: Array = None,
        *,
        batch_size: int | None = None,
        verify: bool = True,
        workers: int | None = None,
        verbose: int = 1,
    ) -> bytes:
        """Compresses images without loss, to about as many bits as their likelihood says.

        Args:
            images: values [N, H, W, C].
            labels: integers [N], of a conditional network. They are in the result.
            condition: [N, ...], of a network with a condition. Only its checksum is in the result.
            batch_size: images that are coded at once, and share a part of the result; by default 8, 32 for more than 16
                images, up to 256 for more than 64 small ones; fewer in little memory (archive.default_batch_size).
            verify: whether to decode everything once it is encoded, which doubles the time.
            workers: the most CPU cores that compute, each a batch at a time; by default all, if memory suffices.
            verbose: 0: no progress bar.

        Returns:
            The file, for `decompress`: the codes of all images, the size and the checksums of each batch, and a
            description of this machine.

        Raises:
            UserError: the network leaks, the images or labels do not have that form, memory does not suffice, or
                decoding did not restore the images.
        """
        split = checked_split(self.network.description, images, labels, condition)
        sampling.check_workers(workers)
        settings = {"batch_size": batch_size, "verify": verify, "workers": workers, "verbose": verbose}
        return self.archiver.compress(split.images, split.labels, split.condition, **settings)

    @memory.shortage_reported(memory.MORE_MEMORY)
    def decompress(
        self, data: bytes, condition: Array = None, *, workers: int | None = None, verbose: int = 1
    ) -> np.ndarray:
        """The images that `compress` has compressed, [N, H, W, C].

        Needs the same parameters and a machine that rounds identically. Returns the exact images or raises.

        Args:
            data: what `compress` returned.
            condition: that of the images, as it was given to compress.
            workers, verbose: as in compress.

        Raises:
            UserError: the data are not bytes, are damaged, or were written with another network, checkpoint or
                condition; or this machine rounds sums differently from the machine that wrote them.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise UserError(f"data must be the bytes that compress returned, not {type(data).__name__}: read the file")
        try:
            header, groups = container.read(bytes(data))
        except UserError as error:
            raise UserError(f"data is {error}") from error
        sampling.check_workers(workers)
        images = [np.zeros([0, *self.image_shape], dtype_of(self.levels))]
        for group in self.archiver.decompress(header, groups, condition, workers, verbose):
            if isinstance(group, UserError):
                raise group
            images.append(group)
        return np.concatenate(images)

    @devices.without_tf32()
    @memory.shortage_reported("give fewer images")
    def initialise(self, images: Images, labels: Labels = None, condition: Array = None, *, seed: int = 42) -> None:
        """Does the data-dependent initialisation (Salimans & Kingma 2016) of a network that `build` made.

        Args:
            images: a batch of training images, values [N, H, W, C].
            labels, condition: as in log_prob.
            seed: of dropout, which is active as in training.
        """
        self._check_scope()
        if self._training.is_begun():
            raise UserError("the network has been trained or loaded: initialise one that build has just made")
        check_option("seed", seed, is_whole(seed, least=0) and seed < 2**31, "a whole number from 0 to 2^31 - 1")
        split = checked_split(self.network.description, images, labels, condition, least=1)
        of_batch = {"images": split.images, "labels": split.labels, "condition": split.condition}
        batch = {name: np.asarray(of_images[:]) for name, of_images in of_batch.items() if of_images is not None}
        steps.initialise(self.network, batch, seed)
        self._training = Training(self.network, self._strategy, self._cluster, is_new=None, age=Age())

    @devices.without_tf32()
    def fit(
        self,
        images: Images,
        labels: Labels = None,
        condition: Array = None,
        *,
        validation: Images | tuple[Images, Labels] | tuple[Images, Labels, Array] | None = None,
        epochs: int | None = None,
        minutes: float | None = None,
        batch_size: int = TrainingSettings.batch_size,
        init_batch_size: int = TrainingSettings.init_batch_size,
        learning_rate: float = TrainingSettings.learning_rate,
        lr_decay: float = TrainingSettings.lr_decay,
        lr_to_zero: bool = TrainingSettings.lr_to_zero,
        muon: bool = TrainingSettings.muon,
        polyak_decay: float = TrainingSettings.polyak_decay,
        grad_accum: int = TrainingSettings.grad_accum,
        bfloat16: bool = TrainingSettings.bfloat16,
        recompute: bool = TrainingSettings.recompute,
        skip_nonfinite: int = TrainingSettings.skip_nonfinite,
        seed: int = TrainingSettings.seed,
        on_epoch: Callable[[FitHistory], object] | None = None,
        strategy: tf.distribute.Strategy | None = None,
        verbose: int = 1,
    ) -> FitHistory:
        """Trains the network as train.py does. Afterwards it predicts with the Polyak averages of its parameters.

            model = pixel_snail.build("pxpp", image_shape=(32, 32, 3), nr_filters=32, nr_resnet=1)
            history = model.fit(images, validation=others, epochs=20, lr_to_zero=True)
            history.test[-1]                             # bits/dim of the validation images
            model.save("runs/mine/params.ckpt")

        For a network that `build` made, the first call begins with the data-dependent initialisation. A loaded network
        is fine-tuned: the optimizer and the average begin anew, with the loaded parameters. After a call, or after
        `load(..., optimizer=True)`, the next call goes on with the optimizer, the average and the count of epochs. With
        equal images and settings, the parameters equal train.py's bit by bit, also if several calls train them.

        Ctrl-C raises KeyboardInterrupt once the current step or test is done. After that, and after an error, the model
        keeps what it has learned, and `fit` may be called again.

        Args:
            images: values [N, H, W, C]; only a batch at a time is read.
            labels: integers [N], of a conditional network.
            condition: [N, ...], of a network with a condition.
            validation: images that are tested after each epoch; (images, labels) or (images, labels, condition) for a
                conditional network.
            epochs: how many epochs to train. The rest of an interrupted epoch counts as one.
            minutes: how long to train, from the end of the first step; with `epochs`, whichever ends first.
            lr_to_zero: whether the learning rate falls to 0 by the end of this call. If the previous call was
                interrupted, and this call ends with the same epoch as that one would have, its schedule continues.
            batch_size, init_batch_size, learning_rate, lr_decay, muon, polyak_decay, grad_accum, bfloat16, recompute,
                skip_nonfinite, seed: as train.py's flags of these names.
            on_epoch: a function that is called with the history so far after each epoch, while the model predicts with
                the averages. If it raises StopIteration, the training ends.
            strategy: the replicas to train on; by default, the model's. For another strategy, the attribute `network`
                is replaced by a copy on its replicas.
            verbose: 0: no progress bars and lines.

        Returns:
            The figures of this call; the attribute `history` keeps them until the next call.

        Raises:
            UserError: an argument is not allowed; a loss or gradient is not finite (the message names the images); or
                memory does not suffice.
        """
        self._check_scope()
        settings = TrainingSettings(
            batch_size=batch_size,
            init_batch_size=init_batch_size,
            learning_rate=learning_rate,
            lr_decay=lr_decay,
            lr_to_zero=lr_to_zero,
            muon=muon,
            polyak_decay=polyak_decay,
            grad_accum=grad_accum,
            bfloat16=bfloat16,
            recompute=recompute,
            skip_nonfinite=skip_nonfinite,
            seed=seed,
        )
        check_arguments(on_epoch, strategy)
        split, test = checked_split(self.network.description, images, labels, condition, least=1), None
        check_length(epochs, minutes)
        self._training.check_idle()
        if validation is not None:
            held_out = checked_validation(self.network.description, validation)
            stop = lambda: trainer.stop_if_asked()
            test = lambda values: self.mean_bits_per_dim(held_out, values, batch_size, stop, verbose)
        if strategy is not None and strategy is not self._strategy:
            self._use(self._training.move(strategy), strategy)
        trainer = self._training.trainer(settings, split)
        clock = clock_of_a_call(trainer, epochs, minutes)
        self.history = FitHistory()
        watcher = Fit(self._training, self.history, on_epoch, verbose)
        with watcher.interruptible(), self._training.parameters_in_network():
            trainer.run(split, clock, test, watcher, verbose)
        if young := trainer.history.age.why_young():
            # The decorator has a frame of its own.
            warnings.warn(f"{young}, with which the model predicts: train longer, or lower polyak_decay", stacklevel=3)
        return self.history

    def save(self, path: str | os.PathLike) -> None:
        """Writes a checkpoint in the original's format, which also records the network: load and the commands read it.

        After `fit`, `load(path, optimizer=True)` restores the training from it bit by bit.

        Args:
            path: the checkpoint's prefix, such as "runs/mine/params.ckpt"; the folder is made if it is not there.

        Raises:
            UserError: the path is a folder, ends with .keras or .index, or can't be written; or it is an existing
                checkpoint beside other files.
        """
        self._check_scope()
        self._training.save(prefixes.new_prefix(path))

    def resume(self, opened: Checkpoint) -> None:
        """Restores a training from an opened checkpoint, so that `fit` goes on where the training stopped.

        Raises:
            UserError: the checkpoint is of another network, lacks the optimizer's state, or can't be read.
        """
        self._training.resume(opened)

    @property
    def archiver(self) -> Archiver:
        """The Archiver, which writes and reads files of images. Raises UserError if the network leaks."""
        self._check_scope()
        if self._has_other_parameters:
            raise UserError("compressed files are of the network's own parameters: leave the argument parameters out")
        with self._lock:
            return self._archiver()

    def _nats_per_channel(self, images, labels, condition, batch_size, verbose):
        if not self.is_causal and not self._has_warned:
            self._has_warned = True
            warnings.warn(leak_warning(self.spec), stacklevel=3)
        return self._summed(self._in_batches("nats", images, labels, condition, batch_size, verbose))

    def _summed(self, batches):
        none = np.zeros([0, *self.image_shape])  # gives the result its shape if there are no images
        return steps.summed_over_pixels(itertools.chain([none], batches))

    def _check_scope(self):
        check_process()
        if self._training.thread not in (None, threading.get_ident()):
            raise UserError("another thread trains this model: wait until its call of fit has ended")
        if tf.distribute.has_strategy() and tf.distribute.get_strategy() is not self._strategy:
            raise UserError(
                "a method was called within another strategy's scope: call the method outside of that scope, or give "
                "the strategy to pixel_snail.load"
            )


def _unpickled(network, is_new):
    check_process()
    return Distribution(pickle.loads(network), is_new=is_new)
