"""--init_from begins a run with the parameters of another checkpoint, and everything else anew."""

import numpy as np
import pytest
from networks import OneStep, add_spec

import data
import pixel_snail
import train as train_command
from benchmarks import reliability
from pixel_snail import checkpoint
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.dataset import DataSet, Split
from pixel_snail.model import build_network
from pixel_snail.runs import search

FLAGS = ["--model=h0", "-q1", "-n4", "-m2", "-b2", "-a4", "-t1", "-x1", "--sample_interval=0"]
STILL = ["-l1e-30", "--polyak_decay=0.5"]  # so small a learning rate changes no parameter


@pytest.fixture(autouse=True)
def data_sets(monkeypatch):
    add_spec(monkeypatch, "h0", OneStep)

    for name, side in (("small", 8), ("large", 12)):
        images = np.random.default_rng(side).integers(0, 256, [10, side, side, 3], np.uint8)
        whole = DataSet(Split(images), Split(images[:2]))
        monkeypatch.setitem(data.data_sets, name, lambda _, whole=whole: whole)


@pytest.fixture
def train(tmp_path, capfd):
    """Runs train.py in a folder; returns the exit code, the last checkpoint's tensors, standard output and stderr."""

    def train(folder, *argv):
        with pytest.raises(SystemExit) as exit_:
            train_command.main([*FLAGS, f"-o{tmp_path / folder}", *argv])
        out, err = capfd.readouterr()
        tensors = None if exit_.value.code else reliability.tensors(search.find(str(tmp_path / folder)).prefix)
        return exit_.value.code, tensors, out, err

    return train


def parameters(tensors, average=False):
    """The parameters in a checkpoint's tensors, or their averages."""
    ending = "/ExponentialMovingAverage"
    names = [name for name in tensors if name.startswith("model/") and not name.endswith(ending)]
    return {name: tensors[name + ending if average else name] for name in names}


@pytest.mark.parametrize("raw", [False, True])
def test_a_run_begins_with_the_averages_or_the_parameters_of_a_run_on_images_of_another_size(raw, train, tmp_path):
    _, source, _, _ = train("source", "--data_set=small", "-x2")
    argv = ["--data_set=large", f"--init_from={tmp_path}/source", *(["--raw"] if raw else [])]
    code, tensors, out, _ = train("mine", *argv, *STILL)
    assert code == 0
    expected = parameters(source, average=not raw)
    for name, value in parameters(tensors).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert any((value != parameters(source, average=raw)[name]).any() for name, value in expected.items())
    which = "parameters" if raw else "averaged parameters"
    assert f"\n{which} of {tmp_path}/source" in out and f": {len(expected)} tensors taken\n" in out
    assert "not taken" not in out
    assert "the optimizer, the average, the epoch and the figures begin anew\n" in out
    assert (tensors["pixel_snail/steps_taken"], tensors["pixel_snail/epoch"]) == (5, 1)
    assert tensors["pixel_snail/train_bpd"].shape == (5,)


