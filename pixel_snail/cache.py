"""The cache for drawing images pixel by pixel: it keeps features, so that each pixel's features are computed once.

An image is drawn row by row, and the network is called in two ways:

- The pass over a row computes the stream u, [B, 1, W, C], which sees the rows above only. The stream ul is None.
- Then each of W steps computes the stream ul of one pixel, [B, C]. A causal convolution adds the contribution of the
  row above, which is in the cache, to that of the pixel on the left and the pixel itself. Attention reads the keys and
  values of the pixels before. After the pixel is drawn, its own key and value are added to them.

Variables keep the state between rows. Batches that are computed at once have variables of their own; `use` makes a
cache work on those of one batch. The state between the steps of a row is `loop`, a nest of tensors that tf.while_loop
carries from step to step. In this module a row is [W, B, C]: a pixel's features are contiguous in memory.

A network may have smaller maps, whose cache is `inner`. The next smaller map has a new row in even rows only, and a new
pixel in their even columns. tf.cond decides this inside the compiled function.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from pixel_snail import nn
from pixel_snail.backend import keras, tf
from pixel_snail.blocks import residual_blocks
from pixel_snail.errors import UserError
from pixel_snail.kernels.attention import HIDDEN
from pixel_snail.weights import described, layers_in


@runtime_checkable
class CausalConvolution(Protocol):
    """The methods of a causal convolution of the stream ul that a cache needs; nn.down_right_shifted_conv2d has them.

    The output at a pixel must be the sum of two contributions: of the inputs in the row above, and of the inputs at the
    pixel on the left and at the pixel itself. The layer's `call(x, cache=None)` must return
    `cache.look_back(self, x)` if there is a cache.
    """

    input_channels: int
    """C, once the layer is built."""

    def above(self, row: tf.Tensor) -> tf.Tensor:
        """The contribution [W, B, F] of a row of inputs [W, B, C] to the outputs of the row below it, bias included."""

    def here(self, left: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """The contribution [B, F] of the inputs [B, C] at the pixel on the left and at the pixel itself."""


class Cache:
    """The cache of the layers that work at one size of map.

    Args:
        layers_by_size: the layers of each size of map, from this size down; each size is half the one before.
        batch, height, width: B, H, W of the maps of this size.
        filters: F.

    Raises:
        UserError: a convolution lacks a method of CausalConvolution.

    Attributes:
        inner: the cache of the next smaller size; None at the smallest.
        in_row: True during the pass over a row, False during a step.
        y: the row.
        x: the column of a step.
        row_values: what the pass over the row has computed, [W, B, F] each, by the layer or name that needs it.
    """

    def __init__(
        self, layers_by_size: Sequence[Sequence[keras.layers.Layer]], batch: int, height: int, width: int, filters: int
    ):
        layers = [layer for part in layers_by_size[0] for layer in layers_in(part)]
        for resnet in residual_blocks(*layers_by_size[0]):
            for conv in (resnet.conv_in, resnet.conv_out):
                _check_causal(conv)
        self.convs = [layer for layer in layers if isinstance(layer, CausalConvolution)]
        self.channels = [conv.input_channels for conv in self.convs]
        self.batch, self.height, self.width = batch, height, width
        self.inputs_above = _zeros(width, batch, sum(self.channels))
        self.rows_before = {
            layer: _zeros(batch, 1, width, layer.input_channels)
            for layer in layers
            if isinstance(layer, nn.down_shifted_conv2d)
        }
        self.inner = None
        if len(layers_by_size) > 1:
            self.inner = Cache(layers_by_size[1:], batch, height // 2, width // 2, filters)
            self.inner_u = _zeros(batch, 1, width // 2, filters)
            self.inner_ul = _zeros(width // 2, batch, filters)

    @property
    def variables(self) -> list[tf.Variable]:
        """The state between rows."""
        own = [self.inputs_above, *self.rows_before.values()]
        return own if self.inner is None else [*own, self.inner_u, self.inner_ul, *self.inner.variables]

    def use(self, variables: Iterator[tf.Variable]) -> None:
        """Keeps the state between rows in these variables from now on, instead of those that the cache has made.

        Args:
            variables: of the shapes of `variables`, in their order.
        """
        self.inputs_above = next(variables)
        self.rows_before = {layer: next(variables) for layer in self.rows_before}
        if self.inner is not None:
            self.inner_u, self.inner_ul = next(variables), next(variables)
            self.inner.use(variables)

    @property
    def nbytes(self) -> int:
        """The size of the variables in bytes."""
        return sum(4 * variable.shape.num_elements() for variable in self.variables)

    # The pass over a row

    def begin_row(self, y: tf.Tensor) -> None:
        """Begins the pass over row y of maps of this size."""
        self.set_row(y)
        self.begin_pass()

    def set_row(self, y: tf.Tensor) -> None:
        """Sets the row, at this size and at the smaller ones."""
        self.y = y
        if self.inner is not None:
            self.inner.set_row(y // 2)

    def begin_pass(self) -> None:
        """Begins the pass over the row that is set, at this size only."""
        self.in_row, self.row_values = True, {}
        inputs = tf.split(self.inputs_above, self.channels, -1) if self.convs else []
        for conv, row in zip(self.convs, inputs, strict=True):
            self.row_values[conv] = conv.above(row)

    def once_a_row(self, name: object, compute: Callable[[], tf.Tensor]) -> tf.Tensor:
        """Computes a value once a row.

        Returns:
            In the pass over a row, compute(), [B, 1, W, C]; in a step, the pixel's part of that row, [B, C].
        """
        if not self.in_row:
            return tf.gather(self.row_values[name], self.x)
        row = compute()
        self.row_values[name] = tf.transpose(row[:, 0], [1, 0, 2])
        return row

    def row_before(self, layer: keras.layers.Layer, row: tf.Tensor) -> tf.Tensor:
        """Stores a layer's input row, [B, 1, W, C], and returns its input row of the pass before."""
        before = tf.identity(self.rows_before[layer])
        self.rows_before[layer].assign(row)
        return before

    def values_of_row(self) -> list[tf.Tensor]:
        """The values of `row_values`, at this size and at the smaller ones."""
        return [*self.row_values.values(), *([] if self.inner is None else self.inner.values_of_row())]

    def set_values_of_row(self, values: Iterator[tf.Tensor]) -> None:
        """Replaces the values that `values_of_row` returns."""
        for name in self.row_values:
            self.row_values[name] = next(values)
        if self.inner is not None:
            self.inner.set_values_of_row(values)

    # The steps

    def end_row_pass(self) -> dict:
        """Ends the pass over the row; returns the `loop` of the first step."""
        self.in_row = False
        return self.first_loop()

    def first_loop(self) -> dict:
        """The `loop` of a row's first step."""
        loop = {}
        if self.convs:
            loop["left"] = tf.zeros([self.batch, sum(self.channels)])
            loop["inputs"] = _rows(self.width, self.batch, sum(self.channels))
        if self.inner is not None:
            loop["inner"] = self.inner.first_loop()
            loop["inner_row"] = _rows(self.width // 2, *self.inner_ul.shape[1:])
            loop["inner_pixel"] = tf.zeros(self.inner_ul.shape[1:])
        return loop

    def begin_step(self, x: tf.Tensor, loop: dict) -> None:
        """Begins the step of column x in maps of this size."""
        self.set_column(x)
        self.set_loop(loop)

    def set_column(self, x: tf.Tensor) -> None:
        """Sets the column, at this size and at the smaller ones."""
        self.x = x
        if self.inner is not None:
            self.inner.set_column(x // 2)

    def set_loop(self, loop: dict) -> None:
        """Takes the `loop` of the step before, at this size only."""
        self.loop = dict(loop)
        left = tf.split(loop["left"], self.channels, -1) if self.convs else []
        self.left, self.inputs = dict(zip(self.convs, left, strict=True)), {}

    def look_back(self, conv: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
        """The output [B, F] of a causal convolution at this pixel; x [B, C] is its input at this pixel."""
        self.inputs[conv] = x
        return tf.gather(self.row_values[conv], self.x) + conv.here(self.left[conv], x)

    def of_inner(
        self, compute: Callable[[], tuple[tf.Tensor | None, tf.Tensor | None]]
    ) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """The outputs of the next smaller size here, each of which serves two rows, or 2 x 2 pixels, of this size.

        Args:
            compute: computes these outputs with the cache `inner`. It is called if the smaller map has a new row here
                or, in a step, a new pixel.

        Returns:
            In the pass over a row, (None, u [B, 1, W / 2, F]); in a step, (ul [B, F], None).
        """
        if self.in_row:
            self._compute_inner_row(compute)
            return None, tf.identity(self.inner_u)
        return self._inner_pixel(compute), None

    @property
    def _inner_has_row(self):
        return self.y % 2 == 0

    def _compute_inner_row(self, compute):
        def new_row():
            self.inner.begin_pass()
            _, u = compute()
            self.inner_u.assign(u)
            self.inner.in_row = False
            return self.inner.values_of_row()

        def no_row():
            return [tf.zeros(value.shape) for value in self.inner.values_of_row()]

        # A choice inside the compiled function: to compile rows and columns of every kind takes five times as long.
        values = tf.cond(self._inner_has_row, new_row, no_row)
        self.inner.set_values_of_row(iter(values))

    def _inner_pixel(self, compute):
        loop = self.loop
        names = ("inner", "inner_row", "inner_pixel")

        def new_pixel():
            self.inner.set_loop(loop["inner"])
            ul, _ = compute()
            return self.inner.end_step(), loop["inner_row"].write(self.inner.x, ul), ul

        has_pixel = self._inner_has_row & (self.x % 2 == 0)
        self.loop |= zip(names, tf.cond(has_pixel, new_pixel, lambda: tuple(loop[name] for name in names)), strict=True)
        return tf.where(self._inner_has_row, self.loop["inner_pixel"], tf.gather(self.inner_ul, self.inner.x))

    def end_step(self) -> dict:
        """Ends the step; returns the `loop` of the next one."""
        loop = self.loop
        if self.convs:
            # One tensor: the loop copies every tensor that it carries, and each copy costs a start.
            loop["left"] = tf.concat([self.inputs[conv] for conv in self.convs], -1)
            loop["inputs"] = loop["inputs"].write(self.x, loop["left"])
        return loop

    def end_row(self, loop: dict) -> None:
        """Stores the state for the next row. `loop` is that of the last step."""
        if self.convs:
            self.inputs_above.assign(loop["inputs"].stack())
        if self.inner is not None:

            def store():
                self.inner.end_row(loop["inner"])
                self.inner_ul.assign(loop["inner_row"].stack())
                return True

            tf.cond(self._inner_has_row, store, lambda: True)


class ImageCache(Cache):
    """The cache of a whole network: for the layers at the image's size, the attention blocks, and the image itself.

    Args:
        layers_by_size, batch, height, width, filters: as in Cache.
        attentions: the attention blocks.
        background: the coordinates, [1, H, W, 2 C], if the network uses them.
        channels: C, of the embedded image.
    """

    def __init__(
        self,
        layers_by_size,
        batch,
        height,
        width,
        filters,
        attentions=(),
        background: tf.Tensor | None = None,
        channels: int = 3,
    ):
        super().__init__(layers_by_size, batch, height, width, filters)
        self.image_channels = channels
        self.memories = {block: _Memory(block, batch, height, width) for block in attentions}
        self.background = background
        # The two rows above, with their channel of ones, and a column of zeros on either side.
        self.pixels_above = _zeros(batch, 2, width + 2, channels + 1)

    @property
    def variables(self) -> list[tf.Variable]:
        of_memories = [v for memory in self.memories.values() for v in (memory.past, memory.cells, memory.mixed)]
        return [*super().variables, self.pixels_above, *of_memories]

    def use(self, variables: Iterator[tf.Variable]) -> None:
        super().use(variables)
        self.pixels_above = next(variables)
        for memory in self.memories.values():
            memory.past, memory.cells, memory.mixed = next(variables), next(variables), next(variables)

    def advance(self, y: tf.Tensor) -> None:
        """Stores the keys and values of the row above. Must be called before `begin_row`.

        The call is outside of the compiled function that draws a row, so that TensorFlow writes in place.
        """
        for memory in self.memories.values():
            memory.advance(y)

    def begin_row(self, y: tf.Tensor) -> None:
        super().begin_row(y)
        for memory in self.memories.values():
            memory.begin_row(y)

    def position(self) -> tf.Tensor:
        """The coordinates of the row, [B, 1, W, 2 C]; in a step, of the pixel, [B, 2 C]."""

        def compute():
            row = tf.gather(self.background, [self.y], axis=1)
            return tf.broadcast_to(row, [self.batch, *row.shape[1:]])

        return self.once_a_row("position", compute)

    def down_shifted(self, conv: keras.layers.Layer) -> tf.Tensor:
        """A convolution of the image, its output moved down by a row: [B, 1, W, F], in a step [B, F]."""

        def compute():
            return tf.where(self.y > 0, conv(self.pixels_above[:, :, 1:-1])[:, -1:], 0)

        return self.once_a_row(conv, compute)

    def right_shifted(self, conv: keras.layers.Layer) -> tf.Tensor:
        """A convolution of the image, its output moved right by a column, at this pixel: [B, F]."""
        return tf.where(self.x > 0, conv(self.around()[:, :, :1])[:, 1, 0], 0)

    def around(self) -> tf.Tensor:
        """The image at rows y - 1 and y and columns x - 1 to x + 1, with its channel of ones, [B, 2, 3, C + 1].

        This pixel, [:, 1, 1], and the next pixel on its right are zeros, because they are not drawn yet.
        """
        above = tf.slice(self.pixels_above[:, 1], [0, self.x, 0], [-1, 3, -1])
        here = tf.pad(self.loop["pixel"][:, None], [[0, 0], [0, 2], [0, 0]])
        return tf.stack([above, here], 1)

    def end_row_pass(self) -> dict:
        loop = super().end_row_pass()
        loop["pixel"] = tf.zeros([self.batch, self.image_channels + 1])
        loop["pixels"] = _rows(self.width, self.batch, self.image_channels + 1)
        loop["memories"] = [memory.end_row_pass() for memory in self.memories.values()]
        return loop

    def begin_step(self, x: tf.Tensor, loop: dict) -> None:
        super().begin_step(x, loop)
        for memory, state in zip(self.memories.values(), loop["memories"], strict=True):
            memory.begin_step(x, state)
        self.waiting = {}

    def remember_later(self, block: keras.layers.Layer, make: Callable[[tf.Tensor], tf.Tensor]) -> None:
        """Adds this pixel's key and value to the block's memory once the pixel is drawn.

        Args:
            make: a function that computes the key and value, [B, D + M], from the embedded pixel [B, C].
        """
        self.waiting[block] = make

    def look_up(self, block: keras.layers.Layer, make_query: Callable[[], tf.Tensor]) -> tf.Tensor:
        """The result of the block's attention at this pixel, [B, M]; make_query computes its query, [B, D]."""
        return self.memories[block].look_up(make_query)

    def end_step_with(self, pixel: tf.Tensor) -> dict:
        """Ends the step, with the embedded pixel [B, C] that was drawn; returns the `loop` of the next step."""
        for block, make in self.waiting.items():
            self.memories[block].remember(make(pixel))
        loop = self.end_step()
        loop["memories"] = [memory.loop for memory in self.memories.values()]
        loop["pixel"] = tf.concat([pixel, tf.ones([self.batch, 1])], -1)
        loop["pixels"] = loop["pixels"].write(self.x, loop["pixel"])
        return loop

    def end_row(self, loop: dict) -> None:
        super().end_row(loop)
        for memory, state in zip(self.memories.values(), loop["memories"], strict=True):
            memory.end_row(state)
        row = tf.transpose(loop["pixels"].stack(), [1, 0, 2])
        self.pixels_above.assign(tf.stack([self.pixels_above[:, 1], tf.pad(row, [[0, 0], [1, 1], [0, 0]])], 1))


class _Memory:
    """The keys and values of the pixels drawn so far, in an attention block.

    They are pooled over cells of size x size pixels. Coarse attention (hier > 1) pools by the mean, and computes one
    result for each cell. Otherwise (downsample), they are pooled by the maximum, over 2 x 2 pixels at most: with larger
    cells, the padding SAME would put zeros before the first cell.

    Attributes:
        past: the cells of all rows of cells, [B, N, D + M]; queries see the complete rows.
        cells: the row of cells that is being drawn, [B, W / size, D + M].
        mixed: the results of coarse attention in that row, [B, W / size, M], computed at the first pixel of each cell.
    """

    def __init__(self, block, batch, height, width):
        self.size = max(block.hier, block.downsample)
        self.is_coarse = block.hier > 1
        self.key_channels = block.key_channels
        self.height, self.width = height, width
        self.columns = -(-width // self.size)
        channels = block.key_mixin.nin.num_filters
        self.past = _zeros(batch, -(-height // self.size) * self.columns, channels)
        self.cells = _zeros(batch, self.columns, channels)
        self.mixed = _zeros(batch, self.columns, channels - self.key_channels)

    def advance(self, y):
        rows = y // self.size  # complete rows of cells
        # If the row of cells is not complete yet, no query sees it, and the next call writes it again.
        slot = tf.maximum(tf.where(y % self.size == 0, rows - 1, rows), 0) * self.columns
        self.past[:, slot : slot + self.columns].assign(self.cells)

    def begin_row(self, y):
        self.y = y
        self.is_first_row = y % self.size == 0
        self.past_key, self.past_mixin = self._split(self.past)
        number = self.past.shape[1]
        self.past_visible = tf.range(number) < y // self.size * self.columns

    def end_row_pass(self):
        empty = tf.fill(self.cells.shape, 0.0 if self.is_coarse else HIDDEN)
        loop = {"cells": self._split(tf.where(self.is_first_row, empty, self.cells))}
        return loop | {"mixed": tf.identity(self.mixed)} if self.is_coarse else loop

    def begin_step(self, x, loop):
        self.x, self.loop = x, dict(loop)
        self.here = (tf.range(self.columns) == x // self.size)[None, :, None]

    def remember(self, key_mixin):
        """Adds the key and value of this pixel, [B, D + M], to its cell."""
        pairs = zip(self.loop["cells"], self._split(key_mixin[:, None]), strict=True)
        self.loop["cells"] = tuple(tf.where(self.here, self._pooled(cells, new), cells) for cells, new in pairs)

    def _pooled(self, cells, new):
        return cells + new / self.size**2 if self.is_coarse else tf.maximum(cells, new)

    def look_up(self, make_query):
        """The result of the attention at this pixel, [B, M]."""
        if not self.is_coarse:
            return self._attend(make_query())
        mixed = tf.cond(
            self.is_first_row & (self.x % self.size == 0),
            lambda: self._attend(make_query()),
            lambda: tf.gather(self.loop["mixed"], self.x // self.size, axis=1),
        )
        self.loop["mixed"] = tf.where(self.here, mixed[:, None], self.loop["mixed"])
        return mixed

    def end_row(self, loop):
        self.cells.assign(tf.concat(loop["cells"], -1))
        if self.is_coarse:
            self.mixed.assign(loop["mixed"])

    def _attend(self, query):
        """nn.causal_attention of one query: [B, D] -> [B, M]."""
        query = query[:, None] / self.key_channels**0.5
        seen = [(self.past_visible, self.past_key, self.past_mixin)]
        if not self.is_coarse:  # coarse attention sees the rows of cells above only
            # A cell is complete after the last of its rows and of its columns.
            last_row = tf.minimum(self.y // self.size * self.size + self.size, self.height) - 1
            last_columns = tf.minimum((tf.range(self.columns) + 1) * self.size, self.width) - 1
            seen.append(((self.y == last_row) & (last_columns < self.x), *self.loop["cells"]))
        logits = [tf.where(visible, tf.matmul(query, key, transpose_b=True), HIDDEN) for visible, key, _ in seen]
        largest = self._over_cells(tf.reduce_max, tf.maximum, logits)
        # The original's formula: a softmax, but for 1e-6 in its denominator. After the product, there are M numbers to
        # divide; before it, N.
        exponentials = [tf.exp(part - largest[:, None, None]) for part in logits]
        total = self._over_cells(tf.reduce_sum, tf.add, exponentials)
        mixed = sum(tf.matmul(part, mixin) for part, (_, _, mixin) in zip(exponentials, seen, strict=True))
        return tf.where(largest[:, None] > HIDDEN, mixed[:, 0] / (total[:, None] + 1e-6), 0)

    def _over_cells(self, reduce, combine, parts):
        """Reduces values of cells, [B, 1, N] for each part, to [B].

        It does so over rows, then over columns: XLA splits a long reduction into several slow operations.
        """
        rows = [reduce(tf.reshape(part, [part.shape[0], -1, self.columns]), 1) for part in parts]
        return reduce(functools.reduce(combine, rows), 1)

    def _split(self, key_mixin):
        return key_mixin[..., : self.key_channels], key_mixin[..., self.key_channels :]


def _check_causal(conv):
    """Raises UserError unless a convolution of a residual step can be called with a cache."""
    if isinstance(conv, nn.down_shifted_conv2d):  # of the stream u
        return
    lacking = [name for name in ("input_channels", "above", "here") if not hasattr(conv, name)]
    if "cache" not in inspect.signature(type(conv).call).parameters:
        lacking.append("call(x, cache=None)")
    if lacking:
        raise UserError(
            f"{described(conv)} can't be computed pixel by pixel, to draw or compress images: it lacks "
            f"{', '.join(lacking)}; see pixel_snail.cache.CausalConvolution"
        )


def _zeros(*shape):
    return tf.Variable(tf.zeros(shape), trainable=False)


def _rows(width, batch, channels):
    return tf.TensorArray(tf.float32, width, element_shape=[batch, channels])
