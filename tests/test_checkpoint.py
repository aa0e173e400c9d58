"""Checkpoints: names, round trip, the search for the newest, and errors about broken ones."""

import dataclasses
import os
import resource
import shutil
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import OneStep, add_spec, shallow

import golden_numbers
import pixel_snail
from benchmarks import reliability
from pixel_snail import checkpoint
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.errors import UserError
from pixel_snail.model import build_network
from pixel_snail.network import Description
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.runs import search
from pixel_snail.storage import files

NAME = "h8_noup_smallkey"
ENDINGS = (".index", ".data-00000-of-00001")
FIELDS = [field.name for field in dataclasses.fields(Description)]


def read(prefix):
    reader = tf.train.load_checkpoint(prefix)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize("name", [NAME, "model", "h6_shift", "h8_noup_smallkey_ar_chs", "pxpp"])
def test_loading_and_saving_the_originals_checkpoint_gives_every_tensor_back(tmp_path, name):
    model = golden_numbers.build(name)
    optimizer = PolyakAdam()
    optimizer.build(model.trainable_variables)
    checkpoint.load(Checkpoint(golden_numbers.checkpoint(name)), model, optimizer)
    prefix = str(tmp_path / "0" / "params_cifar.ckpt")
    checkpoint.save(prefix, model, optimizer, {"epoch": np.int64(7), "test_bpd": np.array([3.5, 3.25])})
    original, ours = read(golden_numbers.checkpoint(name)), read(prefix)
    assert ours.keys() - original.keys() == {
        f"pixel_snail/{name}" for name in ("epoch", "test_bpd", "steps_taken", *(f"network/{name}" for name in FIELDS))
    }
    assert original.keys() <= ours.keys()
    progress = Checkpoint(prefix).progress()
    assert (progress["epoch"], progress["test_bpd"].tolist()) == (7, [3.5, 3.25])
    assert Checkpoint(golden_numbers.checkpoint(name)).progress() == {}
    for name, tensor in original.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape), name
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == [
        "params_cifar.ckpt.data-00000-of-00001",
        "params_cifar.ckpt.index",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def copy(prefix, to):
    """Copies a checkpoint and returns the prefix of the copy."""
    to.parent.mkdir(parents=True, exist_ok=True)
    for ending in ENDINGS:
        shutil.copy(prefix + ending, str(to) + ending)
    return str(to)


def small_network():
    return shallow(NAME)(nr_resnet=1, nr_filters=4, nr_logistic_mix=2).build_for(NAME, (8, 8, 3), None)


def saved_after(steps, run, name):
    """Saves a checkpoint of a network after so many steps in a run's folder, and returns its prefix."""
    model = small_network()
    optimizer = PolyakAdam()
    optimizer.build(model.trainable_variables)
    optimizer.iterations.assign(steps)
    prefix = str(run / name / "params_cifar.ckpt")
    checkpoint.save(prefix, model, optimizer, {})
    return prefix


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_newest_that_is_whole_is_found_whatever_a_crash_or_a_copy_left(tmp_path, capfd):
    run = tmp_path / "run"
    whole, newest = saved_after(9, run, "8"), saved_after(10, run, "9_3")
    for prefix in (newest, whole):  # a copied run may have been written in any order
        os.utime(f"{prefix}.index")
    assert search.find(str(tmp_path)).prefix == newest
    for leftover in (".writing_10", ".removed_7"):
        shutil.copytree(run / "9_3", run / leftover)
    assert search.find(str(tmp_path)).prefix == newest
    shutil.copytree(run / "9_3", run / ".replaced_11")  # its replacement was never written
    shutil.copytree(run / "9_3", run / ".replaced_8")
    files.remove_leftovers(run)
    assert sorted(path.name for path in run.iterdir()) == [".replaced_11", "8", "9_3"]
    shutil.rmtree(run / ".replaced_11")
    assert capfd.readouterr().err == ""

    flip_a_bit(run / "9_3" / f"params_cifar.ckpt{ENDINGS[1]}")
    assert search.find(str(tmp_path)).prefix == whole
    (line,) = capfd.readouterr().err.splitlines()
    assert newest in line
    flip_a_bit(run / "8" / f"params_cifar.ckpt{ENDINGS[0]}")
    with pytest.raises(UserError, match=r"none of the 2 checkpoints below .* can be read"):
        search.find(str(tmp_path))


def test_a_checkpoint_is_written_and_read_whatever_characters_its_path_has():
    """Among the characters are those of TensorFlow's patterns, and a byte that is not UTF-8."""
    model, loaded = small_network(), small_network()
    optimizer = PolyakAdam()
    optimizer.build(model.trainable_variables)

    @given(st.text("[]*?\\\\{}~$%!é漢 \n\udcff'\"ab", min_size=1, max_size=12))
    @settings(max_examples=40, deadline=None)
    def law(name):
        for variable in loaded.trainable_variables:
            variable.assign(tf.zeros_like(variable))
        with tempfile.TemporaryDirectory() as folder:
            prefix = os.path.join(folder, f"run {name}", "0", "params_cifar.ckpt")
            checkpoint.save(prefix, model, optimizer, {})
            assert search.find(os.path.join(folder, f"run {name}")).prefix == prefix
            checkpoint.load(search.find(f"{prefix}.index"), loaded)
        for actual, expected in zip(loaded.trainable_variables, model.trainable_variables, strict=True):
            np.testing.assert_array_equal(actual, expected)

    law()


@pytest.mark.parametrize("ending", ["", ".index", ".meta", ".data-00000-of-00001"])
@pytest.mark.parametrize("name", ["params_cifar.ckpt", "model-1000", "weights.v2", "checkpoint"])
def test_a_checkpoint_is_found_by_any_of_its_files_whatever_its_name(name, ending, tmp_path):
    prefix = copy(golden_numbers.checkpoint(NAME), tmp_path / "released" / name)
    (tmp_path / "released" / f"{name}.meta").write_bytes(b"the graph, which the original's Saver writes")
    assert search.find(prefix + ending).prefix == prefix
    assert search.find(str(tmp_path)).prefix == prefix


@pytest.mark.parametrize(
    "noted", ["params_cifar.ckpt", "{folder}/params_cifar.ckpt", "/home/author/run/params_cifar.ckpt"]
)
def test_a_savers_text_file_leads_to_its_checkpoint_also_in_another_folder(noted, tmp_path):
    prefix = copy(golden_numbers.checkpoint(NAME), tmp_path / "params_cifar.ckpt")
    noted = noted.format(folder=tmp_path)
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{noted}"\nall_model_checkpoint_paths: "other"\n')
    assert search.find(str(tmp_path / "checkpoint")).prefix == prefix


def test_another_text_file_of_that_name_is_refused(tmp_path):
    (tmp_path / "checkpoint").write_text("something else")
    with pytest.raises(UserError, match="checkpoint does not say which checkpoint is the newest: give its prefix"):
        search.find(str(tmp_path / "checkpoint"))


def test_the_summary_names_network_steps_and_the_number_of_other_runs(tmp_path):
    newest = saved_after(9, tmp_path / "a", "8")
    assert search.summary(Checkpoint(newest), str(tmp_path)) == f"{newest}: {NAME}, 4 filters, 9 steps taken"
    saved_after(7, tmp_path / "b", "6")
    line = search.summary(Checkpoint(newest), str(tmp_path))
    assert line.endswith(f"9 steps taken; the newest of 2 checkpoints of 2 runs below {tmp_path}")
    original = golden_numbers.checkpoint(NAME)
    assert search.summary(Checkpoint(original)) == f"{original}: 3 steps taken"


def test_the_names_of_classes_are_kept(tmp_path, monkeypatch):
    add_spec(monkeypatch, "h0", OneStep)
    settings = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2}
    for names in (("cat", "dog", "漢"), None):
        model = build_network("h0", (8, 8, 3), 3, names, **settings)
        optimizer = PolyakAdam()
        optimizer.build(model.trainable_variables)
        prefix = str(tmp_path / str(names) / "params.ckpt")
        checkpoint.save(prefix, model, optimizer, {})
        assert Checkpoint(prefix).description() == model.description
        assert model.description.class_names == names
        model.save(tmp_path / "network.keras")
        assert keras.models.load_model(tmp_path / "network.keras").description == model.description


