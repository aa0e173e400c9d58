"""The networks, one specification each, and the registry that --model reads.

A specification is a callable that takes the flags of the command line and makes a Keras model. The model maps images
x [B, H, W, 3] in [-1, 1], and optionally labels h [B, L], to the parameters of the discretised mixture of logistics
for each pixel, [B, H, W, 10 K], each predicted from the pixels before it in raster order.

Two streams run through a network: `ul` sees what lies above and to the left of a pixel, `u`, which not every network
has, the rows above it only.
"""

import functools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from pixel_snail import nn
from pixel_snail.cache import ImageCache
from pixel_snail.errors import UserError


class PixelSNAIL(keras.Model):
    """Blocks of causal convolutions and attention over everything before (paper, figure 2).

    Args:
        attn_rep: the number of blocks.
        nr_resnet: residual steps in each block, before its attention.
        nr_filters: F.
        nr_logistic_mix: K.
        resnet_nonlinearity: a name in nn.nonlinearities.
        dropout_p: the rate of dropout in every residual block, where a call gives a seed.
        key_channels: D, the channels of the attention's keys and queries, as a function of F.
        mixin_channels: M, those of its values.
        content: what makes keys and values, a layer class: (resnet, channels) -> layer.
        hier: of each block in turn, the factor by which its attention is coarser than the image.
        hier_inputs: whether coarse attention pools what keys and queries are made of (then it leaks: a cell's query
            sees the cell) or only the keys and values made of it.
        att_downsample: the factor by which keys and values are max-pooled.
        up: whether there is a stream u.
        conv: the causal convolution of ul, a layer class.
        output: the output layer, a layer class: (resnet, conv, F, K) -> layer.
    """

    def __init__(
        self,
        attn_rep: int,
        nr_resnet: int = 5,
        nr_filters: int = 256,
        nr_logistic_mix: int = 10,
        resnet_nonlinearity: str = "elu",
        dropout_p: float = 0.5,
        *,
        key_channels: Callable[[int], int],
        mixin_channels: Callable[[int], int],
        content: type[keras.layers.Layer] | None = None,
        hier: Sequence[int] = (1,),
        hier_inputs: bool = False,
        att_downsample: int = 1,
        up: bool = False,
        conv: type[keras.layers.Layer] = nn.down_right_shifted_conv2d,
        output: type[keras.layers.Layer] | None = None,
    ):
        super().__init__()
        resnet = functools.partial(nn.gated_resnet, nonlinearity=resnet_nonlinearity, dropout_p=dropout_p)
        self.size_multiple = max(hier)
        self.period = 1
        self.period_of_blocks = len(hier)
        self.nr_filters = nr_filters
        self.stem = ShiftStem(nr_filters) if conv is nn.causal_shift_nin else Stem(nr_filters, up)
        self.blocks = [
            Block(
                [Streams(resnet, conv, up) for _ in range(nr_resnet)],
                AttentionBlock(
                    resnet,
                    key_channels(nr_filters),
                    mixin_channels(nr_filters),
                    content or Pointwise,
                    hier[i % len(hier)],
                    hier_inputs,
                    att_downsample,
                ),
            )
            for i in range(attn_rep)
        ]
        self.output_layer = (output or Output)(resnet, conv, nr_filters, nr_logistic_mix)

    def call(self, x, h=None, seed=None, cache=None, bfloat16=False, recompute=False):
        """Outputs [B, H, W, 10 K] for images x [B, H, W, 3] and labels h [B, L]; dropout acts where there is a seed.

        bfloat16 has all between the first and the last layer computed in it; recompute, under nn.folded, has gradients
        compute what is in the blocks anew, and keep only what is between them.

        With a cache (see cache.py), x is None: in a pass over a row nothing comes back; in a step, the stream ul of
        the pixel [B, F], which output_layer takes.
        """
        *block_seeds, output_seed = nn.split_seed(seed, len(self.blocks) + 1)
        position = background(x) if cache is None else cache.position()
        ul, u = self.stem(x, cache=cache)
        seen = {"x": x, "position": position}
        if bfloat16:
            ul, u, seen = tf.nest.map_structure(_to_bfloat16, (ul, u, seen))
        for i, (block, block_seed) in enumerate(zip(self.blocks, block_seeds, strict=True)):
            like = self.blocks[i % self.period_of_blocks]
            settings = {**seen, "h": h, "seed": block_seed, "cache": cache}
            ul, u = nn.traced_once(block, like, recompute, **settings)(ul=ul, u=u)
        return (
            ul
            if cache is not None
            else self.output_layer(tf.cast(ul, tf.float32), drawn=lambda *outputs: x, h=h, seed=output_seed)
        )

    def new_cache(self, batch: int, image_shape: tuple[int, ...]) -> ImageCache:
        """An empty cache for drawing images, (H, W, 3) each."""
        return ImageCache(
            [[*self.blocks, self.output_layer]],
            batch,
            *image_shape[:2],
            self.nr_filters,
            [block.attention for block in self.blocks],
            background(tf.zeros([1, *image_shape])),
        )


