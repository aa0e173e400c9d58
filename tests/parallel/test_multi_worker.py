"""Several workers, here processes on one machine: they compute what one device computes, and errors are reported."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from worker import run_forked

import train as train_command
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.errors import UserError
from pixel_snail.parallel.cluster import Cluster
from pixel_snail.runs import history, search

WORKER = [sys.executable, str(Path(__file__).with_name("worker.py"))]
PATHS = {"PYTHONPATH": os.pathsep.join(map(str, Path(__file__).resolve().parents[:3]))}
NETWORK = ["--model=h0", "-q1", "-n4", "-m2", "--data_set=tiny"]
TRAINING = [*NETWORK, "-a4", "-p0", "-x2", "-t1", "--polyak_decay=0.5"]
SECONDS = 200
"""A time limit that no process reaches, including its start and compilation."""


class Forked:
    """A process forked from one that has imported TensorFlow: it starts at once. As subprocess.Popen otherwise."""

    def __init__(self, *arguments):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["worker"])
        self._process = context.Process(target=run_forked, args=arguments)
        with pytest.MonkeyPatch.context() as patch:  # the server finds the module only so, and its absence is silent
            patch.setenv("PYTHONPATH", PATHS["PYTHONPATH"])
            self._process.start()
        self.kill = self._process.kill

    def poll(self):
        return self._process.exitcode

    def wait(self, seconds=None):
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise TimeoutError
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self._process.pid, number)


@pytest.fixture
def start(tmp_path):
    """start(command, flags of worker 0, flags of worker 1, ...) starts the workers and returns their processes."""
    processes = []

    def start(command, *flags_of_each, fork=True):
        sockets = [socket.socket() for _ in flags_of_each]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
        for one in sockets:
            one.close()
        started = []
        for index, flags in enumerate(flags_of_each):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = os.environ | PATHS | {"TF_CONFIG": json.dumps(config)}
            out, err = (tmp_path / f"{name}{len(processes)}" for name in ("out", "err"))
            if fork:
                process = Forked(command, flags, environment, str(out), str(err))
            else:
                process = subprocess.Popen(
                    [*WORKER, command, *flags],
                    env=environment,
                    stdout=out.open("w"),
                    stderr=err.open("w"),
                    start_new_session=True,
                )
            process.out, process.err = out, err
            for path in (out, err):
                path.touch()
            processes.append(process)
            started.append(process)
        return started

    yield start
    for process in processes:
        process.kill()
        process.wait()


def codes(processes):
    """Waits for the processes and returns their exit codes."""
    return [process.wait(SECONDS) for process in processes]


def told(process):
    """The lines on a process's stderr, except progress bars and messages about waiting."""
    lines = re.split(r"[\r\n]+", process.err.read_text())
    return [line for line in lines if line.strip() and "waiting for" not in line and not re.search(r"\d+%\|", line)]


def wait_until_saved_twice(chief):
    patience = time.time() + SECONDS
    while chief.out.read_text().count("saved") < 2:
        assert time.time() < patience
        assert chief.poll() is None, told(chief)
        time.sleep(0.1)


def steps_taken(prefix):
    return Checkpoint(prefix).read(["pixel_snail/steps_taken"])[0]


def logged(folder):
    """The figures in the print.log below a folder, by name."""
    (log,) = folder.rglob("print.log")
    return {
        name: [float(line.split()[1]) for line in log.read_text().splitlines() if line.startswith(f"{name} ")]
        for name in ("lr", "train_bpd", "test_bpd")
    }


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """The folder of a finished run on one device, in batches of four images."""
    folder = tmp_path_factory.mktemp("one")
    flags = [*TRAINING, "-b4", "--sample_interval=0", f"-o{folder}"]
    assert Forked("train", flags, {"TF_CONFIG": ""}, os.devnull, str(folder / "err")).wait(SECONDS) == 0
    return folder


@pytest.mark.parametrize("replicas, extra", [(1, ["--sample_interval=2"]), (2, ["--sample_interval=0"])])
def test_two_workers_take_the_steps_of_one_device_and_only_the_chief_writes(
    one_device, start, tmp_path, replicas, extra
):
    flags = [*TRAINING, *extra, f"-b{2 // replicas}", f"--nr_gpu={replicas}"]
    # The first two are programs of their own, to their end.
    flags_of_each = ([*flags, f"-o{tmp_path / name}"] for name in ("chief", "other"))
    workers = start("train", *flags_of_each, fork=replicas == 2)
    assert codes(workers) == [0, 0], [told(worker) for worker in workers]
    assert workers[1].out.read_text() == ""
    assert told(workers[1]) == []
    assert not (tmp_path / "other").exists()
    assert len(list((tmp_path / "chief").rglob("*samples.png"))) == (1 if extra == ["--sample_interval=2"] else 0)

    expected, actual = logged(one_device), logged(tmp_path / "chief")
    assert len(actual["test_bpd"]) == 2
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, err_msg=name)
    readers = [tf.train.load_checkpoint(search.find(str(path)).prefix) for path in (one_device, tmp_path / "chief")]
    for name in readers[0].get_variable_to_shape_map():
        expected, actual = (reader.get_tensor(name) for reader in readers)
        if name.startswith("model/"):  # 1% of the change in one step
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5, err_msg=name)
    assert readers[1].get_tensor("Variable") == 9


