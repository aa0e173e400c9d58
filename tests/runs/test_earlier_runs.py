"""Runs of earlier versions, whose flags.json lacks the flags added since, are still found and evaluated."""

import argparse
import json
import types

import pytest

import train as train_command
from pixel_snail.commands import command_line
from pixel_snail.errors import UserError
from pixel_snail.runs import earlier_runs, search

ADDED_TO_DATA = ("skip_bad", "max_megapixels", "test_folder", "cache_dir", "levels", "binarize", "grey")
ADDED = (*ADDED_TO_DATA, "lr_to_zero", "muon", "mutation_rate")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run of an earlier version."""
    monkeypatch.setattr(search, "find", lambda path: f"{path}/70/params")
    monkeypatch.setattr(search, "newest_first", lambda path: [f"{path}/70/params"])
    run = tmp_path / "pixelsnail_folder_2026_01_01_00_00_00"
    run.mkdir()
    flags = vars(train_command.parse_flags(["--data_set=folder", f"-o{tmp_path}"]))
    (run / "flags.json").write_text(json.dumps({name: flags[name] for name in flags if name not in ADDED}))
    return run


@pytest.mark.parametrize(
    "given, found",
    [
        ([], True),
        (["--max_megapixels=250"], True),
        (["--max_megapixels=9"], False),
        (["--test_folder=val"], False),
        (["--cache_dir=elsewhere"], True),
        (["--levels=16"], False),
        (["--grey"], False),
        (["--binarize"], False),
        (["--image_size=28x20"], False),
        (["--mutation_rate=0.1"], False),
        (["--mutation_rate=0"], True),
        (["--muon"], False),
    ],
)
def test_resume_takes_flags_that_a_run_lacks_for_their_defaults(given, found, run):
    flags = train_command.parse_flags(["--data_set=folder", f"-o{run.parent}", *given])
    if found:
        assert earlier_runs.newest_run(flags)[:2] == (run, f"{run}/70/params")
    else:
        with pytest.raises(UserError, match=r"no run in .* has these flags; the nearest is"):
            earlier_runs.newest_run(flags)


@pytest.mark.parametrize("lr_to_zero", [False, True])
def test_the_end_of_a_run_is_part_of_its_course_only_if_the_learning_rate_falls_to_zero_there(lr_to_zero, run):
    always = ["--data_set=folder", f"-o{run.parent}", *(["--lr_to_zero"] if lr_to_zero else [])]
    (run / "flags.json").write_text(json.dumps(vars(train_command.parse_flags([*always, "--max_minutes=7"]))))
    for ends in (["--max_minutes=7", "--max_epochs=9"], ["--max_minutes=8"], []):
        flags = train_command.parse_flags([*always, *ends])
        if lr_to_zero:
            with pytest.raises(UserError, match=r"the nearest is .*, which had .*--max_(epochs|minutes)="):
                earlier_runs.newest_run(flags)
        else:
            assert earlier_runs.newest_run(flags).folder == run


@pytest.mark.parametrize(
    "flags, of_run",
    [
        (["--data_set=imagenet"], "imagenet_resized"),
        (["--data_set=tfds:cifar10"], "tfds:cifar10_1"),
        (["--data_set=folder", "--load_params=x"], "folder"),
    ],
    ids=[
        "another data set, of a longer name",
        "of a name with a number",
        "--load_params says where the new run begins",
    ],
)
def test_a_run_of_other_flags_does_not_stop_a_run_that_is_clearly_another(flags, of_run, run):
    run.rename(run.with_name(f"pixelsnail_{of_run}_2026_01_01_00_00_00"))
    found = earlier_runs.newest_run(train_command.parse_flags([*flags, f"-o{run.parent}", "--seed=7"]))
    assert found == (None, None, f"no run in {run.parent} has these flags")


def test_a_flag_that_was_not_given_is_told_so(run):
    flags = train_command.parse_flags(["--data_set=folder", f"-o{run.parent}", "--bfloat16", "--max_epochs=7", "-s1"])
    with pytest.raises(UserError, match=r"had --seed=42 \(here --seed=1\), no --bfloat16 \(here --bfloat16\): repeat"):
        earlier_runs.newest_run(flags)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"skip_bad": True, "max_megapixels": 9, "test_folder": "val", "cache_dir": "/x"},
        {"levels": 16, "grey": True, "binarize": True},
    ],
)
def test_an_evaluation_takes_the_flags_of_the_run_or_else_their_defaults(given, run):
    path = run / "flags.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | given))
    flags = argparse.Namespace(**dict.fromkeys(command_line.MODEL_DEFAULTS | command_line.DATA_DEFAULTS))
    earlier_runs.fill_in_flags(flags, types.SimpleNamespace(prefix=f"{run}/70/params", description=lambda: None))
    for name in ADDED_TO_DATA:
        assert getattr(flags, name) == given.get(name, command_line.DATA_DEFAULTS[name])


def test_a_run_of_a_version_without_likelihoods_had_the_originals(run):
    path = run / "flags.json"
    recorded = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in recorded.items() if name != "likelihood"}))
    flags = argparse.Namespace(**dict.fromkeys(command_line.MODEL_DEFAULTS | command_line.DATA_DEFAULTS))
    earlier_runs.fill_in_flags(flags, types.SimpleNamespace(prefix=f"{run}/70/params", description=lambda: None))
    assert flags.likelihood == "logistic_mixture"


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, (None, True)),
        ({"levels": 256}, (256, False)),
        ({"levels": 2}, (2, False)),
        ({"binarize": True}, (None, True)),
    ],
)
def test_given_levels_replace_the_runs_binarized_values(given, expected, run):
    path = run / "flags.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"binarize": True}))
    names = command_line.MODEL_DEFAULTS | command_line.DATA_DEFAULTS
    flags = argparse.Namespace(**dict.fromkeys(names) | given)
    earlier_runs.fill_in_flags(flags, types.SimpleNamespace(prefix=f"{run}/70/params", description=lambda: None))
    assert (flags.levels, flags.binarize) == expected
