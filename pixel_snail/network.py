"""The base class of PixelSNAIL and PixelCNN++: builds a network, describes it, and saves it with Keras."""

import dataclasses
import functools
from collections.abc import Sequence

from pixel_snail import nn
from pixel_snail.backend import keras, tf
from pixel_snail.blocks import ConditionFeatures
from pixel_snail.errors import UserError, option
from pixel_snail.inputs.conditions import NO_CONDITION, Condition
from pixel_snail.kernels import dropout
from pixel_snail.likelihoods.levels import is_8_bit_rgb, scaled
from pixel_snail.settings import LIKELIHOODS
from pixel_snail.weights import first_call


@dataclasses.dataclass(frozen=True)
class Description:
    """The description of a network, from which it can be built again.

    Attributes:
        model: the specification's name, as --model takes it.
        image_shape: (H, W, C). The shapes of the parameters do not depend on H and W.
        nr_labels: the number of classes; None: the network is not conditional on labels.
        nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, dropout_p: as the flags of these names.
        class_names: the names of the classes, if they have names.
        levels: L, the number of values of a channel: images have the values 0 to L - 1.
        likelihood: as the flag of this name.
        condition_shape, condition_levels, condition_resnet: of the network's condition, as in
            inputs.conditions.Condition; condition_shape is None if it takes none.
    """

    model: str
    image_shape: tuple[int, int, int]
    nr_labels: int | None
    nr_resnet: int
    nr_filters: int
    nr_logistic_mix: int
    resnet_nonlinearity: str
    dropout_p: float
    class_names: tuple[str, ...] | None = None
    levels: int = 256
    likelihood: str = LIKELIHOODS[0]
    condition_shape: tuple[int, ...] | None = None
    condition_levels: int | None = None
    condition_resnet: int = 0

    @property
    def condition(self) -> Condition | None:
        """The kind of condition that the network takes; None if it takes none."""
        if self.condition_shape is None:
            return None
        return Condition(self.condition_shape, self.condition_levels, self.condition_resnet)

    @property
    def codes(self) -> int | None:
        """L, if the values are codes; None if they are numbers, whose order counts."""
        return self.levels if self.likelihood == "categorical" else None

    @property
    def drawn_components(self) -> int:
        """The number of mixture components among which the drawing of a pixel chooses: K, or 0 for codes."""
        return self.nr_logistic_mix if self.codes is None else 0

    @property
    def drawn_levels(self) -> int | None:
        """L if drawn values are rounded before others are predicted from them; None for 8-bit RGB.

        The original draws 8-bit RGB without rounding. With few levels, the images would then not have the distribution
        of the likelihood.
        """
        return None if is_8_bit_rgb(self.image_shape[2], self.levels) else self.levels


def check_image_size(model: str, height: int, width: int, size_multiple: int, least_rows: int) -> None:
    """Raises UserError if a network does not take images of this size.

    Args:
        model: the specification's name.
        height, width: the size.
        size_multiple, least_rows: see Network.
    """
    if height % size_multiple or width % size_multiple:
        raise UserError(
            f"{option('model')}={model} takes images whose sides are multiples of {size_multiple}, not {height} x "
            f"{width}"
        )
    if height < least_rows or height * width < 2:
        least = f"{least_rows} rows" if least_rows > 1 else "2 pixels"
        raise UserError(f"{option('model')}={model} needs images of at least {least}, not {height} x {width}")


