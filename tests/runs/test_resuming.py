"""Runs that are stopped, killed, given bad batches or a full disk: what they save and report, and how they go on."""

import itertools
import json
import os
import resource
import shutil
import signal
import threading
import time
import types

import numpy as np
import pytest
import tensorflow as tf
from networks import OneStep, add_spec

import data
import eval as eval_command
import golden_numbers
import train as train_command
from benchmarks import reliability
from benchmarks.counted_training import ONE_BLOCK
from pixel_snail import checkpoint, sampling, steps
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.commands import signals, training
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.parallel import batches, devices, multi_worker
from pixel_snail.parallel.cluster import Cluster
from pixel_snail.runs import clock as clocks
from pixel_snail.runs import history, search
from pixel_snail.runs.average import Age
from pixel_snail.runs.folder import RunFolder
from pixel_snail.storage import files
from pixel_snail.storage.reductions import Binarized

FLAGS = ["--model=h0", "-q1", "-n4", "-m2", "--data_set=tiny", "-b2", "-a4", "-t1", "-e0.9"]
STEPS_AN_EPOCH = 5
GREY = np.random.default_rng(0).integers(0, 256, [14, 8, 8, 1], np.uint8)
ASKING = signals.ASKING + signals.WARNING


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    add_spec(monkeypatch, "h0", OneStep)
    add_spec(monkeypatch, "h1", ONE_BLOCK)
    images = np.random.default_rng(0).integers(0, 256, [14, 8, 8, 3], np.uint8)
    images[7] = 255  # `bad_image` makes the loss of this image infinite
    monkeypatch.setitem(data.data_sets, "tiny", lambda _: DataSet(Split(images[:10]), Split(images[10:])))


@pytest.fixture
def train(tmp_path, capfd):
    """Runs train.py; returns its exit code, its standard output and its stderr."""

    def train(*argv):
        with pytest.raises(SystemExit) as exit_:
            train_command.main([*FLAGS, f"-o{tmp_path}/runs", *argv])
        return exit_.value.code, *capfd.readouterr()

    return train


def acting(function, number, action, calls):
    """The function, but calls action() before its call number `number`, from 1; `calls` counts them."""

    def call(*arguments, **keywords):
        calls.append(None)
        if len(calls) == number:
            action()
        return function(*arguments, **keywords)

    return call


def before_call(monkeypatch, module, maker, number, action):
    """Patches module.maker: the function that it returns calls action() before its call number `number`, from 1."""
    make, calls = getattr(module, maker), []
    made = lambda *arguments, **keywords: acting(make(*arguments, **keywords), number, action, calls)
    monkeypatch.setattr(module, maker, made)


def before_test(monkeypatch, module, evaluator, number, action):
    """Patches module.evaluator, a class, to call action() before test number `number`, from 1."""
    kind = getattr(module, evaluator)
    monkeypatch.setattr(kind, "prepared", acting(kind.prepared, number, action, []))


def ask_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


def tensors(folder):
    return reliability.tensors(search.find(str(folder)).prefix)


