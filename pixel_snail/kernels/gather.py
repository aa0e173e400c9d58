"""Rows of a table, with a dense gradient."""

from pixel_snail.backend import tf
from pixel_snail.kernels.gradients import custom_gradient


def rows(table: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """The rows of a table [L, E] with these numbers, integers [...]: [..., E].

    The gradient of tf.gather is a tf.IndexedSlices, which can't be summed over micro-batches.
    """

    @custom_gradient
    def differentiable(table):
        def gradient(d_rows):
            flat = tf.reshape(d_rows, [-1, table.shape[-1]])
            return tf.math.unsorted_segment_sum(flat, tf.reshape(numbers, [-1]), table.shape[0])

        return tf.gather(table, numbers), gradient

    return differentiable(table)
