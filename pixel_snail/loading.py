"""How a Distribution is made: from a checkpoint or a Keras file, or of a network that has not been trained."""

import os
import warnings
from collections.abc import Sequence

from pixel_snail import checkpoint
from pixel_snail.backend import keras, tf
from pixel_snail.checkpoint import Checkpoint, Mismatch
from pixel_snail.distribution import Distribution
from pixel_snail.errors import UserError, first_line, option
from pixel_snail.fitting import seeded
from pixel_snail.model import build_network
from pixel_snail.parallel.cluster import Cluster
from pixel_snail.runs import average, search
from pixel_snail.settings import NETWORK_DEFAULTS
from pixel_snail.storage import paths


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
    dropout_p: float | None = None,
    averaged: bool = True,
    optimizer: bool = False,
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
        dropout_p: for `fit`; by default the checkpoint's or, if it does not say, train.py's.
        averaged: whether to use the Polyak averages of the parameters, as the published figures do, or the parameters.
        optimizer: whether to load the optimizer's state too, so that `fit` goes on where the training stopped. Without
            it, `fit` begins a training with the parameters that are used.
        strategy, cluster: see Distribution.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it is of another network than the keywords say.
    """
    opened = path
    if not isinstance(path, Checkpoint):
        path = paths.expanded(os.fspath(path))
        if path.endswith(".keras") and os.path.isfile(path):
            chosen = (model, nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, image_shape, nr_labels)
            if not averaged or optimizer or any(value is not None for value in chosen):
                raise UserError(
                    f"{path} is a Keras file, which has one network, no averages and no optimizer: give no keyword but "
                    "strategy and cluster"
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
            dropout_p=dropout_p if dropout_p is not None else told.dropout_p if told else 0.5,
            **settings,
        )
        if not optimizer:
            checkpoint.load(opened, network, averaged=averaged)
    loaded = Distribution(network, strategy, cluster)
    if optimizer:
        loaded.resume(opened)
    return loaded


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
    seed: int | None = None,
) -> Distribution:
    """The distribution of an untrained network, which `fit` trains. It has random parameters until then.

    Args:
        model: a name in `pixel_snail.specs`.
        image_shape: (H, W, 3).
        nr_labels: the number of classes, if the network is to be conditional on them.
        nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, dropout_p: as train.py's flags of these names.
        seed: decides the random parameters, as train.py's --seed does; by default, keras.utils.set_random_seed does.

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
    with seeded(seed):
        network = build_network(model, tuple(image_shape), nr_labels, **settings)
    return Distribution(network, is_new=True)


def _read_keras_file(path, strategy):
    try:
        with (strategy or tf.distribute.get_strategy()).scope():
            return keras.saving.load_model(path, compile=False)
    except Exception as error:  # on a broken file, Keras raises nearly anything
        raise UserError(f"{path} is not a Keras file that can be read: {first_line(error)}") from error


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
