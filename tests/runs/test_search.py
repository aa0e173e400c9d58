"""The search for runs and checkpoints: what may not be read is never taken for absent, and what goes is no error."""

import argparse
import itertools
import json
import os
import shutil
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from nobody import as_nobody, own_folder

import train as train_command
from pixel_snail import checkpoint
from pixel_snail.commands import command_line
from pixel_snail.errors import UserError
from pixel_snail.runs import earlier_runs, history, search
from pixel_snail.runs.retention import Checkpoints
from pixel_snail.storage import files

RUN = "pixelsnail_cifar_2026_01_01_00_00_00"
NAME = "params_cifar.ckpt"
FOLDERS = {"save_dir": ".", "run": RUN, "checkpoint": f"{RUN}/0"}
FILES = {"index": f"{RUN}/0/{NAME}.index", "data": f"{RUN}/0/{NAME}.data-00000-of-00001"}
CLOSED_FOLDER, CLOSED_FILE = (0o000, 0o311, 0o444), (0o000, 0o311)
OF_CHECKPOINT = [
    *((place, mode) for place in FOLDERS.values() for mode in CLOSED_FOLDER),
    *((place, mode) for place in FILES.values() for mode in CLOSED_FILE),
]
OF_RUN = [*OF_CHECKPOINT, *((f"{RUN}/flags.json", mode) for mode in CLOSED_FILE)]
OPEN = [*((place, 0o555) for place in FOLDERS.values()), *((place, 0o444) for place in FILES.values())]


def told(case):
    return f"{case[1]:o} on {case[0]}"


def write(prefix, tensors):
    os.makedirs(os.path.dirname(prefix))
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.convert_to_tensor(value) for value in tensors.values()],
    )


@pytest.fixture
def save_dir():
    """A folder with a run and its checkpoint."""
    with own_folder() as folder:
        folder = folder / "save"
        write(folder / RUN / "0" / NAME, {"Variable": np.float32(3)})
        (folder / RUN / "flags.json").write_text(json.dumps(vars(flags_for(folder))))
        yield folder


def flags_for(folder):
    return train_command.parse_flags(["--resume", f"-o{folder}"])


def change(save_dir, case):
    """Changes the mode of a place, and returns the path that a message must name: it may go on with what it hides."""
    place, mode = case
    path = (save_dir / place).resolve()
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("case", OF_RUN, ids=told)
def test_resume_names_what_it_may_not_read_and_begins_no_new_run(case, save_dir):
    named = change(save_dir, case)
    with as_nobody(save_dir), pytest.raises(UserError, match="Permission denied") as error:
        earlier_runs.newest_run(flags_for(save_dir))
    assert named in str(error.value)


@pytest.mark.parametrize("case", OF_RUN, ids=told)
def test_a_run_of_other_flags_that_may_not_be_read_is_named_too(case, save_dir):
    flags = flags_for(save_dir)
    flags.seed = 7
    change(save_dir, case)
    in_checkpoint = case in [(place, mode) for place in FILES.values() for mode in CLOSED_FILE]
    with as_nobody(save_dir), pytest.raises(UserError) as error:
        earlier_runs.newest_run(flags)
    assert ("which had --seed=42" if in_checkpoint else "Permission denied") in str(error.value)


@pytest.mark.parametrize("case", OPEN, ids=told)
def test_what_may_be_read_is_found(case, save_dir):
    change(save_dir, case)
    with as_nobody(save_dir):
        found = earlier_runs.newest_run(flags_for(save_dir))
        assert (found.folder, found.opened.prefix) == (save_dir / RUN, str(save_dir / RUN / "0" / NAME))
        assert search.find(str(save_dir)).prefix == found.opened.prefix


@pytest.mark.parametrize("case", OF_CHECKPOINT, ids=told)
def test_no_older_checkpoint_takes_the_place_of_one_that_may_not_be_read(case, save_dir):
    write(save_dir / "another" / "0" / NAME, {"Variable": np.float32(3)})
    os.utime(save_dir / "another" / "0" / f"{NAME}.index", (0, 0))
    named = change(save_dir, case)
    with as_nobody(save_dir), pytest.raises(UserError, match="Permission denied") as error:
        search.find(str(save_dir))
    assert named in str(error.value)


def test_the_variables_of_an_exported_model_are_no_checkpoint(save_dir):
    exported = save_dir / RUN / "exported"
    write(exported / "variables" / "variables", {"Variable": np.float32(4)})
    (exported / "saved_model.pb").touch()
    assert search.find(str(save_dir)).prefix == str(save_dir / RUN / "0" / NAME)
    assert search.newest_first(str(exported)) == []


