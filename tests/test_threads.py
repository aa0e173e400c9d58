"""Calls from several threads give what the same calls give one after another."""

import concurrent.futures
import itertools
import re
import threading

import numpy as np
import pytest
from networks import add_spec, build_shallow

import pixel_snail
from benchmarks.counted_training import ONE_BLOCK
from pixel_snail import sampling
from pixel_snail.backend import keras
from pixel_snail.codec import container
from pixel_snail.commands import progress
from pixel_snail.distribution import Distribution
from pixel_snail.parallel import devices

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


@pytest.fixture
def on_cores(monkeypatch):
    """Makes this machine look as if it had so many cores."""
    return lambda cores: monkeypatch.setattr(devices, "number_of_cores", lambda: cores)


def results_of_all_kinds(model, workers):
    """Draws, completions, a file and its images: more images than a batch, a number that fills no batch, and one."""
    rng = np.random.default_rng(2)
    images, masks = rng.integers(0, 256, [11, *SHAPE], np.uint8), rng.random([11, *SHAPE[:2]]) < 0.5
    labels = {n: None if model.nr_labels is None else np.arange(n) % model.nr_labels for n in (1, 11, 17)}
    file = model.compress(images, labels[11], batch_size=2, workers=workers, verbose=0)
    return [
        model.draw(17, labels[17], seed=3, workers=workers, verbose=0).tobytes(),
        model.sample(1, labels[1], seed=4, workers=workers, verbose=0).tobytes(),
        model.complete(images, 2, labels[11], seed=5, workers=workers, verbose=0).tobytes(),
        model.complete(images, labels=labels[11], mask=masks, seed=5, workers=workers, verbose=0).tobytes(),
        container.read(file)[1],  # without the header, which records the number of cores
        model.decompress(file, workers=workers, verbose=0).tobytes(),
    ]


@pytest.mark.parametrize(
    "name, nr_labels, numbers",
    [("h6_shift", None, [1, 2, 3, 8, None]), ("h8_noup_smallkey_ar_chs", 3, [3]), ("pxpp", None, [2])],
)
def test_any_number_of_workers_gives_the_same_images_and_files(
    name, nr_labels, numbers, on_cores, uncompiled_drawing, rng
):
    network = build_shallow(name, SHAPE, rng, nr_labels=nr_labels)
    on_cores(1)
    expected = results_of_all_kinds(Distribution(network), None)
    on_cores(8)
    model = Distribution(network)
    for workers in numbers:
        assert results_of_all_kinds(model, workers) == expected, workers


def test_compiled_functions_give_every_worker_the_same_images_and_files(two_models, on_cores):
    on_cores(3)
    fresh = Distribution(two_models[0].network)
    assert results_of_all_kinds(fresh, None) == results_of_all_kinds(two_models[0], 1)


def test_fewer_batches_are_computed_at_once_where_memory_does_not_suffice_for_more(on_cores, rng, monkeypatch):
    network = build_shallow("h6_shift", SHAPE, rng)
    on_cores(16)
    needed = sampling._needed(network, 8)
    for free, at_once in ((1.5, 1), (3.5, 3), (100, 16)):
        monkeypatch.setattr(devices, "available_memory", lambda free=free: int(free * needed))
        assert sampling.most_at_once(network, 8) == at_once
    monkeypatch.setattr(devices, "available_memory", lambda: needed // 2)
    with pytest.raises(pixel_snail.UserError, match="computing 8 images at a time"):
        sampling.most_at_once(network, 8)
    monkeypatch.setattr(devices, "number_of_gpus", lambda: 1)
    assert sampling.most_at_once(network, 8) == 1


def test_one_progress_bar_counts_the_rows_of_all_batches(two_models, capfd):
    two_models[0].sample(17, workers=2)
    assert re.search(r"sampling 17 images: 100%.* 12/12 ", capfd.readouterr().err)


def test_an_interrupted_drawing_leaves_no_thread_and_a_usable_model(two_models, monkeypatch):
    model, threads = two_models[0], threading.enumerate()
    expected = model.sample(17, seed=1, verbose=0)
    rows = itertools.count()

    def interrupted(*arguments):
        if next(rows) == 3:
            raise KeyboardInterrupt
        return step_of(*arguments)

    step_of = progress.step_of
    with monkeypatch.context() as patch:
        patch.setattr(progress, "step_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.sample(17, seed=1, verbose=0)
    assert [thread for thread in threading.enumerate() if thread not in threads] == []
    np.testing.assert_array_equal(model.sample(17, seed=1, verbose=0), expected)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_a_wrong_number_of_workers_is_one_line(workers, two_models):
    for call in (two_models[0].sample, two_models[0].draw):
        with pytest.raises(pixel_snail.UserError, match=r"workers=.* is not a whole number above 0"):
            call(2, workers=workers, verbose=0)
