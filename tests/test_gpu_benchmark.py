"""`python -m benchmarks.gpu` runs to its end without a GPU, and reports what fails."""

import concurrent.futures
import json

import pytest
from networks import add_spec

import golden_numbers
from benchmarks import gpu, measuring, sampling, training
from benchmarks.counted_training import ONE_BLOCK
from pixel_snail.kernels import dropout

TINY = "--model=h1 --nr_resnet=1 --nr_filters=4 --nr_logistic_mix=2 --batch_size=2 --image_size=4".split()
FEW = ["--networks", "h6_shift", "--seconds=0", "--nr_gpu=2"]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Threads of this process take the place of new processes, each of which would import TensorFlow."""
    for module in (measuring, training):
        monkeypatch.setattr(module, "new_process", lambda **named: concurrent.futures.ThreadPoolExecutor(1, **named))
    monkeypatch.setattr(training, "MATRIX", 64)
    add_spec(monkeypatch, "h1", ONE_BLOCK)


def run(capsys, *flags):
    """Runs the benchmark; returns the exit code, the results by check, and the rows of the table."""
    with pytest.raises(SystemExit) as exit_:
        gpu.main([*TINY, *FEW, *flags])
    lines, _, table = capsys.readouterr().out.partition("\n\n")
    results = [json.loads(line) for line in lines.splitlines()]
    header, dashes, *rows = table.splitlines()
    assert (header, dashes) == ("| check | result |", "| --- | --- |")
    rows = dict(row.strip("| ").split(" | ") for row in rows)
    assert [result["check"] for result in results] == list(rows)
    return exit_.value.code, {result["check"]: result for result in results}, rows


def test_all_checks_run_on_logical_cpu_devices_and_pass(capsys, monkeypatch):
    # Steps and samples of a whole network take long; tests/test_training.py and tests/test_sampling.py compare them.
    few = {"steps": 1e-7, "averaged_outputs": 1e-7, "steps_from_checkpoint": 1e-7}
    monkeypatch.setattr(golden_numbers, "errors_of_steps", lambda name: few)
    monkeypatch.setattr(golden_numbers, "error_of_samples", lambda name: 1e-6)
    code, results, rows = run(capsys)
    assert code == 0
    assert not any("failed" in result for result in results.values())
    name = "h1, F 4, 4x4"
    assert list(results) == [
        "devices",
        "golden numbers, float32",
        "random words",
        f"2 replicas, {name}",
        f"training, {name}, float32, batch 2",
        f"training, {name}, bfloat16, batch 2",
        f"sampling, {name}, batch 2",
    ]
    assert results["devices"]["gpus"] == 0
    assert rows["devices"].startswith("CPU, ")
    errors = results["golden numbers, float32"]["largest_errors"]
    assert errors.keys() == gpu.ALLOWED.keys()
    # On a CPU, the errors stay within the tests' tolerances. The benchmark allows ten times as much.
    assert all(error < gpu.ALLOWED[what] / 10 for what, error in errors.items())
    replicas = results[f"2 replicas, {name}"]
    assert replicas["global_batch"] == 4
    assert replicas["losses_error"] < 1e-5
    assert replicas["parameters_apart"] == 0
    assert results[f"training, {name}, bfloat16, batch 2"]["bfloat16"]
    assert all(results[check]["peak_gb"] > 0 for check in list(results)[4:])


def test_what_fails_is_told_and_the_rest_goes_on(capsys, monkeypatch):
    def out_of_memory(*arguments):
        raise RuntimeError("out of memory\nand a long story")

    words = iter(range(100))
    monkeypatch.setattr(golden_numbers, "errors_of_a_batch", lambda name: {"outputs": 0.5})
    monkeypatch.setattr(golden_numbers, "errors_of_steps", lambda name: {"steps": 1e-9})
    monkeypatch.setattr(golden_numbers, "error_of_samples", out_of_memory)
    monkeypatch.setattr(dropout, "random_words", lambda *_: dropout.tf.zeros([4, 2]) + next(words))
    monkeypatch.setattr(training, "measure", out_of_memory)
    monkeypatch.setattr(sampling, "measure", out_of_memory)
    monkeypatch.setattr(gpu, "replicas_and_one", out_of_memory)
    code, results, rows = run(capsys)
    assert code == 1
    assert "failed" not in results["devices"]
    reasons = {check: result.get("failed") for check, result in results.items()}
    assert reasons["golden numbers, float32"] == (
        "h6_shift: RuntimeError: out of memory; h6_shift: the error of outputs is 5.0e-01, above 1e-05"
    )
    assert reasons["random words"] == "at rate 0.5, 100% of the random words differ"
    for check in list(results)[3:]:
        assert reasons[check] == "RuntimeError: out of memory"
        assert rows[check] == "failed: RuntimeError: out of memory"
