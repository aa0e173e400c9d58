"""Checkpoints: names, round trip, and what is said about broken ones."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

import golden_numbers
from pixel_snail import checkpoint
from pixel_snail import model as models
from pixel_snail.errors import UserError
from pixel_snail.optimizer import PolyakAdam

NAME = "h8_noup_smallkey"


def read(prefix):
    reader = tf.train.load_checkpoint(prefix)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize("name", [NAME, "model", "h6_shift", "h8_noup_smallkey_ar_chs", "pxpp"])
def test_loading_and_saving_the_originals_checkpoint_gives_every_tensor_back(tmp_path, name):
    model = golden_numbers.build(name)
    optimizer = PolyakAdam()
    optimizer.build(model.trainable_variables)
    checkpoint.load(golden_numbers.checkpoint(name), model, optimizer)
    prefix = str(tmp_path / "0" / "params_cifar.ckpt")
    checkpoint.save(prefix, model, optimizer, {"epoch": 7, "images": 3})
    original, ours = read(golden_numbers.checkpoint(name)), read(prefix)
    assert ours.keys() - original.keys() == {"pixel_snail/epoch", "pixel_snail/images"}
    assert original.keys() <= ours.keys()
    assert checkpoint.read_progress(prefix) == {"epoch": 7, "images": 3}
    assert checkpoint.read_progress(golden_numbers.checkpoint(name)) == {}
    for name, tensor in original.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape), name
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == [
        "params_cifar.ckpt.data-00000-of-00001",
        "params_cifar.ckpt.index",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_averages_take_the_parameters_place_when_asked():
    model = golden_numbers.build(NAME)
    original = read(golden_numbers.checkpoint(NAME))
    for averaged, ending in ((False, ""), (True, "/ExponentialMovingAverage")):
        checkpoint.load(golden_numbers.checkpoint(NAME), model, averaged=averaged)
        for name, variable in golden_numbers.variables(model).items():
            np.testing.assert_array_equal(variable, original[name + ending])


def test_a_checkpoint_is_found_by_prefix_by_file_and_as_the_newest_below_a_folder(tmp_path):
    import os

    prefix = golden_numbers.checkpoint(NAME)
    assert checkpoint.find(prefix) == prefix
    assert checkpoint.find(f"{prefix}.index") == prefix
    assert checkpoint.find(f"{prefix}.data-00000-of-00001") == prefix
    for age, epoch in ((300, "0"), (100, "10"), (200, "9")):
        (tmp_path / epoch).mkdir()
        index = tmp_path / epoch / "params_cifar.ckpt.index"
        shutil.copy(f"{prefix}.index", index)
        os.utime(index, (1e9 - age, 1e9 - age))
    assert checkpoint.find(str(tmp_path)) == str(tmp_path / "10" / "params_cifar.ckpt")


@pytest.mark.parametrize(
    "changed, flag",
    [
        ({"nr_filters": 8}, r"--nr_filters \(there 4, here 8\)"),
        ({"nr_logistic_mix": 3}, r"--nr_logistic_mix \(there 2, here 3\)"),
        ({"nr_resnet": 2}, "--nr_resnet or --model"),
        ({"resnet_nonlinearity": "concat_elu"}, "--resnet_nonlinearity"),
        ({"nr_labels": 5}, "--class_conditional"),
        ({"nr_filters": 8, "nr_logistic_mix": 3}, r"--nr_filters .* and --nr_logistic_mix"),
    ],
)
def test_a_checkpoint_of_another_network_names_the_likely_flag(changed, flag):
    settings = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2} | changed
    model = models.build(NAME, (8, 8, 3), **settings)
    before = [np.asarray(variable) for variable in model.trainable_variables]
    with pytest.raises(UserError, match=f"probably {flag}"):
        checkpoint.load(golden_numbers.checkpoint(NAME), model)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_checkpoint_of_another_model_is_refused():
    with pytest.raises(UserError, match="--nr_resnet or --model"):
        checkpoint.load(golden_numbers.checkpoint("h12_noup_smallkey"), golden_numbers.build(NAME))


@pytest.mark.parametrize("damage", ["index cut", "data cut", "data missing", "bit flipped", "index is text"])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path, damage):
    prefix = str(tmp_path / "params_cifar.ckpt")
    for ending in (".index", ".data-00000-of-00001"):
        shutil.copy(golden_numbers.checkpoint(NAME) + ending, prefix + ending)
    index, file = tmp_path / "params_cifar.ckpt.index", tmp_path / "params_cifar.ckpt.data-00000-of-00001"
    if damage == "index cut":
        index.write_bytes(index.read_bytes()[:1000])
    elif damage == "data cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "data missing":
        file.unlink()
    elif damage == "bit flipped":
        flipped = bytearray(file.read_bytes())
        flipped[len(flipped) // 2] ^= 1
        file.write_bytes(flipped)
    else:
        index.write_text("not a checkpoint\n" * 100)
    model = golden_numbers.build(NAME)
    optimizer = PolyakAdam()
    optimizer.build(model.trainable_variables)
    with pytest.raises(UserError) as error:
        checkpoint.load(prefix, model, optimizer)
    assert prefix in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    prefix = str(tmp_path / "other.ckpt")
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=["weights"], shape_and_slices=[""], tensors=[tf.zeros([3])])
    with pytest.raises(UserError, match="of another program"):
        checkpoint.load(prefix, golden_numbers.build(NAME))


def test_what_else_a_checkpoint_holds_is_passed_over(tmp_path):
    """As in PixelCNN++'s checkpoint, by another program with the same names."""
    prefix = str(tmp_path / "params_cifar.ckpt")
    original = read(golden_numbers.checkpoint("pxpp"))
    tensors = original | {"global_step": np.int64(7), "model/beta1_power": np.float32(0.9)}
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(tensors), shape_and_slices=[""] * len(tensors), tensors=list(tensors.values())
    )
    model = golden_numbers.build("pxpp")
    checkpoint.load(prefix, model, averaged=True)
    for name, variable in golden_numbers.variables(model).items():
        np.testing.assert_array_equal(variable, original[f"{name}/ExponentialMovingAverage"])


def test_a_checkpoint_without_averages_says_so(tmp_path):
    prefix = str(tmp_path / "raw.ckpt")
    tensors = {k: v for k, v in read(golden_numbers.checkpoint(NAME)).items() if not k.endswith("Average")}
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(tensors), shape_and_slices=[""] * len(tensors), tensors=list(tensors.values())
    )
    with pytest.raises(UserError, match="--raw"):
        checkpoint.load(prefix, golden_numbers.build(NAME), averaged=True)