def scalars(run):
    """What TensorBoard has of a run: by its name, each figure's values by their steps."""
    found = {}
    for file in sorted((run / "tensorboard").iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def names(folder):
    return sorted(path.parent.name for path in folder.rglob("*.ckpt.index"))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The folder of a run of two epochs that the tests of stopped runs compare with: empty until the first has run."""
    return tmp_path_factory.mktemp("whole")


@pytest.mark.parametrize(
    "module, maker, number, saved, steps_taken",
    [
        (steps, "train_step", 8, "1_6", 8),  # with dropout, whose seeds must go on, too
        (steps, "Evaluator", 1, "0_10", 5),
        (steps, "Evaluator", 2, "0_10", 5),  # of the parameters themselves, because the average is young
        (sampling, "batch_drawer", 2, "1", 10),
    ],
    ids=["in a step", "in a test", "in the second test of an epoch", "in sampling"],
)
def test_a_run_stopped_by_a_signal_and_resumed_ends_as_one_that_was_not(
    train, monkeypatch, tmp_path, whole_run, uncompiled_drawing, module, maker, number, saved, steps_taken
):
    argv = ["-x2", "--resume", *([] if module is sampling else ["--sample_interval=0"])]
    with monkeypatch.context() as patched:
        before = before_test if maker == "Evaluator" else before_call
        before(patched, module, maker, number, ask_to_stop)
        code, out, err = train(*argv)
    assert code == 0
    assert "SIGTERM: stopping" in err
    (run,) = (tmp_path / "runs").iterdir()
    newest = search.find(str(run)).prefix
    assert newest == str(run / saved / "params_tiny.ckpt")
    if module is sampling:  # only the last samples are missing
        return
    assert f"stopped by SIGTERM after {steps_taken} steps: repeat the same command to go on from {newest}\n" in out
    assert len(history.read(Checkpoint(newest)).test) == (0 if maker == "Evaluator" else 1)

    assert "test_bpd" not in scalars(run) or maker != "Evaluator"  # nothing is reported that the history lacks

    code, out, _ = train(*argv)
    assert code == 0
    assert f"restored {newest}: h0, 4 filters, {steps_taken} steps taken" in out
    assert list((tmp_path / "runs").iterdir()) == [run]
    if not any(whole_run.iterdir()):
        assert train(*argv, f"-o{whole_run}")[0] == 0
    expected, found = tensors(whole_run), tensors(tmp_path / "runs")
    assert found.keys() == expected.keys()
    assert len(found["pixel_snail/train_bpd"]) == 2 * STEPS_AN_EPOCH
    for name in expected:
        # Equal to the last bit only with one thread, as in the tests of kills.
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-7, err_msg=name)
    told = scalars(run)
    for name in ("train_bpd", "test_bpd", "test_bpd_unaveraged"):
        assert list(told[name]) == [STEPS_AN_EPOCH, 2 * STEPS_AN_EPOCH]
        if name in found:
            np.testing.assert_allclose(list(told[name].values()), found[name][-2:], rtol=1e-6)

    code, out, _ = train(*argv)
    assert code == 0
    assert "nothing is left to do" in out


def test_a_run_with_mutations_that_is_stopped_within_an_epoch_and_resumed_sees_the_values_of_one_that_was_not(
    train, monkeypatch, tmp_path
):
    monkeypatch.setitem(data.data_sets, "grey", lambda _: DataSet(Split(GREY[:10]), Split(GREY[10:])))
    make, seen = steps.train_step, []

    def recording(*arguments, **keywords):
        step = make(*arguments, **keywords)
        return lambda batch: (seen.append(np.asarray(batch["images"])), step(batch))[1]

    monkeypatch.setattr(steps, "train_step", recording)
    argv = ["-x2", "--data_set=grey", "--binarize", "--mutation_rate=0.3", "--sample_interval=0", "--resume"]
    code, out, _ = train(*argv, f"-o{tmp_path}/whole")
    assert code == 0
    note = "each value of the training images is replaced, with the probability 0.3, by one drawn uniformly from 0 to 1"
    assert f"\n{note}, anew in each epoch; the test images stay as they are\n" in out
    expected = np.concatenate(seen)
    unmutated = Binarized(GREY[:10]).in_epoch(42, 0)[:][batches.epoch_order(range(10), 42, 0)]
    assert 0.05 < (expected[:10] != unmutated).mean() < 0.25  # 0.15 is expected
    seen.clear()
    with monkeypatch.context() as patched:
        before_call(patched, steps, "train_step", 3, ask_to_stop)
        assert train(*argv)[0] == 0
    assert len(seen) == 3
    code, _, err = train(*argv[:3], "--mutation_rate=0.2", *argv[4:])
    assert code == 2 and "which had --mutation_rate=0.3 (here --mutation_rate=0.2): repeat its flags" in err
    assert train(*argv)[0] == 0
    np.testing.assert_array_equal(np.concatenate(seen), expected)
    whole, found = tensors(tmp_path / "whole"), tensors(tmp_path / "runs")
    for name in whole:
        np.testing.assert_array_equal(found[name], whole[name], err_msg=name)


def test_what_a_checkpoint_tells_is_in_tensorboard_when_it_is_written(train, monkeypatch, tmp_path):
    """A run may be killed right after it."""
    save, seen = checkpoint.save, []

    def look(prefix, *arguments):
        (run,) = (tmp_path / "runs").iterdir()
        seen.append((len(arguments[2]["test_bpd"]), len(scalars(run).get("test_bpd", ()))))
        save(prefix, *arguments)

    monkeypatch.setattr(checkpoint, "save", look)
    assert train("-x2", "--sample_interval=0")[0] == 0
    assert seen == [(1, 1), (2, 2)]


def test_an_average_is_young_again_after_load_params_and_that_is_told_by_training_and_by_evaluation(
    train, tmp_path, capfd
):
    """5 steps with decay 0.5 leave the initial parameters 3.1%; 5 with 0.9 leave the loaded average 59.0%."""
    first, second, result = tmp_path / "first", tmp_path / "second", tmp_path / "result.json"
    code, out, _ = train("-x1", "--polyak_decay=0.5", "--sample_interval=0", f"-o{first}")
    assert code == 0
    assert "few steps have been averaged" not in out
    argv = ["-x2", "--polyak_decay=0.9", "--sample_interval=0", f"-o{second}", f"-r{first}", "--resume"]
    code, out, _ = train(*argv)
    assert code == 0
    told = "the loaded parameters still have a weight of 59.0% in the average"
    assert f"few steps have been averaged so far: {told}; without averaging, test_bpd is " in out
    assert "initial parameters" not in out

    newest = history.read(search.find(str(second)))
    np.testing.assert_allclose([newest.age.of_initial, newest.age.of_loaded], [0.9**5 * 0.5**5, 0.9**5])
    (run,) = second.iterdir()
    assert scalars(run)["test_bpd_unaveraged"] == {10: pytest.approx(newest.test_unaveraged[1])}
    assert list(newest.test_unaveraged) == [1]

    def evaluated(*argv):
        with pytest.raises(SystemExit) as exit_:
            eval_command.main([f"-r{second}", f"--json={result}", *argv])
        assert exit_.value.code == 0
        return capfd.readouterr().out, json.loads(result.read_text())

    out, figures = evaluated()
    (line,) = (line for line in out.splitlines() if line.startswith("bits/dim: "))
    assert line.endswith(f"; {told}; --raw evaluates the parameters themselves")
    assert figures["weight_of_loaded_average"] == pytest.approx(0.9**5)
    assert figures["weight_of_initial_parameters"] == pytest.approx(0.9**5 * 0.5**5)
    out, figures = evaluated("--raw")
    assert "weight" not in out
    assert figures["weight_of_loaded_average"] is figures["weight_of_initial_parameters"] is None
    assert figures["bits_per_dim"] == pytest.approx(newest.test_unaveraged[1], rel=1e-6)

    # A start that resumes this run is no new run.
    code, out, _ = train("-x3", *argv[1:])
    assert code == 0
    assert f"the loaded parameters still have a weight of {0.9**10:.1%} in the average" in out


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_a_run_that_runs_out_of_memory_says_what_takes_less_and_how_to_go_on(
    has_checkpoint, train, monkeypatch, tmp_path
):
    def out_of_memory():
        text = "OOM when allocating tensor with shape[2,1000,1000,1000] and type float on /job:localhost"
        raise tf.errors.ResourceExhaustedError(None, None, text)

    monkeypatch.setattr(devices, "number_of_cores", lambda: 2)
    before_call(monkeypatch, steps, "train_step", STEPS_AN_EPOCH + 2 if has_checkpoint else 2, out_of_memory)
    code, _, err = train("-x2", "--sample_interval=0")
    assert code == 2
    lines = [line for line in err.splitlines() if "%|" not in line and line.strip()]
    expected = "error: out of memory when 8.0 GB more were asked for: try --recompute, or else --grad_accum=2"
    if not has_checkpoint:
        assert lines == [expected]
        return
    newest = search.find(str(tmp_path)).prefix
    assert lines == [f"{expected}; --load_params={newest} goes on from the last checkpoint"]
    assert train("-x2", "--sample_interval=0", f"-r{newest}", "--recompute")[0] == 0


def test_a_step_that_certainly_does_not_fit_is_refused_before_a_folder_is_made(train, monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "available_memory", lambda: 0)
    monkeypatch.setattr(devices, "own_memory", lambda: 40_000)
    code, _, err = train("-x1", "--model=h1", "--recompute", "--grad_accum=2")
    assert code == 2
    assert err == (
        "error: a training step needs at least 0 MB of memory, and there are 0 MB: lower --nr_filters, --nr_resnet or "
        "--batch_size\n"
    )
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def rates(monkeypatch):
    """The learning rates of the steps taken."""
    make, rates = steps.train_step, []

    def recording(strategy, network, optimizer, *arguments, **keywords):
        step = make(strategy, network, optimizer, *arguments, **keywords)

        def call(batch):
            loss = step(batch)
            rates.append(optimizer.last_learning_rate())
            return loss

        return call

    monkeypatch.setattr(steps, "train_step", recording)
    return rates


def decayed(rates_without_decay):
    return [rate * 1e-3 * 0.9 ** (t + 1) for t, rate in enumerate(rates_without_decay)]


def test_the_learning_rate_falls_to_zero_over_the_epochs_of_a_run_however_often_it_is_resumed(
    train, rates, monkeypatch, tmp_path
):
    argv = ["-x2", "--resume", "--lr_to_zero", "--sample_interval=0"]
    code, out, _ = train(*argv, f"-o{tmp_path}/whole")
    assert code == 0
    number = 2 * STEPS_AN_EPOCH
    expected = decayed((1 + np.cos(np.pi * t / number)) / 2 for t in range(number))
    np.testing.assert_allclose(rates, expected, rtol=1e-6)  # the rate is float32
    told = [float(line.split()[1]) for line in out.splitlines() if line.startswith("lr ")]
    np.testing.assert_allclose(told, [expected[STEPS_AN_EPOCH - 1], expected[-1]], rtol=1e-5)

    rates.clear()
    for in_step in (3, 4, None):
        with monkeypatch.context() as patched:
            if in_step:
                before_call(patched, steps, "train_step", in_step, ask_to_stop)
            assert train(*argv)[0] == 0
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    expected, found = tensors(tmp_path / "whole"), tensors(tmp_path / "runs")
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_the_learning_rate_falls_to_zero_over_the_minutes_of_all_starts(train, rates, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(clocks, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    wall_clock = itertools.cycle([1e9, 1e9 - 3600, 1e9 + 3600])  # is set back and forward all the time
    monkeypatch.setattr(time, "time", lambda: next(wall_clock))
    make = steps.train_step

    def a_second_each(*arguments, **keywords):
        step = make(*arguments, **keywords)

        def call(batch):
            clock[0] += 1
            return step(batch)

        return call

    monkeypatch.setattr(steps, "train_step", a_second_each)
    argv = ["--resume", "--lr_to_zero", f"--max_minutes={8 / 60}", "--sample_interval=0"]
    with monkeypatch.context() as patched:
        before_call(patched, steps, "train_step", 4, ask_to_stop)
        assert train(*argv)[0] == 0
    clock[0] += 1000  # between the two starts
    code, out, _ = train(*argv)
    assert code == 0
    # The first step of each start does not count: 3 of 4 seconds before the stop, and none of the fifth step's.
    seconds = [0, 0, 1, 2, 3, 3, 4, 5, 6, 7, 8]
    expected = decayed((1 + np.cos(np.pi * second / 8)) / 2 for second in seconds)
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)
    assert "ended after 11 steps: --max_minutes=0.133333 are over, in epoch 2\n" in out

    code, out, _ = train(*argv)
    assert code == 0
    assert "has already trained 0.15 minutes, and the limit is --max_minutes=0.133333: nothing is left to do" in out
    assert len(rates) == 11


def test_the_learning_rate_does_not_fall_to_zero_by_default(train, rates, tmp_path):
    assert train("-x1", "--lr_to_zero", "--sample_interval=0")[0] == 0
    rates.clear()
    assert train("-x2", "--sample_interval=0", f"-r{tmp_path}/runs")[0] == 0
    np.testing.assert_allclose(rates, decayed(np.ones(2 * STEPS_AN_EPOCH))[STEPS_AN_EPOCH:], rtol=1e-6)


def test_a_killed_run_that_is_started_again_ends_bit_by_bit_as_one_that_was_not(tmp_path):
    figures = reliability.kills_survived(tmp_path, kills=1, epochs=4)
    assert figures["bit_equal"]
    assert figures["steps"] == 40


@pytest.mark.soak
def test_forty_kills_change_nothing(tmp_path):
    figures = reliability.kills_survived(tmp_path, kills=40)
    assert figures["bit_equal"]
    assert figures["killed_in_saving"] > 0


@pytest.mark.soak
def test_kills_of_a_worker_of_two_change_nothing(tmp_path):
    assert reliability.kills_survived(tmp_path, kills=4, workers=2)["largest_difference"] < 1e-5


def test_an_originals_checkpoint_goes_on_and_what_it_does_not_tell_is_said(train):
    original = golden_numbers.checkpoint("h6_shift")
    code, out, _ = train(f"-r{original}", "--model=h6_shift", "-x1", "--sample_interval=0")
    assert code == 0
    assert f"restored {original}: 3 steps taken" in out
    assert "Adam's state and, by its steps, the learning rate, but no epoch and no figures: epochs count from 0" in out
    assert "going on in epoch 0, after 0 of its images" in out
    assert f"lr {1e-3 * 0.9 ** (3 + STEPS_AN_EPOCH):.6f}"[:-1] in out


def test_other_flags_are_another_run(train, tmp_path):
    assert train("-x1", "--resume", "--sample_interval=0")[0] == 0
    code, _, err = train("-x1", "--resume", "--sample_interval=0", "--seed=3")
    assert code == 2
    assert "which had --seed=42 (here --seed=3): repeat its flags to go on with it, or add --new_run to begin" in err
    assert len(list((tmp_path / "runs").iterdir())) == 1
    code, out, _ = train("-x1", "--resume", "--new_run", "--sample_interval=0", "--seed=3")
    assert code == 0
    assert "has these flags: a new run begins" in out
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_run_in_a_folder_of_any_name_goes_on(train, tmp_path):
    folder = f"-o{tmp_path}/lr[1e-3] *?\\\udcff"
    assert train("-x1", "--resume", "--sample_interval=0", folder)[0] == 0
    code, out, _ = train("-x4", "--resume", "--sample_interval=0", folder, "--keep=1")
    assert code == 0
    assert "going on in epoch 1" in out
    assert 1 <= len(names(tmp_path)) <= 2  # the newest, and the best if it is another


def test_a_run_whose_checkpoints_cant_be_read_is_never_begun_anew(train, tmp_path):
    assert train("-x1", "--resume", "--sample_interval=0")[0] == 0
    (index,) = tmp_path.rglob("*.index")
    index.write_bytes(b"damaged")
    code, _, err = train("-x2", "--resume", "--sample_interval=0")
    assert code == 2
    assert "has these flags, but the only checkpoint below the folder" in err.splitlines()[-1]
    assert "move the run away to begin a new one" in err
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_run_killed_in_its_first_saving_is_begun_anew_and_that_is_said(train, tmp_path):
    assert train("-x1", "--resume", "--sample_interval=0")[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    (run / "0").rename(run / ".writing_0")
    code, out, _ = train("-x1", "--resume", "--sample_interval=0")
    assert code == 0
    assert f"{run} has these flags, but it ended before its first checkpoint was whole: a new run begins" in out


def test_a_run_that_has_not_saved_yet_is_not_begun_a_second_time(train, tmp_path):
    assert train("-x1", "--resume", "--sample_interval=0")[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    shutil.rmtree(run / "0")
    with files.locked(run, when_taken=lambda: None):
        code, _, err = train("-x1", "--resume", "--sample_interval=0")
    assert code == 2 and f"error: another process is training in {run}: wait until it ends" in err
    assert list((tmp_path / "runs").iterdir()) == [run]


def test_copies_of_a_run_and_of_its_checkpoints_are_not_gone_on_from(train, tmp_path):
    assert train("-x1", "--resume", "--sample_interval=0")[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    shutil.copytree(run / "0", run / "kept" / "0")
    shutil.copytree(run, run.with_name(f"{run.name}_backup"))
    assert train("-x2", "--resume", "--sample_interval=0")[0] == 0
    for copy in (run / "kept", run.with_name(f"{run.name}_backup")):  # as if copied later
        for path in copy.rglob("*.index"):
            os.utime(path)
    _, out, _ = train("-x3", "--resume", "--sample_interval=0")
    assert f"restored {run}/1/" in out and names(run) == ["0", "0", "1", "2"]


def test_a_run_with_the_parameters_of_another_says_which_flags_go_on_with_it(train, monkeypatch, tmp_path):
    assert train("-x1", "--sample_interval=0")[0] == 0
    source = search.find(str(tmp_path / "runs")).prefix
    before_call(monkeypatch, steps, "train_step", 3, ask_to_stop)
    code, out, _ = train("-x2", "--sample_interval=0", f"--init_from={source}", "--raw")
    assert code == 0
    newest = search.find(str(tmp_path / "runs")).prefix
    told = f"to go on, repeat the command with --load_params={newest} in place of --init_from and --raw"
    assert newest != source and out.rstrip().endswith(told)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGXCPU])
def test_an_asking_signal_stops_a_run_and_saves(number, plain_signals, train, monkeypatch, tmp_path):
    before_call(monkeypatch, steps, "train_step", 3, lambda: os.kill(os.getpid(), number))
    code, out, err = train("-x1", "--sample_interval=0")
    assert code == 0
    assert f"{number.name}: stopping" in err
    assert ("a second SIGTERM or Ctrl-C ends the run at once, unsaved" in err) == (number == signal.SIGINT)
    assert f"stopped by {number.name} after 3 steps" in out
    assert names(tmp_path) == ["0_6"]


@pytest.fixture
def plain_signals():
    """As at the start of a program in the foreground: tests in a shell's background ignore SIGINT."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in ASKING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ASKING, ids=lambda number: number.name)
def test_every_asking_signal_is_taken_once_or_stays_ignored_and_what_handled_it_before_is_put_back(
    number, plain_signals, capfd
):
    with signals.Signals() as asked:
        os.kill(os.getpid(), number)
        assert asked.received == number.name
        with pytest.raises(signals.Stopped), asked.at_once("ending"):
            pass
    assert f"{number.name}: stopping" in capfd.readouterr().err
    assert signal.getsignal(number) == signal.default_int_handler
    signal.signal(number, signal.SIG_IGN)  # as nohup ignores SIGHUP
    with signals.Signals() as asked:
        os.kill(os.getpid(), number)
        other = next(one for one in (signal.SIGTERM, signal.SIGHUP) if one != number)
        assert asked.received is None
        os.kill(os.getpid(), other)
        assert asked.received == other.name
        os.kill(os.getpid(), number)  # would kill, had it got its default back
    assert signal.getsignal(number) == signal.SIG_IGN


@pytest.mark.parametrize("first", ASKING, ids=lambda number: number.name)
def test_the_second_signal_ends_at_once_unless_one_of_them_only_warns_of_the_end(first, plain_signals):
    with signals.Signals():
        os.kill(os.getpid(), first)
        ends = {number for number in ASKING if signal.getsignal(number) == signal.SIG_DFL}
        assert ends == (set() if first in signals.WARNING else {signal.SIGTERM, signal.SIGINT})
        os.kill(os.getpid(), signal.SIGHUP)  # the system sends it after the shell, when a terminal closes
        for number in signals.WARNING:
            os.kill(os.getpid(), number)
    with pytest.raises(signals.Stopped), signals.Signals() as asked, asked.at_once("ending"):
        os.kill(os.getpid(), first)


def test_a_handler_of_a_library_that_is_not_pythons_stays(plain_signals, monkeypatch):
    get = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGUSR1 else get(number))
    with signals.Signals():
        assert get(signal.SIGUSR1) == signal.default_int_handler
        assert get(signal.SIGUSR2) != signal.default_int_handler
    assert get(signal.SIGUSR2) == signal.default_int_handler


