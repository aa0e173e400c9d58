"""PixelCNN++ (Salimans et al. 2017), which the original calls pxpp."""

import functools

from pixel_snail import nn
from pixel_snail.backend import keras, tf
from pixel_snail.blocks import Output, Resample, Stem, Streams, to_bfloat16
from pixel_snail.inputs.conditions import Condition
from pixel_snail.kernels import dropout
from pixel_snail.kernels.tracing import traced_once
from pixel_snail.network import Network
from pixel_snail.weights import Layer


@keras.saving.register_keras_serializable("pixel_snail")
class PixelCNNpp(Network):
    """PixelCNN++: two streams, down to a quarter of the image's size and up again, with skip connections across.

    The arguments are those of PixelSNAIL.

    Attributes:
        sizes: the number of sizes of maps, each half the one before.
    """

    sizes, size_multiple = 3, 4

    def __init__(
        self,
        nr_resnet: int = 5,
        nr_filters: int = 160,
        nr_logistic_mix: int = 10,
        resnet_nonlinearity: str = "elu",
        dropout_p: float = 0.5,
        channels: int = 3,
        codes: int | None = None,
        condition: Condition | None = None,
    ):
        settings = (nr_resnet, nr_filters, nr_logistic_mix, resnet_nonlinearity, dropout_p)
        super().__init__(*settings, channels, codes, condition)
        resnet = functools.partial(nn.gated_resnet, nonlinearity=resnet_nonlinearity, dropout_p=dropout_p)
        conv = nn.down_right_shifted_conv2d

        def streams(number):
            return [Streams(resnet, conv, up=True) for _ in range(number)]

        def resample(layer_u, layer_ul):
            return Resample(layer_u(nr_filters, strides=(2, 2)), layer_ul(nr_filters, strides=(2, 2)))

        self.stem = Stem(nr_filters, up=True)
        level = Level(streams(nr_resnet), None, None, None, streams(nr_resnet))
        for _ in range(self.sizes - 1):
            shrink = resample(nn.down_shifted_conv2d, conv)
            grow = resample(nn.down_shifted_deconv2d, nn.down_right_shifted_deconv2d)
            level = Level(streams(nr_resnet), shrink, level, grow, streams(nr_resnet + 1))
        self.level = level
        self.output_layer = Output(resnet, conv, nr_filters, nr_logistic_mix, channels, codes)

    def call(self, x, h=None, seed=None, cache=None, bfloat16=False, recompute=False):
        """As PixelSNAIL's."""
        if cache is None:
            h, seed = self.conditioned(h, seed, x.shape[1:])
        ul, u = self.stem(self.embed(x), cache=cache)
        if bfloat16:
            ul, u = to_bfloat16(ul), to_bfloat16(u)
        is_learned = self.condition is not None
        ul, _ = self.level(ul, u=u, h=h, h_is_learned=is_learned, seed=seed, cache=cache, recompute=recompute)
        return ul if cache is not None else self.output_layer(tf.cast(ul, tf.float32), known=lambda *outputs: x)

    def layers_by_size(self) -> list[list[keras.layers.Layer]]:
        layers, level = [], self.level
        while level is not None:
            layers.append(level.own_layers())
            level = level.inner
        return layers


class Level(Layer):
    """PixelCNN++ at one size of map: steps before the next smaller size, that size, and steps after it.

    Each step after it also gets the output of a step before it as a skip connection, the last one first.

    Args:
        before: the steps before the smaller size.
        shrink, inner, grow: the layer to half the size, the level there, and the layer back; None at the smallest size.
        after: the steps after the smaller size.
    """

    def __init__(self, before, shrink, inner, grow, after):
        super().__init__()
        # In the original's order of creation.
        self.before = before
        self.shrink = shrink
        self.inner = inner
        self.grow = grow
        self.after = after

    def own_layers(self) -> list[keras.layers.Layer]:
        """The layers that work at this size."""
        return [*self.before, *([self.shrink] if self.shrink else []), *self.after]

    def call(self, ul, u, h=None, h_is_learned=False, seed=None, cache=None, recompute=False):
        *seeds, inner_seed = dropout.split_seed(seed, len(self.before) + len(self.after) + 1)

        def run(layer, like, layer_seed, **streams):
            learned, constant = ({"h": h}, {}) if h_is_learned else ({}, {"h": h})
            return traced_once(layer, like, recompute, **constant, seed=layer_seed, cache=cache)(**streams, **learned)

        streams = [(ul, u)]
        for layer, layer_seed in zip(self.before, seeds[: len(self.before)], strict=True):
            ul, u = run(layer, self.before[0], layer_seed, ul=ul, u=u)
            streams.append((ul, u))
        if self.inner is None:
            ul, u = streams.pop()
        elif cache is None:
            of_inner = {"h": nn.first_pixels(h, 2), "h_is_learned": h_is_learned, "seed": inner_seed}
            ul, u = self.grow(*self.inner(*self.shrink(ul, u), **of_inner, recompute=recompute))
        else:
            small = self.shrink(ul, u, cache=cache)
            # A row of h is that of the smaller map's rows too: they begin in even rows only.
            inner_h = nn.first_pixels(h, 2)
            small = cache.of_inner(lambda: self.inner(*small, h=inner_h, cache=cache.inner))
            ul, u = self.grow(*small, cache=cache)
        for layer, layer_seed in zip(self.after, seeds[len(self.before) :], strict=True):
            skip_ul, skip_u = streams.pop()
            ul, u = run(layer, self.after[0], layer_seed, ul=ul, u=u, skip_ul=skip_ul, skip_u=skip_u)
        return ul, u
