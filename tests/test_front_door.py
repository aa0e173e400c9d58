"""Before TensorFlow is imported: names of networks, help, typos, missing packages."""

import subprocess
import sys
from pathlib import Path

import pytest

import eval as eval_command
import train
from data import cifar10_plotdata
from pixel_snail import nn, settings
from pixel_snail.commands import inspection
from pixel_snail.model import specs

ROOT = Path(__file__).parents[1]


def test_the_names_known_without_tensorflow_are_those_of_the_networks_and_nonlinearities():
    assert sorted(settings.MODELS) == sorted(specs)
    assert sorted(settings.NONLINEARITIES) == sorted(nn.nonlinearities)


@pytest.mark.parametrize("command", ["train", "eval"])
def test_flags_are_parsed_without_tensorflow(command):
    program = (
        f"import sys, {command}; {command}.parse_flags(['--load_params=x']); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=100)


@pytest.mark.parametrize(
    "typo, meant", [("--modle=x", "--model"), ("--model=h12_noup_smalkey", "h12_noup_smallkey"), ("--resum", None)]
)
def test_a_typo_names_what_was_probably_meant(typo, meant):
    done = subprocess.run([sys.executable, "train.py", typo, "--nonsense"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert meant is None or f"did you mean {meant}?" in done.stderr


def test_missing_packages_are_told_in_one_line():
    """-S leaves out the folder of the packages."""
    done = subprocess.run([sys.executable, "-S", "train.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "lacks absl, keras" in done.stderr


@pytest.mark.parametrize(
    "parse, names",
    [
        (train.parse_flags, ["data_dir", "cache_dir", "save_dir", "load_params"]),
        (eval_command.parse_flags, ["data_dir", "cache_dir", "save_dir", "load_params", "json", "complete", "mask"]),
        (cifar10_plotdata.parse_flags, ["data_dir", "cache_dir", "save_dir"]),
    ],
    ids=["train.py", "eval.py", "cifar10_plotdata"],
)
def test_a_tilde_is_expanded_in_every_path(parse, names, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    parsed = vars(parse([f"--{name}=~/{name}" for name in names]))
    assert {name: parsed[name] for name in names} == {name: f"/home/somebody/{name}" for name in names}
    assert inspection.parse_flags(["~/run"]).path == "/home/somebody/run"
