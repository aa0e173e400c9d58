"""Makes Distributions: `load` from a checkpoint or a Keras file, `build` from an untrained network."""

import os
import warnings
from collections.abc import Sequence

from pixel_snail import checkpoint
from pixel_snail.backend import keras, tf
from pixel_snail.checkpoint import Checkpoint, Mismatch
from pixel_snail.distribution import Distribution
from pixel_snail.errors import UserError, check_option, first_line, is_whole, option
from pixel_snail.fitting import check_arguments, seeded
from pixel_snail.model import build_network
from pixel_snail.parallel.cluster import Cluster
from pixel_snail.runs import average, search
from pixel_snail.settings import CONDITION_RESNET, NETWORK_DEFAULTS
from pixel_snail.storage import paths


def load(
    path: str | os.PathLike | Checkpoint,
    *,
    model: str | None = None,
    nr_resnet: int | None = None,
    nr_filters: int | None = None,
    nr_logistic_mix: int | None = None,
    resnet_nonlinearity: str | None = None,
    likelihood: str | None = None,
    image_shape: Sequence[int] | None = None,
    levels: int | None = None,
    nr_labels: int | None = None,
    dropout_p: float | None = None,
    averaged: bool = True,
    optimizer: bool = False,
    strategy: tf.distribute.Strategy | None = None,
    cluster: Cluster | None = None,
) -> Distribution:
    """Loads a checkpoint, and returns the distribution over images that it defines.

    A checkpoint of this program records its network. A checkpoint of the original does not: give the flags of its
    training as keywords of the same names, whose defaults are train.py's. If the checkpoint's average is young (see
    docs/command_line.md), `load` warns.

    Args:
        path: a folder (the newest undamaged checkpoint in it or below it), a checkpoint's prefix, or one of its files;
            or a network's .keras file, which records the network: then give no keyword but strategy and cluster; or a
            checkpoint that search.find has opened.
        model, nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, likelihood: the network's flags.
        image_shape: (H, W, C); by default, the shape of the training images. H and W may be others, because the shapes
            of the parameters do not depend on them.
        levels: L, the number of values of a channel; by default, the checkpoint's, or 256 for one of the original.
        nr_labels: the number of classes; by default, the checkpoint's.
        dropout_p: for `fit`; by default, the checkpoint's or, for a checkpoint of the original, train.py's.
        averaged: whether to use the Polyak averages of the parameters, as the published figures do, or the parameters.
        optimizer: whether to load the optimizer's state too, so that `fit` continues the checkpoint's training. The
            model then predicts with the averages. Without it, `fit` begins a new training with the loaded parameters.
        strategy, cluster: see Distribution.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it is of another network than the keywords say.
    """
    if optimizer and not averaged:
        raise UserError(
            "with optimizer=True, the model predicts with the averages, as after fit: leave averaged=False out, or "
            "load the model a second time without optimizer=True"
        )
    check_arguments(None, strategy)
    opened = path
    if not isinstance(path, (Checkpoint, str, os.PathLike)):
        raise UserError(f"path must be that of a checkpoint or of a folder with checkpoints, not {path!r}")
    if not isinstance(path, Checkpoint):
        path = paths.expanded(os.fspath(path))
        if path.endswith(".keras") and os.path.isfile(path):
            of_network = (model, nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, likelihood, dropout_p)
            chosen = any(value is not None for value in (*of_network, image_shape, levels, nr_labels))
            if not averaged or optimizer or chosen:
                raise UserError(
                    f"{path} is a Keras file, which has one network, no averages and no optimizer: give no keyword but "
                    "strategy and cluster"
                )
            return Distribution(_read_keras_file(path, strategy), strategy, cluster, is_new=False)
        opened = search.find(path)
        if averaged and (young := average.read(opened).why_young()):
            instead = "" if optimizer else "; averaged=False loads the parameters themselves"
            warnings.warn(f"{young}{instead}", stacklevel=2)
    recorded = opened.description()
    given = {
        "model": model,
        "nr_resnet": nr_resnet,
        "nr_filters": nr_filters,
        "nr_logistic_mix": nr_logistic_mix,
        "resnet_nonlinearity": resnet_nonlinearity,
        "likelihood": likelihood,
    }
    settings = {
        name: value if value is not None else NETWORK_DEFAULTS[name] if recorded is None else getattr(recorded, name)
        for name, value in given.items()
    }
    if image_shape is None and recorded is None:
        raise UserError(
            f"the checkpoint {opened.prefix} does not record the size of its images: give "
            f"{option('image_size', in_python='image_shape=(H, W, C)')}"
        )
    _check_size(opened, settings)
    if image_shape is not None:
        _check_image_shape(image_shape)
    with (strategy or tf.distribute.get_strategy()).scope():
        network = build_network(
            image_shape=tuple(recorded.image_shape if image_shape is None else image_shape),
            nr_labels=opened.nr_labels() if nr_labels is None else nr_labels,
            class_names=None if recorded is None else recorded.class_names,
            levels=levels if levels is not None else recorded.levels if recorded else 256,
            **_condition_of(recorded),
            dropout_p=dropout_p if dropout_p is not None else recorded.dropout_p if recorded else 0.5,
            **settings,
        )
        if not optimizer:
            checkpoint.load(opened, network, averaged=averaged)
    loaded = Distribution(network, strategy, cluster, is_new=False)
    if optimizer:
        loaded.resume(opened)
    return loaded


