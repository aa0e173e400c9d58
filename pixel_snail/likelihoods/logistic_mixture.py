"""The discretised mixture of logistics: likelihood and sampling of pixels, as pure functions.

Salimans et al. 2017 (PixelCNN++), section 2. A channel has L values, scaled to [-1, 1], and each value has an interval
around it, from 1 / (L - 1) below to 1 / (L - 1) above. The probability of a value is the mass of a mixture of K
logistic distributions on its interval; the first and the last interval reach to infinity. A pixel's channels share the
mixture component. The mean of a channel also depends on the channels before it: it is shifted by the sum of their
values, each multiplied by a coefficient.

Shapes: `x` are images [B, H, W, C]. `l` are the network's outputs [B, H, W, `outputs_per_component(C)` K]; `lr`, `lg`
and `lb` are those of a network with channel-wise outputs, for C = 3, [B, H, W, 3 K] each. `levels` is L.
"""

import functools
import operator

import numpy as np

from pixel_snail.backend import tf
from pixel_snail.likelihoods import values

MIN_LOG_SCALE = -7.0
"""As in the original, whatever the number of levels. At 256 levels, a single logistic of this scale gives a value at
its mean, other than the first and the last value, the probability 0.97; at 1,024 levels, whose intervals are narrower,
0.49; at 65,536 levels, 0.008. The intervals of the first and the last value are infinite."""

MOST_LOG_SCALE_OF_TWO = 0.0
"""With 2 levels, a component's probabilities depend on the ratio of mean and scale only, so that this bound excludes
none. Without it, a component may learn a large scale in place of a mean near 0. Its mean then has hardly any gradient,
and training stays at about 115 nats on binarized MNIST."""


def outputs_per_component(channels: int) -> int:
    """The number of a network's outputs for each mixture component, given C: 3 for grey images, 10 for RGB.

    They are its logit, a mean and a log-scale for each channel, and a coefficient for each pair of channels.
    """
    return 1 + 2 * channels + channels * (channels - 1) // 2


def discretized_mix_logistic_log_prob(x: tf.Tensor, l: tf.Tensor, levels: int = 256) -> tf.Tensor:
    """The log-likelihood of each pixel in nats, [B, H, W]."""
    return _mixture_log_prob(x, *_mixture(x, l, levels), levels)


def discretized_mix_logistic_log_prob_per_chn(
    x: tf.Tensor, lr: tf.Tensor, lg: tf.Tensor, lb: tf.Tensor, levels: int = 256
) -> tf.Tensor:
    """The same from channel-wise outputs; all channels share the logits in `lr`, as in the original."""
    return _mixture_log_prob(x, *_mixture_per_chn(lr, lg, lb, levels), levels)


def loss_per_image(x: tf.Tensor, outputs: tf.Tensor | tuple, levels: int = 256) -> tf.Tensor:
    """Minus the log-likelihood of each image in nats, [B], from outputs l or (lr, lg, lb)."""
    if isinstance(outputs, (tuple, list)):
        log_prob = discretized_mix_logistic_log_prob_per_chn(x, *outputs, levels)
    else:
        log_prob = discretized_mix_logistic_log_prob(x, outputs, levels)
    return -tf.reduce_sum(log_prob, [1, 2])


def nats_per_value(x: tf.Tensor, outputs: tf.Tensor | tuple, levels: int = 256) -> tf.Tensor:
    """Minus the log-likelihood in nats of each channel of each pixel, given the channels before it, [B, H, W, C].

    The channels share the mixture component and so depend on each other: log p(G | R) = log p(R, G) - log p(R).

    Args:
        outputs: l or (lr, lg, lb).
    """
    is_per_chn = isinstance(outputs, (tuple, list))
    logits, means, log_scales = _mixture_per_chn(*outputs, levels) if is_per_chn else _mixture(x, outputs, levels)
    up_to_channel = tf.cumsum(logistic_log_prob(x[..., None], means, log_scales, levels), -2)
    joint = tf.reduce_logsumexp(up_to_channel + tf.nn.log_softmax(logits)[..., None, :], -1)
    return tf.concat([tf.zeros_like(joint[..., :1]), joint[..., :-1]], -1) - joint


