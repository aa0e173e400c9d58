"""A trained network as a probability distribution over images: the Python interface, which the commands use too."""

import functools
import math
import numbers
import os
import pickle
import threading
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from pixel_snail import checkpoint, sampling, steps
from pixel_snail.backend import check_process, keras, tf
from pixel_snail.checkpoint import Checkpoint, Mismatch
from pixel_snail.codec import container
from pixel_snail.codec.archive import Archiver
from pixel_snail.dataset import Split
from pixel_snail.errors import UserError, counted, first_line, is_whole, option
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.model import build_network, leak_warning
from pixel_snail.network import Network
from pixel_snail.parallel import devices, memory
from pixel_snail.parallel.cluster import Cluster
from pixel_snail.runs import average, search
from pixel_snail.settings import NETWORK_DEFAULTS
from pixel_snail.storage import paths
from pixel_snail.storage.pictures import from_8_bits, to_8_bits
from pixel_snail.weights import fold

Images = np.ndarray | tf.Tensor
"""uint8 [N, H, W, 3], RGB: also tensors of other libraries, lists of images, and what is indexed like an array and read
only where it is indexed, such as h5py's data sets."""

Labels = np.ndarray | tf.Tensor | Sequence[int] | None
"""Integers [N] from 0 to nr_labels - 1."""


