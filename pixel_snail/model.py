"""PixelSNAIL and its specifications, one for each name that --model takes.

A specification is a callable that makes a network from the flags nr_resnet, nr_filters, nr_logistic_mix,
resnet_nonlinearity and dropout_p, and from the number of channels of the images. All but pxpp are PixelSNAIL with some
arguments bound by functools.partial. As in the original, the specification of NAME is the variable NAME_spec.
"""

import functools
import numbers
from collections.abc import Callable, Sequence

from pixel_snail import nn
from pixel_snail.backend import keras, tf
from pixel_snail.blocks import (
    AttentionBlock,
    Block,
    ChannelWiseOutput,
    Output,
    PlainPointwise,
    Pointwise,
    ShiftStem,
    Stem,
    Streams,
    background,
    residual_blocks,
    to_bfloat16,
)
from pixel_snail.errors import UserError, check_option, is_whole, option, plain
from pixel_snail.inputs.conditions import Condition, checked_kind
from pixel_snail.kernels import dropout
from pixel_snail.kernels.tracing import traced_once
from pixel_snail.likelihoods.levels import check_levels
from pixel_snail.likelihoods.named import check_likelihood
from pixel_snail.network import Network, check_image_size, of_data
from pixel_snail.parallel import memory
from pixel_snail.pixel_cnn_pp import PixelCNNpp
from pixel_snail.settings import CONDITION_RESNET, LIKELIHOODS, MODELS


