"""The training of a network: steps and epochs under a tf.distribute strategy, and what a run leaves behind."""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import keras
import numpy as np
import tensorflow as tf

import data
from pixel_snail import (
    checkpoint,
    devices,
    drawing,
    evaluation,
    logistic_mixture,
    nn,
    plotting,
    progress,
    published,
    run_folder,
)
from pixel_snail import cluster as clusters
from pixel_snail import model as models
from pixel_snail.errors import UserError
from pixel_snail.optimizer import PolyakAdam, flatten


def train(flags: argparse.Namespace) -> None:
    """Does what train.py's flags say; everything that a user may have got wrong is checked before a folder is made.

    Raises:
        UserError: files that are missing, broken or of another network, a loss that is no longer finite, a worker that
            was lost.
    """
    cluster = clusters.from_environment()
    with cluster.together():
        _train(flags, cluster)


def _train(flags, cluster):
    if flags.paper and cluster.is_chief:
        run = {name: getattr(flags, name) for name in published.runs[flags.paper]}
        print(f"--paper={flags.paper}:", *(f"--{name}={value}" for name, value in run.items()), flush=True)
    if flags.batch_size % flags.grad_accum:
        raise UserError(
            f"--batch_size={flags.batch_size} can't be cut into --grad_accum={flags.grad_accum} equal parts"
        )
    if cluster.is_chief:
        run_folder.check_writable(flags.save_dir)
    prefix = checkpoint.find(flags.load_params) if flags.load_params else None
    start = {"epoch": 0, "images": 0} | (checkpoint.read_progress(prefix) if prefix else {})
    keras.utils.set_random_seed(flags.seed)
    strategy = devices.strategy(flags.nr_gpu, cluster)
    cluster.check_flags(flags)
    data_set = cluster.chief_first(evaluation.load_data, flags)
    global_batch = flags.batch_size * strategy.num_replicas_in_sync
    data.check_batch_size(data_set.train, max(global_batch, flags.init_batch_size))
    if len(data_set.train) - start["images"] < global_batch:
        start = {"epoch": start["epoch"] + 1, "images": 0}
    if start["epoch"] >= flags.max_epochs:
        raise UserError(f"{prefix} has {start['epoch']} epochs behind it: raise --max_epochs={flags.max_epochs}")
    cluster.check_agreement(
        data_set.sizes() | {f"the checkpoint's place in training, {k}": v for k, v in start.items()}
    )
    with strategy.scope():
        model = evaluation.build_model(flags, data_set, flags.dropout_p)
        machines = cluster.size if flags.average_machines else 1
        optimizer = PolyakAdam(flags.learning_rate, flags.lr_decay, flags.polyak_decay, machines=machines)
        if prefix:
            optimizer.build(model.trainable_variables)
            checkpoint.load(prefix, model, optimizer)
            cluster.check_same_checkpoint([*model.trainable_variables, optimizer.average, optimizer.velocity])
        else:
            (batch,) = data.training_batches(data_set.train, flags.init_batch_size, flags.seed, epoch=0).take(1)
            initialise(model, *evaluation.network_inputs(batch, data_set.nr_labels), flags.seed)
            # Another kind of machine may have rounded otherwise.
            cluster.copy_the_chiefs(model.trainable_variables)
            optimizer.build(model.trainable_variables)

    folder = run_folder.RunFolder(flags, cluster)
    folder.log(f"run folder: {folder.path}")
    folder.log(json.dumps(vars(flags), indent=4, sort_keys=True))
    folder.log(f"# of Parameters {sum(int(np.prod(v.shape)) for v in model.trainable_variables)}")
    folder.log(f"dataset size: {len(data_set.train)}")
    folder.log(f"replicas: {strategy.num_replicas_in_sync}")
    if prefix:
        cluster.advice = _go_on_from(prefix)
    if cluster.size > 1:
        folder.log(f"workers: {', '.join(cluster.addresses)}")
    if flags.model in models.leaking:
        folder.log(models.leak_warning(flags.model))
    if prefix:
        folder.log(f"restored {prefix}: {optimizer.steps_taken()} steps taken")
        folder.log(f"going on in epoch {start['epoch']}, after {start['images']} of its images")
    try:
        _run_epochs(flags, strategy, cluster, data_set, model, optimizer, folder, start)
    except OSError as error:
        raise UserError(f"can't write to {folder.path}: {error.strerror or error}") from error


def _go_on_from(prefix):
    return f"go on with --load_params={prefix} on every worker"


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

    It returns the batch's loss in nats before the step, summed over images and replicas, as the gradients are.

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
        loss, gradients = compute(batch, dropout_seed)
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