class PixelCNNpp(keras.Model):
    """PixelCNN++ (Salimans et al. 2017): two streams, down to a quarter of the size and up again, skips across.

    The arguments are those of PixelSNAIL.
    """

    size_multiple = period = 4

    def __init__(
        self,
        nr_resnet: int = 5,
        nr_filters: int = 160,
        nr_logistic_mix: int = 10,
        resnet_nonlinearity: str = "elu",
        dropout_p: float = 0.5,
    ):
        super().__init__()
        self.nr_filters = nr_filters
        resnet = functools.partial(nn.gated_resnet, nonlinearity=resnet_nonlinearity, dropout_p=dropout_p)
        conv = nn.down_right_shifted_conv2d

        def streams(number):
            return [Streams(resnet, conv, up=True) for _ in range(number)]

        def resample(layer_u, layer_ul):
            return Resample(layer_u(nr_filters, strides=(2, 2)), layer_ul(nr_filters, strides=(2, 2)))

        self.stem = Stem(nr_filters, up=True)
        level = Level(streams(nr_resnet), None, None, None, streams(nr_resnet))
        for _ in range(2):
            shrink = resample(nn.down_shifted_conv2d, conv)
            grow = resample(nn.down_shifted_deconv2d, nn.down_right_shifted_deconv2d)
            level = Level(streams(nr_resnet), shrink, level, grow, streams(nr_resnet + 1))
        self.level = level
        self.output_layer = Output(resnet, conv, nr_filters, nr_logistic_mix)

    def call(self, x, h=None, seed=None, cache=None, bfloat16=False, recompute=False):
        """As PixelSNAIL's."""
        ul, u = self.stem(x, cache=cache)
        if bfloat16:
            ul, u = _to_bfloat16(ul), _to_bfloat16(u)
        ul, _ = self.level(ul, u=u, h=h, seed=seed, cache=cache, recompute=recompute)
        return ul if cache is not None else self.output_layer(tf.cast(ul, tf.float32), drawn=lambda *outputs: x)

    def new_cache(self, batch: int, image_shape: tuple[int, ...]) -> ImageCache:
        """As PixelSNAIL's."""
        parts, level = [], self.level
        while level is not None:
            parts.append(level.own_layers())
            level = level.inner
        return ImageCache(parts, batch, *image_shape[:2], self.nr_filters)


class Level(nn.Layer):
    """PixelCNN++ at one size of map: steps on the way to the next smaller one, and steps on the way back.

    Each step back sees what a step of the way there made, the last one first.

    Args:
        up: the steps there.
        shrink, inner, grow: to half the size, the level there, and back; None at the smallest.
        down: the steps back.
    """

    def __init__(self, up, shrink, inner, grow, down):
        super().__init__()
        # In the original's order of creation.
        self.up = up
        self.shrink = shrink
        self.inner = inner
        self.grow = grow
        self.down = down

    def own_layers(self) -> list[keras.layers.Layer]:
        """Those that work at this size."""
        return [*self.up, *([self.shrink] if self.shrink else []), *self.down]

    def call(self, ul, u, h=None, seed=None, cache=None, recompute=False):
        *seeds, inner_seed = nn.split_seed(seed, len(self.up) + len(self.down) + 1)

        def run(layer, like, layer_seed, **streams):
            return nn.traced_once(layer, like, recompute, h=h, seed=layer_seed, cache=cache)(**streams)

        streams = [(ul, u)]
        for layer, layer_seed in zip(self.up, seeds[: len(self.up)], strict=True):
            ul, u = run(layer, self.up[0], layer_seed, ul=ul, u=u)
            streams.append((ul, u))
        if self.inner is None:
            ul, u = streams.pop()
        elif cache is None:
            ul, u = self.grow(*self.inner(*self.shrink(ul, u), h=h, seed=inner_seed, recompute=recompute))
        else:
            small = self.shrink(ul, u, cache=cache)
            if cache.inner_is_due:
                cache.keep(*self.inner(*small, h=h, cache=cache.inner))
            ul, u = self.grow(*cache.kept(), cache=cache)
        for layer, layer_seed in zip(self.down, seeds[len(self.up) :], strict=True):
            skip_ul, skip_u = streams.pop()
            ul, u = run(layer, self.down[0], layer_seed, ul=ul, u=u, skip_ul=skip_ul, skip_u=skip_u)
        return ul, u