@keras.saving.register_keras_serializable("pixel_snail")
class PixelSNAIL(Network):
    """Blocks of causal convolutions and attention over all pixels before (paper, figure 2).

    Args:
        attn_rep: the number of blocks.
        nr_resnet: residual steps in each block, before its attention.
        nr_filters: F.
        nr_logistic_mix: K.
        resnet_nonlinearity: a name in nn.nonlinearities.
        dropout_p: the rate of dropout in every residual block; it acts in calls with a seed.
        key_channels: D, the channels of the attention's keys and queries, as a function of F.
        mixin_channels: M, the channels of its values, as a function of F.
        content: the layer class that computes keys and values, called as content(resnet, channels).
        hier: the factors by which attention is coarser than the image, one a block, repeated.
        hier_inputs: whether coarse attention pools the inputs of keys and queries, which leaks (a cell's query sees the
            cell itself); otherwise it pools the keys and values.
        att_downsample: the factor by which keys and values are max-pooled.
        up: whether there is a stream u.
        conv: the causal convolution of ul, a layer class.
        output: the output layer, a layer class, called as output(resnet, conv, F, K, C), with codes=L for codes.
        channels: C.
        codes: L, if images are of codes, which are embedded and predicted by a softmax; None: values are numbers.
        condition: the kind of condition that the network takes, if any.

    Raises:
        UserError: the convolution is causal_shift_nin, and F is no multiple of 4; or the output layer is not for C
            channels, or not for codes.
    """

    def __init__(
        self,
        attn_rep: int,
        nr_resnet: int = 5,
        nr_filters: int = 256,
        nr_logistic_mix: int = 10,
        resnet_nonlinearity: str = "elu",
        dropout_p: float = 0.5,
        channels: int = 3,
        codes: int | None = None,
        condition: Condition | None = None,
        *,
        key_channels: Callable[[int], int],
        mixin_channels: Callable[[int], int],
        content: type[keras.layers.Layer] = Pointwise,
        hier: Sequence[int] = (1,),
        hier_inputs: bool = False,
        att_downsample: int = 1,
        up: bool = False,
        conv: type[keras.layers.Layer] = nn.down_right_shifted_conv2d,
        output: type[keras.layers.Layer] = Output,
    ):
        settings = (nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, dropout_p)
        super().__init__(*settings, channels, codes, condition)
        if conv is nn.causal_shift_nin and nr_filters % 4:
            raise UserError(
                f"{option('nr_filters')}={nr_filters}: causal_shift_nin splits channels into four parts, so it needs a "
                "multiple of 4"
            )
        resnet = functools.partial(nn.gated_resnet, nonlinearity=resnet_nonlinearity, dropout_p=dropout_p)
        self.leaks = self.leaks_with(hier, hier_inputs)
        self.size_multiple, self.least_rows = self.size_limits(hier, up)
        self.kinds_of_blocks = len(hier)
        self.stem = ShiftStem(nr_filters) if conv is nn.causal_shift_nin else Stem(nr_filters, up)
        self.blocks = [
            Block(
                [Streams(resnet, conv, up) for _ in range(nr_resnet)],
                AttentionBlock(
                    resnet,
                    key_channels(nr_filters),
                    mixin_channels(nr_filters),
                    content,
                    hier[i % len(hier)],
                    hier_inputs,
                    att_downsample,
                ),
            )
            for i in range(attn_rep)
        ]
        if codes is not None and output is not Output:
            raise UserError(
                f"{option('likelihood')}=categorical: this network's output layer does not predict codes; choose "
                f"another {option('model')}, such as h8_noup_smallkey"
            )
        of_codes = {} if codes is None else {"codes": codes}
        self.output_layer = output(resnet, conv, nr_filters, nr_logistic_mix, channels, **of_codes)

    @staticmethod
    def size_limits(hier: Sequence[int] = (1,), up: bool = False, **others: object) -> tuple[int, int]:
        """The attributes size_multiple and least_rows of a network with these arguments."""
        return max(hier), 1 + up

    @staticmethod
    def leaks_with(hier: Sequence[int] = (1,), hier_inputs: bool = False, **others: object) -> bool:
        """Whether a network with these arguments leaks."""
        return hier_inputs and max(hier) > 1

    def call(self, x, h=None, seed=None, cache=None, bfloat16=False, recompute=False):
        """The mixture's parameters for images x [B, H, W, C] in [-1, 1]: [B, H, W, 10 K] for C = 3, or what the output
        layer returns.

        Args:
            h: labels and condition, as in Network. With a cache, they are the result of `conditioned`: a vector, or a
                row or a pixel of the map.
            seed: integers [3], of dropout (see kernels/dropout.py); None: no dropout.
            cache: see cache.py. With a cache, x is None. The pass over a row returns None; a step returns the stream ul
                of the pixel, [B, F], for output_layer.
            bfloat16: whether the layers between the first and the last compute in bfloat16.
            recompute: whether gradients keep only the maps between blocks and compute the others again.
        """
        if cache is None:
            h, seed = self.conditioned(h, seed, x.shape[1:])
        *block_seeds, output_seed = dropout.split_seed(seed, len(self.blocks) + 1)
        position = background(x) if cache is None else cache.position()
        embedded = self.embed(x)
        ul, u = self.stem(embedded, cache=cache)
        seen = {"x": embedded, "position": position}
        if bfloat16:
            ul, u, seen = tf.nest.map_structure(to_bfloat16, (ul, u, seen))
        for i, (block, block_seed) in enumerate(zip(self.blocks, block_seeds, strict=True)):
            like = self.blocks[i % self.kinds_of_blocks]
            # Gradients go to what is learned only: to embedded codes, and to the features of conditions.
            learned, constant = {}, {"position": seen["position"], "seed": block_seed, "cache": cache}
            (constant if self.codes is None else learned)["x"] = seen["x"]
            (constant if self.condition is None else learned)["h"] = h
            ul, u = traced_once(block, like, recompute, **constant)(ul=ul, u=u, **learned)
        if cache is not None:
            return ul
        return self.output_layer(tf.cast(ul, tf.float32), known=lambda *outputs: x, h=h, seed=output_seed)

    def layers_by_size(self) -> list[list[keras.layers.Layer]]:
        return [[*self.blocks, self.output_layer]]

    def values_per_image(self, height: int, width: int) -> int:
        # The largest map: the weights of one chunk of queries for all keys, at full resolution.
        attention_weights = (height * width) ** 2 // nn.QUERY_CHUNKS
        return max(attention_weights, super().values_per_image(height, width))

    @classmethod
    def of_spec(cls, name: str, **settings) -> Network:
        # A configuration holds no functions or classes: they are the specification's.
        return specs[name](**settings)


def _full(filters: int) -> int:
    return filters


def _half(filters: int) -> int:
    return filters // 2


def _constant(channels: int) -> Callable[[int], int]:
    return lambda filters: channels