def test_a_run_in_a_thread_that_is_not_the_main_one_handles_no_signals(tmp_path):
    codes = []

    def train():
        try:
            with multi_worker.ctrl_c_kills():
                train_command.main([*FLAGS, f"-o{tmp_path}/runs", "-x1", "--sample_interval=0"])
        except SystemExit as exit_:
            codes.append(exit_.code)

    before = {number: signal.getsignal(number) for number in ASKING}
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert codes == [0]
    assert names(tmp_path) == ["0"]
    assert {number: signal.getsignal(number) for number in ASKING} == before


def test_a_run_stopped_before_its_first_step_has_nothing_to_save(train, monkeypatch, tmp_path):
    before_call(monkeypatch, steps, "train_step", 1, ask_to_stop)
    code, out, err = train("-x2")
    assert code == 0
    assert "SIGTERM: ending: no step is done yet, nothing is to be saved" in err
    assert "unsaved" not in err
    assert "stopped by SIGTERM after 0 steps: start again (nothing is saved yet)" in out
    assert names(tmp_path) == []


def test_the_newest_checkpoints_and_the_best_are_kept(train, monkeypatch, tmp_path):
    test_bpds = iter([5.0, 3.0, 4.0, 4.5, 4.25])
    monkeypatch.setattr(
        logistic_mixture, "bits_per_dim", lambda nats, *_: np.array(next(test_bpds)) if np.ndim(nats) else 5.0
    )
    assert train("-x5", "--keep=2", "--sample_interval=0", "--polyak_decay=0.5")[0] == 0
    assert names(tmp_path) == ["1", "3", "4"]