class Stem(nn.Layer):
    """The streams' first maps, (ul, u or None), of the image: from here on a pixel's own values are out of sight."""

    def __init__(self, nr_filters: int, up: bool):
        super().__init__()
        self.up = nn.down_shifted_conv2d(nr_filters, filter_size=(2, 3)) if up else None
        self.above = nn.down_shifted_conv2d(nr_filters, filter_size=(1, 3))
        self.left = nn.down_right_shifted_conv2d(nr_filters, filter_size=(2, 1))

    def call(self, x, cache=None):
        if cache is None:
            x_pad = padded(x)
            u = nn.down_shift(self.up(x_pad)) if self.up else None
            return nn.down_shift(self.above(x_pad)) + nn.right_shift(self.left(x_pad)), u
        u = cache.down_shifted(self.up) if self.up else None
        above = cache.down_shifted(self.above)
        return (None if cache.in_row else above + cache.right_shifted(self.left)), u


class ShiftStem(nn.Layer):
    """The first map of a network whose convolutions are shifts: (ul, None)."""

    def __init__(self, nr_filters: int):
        super().__init__()
        self.shift_nin = nn.causal_shift_nin(nr_filters)

    def call(self, x, cache=None):
        if cache is None:
            return self.shift_nin(padded(x)), None
        return (None if cache.in_row else self.shift_nin(cache.around())[:, 1, 1]), None


class Streams(nn.Layer):
    """A residual step of both streams: u sees a skip of itself, ul sees u and a skip of itself, where there are any."""

    def __init__(self, resnet: Callable, conv: type[keras.layers.Layer], up: bool):
        super().__init__()
        self.resnet_u = resnet(nn.down_shifted_conv2d) if up else None
        self.resnet_ul = resnet(conv)

    def call(self, ul, u=None, skip_ul=None, skip_u=None, h=None, seed=None, cache=None):
        seed_u, seed_ul = nn.split_seed(seed, 2)
        if self.resnet_u is not None:
            below = functools.partial(self.resnet_u, u, a=skip_u, h=h, seed=seed_u, cache=cache)
            u = below() if cache is None else cache.of_row(self, below)
        if ul is not None:
            seen = [map_ for map_ in (u, skip_ul) if map_ is not None]
            ul = self.resnet_ul(ul, a=tf.concat(seen, -1) if seen else None, h=h, seed=seed_ul, cache=cache)
        return ul, u


class Resample(nn.Layer):
    """Halves or doubles both streams' size."""

    def __init__(self, layer_u: keras.layers.Layer, layer_ul: keras.layers.Layer):
        super().__init__()
        self.layer_u = layer_u
        self.layer_ul = layer_ul

    def call(self, ul, u, cache=None):
        # u first: the order of creation names the variables.
        u = self.layer_u(u, cache=cache) if cache is None or cache.in_row else None
        return (None if ul is None else self.layer_ul(ul, cache=cache)), u


class Block(nn.Layer):
    """Residual steps of causal convolutions, then attention: the unit that PixelSNAIL repeats."""

    def __init__(self, steps: list[Streams], attention: keras.layers.Layer):
        super().__init__()
        self.steps = steps
        self.attention = attention

    def call(self, ul, u, x, position, h=None, seed=None, cache=None):
        *step_seeds, attention_seed = nn.split_seed(seed, len(self.steps) + 1)
        for step, step_seed in zip(self.steps, step_seeds, strict=True):
            ul, u = step(ul, u=u, h=h, seed=step_seed, cache=cache)
        if ul is not None:
            ul = self.attention(ul, x=x, position=position, h=h, seed=attention_seed, cache=cache)
        return ul, u


