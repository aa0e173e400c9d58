"""Tests benchmarks.priors: the peer's network, ours with codes, and what is printed of a small program."""

import functools
import json
import sys

import numpy as np
import pytest
from networks import add_spec

from benchmarks import contest, contest_ours, contest_pixelcnn, peers, priors
from benchmarks.counted_training import ONE_BLOCK
from pixel_snail import steps

PROGRAM = functools.partial(contest.Contestant, sys.executable, "tests.counting_program")


def settings_of(folder, codes, levels):
    """The settings of a program for codes [N, H, W, 1]."""
    return peers.save_images(folder, codes, codes) | {"batch_size": 2, "levels": levels}


@pytest.fixture
def peer(tmp_path, rng):
    """The peer's network for maps of 2x2 codes from 0 to 2, with outputs of order 1."""
    network = contest_pixelcnn.PixelCNN(settings_of(tmp_path, np.zeros([2, 2, 2, 1], np.uint8), 3))
    kernel, bias = network.model.layers[-1].weights
    kernel.assign(rng.normal(0, 4, kernel.shape))
    bias.assign([0, 1, 2])
    return network


EVERY_MAP = np.reshape(list(np.ndindex(3, 3, 3, 3)), [81, 2, 2, 1]).astype(np.uint8)
"""All 81 maps of 2x2 codes from 0 to 2, [81, 2, 2, 1]."""


def test_the_peer_predicts_each_code_from_the_codes_before_it_only(tmp_path, rng):
    codes = rng.integers(0, 7, [2, 7, 7, 1], np.uint8)
    network = contest_pixelcnn.PixelCNN(settings_of(tmp_path, codes, 7))
    for y, x in ((0, 0), (3, 3), (5, 1)):
        changed = codes.copy()
        changed[:, y, x] = (codes[:, y, x] + 3) % 7
        differs = (network.outputs(codes) != network.outputs(changed)).any((0, 3)).ravel()
        assert not differs[: y * 7 + x + 1].any() and differs[y * 7 + x + 1 :].any()
    assert contest._functions(network, settings_of(tmp_path, codes, 7))["is_causal"]()


def test_the_peer_s_likelihoods_sum_to_one_and_are_the_cross_entropy(peer):
    nats = peer.nats(EVERY_MAP)
    assert np.exp(-nats.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
    probabilities = np.exp(peer.outputs(EVERY_MAP).astype(np.float64))
    probabilities /= probabilities.sum(-1, keepdims=True)
    by_hand = -np.log(np.take_along_axis(probabilities, EVERY_MAP.astype(int), -1)).sum((1, 2, 3))
    np.testing.assert_allclose(nats, by_hand, rtol=1e-5)
    assert np.ptp(nats) > 1


def test_the_peer_learns_and_its_learning_rate_falls_to_0_if_asked(peer):
    codes = EVERY_MAP[:8]
    before = peer.nats(codes).mean()
    for _ in range(5):
        peer.step(codes, done=0.9)
    after = peer.nats(codes).mean()
    assert after < before
    peer.lr_to_zero = True
    peer.step(codes, done=1.0)
    assert peer.nats(codes).mean() == after


def test_the_peer_draws_codes_with_the_probabilities_of_its_network(peer):
    expected = np.exp(-peer.nats(EVERY_MAP))
    numbers = peer.draw(3000).reshape(3000, 4) @ [27, 9, 3, 1]  # of the drawn maps in EVERY_MAP
    found = np.bincount(numbers, minlength=81) / 3000
    assert np.ptp(expected) > 0.05
    assert (np.abs(found - expected) < 5 * np.sqrt(expected / 3000) + 1e-3).all()


def test_the_peer_s_parameters_are_counted_with_and_without_those_that_masks_hide(tmp_path):
    codes = np.zeros([2, 7, 7, 1], np.uint8)
    first, middle, one, last = 128 * 128, 128 * 64, 128 * 128 + 128, 128 * 128 + 128
    block = one + 64 + (64 * 128 + 128)
    outside = 128 + 2 * block + 2 * one + last
    number, used = contest_pixelcnn.PixelCNN(settings_of(tmp_path, codes, 128)).parameters()
    assert number == 49 * first + 2 * 9 * middle + outside
    assert used == 24 * first + 2 * 5 * middle + outside


def test_our_program_predicts_codes_and_its_learning_rate_falls_to_0(tmp_path, rng, monkeypatch):
    add_spec(monkeypatch, "h1", ONE_BLOCK)
    monkeypatch.setattr(steps, "train_step", lambda *arguments, **settings: lambda batch: 0.0)
    codes = rng.integers(0, 7, [4, 4, 4, 1], np.uint8)
    settings = priors.OURS | settings_of(tmp_path, codes, 7) | {"model": "h1", "nr_filters": 4}
    network = contest_ours.OurNetwork(settings)
    functions = contest._functions(network, settings)
    assert network.outputs(codes).shape == (4, 4, 4, 7)
    assert functions["is_causal"]()
    functions["initialise"](4)
    for done, factor in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        network.step(codes, done)
        assert float(network.optimizer.lr_factor) == pytest.approx(factor)


def test_a_line_is_printed_for_each_measurement_and_training(tmp_path, rng, capsys):
    codes = rng.integers(0, 128, [130, 7, 7, 1], np.uint8)
    settings = peers.save_images(tmp_path, codes, codes) | {"levels": 128}
    priors.compare(PROGRAM, PROGRAM, settings, seconds=0, minutes=1e-6)
    *compared, drawn, ours, peer, falling = map(json.loads, capsys.readouterr().out.splitlines())
    assert [of["batch_size"] for of in compared] == [32, 128]
    assert drawn["images"] == 100 and drawn["peers_compiling_seconds"] >= 0
    names = [of["network"] for of in (ours, peer, falling)]
    assert names == ["h8_noup_smallkey", "PixelCNN", "PixelCNN, learning rate 0.003 to 0"]
    for result in (ours, peer, falling):
        assert result["nats_per_code"] == result["nats_per_code_after"][0] == round(7.99 * np.log(2), 4)
