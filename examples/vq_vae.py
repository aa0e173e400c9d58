"""The parts that the VQ-VAEs of the examples share: the codebook, the convolutions, training and figures.

A VQ-VAE (van den Oord et al. 2017) has an encoder, which turns an image into a map of vectors; a codebook, which
replaces each of them by the nearest of its own vectors, whose number is the code; and a decoder, which turns these
vectors into an image.
"""

import math
from collections.abc import Callable

import numpy as np

from pixel_snail.backend import keras
from pixel_snail.commands import progress

NR_CODES = 128
"""The size of a codebook, L."""
DIMENSIONS = 16
"""D, how many numbers a vector has. With few, more of the codes are used (Yu et al. 2022)."""
BATCH_SIZE = 64


@keras.saving.register_keras_serializable("examples")
class VectorQuantizer(keras.layers.Layer):
    """A codebook: replaces each vector [B, H, W, D] by the nearest of its L vectors.

    The gradient is passed straight through.
    All vectors are scaled to length 1 first. The codebook is not learned by gradients: each of its vectors is an
    exponential moving average of the vectors that are assigned to it. One to which hardly any are assigned is replaced
    by a random vector of the batch; this also gives the codebook its first values.

    Args:
        nr_codes: L.
        decay: of the moving averages.
        commitment: the weight of the commitment loss.
    """

    def __init__(self, nr_codes: int, decay: float = 0.99, commitment: float = 0.25, **settings):
        super().__init__(**settings)
        self.nr_codes, self.decay, self.commitment = nr_codes, decay, commitment
        self._seed = keras.random.SeedGenerator()

    def get_config(self) -> dict:
        own = {"nr_codes": self.nr_codes, "decay": self.decay, "commitment": self.commitment}
        return super().get_config() | own

    def build(self, shape: tuple[int | None, ...]) -> None:
        zeros = {"initializer": "zeros", "trainable": False}
        self.shares = self.add_weight(shape=[self.nr_codes], name="shares", **zeros)
        self.sums = self.add_weight(shape=[self.nr_codes, shape[-1]], name="sums", **zeros)

    def call(self, vectors, training=False):
        vectors = _unit(vectors)
        if training:
            self._learn(keras.ops.reshape(vectors, [-1, vectors.shape[-1]]))
        nearest = keras.ops.stop_gradient(self.vectors(self.codes(vectors)))
        self.add_loss(self.commitment * keras.ops.mean(keras.ops.square(vectors - nearest)))
        return vectors + keras.ops.stop_gradient(nearest - vectors)

    def codes(self, vectors):
        """The nearest codes of vectors [..., D]: int32 [...]."""
        return keras.ops.argmax(self._similarities(_unit(vectors)), axis=-1)

    def vectors(self, codes):
        """The vectors of codes, integers [...]: float32 [..., D]."""
        return keras.ops.take(_unit(self.sums), keras.ops.cast(codes, "int32"), axis=0)

    def _similarities(self, vectors):
        return keras.ops.matmul(vectors, keras.ops.transpose(_unit(self.sums)))

    def _learn(self, vectors):
        """Moves the codebook towards the means of vectors [N, D], and replaces its vectors that are hardly used."""
        ops = keras.ops
        similarities = self._similarities(vectors)
        is_of = ops.one_hot(ops.argmax(similarities, axis=-1), self.nr_codes)
        shares = self.decay * self.shares + (1 - self.decay) * ops.mean(is_of, axis=0)
        means = ops.matmul(ops.transpose(is_of), vectors) / ops.cast(ops.shape(vectors)[0], "float32")
        sums = self.decay * self.sums + (1 - self.decay) * means
        # Vectors far from the codebook are likelier to replace one of its vectors.
        distances = ops.maximum(1 - ops.max(similarities, axis=-1), 1e-6)
        drawn = keras.random.categorical(ops.log(distances)[None], self.nr_codes, seed=self._seed)[0]
        is_dead = shares < 0.1 / self.nr_codes
        self.shares.assign(ops.where(is_dead, 1 / self.nr_codes, shares))
        self.sums.assign(ops.where(is_dead[:, None], ops.take(vectors, drawn, axis=0) / self.nr_codes, sums))


