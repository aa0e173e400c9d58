"""The original's Adam and Polyak average, and Muon, as a Keras optimizer.

Private parts of Keras's optimizer for TensorFlow are used in this file only:

- `_backend_update_step`, overridden: Keras calls it once with all gradients. If it is renamed, Keras would look for an
  update of single variables, `update_step`, which is not there, and training would fail at once.
- `_distribution_strategy` and `tf.__internal__.distribute.interim.maybe_merge_call`: the strategy, and the call of a
  function once for all replicas. If they go, an update must be written with `strategy.extended.update` by hand.
- `_learning_rate`: the schedule itself, for the rate of the last step.
"""

import math
from collections.abc import Sequence

import numpy as np

from pixel_snail.backend import keras, tf
from pixel_snail.kernels.xla import compiled


class DecayBeforeStep(keras.optimizers.schedules.LearningRateSchedule):
    """The original's schedule: the rate is multiplied by `lr_decay` before each step, the first one included."""

    def __init__(self, learning_rate: float, lr_decay: float):
        self.learning_rate = learning_rate
        self.lr_decay = lr_decay

    def __call__(self, step) -> tf.Tensor:
        # In float64, as the original's Python float: in float32, 0.999998^(10^6) is off by 1%.
        return tf.cast(self.of_step(tf.cast(step, tf.float64) + 1), tf.float32)

    def of_step(self, number: int | tf.Tensor) -> float | tf.Tensor:
        """The rate of a step; steps are numbered from 1. A number of type float64 gives a tensor."""
        return self.learning_rate * self.lr_decay**number

    def get_config(self) -> dict:
        return {"learning_rate": self.learning_rate, "lr_decay": self.lr_decay}


def cosine_annealing(part: float) -> float:
    """The factor of the learning rate, (1 + cos(pi part)) / 2, when this part of a training is done, from 0 to 1.

    Loshchilov & Hutter 2017 (SGDR), section 3, without restarts.
    """
    return (1 + math.cos(math.pi * min(part, 1))) / 2


class PolyakAdam(keras.optimizers.Optimizer):
    """Adam with epsilon inside the root, and a Polyak average of the parameters, as in the original.

    In step t = 1, 2, ..., for parameters p with gradient g:

        m = b1 m + (1 - b1) g
        v = b2 v + (1 - b2) g^2
        p -= lr * (m / (1 - b1^t)) / sqrt(v / (1 - b2^t) + epsilon)
        average = decay average + (1 - decay) p

    Gradients are summed over the replicas and divided by `machines`. The average starts from the parameters at the call
    of `build`: call it after the data-dependent initialisation. (Keras's `use_ema` would start from the parameters
    after the first update.)

    An update is refused if m, v, the parameters or the average would not be finite. It then changes only the count of
    steps and `refused`.

    m, v and the average are one vector each over all parameters, so that a step is a dozen large operations. A dozen
    for each of hundreds of small variables would take longer to trace and to start than to compute.

    Muon (Jordan et al. 2024) updates the variables `muon`, each as a matrix: its last axis is the columns, all others
    together are the rows. In place of the third line, with n the larger of the numbers of rows and columns:

        p -= lr * 0.2 sqrt(n) * orthogonalised(b1 m + (1 - b1) g)

    The elements of an orthogonalised matrix have a root mean square of 1 / sqrt(n). By the factor, that of an update is
    0.2 lr, as large as Adam's usually is, so that Adam's learning rates serve (Liu et al. 2025, arXiv:2502.16982,
    section 2.2). v is kept for these variables, too, so that Adam can go on with them.

    Args:
        learning_rate, lr_decay: see DecayBeforeStep.
        polyak_decay, beta_1, beta_2: decay, b1 and b2.
        epsilon, machines: as above.
        muon: variables of at least two axes, among those of `build`.

    Attributes, after build:
        momentum, velocity, average: m, v and the average, variables [number of parameters]; see `split`.
        refused: the number of refused updates, a variable [].
        lr_factor: multiplies the schedule's learning rate; a variable [], 1 unless somebody assigns another value.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        lr_decay: float = 0.999998,
        polyak_decay: float = 0.9995,
        beta_1: float = 0.95,
        beta_2: float = 0.9995,
        epsilon: float = 1e-6,
        machines: int = 1,
        muon: Sequence[keras.Variable] = (),
    ):
        super().__init__(DecayBeforeStep(learning_rate, lr_decay), name="polyak_adam")
        self.polyak_decay = polyak_decay
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.machines = machines
        self._muon = {id(variable) for variable in muon}

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self._shapes = [tuple(variable.shape) for variable in variables]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._matrices = {}  # by rows and columns: the numbers of the variables that Muon updates
        for i, (variable, shape) in enumerate(zip(variables, self._shapes, strict=True)):
            if id(variable) in self._muon:
                self._matrices.setdefault((math.prod(shape[:-1]), shape[-1]), []).append(i)
        self.momentum, self.velocity, self.average = (
            self.add_variable([sum(self._sizes)], dtype="float32", name=name)
            for name in ("momentum", "velocity", "average")
        )
        self.average.assign(flatten([variable.value for variable in variables]))
        self.refused = self.add_variable([], dtype="int64", name="refused")
        self.lr_factor = self.add_variable([], dtype="float32", initializer="ones", name="lr_factor")

    def steps_taken(self) -> int:
        # int(self.iterations) raises for a mirrored variable.
        return int(tf.convert_to_tensor(self.iterations.value))

    def updates_refused(self) -> int:
        return int(tf.convert_to_tensor(self.refused.value))

    def last_learning_rate(self) -> float:
        """The rate of the last step taken."""
        # Without TensorFlow's operations, which would take a millisecond after every step.
        return self._learning_rate.of_step(self.steps_taken()) * float(tf.convert_to_tensor(self.lr_factor.value))

    def averages(self) -> list[tf.Tensor]:
        """The averaged parameters, in the order of the variables given to `build`."""
        return self.split(self.average.value)

    def split(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Cuts a vector over all parameters into tensors of their shapes, in the order of `build`."""
        parts = tf.split(vector, self._sizes)
        return [p if len(shape) == 1 else tf.reshape(p, shape) for p, shape in zip(parts, self._shapes, strict=True)]

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        gradient = flatten(grads)
        replica = tf.distribute.get_replica_context()
        if replica:
            gradient = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
        if self.machines > 1:
            gradient /= self.machines
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._update_on_each_device,
            self._distribution_strategy,
            gradient,
            learning_rate * self.lr_factor.value,
            [variable.value for variable in trainable_variables],
        )

    def _update_on_each_device(self, strategy, gradient, learning_rate, parameters):
        state = self.velocity.value, self.average.value, self.refused.value
        state += (gradient, learning_rate, self.iterations.value, *parameters)
        strategy.extended.update(self.momentum.value, self._update, args=state)

    def _update(self, m, v, average, refused, gradient, learning_rate, iterations, *parameters):
        t = tf.cast(iterations, tf.float64) + 1
        # In float32, 1 - 0.9995^t loses four digits for small t.
        betas = self.beta_1, self.beta_2
        corrections = [tf.cast(1 - tf.pow(tf.constant(beta, tf.float64), t), tf.float32) for beta in betas]
        updated, is_finite = _adam_step(
            flatten(parameters),
            gradient,
            tf.convert_to_tensor(m),
            tf.convert_to_tensor(v),
            learning_rate,
            corrections,
            betas,
            self.epsilon,
        )
        if self._matrices:
            of_muon = self._muon_step(parameters, gradient, tf.convert_to_tensor(m), learning_rate)
            updated = flatten([of_muon.get(i, of_adam) for i, of_adam in enumerate(self.split(updated))])

        def accept():
            done = [
                parameter.assign(value, read_value=False)
                for parameter, value in zip(parameters, self.split(updated), strict=True)
            ]
            # One new value at a time, to save memory: each is as large as the network.
            for mean, *of in (
                (m, gradient, self.beta_1),
                (v, gradient, self.beta_2, True),
                (average, updated, self.polyak_decay),
            ):
                with tf.control_dependencies(done):
                    done = [mean.assign(_running_mean(tf.convert_to_tensor(mean), *of), read_value=False)]

        def refuse():
            refused.assign_add(1)

        # Muon's update needs no check: it is finite wherever the gradient and v are.
        tf.cond(tf.reduce_all(is_finite), accept, refuse)

    def _muon_step(self, parameters, gradient, m, learning_rate):
        """The updated matrices, by the numbers of their variables."""
        directions = self.split(_mean(_mean(m, gradient, self.beta_1), gradient, self.beta_1))
        updated = {}
        for (rows, columns), numbers in self._matrices.items():
            # Matrices of one shape at a time: one by one, they would be many small products.
            matrices = tf.stack([tf.reshape(directions[i], [rows, columns]) for i in numbers])
            steps = learning_rate * 0.2 * math.sqrt(max(rows, columns)) * orthogonalised(matrices)
            for i, step in zip(numbers, tf.unstack(steps), strict=True):
                updated[i] = parameters[i] - tf.reshape(step, self._shapes[i])
        return updated


