"""What a progress bar says while a function compiles, and what it estimates afterwards."""

import io
import threading

import pytest
from networks import OneStep, add_spec

import pixel_snail
from pixel_snail.backend import tf
from pixel_snail.commands import progress


@pytest.fixture
def bar():
    """A bar of ten steps on a clock of its own, which a test moves: bar.clock[0] is the time in seconds."""
    bar = progress.bar(total=10, file=io.StringIO())
    bar.clock = [0.0]
    bar._time = lambda: bar.clock[0]
    bar.start_t = bar.last_print_t = 0.0
    yield bar
    bar.close()


def step(bar, seconds, compiles=False):
    with progress.step_of(bar):
        if compiles:
            progress.announce_compilation()
        bar.clock[0] += seconds


def test_the_label_stands_as_long_as_each_step_that_compiles_and_no_longer(bar):
    said = []
    for compiles in (True, True, False, True, False):
        with progress.step_of(bar):
            if compiles:
                progress.announce_compilation()
            said.append((bar.postfix or "").startswith("compiling"))
            bar.clock[0] += 20
        assert not bar.postfix
    assert said == [True, True, False, True, False]
    assert "compiling" in bar.fp.getvalue()


def test_steps_that_compile_are_left_out_of_the_time_left(bar):
    for _ in range(4):
        step(bar, seconds=100, compiles=True)
    for _ in range(3):
        step(bar, seconds=2)
    assert bar.n == 7
    bar.refresh()
    assert "[00:06<00:06" in bar.fp.getvalue().splitlines()[-1].split("\r")[-1]  # three steps are left


def test_while_a_function_compiles_no_time_left_is_claimed(bar):
    step(bar, seconds=2)
    with progress.step_of(bar):
        progress.announce_compilation()
        assert "1/10, compiling " in bar.fp.getvalue()


def test_a_silent_bar_stays_silent_and_outside_of_steps_nothing_is_announced(capfd):
    with progress.bar(total=2, disable=True) as silent, progress.step_of(silent):
        progress.announce_compilation()
    progress.announce_compilation()
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_compilation_counts_no_step_and_leaves_no_thread(bar):
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt), progress.step_of(bar):
        progress.announce_compilation()
        raise KeyboardInterrupt
    assert bar.n == 0
    assert threading.active_count() == threads


def test_the_first_call_of_each_method_says_that_it_compiles_and_later_ones_do_not(
    monkeypatch, capfd, uncompiled_drawing
):
    add_spec(monkeypatch, "h0", OneStep)
    model = pixel_snail.build("h0", image_shape=(4, 4, 3), nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
    images = tf.zeros([2, 4, 4, 3], tf.uint8)
    for call in (model.bits_per_dim, model.compress, lambda images: model.sample(2)):
        call(images)
        assert "compiling" in capfd.readouterr().err
        call(images)
        assert "compiling" not in capfd.readouterr().err
