"""The networks, one specification each, and the registry that --model reads.

A specification is a callable that takes the flags of the command line and makes a Keras model. The model maps images
x [B, H, W, 3] in [-1, 1], and optionally labels h [B, L], to the parameters of the discretised mixture of logistics
for each pixel, [B, H, W, 10 K], each predicted from the pixels before it in raster order.
"""

import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from pixel_snail import nn


class PixelSNAIL(keras.Model):
    """Blocks of causal convolutions and attention over everything before (paper, figure 2).

    Args:
        attn_rep: the number of blocks.
        nr_resnet: residual blocks in each block, before its attention.
        nr_filters: F.
        nr_logistic_mix: K.
        resnet_nonlinearity: a name in nn.nonlinearities.
        dropout_p: the rate of dropout in every residual block, where a call gives a seed.
        key_channels: D, the channels of the attention's keys and queries.
        mixin_channels: M, those of its values, as a function of F.
        att_downsample: the factor by which keys and values are max-pooled.
        conv: the causal convolution of the residual blocks, a layer class.
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
        key_channels: int,
        mixin_channels: Callable[[int], int],
        att_downsample: int = 1,
        conv: type[keras.layers.Layer] = nn.down_right_shifted_conv2d,
    ):
        super().__init__()
        resnet = functools.partial(nn.gated_resnet, nonlinearity=resnet_nonlinearity, dropout_p=dropout_p)
        self.nr_filters = nr_filters
        self.nr_logistic_mix = nr_logistic_mix
        self.above = nn.down_shifted_conv2d(nr_filters, filter_size=(1, 3))
        self.left = nn.down_right_shifted_conv2d(nr_filters, filter_size=(2, 1))
        self.blocks = [
            Block(
                [resnet(conv) for _ in range(nr_resnet)],
                AttentionBlock(resnet, key_channels, mixin_channels(nr_filters), att_downsample),
            )
            for _ in range(attn_rep)
        ]
        self.outputs_nin = nn.nin(10 * nr_logistic_mix)

    def call(self, x, h=None, seed=None):
        """Outputs [B, H, W, 10 K] for images x [B, H, W, 3] and labels h [B, L]; dropout acts where there is a seed."""
        position = background(x)
        x_pad = tf.concat([x, tf.ones_like(x[..., :1])], -1)
        ul = nn.down_shift(self.above(x_pad)) + nn.right_shift(self.left(x_pad))
        for block, block_seed in zip(self.blocks, nn.split_seed(seed, len(self.blocks)), strict=True):
            ul = block(ul, x=x, position=position, h=h, seed=block_seed)
        return self.outputs_nin(tf.nn.elu(ul))


class Block(keras.layers.Layer):
    """Residual blocks of causal convolutions, then attention: the unit that PixelSNAIL repeats."""

    def __init__(self, resnets: list[nn.gated_resnet], attention: keras.layers.Layer):
        super().__init__()
        self.resnets = resnets
        self.attention = attention

    def call(self, ul, x, position, h=None, seed=None):
        *resnet_seeds, attention_seed = nn.split_seed(seed, len(self.resnets) + 1)
        for resnet, resnet_seed in zip(self.resnets, resnet_seeds, strict=True):
            ul = resnet(ul, h=h, seed=resnet_seed)
        return self.attention(ul, x=x, position=position, h=h, seed=attention_seed)


class AttentionBlock(keras.layers.Layer):
    """Looks up all that came before each pixel, and adds what it finds to the stream (paper, figure 3).

    Keys and values are made of the image, the stream and the position; queries of the stream and the position.
    """

    def __init__(self, resnet: Callable, key_channels: int, mixin_channels: int, downsample: int):
        super().__init__()
        self.key_channels = key_channels
        self.downsample = downsample
        self.key_mixin = Pointwise(resnet, key_channels + mixin_channels)
        self.query = Pointwise(resnet, key_channels)
        self.merge = resnet(nn.nin)

    def call(self, ul, x, position, h=None, seed=None):
        content_seed, question_seed, merge_seed = nn.split_seed(seed, 3)
        content = self.key_mixin(tf.concat([x, ul, position], -1), h=h, seed=content_seed)
        key, mixin = tf.split(content, [self.key_channels, -1], -1)
        query = self.query(tf.concat([ul, position], -1), h=h, seed=question_seed)
        mixed = nn.causal_attention(key, mixin, query, self.downsample)
        return self.merge(ul, a=mixed, h=h, seed=merge_seed)


class Pointwise(keras.layers.Layer):
    """A gated_resnet of 1x1 convolutions, then a nin to `channels`: what keys, values and queries are made with."""

    def __init__(self, resnet: Callable, channels: int):
        super().__init__()
        self.resnet = resnet(nn.nin)
        self.nin = nn.nin(channels)

    def call(self, x, h=None, seed=None):
        return self.nin(self.resnet(x, h=h, seed=seed))


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


_base_noup_smallkey_spec = functools.partial(PixelSNAIL, key_channels=16, mixin_channels=lambda filters: filters // 2)

h12_noup_smallkey_spec = functools.partial(_base_noup_smallkey_spec, attn_rep=12)
h12_pool2_smallkey_spec = functools.partial(_base_noup_smallkey_spec, attn_rep=12, att_downsample=2)
h8_noup_smallkey_spec = functools.partial(_base_noup_smallkey_spec, attn_rep=8)

specs: dict[str, Callable[..., keras.Model]] = {
    "h12_noup_smallkey": h12_noup_smallkey_spec,
    "h12_pool2_smallkey": h12_pool2_smallkey_spec,
    "h8_noup_smallkey": h8_noup_smallkey_spec,
}
"""What --model may name."""


def build(name: str, image_shape: tuple[int, ...], nr_labels: int | None = None, **settings) -> keras.Model:
    """The network that --model names, its variables made, not yet initialised from data.

    Args:
        image_shape: (H, W, 3).
        nr_labels: L, if the network is to be conditional on labels.
        settings: the flags nr_resnet, nr_filters, ... as the specification takes them.
    """
    model = specs[name](**settings)
    model(tf.zeros([1, *image_shape]), h=None if nr_labels is None else tf.zeros([1, nr_labels]))
    return model