class AttentionBlock(nn.Layer):
    """Looks up all that came before each pixel, and adds what it finds to the stream (paper, figure 3).

    Keys and values are made of the image, the stream and the position; queries of the stream and the position. The
    arguments are PixelSNAIL's.
    """

    def __init__(
        self,
        resnet: Callable,
        key_channels: int,
        mixin_channels: int,
        content: type[keras.layers.Layer],
        hier: int,
        hier_inputs: bool,
        downsample: int,
    ):
        super().__init__()
        self.key_channels = key_channels
        self.hier = hier
        self.hier_inputs = hier_inputs
        self.downsample = downsample
        self.key_mixin = content(resnet, key_channels + mixin_channels)
        self.query = Pointwise(resnet, key_channels)
        self.merge = resnet(nn.nin)

    def call(self, ul, x, position, h=None, seed=None, cache=None):
        content_seed, question_seed, merge_seed = nn.split_seed(seed, 3)
        question = tf.concat([ul, position], -1)
        if cache is not None:
            cache.when_known(self, lambda x: self.key_mixin(tf.concat([x, ul, position], -1), h=h))
            mixed = cache.look_up(self, lambda: self.query(question, h=h))
            return self.merge(ul, a=mixed, h=h)
        content = tf.concat([x, ul, position], -1)
        causal_unit = 1
        if self.hier > 1 and self.hier_inputs:
            content, question = (nn.average_pool(map_, self.hier) for map_ in (content, question))
        elif self.hier > 1:
            # A cell's query is that of its first pixel, and sees the rows of cells above it only.
            question = question[:, :: self.hier, :: self.hier]
            causal_unit = question.shape[2]
        key, mixin = tf.split(self.key_mixin(content, h=h, seed=content_seed), [self.key_channels, -1], -1)
        if self.hier > 1 and not self.hier_inputs:
            key, mixin = (nn.average_pool(map_, self.hier) for map_ in (key, mixin))
        query = self.query(question, h=h, seed=question_seed)
        mixed = nn.causal_attention(key, mixin, query, self.downsample, causal_unit)
        return self.merge(ul, a=nn.repeat_pixels(mixed, self.hier), h=h, seed=merge_seed)


class Pointwise(nn.Layer):
    """A gated_resnet of 1x1 convolutions, then a nin to `channels`: what keys, values and queries are made with."""

    def __init__(self, resnet: Callable, channels: int):
        super().__init__()
        self.resnet = resnet(nn.nin)
        self.nin = nn.nin(channels)

    def call(self, x, h=None, seed=None):
        return self.nin(self.resnet(x, h=h, seed=seed))


class PlainPointwise(nn.Layer):
    """A nin alone, in Pointwise's place."""

    def __init__(self, resnet: Callable, channels: int):
        super().__init__()
        self.nin = nn.nin(channels)

    def call(self, x, h=None, seed=None):
        return self.nin(x)


class Output(nn.Layer):
    """The mixture's parameters, [B, H, W, 10 K]; elu whatever --resnet_nonlinearity is, as in the original."""

    def __init__(self, resnet: Callable, conv: type[keras.layers.Layer], nr_filters: int, nr_logistic_mix: int):
        super().__init__()
        self.nin = nn.nin(10 * nr_logistic_mix)

    def call(self, ul, drawn, h=None, seed=None, cache=None):
        return self.nin(tf.nn.elu(ul))


