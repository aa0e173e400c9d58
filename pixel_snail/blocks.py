"""The parts of networks: stems, streams, blocks with attention, output layers (paper, figure 2).

Two streams of maps run through a network. `ul` at a pixel sees the pixels above and to the left of it. `u`, which not
every network has, sees the rows above only.

Every layer here is called in the same way on whole maps and, with a `cache` (see cache.py), on a row or a pixel.
"""

import functools
from collections.abc import Callable

from pixel_snail import nn
from pixel_snail.backend import keras, tf
from pixel_snail.errors import UserError, option
from pixel_snail.inputs.conditions import Condition
from pixel_snail.kernels import dropout
from pixel_snail.likelihoods.logistic_mixture import outputs_per_component
from pixel_snail.weights import Layer, layers_in


class Stem(Layer):
    """The first maps (ul, u) of both streams, from the image; u is None without `up`. Neither sees the pixel itself."""

    def __init__(self, nr_filters: int, up: bool):
        super().__init__()
        self.up = nn.down_shifted_conv2d(nr_filters, filter_size=(2, 3)) if up else None
        self.above = nn.down_shifted_conv2d(nr_filters, filter_size=(1, 3))
        self.left = nn.down_right_shifted_conv2d(nr_filters, filter_size=(2, 1))

    def call(self, x, cache=None):
        if cache is None:
            x_pad = with_ones_channel(x)
            u = nn.down_shift(self.up(x_pad)) if self.up else None
            return nn.down_shift(self.above(x_pad)) + nn.right_shift(self.left(x_pad)), u
        u = cache.down_shifted(self.up) if self.up else None
        above = cache.down_shifted(self.above)
        return (None if cache.in_row else above + cache.right_shifted(self.left)), u


class ShiftStem(Layer):
    """The stem of a network whose convolutions are causal_shift_nin: (ul, None).

    In the original, causal_shift_nin splits R, G, B and the channel of ones into its four parts: it sees R of the pixel
    to the left, G of those above left and above right, and B of the pixel above. For images with other channels, it
    sees all channels of these pixels.
    """

    def __init__(self, nr_filters: int):
        super().__init__()
        self.shift_nin = nn.causal_shift_nin(nr_filters)

    def call(self, x, cache=None):
        if cache is None:
            return self.shift_nin(self._in_four_parts(with_ones_channel(x))), None
        return (None if cache.in_row else self.shift_nin(self._in_four_parts(cache.around()))[:, 1, 1]), None

    @staticmethod
    def _in_four_parts(x):
        return x if x.shape[-1] == 4 else tf.tile(x[..., :-1], [1, 1, 1, 4])


class Streams(Layer):
    """A residual step of both streams. u also gets its skip connection; ul also gets u and its own skip connection.

    Args:
        resnet: gated_resnet with its settings bound, called with the convolution.
        conv: the causal convolution of ul, a layer class.
        up: whether there is a stream u.
    """

    def __init__(self, resnet: Callable, conv: type[keras.layers.Layer], up: bool):
        super().__init__()
        self.resnet_u = resnet(nn.down_shifted_conv2d) if up else None
        self.resnet_ul = resnet(conv)

    def call(self, ul, u=None, skip_ul=None, skip_u=None, h=None, seed=None, cache=None):
        seed_u, seed_ul = dropout.split_seed(seed, 2)
        if self.resnet_u is not None:
            below = functools.partial(self.resnet_u, u, a=skip_u, h=h, seed=seed_u, cache=cache)
            u = below() if cache is None else cache.once_a_row(self, below)
        if ul is not None:
            seen = [map_ for map_ in (u, skip_ul) if map_ is not None]
            ul = self.resnet_ul(ul, a=tf.concat(seen, -1) if seen else None, h=h, seed=seed_ul, cache=cache)
        return ul, u


def residual_blocks(*layers: keras.layers.Layer) -> list[nn.gated_resnet]:
    """The residual blocks of both streams inside layers or a network, from F channels to F; not those of attention."""
    inner = [step for layer in layers for step in layers_in(layer) if isinstance(step, Streams)]
    both = [(step.resnet_u, step.resnet_ul) for step in inner]
    return [resnet for pair in both for resnet in pair if resnet is not None]


class Resample(Layer):
    """Halves or doubles the size of both streams' maps."""

    def __init__(self, layer_u: keras.layers.Layer, layer_ul: keras.layers.Layer):
        super().__init__()
        self.layer_u = layer_u
        self.layer_ul = layer_ul

    def call(self, ul, u, cache=None):
        # u first: the order of creation names the variables.
        u = self.layer_u(u, cache=cache) if cache is None or cache.in_row else None
        return (None if ul is None else self.layer_ul(ul, cache=cache)), u