class Network(keras.Model):
    """The base of the networks: images to the parameters of each pixel's distribution.

    `network(x, h=None)` maps images x [B, H, W, C], float32 in [-1, 1], to the outputs that
    likelihoods/logistic_mixture.py describes: 10 K channels for C = 3, 3 K for C = 1, or three tensors [B, H, W, 3 K]
    where outputs are channel-wise. If the values are codes, they are the logits of likelihoods/categorical.py,
    [B, H, W, L]. Each pixel's parameters are predicted from the pixels before it in raster order.

    `h` depends on what the network takes. Labels only: the one-hot labels, float32 [B, classes]. A condition: a
    dictionary with "condition", float32 [B, D], [B, h, w, D] or [B, h, w], and, if the network also takes labels,
    "labels". Codes are scaled to [-1, 1], as the values of images are. Neither: None.

    Args:
        nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, dropout_p: as the flags of these names.
        channels: C.
        codes: L, if the values are codes; None: they are numbers.
        condition: the kind of condition that the network takes, if any.

    Attributes:
        channels: C.
        codes, condition: as the arguments.
        description: set by `build_for`.
        size_multiple: the sides of images must be multiples of it.
        least_rows: the least number of rows of an image, which must also have more than one pixel. In a smaller image,
            a stream of the network would be constant, and the data-dependent initialisation would divide by 0.
        leaks: whether predictions depend on the predicted pixel, so that bits/dim is not a likelihood.
    """

    leaks = False
    size_multiple = 1
    least_rows = 1

    def __init__(
        self,
        nr_resnet: int,
        nr_filters: int,
        nr_logistic_mix: int,
        resnet_nonlinearity: str,
        dropout_p: float,
        channels: int = 3,
        codes: int | None = None,
        condition: Condition | None = None,
    ):
        super().__init__(dtype="float32")
        self.channels, self.codes, self.condition = channels, codes, condition
        self.embedding = None if codes is None else nn.embedding(codes)
        resnet = functools.partial(nn.gated_resnet, nonlinearity=resnet_nonlinearity, dropout_p=dropout_p)
        self.condition_features = None if condition is None else ConditionFeatures(condition, resnet, nr_filters)
        self.settings = {
            "nr_resnet": nr_resnet,
            "nr_filters": nr_filters,
            "nr_logistic_mix": nr_logistic_mix,
            "resnet_nonlinearity": resnet_nonlinearity,
            "dropout_p": dropout_p,
        }
        self.description: Description | None = None
        self._is_conditioned = False

    def build_for(
        self,
        model: str,
        image_shape: tuple[int, int, int],
        nr_labels: int | None,
        class_names: Sequence[str] | None = None,
        levels: int = 256,
        likelihood: str = LIKELIHOODS[0],
    ) -> "Network":
        """Creates the variables, and returns the network.

        Args:
            model: the specification's name.
            image_shape: (H, W, C), with the C of the network.
            nr_labels: the number of classes, if the network is to be conditional on labels.
            class_names: the names of the classes, if they have names.
            levels: L.
            likelihood: as in Description.

        Raises:
            UserError: the network does not take images of this size; a layer of your own lacks what training needs; or
                a `call` of your own does not use `self.embed`, with codes, or `self.conditioned`, with a condition.
        """
        if image_shape[2] != self.channels:
            raise ValueError(f"the network is of {self.channels} channels, not of images {image_shape}")
        check_image_size(model, *image_shape[:2], self.size_multiple, self.least_rows)
        try:
            with first_call(self):
                self(tf.zeros([1, *image_shape]), h=self._zeros_h(nr_labels))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            if self.condition is None or self._is_conditioned:
                raise
            raise UserError(
                f"{option('model')}={model} can't be a network with a condition: its call gives h to its layers, not "
                "the result of self.conditioned(h, seed, x.shape[1:])"
            ) from error
        if self.embedding is not None and not self.embedding.built:
            raise UserError(
                f"{option('model')}={model} can't be a network of codes: its call gives images to its layers, not "
                "self.embed(images)"
            )
        class_names = tuple(class_names) if class_names else None
        self.description = Description(
            model,
            tuple(map(int, image_shape)),
            nr_labels,
            **self.settings,
            class_names=class_names,
            levels=levels,
            likelihood=likelihood,
            **{f"condition_{name}": value for name, value in vars(self.condition or NO_CONDITION).items()},
        )
        return self

    def _zeros_h(self, nr_labels):
        """The argument h of a call for one image, with zeros."""
        labels = None if nr_labels is None else tf.zeros([1, nr_labels])
        if self.condition is None:
            return labels
        return {"condition": tf.zeros([1, *self.condition.shape])} | ({} if labels is None else {"labels": labels})

    def embed(self, x: tf.Tensor | None) -> tf.Tensor | None:
        """The input of the layers: the images [..., C] themselves or, for codes, their learned vectors [..., E].

        None, as calls with a cache get it, stays None.
        """
        return x if self.embedding is None or x is None else self.embedding(x)

    def conditioned(
        self, h: object, seed: tf.Tensor | None, image_shape: Sequence[int]
    ) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """Labels and condition as residual blocks take them, and the seed for the blocks.

        They are the result of ConditionFeatures; for a network without a condition, the one-hot labels.

        Args:
            h: as in a call of the network.
            seed: of dropout.
            image_shape: (H, W, C).
        """
        if self.condition_features is None:
            return h, seed
        self._is_conditioned = True
        seed, own_seed = dropout.split_seed(seed, 2)
        size = tuple(image_shape[:2])
        return self.condition_features(h["condition"], h.get("labels"), image_size=size, seed=own_seed), seed

    @property
    def embedded_channels(self) -> int:
        """The channels of the result of `embed`."""
        return self.channels if self.embedding is None else nn.CODE_CHANNELS

    def layers_by_size(self) -> list[list[keras.layers.Layer]]:
        """The layers by the size of their maps: those of the image's size, then those of half that size, and so on."""
        raise NotImplementedError

    def values_per_image(self, height: int, width: int) -> int:
        """The number of values of an image in the largest map, by which the size of a micro-batch is chosen."""
        return height * width * max(self.settings["nr_filters"], self.codes or 0)

    @classmethod
    def of_spec(cls, name: str, **settings) -> "Network":
        """Makes the network of a specification; its variables are not created yet."""
        return cls(**settings)

    # Methods that Keras calls to save and load a network

    def get_config(self) -> dict:
        return dataclasses.asdict(self.description)

    def export(self, filepath: str, format: str = "tf_saved_model", **settings) -> None:
        """keras.Model.export, quietly, for any batch size, and with the argument h if the network takes one."""
        inputs = [keras.InputSpec("float32", (None, *self.description.image_shape))]
        if (h := self._zeros_h(self.description.nr_labels)) is not None:
            inputs.append(tf.nest.map_structure(lambda of_h: keras.InputSpec("float32", (None, *of_h.shape[1:])), h))
        super().export(filepath, format, **{"input_signature": inputs, "verbose": False} | settings)

    @classmethod
    def from_config(cls, config: dict) -> "Network":
        settings = dict(config)
        model, image_shape, nr_labels = (settings.pop(name) for name in ("model", "image_shape", "nr_labels"))
        class_names, levels = settings.pop("class_names", None), settings.pop("levels", 256)
        likelihood = settings.pop("likelihood", LIKELIHOODS[0])
        shape, *of_condition = (settings.pop(f"condition_{name}", None) for name in ("shape", "levels", "resnet"))
        condition = None if shape is None else Condition(tuple(shape), *of_condition)
        network = cls.of_spec(model, **settings, **of_data(image_shape[2], levels, likelihood, condition))
        return network.build_for(model, tuple(image_shape), nr_labels, class_names, levels, likelihood)


def argument_h(labels: tf.Tensor | None, condition: tf.Tensor | None, description: Description) -> object:
    """The argument h of a network (see Network), from labels, integers [B], and conditions [B, ...].

    Those that the network does not take are passed over.
    """
    # tf.one_hot does not take every type of integers.
    labels = None if description.nr_labels is None else tf.one_hot(tf.cast(labels, tf.int32), description.nr_labels)
    if description.condition is None:
        return labels
    condition = tf.cast(condition, tf.float32)
    if description.condition_levels is not None:
        condition = scaled(condition, description.condition_levels)
    return {"condition": condition} | ({} if labels is None else {"labels": labels})


def of_data(channels: int, levels: int, likelihood: str, condition: Condition | None) -> dict[str, object]:
    """The arguments of a specification that the data decide: `channels`; `codes` and `condition`, if any."""
    given = {"codes": levels if likelihood == "categorical" else None, "condition": condition}
    return {"channels": channels} | {name: value for name, value in given.items() if value is not None}