def flatten(tensors: Sequence[tf.Tensor | tf.Variable]) -> tf.Tensor:
    """The elements of all tensors, in order, as one vector."""
    return tf.concat([tensor if len(tensor.shape) == 1 else tf.reshape(tensor, [-1]) for tensor in tensors], 0)


def orthogonalised(matrices: tf.Tensor) -> tf.Tensor:
    """Nearly U V^T for each matrix U S V^T, [N, rows, columns]: all singular values become about 1, 0.7 to 1.2.

    Five steps of Jordan et al.'s iteration x <- a x + b x x^T x + c (x x^T)^2 x, with their a, b and c, as in Keras's
    Muon. Singular values below a thousandth of the matrix's norm remain smaller.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = tf.transpose(matrices, [0, 2, 1]) if is_tall else matrices
    x /= tf.sqrt(tf.reduce_sum(tf.square(x), [1, 2], keepdims=True)) + 1e-7
    for _ in range(5):
        gram = tf.matmul(x, x, transpose_b=True)
        x = 3.4445 * x + tf.matmul(-4.7750 * gram + 2.0315 * tf.matmul(gram, gram), x)
    return tf.transpose(x, [0, 2, 1]) if is_tall else x


@compiled
def _adam_step(parameter, gradient, m, v, learning_rate, corrections, betas, epsilon):
    """The updated parameters, and whether each one and its new Adam state are finite; vectors of one length."""
    m, v = _mean(m, gradient, betas[0]), _mean(v, tf.square(gradient), betas[1])
    updated = parameter - learning_rate * (m / corrections[0]) / tf.sqrt(v / corrections[1] + epsilon)
    # m needs no check: where it is not finite, v is not either.
    return updated, tf.math.is_finite(v) & tf.math.is_finite(updated)


@compiled
def _running_mean(mean, value, decay, of_squares=False):
    """decay * mean + (1 - decay) * value, or value^2 in place of value; vectors of one length."""
    return _mean(mean, tf.square(value) if of_squares else value, decay)


def _mean(mean, value, decay):
    return decay * mean + (1 - decay) * value
