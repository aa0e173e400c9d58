"""The discretised mixture of logistics: likelihood and sampling of pixels, as pure functions.

Salimans et al. 2017 (PixelCNN++), section 2. A channel has 256 values, scaled to [-1, 1], and each value has an
interval around it. The probability of a value is the mass of a mixture of K logistic distributions on its interval; the
first and the last interval reach to infinity. A pixel's three channels share the mixture component. The means of G and
B also depend on the channels before them.

Shapes: `x` are images [B, H, W, 3]. `l` are the network's outputs [B, H, W, 10 K]; `lr`, `lg` and `lb` are those of a
network with channel-wise outputs, [B, H, W, 3 K] each.
"""

import numpy as np

from pixel_snail.backend import tf

MIN_LOG_SCALE = -7.0


def discretized_mix_logistic_log_prob(x: tf.Tensor, l: tf.Tensor) -> tf.Tensor:
    """The log-likelihood of each pixel in nats, [B, H, W]."""
    return _mixture_log_prob(x, *_mixture(x, l))


def discretized_mix_logistic_log_prob_per_chn(x: tf.Tensor, lr: tf.Tensor, lg: tf.Tensor, lb: tf.Tensor) -> tf.Tensor:
    """The same from channel-wise outputs; all channels share the logits in `lr`, as in the original."""
    return _mixture_log_prob(x, *_mixture_per_chn(lr, lg, lb))


def loss_per_image(x: tf.Tensor, outputs: tf.Tensor | tuple) -> tf.Tensor:
    """Minus the log-likelihood of each image in nats, [B], from outputs l or (lr, lg, lb)."""
    if isinstance(outputs, (tuple, list)):
        log_prob = discretized_mix_logistic_log_prob_per_chn(x, *outputs)
    else:
        log_prob = discretized_mix_logistic_log_prob(x, outputs)
    return -tf.reduce_sum(log_prob, [1, 2])


def nats_per_value(x: tf.Tensor, outputs: tf.Tensor | tuple) -> tf.Tensor:
    """Minus the log-likelihood in nats of each channel of each pixel, given the channels before it, [B, H, W, 3].

    The channels share the mixture component and so depend on each other: log p(G | R) = log p(R, G) - log p(R).

    Args:
        outputs: l or (lr, lg, lb).
    """
    is_per_chn = isinstance(outputs, (tuple, list))
    logits, means, log_scales = _mixture_per_chn(*outputs) if is_per_chn else _mixture(x, outputs)
    up_to_channel = tf.cumsum(logistic_log_prob(x[..., None], means, log_scales), -2)
    joint = tf.reduce_logsumexp(up_to_channel + tf.nn.log_softmax(logits)[..., None, :], -1)
    return tf.concat([tf.zeros_like(joint[..., :1]), joint[..., :-1]], -1) - joint


def bits_per_dim(nats, image_shape: tuple[int, ...], images: int = 1):
    """Converts nats, summed over `images` images of `image_shape`, to bits/dim; a dimension is a channel of a pixel."""
    return nats / (np.log(2.0) * np.prod(image_shape) * images)