def test_checkpoints_that_somebody_else_put_into_the_folder_of_a_run_are_kept(train, tmp_path):
    assert train("-x1", "--keep=1", "--sample_interval=0")[0] == 0
    (run,) = tmp_path.glob("runs/*")
    shutil.copytree(run / "0", run / "best")
    for file in (run / "0").iterdir():
        shutil.copy(file, run)
        shutil.copy(file, run / file.name.replace("params", "mine"))
    before = sorted(path.name for path in run.iterdir())
    assert train("-x4", "--keep=1", "--sample_interval=0", "--resume")[0] == 0
    assert set(before) - {"0"} <= {path.name for path in run.iterdir()}
    assert "3" in names(tmp_path) and "best" in names(tmp_path)


def test_the_checkpoint_just_written_is_kept_also_if_one_of_a_later_step_is_damaged(train, monkeypatch, tmp_path):
    test_bpds = itertools.count(3.0)  # the first is the best, and stays
    monkeypatch.setattr(
        logistic_mixture, "bits_per_dim", lambda nats, *_: np.array(next(test_bpds)) if np.ndim(nats) else 5.0
    )
    assert train("-x3", "--keep=0", "--sample_interval=0", "--polyak_decay=0.5")[0] == 0
    (data_file,) = tmp_path.glob("runs/*/2/*.data-*")
    content = bytearray(data_file.read_bytes())
    content[100] ^= 255  # in a parameter
    data_file.write_bytes(content)
    shutil.rmtree(data_file.parent.parent / "1")
    before_call(monkeypatch, steps, "train_step", 2, ask_to_stop)
    _, out, err = train("-x3", "--keep=1", "--sample_interval=0", "--polyak_decay=0.5", "--resume")
    assert "passed over" in err
    (saved,) = [line.removeprefix("saved ") for line in out.splitlines() if line.startswith("saved ")]
    assert search.find(saved).prefix == saved


