"""The evaluator: the likelihoods are the formula's, on one replica and on several, and it is compiled once."""

import numpy as np
import pytest
import tensorflow as tf
from networks import build_shallow

from pixel_snail import steps
from pixel_snail.likelihoods import logistic_mixture


@pytest.mark.parametrize("number", [1, 2])
def test_an_evaluator_gives_the_nats_of_the_given_parameters_and_is_compiled_once(number, mirrored, rng):
    strategy = mirrored(2) if number == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        network = build_shallow("h8_noup_smallkey", (8, 8, 3), rng)
    images = rng.integers(0, 256, [2, 8, 8, 3], np.uint8)
    x, _ = steps.network_inputs({"images": images}, network.description)
    batches = tf.data.Dataset.from_tensors({"images": images})
    (batch,) = strategy.experimental_distribute_dataset(batches.unbatch().batch(2, drop_remainder=True))
    evaluator = steps.Evaluator(strategy, network)
    own = [tf.convert_to_tensor(variable) for variable in network.weights]
    halves = [value / 2 for value in own]
    found = [evaluator.nats(batch, evaluator.prepared(parameters)) for parameters in (network.weights, halves, own)]
    np.testing.assert_array_equal(found[2], found[0])
    for parameters, nats in zip((halves, own), found[1:], strict=True):
        for variable, value in zip(network.weights, parameters, strict=True):
            variable.assign(value)
        np.testing.assert_allclose(nats, logistic_mixture.nats_per_value(x, network(x)), rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[0], found[1])
    assert evaluator.nats.experimental_get_tracing_count() == 1
    assert evaluator._prepare.experimental_get_tracing_count() == 1