def test_gradients_are_averaged_over_machines_if_asked(one_device, start, tmp_path):
    flags = [*TRAINING, "-x1", "-b2", "--average_machines", "--sample_interval=0", f"-o{tmp_path}"]
    workers = start("train", flags, flags)
    assert codes(workers) == [0, 0], [told(worker) for worker in workers]
    summed = tf.train.load_checkpoint(str(next(one_device.rglob("0/*.index")))[: -len(".index")])
    averaged = tf.train.load_checkpoint(search.find(str(tmp_path)).prefix)
    numbers = [name[len("Variable_") :] for name in summed.get_variable_to_shape_map() if name.startswith("Variable_")]
    # Odd numbers are v, even ones m. Adam's epsilon makes the parameters, and so later gradients, differ a little.
    for parity, factor in ((1, 4), (0, 2)):
        names = [f"Variable_{number}" for number in numbers if int(number) % 2 == parity]
        expected, actual = (
            np.concatenate([reader.get_tensor(name).ravel() for name in names]) for reader in (summed, averaged)
        )
        np.testing.assert_allclose(factor * actual, expected, rtol=0, atol=0.01 * np.abs(expected).max())


def test_two_workers_evaluate_every_image_once(one_device, start, tmp_path):
    flags = [f"-r{one_device}", "-b1", f"-o{tmp_path}/pictures"]
    workers = start("eval", *([*flags, f"--json={tmp_path / name}"] for name in ("chief", "other")))
    assert codes(workers) == [0, 0], [told(worker) for worker in workers]
    assert workers[1].out.read_text() == ""
    assert not (tmp_path / "other").exists()
    result = json.loads((tmp_path / "chief").read_text())
    assert result["images"] == 5
    assert result["bits_per_dim"] == pytest.approx(logged(one_device)["test_bpd"][-1], rel=1e-5)


def test_workers_go_on_together_and_stop_at_the_same_step_when_the_time_is_over(one_device, start, tmp_path):
    first = next(one_device.rglob("0/*.index"))
    flags = [*TRAINING, "-b2", f"-r{first}", f"-o{tmp_path}/runs", "--max_minutes=0.0001", "--sample_interval=0"]
    workers = start("train", flags, flags)
    assert codes(workers) == [0, 0], [told(worker) for worker in workers]
    so_far = history.read(search.find(f"{tmp_path}/runs"))
    assert (so_far.epoch, so_far.images) == (1, 4)


def test_workers_with_different_checkpoints_refuse_to_go_on(one_device, start, tmp_path):
    flags = [*TRAINING, "-b2", "-x3", f"-o{tmp_path}/runs"]
    files = [next(one_device.rglob(f"{epoch}/*.index")) for epoch in (1, 0)]
    workers = start("train", *([*flags, f"-r{file}"] for file in files))
    assert codes(workers) == [2, 2]
    for worker in workers:
        (line,) = told(worker)
        assert re.search(r"the workers disagree: .* is 2 on the chief \(.*\) and 1 on worker 1 \(127.0.0.1:\d+\)", line)
    assert not (tmp_path / "runs").exists()


def test_workers_with_different_numbers_of_replicas_are_told(start, tmp_path):
    workers = start("train", *([*TRAINING, f"-o{tmp_path}/runs", f"--nr_gpu={number}"] for number in (1, 2)))
    assert codes(workers) == [2, 2]
    for worker in workers:
        (line,) = told(worker)
        assert re.search(r"the number of replicas \(--nr_gpu\) is 1 on the chief .* and 2 on worker 1", line)


def test_a_worker_that_has_read_another_checkpoint_is_told_and_equal_ones_are_not(monkeypatch):
    workers = Cluster(("127.0.0.1:1", "127.0.0.1:2"))
    monkeypatch.setattr(workers, "gather_objects", lambda own: [own, own])
    workers.check_same_checkpoint([tf.zeros([3])])
    of_other = zlib.crc32(np.ones(3, np.float32))
    monkeypatch.setattr(workers, "gather_objects", lambda own: [own, of_other])
    workers.check_same_checkpoint([tf.ones([3])])
    with pytest.raises(UserError, match=r"worker 1 \(127.0.0.1:2\) has read another checkpoint than the chief"):
        workers.check_same_checkpoint([tf.zeros([3])])