@pytest.mark.parametrize(
    "before, now, is_taken",
    [
        (("cat", "dog", "fox"), ("cat", "dog", "fox"), True),
        (("cat", "dog", "fox"), ("car", "bus", "van"), False),
        (("cat", "dog", "fox"), ("cat", "dog"), False),
        (("cat", "dog", "fox"), (), None),
        ((), ("cat", "dog"), False),
    ],
)
def test_the_layers_of_labels_are_taken_only_if_the_classes_are_the_same(before, now, is_taken, tmp_path):
    source, network = (
        build_network("h0", (side, side, 3), len(names) or None, names, nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
        for side, names in ((8, before), (12, now))
    )
    pixel_snail.Distribution(source).save(tmp_path / "params.ckpt")
    initial = [variable.numpy() for variable in network.weights]
    taken, fresh = checkpoint.load_parameters(Checkpoint(str(tmp_path / "params.ckpt")), network, averaged=True)
    expected = dict(zip(checkpoint.variable_names(source), source.weights, strict=True))
    assert [name for name in fresh if not name.endswith("/hw")] == []
    assert any(name.endswith("/hw") for name in taken) == bool(is_taken)
    assert bool(fresh) == (is_taken is False)
    for name, value, first in zip(checkpoint.variable_names(network), network.weights, initial, strict=True):
        np.testing.assert_array_equal(value, first if name in fresh else expected[name], err_msg=name)
    assert sorted([*taken, *fresh]) == sorted(checkpoint.variable_names(network))


@pytest.mark.parametrize("how", ["--resume", "--load_params"])
def test_a_run_does_not_go_on_with_classes_of_other_names(how, train, tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, [10, 8, 8, 3], np.uint8)
    split, names = Split(images, np.arange(10) % 2), ["caf\u00e9", "bar"]
    monkeypatch.setitem(data.data_sets, "named", lambda _: DataSet(split, split, class_names=tuple(names)))
    flag = how if how == "--resume" else f"{how}={tmp_path}/mine"
    assert train("mine", "--data_set=named", "-c")[0] == 0
    names[:] = ["cafe\u0301", "bar"]  # the same names in another Unicode form
    assert train("mine", "--data_set=named", "-c", "-x2", flag)[0] == 0
    names[:] = ["bar", "cafe\u0301"]
    code, _, _, err = train("mine", "--data_set=named", "-c", "-x3", flag)
    assert code == 2 and err.count("\n") == 1
    assert "was trained on other classes than those of the data set, for example cafe\u0301 instead of bar" in err


def test_all_parameters_of_a_run_are_taken_by_one_of_other_levels_but_none_by_one_of_other_channels(tmp_path):
    source, fewer_levels, grey = (
        build_network("h0", (8, 8, channels), levels=levels, nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
        for channels, levels in ((3, 256), (3, 32), (1, 256))
    )
    pixel_snail.Distribution(source).save(tmp_path / "params.ckpt")
    opened = Checkpoint(str(tmp_path / "params.ckpt"))
    taken, fresh = checkpoint.load_parameters(opened, fewer_levels, averaged=True)
    assert (sorted(taken), fresh) == (sorted(checkpoint.variable_names(fewer_levels)), [])
    for value, expected in zip(fewer_levels.weights, source.weights, strict=True):
        np.testing.assert_array_equal(value, expected)
    before = [variable.numpy() for variable in grey.weights]
    with pytest.raises(
        pixel_snail.UserError, match=r"network: it is of images with 3 channels, not 1; give .*checkpoint$"
    ):
        checkpoint.load_parameters(opened, grey, averaged=True)
    for value, expected in zip(grey.weights, before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_run_on_fewer_levels_begins_with_the_parameters_of_one_on_8_bits(train, tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 32, [10, 8, 8, 3], np.uint8)
    for name, whole in (
        ("fewer", DataSet(Split(images), Split(images[:2]), levels=32)),
        ("grey", DataSet(Split(images[..., :1]), Split(images[:2, ..., :1]), levels=32)),
    ):
        monkeypatch.setitem(data.data_sets, name, lambda _, whole=whole: whole)
    _, source, _, _ = train("source", "--data_set=small")
    code, tensors, out, _ = train("mine", "--data_set=fewer", f"--init_from={tmp_path}/source", *STILL)
    assert code == 0
    expected = parameters(source, average=True)
    for name, value in parameters(tensors).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert f": {len(expected)} tensors taken\n" in out and "not taken" not in out
    assert search.find(str(tmp_path / "mine")).description().levels == 32
    code, _, _, err = train("other", "--data_set=grey", f"--init_from={tmp_path}/source")
    assert code == 2
    assert "it is of images with 3 channels, not 1" in err and err.count("\n") == 1


def test_what_does_not_fit_is_told_in_one_line(train, tmp_path):
    train("source", "--data_set=small")
    for argv, message in (
        (["-n8"], "its nr_filters is 4, not 8"),
        (["-m3"], "its nr_logistic_mix is 2, not 3"),
        ([f"--load_params={tmp_path}/source"], "--load_params goes on with a run, --init_from begins one with"),
    ):
        code, _, _, err = train("mine", "--data_set=large", f"--init_from={tmp_path}/source", *argv)
        assert code == 2
        assert message.replace("its nr", "its --nr") in err and err.count("\n") == 1
    code, _, _, err = train("mine", "--data_set=large", "--raw")
    assert (code, err) == (2, "train.py: error: --raw is for --init_from\n")


def test_the_batch_of_the_initialisation_need_only_be_there_where_it_is_used(train, tmp_path):
    train("source", "--data_set=small")
    code, _, _, err = train("mine", "--data_set=small", "-a11")
    assert code == 2 and err.startswith("error: --init_batch_size=11 is larger than the training set, which has 10 ima")
    assert train("mine", "--data_set=small", "-a11", f"--init_from={tmp_path}/source")[0] == 0
    assert train("mine", "--data_set=small", "-a11", "-x2", f"--load_params={tmp_path}/source")[0] == 0


def test_a_resumed_run_goes_on_and_takes_no_parameters_again(train, tmp_path):
    train("source", "--data_set=small")
    argv = ["--data_set=large", f"--init_from={tmp_path}/source", "--resume"]
    _, _, out, _ = train("mine", *argv)
    assert "tensors taken" in out
    code, tensors, out, _ = train("mine", *argv, "-x2")
    assert code == 0
    assert "going on in epoch 1, after 0 of its images" in out and "tensors taken" not in out
    assert tensors["pixel_snail/steps_taken"] == 10