def _run_epochs(flags, strategy, cluster, data_set, model, optimizer, folder, start):
    step = train_step(
        strategy,
        model,
        optimizer,
        data_set.nr_labels,
        flags.seed,
        flags.grad_accum,
        bfloat16=flags.bfloat16,
        recompute=flags.recompute,
    )
    predict = predict_with_averages(model, optimizer)
    test_step = evaluation.test_step(strategy, predict, data_set.nr_labels)
    number = flags.batch_size * strategy.num_replicas_in_sync
    samples = flags.sample_interval and flags.model not in models.leaking
    draw = samples and drawing.drawer(model, data_set, number, flags.sample_batch, flags.nr_logistic_mix, flags.seed)
    if cluster.is_chief:
        summaries = tf.summary.create_file_writer(str(folder.path / "tensorboard"))
    else:
        summaries = tf.summary.create_noop_writer()
    steps, test_bpds = [], []
    started = last = time.time()

    def out_of_time():
        # By the chief's clock, so that all workers stop after the same step.
        if not flags.max_minutes:
            return False
        late = time.time() > started + 60 * flags.max_minutes
        return bool(cluster.gather(int(late))[0])

    for epoch in range(start["epoch"], flags.max_epochs):
        seen = start["images"] if epoch == start["epoch"] else 0
        batches = clusters.batches(
            strategy, partial(data.training_batches, data_set.train, number, flags.seed, epoch, seen), cluster
        )
        total = (len(data_set.train) - seen) // number
        steps.append(
            _train_epoch(cluster, data_set, optimizer, step, batches, total, number, epoch, out_of_time, summaries)
        )
        seen += number * len(steps[-1])
        values = evaluation.per_value(
            test_step, strategy, data_set.test, flags.batch_size, leave=False, cluster=cluster
        )
        nats = evaluation.nats_per_channel(values).sum(1)
        test_bpds.append(float(logistic_mixture.bits_per_dim(nats, data_set.image_shape).mean()))
        if cluster.is_chief:
            plotting.save_learning_curve(steps, test_bpds, folder.path / "learning_curve.png")
        now = time.time()
        scalars = {
            "epoch": epoch,
            "time": now - last,
            "lr": optimizer.last_learning_rate(),
            "train_bpd": float(np.mean(steps[-1])),
            "test_bpd": test_bpds[-1],
        }
        last = now
        for name, value in scalars.items():
            folder.log(f"{name} {value}")
        with summaries.as_default():
            for name, value in scalars.items():
                tf.summary.scalar(name, value, step=optimizer.steps_taken())
        summaries.flush()

        is_last = epoch + 1 == flags.max_epochs or out_of_time()
        if epoch % flags.save_interval == 0 or is_last:
            prefix = folder.path / str(epoch) / f"params_{flags.data_set}.ckpt"
            if cluster.is_chief:
                checkpoint.save(str(prefix), model, optimizer, {"epoch": epoch, "images": seen})
            folder.log(f"saved {prefix}")
            cluster.gather(0)  # when the chief has come here, the checkpoint is whole
            cluster.advice = _go_on_from(prefix)
        # After the checkpoint: of a large network, samples take a while.
        if samples and cluster.is_chief and epoch % flags.sample_interval == 0:
            weights = nn.fold(model, optimizer.split(optimizer.average.value))
            images = draw(weights, np.arange(number) % (data_set.nr_labels or 1))
            drawing.save_samples(images, folder.path, flags.data_set)
        if is_last:
            return


def _train_epoch(cluster, data_set, optimizer, step, batches, total, global_batch, epoch, out_of_time, summaries):
    """Trains for an epoch, or until the time is over, and returns the bits/dim of its steps."""
    steps = []
    watched = cluster.is_chief
    with progress.bar(total=total, desc=f"epoch {epoch}", unit="step", leave=False, disable=not watched) as bar:
        if step.experimental_get_tracing_count() == 0:
            bar.set_postfix_str("compiling the first step")
        for batch in batches:
            loss = float(step(batch))
            if not np.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} in step {len(steps)} of epoch {epoch}: the run has diverged; "
                    "go on from an earlier checkpoint with --load_params, or start again with a lower --learning_rate"
                )
            steps.append(float(logistic_mixture.bits_per_dim(loss, data_set.image_shape, global_batch)))
            bar.set_postfix(loss=f"{steps[-1]:.3f}", lr=f"{optimizer.last_learning_rate():.2e}", refresh=False)
            bar.update()
            with summaries.as_default():
                tf.summary.scalar("loss", steps[-1], step=optimizer.steps_taken())
            if out_of_time():
                break
    return steps