def build(
    model: str = NETWORK_DEFAULTS["model"],
    *,
    image_shape: Sequence[int],
    levels: int = 256,
    likelihood: str = NETWORK_DEFAULTS["likelihood"],
    nr_labels: int | None = None,
    condition_shape: Sequence[int] | None = None,
    condition_levels: int | None = None,
    condition_resnet: int = CONDITION_RESNET,
    nr_resnet: int = NETWORK_DEFAULTS["nr_resnet"],
    nr_filters: int = NETWORK_DEFAULTS["nr_filters"],
    nr_logistic_mix: int = NETWORK_DEFAULTS["nr_logistic_mix"],
    resnet_nonlinearity: str = NETWORK_DEFAULTS["resnet_nonlinearity"],
    dropout_p: float = 0.5,
    seed: int | None = None,
) -> Distribution:
    """Makes a network with random parameters, which `fit` trains, and returns its distribution over images.

    Args:
        model: a name in `pixel_snail.specs`.
        image_shape: (H, W, C): (32, 32, 3) for RGB, (28, 28, 1) for grey images; or (H, W), for one channel.
        levels: L, the number of values of a channel, from 2 to 65,536: 2 for binary images, 256 for 8-bit images.
        likelihood: "logistic_mixture": values are numbers; or "categorical": they are codes without an order, such as
            those of a VQ-VAE, and L is the size of the codebook.
        nr_labels: the number of classes, if the network is to be conditional on them.
        condition_shape: the shape of an image's condition, if the network is to have one: (D,) for vectors, (h, w, D)
            for maps, whose sides divide those of the image, or (h, w) for maps of codes.
        condition_levels: the number of these codes.
        condition_resnet: the residual blocks that a map goes through, before it is laid over the image.
        nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, dropout_p: as train.py's flags of these names.
        seed: decides the random parameters, as train.py's --seed does; by default, Keras's random state decides them.

    Raises:
        UserError: there is no such specification, or the network does not take such images.
    """
    settings = {
        "nr_resnet": nr_resnet,
        "nr_filters": nr_filters,
        "nr_logistic_mix": nr_logistic_mix,
        "resnet_nonlinearity": resnet_nonlinearity,
        "dropout_p": dropout_p,
    }
    check_option("seed", seed, seed is None or is_whole(seed, least=0), "a whole number, 0 or more")
    _check_image_shape(image_shape)
    with seeded(seed):
        network = build_network(
            model,
            tuple(image_shape),
            nr_labels,
            levels=levels,
            likelihood=likelihood,
            condition_shape=condition_shape,
            condition_levels=condition_levels,
            condition_resnet=condition_resnet,
            **settings,
        )
    condition = network.description.condition
    if condition_resnet not in (CONDITION_RESNET, condition and condition.resnet):
        raise UserError(
            f"condition_resnet={condition_resnet} is for a condition that is a map, (h, w, D) or (h, w): leave it out"
        )
    return Distribution(network, is_new=True)


def _check_image_shape(image_shape):
    """Raises UserError unless it is a sequence; build_network looks at what is in it."""
    if not hasattr(image_shape, "__len__"):
        raise UserError(f"image_shape must be (H, W, C), such as (28, 28, 1), not {image_shape!r}")


def _condition_of(recorded):
    """The arguments of build_network for the condition of a recorded network."""
    names = ("condition_shape", "condition_levels", "condition_resnet")
    return {name: getattr(recorded, name) for name in names} if recorded else {}


def _read_keras_file(path, strategy):
    try:
        with (strategy or tf.distribute.get_strategy()).scope():
            return keras.saving.load_model(path, compile=False)
    except Exception as error:  # on a broken file, Keras raises nearly anything
        raise UserError(f"{path} is not a Keras file that can be read: {first_line(error)}") from error


def _check_size(opened, settings):
    """Raises Mismatch if the network is far larger than the checkpoint's: building it might take all memory."""
    parameters = opened.parameters()
    widest = max((width for shape in parameters.values() for width in shape), default=0)
    for name, most in (("nr_filters", widest), ("nr_logistic_mix", widest), ("nr_resnet", len(parameters))):
        if is_whole(settings[name], least=1) and settings[name] > most:  # build_network refuses other values
            raise Mismatch(
                f"the checkpoint {opened.prefix} is of another network: {option(name)}={settings[name]} is too much "
                f"for its {len(parameters)} tensors, at most {widest} wide; "
                f"python -m pixel_snail.commands.inspection {opened.prefix} prints the checkpoint's network"
            )
