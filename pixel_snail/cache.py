"""What drawing a pixel needs of the pixels before it, so that each pixel's features are computed once.

An image is drawn row by row. A row begins with a pass of the network over maps of that row, [B, 1, W, C]: the stream
u, which sees the rows above only, is computed for all of the row, while the stream ul is None. Then come W steps, with
features of one pixel, [B, C], in which layers that look back are given the cache: convolutions find what their
filter's other parts made of the pixels above and to the left, attention finds the keys and values so far. A pixel's own
key waits until the pixel has been drawn.

Between rows, what is kept lies in variables; between the steps of a row, in a nest of tensors, `loop`, which the loop
over the pixels carries along. Inside, a row is [W, B, C]: a pixel of it is one piece of memory.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from pixel_snail import nn

_HIDDEN = -1e30


class Cache:
    """The cache of the layers that work at one size of map.

    Args:
        parts: of each size, from this one down by halves, the layers that work at it.
        batch, height, width: of the maps of this size.
        filters: F.
    """

    def __init__(
        self, parts: Sequence[Sequence[keras.layers.Layer]], batch: int, height: int, width: int, filters: int
    ):
        layers = [layer for part in parts[0] for layer in part._flatten_layers()]
        self.convs = [layer for layer in layers if hasattr(layer, "left_and_here")]
        self.channels = [conv.input_channels for conv in self.convs]
        self.batch, self.height, self.width = batch, height, width
        self.inputs_above = _zeros(width, batch, sum(self.channels))
        self.rows_before = {
            layer: _zeros(batch, 1, width, layer.input_channels)
            for layer in layers
            if isinstance(layer, nn.down_shifted_conv2d)
        }
        self.inner = None
        if len(parts) > 1:
            self.inner = Cache(parts[1:], batch, height // 2, width // 2, filters)
            self.kept_u = _zeros(batch, 1, width // 2, filters)
            self.kept_ul = _zeros(width // 2, batch, filters)

    def reset(self) -> None:
        """Forgets all: the next row is an image's first."""
        for variable in self.variables:
            variable.assign(tf.zeros(variable.shape))

    @property
    def variables(self) -> list[tf.Variable]:
        """All that is kept between rows."""
        own = [self.inputs_above, *self.rows_before.values()]
        return own if self.inner is None else [*own, self.kept_u, self.kept_ul, *self.inner.variables]

    @property
    def nbytes(self) -> int:
        return sum(4 * variable.shape.num_elements() for variable in self.variables)

    # The pass over a row

    def begin_row(self, y: tf.Tensor, phase: int) -> None:
        """Begins the pass over row y, of this size of map; phase is y, modulo a power of two: it decides which smaller
        maps have a row here, and is known when the graph is traced."""
        self.in_row, self.y, self.row_phase = True, y, phase
        self.row_values = {}
        inputs = tf.split(self.inputs_above, self.channels, -1) if self.convs else []
        for conv, row in zip(self.convs, inputs, strict=True):
            self.row_values[conv] = conv.above(row)
        if self.inner is not None and self._inner_row_is_due:
            self.inner.begin_row(y // 2, phase // 2)

    @property
    def _inner_row_is_due(self):
        return self.row_phase % 2 == 0

    @property
    def inner_is_due(self) -> bool:
        """Whether the next smaller map has a row here or, in a step, a pixel."""
        return self._inner_row_is_due and (self.in_row or self.column_phase % 2 == 0)

    def of_row(self, name: object, compute: Callable[[], tf.Tensor]) -> tf.Tensor:
        """What is computed once a row, [B, 1, W, C]; in a step, the pixel's part of it, [B, C]."""
        if not self.in_row:
            return self.pieces[name]
        row = compute()
        self.row_values[name] = tf.transpose(row[:, 0], [1, 0, 2])
        return row

    def row_before(self, layer: keras.layers.Layer, row: tf.Tensor) -> tf.Tensor:
        """What the layer was given as `row` in the pass before this one; what it is given now comes in the next."""
        before = tf.identity(self.rows_before[layer])
        self.rows_before[layer].assign(row)
        return before

    # The steps

    def begin_steps(self) -> dict:
        """Ends the pass over the row; returns the `loop` that the first step finds."""
        self.in_row = False
        # The convolutions' come first: what lies to the left is added to theirs.
        self.sizes = [value.shape[-1] for value in self.row_values.values()]
        self.row = tf.concat(list(self.row_values.values()), -1)
        loop = {}
        if self.convs:
            loop["left"] = tf.zeros([self.batch, sum(self.sizes[: len(self.convs)])])
            loop["inputs"] = _rows(self.width, self.batch, sum(self.channels))
        if self.inner is not None and self._inner_row_is_due:
            loop["inner"] = self.inner.begin_steps()
            loop["kept"] = _rows(self.width // 2, *self.kept_ul.shape[1:])
        return loop

    def begin_step(self, x: tf.Tensor, phase: int, loop: dict) -> None:
        """Begins the step of column x, of this size of map; phase is to x what the row's is to y."""
        self.x, self.column_phase, self.loop = x, phase, dict(loop)
        of_convs = len(self.convs)
        above, others = tf.split(tf.gather(self.row, x), [sum(self.sizes[:of_convs]), -1], -1)
        values = tf.split(above + loop["left"], self.sizes[:of_convs], -1) if of_convs else []
        values += tf.split(others, self.sizes[of_convs:], -1) if len(self.sizes) > of_convs else []
        self.pieces = dict(zip(self.row_values, values, strict=True))
        self.left, self.inputs = {}, {}
        if self.inner is not None and self.inner_is_due:
            self.inner.begin_step(x // 2, phase // 2, loop["inner"])

    def look_back(self, conv: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
        """The output [B, F] of a causal convolution at this pixel, whose features [B, C] are x."""
        self.inputs[conv] = x
        self.left[conv], here = conv.left_and_here(x)
        return self.pieces[conv] if here is None else self.pieces[conv] + here

    def keep(self, ul: tf.Tensor | None, u: tf.Tensor | None) -> None:
        """Keeps what the next smaller map has here, for all pixels of this one that lie in its pixel."""
        if self.in_row:
            self.kept_u.assign(u)
        else:
            self.kept_here = ul
            self.loop["kept"] = self.loop["kept"].write(self.inner.x, ul)

    def kept(self) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """(ul, u): u in the pass over a row, [B, 1, W / 2, F], and ul in a step, [B, F]."""
        if self.in_row:
            return None, tf.identity(self.kept_u)
        # In a row that the smaller map has too, its pixel was computed in this step or in the one before.
        return (self.kept_here if self._inner_row_is_due else tf.gather(self.kept_ul, self.x // 2)), None

    def end_step(self) -> dict:
        """Returns the `loop` that the next step finds."""
        loop = self.loop
        if self.convs:
            loop["left"] = tf.concat([self.left[conv] for conv in self.convs], -1)
            loop["inputs"] = loop["inputs"].write(self.x, tf.concat([self.inputs[conv] for conv in self.convs], -1))
        if self.inner is not None and self.inner_is_due:
            loop["inner"] = self.inner.end_step()
        return loop

    def end_row(self, loop: dict) -> None:
        """Stores what the rows below need."""
        if self.convs:
            self.inputs_above.assign(loop["inputs"].stack())
        if self.inner is not None and self._inner_row_is_due:
            self.inner.end_row(loop["inner"])
            self.kept_ul.assign(loop["kept"].stack())


class ImageCache(Cache):
    """The cache of a whole network: of the layers at the image's size, of its attention, and of the image itself.

    Args:
        parts, batch, height, width, filters: Cache's.
        attentions: the attention blocks.
        background: the coordinates, [1, H, W, 6], if the network sees any.
    """

    def __init__(self, parts, batch, height, width, filters, attentions=(), background: tf.Tensor | None = None):
        super().__init__(parts, batch, height, width, filters)
        self.memories = {block: _Memory(block, batch, height, width) for block in attentions}
        self.background = background
        # Two rows with their channel of ones, and zeros on either side.
        self.pixels_above = _zeros(batch, 2, width + 2, 4)

    @property
    def variables(self) -> list[tf.Variable]:
        of_memories = [v for memory in self.memories.values() for v in (memory.past, memory.cells, memory.mixed)]
        return [*super().variables, self.pixels_above, *of_memories]

    def advance(self, y: tf.Tensor) -> None:
        """Makes ready for row y; apart from the pass over it, so that the memory of attention is written in place."""
        for memory in self.memories.values():
            memory.advance(y)

    def begin_row(self, y: tf.Tensor, phase: int) -> None:
        super().begin_row(y, phase)
        for memory in self.memories.values():
            memory.begin_row(y)

    def position(self) -> tf.Tensor:
        """The row's coordinates, [B, 1, W, 6]; in a step, the pixel's, [B, 6]."""

        def compute():
            row = tf.gather(self.background, [self.y], axis=1)
            return tf.broadcast_to(row, [self.batch, *row.shape[1:]])

        return self.of_row("position", compute)

    def down_shifted(self, conv: keras.layers.Layer) -> tf.Tensor:
        """What a convolution of the image, moved down by a row, has here; as `of_row`."""

        def compute():
            return tf.where(self.y > 0, conv(self.pixels_above[:, :, 1:-1])[:, -1:], 0)

        return self.of_row(conv, compute)

    def right_shifted(self, conv: keras.layers.Layer) -> tf.Tensor:
        """What a convolution of the image, moved right by a column, has at this pixel, [B, F]."""
        return tf.where(self.x > 0, conv(self.around()[:, :, :1])[:, 1, 0], 0)

    def around(self) -> tf.Tensor:
        """The image around this pixel, with its channel of ones: [B, 2, 3, 4], this pixel being [:, 1, 1], unknown."""
        above = tf.slice(self.pixels_above[:, 1], [0, self.x, 0], [-1, 3, -1])
        here = tf.pad(self.loop["pixel"][:, None], [[0, 0], [0, 2], [0, 0]])
        return tf.stack([above, here], 1)

    def begin_steps(self) -> dict:
        loop = super().begin_steps()
        loop["pixel"] = tf.zeros([self.batch, 4])
        loop["pixels"] = _rows(self.width, self.batch, 4)
        loop["memories"] = [memory.begin_steps() for memory in self.memories.values()]
        return loop

    def begin_step(self, x: tf.Tensor, phase: int, loop: dict) -> None:
        super().begin_step(x, phase, loop)
        for memory, state in zip(self.memories.values(), loop["memories"], strict=True):
            memory.begin_step(x, state)
        self.waiting = {}

    def when_known(self, block: keras.layers.Layer, make: Callable[[tf.Tensor], tf.Tensor]) -> None:
        """Has the block remember this pixel's key and value, make(pixel [B, 3]) [B, D + M], once it is drawn."""
        self.waiting[block] = make

    def look_up(self, block: keras.layers.Layer, make_query: Callable[[], tf.Tensor]) -> tf.Tensor:
        """What the block's attention finds here, [B, M], with the query [B, D]."""
        return self.memories[block].look_up(make_query)

    def known(self, pixel: tf.Tensor) -> dict:
        """Ends a step with the pixel [B, 3] that was drawn; returns as end_step."""
        for block, make in self.waiting.items():
            self.memories[block].remember(make(pixel))
        loop = self.end_step()
        loop["memories"] = [memory.loop for memory in self.memories.values()]
        loop["pixel"] = tf.concat([pixel, tf.ones([self.batch, 1])], -1)
        loop["pixels"] = loop["pixels"].write(self.x, loop["pixel"])
        return loop

    def end_row(self, loop: dict) -> tf.Tensor:
        """As Cache's; returns the row's pixels, [B, W, 3]."""
        super().end_row(loop)
        for memory, state in zip(self.memories.values(), loop["memories"], strict=True):
            memory.end_row(state)
        row = tf.transpose(loop["pixels"].stack(), [1, 0, 2])
        self.pixels_above.assign(tf.stack([self.pixels_above[:, 1], tf.pad(row, [[0, 0], [1, 1], [0, 0]])], 1))
        return row[..., :3]


class _Memory:
    """The keys and values of an attention block, so far.

    They are pooled over cells of size x size pixels: averaged where the attention itself is that coarse, or the
    largest taken where only its keys are (over 2 x 2 at most: for larger cells, SAME would put padding before them).
    All rows of cells lie in `past`, [B, N, D + M], those in sight that are complete; the row of cells that is being
    drawn is `cells`, [B, W / size, D + M]. Of a coarse attention, `mixed` is what it found for each cell of that row,
    [B, W / size, M]: at the cell's first pixel.
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
        rows = y // self.size  # of cells, complete
        # The row of cells that the last row of pixels was in is complete now, or will be written again, unseen so far.
        slot = tf.maximum(tf.where(y % self.size == 0, rows - 1, rows), 0) * self.columns
        self.past[:, slot : slot + self.columns].assign(self.cells)

    def begin_row(self, y):
        self.y = y
        self.is_first_row = y % self.size == 0
        self.past_key, self.past_mixin = self._split(self.past)
        number = self.past.shape[1]
        self.past_visible = tf.range(number) < y // self.size * self.columns

    def begin_steps(self):
        empty = tf.fill(self.cells.shape, 0.0 if self.is_coarse else _HIDDEN)
        loop = {"cells": tf.where(self.is_first_row, empty, self.cells)}
        return loop | {"mixed": tf.identity(self.mixed)} if self.is_coarse else loop

    def begin_step(self, x, loop):
        self.x, self.loop = x, dict(loop)
        self.here = (tf.range(self.columns) == x // self.size)[None, :, None]

    def remember(self, key_mixin):
        """Adds the key and value of this pixel, [B, D + M]."""
        cells, new = self.loop["cells"], key_mixin[:, None]
        pooled = cells + new / self.size**2 if self.is_coarse else tf.maximum(cells, new)
        self.loop["cells"] = tf.where(self.here, pooled, cells)

    def look_up(self, make_query):
        """What the attention finds for this pixel, [B, M]."""
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
        self.cells.assign(loop["cells"])
        if self.is_coarse:
            self.mixed.assign(loop["mixed"])

    def _attend(self, query):
        """nn.causal_attention of one query, [B, D]."""
        query = query[:, None] / self.key_channels**0.5
        visible, logits = self.past_visible, tf.matmul(query, self.past_key, transpose_b=True)
        if not self.is_coarse:  # else the row of cells itself is out of sight
            key, mixin = self._split(self.loop["cells"])
            # A cell is complete after the last of its rows and of its columns.
            last_row = tf.minimum(self.y // self.size * self.size + self.size, self.height) - 1
            last_columns = tf.minimum((tf.range(self.columns) + 1) * self.size, self.width) - 1
            visible = tf.concat([visible, (self.y == last_row) & (last_columns < self.x)], 0)
            logits = tf.concat([logits, tf.matmul(query, key, transpose_b=True)], -1)
        probabilities = tf.nn.softmax(tf.where(visible, logits, _HIDDEN))
        past = self.past.shape[1]
        mixed = tf.matmul(probabilities[..., :past], self.past_mixin)
        if not self.is_coarse:
            mixed += tf.matmul(probabilities[..., past:], mixin)
        return (nn.attention_factor(probabilities, tf.reduce_any(visible)) * mixed)[:, 0]

    def _split(self, key_mixin):
        return key_mixin[..., : self.key_channels], key_mixin[..., self.key_channels :]


def _zeros(*shape):
    return tf.Variable(tf.zeros(shape), trainable=False)


def _rows(width, batch, channels):
    return tf.TensorArray(tf.float32, width, element_shape=[batch, channels])