@pytest.mark.parametrize("ending", ["", ".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("case", OF_CHECKPOINT, ids=told)
def test_a_checkpoint_that_may_not_be_read_is_not_said_to_be_absent(case, ending, save_dir):
    change(save_dir, case)
    path = f"{save_dir}/{RUN}/0/{NAME}{ending}"
    with as_nobody(save_dir):
        if case[1] == 0o311 and case[0] in (".", RUN):  # which may be passed through, but not listed
            assert search.find(path).prefix == path.removesuffix(ending)
        else:
            with pytest.raises(UserError, match="Permission denied"):
                search.find(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", None], ids=repr)
def test_a_run_whose_flags_are_empty_or_broken_is_named(content, save_dir):
    path = save_dir / RUN / "flags.json"
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"can't (be )?read .*flags.json .*: this may be the run that --resume is to"):
        earlier_runs.newest_run(flags_for(save_dir))


def test_a_folder_without_flags_is_no_run_nor_is_a_file(save_dir):
    (save_dir / RUN / "flags.json").unlink()
    (save_dir / "pixelsnail_cifar_2026_02").write_text("")
    found = earlier_runs.newest_run(flags_for(save_dir))
    assert found == (None, None, f"no run in {save_dir} has these flags")
    assert earlier_runs.newest_run(flags_for(save_dir / "none")).opened is None


@pytest.mark.parametrize("mode", CLOSED_FILE)
def test_an_evaluation_does_not_take_flags_that_may_not_be_read_for_their_defaults(mode, save_dir):
    flags = argparse.Namespace(**dict.fromkeys(command_line.MODEL_DEFAULTS | command_line.DATA_DEFAULTS))
    opened = search.find(str(save_dir))
    change(save_dir, (f"{RUN}/flags.json", mode))
    with as_nobody(save_dir), pytest.raises(UserError, match=r"can't read .*flags.json \(Permission denied"):
        earlier_runs.fill_in_flags(flags, opened)


@pytest.mark.parametrize("closed", range(4))
@pytest.mark.parametrize("place, mode", [(".", 0o000), (".", 0o311), (f"{NAME}.index", 0o000)], ids=str)
def test_a_run_that_may_not_read_a_checkpoint_removes_none_that_it_should_keep_and_goes_on(
    closed, place, mode, monkeypatch
):
    """Earlier checkpoints are better. The best and the newest that can be read stay, and so does the closed one."""
    failures = []

    def attempt(what, act):
        try:
            act()
        except (OSError, UserError) as error:
            failures.append(str(error))
            return False
        return True

    monkeypatch.setattr(checkpoint, "save", lambda *_: None)
    with own_folder() as run:
        for epoch in range(4):
            progress = history.History(epoch + 1, 0, [[4.0]] * (epoch + 1), [3.0 + epoch] * (epoch + 1))
            tensors = {checkpoint.OWN_PREFIX + name: value for name, value in progress.tensors().items()}
            write(run / str(epoch) / NAME, tensors | {"Variable": np.float32(epoch)})
        (run / str(closed) / place).chmod(mode)
        folder = types.SimpleNamespace(path=run, attempt=attempt)
        with as_nobody(run):
            assert Checkpoints(folder, "cifar", keep=1, minutes=0, newest=None).save(None, None, progress)
        stay = {int(path.name) for path in run.iterdir()}
    if place == ".":
        assert stay == {0, 1, 2, 3}
        assert "Permission denied" in failures[0]
    else:
        readable = [epoch for epoch in range(4) if epoch != closed]
        assert stay == {closed, readable[0], readable[-1]}
        assert not failures


CALLS = {"open", "os.scandir", "os.listdir", "os.symlink", "tempfile.mkdtemp"}
nothing = lambda: None
at_call = [nothing]


def watch(event, arguments, calls=CALLS, at_call=at_call):  # when Python ends, the module's names are gone first
    if event in calls:
        at_call[0]()


sys.addaudithook(watch)


@pytest.mark.parametrize("in_place", [False, True], ids=["under another name", "in place"])
def test_a_checkpoint_that_is_replaced_while_it_is_looked_for_is_no_error_at_whatever_moment(in_place, tmp_path, capfd):
    """A run replaces it before the first call of the system, before the second, and so on."""
    for folder, steps in (("old", 9), ("new", 10)):
        write(tmp_path / folder / NAME, {"Variable": np.float32(steps + 1)})
    found = []

    def replace(run):
        at_call[0] = nothing
        with files.replacing(run / ("8" if in_place else "9")) as aside:
            shutil.copytree(tmp_path / "new", aside)
        if not in_place:
            files.remove_folder(run / "8")

    def look(number):
        """Has the checkpoint replaced at a call, finds it and reads it; returns whether there were so many calls."""
        run = tmp_path / "runs" / str(number)
        shutil.copytree(tmp_path / "old", run / "8")
        calls = itertools.count(1)
        at_call[0] = lambda: replace(run) if next(calls) == number else None
        try:
            opened = search.find(str(run))
        finally:
            at_call[0] = nothing
        was_replaced = next(calls) > number
        shutil.rmtree(run)  # what is open can be read to its end
        opened.check()
        assert search.summary(opened).endswith(" steps taken")
        found.append(opened.steps_taken())
        return was_replaced

    number = next(number for number in itertools.count(1) if not look(number))
    assert number > 8
    assert set(found) == {9, 10}
    assert capfd.readouterr().err == ""
