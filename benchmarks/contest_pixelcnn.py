"""The PixelCNN of Keras's example of a VQ-VAE, a prior of its codes, for contest.py.

The example is https://keras.io/examples/generative/vq_vae/, by Sayak Paul. The network and its training have the sizes
and settings that the example gives; the code here is not the example's. Keras's `train_on_batch` takes the steps, and
Keras's `predict` computes the whole network for every drawn code, as in the example.
"""

import numpy as np

from benchmarks import contest
from pixel_snail.backend import keras, tf
from pixel_snail.optimizer import cosine_annealing

FILTERS = 128
RESIDUAL_BLOCKS = 2
LAST_LAYERS = 2
LEARNING_RATE = 3e-4


class MaskedConv2D(keras.layers.Conv2D):
    """A convolution that sees the pixels before each pixel in raster order, and this pixel unless `hides_own`.

    Its maps are relu(convolution), [B, H, W, filters] of the size of its inputs.
    """

    def __init__(self, filters: int, kernel_size: int, hides_own: bool = False):
        super().__init__(filters, kernel_size, padding="same", activation="relu")
        self.hides_own = hides_own

    def build(self, input_shape):
        super().build(input_shape)
        height, width = self.kernel_size
        is_seen = np.arange(height * width) < height * width // 2 + (not self.hides_own)
        self.mask = is_seen.reshape([height, width, 1, 1]).astype(np.float32)

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel * self.mask)


def pixel_cnn(height: int, width: int, levels: int) -> keras.Model:
    """The network: codes, integers [B, H, W, 1] -> logits [B, H, W, L]."""
    codes = keras.Input([height, width, 1], dtype="int32")
    x = keras.ops.one_hot(codes[..., 0], levels)
    x = MaskedConv2D(FILTERS, 7, hides_own=True)(x)
    for _ in range(RESIDUAL_BLOCKS):
        y = keras.layers.Conv2D(FILTERS, 1, activation="relu")(x)
        y = MaskedConv2D(FILTERS // 2, 3)(y)
        y = keras.layers.Conv2D(FILTERS, 1, activation="relu")(y)
        x = keras.layers.add([x, y])
    for _ in range(LAST_LAYERS):
        x = MaskedConv2D(FILTERS, 1)(x)
    return keras.Model(codes, keras.layers.Conv2D(levels, 1)(x))


class PixelCNN:
    """The network for the codes of the settings: "levels" is the size of the codebook.

    In the example, the learning rate is LEARNING_RATE, and constant. "learning_rate" is another one. With "lr_to_zero",
    it falls to 0 by the end of the training.
    """

    def __init__(self, settings: dict):
        self.image_shape = np.load(settings["train"], mmap_mode="r").shape[1:]
        self.model = pixel_cnn(*self.image_shape[:2], settings["levels"])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.learning_rate = settings.get("learning_rate", LEARNING_RATE)
        self.model.compile(keras.optimizers.Adam(self.learning_rate), loss)
        self.lr_to_zero = settings.get("lr_to_zero", False)
        self._nats = tf.function(self._nats_of_codes)
        self._rng = np.random.default_rng(0)

    def parameters(self) -> tuple[int, int]:
        def hidden(layer):
            return int((1 - layer.mask).sum()) * layer.kernel.shape[2] * layer.kernel.shape[3]

        number = self.model.count_params()
        return number, number - sum(hidden(layer) for layer in self.model.layers if isinstance(layer, MaskedConv2D))

    def initialise(self, images):
        pass  # Keras has drawn the parameters at random

    def step(self, images, done=0.0):
        if self.lr_to_zero:
            self.model.optimizer.learning_rate = self.learning_rate * cosine_annealing(done)
        self.model.train_on_batch(images, images)

    def prepare(self):
        pass  # the example keeps no average of the parameters

    def _nats_of_codes(self, codes):
        logits = self.model(codes, training=False)
        nats = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(codes[..., 0], tf.int32), logits)
        return tf.reduce_sum(nats, [1, 2])

    def nats(self, images):
        return self._nats(tf.constant(images)).numpy()

    def outputs(self, images):
        return self.model(images, training=False).numpy()

    def compile_drawing(self, number):
        self.draw(number)

    def draw(self, number):
        codes = np.zeros([number, *self.image_shape], np.int32)
        for y, x in np.ndindex(*self.image_shape[:2]):
            logits = self.model.predict(codes, batch_size=number, verbose=0)[:, y, x]
            codes[:, y, x, 0] = (logits + self._rng.gumbel(size=logits.shape)).argmax(-1)
        return codes


if __name__ == "__main__":
    contest.serve(PixelCNN)
