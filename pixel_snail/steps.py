"""The steps of training: the initialisation, an optimisation step, and prediction with the averaged parameters."""

from collections.abc import Callable

import keras
import tensorflow as tf

from pixel_snail import evaluation, logistic_mixture, nn
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.parallel import micro_batches, replicas


def initialise(model: keras.Model, x: tf.Tensor, h: tf.Tensor | None, seed: int) -> None:
    """The data-dependent initialisation of a built model on images x [B, H, W, 3] in [-1, 1], with dropout active."""
    with nn.data_dependent_initialisation():
        model(x, h=h, seed=tf.constant([seed, -1, 0]))


def train_step(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: PolyakAdam,
    nr_labels: int | None,
    seed: int,
    grad_accum: int = 1,
    bfloat16: bool = False,
    recompute: bool = False,
) -> Callable:
    """A function that takes one optimisation step on a batch, distributed over the replicas.

    It returns the batch's loss in nats before the step, summed over images and replicas, as the gradients are. If that
    or a gradient is not finite, the optimizer refuses the update.

    Args:
        grad_accum: no more images are computed at once than a replica's batch has in each of so many parts.
        bfloat16, recompute: as the networks take them.
    """

    variables = model.trainable_variables

    def replica_step(batch):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        images = batch["images"].shape[0]
        dropout_seed = tf.stack([seed, tf.cast(optimizer.iterations.value, tf.int32)])
        with tf.GradientTape() as tape:
            folded = nn.fold(model, variables)
        # What is made of weights for all parts takes more memory than what --recompute saves.
        for_parts = folded if recompute else nn.for_maps(folded, bfloat16)
        weights = tf.nest.flatten(list(folded.values()))

        def loss_and_gradients(part, first_image):
            x, h = evaluation.network_inputs(part, nr_labels)
            part_seed = tf.concat([dropout_seed, [replica * images + first_image]], 0)
            with tf.GradientTape() as part_tape, nn.folded(for_parts):
                part_tape.watch(weights)
                outputs = model(x, h=h, seed=part_seed, bfloat16=bfloat16, recompute=recompute)
                loss = tf.reduce_sum(logistic_mixture.loss_per_image(x, outputs))
            return [loss, *part_tape.gradient(loss, weights)]

        zeros = [tf.zeros([]), *map(tf.zeros_like, weights)]
        division = micro_batches.division(images, replicas.replicas_here(strategy), grad_accum, smallest=recompute)
        loss, *of_weights = micro_batches.summed(loss_and_gradients, zeros, batch, *division)
        first, *gradients = tape.gradient(weights, variables, of_weights)
        # A loss that is not finite, on any replica, makes the sum of the gradients so.
        gradients = [first + tf.where(tf.math.is_finite(loss), 0.0, float("nan")), *gradients]
        optimizer.apply(gradients, variables)
        return loss

    @tf.function(autograph=False)
    def step(batch):
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(replica_step, [batch]), axis=None)

    return step