class Distribution:
    """A distribution over images, as `load` and `build` return it.

    Images go in and come out as uint8 [N, H, W, 3], RGB, in numpy arrays or tensors; any number of them, which are
    computed in batches. Methods that may take more than a few seconds show progress on stderr; `verbose=0` silences it.
    A network that is conditional on classes needs `labels`, integers [N] from 0 to nr_labels - 1. Any number of threads
    may call the methods: all get what one after another would get.

        model = pixel_snail.load("data/save/demo")
        model.bits_per_dim(images)                       # float64 [N]
        model.sample(16, seed=1)                         # uint8 [16, H, W, 3]
        model.complete(images, keep_rows=16)             # uint8 [N, H, W, 3]
        model.network.save("model.keras")                # a Keras model like any other

    Args:
        network: a network of `build` or `load`, or one that Keras has loaded.
        strategy: the replicas that compute likelihoods; by default one device.
        cluster: the workers, if there are several; each must call the same methods.

    Attributes:
        network: the keras.Model: float32 [B, H, W, 3] in [-1, 1] -> the parameters of each pixel's mixture.
        spec: the name of its specification.
        image_shape: (H, W, 3).
        nr_labels: the number of classes; None: the network is not conditional.
        class_names: their names, in the order of the labels; None: they have none.
        is_causal: whether each pixel is predicted from earlier pixels only. If not, log_prob is no log-likelihood.

    Raises:
        UserError: `network` is another Keras model, or has not been built.
    """

    def __init__(
        self, network: Network, strategy: tf.distribute.Strategy | None = None, cluster: Cluster | None = None
    ):
        if not isinstance(network, Network) or network.description is None:
            raise UserError(
                "network must be the .network of a model from pixel_snail.build or pixel_snail.load, or read from a "
                f".keras file, not {type(network).__name__}"
            )
        self.network = network
        self.spec = network.description.model
        self.image_shape = network.description.image_shape
        self.nr_labels = network.description.nr_labels
        self.class_names = network.description.class_names
        self.is_causal = not network.leaks
        if strategy is None:
            _warn_of_an_idle_gpu()
        self._strategy = strategy or tf.distribute.get_strategy()
        self._cluster = cluster
        self._test_step = steps.test_step(self._strategy, network)
        self._parameters = lambda: network.weights
        self._drawer = functools.cache(functools.partial(sampling.drawer, network))
        self._archiver = functools.cache(functools.partial(Archiver, network))
        self._lock = threading.Lock()
        self._has_warned = False

    def __reduce__(self):
        """Pickles the network, as Keras does; a copy computes on its own machine."""
        if self._cluster is not None or self._strategy is not tf.distribute.get_strategy():
            raise UserError("a Distribution with a strategy or a cluster can't be pickled or copied: load it again")
        return _unpickled, (pickle.dumps(self.network),)

    def __repr__(self) -> str:
        labels = "" if self.nr_labels is None else f", {self.nr_labels} classes"
        return f"<Distribution {self.spec} over images {self.image_shape}{labels}>"

    def log_prob(self, images: Images, labels: Labels = None, *, batch_size: int = 8, verbose: int = 1) -> np.ndarray:
        """The log-likelihood of each image in nats, float64 [N].

        Args:
            images: uint8 [N, H, W, 3].
            labels: integers [N], of a conditional network.
            batch_size: images computed at once by a replica.
            verbose: 0: no progress bar.

        Raises:
            UserError: the images or labels are not of that form, or a likelihood is not finite.
        """
        return -self._nats_per_channel(images, labels, batch_size, verbose).sum(1)

    def bits_per_dim(
        self, images: Images, labels: Labels = None, *, batch_size: int = 8, verbose: int = 1
    ) -> np.ndarray:
        """Bits per dimension of each image, float64 [N]: -log_prob / (ln 2 * H * W * 3). Arguments as in log_prob."""
        return -logistic_mixture.bits_per_dim(
            self.log_prob(images, labels, batch_size=batch_size, verbose=verbose), self.image_shape
        )

    def bits_per_dim_per_channel(
        self, images: Images, labels: Labels = None, *, batch_size: int = 8, verbose: int = 1
    ) -> np.ndarray:
        """Bits per dimension of R, of G given R, and of B given both, for each image, float64 [N, 3].

        Their mean is bits_per_dim. Arguments as in log_prob.
        """
        nats = self._nats_per_channel(images, labels, batch_size, verbose)
        return logistic_mixture.bits_per_dim_per_channel(nats, self.image_shape)

    def nats_in_batches(
        self, images: Images, labels: Labels = None, *, batch_size: int = 8, verbose: int = 1
    ) -> Iterator[np.ndarray]:
        """Minus the log-likelihood in nats of every value, batch by batch, for sets whose results exceed memory.

        Arguments and errors as in log_prob. It does not warn about a network that leaks.

        Yields:
            float32 [b, H, W, 3], of the next b images: each channel's, given the channels and pixels before it.
        """
        self._check_scope()
        images = self._checked_images(images)
        split = Split(images, self._checked_labels(labels, len(images)))
        if not is_whole(batch_size, least=1):
            raise UserError(f"batch_size={batch_size!r} is not a whole number above 0")
        if not len(split):
            return
        step = self._test_step(self._parameters)
        with memory.shortage_told(_fewer_at_once if batch_size > 1 else memory.MORE_MEMORY):
            batches = steps.nats_in_batches(
                step, self._strategy, split, batch_size, cluster=self._cluster, verbose=verbose
            )
            while True:
                with devices.without_tf32():  # but not while the caller works with the batch
                    nats = next(batches, None)
                if nats is None:
                    return
                yield nats

    def sample(
        self, number: int, labels: Labels = None, *, seed: int = 42, temperature: float = 1.0, verbose: int = 1
    ) -> np.ndarray:
        """Draws images, uint8 [number, H, W, 3].

        Args:
            number: how many.
            labels: integers [number], of a conditional network.
            seed: decides the images, bit by bit. Image i is the same however many are drawn.
            temperature: scales the noise; 0: the most likely component's mean for each pixel.
            verbose: 0: no progress bar.

        Raises:
            UserError: the network leaks, the labels are not of that form, or memory does not suffice.
        """
        return to_8_bits(self.draw(number, labels, seed=seed, temperature=temperature, verbose=verbose))

    def complete(
        self,
        images: Images,
        keep_rows: int | None = None,
        labels: Labels = None,
        *,
        seed: int = 42,
        temperature: float = 1.0,
        verbose: int = 1,
    ) -> np.ndarray:
        """Keeps the upper rows of images and draws the rest, uint8 [N, H, W, 3].

        For several completions of each image, repeat the images: `complete(np.repeat(images, 4, axis=0))`.

        Args:
            images: uint8 [N, H, W, 3].
            keep_rows: how many rows stay; by default half of them.
            labels, seed, temperature, verbose: as in sample.

        Raises:
            UserError: as in sample, or the images are not of that form, or no row is left to draw.
        """
        images = self._checked_images(images)
        keep_rows = rows_to_keep(keep_rows, self.image_shape)
        given = from_8_bits(np.asarray(images[:]))
        drawn = self.draw(
            len(images), labels, seed=seed, temperature=temperature, given=given, keep_rows=keep_rows, verbose=verbose
        )
        return to_8_bits(drawn)

    @devices.without_tf32()
    @memory.shortage_told(lambda: _to_draw_in_less())
    def draw(
        self,
        number: int,
        labels: Labels = None,
        *,
        seed: int = 42,
        temperature: float = 1.0,
        given: np.ndarray | None = None,
        keep_rows: int = 0,
        batch_on_gpu: int = 32,
        verbose: int = 1,
    ) -> np.ndarray:
        """Draws images as the original does: float32 in [-1, 1], [number, H, W, 3], not rounded to 8 bits.

        Args:
            given: images [number, H, W, 3] in [-1, 1]; the upper `keep_rows` rows of each are kept.
            batch_on_gpu: images drawn at a time on a GPU; on a CPU, always 8.
            number, labels, seed, temperature, verbose: as in sample.

        Raises:
            UserError: as in sample.
        """
        self._check_scope()
        if not self.is_causal:
            raise UserError(f"{leak_warning(self.spec)}, and it can't sample")
        if not is_whole(number, least=0):
            raise UserError(f"number={number!r} is not a whole number, 0 or more")
        if not is_whole(seed, least=0):
            raise UserError(f"seed={seed!r} is not a whole number, 0 or more")
        if not _is_number(temperature) or not 0 <= temperature < math.inf:
            raise UserError(f"temperature={temperature!r} is not a number, 0 or more")
        labels = self._checked_labels(labels, number)
        if not number:
            return np.zeros([0, *self.image_shape], np.float32)
        with self._lock:  # threads that draw share the drawer, which is compiled once
            draw = self._drawer(batch_on_gpu)
        weights = fold(self.network, self.network.weights)
        return draw(weights, number, seed, labels, given, keep_rows, float(temperature), verbose)

    @memory.shortage_told(lambda: _fewer_at_once())
    def compress(
        self,
        images: Images,
        labels: Labels = None,
        *,
        batch_size: int | None = None,
        verify: bool = True,
        verbose: int = 1,
    ) -> bytes:
        """Compresses images without loss, to about as many bits as their likelihood says.

        Args:
            images: uint8 [N, H, W, 3].
            labels: integers [N], of a conditional network. They are in the result.
            batch_size: images that are coded at once, and share a part of the result; by default 8, or 32 if there are
                more than 16 images.
            verify: whether to decode everything that is encoded, which takes as long again.
            verbose: 0: no progress bar.

        Returns:
            What `decompress` takes. It also has the size and the checksums of each batch, and what computed them.

        Raises:
            UserError: the network leaks, the images or labels are not of that form, memory does not suffice, or
                decoding did not give the images.
        """
        images = self._checked_images(images)
        labels = self._checked_labels(labels, len(images))
        return self.archiver.compress(images, labels, batch_size=batch_size, verify=verify, verbose=verbose)

    @memory.shortage_told(memory.MORE_MEMORY)
    def decompress(self, data: bytes, *, verbose: int = 1) -> np.ndarray:
        """The images that `compress` has compressed, uint8 [N, H, W, 3].

        Needs the same parameters and a machine that rounds identically. Returns the exact images or raises.

        Args:
            data: what `compress` returned.
            verbose: 0: no progress bar.

        Raises:
            UserError: the data are not bytes or are damaged, or are of another network or checkpoint, or sums are
                rounded differently on this machine than where the data were written.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise UserError(f"data must be the bytes that compress returned, not {type(data).__name__}: read the file")
        try:
            header, groups = container.read(bytes(data))
        except UserError as error:
            raise UserError(f"data is {error}") from error
        images = [np.zeros([0, *self.image_shape], np.uint8)]
        for group in self.archiver.decompress(header, groups, verbose):
            if isinstance(group, UserError):
                raise group
            images.append(group)
        return np.concatenate(images)

    @devices.without_tf32()
    @memory.shortage_told("give fewer images")
    def initialise(self, images: Images, labels: Labels = None, *, seed: int = 42) -> None:
        """The data-dependent initialisation (Salimans & Kingma 2016) of a network that `build` made.

        Args:
            images: a batch of training images, uint8 [N, H, W, 3].
            labels: as in log_prob.
            seed: of dropout, which is active.
        """
        images = np.asarray(self._checked_images(images)[:])
        steps.initialise(self.network, {"images": images, "labels": self._checked_labels(labels, len(images))}, seed)

    @property
    def archiver(self) -> Archiver:
        """What writes and reads files of images. It raises UserError if the network leaks."""
        with self._lock:
            return self._archiver()

    def _nats_per_channel(self, images, labels, batch_size, verbose):
        if not self.is_causal and not self._has_warned:
            self._has_warned = True
            warnings.warn(leak_warning(self.spec), stacklevel=3)
        images = self._checked_images(images)
        batches = self.nats_in_batches(images, labels, batch_size=batch_size, verbose=verbose)
        return steps.nats_per_channel(batches) if len(images) else np.zeros([0, 3])

    def _check_scope(self):
        check_process()
        if tf.distribute.has_strategy() and tf.distribute.get_strategy() is not self._strategy:
            raise UserError(
                "a method was called within another strategy's scope: call the method outside of that scope, or give "
                "the strategy to pixel_snail.load"
            )

    def _checked_images(self, images):
        expected = f"uint8 [N, {', '.join(map(str, self.image_shape))}]"
        if isinstance(images, (str, os.PathLike)):
            raise UserError(
                f"images must be {expected}, not a path: read the picture first, with PIL.Image for example"
            )
        images = _as_array(images, f"images must be {expected}")
        if images.dtype != np.uint8 or tuple(images.shape[1:]) != tuple(self.image_shape):
            hint = _how_to_convert(images, tuple(self.image_shape))
            raise UserError(f"images must be {expected}, not {images.dtype} {list(images.shape)}{hint}")
        return images

    def _checked_labels(self, labels, number):
        if self.nr_labels is None:
            if labels is not None:
                raise UserError("the network is not conditional on classes: leave labels out")
            return None
        if labels is None:
            classes = counted(self.nr_labels, "class", "classes")
            raise UserError(f"the network is conditional on {classes}: give labels, integers [{number}]")
        labels = np.asarray(_as_array(labels, f"labels must be integers [{number}]"))
        if labels.shape != (number,) or (number and labels.dtype.kind not in "iu"):
            raise UserError(f"labels must be integers [{number}], not {labels.dtype} {list(labels.shape)}")
        outside = np.flatnonzero((labels < 0) | (labels >= self.nr_labels))
        if len(outside):
            raise UserError(
                f"image {outside[0]} has the label {labels[outside[0]]}, but the network knows the classes 0 to "
                f"{self.nr_labels - 1}"
            )
        return labels


def load(
    path: str | os.PathLike | Checkpoint,
    *,
    model: str | None = None,
    nr_resnet: int | None = None,
    nr_filters: int | None = None,
    nr_logistic_mix: int | None = None,
    resnet_nonlinearity: str | None = None,
    image_shape: Sequence[int] | None = None,
    nr_labels: int | None = None,
    averaged: bool = True,
    strategy: tf.distribute.Strategy | None = None,
    cluster: Cluster | None = None,
) -> Distribution:
    """Loads a checkpoint, and returns the distribution over images that it defines.

    A checkpoint of this program tells which network it is of, and a warning tells if its average is young (see
    docs/command_line.md). For one of the original, give what its flags were, as
    keywords of the same names; their defaults are train.py's.

    Args:
        path: a folder (the newest undamaged checkpoint in it or below it), a checkpoint's prefix, or one of its files;
            or a network's .keras file, which describes it whole: then give no keyword but strategy and cluster; or a
            checkpoint that search.find has opened.
        model, nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity: the network's flags.
        image_shape: (H, W, 3). The parameters do not depend on it: another one than in training is possible.
        nr_labels: the number of classes; by default as many as the checkpoint has.
        averaged: whether to use the Polyak averages of the parameters, as the published figures do, or the parameters.
        strategy, cluster: see Distribution.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it is of another network than the keywords say.
    """
    opened = path
    if not isinstance(path, Checkpoint):
        path = paths.expanded(os.fspath(path))
        if path.endswith(".keras") and os.path.isfile(path):
            chosen = (model, nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, image_shape, nr_labels)
            if not averaged or any(value is not None for value in chosen):
                raise UserError(
                    f"{path} is a Keras file, which has one network and no averages: give no keyword but strategy and "
                    "cluster"
                )
            return Distribution(_read_keras_file(path, strategy), strategy, cluster)
        opened = search.find(path)
        if averaged and (young := average.read(opened).why_young()):
            warnings.warn(f"{young}; averaged=False loads the parameters themselves", stacklevel=2)
    told = opened.description()
    given = {
        "model": model,
        "nr_resnet": nr_resnet,
        "nr_filters": nr_filters,
        "nr_logistic_mix": nr_logistic_mix,
        "resnet_nonlinearity": resnet_nonlinearity,
    }
    settings = {
        name: value if value is not None else NETWORK_DEFAULTS[name] if told is None else getattr(told, name)
        for name, value in given.items()
    }
    if image_shape is None and told is None:
        raise UserError(
            f"the checkpoint {opened.prefix} does not tell the size of its images: give "
            f"{option('image_size', in_python='image_shape=(H, W, 3)')}"
        )
    _check_size(opened, settings)
    with (strategy or tf.distribute.get_strategy()).scope():
        network = build_network(
            image_shape=tuple(image_shape or told.image_shape),
            nr_labels=opened.nr_labels() if nr_labels is None else nr_labels,
            class_names=None if told is None else told.class_names,
            dropout_p=0.0,
            **settings,
        )
        checkpoint.load(opened, network, averaged=averaged)
    return Distribution(network, strategy, cluster)


def build(
    model: str = NETWORK_DEFAULTS["model"],
    *,
    image_shape: Sequence[int],
    nr_labels: int | None = None,
    nr_resnet: int = NETWORK_DEFAULTS["nr_resnet"],
    nr_filters: int = NETWORK_DEFAULTS["nr_filters"],
    nr_logistic_mix: int = NETWORK_DEFAULTS["nr_logistic_mix"],
    resnet_nonlinearity: str = NETWORK_DEFAULTS["resnet_nonlinearity"],
    dropout_p: float = 0.5,
) -> Distribution:
    """The distribution of an untrained network. `initialise` it on images before you train its `network`.

    Args:
        model: a name in `pixel_snail.specs`.
        image_shape: (H, W, 3).
        nr_labels: the number of classes, if the network is to be conditional on them.
        nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, dropout_p: as train.py's flags of these names.

    Raises:
        UserError: there is no such specification, or the network does not take images of this size.
    """
    settings = {
        "nr_resnet": nr_resnet,
        "nr_filters": nr_filters,
        "nr_logistic_mix": nr_logistic_mix,
        "resnet_nonlinearity": resnet_nonlinearity,
        "dropout_p": dropout_p,
    }
    return Distribution(build_network(model, tuple(image_shape), nr_labels, **settings))


def _unpickled(network):
    check_process()
    return Distribution(pickle.loads(network))


def _read_keras_file(path, strategy):
    try:
        with (strategy or tf.distribute.get_strategy()).scope():
            return keras.saving.load_model(path, compile=False)
    except Exception as error:  # on a broken file, Keras raises nearly anything
        raise UserError(f"{path} is not a Keras file that can be read: {first_line(error)}") from error


def _as_array(values, must_be):
    """Values as an array, or as they are if they are indexed like one; `must_be` begins the message of the UserError.

    What is indexed like an array, such as h5py's data sets, may be larger than memory.
    """
    if isinstance(getattr(values, "dtype", None), np.dtype) and hasattr(values, "__getitem__"):
        return values
    try:
        return np.asarray(values)
    except Exception as error:  # of unequal images, and what tensors of other libraries raise
        shapes = [list(np.shape(value)) for value in values] if isinstance(values, (list, tuple)) else []
        other = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
        why = first_line(error) if other is None else f"number 0 has the shape {shapes[0]}, {other} has {shapes[other]}"
        raise UserError(f"{must_be}, not {type(values).__name__}: {why}") from error


def _how_to_convert(images, image_shape):
    """How images become what is needed, as the end of a message; "" where their values do not tell."""
    height, width, channels = image_shape
    shape = tuple(images.shape)
    number = shape[0] if shape else 0
    for likely, advice in (
        (image_shape, "give a single image as [image]"),
        ((height, width), "if this is a grey image, repeat it: np.repeat(image[None, ..., None], 3, axis=-1)"),
        ((number, height, width), "if these are grey images, repeat them: np.repeat(images[..., None], 3, axis=-1)"),
        ((number, channels, height, width), "move the channels to the end: images.transpose(0, 2, 3, 1)"),
        ((number, height, width, 4), "leave the alpha channel out: images[..., :3]"),
    ):
        if shape == likely:
            return f"; {advice}"
    if shape[1:] != image_shape:
        return f"; crop or scale the images to {height} x {width}" if len(shape) == 4 and shape[3] == channels else ""
    if images.dtype.kind not in "fiu" or not isinstance(images, np.ndarray) or not images.size:
        return ""
    low, high = images.min(), images.max()
    if images.dtype.kind == "f" and 0 <= low <= high <= 1:
        return "; if black is 0 and white is 1, convert the images with np.uint8(np.round(255 * images))"
    if images.dtype.kind == "f" and -1 <= low < 0 <= high <= 1:
        return "; if black is -1 and white is 1, convert the images with np.uint8(np.round(127.5 * images + 127.5))"
    if low >= 0 and 1 < high <= 255:
        return "; if black is 0 and white is 255, convert the images with np.uint8(np.round(images))"
    return ""


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def rows_to_keep(keep_rows: int | None, image_shape: tuple[int, int, int]) -> int:
    """How many upper rows of an image a completion keeps: by default half of them.

    Raises:
        UserError: the images have no more rows than that.
    """
    height = image_shape[0]
    keep_rows = height // 2 if keep_rows is None else keep_rows
    if not is_whole(keep_rows, least=0):
        raise UserError(f"{option('keep_rows')}={keep_rows!r} is not a whole number, 0 or more")
    if keep_rows >= height:
        raise UserError(
            f"{option('keep_rows')}={keep_rows} leaves nothing to draw: images have {counted(height, 'row')}"
        )
    return keep_rows


def _fewer_at_once():
    return f"lower {option('batch_size')}"


def _to_draw_in_less():
    fewer = f"lower {option('sample_batch', in_python='batch_on_gpu')}"
    return fewer if devices.number_of_gpus() else memory.MORE_MEMORY


@functools.cache
def _warn_of_an_idle_gpu():
    """Warns once a process; replicas.strategy, which makes the strategies of the commands, tells it by itself."""
    if why := devices.why_no_gpu():
        warnings.warn(why, stacklevel=4)


def _check_size(opened, settings):
    """Raises Mismatch if the network is far larger than the checkpoint's: to build it might take all memory."""
    parameters = opened.parameters()
    widest = max((width for shape in parameters.values() for width in shape), default=0)
    for name, most in (("nr_filters", widest), ("nr_logistic_mix", widest), ("nr_resnet", len(parameters))):
        if settings[name] > most:
            raise Mismatch(
                f"the checkpoint {opened.prefix} is of another network: {option(name)}={settings[name]} is too much "
                f"for its {len(parameters)} tensors, at most {widest} wide; "
                f"python -m pixel_snail.commands.inspection {opened.prefix} prints the checkpoint's network"
            )