def test_a_worker_that_dies_is_told_with_the_checkpoint_to_go_on_from(start, tmp_path):
    flags = [*TRAINING, "-b2", "-x5000", f"-o{tmp_path}/runs", "--sample_interval=0"]
    chief, worker = start("train", flags, flags)
    wait_until_saved_twice(chief)
    worker.send_signal(signal.SIGKILL)
    assert chief.wait(60) == 2
    (line,) = told(chief)
    expected = r"worker 1 \(127.0.0.1:\d+\) has ended .*repeat the command on every worker with --load_params=\S+ckpt"
    assert re.search(expected, line)
    prefix = re.search(r"--load_params=(\S+)", line)[1]
    assert prefix == search.find(f"{tmp_path}/runs").prefix


def test_a_signal_to_one_worker_stops_all_after_the_same_step_and_the_same_command_goes_on(start, tmp_path):
    flags = [*TRAINING, "-b2", f"-o{tmp_path}/runs", "--sample_interval=0", "--resume"]
    chief, worker = start("train", *([*flags, "-x5000"] for _ in range(2)))
    wait_until_saved_twice(chief)
    worker.send_signal(signal.SIGTERM)
    assert codes([chief, worker]) == [0, 0]
    newest = search.find(f"{tmp_path}/runs").prefix
    assert f"stopped by a signal to another worker after {steps_taken(newest)} steps" in chief.out.read_text()
    epochs = history.read(Checkpoint(newest)).epoch + 1
    workers = start("train", *([*flags, f"-x{epochs}"] for _ in range(2)))
    assert codes(workers) == [0, 0], [told(worker) for worker in workers]
    assert f"restored {newest}" in workers[0].out.read_text()
    assert len(history.read(search.find(f"{tmp_path}/runs")).test) == epochs
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_worker_that_does_not_start_is_named(start, tmp_path, monkeypatch):
    monkeypatch.setenv("WAIT_SECONDS", "3")
    flags = [*TRAINING, f"-o{tmp_path}/runs"]
    chief, worker = start("train", flags, flags)
    worker.kill()
    assert chief.wait(SECONDS) == 2
    (line,) = told(chief)
    assert re.search(r"error: no answer from worker 1 \(127.0.0.1:\d+\), after", line)
    assert "one of 2 workers: waiting for the others" in chief.err.read_text()


def test_ctrl_c_ends_a_worker_that_waits_for_the_others_at_once(start, tmp_path):
    flags = [*TRAINING, f"-o{tmp_path}/runs"]
    chief, worker = start("train", flags, flags)
    worker.kill()
    while "waiting for the others" not in chief.err.read_text():
        assert chief.poll() is None
        time.sleep(0.1)
    time.sleep(1)  # it waits only after this message; until then, Ctrl-C gives "interrupted"
    chief.send_signal(signal.SIGINT)
    assert chief.wait(10) == -signal.SIGINT  # long before WAIT_SECONDS are over
    assert "Traceback" not in chief.err.read_text()


TWO = {"worker": ["a:1", "b:2"]}


@pytest.mark.parametrize(
    "config, message",
    [
        ("{", "TF_CONFIG is not JSON"),
        ("[]", 'must have an object "cluster"'),
        ({}, 'must have an object "cluster"'),
        ({"cluster": TWO}, 'must have an object "task"'),
        ({"cluster": TWO, "task": {"type": "worker"}}, 'must have a number "index"'),
        ({"cluster": TWO, "task": {"type": "worker", "index": 2}}, "index 2, but its cluster has 2 of type 'worker'"),
        ({"cluster": TWO, "task": {"type": "worker", "index": -1}}, "index -1, but"),
        ({"cluster": TWO, "task": {"type": "chief", "index": 0}}, "type 'chief', which its cluster does not have"),
        ({"cluster": {"ps": ["a:1"]}}, "a job 'ps'"),
        ({"cluster": {"worker": "a:1"}}, 'a list of "host:port"'),
        ({"cluster": {"worker": ["a", "b"]}}, 'a list of "host:port"'),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}, "one of them twice"),
        ({"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}, "has 2 chiefs"),
    ],
)
def test_mistakes_in_tf_config_get_one_line_and_exit_code_2(monkeypatch, tmp_path, capfd, config, message):
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(SystemExit) as exit_:
        train_command.main([f"-o{tmp_path}/runs"])
    assert exit_.value.code == 2
    stderr = capfd.readouterr().err
    assert stderr.count("\n") == 1
    assert message in stderr
