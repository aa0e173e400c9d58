"""The computations of replicas: the initialisation, a training step, and the likelihood of images."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from pixel_snail.backend import tf
from pixel_snail.blocks import AttentionBlock, residual_blocks
from pixel_snail.commands import progress
from pixel_snail.dataset import Split
from pixel_snail.errors import UserError, counted, option
from pixel_snail.kernels.packing import pack, unpack
from pixel_snail.likelihoods import categorical
from pixel_snail.likelihoods.levels import scaled
from pixel_snail.likelihoods.named import likelihoods
from pixel_snail.network import Description, Network, argument_h
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.parallel import devices, memory, micro_batches, replicas
from pixel_snail.parallel.batches import test_batches
from pixel_snail.parallel.cluster import Cluster
from pixel_snail.weights import (
    data_dependent_initialisation,
    for_maps,
    layers_in,
    normalised_weights,
    restored_on_failure,
    using,
)


def network_inputs(batch: dict[str, tf.Tensor], description: Description) -> tuple[tf.Tensor, object]:
    """The arguments x and h of a network (see network.Network) for a batch.

    Args:
        batch: "images", values of any integer type, [B, H, W, C]; if the network is conditional on them, "labels",
            integers [B], and "condition", numbers or integers [B, ...].
        description: of the network.
    """
    x = scaled(tf.cast(batch["images"], tf.float32), description.levels)
    return x, argument_h(batch.get("labels"), batch.get("condition"), description)


def initialise(network: Network, batch: dict[str, tf.Tensor], seed: int) -> None:
    """Does the data-dependent initialisation on a batch, with dropout active as in training."""
    x, h = network_inputs(batch, network.description)
    # Half initialised, the network would seem to have parameters of the user's own.
    with restored_on_failure(network), data_dependent_initialisation():
        network(x, h=h, seed=tf.constant([seed, -1, 0]))


def train_step(
    strategy: tf.distribute.Strategy,
    network: Network,
    optimizer: PolyakAdam,
    seed: int,
    grad_accum: int = 1,
    bfloat16: bool = False,
    recompute: bool = False,
) -> Callable:
    """Makes a function that takes one optimisation step on a batch, which is divided among the replicas.

    The function returns the batch's loss before the step, in nats. The loss and the gradients are sums over images and
    replicas. If the loss or a gradient is not finite, the optimizer refuses the update.

    Args:
        seed: of dropout.
        grad_accum: the least number of parts in which the batch is computed, one after another.
        bfloat16, recompute: see PixelSNAIL.call.
    """
    variables, description = network.weights, network.description
    likelihood = likelihoods[description.likelihood]

    def replica_step(batch):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        images = batch["images"].shape[0]
        dropout_seed = tf.stack([seed, tf.cast(optimizer.iterations.value, tf.int32)])
        # The filters' transforms, shared by all micro-batches, take more memory than --recompute saves.
        shared = _SharedWeights(network, variables, with_transforms=not recompute, bfloat16=bfloat16)

        def loss_and_gradients(micro_batch, first_image):
            x, h = network_inputs(micro_batch, description)
            images_seed = tf.concat([dropout_seed, [replica * images + first_image]], 0)

            def loss():
                outputs = network(x, h=h, seed=images_seed, bfloat16=bfloat16, recompute=recompute)
                return tf.reduce_sum(likelihood.loss_per_image(x, outputs, description.levels))

            return shared.with_gradients(loss)

        division = _division(strategy, network, images, grad_accum, recompute)
        loss, *of_weights = micro_batches.summed(loss_and_gradients, shared.zeros(), batch, *division)
        first, *gradients = shared.gradients_of_variables(of_weights)
        # A non-finite loss on any replica turns the summed gradient NaN, so the update is refused.
        gradients = [first + tf.where(tf.math.is_finite(loss), 0.0, float("nan")), *gradients]
        optimizer.apply(gradients, variables)
        return loss

    @tf.function(autograph=False)
    def step(batch):
        progress.announce_compilation()
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(replica_step, [batch]), axis=None)

    return step


def _with_added(weights, prepared):
    """A layer's weights, followed by the tensors that for_maps has added in `prepared`."""
    return weights if len(prepared) == len(weights) else prepared._make([*weights, *prepared[len(weights) :]])


