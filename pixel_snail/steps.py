"""The steps of training: the initialisation, an optimisation step, and prediction with the averaged parameters."""

from collections.abc import Callable

import keras
import tensorflow as tf

from pixel_snail import evaluation, logistic_mixture, nn
from pixel_snail.optimizer import PolyakAdam, flatten


def initialise(model: keras.Model, x: tf.Tensor, h: tf.Tensor | None, seed: int) -> None:
    """The data-dependent initialisation of a built model on images x [B, H, W, 3] in [-1, 1], with dropout active."""
    with nn.data_dependent_initialisation():
        model(x, h=h, seed=tf.constant([seed, -1]))


def train_step(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: PolyakAdam,
    nr_labels: int | None,
    seed: int,
    grad_accum: int = 1,
    **network_settings,
) -> Callable:
    """A function that takes one optimisation step on a batch, distributed over the replicas.

    It returns the batch's loss in nats before the step, summed over images and replicas, as the gradients are. If that
    or a gradient is not finite, the optimizer refuses the update.

    Args:
        grad_accum: in how many parts, one after the other, a replica computes its batch.
        network_settings: what the network is called with, besides a batch.
    """

    def loss_and_gradients(batch, dropout_seed):
        x, h = evaluation.network_inputs(batch, nr_labels)
        with tf.GradientTape() as tape:
            outputs = model(x, h=h, seed=dropout_seed, **network_settings)
            loss = tf.reduce_sum(logistic_mixture.loss_per_image(x, outputs))
        return loss, tape.gradient(loss, model.trainable_variables)

    def summed_over_parts(batch, dropout_seed):
        parts = {name: tf.reshape(value, [grad_accum, -1, *value.shape[1:]]) for name, value in batch.items()}

        def add(i, loss, gradient):
            part = {name: value[i] for name, value in parts.items()}
            part_loss, gradients = loss_and_gradients(part, tf.random.fold_in(dropout_seed, i))
            return i + 1, loss + part_loss, gradient + flatten(gradients)

        start = (0, 0.0, tf.zeros(optimizer.average.shape))
        _, loss, gradient = tf.while_loop(lambda i, *_: i < grad_accum, add, start, parallel_iterations=1)
        return loss, optimizer.split(gradient)

    def replica_step(batch):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        dropout_seed = tf.random.fold_in(tf.stack([seed, tf.cast(optimizer.iterations.value, tf.int32)]), replica)
        compute = loss_and_gradients if grad_accum == 1 else summed_over_parts
        loss, (first, *gradients) = compute(batch, dropout_seed)
        # A loss that is not finite, on any replica, makes the sum of the gradients so.
        gradients = [first + tf.where(tf.math.is_finite(loss), 0.0, float("nan")), *gradients]
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    @tf.function
    def step(batch):
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(replica_step, [batch]), axis=None)

    return step


def predict_with_averages(model: keras.Model, optimizer: PolyakAdam) -> Callable[..., tf.Tensor]:
    """The network with the averaged parameters in place of its own: (x, h) -> outputs."""

    def predict(x, h):
        return model.stateless_call(optimizer.split(optimizer.average.value), [], x, h=h)[0]

    return predict
