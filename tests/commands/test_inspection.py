"""The descriptions of checkpoints, the original's and our own, against their known settings."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from networks import shallow

import golden_numbers
from pixel_snail import checkpoint
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.commands import inspection
from pixel_snail.errors import UserError
from pixel_snail.model import build_network, h8_noup_smallkey_ar_chs_spec, leaks, specs
from pixel_snail.optimizer import PolyakAdam

OF_BLOCKS = sorted(name for name, spec in specs.items() if "attn_rep" in getattr(spec, "keywords", {}))
SETTINGS = {"nr_resnet": 2, "nr_filters": 4, "nr_logistic_mix": 3}


@pytest.mark.parametrize("name", golden_numbers.NAMES)
def test_an_originals_checkpoint_describes_its_network(name):
    description = inspection.describe(Checkpoint(golden_numbers.checkpoint(name)))
    golden = golden_numbers.load(name)
    assert name in description["model"].split(" or ")
    assert description["nr_filters"] == 4
    assert description["nr_resnet"] == "1"
    assert description["nr_logistic_mix"] == 2
    assert description["labels"] == "none"
    assert description["steps taken"] == 3
    assert description["parameters"] == sum(golden[key].size for key in golden if key.startswith("init/var/"))
    assert description["averaged parameters"] == description["Adam's state"] == "yes"


def test_few_networks_share_their_variables():
    def guesses(name):
        guessed = inspection.describe(Checkpoint(golden_numbers.checkpoint(name)))["model"].split(" or ")
        return [guess for guess in guessed if guess in golden_numbers.NAMES]

    assert guesses("h12_noup_smallkey") == ["h12_noup_smallkey", "h12_pool2_smallkey"]
    for name in ("pxpp", "h8_noup_smallkey_ar_chs", "h6_shift_small_attn"):
        assert guesses(name) == [name]


@pytest.mark.parametrize("name", sorted(specs))
def test_every_networks_checkpoint_gives_its_parameters_back_and_describes_its_settings(name, tmp_path, monkeypatch):
    monkeypatch.setitem(specs, name, shallow(name))
    network, other = (build_network(name, (8, 8, 3), **SETTINGS) for _ in range(2))
    assert network.leaks == leaks(name)
    optimizer = PolyakAdam()
    optimizer.build(network.trainable_variables)
    prefix = str(tmp_path / "0" / "params_cifar.ckpt")
    checkpoint.save(prefix, network, optimizer, {})
    checkpoint.load(Checkpoint(prefix), other)
    for actual, expected in zip(other.trainable_variables, network.trainable_variables, strict=True):
        np.testing.assert_array_equal(actual, expected)
    description = inspection.describe(Checkpoint(prefix))
    assert (description["model"], description["nr_resnet"], description["images"]) == (name, "2", "8 x 8")
    assert (description["nr_filters"], description["nr_logistic_mix"]) == (4, 3)


def test_channels_and_levels_are_printed(tmp_path, capsys):
    network = shallow("h8_noup_smallkey")(**SETTINGS, channels=2).build_for(
        "h8_noup_smallkey", (8, 4, 2), None, levels=1024
    )
    optimizer = PolyakAdam()
    optimizer.build(network.trainable_variables)
    checkpoint.save(str(tmp_path / "params.ckpt"), network, optimizer, {})
    inspection.show(str(tmp_path))
    printed = {line[:20].strip(): line[21:] for line in capsys.readouterr().out.splitlines()}
    assert (printed["images"], printed["channels"], printed["levels"]) == ("8 x 4", "2", "1024")


@pytest.mark.parametrize("name", OF_BLOCKS)
def test_every_network_of_blocks_is_recognised_by_its_variables(name, tmp_path, monkeypatch):
    monkeypatch.setitem(specs, name, shallow(name))
    assert_recognised(name, str(tmp_path / "params_cifar.ckpt"))


def test_so_are_channel_wise_outputs_of_a_network_of_ones_own(tmp_path, monkeypatch):
    spec = functools.partial(h8_noup_smallkey_ar_chs_spec, attn_rep=2)
    monkeypatch.setitem(specs, "own", spec)
    assert_recognised("own", str(tmp_path / "params_cifar.ckpt"))


def assert_recognised(name, prefix):
    """Writes a network's parameters without a description, as the original does, and has them described."""
    variables = golden_numbers.variables(build_network(name, (8, 8, 3), **SETTINGS))
    tensors = [variable.value for variable in variables.values()]
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(variables), shape_and_slices=[""] * len(variables), tensors=tensors
    )
    description = inspection.describe(Checkpoint(prefix))
    assert name in description["model"].split(" or ")
    assert "2" in description["nr_resnet"].split(" or ")
    assert (description["nr_filters"], description["nr_logistic_mix"]) == (4, 3)


@pytest.mark.parametrize(
    "tensors",
    [
        {"model/conv2d_1/kernel": [3, 3, 3, 8], "model/dense_1/kernel": [8, 4]},
        {"model/conv2d_0/V": [3, 3, 3, 8]},
        {"model/conv2d_0/V": [], "model/dense_0/V": [8]},
    ],
)
def test_a_checkpoint_of_another_program_is_refused_in_one_line(tensors, tmp_path):
    prefix = str(tmp_path / "x.ckpt")
    values = [np.zeros(shape, np.float32) for shape in tensors.values()]
    names = list(tensors)
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
    with pytest.raises(UserError, match=r"x\.ckpt was not written by this program or the original: ") as error:
        inspection.describe(Checkpoint(prefix))
    assert "\n" not in str(error.value)


def test_plain_parameters_of_an_unknown_network_are_described_as_such(tmp_path):
    prefix = str(tmp_path / "x.ckpt")
    names = ["model/conv2d_0/V", "model/conv2d_0/g", "model/dense_0/V"]
    tensors = [np.zeros(shape, np.float32) for shape in ([1, 3, 4, 9], [9], [9, 20])]
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * 3, tensors=tensors)
    description = inspection.describe(Checkpoint(prefix))
    assert description["model"] == "not one of ours"
    assert description["averaged parameters"] == description["Adam's state"] == "no"
    assert description["parameters"] == 1 * 3 * 4 * 9 + 9 + 9 * 20