class _SharedWeights:
    """The normalised weights that all micro-batches of a step share, and the gradients through them.

    The chain rule has two parts. `with_gradients` computes a micro-batch's gradients with respect to the weights.
    `gradients_of_variables` turns the sum of these gradients into the gradients of the variables, once a step.
    Gradients of weights are packed (see kernels/packing.py).

    Args:
        variables: of the network.
        with_transforms, bfloat16: whether weights.for_maps adds the filters' transforms, and for which type of maps.
    """

    def __init__(self, network: Network, variables: Sequence[tf.Variable], with_transforms: bool, bfloat16: bool):
        self._variables = variables
        with tf.GradientTape() as self._tape:
            self._weights = normalised_weights(network, variables)
            self._packed = pack(list(self._weights.values()))
        self._prepared = for_maps(self._weights, bfloat16) if with_transforms else self._weights

    def zeros(self) -> list[tf.Tensor]:
        """Zeros of the shapes of the results of `with_gradients`: the initial values of their sums."""
        return [tf.zeros([]), *map(tf.zeros_like, self._packed)]

    def with_gradients(self, loss: Callable[[], tf.Tensor]) -> list[tf.Tensor]:
        """The value of loss(), computed by layers that use these weights, and its gradients with respect to them."""
        with tf.GradientTape() as tape:
            tape.watch(self._packed)
            # Layers compute with the unpacked weights, so that the gradient reaches `_packed`.
            unpacked = unpack(self._packed, list(self._weights.values()))
            prepared = zip(self._prepared.items(), unpacked, strict=True)
            with using({layer: _with_added(of_layer, added) for (layer, added), of_layer in prepared}):
                value = loss()
        return [value, *tape.gradient(value, self._packed)]

    def gradients_of_variables(self, of_weights: list[tf.Tensor]) -> list[tf.Tensor]:
        """The variables' gradients, from those of the weights."""
        return self._tape.gradient(self._packed, self._variables, of_weights)


def _division(strategy, network, images, grad_accum, recompute):
    """The division of a replica's batch in a training step: see micro_batches.division."""
    values = network.values_per_image(*network.description.image_shape[:2])
    most_images = 1 if recompute else micro_batches.most_images(values)
    return micro_batches.division(images, replicas.on_this_machine(strategy), most_images, grad_accum)


def least_memory(
    strategy: tf.distribute.Strategy,
    network: Network,
    images: int,
    grad_accum: int = 1,
    bfloat16: bool = False,
    recompute: bool = False,
) -> int:
    """A lower bound of the memory of a training step on a CPU, in bytes; the step may take several times as much.

    The bound counts the parameters, their average, Adam's state, the normalised weights and the images of a batch, and
    the larger of the gradients and the maps that one micro-batch keeps for them.

    Args:
        images: of a replica's batch.
        grad_accum, bfloat16, recompute: as in train_step.
    """
    height, width, channels = network.description.image_shape
    vector = 4 * sum(math.prod(variable.shape) for variable in network.weights)
    number, _ = _division(strategy, network, images, grad_accum, recompute)
    kept = 0 if recompute else (2 if bfloat16 else 4) * images // number * _values_kept(network)
    return 5 * vector + images * height * width * channels + max(vector, kept)