_base_spec = functools.partial(PixelSNAIL, nr_filters=160, key_channels=_full, mixin_channels=_full)
model_spec = functools.partial(_base_spec, attn_rep=6, up=True)
h6_noup_spec = functools.partial(_base_spec, attn_rep=6)
h6_noup_hier2_spec = functools.partial(_base_spec, attn_rep=6, hier=(2,), hier_inputs=True)
h6_hier4_spec = functools.partial(_base_spec, attn_rep=6, up=True, hier=(4,), hier_inputs=True)
h6_1mixhier2_spec = functools.partial(_base_spec, attn_rep=6, up=True, hier=(1, 2, 2, 2, 2, 2), hier_inputs=True)
h8_noup_124444mix_spec = functools.partial(_base_spec, attn_rep=8, hier=(1, 2, 4, 8))
h16_noup_124444mix_spec = functools.partial(_base_spec, attn_rep=16, hier=(1, 2, 4, 8))

_base_halfattn_spec = functools.partial(_base_spec, key_channels=_half, mixin_channels=_half)
h6_noup_124mix_halfattn_spec = functools.partial(_base_halfattn_spec, attn_rep=6, hier=(1, 2, 4))
h6_noup_1mix_halfattn_spec = functools.partial(_base_halfattn_spec, attn_rep=6)
h8_noup_1mix_halfattn_spec = h6_noup_1mix_halfattn_spec  # defined twice in the original; the later one, 6 blocks, wins
h6_shift_spec = functools.partial(_base_halfattn_spec, attn_rep=6, conv=nn.causal_shift_nin)
h6_shift_small_attn_spec = functools.partial(
    _base_spec,
    attn_rep=12,
    conv=nn.causal_shift_nin,
    key_channels=_constant(32),
    mixin_channels=_constant(32),
    content=PlainPointwise,
)

_base_noup_smallkey_spec = functools.partial(
    PixelSNAIL, nr_filters=256, key_channels=_constant(16), mixin_channels=_half
)
h12_noup_smallkey_spec = functools.partial(_base_noup_smallkey_spec, attn_rep=12)
h12_pool2_smallkey_spec = functools.partial(_base_noup_smallkey_spec, attn_rep=12, att_downsample=2)
h8_noup_smallkey_spec = functools.partial(_base_noup_smallkey_spec, attn_rep=8)
h8_noup_smallkey_ar_chs_spec = functools.partial(_base_noup_smallkey_spec, attn_rep=8, output=ChannelWiseOutput)

pxpp_spec = PixelCNNpp


class Specs(dict[str, Callable[..., Network]]):
    """The specifications of networks, by the names that --model takes.

    A specification is a callable of nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, dropout_p and channels
    that returns a Network. For codes, it also gets `codes`, and for a network with a condition, `condition`. If you add
    a specification, `build` and `load` take its name.
    """

    def __repr__(self) -> str:
        return f"Specs({', '.join(self)})"


specs = Specs({name: globals()[f"{name}_spec"] for name in MODELS})


def bound_arguments(model: str) -> dict[str, object]:
    """The arguments of PixelSNAIL that a specification binds; none, if it is of another network.

    Args:
        model: a name in `specs`.

    Raises:
        UserError: there is no such specification.
    """
    _check_known("model", model, specs)
    spec = specs[model]
    return spec.keywords if getattr(spec, "func", None) is PixelSNAIL else {}


def leaks(model: str) -> bool:
    """Whether the network of a specification leaks, without making it. False if it is not a PixelSNAIL.

    Args:
        model: a name in `specs`.
    """
    return PixelSNAIL.leaks_with(**bound_arguments(model))


def leak_warning(name: str) -> str:
    """The warning for users of a network that leaks."""
    return f"{name} predicts pixels from themselves, as in the original: its bits/dim is not a likelihood"


def check_size(model: str, height: int, width: int) -> None:
    """Raises UserError if a network does not take images of this size, without making the network.

    Your own specifications are checked only when their network is built.

    Args:
        model: a name in `specs`.
        height, width: in pixels.
    """
    if arguments := bound_arguments(model):
        check_image_size(model, height, width, *PixelSNAIL.size_limits(**arguments))
    elif specs[model] is PixelCNNpp:
        check_image_size(model, height, width, PixelCNNpp.size_multiple, PixelCNNpp.least_rows)


