"""Attention of some queries over some keys, with a gradient that keeps only the probabilities."""

from pixel_snail.backend import tf
from pixel_snail.kernels import elementwise
from pixel_snail.kernels.gradients import custom_gradient

HIDDEN = -1e30
"""The logit of a hidden key: its probability is 0."""


def attend(key: tf.Tensor, mixin: tf.Tensor, query: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
    """nn.causal_attention of some queries, [B, Q, M].

    Args:
        key: [B, N, D].
        mixin: the values, [B, N, M].
        query: [B, Q, D], already divided by sqrt(D).
        visible: which keys each query sees, booleans [Q, N].
    """
    sees_any = tf.reduce_any(visible, -1, keepdims=True)

    @custom_gradient
    def differentiable(key, mixin, query):
        logits = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
        softmax = tf.nn.softmax(logits + tf.where(visible, 0.0, HIDDEN))
        factor = tf.cast(softmax_correction(softmax, sees_any), mixin.dtype)
        probabilities = tf.cast(softmax, mixin.dtype)
        mixed = factor * tf.matmul(probabilities, mixin)

        def gradient(d_mixed):
            d_product = factor * d_mixed
            d_logits = elementwise.softmax_gradient(
                probabilities,
                tf.matmul(d_product, mixin, transpose_b=True),
                tf.reduce_sum(tf.cast(mixed * d_mixed, tf.float32), -1, keepdims=True),
            )
            return (
                tf.matmul(d_logits, query, transpose_a=True),
                tf.matmul(probabilities, d_product, transpose_a=True),
                tf.matmul(d_logits, key),
            )

        return mixed, gradient

    return differentiable(key, mixin, query)


def softmax_correction(softmax: tf.Tensor, sees_any: tf.Tensor) -> tf.Tensor:
    """The factor between a softmax over visible keys, [..., N], and the original's probabilities: [..., 1].

    The original divides exp(logit - max) by (sum + 1e-6). The largest element of exp(logit - max) is 1, so the
    softmax's largest is 1 / sum, and the factor is sum / (sum + 1e-6). It varies by less than 1e-6 and needs no
    gradient. Where a query sees no key, it is 0.
    """
    largest = tf.reduce_max(softmax, -1, keepdims=True)
    return tf.where(sees_any, 1 / (1 + 1e-6 * largest), 0)
