"""Adam and the Polyak average against their formulas in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import pixel_snail
from pixel_snail.optimizer import DecayBeforeStep, PolyakAdam, cosine_annealing, orthogonalised
from pixel_snail.weights import hidden_directions


def test_steps_are_the_formulas(rng):
    shapes = [(3, 2), (4,), ()]
    start = [rng.normal(size=shape) for shape in shapes]
    gradients = [[rng.normal(size=shape) for shape in shapes] for _ in range(5)]
    variables = [keras.Variable(value.astype(np.float32)) for value in map(np.asarray, start)]
    optimizer = PolyakAdam(learning_rate=0.1, lr_decay=0.9, polyak_decay=0.7)
    optimizer.build(variables)
    for step in gradients:
        optimizer.apply([np.float32(gradient) for gradient in step], variables)
    averages = optimizer.split(optimizer.average.value)

    for i, value in enumerate(start):
        m = v = 0
        average, lr = value, 0.1
        for t, step in enumerate(gradients, 1):
            lr *= 0.9
            m = 0.95 * m + 0.05 * step[i]
            v = 0.9995 * v + 0.0005 * step[i] ** 2
            value = value - lr * (m / (1 - 0.95**t)) / np.sqrt(v / (1 - 0.9995**t) + 1e-6)
            average = 0.7 * average + 0.3 * value
        np.testing.assert_allclose(variables[i], value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(averages[i], average, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("replicas", [1, 2])
def test_muon_steps_are_those_of_keras_on_flattened_kernels_and_other_variables_have_adams(mirrored, replicas, rng):
    # Two kernels of one shape, a tall one, a square one, a wide one; a matrix and a vector that Adam updates.
    shapes = [(2, 3, 4, 6), (2, 3, 4, 6), (5, 5), (3, 8), (4, 3), (4,)]
    start = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    gradients = [[rng.normal(size=shape).astype(np.float32) for shape in shapes] for _ in range(4)]
    strategy, results = mirrored(replicas), []
    for of_muon in (4, 0):
        with strategy.scope():
            variables = [keras.Variable(value) for value in start]
            optimizer = PolyakAdam(learning_rate=0.1, lr_decay=1.0, polyak_decay=0.5, muon=variables[:of_muon])
            optimizer.build(variables)
        for step in gradients:
            step = [gradient / replicas for gradient in step]  # they are summed
            strategy.run(optimizer.apply, [list(map(tf.constant, step)), variables])
        results.append([np.asarray(tf.convert_to_tensor(variable.value)) for variable in variables])
    with_muon, with_adam = results
    for i in (4, 5):
        np.testing.assert_array_equal(with_muon[i], with_adam[i])

    for value, mine, *of_steps in list(zip(start, with_muon, *gradients, strict=True))[:4]:
        matrix = keras.Variable(value.reshape(-1, value.shape[-1]))
        theirs = keras.optimizers.Muon(0.1, weight_decay=None, adam_weight_decay=None)
        for gradient in of_steps:
            theirs.apply([gradient.reshape(matrix.shape)], [matrix])
        np.testing.assert_allclose(mine.reshape(matrix.shape), matrix, rtol=1e-4, atol=1e-5)
        assert np.abs(mine - value).max() > 0.01


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (6, 6)])
def test_orthogonalised_matrices_have_the_singular_vectors_of_the_matrix_and_singular_values_of_about_1(shape, rng):
    matrices = rng.normal(size=(3, *shape))
    u, s, vh = np.linalg.svd(matrices, full_matrices=False)
    assert (s[:, -1] / np.linalg.norm(s, axis=1)).min() > 1e-3
    result = orthogonalised(tf.constant(matrices, tf.float32)).numpy()
    in_their_bases = u.transpose(0, 2, 1) @ result @ vh.transpose(0, 2, 1)
    np.testing.assert_allclose(in_their_bases, in_their_bases * np.eye(min(shape)), atol=1e-4)
    of_result = np.diagonal(in_their_bases, axis1=1, axis2=2)
    assert of_result.min() > 0.6 and of_result.max() < 1.3


def test_muon_updates_every_direction_but_those_of_the_output_layer():
    network = pixel_snail.build("pxpp", image_shape=(8, 8, 1), nr_filters=4, nr_resnet=1, nr_logistic_mix=2).network
    directions = {id(variable) for variable in hidden_directions(network)}
    of_outputs = {id(variable) for variable in network.output_layer.weights}
    for variable in network.weights:
        assert (id(variable) in directions) == (variable.name == "V" and id(variable) not in of_outputs)
    assert len(directions) > 20


def test_the_learning_rate_keeps_its_digits_over_a_million_steps():
    schedule = DecayBeforeStep(1e-3, 0.999998)
    for step in (0, 1, 10**6):
        np.testing.assert_allclose(float(schedule(step)), 1e-3 * 0.999998 ** (step + 1), rtol=1e-6)


def test_cosine_annealing_falls_from_1_to_0_evenly_around_the_middle():
    assert cosine_annealing(0) == 1
    assert cosine_annealing(1) == 0
    assert cosine_annealing(1.1) == 0  # a clock may show more than the time that a run has
    parts = np.linspace(0, 1, 101)
    factors = np.array([cosine_annealing(part) for part in parts])
    assert (np.diff(factors) < 0).all()
    np.testing.assert_allclose(factors + factors[::-1], 1, rtol=1e-12)
    np.testing.assert_allclose(cosine_annealing(1 / 3), 3 / 4, rtol=1e-12)


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_factor_of_the_learning_rate_scales_the_step_and_the_rate_that_is_told(mirrored, replicas):
    strategy, changes, rates = mirrored(replicas), [], []
    for factor in (1.0, 0.25):
        with strategy.scope():
            variable = keras.Variable(np.ones(3, np.float32))
            optimizer = PolyakAdam(learning_rate=0.1)
            optimizer.build([variable])
        optimizer.lr_factor.assign(factor)
        strategy.run(lambda v, o: o.apply([tf.constant([1.0, 2.0, 3.0])], [v]), [variable, optimizer])
        changes.append(np.asarray(tf.convert_to_tensor(variable.value)) - 1)
        rates.append(optimizer.last_learning_rate())
    np.testing.assert_allclose(changes[1], 0.25 * changes[0], rtol=1e-5)
    np.testing.assert_allclose(rates[1], 0.25 * rates[0], rtol=1e-6)


def test_gradients_are_divided_by_the_machines():
    values = []
    for machines, scale in ((1, 1.0), (4, 4.0)):
        variable = keras.Variable(np.ones(3, np.float32))
        optimizer = PolyakAdam(machines=machines)
        optimizer.build([variable])
        # Gradients below the root of epsilon: Adam's step hardly depends on the scale of larger ones.
        optimizer.apply([np.float32([1e-4, 2e-4, 3e-4]) * scale], [variable])
        values.append(np.asarray(variable))
    np.testing.assert_allclose(values[1], values[0], rtol=1e-6)
    assert values[0][0] - values[0][1] > 1e-5


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])  # the square of 1e30 is not finite in float32
def test_an_update_that_is_not_finite_changes_nothing(mirrored, replicas, bad):
    strategy = mirrored(replicas)
    with strategy.scope():
        variables = [keras.Variable(np.float32([1, 2])), keras.Variable(np.float32(3))]
        optimizer = PolyakAdam(learning_rate=0.1)
        optimizer.build(variables)

    def state():
        kept = (*variables, optimizer.momentum, optimizer.velocity, optimizer.average)
        return np.concatenate([np.ravel(tf.convert_to_tensor(variable.value)) for variable in kept])

    @tf.function(autograph=False)
    def apply(value):
        # Only one replica gets the value.
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        gradients = [tf.stack([1.0, tf.where(first, value, 1.0)]), tf.constant(1.0)]
        optimizer.apply(gradients, variables)

    states = [state()]
    for value in (1.0, bad, 1.0):
        strategy.run(apply, [tf.constant(value)])
        states.append(state())
    assert optimizer.updates_refused() == 1
    assert optimizer.steps_taken() == 3
    assert np.array_equal(states[1], states[2])
    assert not np.array_equal(states[0], states[1])
    assert not np.array_equal(states[2], states[3])