def test_all_checkpoints_are_kept_if_asked(train, tmp_path):
    assert train("-x5", "--keep=0", "--sample_interval=0")[0] == 0
    assert names(tmp_path) == ["0", "1", "2", "3", "4"]


def test_checkpoints_are_taken_by_the_clock_too(train, tmp_path):
    assert train("-x1", "--keep=0", "--save_minutes=1e-6", "--sample_interval=0")[0] == 0
    assert names(tmp_path) == ["0", "0_10", "0_2", "0_4", "0_6", "0_8"]


@pytest.fixture
def bad_image(monkeypatch):
    """Makes the loss of white images infinite; the gradient stays finite."""
    loss_per_image = logistic_mixture.loss_per_image

    def loss(x, outputs, levels):
        return loss_per_image(x, outputs, levels) + tf.where(tf.reduce_all(x == 1, [1, 2, 3]), np.inf, 0.0)

    monkeypatch.setattr(logistic_mixture, "loss_per_image", loss)


def test_a_loss_that_is_not_finite_stops_the_run_before_it_does_harm(train, bad_image, tmp_path):
    code, _, err = train("-x2", "--save_minutes=1e-6", "--keep=0", "--sample_interval=0")
    assert code == 2
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    place = list(batches.epoch_order(Split(np.zeros(10)), 42, 0)).index(7)
    step = place // 2
    indices = batches.epoch_order(Split(np.zeros(10)), 42, 0)[2 * step : 2 * step + 2]
    assert f"the loss is inf in step {step} of epoch 0, of the training images {indices[0]}, {indices[1]}:" in line
    newest = search.find(str(tmp_path)).prefix
    assert f"--load_params={newest}" in line
    assert tensors(tmp_path)["pixel_snail/steps_taken"] == step
    assert all(np.isfinite(value).all() for value in tensors(tmp_path).values())