def bits_per_dim(nats, image_shape: tuple[int, ...], images: int = 1):
    """Converts nats, summed over `images` images of `image_shape`, to bits/dim; a dimension is a channel of a pixel."""
    return nats / (np.log(2.0) * np.prod(image_shape) * images)


def nats_per_image(bits_per_dim, image_shape: tuple[int, ...]):
    """Converts bits/dim to nats an image, as the literature gives the figures of images of two levels."""
    return bits_per_dim * np.log(2.0) * np.prod(image_shape)


def bits_per_dim_per_channel(nats: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """Converts the nats of each channel of each image, [N, C], to bits/dim of that channel, [N, C]."""
    # A channel has 1 / C of an image's dimensions.
    return image_shape[-1] * bits_per_dim(nats, image_shape)


def logistic_log_prob(x: tf.Tensor, mean: tf.Tensor, log_scale: tf.Tensor, levels: int = 256) -> tf.Tensor:
    """The log mass in nats of a logistic distribution on the interval of the scaled value x in [-1, 1].

    For 256 levels, it is computed as in the original: a mass too small for a difference of sigmoids is approximated by
    the density at the interval's centre times the width. Wider intervals would make that wrong by hundreds of nats, and
    narrower ones lose most digits of the difference; so other levels' masses are exact. Every branch is finite
    everywhere, so that a branch not taken puts no NaN into a gradient.
    """
    half_width = 1 / (levels - 1)  # with 2 levels, both intervals reach to infinity, and `inner` is never chosen
    scale = tf.exp(-log_scale)
    d = x - mean
    upper = scale * (d + half_width)
    lower = scale * (d - half_width)
    if levels == 256:
        centre = scale * d
        delta = tf.sigmoid(upper) - tf.sigmoid(lower)
        density = centre - log_scale - 2 * tf.math.softplus(centre) - np.log(127.5)
        inner = tf.where(delta > 1e-5, tf.math.log(tf.maximum(delta, 1e-12)), density)
    else:
        # sigmoid(u) - sigmoid(l) = (1 - exp(l - u)) sigmoid(u) sigmoid(-l)
        share = -tf.math.expm1(-2 * half_width * scale)
        inner = tf.math.log(tf.maximum(share, 1e-37)) - tf.math.softplus(-upper) - tf.math.softplus(lower)
    below = upper - tf.math.softplus(upper)
    above = -tf.math.softplus(lower)
    last = 1 - 0.255 * half_width  # 0.999 at 256 levels, as in the original; it lies between the last two values
    return tf.where(x < -last, below, tf.where(x > last, above, inner))


def next_channel(
    outputs: tf.Tensor | tuple, known: tf.Tensor, channels: int = 3, levels: int = 256
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The mixture of a pixel's next channel: logits, means and log-scales, [..., K] each.

    The logits are those of the pixel, whatever values the known channels have.

    Args:
        outputs: l [..., `outputs_per_component(C)` K], or lr, (lr, lg) or (lr, lg, lb), [..., 3 K] each.
        known: the channels before, in [-1, 1], [..., 0 to C - 1].
        channels: C.
        levels: L.
    """
    channel = known.shape[-1]
    if isinstance(outputs, (tuple, list)):
        _, mean, log_scale = tf.split(outputs[channel], 3, -1)
        return tf.split(outputs[0], 3, -1)[0], mean, _bounded(log_scale, levels)
    x = tf.concat([known, tf.zeros_like(outputs[..., channel:channels])], -1)
    logits, means, log_scales = _mixture(x, outputs, levels)
    return logits, means[..., channel, :], log_scales[..., channel, :]


def probabilities_below(logits: tf.Tensor, mean: tf.Tensor, log_scale: tf.Tensor, levels: int = 256) -> tf.Tensor:
    """The probabilities that a value is below 1, 2, ..., L - 1: [..., K] -> [..., L - 1].

    They are the mixture's cumulative distribution at the borders between the values' intervals. So the probabilities of
    the L values, which are their differences, sum to one. `logistic_log_prob` approximates tiny masses instead.
    """
    borders = (2 * np.arange(1, levels, dtype=np.float32) - levels) / (levels - 1)
    below = tf.sigmoid((borders - mean[..., None]) * tf.exp(-log_scale)[..., None])
    return tf.reduce_sum(tf.nn.softmax(logits)[..., None] * below, -2)


def sample_from_discretized_mix_logistic(
    l: tf.Tensor, u_mix: tf.Tensor, u_logistic: tf.Tensor, temperature: float = 1.0, levels: int | None = None
) -> tf.Tensor:
    """Draws pixels in [-1, 1].

    Without `levels`, they are not rounded to values, as in the original. With it, each channel is rounded before the
    next one is drawn: the result is an exact draw from the discretised mixture.

    Args:
        l: [..., `outputs_per_component(C)` K].
        u_mix: uniform random numbers in [0, 1), [..., K], for the choice of the component.
        u_logistic: the same, [..., C], for the logistic distribution of each channel.
        temperature: scales the noise of both; 0 gives the mean of the likeliest component.
        levels: L, if the channels are to be rounded.

    Returns:
        [..., C], in order: the mean of a channel depends on the channels drawn before it.
    """
    logits, means, log_scales, coefficients = _split(l, u_logistic.shape[-1], levels or 256)
    chosen = _choose_component(logits, u_mix, temperature)[..., None, :]
    mean, log_scale = (tf.reduce_sum(t * chosen, -1) for t in (means, log_scales))
    value = _draw_logistic(mean, log_scale, u_logistic, temperature)
    drawn = [_as_drawn(value[..., 0], levels)]
    if coefficients is not None:
        coefficient = tf.reduce_sum(coefficients * chosen, -1)
        for channel in range(1, u_logistic.shape[-1]):
            shifts = _shifts(channel, lambda pair: coefficient[..., pair], drawn)
            drawn.append(_as_drawn(functools.reduce(operator.add, [value[..., channel], *shifts]), levels))
    return tf.stack(drawn, -1)


def sample_channel_from_discretized_mix_logistic(
    lr: tf.Tensor,
    l: tf.Tensor,
    u_mix: tf.Tensor,
    u_logistic: tf.Tensor,
    temperature: float = 1.0,
    levels: int | None = None,
) -> tf.Tensor:
    """Draws one channel, in [-1, 1], from channel-wise outputs.

    Args:
        lr: the outputs for R, [..., 3 K]; all channels share their logits.
        l: the outputs for this channel, [..., 3 K].
        u_mix: uniform random numbers in [0, 1), [..., K], the same ones for all channels of a pixel.
        u_logistic: uniform random numbers in [0, 1), [...], for this channel.
        temperature, levels: as in sample_from_discretized_mix_logistic.

    Returns:
        [...].
    """
    chosen = _choose_component(tf.split(lr, 3, -1)[0], u_mix, temperature)
    _, means, log_scales = tf.split(l, 3, -1)
    mean, log_scale = (tf.reduce_sum(t * chosen, -1) for t in (means, _bounded(log_scales, levels or 256)))
    return _as_drawn(_draw_logistic(mean, log_scale, u_logistic, temperature), levels)


def _as_drawn(value, levels):
    """Clips drawn numbers to [-1, 1] and, if there are `levels`, rounds them to the nearest scaled value."""
    value = tf.clip_by_value(value, -1, 1)
    if levels is None:
        return value
    # Damaged parameters give NaN, which stays, so that the caller can report it.
    return tf.where(tf.math.is_nan(value), value, values.as_numbers(values.nearest(value, levels), levels))


def _choose_component(logits, u_mix, temperature):
    """A component drawn with probabilities softmax(logits / temperature), by Gumbel noise: one-hot, [..., K]."""
    gumbel = -temperature * tf.math.log(-tf.math.log(_away_from_0_and_1(u_mix)))
    return tf.one_hot(tf.argmax(logits + gumbel, -1), logits.shape[-1])


def _draw_logistic(mean, log_scale, u, temperature):
    u = _away_from_0_and_1(u)
    return mean + temperature * tf.exp(log_scale) * (tf.math.log(u) - tf.math.log(1 - u))


def _split(l, channels, levels):
    """Splits outputs: logits [..., K]; means and log-scales (bounded), [..., C, K]; coefficients [..., pairs, K].

    Pairs of channels are in the order (1, 0), (2, 0), (2, 1), (3, 0) and so on. With one channel, there are no
    coefficients: None.
    """
    nr_mix = l.shape[-1] // outputs_per_component(channels)
    pairs = channels * (channels - 1) // 2
    logits, rest = tf.split(l, [nr_mix, (2 * channels + pairs) * nr_mix], -1)
    shape = tf.unstack(tf.shape(l))[:-1]
    if channels == 3:  # as in the original: a mean, a log-scale and one of the three coefficients for each channel
        means, log_scales, coefficients = tf.split(tf.reshape(rest, [*shape, 3, 3 * nr_mix]), 3, -1)
    else:
        rest = tf.reshape(rest, [*shape, 2 * channels + pairs, nr_mix])
        means, log_scales, coefficients = tf.split(rest, [channels, channels, pairs], -2)
    return logits, means, _bounded(log_scales, levels), tf.tanh(coefficients) if pairs else None


def _bounded(log_scales, levels):
    """Log-scales that are at least MIN_LOG_SCALE and, with 2 levels, at most MOST_LOG_SCALE_OF_TWO."""
    log_scales = tf.maximum(log_scales, MIN_LOG_SCALE)
    return tf.minimum(log_scales, MOST_LOG_SCALE_OF_TWO) if levels == 2 else log_scales


def _mixture(x, l, levels):
    """Logits [..., K], means and log-scales [..., C, K] from the outputs l, given the pixels x [..., C]."""
    channels = x.shape[-1]
    logits, means, log_scales, coefficients = _split(l, channels, levels)
    if coefficients is None:
        return logits, means, log_scales
    x = x[..., None]
    values = [x[..., channel, :] for channel in range(channels - 1)]
    of_pairs = tf.unstack(coefficients, axis=-2)
    no_shift = tf.zeros_like(of_pairs[0])
    shifts = [_shifts(channel, of_pairs.__getitem__, values) for channel in range(1, channels)]
    shifts = [functools.reduce(operator.add, of_channel) for of_channel in shifts]
    return logits, means + tf.stack([no_shift, *shifts], -2), log_scales


def _mixture_per_chn(lr, lg, lb, levels):
    """As _mixture, from channel-wise outputs, whose means already depend on the channels before."""
    logits = tf.split(lr, 3, -1)[0]
    _, means, log_scales = (
        tf.stack(part, -2) for part in zip(*(tf.split(l, 3, -1) for l in (lr, lg, lb)), strict=True)
    )
    return logits, means, _bounded(log_scales, levels)


def _shifts(channel, coefficient, before):
    """The shifts of a channel's mean, to be added from left to right: each channel before it times its coefficient.

    Args:
        channel: its number, above 0.
        coefficient: a function of a pair's number (see _split).
        before: the values of the channels, at least of those before.
    """
    first_pair = channel * (channel - 1) // 2
    return [coefficient(first_pair + other) * before[other] for other in range(channel)]


def _mixture_log_prob(x, logits, means, log_scales, levels):
    channels = logistic_log_prob(x[..., None], means, log_scales, levels)
    return tf.reduce_logsumexp(tf.reduce_sum(channels, -2) + tf.nn.log_softmax(logits), -1)


def _away_from_0_and_1(u):
    return 1e-5 + (1 - 2e-5) * u
