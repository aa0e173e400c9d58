"""The descriptions of the original's checkpoints, against their known settings."""

import numpy as np
import pytest
import tensorflow as tf

import golden_numbers
from pixel_snail import inspection
from pixel_snail import model as models


@pytest.mark.parametrize("name", sorted(models.specs))
def test_a_checkpoint_tells_its_network(name):
    description = inspection.describe(golden_numbers.checkpoint(name))
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
    guesses = {name: inspection.describe(golden_numbers.checkpoint(name))["model"] for name in models.specs}
    assert guesses["pxpp"] == "pxpp"
    assert guesses["h12_noup_smallkey"] == "h12_noup_smallkey or h12_pool2_smallkey"
    assert guesses["h8_noup_smallkey_ar_chs"] == "h8_noup_smallkey_ar_chs"
    assert guesses["h6_shift_small_attn"] == "h6_shift_small_attn"


def test_plain_parameters_of_an_unknown_network_are_described_as_such(tmp_path):
    prefix = str(tmp_path / "x.ckpt")
    names = ["model/conv2d_0/V", "model/conv2d_0/g", "model/dense_0/V"]
    tensors = [np.zeros(shape, np.float32) for shape in ([1, 3, 4, 9], [9], [9, 20])]
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * 3, tensors=tensors)
    description = inspection.describe(prefix)
    assert description["model"] == "not one of ours"
    assert description["averaged parameters"] == description["Adam's state"] == "no"
    assert description["parameters"] == 1 * 3 * 4 * 9 + 9 + 9 * 20