@pytest.fixture
def binary(tmp_path, monkeypatch):
    """The prefix of a checkpoint of a network of binary grey images, and its distribution."""
    add_spec(monkeypatch, "h0", OneStep)
    model = pixel_snail.build("h0", image_shape=(4, 4, 1), levels=2, nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
    model.initialise(np.random.default_rng(0).integers(0, 2, [8, 4, 4, 1], np.uint8))
    model.save(tmp_path / "params.ckpt")
    return str(tmp_path / "params.ckpt"), model


def test_the_channels_and_levels_are_kept_and_the_checkpoint_builds_its_network(binary):
    prefix, model = binary
    assert Checkpoint(prefix).description() == model.network.description
    loaded = pixel_snail.load(prefix)
    assert (loaded.image_shape, loaded.levels) == ((4, 4, 1), 2)
    images = np.random.default_rng(1).integers(0, 2, [3, 4, 4, 1], np.uint8)
    np.testing.assert_array_equal(loaded.log_prob(images, verbose=0), model.log_prob(images, verbose=0))
    assert pixel_snail.load(prefix, image_shape=(8, 2, 1), levels=2).image_shape == (8, 2, 1)


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"levels": 256}, "it is of images with 2 levels, not 256"),
        ({"levels": 65536}, "it is of images with 2 levels, not 65,536"),
        ({"image_shape": (4, 4, 3)}, "it is of images with 1 channel, not 3"),
        ({"image_shape": (4, 4, 2), "levels": 3}, "it is of images with 1 channel, not 2, it is of .* 2 levels, not 3"),
    ],
)
def test_a_checkpoint_of_other_channels_or_levels_is_refused_in_one_line(keywords, message, binary):
    with pytest.raises(UserError, match=f"of another network: {message}; give its values, or another checkpoint$"):
        pixel_snail.load(binary[0], **keywords)