class ChannelWiseOutput(nn.Layer):
    """Parameters for each channel, (lr, lg, lb), [B, H, W, 3 K] each: G's are made with R in sight, B's with R and G.

    The causal convolutions see the lower channels of the pixel itself, and no more of it. `drawn` shows them: called
    with the parameters made so far, (lr,) and then (lr, lg), it returns the image, with as many channels known.
    """

    def __init__(self, resnet: Callable, conv: type[keras.layers.Layer], nr_filters: int, nr_logistic_mix: int):
        super().__init__()
        self.red = nn.nin(3 * nr_logistic_mix)
        self.green_in = nn.nin(nr_filters)
        self.green_stream, self.green_merge = resnet(conv), resnet(conv)
        self.green = nn.nin(3 * nr_logistic_mix)
        self.blue_in = nn.nin(nr_filters)
        self.blue_stream, self.blue_merge = resnet(conv), resnet(conv)
        self.blue = nn.nin(3 * nr_logistic_mix)

    def call(self, ul, drawn, h=None, seed=None, cache=None):
        seeds = nn.split_seed(seed, 4)
        lr = self.red(tf.nn.elu(ul))
        green = self.green_stream(self.green_in(drawn(lr)[..., :1]), a=ul, h=h, seed=seeds[0], cache=cache)
        green = self.green_merge(ul, a=green, h=h, seed=seeds[1], cache=cache)
        lg = self.green(tf.nn.elu(green))
        blue = self.blue_stream(self.blue_in(drawn(lr, lg)[..., :2]), a=green, h=h, seed=seeds[2], cache=cache)
        blue = self.blue_merge(green, a=blue, h=h, seed=seeds[3], cache=cache)
        return lr, lg, self.blue(tf.nn.elu(blue))


def _to_bfloat16(x):
    return None if x is None else tf.cast(x, tf.bfloat16)


def background(x: tf.Tensor) -> tf.Tensor:
    """Each pixel's coordinates, [B, H, W, 6]: (y - H/2) / H and (x - W/2) / W, each three times, as in the original."""
    batch = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
    height, width = x.shape[1:3]
    y = (tf.range(height, dtype=tf.float32) - height / 2) / height
    x = (tf.range(width, dtype=tf.float32) - width / 2) / width
    return tf.concat(
        [
            tf.broadcast_to(y[None, :, None, None], [batch, height, width, 3]),
            tf.broadcast_to(x[None, None, :, None], [batch, height, width, 3]),
        ],
        -1,
    )


def padded(x: tf.Tensor) -> tf.Tensor:
    """x with a channel of ones, which tells the image from the zeros around it."""
    return tf.concat([x, tf.ones_like(x[..., :1])], -1)


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

specs: dict[str, Callable[..., keras.Model]] = {
    "model": model_spec,
    "h6_noup": h6_noup_spec,
    "h6_noup_hier2": h6_noup_hier2_spec,
    "h6_hier4": h6_hier4_spec,
    "h6_1mixhier2": h6_1mixhier2_spec,
    "h8_noup_124444mix": h8_noup_124444mix_spec,
    "h16_noup_124444mix": h16_noup_124444mix_spec,
    "h6_noup_124mix_halfattn": h6_noup_124mix_halfattn_spec,
    "h6_noup_1mix_halfattn": h6_noup_1mix_halfattn_spec,
    "h8_noup_1mix_halfattn": h8_noup_1mix_halfattn_spec,
    "h12_noup_smallkey": h12_noup_smallkey_spec,
    "h12_pool2_smallkey": h12_pool2_smallkey_spec,
    "h8_noup_smallkey": h8_noup_smallkey_spec,
    "h8_noup_smallkey_ar_chs": h8_noup_smallkey_ar_chs_spec,
    "h6_shift": h6_shift_spec,
    "h6_shift_small_attn": h6_shift_small_attn_spec,
    "pxpp": PixelCNNpp,
}
"""What --model may name."""

leaking = frozenset({"h6_hier4", "h6_1mixhier2", "h6_noup_hier2"})
"""Those whose predictions depend on the pixel itself, as in the original: their bits/dim is not a likelihood."""


def leak_warning(name: str) -> str:
    """What a user of a leaking model must be told."""
    return f"{name} predicts pixels from themselves, as in the original: its bits/dim is not a likelihood"


def build(name: str, image_shape: tuple[int, ...], nr_labels: int | None = None, **settings) -> keras.Model:
    """The network that --model names, its variables made, not yet initialised from data.

    Args:
        image_shape: (H, W, 3).
        nr_labels: L, if the network is to be conditional on labels.
        settings: the flags nr_resnet, nr_filters, ... as the specification takes them.

    Raises:
        UserError: the network does not take images of this size.
    """
    model = specs[name](**settings)
    height, width = image_shape[:2]
    if height % model.size_multiple or width % model.size_multiple:
        raise UserError(
            f"--model={name} takes images whose sides are multiples of {model.size_multiple}, not {height} x {width}"
        )
    model(tf.zeros([1, *image_shape]), h=None if nr_labels is None else tf.zeros([1, nr_labels]))
    return model