def test_a_gradient_that_is_not_finite_stops_the_run_too(train, monkeypatch, tmp_path):
    loss_per_image = logistic_mixture.loss_per_image

    @tf.custom_gradient
    def with_bad_gradient(loss):
        return tf.identity(loss), lambda d: d * float("nan")

    monkeypatch.setattr(logistic_mixture, "loss_per_image", lambda *given: with_bad_gradient(loss_per_image(*given)))
    code, _, err = train("-x2", "--sample_interval=0")
    assert code == 2
    assert "a gradient is not finite in step 0 of epoch 0, of the training images " in err
    assert names(tmp_path) == []


def test_batches_that_are_not_finite_are_passed_over_if_asked(train, bad_image, tmp_path):
    argv = ["-x3", "--keep=0", "--sample_interval=0"]
    code, out, err = train(*argv, "--skip_nonfinite=2")
    assert code == 2
    assert [line.split(": passed over, ")[1] for line in out.splitlines() if line.startswith("warning")] == [
        "1 of --skip_nonfinite=2",
        "2 of --skip_nonfinite=2",
    ]
    assert "in step" in err
    assert names(tmp_path) == ["0", "1"]
    code, out, _ = train("-x3", "--skip_nonfinite=3", "--sample_interval=0", f"-r{tmp_path}/runs")
    assert code == 0
    assert "3 of --skip_nonfinite=3" in out
    found = tensors(tmp_path)
    assert all(np.isfinite(value).all() for value in found.values())
    assert found["pixel_snail/steps_taken"] == 3 * STEPS_AN_EPOCH
    assert len(found["pixel_snail/train_bpd"]) == 3 * STEPS_AN_EPOCH - 3