@pytest.mark.parametrize("name", ["h6_shift", NAME])
def test_a_checkpoint_that_records_no_network_is_of_rgb_images(name):
    settings = {"model": name, "nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2}
    assert pixel_snail.load(golden_numbers.checkpoint(name), image_shape=(8, 8, 3), **settings).levels == 256
    with pytest.raises(UserError, match=r"so it is of images with 3 channels, as the original's are, not 1: give such"):
        pixel_snail.load(golden_numbers.checkpoint(name), image_shape=(8, 8, 1), **settings)


def test_a_checkpoint_of_an_earlier_version_without_levels_has_256(tmp_path):
    prefix = saved_after(1, tmp_path, "0")
    tensors = read(prefix)
    assert tensors.pop("pixel_snail/network/levels") == 256
    assert Checkpoint(written(tensors, tmp_path / "1.ckpt")).description() == Checkpoint(prefix).description()


@pytest.mark.parametrize(
    "name, value",
    [("levels", 1), ("levels", 65537), ("levels", -2), ("image_shape", [8, 8, 0]), ("image_shape", [8, 8])],
)
def test_a_recorded_network_that_cannot_be_is_refused_in_one_line(name, value, tmp_path):
    tensors = read(saved_after(1, tmp_path, "0")) | {f"pixel_snail/network/{name}": np.array(value, np.int64)}
    with pytest.raises(UserError, match="not written by this program") as error:
        Checkpoint(written(tensors, tmp_path / "1.ckpt")).description()
    assert "\n" not in str(error.value)


def written(tensors, prefix):
    """Writes tensors as a checkpoint, and returns its prefix."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    return str(prefix)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    """A limit on the size of files makes the write fail as on a full disk."""
    prefix = saved_after(1, tmp_path, "0")
    before = {path: path.read_bytes() for path in (tmp_path / "0").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        for name in ("0", "1"):
            with pytest.raises(OSError):
                saved_after(2, tmp_path, name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in (tmp_path / "0").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert search.find(str(tmp_path)).prefix == prefix


def test_no_corruption_is_accepted_with_another_value(tmp_path):
    copy(golden_numbers.checkpoint(NAME), tmp_path / "params_cifar.ckpt")
    outcomes = reliability.corruptions_caught(tmp_path, 1000)
    assert outcomes["accepted_with_wrong_values"] == 0
    assert outcomes["harmless"] < 50  # the index ends with unused bytes


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(content=st.binary(max_size=2000), ending=st.sampled_from(ENDINGS))
def test_any_bytes_in_place_of_a_file_are_refused_in_one_line(tmp_path_factory, content, ending):
    copied = copy(golden_numbers.checkpoint(NAME), tmp_path_factory.mktemp("any") / "params_cifar.ckpt")
    with open(copied + ending, "wb") as file:
        file.write(content)
    with pytest.raises(UserError) as error:
        Checkpoint(copied).check()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, value",
    [
        ("model/conv2d_0/V", np.zeros([1, 3, 4, 4], np.int64)),
        ("model/conv2d_0/V/ExponentialMovingAverage", np.zeros([4, 3, 4, 1], np.float32)),
        ("Variable", np.float32([1, 2])),
        ("Variable", np.float32(np.nan)),
        ("Variable_1", np.array([b"x"], object)),
        ("pixel_snail/steps_taken", np.array(b"many", object)),
    ],
)
def test_tensors_of_another_kind_are_refused_in_one_line(tmp_path, name, value):
    tensors = read(golden_numbers.checkpoint(NAME)) | {name: value}
    prefix = str(tmp_path / "params_cifar.ckpt")
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(tensors), shape_and_slices=[""] * len(tensors), tensors=list(tensors.values())
    )
    model = golden_numbers.build(NAME)
    optimizer = PolyakAdam()
    optimizer.build(model.trainable_variables)
    with pytest.raises(UserError, match="not written by this program or the original") as error:
        checkpoint.load(Checkpoint(prefix), model, optimizer)
    assert "\n" not in str(error.value)


def test_averages_take_the_parameters_place_when_asked():
    model = golden_numbers.build(NAME)
    original = read(golden_numbers.checkpoint(NAME))
    for averaged, ending in ((False, ""), (True, "/ExponentialMovingAverage")):
        checkpoint.load(Checkpoint(golden_numbers.checkpoint(NAME)), model, averaged=averaged)
        for name, variable in golden_numbers.variables(model).items():
            np.testing.assert_array_equal(variable, original[name + ending])


def test_a_checkpoint_is_found_by_prefix_by_file_and_as_the_newest_below_a_folder(tmp_path):
    prefix = golden_numbers.checkpoint(NAME)
    assert search.find(prefix).prefix == prefix
    assert search.find(f"{prefix}.index").prefix == prefix
    assert search.find(f"{prefix}.data-00000-of-00001").prefix == prefix
    for age, epoch in ((300, "0"), (100, "10"), (200, "9")):
        copied = copy(prefix, tmp_path / epoch / "params_cifar.ckpt")
        os.utime(f"{copied}.index", (1e9 - age, 1e9 - age))
    assert search.find(str(tmp_path)).prefix == str(tmp_path / "10" / "params_cifar.ckpt")


@pytest.mark.parametrize(
    "name, message",
    [
        ("photo.png", "photo.png is there, but is no checkpoint: give a run's folder, or a file of a checkpoint, such"),
        ("run/flags.json", "flags.json is there, but is no checkpoint"),
        ("run/print.log", "print.log is there, but is no checkpoint"),
        ("run/0/params.ckpt.data-00000-of-00001", "data-00000-of-00001 lacks its file .*params.ckpt.index: give"),
        ("run/0/params.ckpt.meta", "meta lacks its file .*params.ckpt.index"),
        ("run", "no checkpoint .* below the folder .*run"),
        ("none", "no such folder or checkpoint: .*none; give"),
        ("none.index", "no such folder or checkpoint: .*none; give"),
        ("photo.png/0", "no such folder or checkpoint: .*photo.png/0; give"),
        ("n" * 300, "can't look at n*: File name too long"),
        ("loop", "no such folder or checkpoint: .*loop; give"),
        (
            "exported",
            r"exported is an exported model \(a SavedModel\), which can't be loaded back: give the checkpoint",
        ),
    ],
)
def test_what_is_no_checkpoint_is_told_from_what_is_not_there(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("run/0")
    os.makedirs("run/exported/variables")
    os.symlink("run/exported", "exported")
    for path in ("saved_model.pb", "variables/variables.index"):
        (tmp_path / "exported" / path).write_text("something")
    for path in ("photo.png", "run/flags.json", "run/print.log"):
        (tmp_path / path).write_text("something")
    for ending in ("data-00000-of-00001", "meta"):
        (tmp_path / "run" / "0" / f"params.ckpt.{ending}").write_text("something")
    os.symlink("loop", "loop")
    with pytest.raises(UserError, match=message):
        search.find(name)


@pytest.mark.parametrize(
    "changed, flag",
    [
        ({"nr_filters": 8}, r"nr_filters \(4 in the checkpoint, not 8\)"),
        ({"nr_logistic_mix": 3}, r"nr_logistic_mix \(2 in the checkpoint, not 3\)"),
        ({"nr_resnet": 2}, "nr_resnet or model"),
        ({"resnet_nonlinearity": "concat_elu"}, "resnet_nonlinearity or model"),
        ({"nr_labels": 5}, "nr_labels"),
        ({"nr_filters": 8, "nr_logistic_mix": 3}, r"nr_filters .* and nr_logistic_mix"),
    ],
)
def test_a_checkpoint_of_another_network_names_the_likely_flag(changed, flag):
    settings = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2} | changed
    model = build_network(NAME, (8, 8, 3), **settings)
    before = [np.asarray(variable) for variable in model.trainable_variables]
    with pytest.raises(UserError, match=f"probably {flag}"):
        checkpoint.load(Checkpoint(golden_numbers.checkpoint(NAME)), model)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_checkpoint_of_another_model_is_refused():
    with pytest.raises(UserError, match="nr_resnet or model"):
        checkpoint.load(Checkpoint(golden_numbers.checkpoint("h12_noup_smallkey")), golden_numbers.build(NAME))


@pytest.mark.parametrize("damage", ["index cut", "data cut", "data missing", "bit flipped", "index is text"])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path, damage):
    prefix = copy(golden_numbers.checkpoint(NAME), tmp_path / "params_cifar.ckpt")
    index, file = tmp_path / "params_cifar.ckpt.index", tmp_path / "params_cifar.ckpt.data-00000-of-00001"
    if damage == "index cut":
        index.write_bytes(index.read_bytes()[:1000])
    elif damage == "data cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "data missing":
        file.unlink()
    elif damage == "bit flipped":
        flip_a_bit(file)
    else:
        index.write_text("not a checkpoint\n" * 100)
    model = golden_numbers.build(NAME)
    optimizer = PolyakAdam()
    optimizer.build(model.trainable_variables)
    with pytest.raises(UserError) as error:
        checkpoint.load(Checkpoint(prefix), model, optimizer)
    assert prefix in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    prefix = str(tmp_path / "other.ckpt")
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=["weights"], shape_and_slices=[""], tensors=[tf.zeros([3])])
    with pytest.raises(UserError, match="not written by this program or the original"):
        checkpoint.load(Checkpoint(prefix), golden_numbers.build(NAME))


def test_what_else_a_checkpoint_holds_is_passed_over(tmp_path):
    """As in PixelCNN++'s checkpoint, which another program wrote under the same names."""
    prefix = str(tmp_path / "params_cifar.ckpt")
    original = read(golden_numbers.checkpoint("pxpp"))
    tensors = original | {"global_step": np.int64(7), "model/beta1_power": np.float32(0.9)}
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(tensors), shape_and_slices=[""] * len(tensors), tensors=list(tensors.values())
    )
    model = golden_numbers.build("pxpp")
    checkpoint.load(Checkpoint(prefix), model, averaged=True)
    for name, variable in golden_numbers.variables(model).items():
        np.testing.assert_array_equal(variable, original[f"{name}/ExponentialMovingAverage"])


def test_a_checkpoint_without_averages_says_so(tmp_path):
    prefix = str(tmp_path / "raw.ckpt")
    tensors = {k: v for k, v in read(golden_numbers.checkpoint(NAME)).items() if not k.endswith("Average")}
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(tensors), shape_and_slices=[""] * len(tensors), tensors=list(tensors.values())
    )
    with pytest.raises(UserError, match="averaged=False takes"):
        checkpoint.load(Checkpoint(prefix), golden_numbers.build(NAME), averaged=True)
