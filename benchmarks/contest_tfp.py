"""TensorFlow Probability's PixelCNN, trained with Adam at the learning rate of its documentation, for contest.py.

It runs in the environment of contest_tfp.txt. Training steps, likelihoods and drawing are compiled by tf.function;
Keras's `fit` is not used.
"""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from benchmarks import contest


class PixelCNN:
    """The network of the settings "nr_resnet", "nr_filters", "nr_logistic_mix", "dropout_p" and perhaps "sizes".

    "sizes" is the number of sizes of its maps, each half of the one before; by default 3, as in PixelCNN++.

    PixelCNN has no average of its parameters. With the setting "polyak_decay", this program keeps one. It begins after
    the first step: before that, the filters are not masked.
    """

    def __init__(self, settings: dict):
        self.dist = tfp.distributions.PixelCNN(
            image_shape=np.load(settings["train"], mmap_mode="r").shape[1:],
            num_resnet=settings["nr_resnet"],
            num_hierarchies=settings.get("sizes", 3),
            num_filters=settings["nr_filters"],
            num_logistic_mix=settings["nr_logistic_mix"],
            dropout_p=settings["dropout_p"],
        )
        self.variables = self.dist.network.trainable_variables
        self.optimizer = tf_keras.optimizers.Adam(1e-3)
        self._log_prob = tf.function(lambda images: self.dist.log_prob(images, training=False))
        self._step = tf.function(self._step_of_images)
        self._decay = settings.get("polyak_decay")
        self._averages = [tf.Variable(variable) for variable in self.variables] if self._decay else []
        self._has_stepped = tf.Variable(False)
        self._holds_averages = False

    def _step_of_images(self, images):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.dist.log_prob(images, training=True))
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.variables), self.variables, strict=True))
        decay = tf.where(self._has_stepped, self._decay or 0.0, 0.0)
        for average, variable in self._pairs():
            average.assign(decay * average + (1 - decay) * variable)
        self._has_stepped.assign(True)
        return loss

    def _pairs(self):
        """Each average and its parameter; none without "polyak_decay"."""
        return zip(self._averages, self.variables, strict=True) if self._averages else ()

    def _exchange(self):
        """Exchanges the parameters and their averages."""
        for average, variable in self._pairs():
            value = variable.numpy()
            variable.assign(average)
            average.assign(value)
        self._holds_averages = not self._holds_averages

    def parameters(self) -> tuple[int, int]:
        # After each step, a kernel's constraint sets weights to zero that would see the pixel itself or later ones.
        used = sum(
            np.sum(variable.constraint(np.ones(variable.shape))) if variable.constraint else np.prod(variable.shape)
            for variable in self.variables
        )
        return sum(int(np.prod(variable.shape)) for variable in self.variables), int(used)

    def initialise(self, images):
        # The layers of the first call initialise themselves from its images.
        self._log_prob(images.astype(np.float32))

    def step(self, images, done=0.0):
        if self._holds_averages:
            self._exchange()
        self._step(tf.constant(images, tf.float32)).numpy()  # waits for the step to end

    def prepare(self):
        if self._averages and not self._holds_averages:
            self._exchange()

    def nats(self, images):
        return -self._log_prob(tf.constant(images, tf.float32)).numpy()

    def outputs(self, images):
        parts = self.dist.network(images.astype(np.float32) / 127.5 - 1, training=False)
        return np.concatenate([part.numpy().reshape([*images.shape[:3], -1]) for part in parts], -1)

    def compile_drawing(self, number):
        # Only traced: a first drawing would take minutes. The time of the first execution is small beside them.
        self._draw = tf.function(lambda: self.dist.sample(number)).get_concrete_function()

    def draw(self, number):
        self._draw()


if __name__ == "__main__":
    contest.serve(PixelCNN)