def bits_per_dim_per_channel(nats: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """Converts the nats of each channel of each image, [N, 3], to bits/dim of that channel, [N, 3]."""
    # A channel has a third of an image's dimensions.
    return 3 * bits_per_dim(nats, image_shape)


def logistic_log_prob(x: tf.Tensor, mean: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
    """The log mass in nats of a logistic distribution on the interval of the 8-bit value x in [-1, 1].

    A mass too small for a difference of sigmoids is approximated by the density at the interval's centre times the
    width. Every branch is finite everywhere, so that a branch not taken puts no NaN into a gradient.
    """
    scale = tf.exp(-log_scale)
    d = x - mean
    upper = scale * (d + 1 / 255)
    lower = scale * (d - 1 / 255)
    centre = scale * d
    delta = tf.sigmoid(upper) - tf.sigmoid(lower)
    density = centre - log_scale - 2 * tf.math.softplus(centre) - np.log(127.5)
    inner = tf.where(delta > 1e-5, tf.math.log(tf.maximum(delta, 1e-12)), density)
    below = upper - tf.math.softplus(upper)
    above = -tf.math.softplus(lower)
    return tf.where(x < -0.999, below, tf.where(x > 0.999, above, inner))


def next_channel(outputs: tf.Tensor | tuple, known: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The mixture of a pixel's next channel: logits, means and log-scales, [..., K] each.

    The logits are those of the pixel, whatever values the known channels have.

    Args:
        outputs: l [..., 10 K], or lr, (lr, lg) or (lr, lg, lb), [..., 3 K] each.
        known: the channels before, in [-1, 1], [..., C] with C from 0 to 2.
    """
    channel = known.shape[-1]
    if isinstance(outputs, (tuple, list)):
        _, mean, log_scale = tf.split(outputs[channel], 3, -1)
        return tf.split(outputs[0], 3, -1)[0], mean, tf.maximum(log_scale, MIN_LOG_SCALE)
    x = tf.concat([known, tf.zeros_like(outputs[..., channel:3])], -1)
    logits, means, log_scales = _mixture(x, outputs)
    return logits, means[..., channel, :], log_scales[..., channel, :]


def probabilities_below(logits: tf.Tensor, mean: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
    """The probabilities that an 8-bit value is below 1, 2, ..., 255: [..., K] -> [..., 255].

    They are the mixture's cumulative distribution at the borders between the values' intervals. So the probabilities of
    the 256 values, which are their differences, sum to one. `logistic_log_prob` approximates tiny masses instead.
    """
    borders = (2 * np.arange(1, 256, dtype=np.float32) - 256) / 255
    below = tf.sigmoid((borders - mean[..., None]) * tf.exp(-log_scale)[..., None])
    return tf.reduce_sum(tf.nn.softmax(logits)[..., None] * below, -2)


def sample_from_discretized_mix_logistic(
    l: tf.Tensor, u_mix: tf.Tensor, u_logistic: tf.Tensor, temperature: float = 1.0
) -> tf.Tensor:
    """Draws pixels in [-1, 1], not rounded to 8 bits, as the original does.

    Args:
        l: [..., 10 K].
        u_mix: uniform random numbers in [0, 1), [..., K], for the choice of the component.
        u_logistic: the same, [..., 3], for the logistic distribution of each channel.
        temperature: scales the noise of both; 0 gives the mean of the likeliest component.

    Returns:
        [..., 3]: R, then G and B, whose means depend on the channels drawn before them.
    """
    logits, means, log_scales, coefficients = _split(l)
    chosen = _choose_component(logits, u_mix, temperature)[..., None, :]
    mean, log_scale, coefficient = (tf.reduce_sum(t * chosen, -1) for t in (means, log_scales, coefficients))
    value = _draw_logistic(mean, log_scale, u_logistic, temperature)
    red = tf.clip_by_value(value[..., 0], -1, 1)
    green = tf.clip_by_value(value[..., 1] + coefficient[..., 0] * red, -1, 1)
    blue = tf.clip_by_value(value[..., 2] + coefficient[..., 1] * red + coefficient[..., 2] * green, -1, 1)
    return tf.stack([red, green, blue], -1)


def sample_channel_from_discretized_mix_logistic(
    lr: tf.Tensor, l: tf.Tensor, u_mix: tf.Tensor, u_logistic: tf.Tensor, temperature: float = 1.0
) -> tf.Tensor:
    """Draws one channel, in [-1, 1], from channel-wise outputs.

    Args:
        lr: the outputs for R, [..., 3 K]; all channels share their logits.
        l: the outputs for this channel, [..., 3 K].
        u_mix: uniform random numbers in [0, 1), [..., K], the same ones for all channels of a pixel.
        u_logistic: uniform random numbers in [0, 1), [...], for this channel.
        temperature: as in sample_from_discretized_mix_logistic.

    Returns:
        [...].
    """
    chosen = _choose_component(tf.split(lr, 3, -1)[0], u_mix, temperature)
    _, means, log_scales = tf.split(l, 3, -1)
    mean, log_scale = (tf.reduce_sum(t * chosen, -1) for t in (means, tf.maximum(log_scales, MIN_LOG_SCALE)))
    return tf.clip_by_value(_draw_logistic(mean, log_scale, u_logistic, temperature), -1, 1)


def _choose_component(logits, u_mix, temperature):
    """A component drawn with probabilities softmax(logits / temperature), by Gumbel noise: one-hot, [..., K]."""
    gumbel = -temperature * tf.math.log(-tf.math.log(_away_from_0_and_1(u_mix)))
    return tf.one_hot(tf.argmax(logits + gumbel, -1), logits.shape[-1])


def _draw_logistic(mean, log_scale, u, temperature):
    u = _away_from_0_and_1(u)
    return mean + temperature * tf.exp(log_scale) * (tf.math.log(u) - tf.math.log(1 - u))


def _split(l):
    """Splits outputs [..., 10 K]: logits [..., K]; means, log-scales (floored) and coefficients, [..., 3, K] each."""
    nr_mix = l.shape[-1] // 10
    logits, rest = tf.split(l, [nr_mix, 9 * nr_mix], -1)
    rest = tf.reshape(rest, [*tf.unstack(tf.shape(l))[:-1], 3, 3 * nr_mix])
    means, log_scales, coefficients = tf.split(rest, 3, -1)
    return logits, means, tf.maximum(log_scales, MIN_LOG_SCALE), tf.tanh(coefficients)


def _mixture(x, l):
    """Logits [..., K], means and log-scales [..., 3, K] from outputs [..., 10 K], given the pixels x [..., 3]."""
    logits, means, log_scales, coefficients = _split(l)
    return logits, means + _shift_by_lower_channels(x[..., None], coefficients), log_scales


def _mixture_per_chn(lr, lg, lb):
    """As _mixture, from channel-wise outputs, whose means already depend on the channels before."""
    logits = tf.split(lr, 3, -1)[0]
    _, means, log_scales = (
        tf.stack(part, -2) for part in zip(*(tf.split(l, 3, -1) for l in (lr, lg, lb)), strict=True)
    )
    return logits, means, tf.maximum(log_scales, MIN_LOG_SCALE)


def _shift_by_lower_channels(x, coefficients):
    """The shifts of the three means by the channels before them, [..., 3, K], from x [..., 3, 1]."""
    red, green = x[..., 0, :], x[..., 1, :]
    c0, c1, c2 = tf.unstack(coefficients, axis=-2)
    return tf.stack([tf.zeros_like(c0), c0 * red, c1 * red + c2 * green], -2)


def _mixture_log_prob(x, logits, means, log_scales):
    channels = logistic_log_prob(x[..., None], means, log_scales)
    return tf.reduce_logsumexp(tf.reduce_sum(channels, -2) + tf.nn.log_softmax(logits), -1)


def _away_from_0_and_1(u):
    return 1e-5 + (1 - 2e-5) * u
