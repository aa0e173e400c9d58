"""Calls from several threads give what the same calls give one after another."""

import concurrent.futures

import numpy as np
import pytest
from networks import add_spec

import pixel_snail
from benchmarks.counted_training import ONE_BLOCK
from pixel_snail.backend import keras

SHAPE = (4, 4, 3)
THREADS = 8


@pytest.fixture(scope="module")
def two_models():
    """Two networks of one block, with different parameters. Nothing has been compiled for them yet."""
    images = np.random.default_rng(0).integers(0, 256, [8, *SHAPE], np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        add_spec(patch, "h1", ONE_BLOCK)
        models = []
        for seed in (0, 1):
            keras.utils.set_random_seed(seed)
            model = pixel_snail.build("h1", image_shape=SHAPE, nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
            model.initialise(images)
            models.append(model)
        yield models


def calls_of(model, images):
    """Calls of every kind whose results are exact, by names that the same calls of another model share."""
    calls = {f"sample {seed}": lambda seed=seed: model.sample(3, seed=seed, verbose=0) for seed in range(6)}
    calls["draw"] = lambda: model.draw(9, temperature=0.7, verbose=0)
    calls["complete"] = lambda: model.complete(images, keep_rows=2, seed=3, verbose=0)
    for number in (2, 5):
        some = images[:number]
        calls[f"bits of {number}"] = lambda some=some: model.bits_per_dim(some, verbose=0)
        calls[f"compress {number}"] = lambda some=some: model.compress(some, verify=False, verbose=0)
        calls[f"compress and verify {number}"] = lambda some=some: model.compress(some, verbose=0)
        calls[f"decompress {number}"] = lambda some=some: model.decompress(
            model.compress(some, verify=False, verbose=0), verbose=0
        )
    return calls


def as_bytes(result):
    return result if isinstance(result, bytes) else result.tobytes()


def test_eight_threads_with_one_model_or_two_get_what_one_thread_gets(two_models):
    """The first calls of both models come at once: what is compiled then is compiled by several threads."""
    images = np.random.default_rng(1).integers(0, 256, [5, *SHAPE], np.uint8)
    calls = {(i, name): call for i, model in enumerate(two_models) for name, call in calls_of(model, images).items()}
    order = [key for seed in range(3) for key in np.random.default_rng(seed).permutation(len(calls))]
    keys = list(calls)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(lambda i: as_bytes(calls[keys[i]]()), order))
    expected = {key: as_bytes(call()) for key, call in calls.items()}
    wrong = sorted({keys[i] for i, result in zip(order, results, strict=True) if result != expected[keys[i]]})
    assert not wrong
    for i in range(len(two_models)):
        assert expected[i, "decompress 5"] == images.tobytes()
    assert len({expected[0, f"sample {seed}"] for seed in range(6)}) == 6
    assert expected[0, "draw"] != expected[1, "draw"]


def test_an_error_in_one_thread_leaves_the_model_usable_by_others(two_models, monkeypatch):
    model = two_models[0]
    expected = model.sample(2, seed=9, verbose=0)
    good = model.compress(expected, verbose=0)
    broken = bytearray(good)
    broken[-5] ^= 1

    def attempt(i):
        if i % 2:
            with pytest.raises(pixel_snail.UserError):
                model.decompress(bytes(broken), verbose=0)
        return model.sample(2, seed=9, verbose=0)

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for images in pool.map(attempt, range(2 * THREADS)):
            np.testing.assert_array_equal(images, expected)
