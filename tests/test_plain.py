"""The plain network, the baseline of the training benchmark, takes the same steps as the network."""

import numpy as np
import pytest
import tensorflow as tf
from networks import build_shallow

import golden_numbers
from benchmarks import plain
from pixel_snail import steps
from pixel_snail.optimizer import PolyakAdam


@pytest.mark.parametrize("name", ["h6_shift", "model"])
def test_the_plain_network_takes_the_same_steps_and_gives_the_same_loss(name):
    golden = golden_numbers.load(name)
    batches = [tf.constant(np.round(x * 127.5 + 127.5).astype(np.uint8)) for x in golden["x"]]
    model, plain_model = (build_shallow(name, (8, 8, 3), np.random.default_rng(0), dropout_p=0.0) for _ in range(2))
    plain_model.set_weights(model.get_weights())
    optimizer = PolyakAdam(lr_decay=1.0)
    optimizer.build(model.trainable_variables)
    step = steps.train_step(tf.distribute.get_strategy(), model, optimizer, seed=0)
    losses = [float(step({"images": batch})) for batch in batches]
    plain_step = plain.train_step(plain_model)
    plain_losses = [float(plain_step(batch)) for batch in batches]
    np.testing.assert_allclose(plain_losses, losses, rtol=1e-5)
    loss = float(plain.evaluation_step(plain_model)(batches[0]))
    np.testing.assert_allclose(float(plain.evaluation_step(model)(batches[0])), loss, rtol=1e-5)