def test_a_full_disk_does_not_end_training_and_is_told_each_time(train, monkeypatch, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    fill = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    before_call(monkeypatch, steps, "train_step", STEPS_AN_EPOCH + 1, fill)
    try:
        code, out, err = train("-x4", "--model=h1", "--sample_interval=0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert "epoch 3\n" in out
    lines = [line for line in err.splitlines() if line.startswith("warning: can't write") and ".ckpt" in line]
    assert len(lines) == 3
    assert all(line.endswith("; File too large; training goes on") for line in lines)
    assert "{{" not in err
    assert "error: not all of" in err
    assert names(tmp_path) == ["0"]
    assert search.find(str(tmp_path)).prefix


def test_a_folder_that_is_gone_does_not_end_training(train, monkeypatch, tmp_path):
    def lose():
        shutil.rmtree(tmp_path / "runs")
        (tmp_path / "runs").write_text("another thing")

    before_call(monkeypatch, steps, "train_step", STEPS_AN_EPOCH + 1, lose)
    code, out, err = train("-x3", "--sample_interval=0")
    assert code == 2
    assert "epoch 2\n" in out
    lines = [line for line in err.splitlines() if line.startswith("warning: can't write") and ".ckpt" in line]
    assert len(lines) == 2
    assert "Traceback" not in err


def test_a_folder_without_space_for_tensorboard_does_not_end_training(train, monkeypatch, tmp_path):
    def full(path):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.summary, "create_file_writer", full)
    code, _, err = train("-x1", "--sample_interval=0")
    assert (code, names(tmp_path)) == (2, ["0"])
    assert "warning: can't write TensorBoard's summaries: No space left on device; training goes on" in err


def test_a_run_that_another_process_went_on_with_in_the_meantime_is_not_trained_again(train, monkeypatch, tmp_path):
    assert train("-x1", "--sample_interval=0")[0] == 0
    (first,) = tmp_path.glob("runs/*/0")
    build = training.build_network

    def go_on_meanwhile(*arguments, **keywords):
        monkeypatch.setattr(training, "build_network", build)
        assert train("-x2", "--sample_interval=0", "--resume")[0] == 0
        return build(*arguments, **keywords)

    monkeypatch.setattr(training, "build_network", go_on_meanwhile)
    code, _, err = train("-x3", "--sample_interval=0", "--resume")
    assert code == 2
    assert f"another process has trained in {first.parent} since this command read {first}/params_" in err
    assert err.rstrip().endswith(": repeat the command")
    assert train("-x3", "--sample_interval=0", "--resume")[0] == 0


def test_no_two_processes_train_in_one_folder(tmp_path):
    flags = train_command.parse_flags([*FLAGS, f"-o{tmp_path}"])
    folder = RunFolder(flags, Cluster())
    with pytest.raises(UserError, match="another process is training in"):
        RunFolder(flags, Cluster(), folder.path)
    folder.close()
    RunFolder(flags, Cluster(), folder.path).close()


def test_a_checkpoint_that_tells_nonsense_of_its_run_is_refused(tmp_path):
    untold = "has no valid record of its run.s progress"
    for name, value, message in (
        ("epoch", np.int64(-1), untold),
        ("test_bpd", np.zeros(7), untold),
        ("steps_between_tests", np.array([3]), untold),
        ("seconds", np.float64(np.nan), untold),
        ("seconds", np.float64(-3599), "has trained for -3599 s: .* a clock that was set back; begin from an earlier"),
        ("tests_unaveraged", np.array([1]), untold),
        ("weight_of_loaded", np.float64(2), untold),
    ):
        prefix = str(tmp_path / f"{name}_{value}" / "params.ckpt")
        os.mkdir(os.path.dirname(prefix))
        told = history.History(1, 2, [[3.0, 2.5]], [2.25], test_unaveraged={0: 2.0}).tensors() | {name: value}
        tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=[checkpoint.OWN_PREFIX + name for name in told],
            shape_and_slices=[""] * len(told),
            tensors=list(told.values()),
        )
        with pytest.raises(UserError, match=message):
            history.read(Checkpoint(prefix))


def test_an_earlier_versions_checkpoint_goes_on_without_the_figures_that_it_lacks(tmp_path):
    told = history.History(0, 4, [[3.0, 2.5]], [2.25], test_unaveraged={0: 2.0}, age=Age(0.5, 0.25)).tensors()
    for new in ("tests_unaveraged", "test_bpd_unaveraged", "weight_of_initial", "weight_of_loaded"):
        del told[new]
    prefix = str(tmp_path / "0_4" / "params.ckpt")
    os.mkdir(tmp_path / "0_4")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=[checkpoint.OWN_PREFIX + name for name in [*told, "steps_taken"]],
        shape_and_slices=[""] * (len(told) + 1),
        tensors=[*told.values(), np.int64(2)],
    )
    read = lambda: history.read(Checkpoint(prefix))
    assert read() == history.History(0, 4, [[3.0, 2.5]], [2.25], age=Age(None, None))
    (tmp_path / "flags.json").write_text(json.dumps({"polyak_decay": 0.9, "load_params": None}))
    assert read() == history.History(0, 4, [[3.0, 2.5]], [2.25], age=Age(0.9**2, 0.0))