def _unit(vectors):
    """Vectors [..., D], scaled to length 1; zeros stay zeros."""
    return vectors * keras.ops.rsqrt(keras.ops.sum(keras.ops.square(vectors), axis=-1, keepdims=True) + 1e-12)


def halved(features, filters: int):
    """Features [B, 2 H, 2 W, C] as [B, H, W, filters], by a convolution with stride 2."""
    return keras.layers.Conv2D(filters, 4, strides=2, padding="same", activation="relu")(features)


def doubled(features, filters: int, activation: str = "relu"):
    """Features [B, H, W, C] as [B, 2 H, 2 W, filters], by a transposed convolution with stride 2."""
    return keras.layers.Conv2DTranspose(filters, 4, strides=2, padding="same", activation=activation)(features)


def residual(features, blocks: int = 2):
    """Features [B, H, W, C] through residual blocks, of the same shape."""
    filters = features.shape[-1]
    for _ in range(blocks):
        inner = keras.layers.Conv2D(filters // 2, 3, padding="same", activation="relu")(keras.ops.relu(features))
        features = features + keras.layers.Conv2D(filters, 1)(inner)
    return keras.ops.relu(features)


class _Progress(keras.callbacks.Callback):
    """A bar for all epochs together, with the time left."""

    def on_train_begin(self, logs=None):
        self.bar = progress.bar(total=self.params["epochs"] * self.params["steps"], desc="training", unit="step")

    def on_train_batch_end(self, batch, logs=None):
        self.bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)
        self.bar.update()

    def on_train_end(self, logs=None):
        self.bar.close()


def train(vq_vae: keras.Model, images: np.ndarray, epochs: int) -> None:
    """Trains a VQ-VAE to reconstruct images, float32 [N, H, W, C] in [0, 1].

    The loss is the squared error in units of the pixels' variance, and the commitment of each codebook.
    """
    steps = epochs * math.ceil(len(images) / BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=2e-3, warmup_steps=min(100, steps - 1))
    vq_vae.compile(
        keras.optimizers.Adam(rate),
        loss="mean_squared_error",
        loss_weights=1 / float(images.var()),
        jit_compile=False,  # XLA's convolutions are slower on CPUs
    )
    vq_vae.fit(images, images, BATCH_SIZE, epochs, verbose=0, callbacks=[_Progress()])


def in_batches(function: Callable, *arrays: np.ndarray, desc: str) -> np.ndarray:
    """The results of a function of batches of arrays, each [N, ...], joined: [N, ...]."""
    starts = progress.bar(range(0, len(arrays[0]), 256), desc=desc, unit="batch", leave=False, delay=2)
    return np.concatenate([np.asarray(function(*(array[i : i + 256] for array in arrays))) for i in starts])


def print_error(images: np.ndarray, reconstructions: np.ndarray, name: str = "test images") -> None:
    """Prints how far reconstructions are from the images, both [N, H, W, C] in [0, 1]."""
    error = float(np.mean(np.square(images - reconstructions)))
    print(f"mean squared error of the {name}: {error:.5f}, {error / images.var():.2%} of the variance of the pixels")


def print_use_of_codes(codes: np.ndarray, name: str = "codes") -> None:
    """Prints how many of the codes occur in maps of codes, integers [N, H, W], and their perplexity."""
    shares = np.bincount(codes.ravel(), minlength=NR_CODES) / codes.size
    shares = shares[shares > 0]
    perplexity = np.exp(-np.sum(shares * np.log(shares)))
    print(f"{name} that occur: {len(shares)} of {NR_CODES}; perplexity {perplexity:.1f}")