def build_network(
    model: str,
    image_shape: tuple[int, int, int],
    nr_labels: int | None = None,
    class_names: Sequence[str] | None = None,
    levels: int = 256,
    likelihood: str = LIKELIHOODS[0],
    condition_shape: tuple[int, ...] | None = None,
    condition_levels: int | None = None,
    condition_resnet: int = CONDITION_RESNET,
    **settings,
) -> Network:
    """Makes the network of a specification and its variables. The data-dependent initialisation is not done.

    Args:
        model: a name in `specs`.
        image_shape: (H, W, C), or (H, W) for one channel.
        nr_labels: the number of classes, if the network is to be conditional on labels.
        class_names: the names of the classes, if they have names.
        levels: L, from 2 to 65,536.
        likelihood: "logistic_mixture", or "categorical": the values are codes, whose order means nothing.
        condition_shape, condition_levels, condition_resnet: of the network's condition, as in
            inputs.conditions.Condition; without condition_shape, it takes none.
        settings: nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, dropout_p; by default, the
            specification's.

    Raises:
        UserError: there is no such specification, a setting is not allowed, the network does not take images of this
            size, or its parameters certainly need more memory than this process can get.
    """
    _check_known("model", model, specs)
    _check_known("resnet_nonlinearity", settings.get("resnet_nonlinearity", "elu"), nn.nonlinearities)
    for name in ("nr_resnet", "nr_filters", "nr_logistic_mix"):
        value = settings.get(name, 1)
        check_option(name, value, is_whole(value, least=1), "a whole number above 0")
    settings = {name: plain(value) for name, value in settings.items()}
    dropout_p = settings.get("dropout_p", 0.5)
    is_possible = isinstance(dropout_p, numbers.Real) and 0 <= dropout_p < 1
    check_option("dropout_p", dropout_p, is_possible, "a number in [0, 1)")
    if len(image_shape) == 2:
        image_shape = (*image_shape, 1)
    if len(image_shape) != 3 or not all(is_whole(size, least=1) for size in image_shape):
        raise UserError(f"image_shape must be (H, W, C), such as (28, 28, 1), not {tuple(image_shape)}")
    check_levels(levels)
    image_shape, nr_labels, levels = tuple(map(plain, image_shape)), plain(nr_labels), plain(levels)
    check_option("nr_labels", nr_labels, nr_labels is None or is_whole(nr_labels, least=1), "a whole number above 0")
    check_likelihood(likelihood, image_shape[2])
    condition = checked_kind(condition_shape, condition_levels, condition_resnet, image_shape)
    of_these = of_data(image_shape[2], levels, likelihood, condition)
    try:
        network = specs[model](**settings, **of_these)
    except TypeError as error:
        lacking = next((name for name in ("codes", "condition") if name in of_these and name in str(error)), None)
        if lacking is None:
            raise
        raise UserError(
            f"{option('model')}={model} is a specification without the argument {lacking}: give it that argument, as "
            "PixelSNAIL has it, or choose another"
        ) from error
    with memory.shortage_reported(f"lower {option('nr_filters')}"):
        memory.check(4 * _least_parameters(network, nr_labels or 0), "the network's parameters need")
        return network.build_for(model, image_shape, nr_labels, class_names, levels, likelihood)


def _check_known(name, value, known):
    if value not in known:
        raise UserError(f"{option(name)}: unknown {name} {value!r}; known: {', '.join(sorted(known))}")


def _least_parameters(network, nr_labels):
    """A lower bound of the number of parameters of a network that is not built yet.

    It counts the filters of the streams, and the contributions of classes to the residual blocks.
    """
    of_kind = {}  # by kind of convolution: F to F channels, then F to 2 F
    for conv in {resnet.conv for resnet in residual_blocks(network)}:
        height, width = getattr(conv(1), "filter_size", (1, 1))
        of_kind[conv] = 3 * height * width * network.settings["nr_filters"] ** 2
    of_labels = nr_labels * 2 * network.settings["nr_filters"]
    return sum(of_kind[resnet.conv] + of_labels for resnet in residual_blocks(network))
