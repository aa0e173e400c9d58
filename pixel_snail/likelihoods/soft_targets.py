"""Soft targets: the loss of images of two levels whose values are drawn with known probabilities.

A binarized value is 1 with the probability p, the brightness of the grey pixel, independently of all other values. So
the mean over its draws of minus its log-likelihood, with the values before it as they were drawn, is

    p nats(1) + (1 - p) nats(0),

where nats(v) is minus the log of the probability that the network predicts for v. The loss of the drawn values has the
same mean, and so has its gradient; but it also varies with each draw.
"""

from collections.abc import Callable

from pixel_snail.backend import tf


def loss_per_image(probabilities: tf.Tensor, outputs: tf.Tensor, nats_per_value: Callable) -> tf.Tensor:
    """The mean of the loss of each image in nats, [B].

    Args:
        probabilities: those with which each value is 1, float32 [B, H, W, 1].
        outputs: the network's, [B, H, W, ...], for the drawn values.
        nats_per_value: of the network's likelihood, such as logistic_mixture.nats_per_value.
    """
    black, white = (nats_per_value(tf.fill(tf.shape(probabilities), value), outputs, 2) for value in (-1.0, 1.0))
    return tf.reduce_sum(probabilities * white + (1 - probabilities) * black, [1, 2, 3])
