"""The decoder that runs in TensorFlow reads what constriction writes, value by value."""

import constriction
import numpy as np
import pytest
import tensorflow as tf

from pixel_snail.codec import range_coder
from pixel_snail.codec.range_coder import Decoder, Encoder


def random_tables(rng, number):
    """Distributions from nearly certain to nearly uniform, and values that are drawn from them or very unlikely."""
    probabilities = np.concatenate([rng.dirichlet(np.full(256, a), number // 4) for a in (0.001, 0.02, 0.3, 50)])
    tables = range_coder.cumulative_frequencies(tf.constant(probabilities.cumsum(1)[:, :-1], tf.float32)).numpy()
    rng.shuffle(tables)
    drawn = (tables <= rng.integers(1, range_coder.TOTAL - 1, [len(tables), 1])).sum(1) - 1
    return tables, np.where(rng.random(len(tables)) < 0.7, drawn, rng.integers(0, 256, len(tables)))


def encoded(tables, values):
    encoder = Encoder()
    rows = np.arange(len(values))
    for part in np.array_split(rows, 3):
        encoder.write(tables[part, values[part]], tables[part, values[part] + 1])
    return encoder.words()


def decoded(tables, words, is_coded=None, jit=False):
    padded = np.concatenate([words, np.zeros(len(tables) + 2, np.uint32)])
    read = tf.function(lambda decoder, *inputs: decoder.read(*inputs), jit_compile=jit)
    decoder = tf.nest.map_structure(tf.constant, Decoder.begin(padded))
    return read(decoder, tf.constant(tables), tf.ones([len(tables)], tf.bool) if is_coded is None else is_coded)


@pytest.mark.parametrize("jit", [False, True])
def test_values_come_back(jit, rng):
    tables, values = random_tables(rng, 1200)
    words = encoded(tables, values)
    ideal = (range_coder.BITS - np.log2(np.diff(tables)[np.arange(len(values)), values])).sum()
    assert ideal < 32 * len(words) < ideal + 64
    read, after = decoded(tables, words, jit=jit)
    np.testing.assert_array_equal(read, values)
    assert len(words) <= after.position <= len(words) + 2


def test_constrictions_own_decoder_reads_the_same(rng):
    tables, values = random_tables(rng, 400)
    ends = np.full([len(tables), 1], range_coder.TOTAL)
    all_258 = np.diff(np.concatenate([0 * ends, tables, ends], 1)) - 1
    decoder = constriction.stream.queue.RangeDecoder(encoded(tables, values))
    family = constriction.stream.model.Categorical(perfect=False)
    np.testing.assert_array_equal(decoder.decode(family, all_258.astype(np.float64)) - 1, values)


def test_values_that_are_not_coded_take_nothing(rng):
    tables, values = random_tables(rng, 400)
    is_coded = rng.random(len(values)) < 0.5
    words = encoded(tables[is_coded], values[is_coded])
    read, _ = decoded(tables, words, is_coded)
    np.testing.assert_array_equal(read.numpy()[is_coded], values[is_coded])


def test_any_words_give_some_values_and_no_error(rng):
    tables, _ = random_tables(rng, 400)
    for words in (rng.integers(0, 2**32, 100, np.uint32), np.full(400, 2**32 - 1, np.uint32), np.zeros(3, np.uint32)):
        read, _ = decoded(tables, words)
        assert 0 <= read.numpy().min() <= read.numpy().max() <= 255
