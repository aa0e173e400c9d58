"""Packs hundreds of small tensors into one vector: TensorFlow takes longer to hand them over than to copy them."""

from pixel_snail.backend import tf
from pixel_snail.kernels.xla import is_large


def pack(nest: object) -> list[tf.Tensor]:
    """Packs a nest of tensors: a vector of the elements of all small tensors, if there are any, then the large ones.

    Only float32 tensors go into the vector.
    """
    tensors = tf.nest.flatten(nest)
    small = [tf.reshape(tensor, [-1]) for tensor in tensors if _is_packed(tensor)]
    others = [tensor for tensor in tensors if not _is_packed(tensor)]
    return [tf.concat(small, 0), *others] if small else others


def unpack(packed: list[tf.Tensor], like: object) -> object:
    """The nest that `pack` was given; `like` is a nest of tensors of the same shapes and types."""
    tensors = tf.nest.flatten(like)
    shapes = [tensor.shape for tensor in tensors if _is_packed(tensor)]
    others = iter(packed)
    pieces = tf.split(next(others), [shape.num_elements() for shape in shapes]) if shapes else []
    small = iter([tf.reshape(piece, shape) for piece, shape in zip(pieces, shapes, strict=True)])
    return tf.nest.pack_sequence_as(like, [next(small if _is_packed(tensor) else others) for tensor in tensors])


def _is_packed(tensor):
    return tensor.dtype == tf.float32 and not is_large(tensor.shape)
