"""The categorical likelihood of codes: likelihood and sampling of pixels, as pure functions.

Codes, such as those of a VQ-VAE, are integers from 0 to L - 1 without an order. A network predicts a logit for each of
them, and softmax turns the logits into probabilities. Images have one channel.

Shapes: `x` are images [B, H, W, 1] of codes scaled to [-1, 1], as all images are. `l` are the network's outputs, logits
[B, H, W, L]. `levels` is L.
"""

from pixel_snail.backend import tf
from pixel_snail.likelihoods import values


def nats_per_value(x: tf.Tensor, l: tf.Tensor, levels: int) -> tf.Tensor:
    """Minus the log-likelihood of each code in nats, [B, H, W, 1]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(values.nearest(x[..., 0], levels), l)[..., None]


def nats_and_right(x: tf.Tensor, l: tf.Tensor, levels: int) -> tf.Tensor:
    """The nats of each code, and whether it is the likeliest by its prediction, 1 or 0: [B, H, W, 2]."""
    is_right = tf.argmax(l, -1, tf.int32) == values.nearest(x[..., 0], levels)
    return tf.concat([nats_per_value(x, l, levels), tf.cast(is_right, tf.float32)[..., None]], -1)


def loss_per_image(x: tf.Tensor, l: tf.Tensor, levels: int) -> tf.Tensor:
    """Minus the log-likelihood of each image in nats, [B]."""
    return tf.reduce_sum(nats_per_value(x, l, levels), [1, 2, 3])


def sample(
    l: tf.Tensor,
    u: tf.Tensor,
    levels: int,
    temperature: float | tf.Tensor = 1.0,
    top_k: int | tf.Tensor | None = None,
    top_p: float | tf.Tensor | None = None,
) -> tf.Tensor:
    """Draws codes: each is the first whose cumulative probability exceeds the random number.

    Args:
        l: logits [..., L].
        u: uniform random numbers in [0, 1), [...].
        levels: L.
        temperature: divides the logits; 0 gives the likeliest code.
        top_k: the k likeliest codes are kept, and those that are as likely as the last of them. None: all codes are
            kept, and top_p is not used.
        top_p: of the codes that top_k keeps, the fewest likeliest ones are kept whose share of the probability is at
            least this.

    Returns:
        The codes scaled to [-1, 1], [...]; NaN where a logit is not finite, so that the caller can report it.
    """
    largest = tf.reduce_max(l, -1, keepdims=True)
    # Divided by 0, the largest logits would become NaN.
    probabilities = tf.nn.softmax((l - largest) / tf.maximum(temperature, 1e-30))
    if top_k is not None:
        probabilities = _likeliest(probabilities, top_k, top_p)
    below = tf.cumsum(probabilities, -1)
    total = below[..., -1:]
    # Rounding may make u * total equal to the total, which no cumulative probability exceeds. Then the last code with a
    # probability above 0 is drawn.
    is_passed = (below <= u[..., None] * total) & (below < total)
    code = tf.reduce_sum(tf.cast(is_passed, tf.int32), -1)
    is_finite = tf.reduce_all(tf.math.is_finite(l), -1)
    return tf.where(is_finite, values.as_numbers(tf.minimum(code, levels - 1), levels), float("nan"))


def _likeliest(probabilities, top_k, top_p):
    """The probabilities of the codes that top_k and top_p keep; 0 for the others."""
    descending = tf.sort(probabilities, direction="DESCENDING")
    is_in_k = tf.range(descending.shape[-1]) < top_k
    of_k = tf.where(is_in_k, descending, 0.0)
    before = tf.cumsum(of_k, -1, exclusive=True) / tf.reduce_sum(of_k, -1, keepdims=True)
    kept = is_in_k & (before < top_p)
    least = tf.reduce_min(tf.where(kept, descending, 1.0), -1, keepdims=True)
    return tf.where(probabilities >= least, probabilities, 0.0)