class Block(Layer):
    """Residual steps of causal convolutions, then attention: the unit that PixelSNAIL repeats (paper, figure 2)."""

    def __init__(self, steps: list[Streams], attention: keras.layers.Layer):
        super().__init__()
        self.steps = steps
        self.attention = attention

    def call(self, ul, u, x, position, h=None, seed=None, cache=None):
        *step_seeds, attention_seed = dropout.split_seed(seed, len(self.steps) + 1)
        for step, step_seed in zip(self.steps, step_seeds, strict=True):
            ul, u = step(ul, u=u, h=h, seed=step_seed, cache=cache)
        if ul is not None:
            ul = self.attention(ul, x=x, position=position, h=h, seed=attention_seed, cache=cache)
        return ul, u


class AttentionBlock(Layer):
    """Attention of each pixel over all pixels before it, merged into the stream ul (paper, figure 3, attention block).

    Keys and values come from the image, the stream and the coordinates; queries from the stream and the coordinates.

    Args:
        resnet: gated_resnet with its settings bound, called with the convolution.
        key_channels, mixin_channels: D and M.
        hier: the factor by which attention is coarser than the image.
        content, hier_inputs: as in PixelSNAIL.
        downsample: PixelSNAIL's att_downsample.
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
        content_seed, question_seed, merge_seed = dropout.split_seed(seed, 3)
        question = tf.concat([ul, position], -1)
        if cache is not None:
            cache.remember_later(self, lambda x: self.key_mixin(tf.concat([x, ul, position], -1), h=h))
            mixed = cache.look_up(self, lambda: self.query(question, h=h))
            return self.merge(ul, a=mixed, h=h)
        content = tf.concat([x, ul, position], -1)
        causal_unit = 1
        h_of_content, h_of_question = h, nn.first_pixels(h, self.hier)
        if self.hier > 1 and self.hier_inputs:
            content, question = (nn.average_pool(map_, self.hier) for map_ in (content, question))
            h_of_content = h_of_question
        elif self.hier > 1:
            # A cell's query is that of its first pixel, and sees only the rows of cells above.
            question = nn.first_pixels(question, self.hier)
            causal_unit = question.shape[2]
        key, mixin = tf.split(self.key_mixin(content, h=h_of_content, seed=content_seed), [self.key_channels, -1], -1)
        if self.hier > 1 and not self.hier_inputs:
            key, mixin = (nn.average_pool(map_, self.hier) for map_ in (key, mixin))
        query = self.query(question, h=h_of_question, seed=question_seed)
        mixed = nn.causal_attention(key, mixin, query, self.downsample, causal_unit)
        return self.merge(ul, a=nn.repeat_pixels(mixed, self.hier), h=h, seed=merge_seed)


class Pointwise(Layer):
    """A gated_resnet of 1x1 convolutions, then a nin to `channels`: computes keys, values and queries."""

    def __init__(self, resnet: Callable, channels: int):
        super().__init__()
        self.resnet = resnet(nn.nin)
        self.nin = nn.nin(channels)

    def call(self, x, h=None, seed=None):
        return self.nin(self.resnet(x, h=h, seed=seed))


class PlainPointwise(Layer):
    """A nin alone, in place of Pointwise."""

    def __init__(self, resnet: Callable, channels: int):
        super().__init__()
        self.nin = nn.nin(channels)

    def call(self, x, h=None, seed=None):
        return self.nin(x)


class Output(Layer):
    """The mixture's parameters, nin(elu(ul)), [B, H, W, 10 K] for C = 3; always elu, as in the original.

    With `codes`, L, they are the logits of codes, [B, H, W, L].
    """

    def __init__(
        self,
        resnet: Callable,
        conv: type[keras.layers.Layer],
        nr_filters: int,
        nr_logistic_mix: int,
        channels: int,
        codes: int | None = None,
    ):
        super().__init__()
        # At first, all codes are about as likely.
        self.nin = nn.nin(codes, 0.1) if codes else nn.nin(outputs_per_component(channels) * nr_logistic_mix)

    def call(self, ul, known, h=None, seed=None, cache=None):
        return self.nin(tf.nn.elu(ul))


class ChannelWiseOutput(Layer):
    """The mixture's parameters for each channel, (lr, lg, lb), [B, H, W, 3 K] each; lg also sees R, lb sees R and G.

    The layer gets R and G of the pixel itself by calling known(lr) and known(lr, lg). On whole maps, `known` returns
    the image. Pixel by pixel, it draws or decodes the next channel from these outputs, and returns the channels so far.

    Raises:
        UserError: the images do not have three channels.
    """

    def __init__(
        self,
        resnet: Callable,
        conv: type[keras.layers.Layer],
        nr_filters: int,
        nr_logistic_mix: int,
        channels: int,
    ):
        super().__init__()
        if channels != 3:
            raise UserError(
                f"{option('model')}: this network predicts R, G and B one after another, so images must have 3 "
                f"channels, not {channels}: choose another, such as h8_noup_smallkey"
            )
        self.red = nn.nin(3 * nr_logistic_mix)
        self.green_in = nn.nin(nr_filters)
        self.green_stream, self.green_merge = resnet(conv), resnet(conv)
        self.green = nn.nin(3 * nr_logistic_mix)
        self.blue_in = nn.nin(nr_filters)
        self.blue_stream, self.blue_merge = resnet(conv), resnet(conv)
        self.blue = nn.nin(3 * nr_logistic_mix)

    def call(self, ul, known, h=None, seed=None, cache=None):
        seeds = dropout.split_seed(seed, 4)
        lr = self.red(tf.nn.elu(ul))
        green = self.green_stream(self.green_in(known(lr)[..., :1]), a=ul, h=h, seed=seeds[0], cache=cache)
        green = self.green_merge(ul, a=green, h=h, seed=seeds[1], cache=cache)
        lg = self.green(tf.nn.elu(green))
        blue = self.blue_stream(self.blue_in(known(lr, lg)[..., :2]), a=green, h=h, seed=seeds[2], cache=cache)
        blue = self.blue_merge(green, a=blue, h=h, seed=seeds[3], cache=cache)
        return lr, lg, self.blue(tf.nn.elu(blue))


class ConditionFeatures(Layer):
    """The labels and the condition of images as residual blocks take them.

    Codes are embedded. A map goes through a 3x3 convolution and `condition.resnet` residual blocks, if there are any;
    these are not causal, so that a pixel sees the condition around it. Then it is repeated to the image's size.

    Args:
        condition: the kind of condition.
        resnet: gated_resnet with its settings bound, called with the convolution.
        nr_filters: the channels of the map, if there are residual blocks.
    """

    def __init__(self, condition: Condition, resnet: Callable, nr_filters: int):
        super().__init__()
        self.embedding = None if condition.levels is None else nn.embedding(condition.levels)
        self.conv_in = nn.conv2d(nr_filters) if condition.resnet else None
        self.steps = [resnet(nn.conv2d) for _ in range(condition.resnet)]

    def call(self, condition, labels=None, image_size=None, seed=None):
        """The features, labels first: [B, classes + D] for vectors, [B, H, W, classes + G] for maps.

        G is F with residual blocks; without them, it is D or, for codes, E.

        Args:
            condition: [B, D], [B, h, w, D] or, of codes, [B, h, w].
            labels: one-hot, [B, classes], or None.
            image_size: (H, W).
            seed: of dropout, or None.
        """
        if self.embedding is not None:
            condition = self.embedding(condition[..., None])
        if condition.shape.rank == 2:
            return condition if labels is None else tf.concat([labels, condition], -1)
        if self.conv_in is not None:
            condition = self.conv_in(condition)
        for step, step_seed in zip(self.steps, dropout.split_seed(seed, len(self.steps)), strict=True):
            condition = step(condition, seed=step_seed)
        rows, columns = (size // own for size, own in zip(image_size, condition.shape[1:3], strict=True))
        condition = nn.repeat_pixels(condition, rows, columns)
        if labels is None:
            return condition
        return tf.concat([nn.repeat_pixels(labels[:, None, None], *image_size), condition], -1)


def to_bfloat16(x: tf.Tensor | None) -> tf.Tensor | None:
    """x in bfloat16; None stays None."""
    return None if x is None else tf.cast(x, tf.bfloat16)


def background(x: tf.Tensor) -> tf.Tensor:
    """Each pixel's coordinates, [B, H, W, 2 C]: (y - H/2) / H and (x - W/2) / W, each C times, as in the original."""
    batch = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
    height, width, channels = x.shape[1:]
    y = (tf.range(height, dtype=tf.float32) - height / 2) / height
    x = (tf.range(width, dtype=tf.float32) - width / 2) / width
    return tf.concat(
        [
            tf.broadcast_to(y[None, :, None, None], [batch, height, width, channels]),
            tf.broadcast_to(x[None, None, :, None], [batch, height, width, channels]),
        ],
        -1,
    )


def with_ones_channel(x: tf.Tensor) -> tf.Tensor:
    """x with a further channel of ones, so that layers can distinguish the image from the zeros around it."""
    return tf.concat([x, tf.ones_like(x[..., :1])], -1)
