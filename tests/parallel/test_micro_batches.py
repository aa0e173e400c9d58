"""A batch is divided into equal micro-batches: every image is computed once, within the limits given."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail.parallel import devices, micro_batches


@pytest.mark.parametrize("cores", [1, 2, 4, 64])
def test_a_division_is_into_equal_parts_that_keep_the_cores_busy_and_to_the_rounds(cores, monkeypatch):
    monkeypatch.setattr(devices, "number_of_cores", lambda: cores)
    for together, replicas, rounds in itertools.product(range(1, 33), (1, 2, 4), (1, 2, 3)):
        images = together * rounds
        number, at_once = micro_batches.division(images, replicas, rounds)
        assert images % number == 0
        assert 1 <= at_once * images // number <= together
        assert at_once == min(together, max(1, min(cores, 8) // replicas))


@pytest.mark.parametrize("number", [1, 2, 6])
def test_parts_are_summed_and_mapped_as_the_whole(number, rng):
    batch = {"images": tf.constant(rng.normal(size=[6, 4])), "labels": tf.range(6)}

    def products(part, first_image):
        numbers = first_image + tf.range(len(part["labels"]))
        weighted = tf.cast(numbers * part["labels"], tf.float64)[:, None] * part["images"]
        return [tf.reduce_sum(weighted, 0), tf.cast(tf.reduce_sum(numbers), tf.float32)]

    zeros = [tf.zeros([4], tf.float64), tf.zeros([])]
    total, count = tf.function(lambda: micro_batches.summed(products, zeros, batch, number, at_once=2))()
    np.testing.assert_allclose(total, np.square(np.arange(6)) @ batch["images"].numpy(), rtol=1e-12)
    assert count == 15

    def doubled(part):
        return 2 * tf.cast(part["images"], tf.float32) + tf.cast(part["labels"], tf.float32)[:, None]

    mapped = tf.function(lambda: micro_batches.mapped(doubled, batch, number, at_once=2))()
    np.testing.assert_array_equal(mapped, doubled(batch))
