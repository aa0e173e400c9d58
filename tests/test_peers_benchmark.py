"""Tests benchmarks.peers: with a small program in place of both networks, and with our network."""

import functools
import json
import sys
import types

import numpy as np
import pytest
from networks import OneStep, add_spec

from benchmarks import contest, contest_ours, peers
from pixel_snail.errors import UserError

PROGRAM = functools.partial(contest.Contestant, sys.executable, "tests.counting_program")


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, [12, 8, 8, 3], np.uint8)


@pytest.fixture
def settings(tmp_path, images):
    return peers.save_images(tmp_path, images[:7], images[7:]) | {"nr_filters": 4, "batch_size": 2}


def test_images_are_shuffled_and_none_is_lost(settings, images):
    for name, given in (("train", images[:7]), ("test", images[7:])):
        shuffled = np.load(settings[name])
        assert not np.array_equal(shuffled, given)
        assert sorted(image.tobytes() for image in shuffled) == sorted(image.tobytes() for image in given)


def test_two_programs_are_measured_in_turns(settings):
    result = peers.compared(PROGRAM, PROGRAM, settings, seconds=0)
    assert (result["parameters"], result["peers_parameters"], result["peers_used_parameters"]) == (3, 3, 2)
    for name in ("step_seconds", "evaluation_seconds"):
        assert 0 <= result[name] < 1 and result[f"{name}_ratio"] > 0
    assert result["peak_gb"] == pytest.approx(result["peers_peak_gb"], rel=0.2)
    assert peers.drawn(PROGRAM, PROGRAM, settings)["images"] == peers.DRAWN


def test_grey_images_are_measured_with_the_number_of_sizes(tmp_path, rng, capsys):
    images = rng.integers(0, 256, [40, 28, 28], np.uint8)
    np.save(tmp_path / "digits.npy", images)
    grey, test = peers.grey_images(str(tmp_path / "digits.npy"))
    np.testing.assert_array_equal(grey, images[..., None])
    settings = peers.GREY | peers.save_images(tmp_path, grey, test) | {"sizes": 2}
    peers.print_timings(PROGRAM, PROGRAM, settings, (8, 16), seconds=0)
    *compared, drawn = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(of["batch_size"], of["sizes"]) for of in compared] == [(8, 2), (16, 2)]
    assert drawn["sizes"] == 2 and drawn["drawing_seconds_ratio"] > 0


@pytest.mark.parametrize("images", [np.zeros([5, 28, 28], np.uint8), np.zeros([40, 28, 28, 3], np.uint8)])
def test_images_that_are_not_enough_or_not_grey_are_refused(images, tmp_path):
    np.save(tmp_path / "others.npy", images)
    with pytest.raises(UserError, match=r"others\.npy has uint8 .*: give at least 32 grey images, uint8 \[N, 28, 28\]"):
        peers.grey_images(str(tmp_path / "others.npy"))


def test_training_is_tested_on_every_test_image_and_drawn(settings, tmp_path, monkeypatch):
    result = peers.trained("counting", PROGRAM, settings, minutes=0)
    # One step, and a test after it.
    assert result["steps"] == 1
    assert result["bits_per_dim_after"] == [result["bits_per_dim"]] == [7.99]
    assert result["is_causal"]
    assert not peers.trained("leaking", PROGRAM, settings | {"leaks": True}, minutes=0)["is_causal"]
    peers.draw_curves([result], str(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_seconds_of_tests_and_between_turns_do_not_count(monkeypatch):
    """A step takes a second, a test 10, and 100 pass between two turns."""
    now, parts_done = [0.0], []
    monkeypatch.setattr(contest, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

    def passes(seconds):
        now[0] += seconds

    network = types.SimpleNamespace(
        step=lambda images, done: (parts_done.append(done), passes(1)),
        prepare=lambda: passes(10),
        nats=lambda images: np.zeros(len(images)),
    )
    images = np.zeros([7, 2, 2, 1], np.uint8)
    training = contest._train(network, images, images, batch_size=2, seconds=8, turn=2.5, started=0)
    for steps in (3, 6):
        assert next(training) is None
        assert len(parts_done) == steps
        passes(100)
    assert next(training) == [(1.0, 1, 0.0), (9.0, 9, 0.0)]
    assert parts_done == [step / 8 for step in range(9)]


def test_a_program_that_ends_is_named(settings):
    with PROGRAM(settings) as program, pytest.raises(RuntimeError, match=r"tests\.counting_program ended in step"):
        for _ in range(101):
            program.step()


def test_our_program_learns_and_knows_whether_it_is_causal(settings):
    names = ("nr_resnet", "nr_logistic_mix", "resnet_nonlinearity", "dropout_p")
    of_network = dict(zip(names, (1, 2, "elu", 0.0), strict=True)) | {"model": "h6_shift"}
    network = contest_ours.OurNetwork(settings | of_network)
    functions = contest._functions(network, settings)
    functions["initialise"](5)
    functions["step"]()
    images = np.load(settings["test"])
    network.prepare()
    before = network.nats(images[:2])
    for _ in range(20):
        network.step(images[:2])
    network.prepare()
    assert (network.nats(images[:2]) < before).all()
    assert functions["is_causal"]()
    leaking = contest_ours.OurNetwork(settings | of_network | {"model": "h6_hier4"})
    assert not contest._functions(leaking, settings)["is_causal"]()


def test_our_program_makes_a_grey_network_from_grey_images(tmp_path, rng, monkeypatch):
    add_spec(monkeypatch, "h0", OneStep)
    images = rng.integers(0, 256, [3, 8, 8, 1], np.uint8)
    settings = peers.GREY | peers.save_images(tmp_path, images, images) | {"batch_size": 2, "model": "h0"}
    network = contest_ours.OurNetwork(settings)
    assert network.outputs(images).shape == (3, 8, 8, 3 * peers.GREY["nr_logistic_mix"])
    assert contest._functions(network, settings)["is_causal"]()