def _values_kept(network):
    """A lower bound of the values that an image's gradient keeps: 4 F channels of a residual block, and attention's."""
    height, width, _ = network.description.image_shape
    values = 0
    for size, layers in enumerate(network.layers_by_size()):
        pixels = (height >> size) * (width >> size)
        maps = 4 * network.settings["nr_filters"] * len(residual_blocks(*layers))
        # Every query's probabilities of the keys before it: half of all pairs.
        attentions = [inner for outer in layers for inner in layers_in(outer) if isinstance(inner, AttentionBlock)]
        pairs = sum((pixels // of.hier**2) ** 2 // of.downsample**2 // 2 for of in attentions)
        values += pixels * maps + pairs
    return values


class Evaluator:
    """Computes the likelihood of images on all replicas; compiled once, for any values of the parameters.

        weights = evaluator.prepared(optimizer.averages())
        for batch in batches:
            nats = evaluator.nats(batch, weights)

    Args:
        strategy: the replicas.
        network: the network. The parameters are given to `prepared`; the network's variables are not read.

    Attributes:
        nats: nats(batch, weights) -> minus the log-likelihood in nats of each value of each image, [B, H, W, C], in
            order. `batch` is that of `network_inputs`, distributed over the replicas; `weights` are those of
            `prepared`.
        nats_and_right: of a network of codes, the same with likelihoods.categorical.nats_and_right, [B, H, W, 2].
    """

    def __init__(self, strategy: tf.distribute.Strategy, network: Network):
        self.strategy = strategy
        self._network = network
        self._layers, self._like = (), []  # the layers of `prepared`, and tensors of the shapes of their weights
        # Functions of this object: TensorFlow would warn of frequent tracing if all evaluators shared them.
        self._prepare = tf.function(self._normalised, autograph=False)
        likelihood, function = likelihoods[network.description.likelihood], partial(tf.function, autograph=False)
        self.nats = function(partial(self._of_replicas, likelihood.nats_per_value))
        self.nats_and_right = function(partial(self._of_replicas, categorical.nats_and_right))

    def prepared(self, parameters: Sequence[tf.Tensor | tf.Variable]) -> object:
        """The weights for the evaluation of any number of batches, normalised once on each replica.

        Args:
            parameters: values in the order of network.weights: the variables themselves, or their averages.
        """
        return self._prepare([tf.convert_to_tensor(parameter) for parameter in parameters])

    def _normalised(self, parameters):
        def replica_weights(parameters):
            weights = for_maps(normalised_weights(self._network, parameters))
            self._layers, self._like = zip(*weights.items(), strict=True)
            return pack(self._like)

        return self.strategy.run(replica_weights, [parameters])

    def _of_replicas(self, figure, batch, weights):
        progress.announce_compilation()
        of_replicas = self.strategy.run(partial(self._of_replica, figure), [batch, weights])
        return tf.concat(self.strategy.experimental_local_results(of_replicas), 0)

    def _of_replica(self, figure, batch, packed):
        description = self._network.description
        weights = dict(zip(self._layers, unpack(packed, self._like), strict=True))

        def of_micro_batch(micro_batch):
            x, h = network_inputs(micro_batch, description)
            with using(weights):
                return figure(x, self._network(x, h=h), description.levels)

        images, height, width, _ = batch["images"].shape
        most_images = micro_batches.most_images(self._network.values_per_image(height, width), keeps_activations=False)
        division = micro_batches.division(images, replicas.on_this_machine(self.strategy), most_images)
        return micro_batches.mapped(of_micro_batch, batch, *division)

    def in_batches(
        self,
        figure: str,
        parameters: Sequence[tf.Tensor],
        split: Split,
        batch_size: int,
        leave: bool = True,
        cluster: Cluster | None = None,
        before_each: Callable[[], None] = lambda: None,
        verbose: int = 1,
    ) -> Iterator[np.ndarray]:
        """A figure of every value of every image, each image once and in order, batch by batch.

        Args:
            figure: "nats" or "nats_and_right".
            parameters: as in `prepared`.
            batch_size: images of each replica in each batch.
            leave: whether the progress bar stays on the screen.
            cluster: the workers, if there may be several: each computes its part of a batch, and gets all results.
            before_each: called before each batch; it may raise.
            verbose: 0: no progress bar.

        Yields:
            [b, H, W, C], or [b, H, W, 2]: predicted from the channels before and all pixels before.

        Raises:
            UserError: a likelihood is not finite, or memory does not suffice.
        """
        cluster, function = cluster or Cluster(), getattr(self, figure)
        number = batch_size * self.strategy.num_replicas_in_sync
        total, seen = -(-len(split) // number), 0
        shown = bool(verbose and cluster.is_chief)
        # An image takes a byte for each value, and its figures four.
        least = 5 * batch_size * replicas.on_this_machine(self.strategy) * math.prod(split.images.shape[1:])
        with contextlib.ExitStack() as within:
            less = f"lower {option('batch_size')}" if batch_size > 1 else memory.MORE_MEMORY
            within.enter_context(memory.shortage_reported(less))
            memory.check(least, f"evaluating {counted(batch_size, 'image')} at once needs")
            bar = progress.bar(total=total, desc="evaluating", unit="batch", leave=leave, disable=not shown)
            within.enter_context(bar)
            weights = self.prepared(parameters)
            for batch in replicas.batches(self.strategy, lambda *own: test_batches(split, number, *own), cluster):
                before_each()
                with progress.step_of(bar), devices.without_tf32():  # but not while the caller works with the batch
                    of_all = np.concatenate(cluster.gather(function(batch, weights).numpy()))
                figures = of_all[: len(split) - seen]
                if not np.isfinite(figures).all():
                    or_huge = "" if split.condition is None else "the condition has huge numbers, or "
                    raise UserError(
                        f"the likelihood of images is not finite: {or_huge}the parameters are damaged, untrained or "
                        "have diverged; use another checkpoint"
                    )
                seen += len(figures)
                yield figures


def summed_over_pixels(batches: Iterator[np.ndarray]) -> np.ndarray:
    """The figures of `Evaluator.in_batches`, summed over the pixels: those of each image's channels, float64 [N, C]."""
    return np.concatenate([figures.sum((1, 2), dtype=np.float64) for figures in batches])
