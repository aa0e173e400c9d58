"""Training from Python: the parameters are train.py's bit by bit, in however many calls, also where one is cut off."""

import math
import os
import signal
import threading
import types

import numpy as np
import pytest
import tensorflow as tf
from networks import OneStep, add_spec

import data
import golden_numbers
import pixel_snail
import train as train_command
from benchmarks import reliability
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError
from pixel_snail.fitting import Fit, FitHistory
from pixel_snail.parallel.cluster import Cluster
from pixel_snail.runs import history, search
from pixel_snail.trainer import Trainer
from pixel_snail.weights import WeightNormalised

NETWORK = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2}
SETTINGS = {"batch_size": 2, "init_batch_size": 4, "lr_decay": 0.9, "polyak_decay": 0.5, "verbose": 0}
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, [11, 8, 8, 3], np.uint8)
HELD_OUT = RANDOM.integers(0, 256, [3, 8, 8, 3], np.uint8)
LABELS = np.arange(11) % 3

pytestmark = pytest.mark.usefixtures("uncompiled_drawing")


@pytest.fixture(autouse=True)
def one_block(monkeypatch):
    add_spec(monkeypatch, "h0", OneStep)
    monkeypatch.setitem(data.data_sets, "tiny", lambda _: DataSet(Split(IMAGES), Split(HELD_OUT)))
    labels = Split(IMAGES, LABELS), Split(HELD_OUT, LABELS[:3])
    monkeypatch.setitem(data.data_sets, "tiny_labels", lambda _: DataSet(*labels))


@pytest.fixture
def plain_sigint():
    """As at the start of a program in the foreground: tests in a shell's background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def build(nr_labels=None, seed=42):
    return pixel_snail.build("h0", image_shape=(8, 8, 3), nr_labels=nr_labels, seed=seed, **NETWORK)


def train(folder, *argv):
    """Runs train.py with the settings above; returns the tensors of its last checkpoint."""
    flags = ["--model=h0", "-q1", "-n4", "-m2", "--data_set=tiny", "-b2", "-a4", "-e0.9", "--polyak_decay=0.5"]
    with pytest.raises(SystemExit) as exit_:
        train_command.main([*flags, "--sample_interval=0", f"-o{folder}", *argv])
    assert exit_.value.code == 0
    return reliability.tensors(search.find(str(folder)).prefix)


def saved(model, folder):
    """The tensors of a checkpoint that the model writes."""
    prefix = str(folder / "params.ckpt")
    model.save(prefix)
    return reliability.tensors(prefix)


def state(tensors):
    """What the next steps depend on: the parameters, their averages, and the state of Adam."""
    return {name: value for name, value in tensors.items() if name.startswith(("model/", "Variable"))}


def assert_equal(found, expected):
    found, expected = state(found), state(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def parameters(model):
    return [variable.numpy() for variable in model.network.weights]


def test_fit_gives_the_parameters_of_train_py_bit_by_bit_also_over_a_save_and_a_load(tmp_path):
    expected = train(tmp_path / "runs", "-x4")
    whole = build()
    fitted = whole.fit(IMAGES, validation=HELD_OUT, epochs=4, **SETTINGS)
    assert_equal(saved(whole, tmp_path / "whole"), expected)
    assert fitted.test == expected["pixel_snail/test_bpd"].tolist()
    assert fitted.steps == expected["pixel_snail/train_bpd"].tolist()

    first = build()
    first.fit(IMAGES, epochs=1, **SETTINGS)
    first.fit(IMAGES, epochs=1, on_epoch=lambda _: saved(first, tmp_path / "in_a_call"), **SETTINGS)
    assert_equal(saved(first, tmp_path / "half"), reliability.tensors(str(tmp_path / "in_a_call" / "params.ckpt")))
    second = pixel_snail.load(tmp_path / "half", optimizer=True)
    np.testing.assert_array_equal(second.bits_per_dim(HELD_OUT, verbose=0), first.bits_per_dim(HELD_OUT, verbose=0))
    for epochs in (1, 1):
        second.fit(IMAGES, epochs=epochs, **SETTINGS)
    assert_equal(saved(second, tmp_path / "second"), expected)


def test_the_flags_of_a_step_and_labels_are_those_of_train_py(tmp_path):
    flags = ["--grad_accum=2", "--bfloat16", "--recompute", "--lr_to_zero", "--muon", "-l0.01", "-s7", "-c"]
    expected = train(tmp_path / "runs", "-x2", "--data_set=tiny_labels", *flags)
    model = build(nr_labels=3, seed=7)
    settings = {"grad_accum": 2, "bfloat16": True, "recompute": True, "lr_to_zero": True, "muon": True}
    settings["learning_rate"] = 0.01
    model.fit(IMAGES, LABELS, validation=(HELD_OUT, LABELS[:3]), epochs=2, seed=7, **settings, **SETTINGS)
    assert_equal(saved(model, tmp_path / "mine"), expected)


def test_a_training_with_muon_goes_on_without_it_also_from_a_checkpoint(tmp_path):
    model = build()
    model.fit(IMAGES, epochs=1, muon=True, **SETTINGS)
    saved(model, tmp_path / "with_muon")
    loaded = pixel_snail.load(tmp_path / "with_muon", optimizer=True)
    for either in (model, loaded):
        either.fit(IMAGES, epochs=1, **SETTINGS)
    assert_equal(saved(loaded, tmp_path / "loaded"), saved(model, tmp_path / "model"))
    with_adam = build()
    with_adam.fit(IMAGES, epochs=2, **SETTINGS)
    assert with_adam.history.steps[5:] != loaded.history.steps  # of the second epoch


def test_a_mutation_rate_is_that_of_a_view_of_the_training_images_and_not_of_the_tests(tmp_path):
    expected = train(tmp_path / "runs", "-x2", "--mutation_rate=0.3")
    model = build()
    model.fit(pixel_snail.Mutated(IMAGES, 0.3), validation=HELD_OUT, epochs=2, **SETTINGS)
    assert_equal(saved(model, tmp_path / "mine"), expected)
    assert model.history.test == expected["pixel_snail/test_bpd"].tolist()


def test_several_replicas_train_as_train_py_does(tmp_path, mirrored):
    expected = train(tmp_path / "runs", "-x1", "-g2", "-b1")
    model = build()
    model.fit(IMAGES, epochs=1, strategy=mirrored(2), **SETTINGS | {"batch_size": 1})
    found = saved(model, tmp_path / "mine")
    for name, value in state(expected).items():  # micro-batches of one image or two round differently
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_fitted_model_predicts_with_the_averages_as_its_checkpoint_does(tmp_path):
    model = build()
    model.fit(IMAGES, epochs=1, **SETTINGS)
    tensors = saved(model, tmp_path / "mine")
    averages = [value for name, value in tensors.items() if name.endswith("/ExponentialMovingAverage")]
    assert sorted(map(np.sum, averages)) == sorted(map(np.sum, parameters(model)))
    loaded, raw = (pixel_snail.load(tmp_path / "mine", averaged=averaged) for averaged in (True, False))
    for images in (HELD_OUT, IMAGES):
        expected = loaded.bits_per_dim(images, verbose=0)
        np.testing.assert_array_equal(model.bits_per_dim(images, verbose=0), expected)
        assert np.abs(raw.bits_per_dim(images, verbose=0) - expected).max() > 1e-4
    np.testing.assert_array_equal(model.sample(2, verbose=0), loaded.sample(2, verbose=0))
    assert model.decompress(loaded.compress(HELD_OUT, verbose=0), verbose=0).tolist() == HELD_OUT.tolist()
    x = tf.cast(HELD_OUT, tf.float32) / 127.5 - 1
    np.testing.assert_array_equal(model.network(x), loaded.network(x))


def test_of_several_workers_only_the_chief_writes_a_checkpoint_and_all_learn_of_its_failure(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Cluster, "gather_objects", lambda cluster, value: (told.append(value), [failure])[1])
    for index, failure in ((0, None), (1, None), (1, "can't write x: disk full")):
        model = build()
        model.fit(IMAGES, epochs=1, **SETTINGS)
        model._training._cluster = Cluster(index=index)
        prefix = tmp_path / f"{index}" / "params.ckpt"
        if failure:
            with pytest.raises(UserError, match="disk full"):
                model.save(prefix)
        else:
            model.save(prefix)
        assert prefix.with_suffix(".ckpt.index").exists() == (index == 0)
    assert told == [None] * 3


def test_fine_tuning_begins_with_the_loaded_averages_and_a_fresh_optimizer(tmp_path):
    model = build()
    model.fit(IMAGES, epochs=2, **SETTINGS)
    saved(model, tmp_path / "mine")
    tuned = pixel_snail.load(tmp_path / "mine")
    started = parameters(tuned)
    with pytest.warns(UserWarning, match=r"the loaded parameters still have a weight of 100\.0% in"):
        tuned.fit(IMAGES[:2], epochs=3, **SETTINGS | {"polyak_decay": 0.9999, "learning_rate": 1e-6})
    for before, after in zip(started, parameters(tuned), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)
    read = Checkpoint(str(tmp_path / "tuned" / "params.ckpt")) if saved(tuned, tmp_path / "tuned") else None
    assert (read.steps_taken(), history.read(read).epoch) == (3, 3)


def test_a_call_that_ends_where_an_interrupted_one_would_have_goes_on_with_its_learning_rates(tmp_path):
    whole = build()
    expected = whole.fit(IMAGES, epochs=3, lr_to_zero=True, **SETTINGS).learning_rates
    assert expected[0] > 100 * expected[-1]
    model = build()

    def interrupt(history):
        raise StopIteration

    rates = model.fit(IMAGES, epochs=3, lr_to_zero=True, on_epoch=interrupt, **SETTINGS).learning_rates
    assert len(rates) == 5
    saved(model, tmp_path / "mine")
    model = pixel_snail.load(tmp_path / "mine", optimizer=True)
    rates += model.fit(IMAGES, epochs=2, lr_to_zero=True, **SETTINGS).learning_rates
    assert rates == expected
    assert_equal(saved(model, tmp_path / "a"), saved(whole, tmp_path / "b"))
    anew = model.fit(IMAGES, epochs=1, lr_to_zero=True, **SETTINGS).learning_rates
    assert anew[0] > 2 * anew[-1] > rates[-1]


def test_ctrl_c_ends_after_the_step_and_leaves_what_was_learned(tmp_path, monkeypatch, capfd, plain_sigint):
    expected = build()
    expected.fit(IMAGES, epochs=2, **SETTINGS)
    model, step = build(), Trainer.step

    def interrupting(trainer, batch):
        if len(model.history.steps) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupting)
        with pytest.raises(KeyboardInterrupt):
            model.fit(IMAGES, epochs=2, **SETTINGS)
    assert "interrupted: ending after this step or batch; once more ends at once" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(model.history.steps) == 7
    tensors = saved(model, tmp_path / "mine")
    assert tensors["pixel_snail/images"] == 4
    model.fit(IMAGES, epochs=1, **SETTINGS)  # the rest of the epoch
    assert_equal(saved(model, tmp_path / "mine"), saved(expected, tmp_path / "expected"))


def test_a_loss_that_is_not_finite_names_the_images_and_leaves_the_last_good_parameters():
    model = build()
    model.fit(IMAGES, epochs=1, **SETTINGS)
    good = parameters(model)
    where = r"is (nan|inf|not finite) in step 0 of epoch 1, of the training images \d+, \d+"
    with pytest.raises(
        UserError, match=f"{where}.*lower learning_rate, and fit again: the parameters are those before"
    ):
        model.fit(IMAGES, epochs=1, **SETTINGS | {"learning_rate": 1e38})
    for found, value in zip(parameters(model), good, strict=True):
        np.testing.assert_array_equal(found, value)
    model.fit(IMAGES, epochs=1, **SETTINGS)
    assert all(np.isfinite(value).all() for value in parameters(model))


def test_each_call_has_its_own_number_of_steps_to_pass_over():
    model = build()
    model.fit(IMAGES, epochs=1, **SETTINGS)
    for _ in range(2):
        with pytest.raises(UserError, match="diverged"):
            model.fit(IMAGES, epochs=1, **SETTINGS | {"learning_rate": 1e38})
    with pytest.warns(UserWarning, match="of the training images .*: passed over"):
        history = model.fit(IMAGES, epochs=1, skip_nonfinite=5, **SETTINGS | {"learning_rate": 1e38})
    assert np.isnan(history.steps).all() and math.isnan(history.train[0])


@pytest.mark.parametrize("steps, images, expected", [(2, IMAGES[:7], 3), (2, IMAGES, 3), (5, IMAGES, 5)])
def test_a_call_after_an_interrupted_epoch_trains_its_rest_or_a_whole_epoch_on_other_images(
    steps, images, expected, plain_sigint
):
    model, step = build(), Trainer.step

    def interrupting(trainer, batch):
        if len(model.history.steps) == steps - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, batch)

    model.fit(IMAGES, epochs=1, **SETTINGS)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", interrupting)
        model.fit(IMAGES, epochs=1, **SETTINGS)
    assert len(model.history.steps) == steps
    history = model.fit(images, epochs=1, **SETTINGS)
    assert len(history.steps) == expected
    assert history.train[0] == pytest.approx(np.mean(history.steps))


def test_parameters_that_keras_sets_begin_a_new_training_and_are_saved(tmp_path):
    model, other = build(), build(seed=7)
    for each in (model, other):
        each.fit(IMAGES, epochs=1, **SETTINGS)
    model.network.set_weights([variable.numpy() for variable in other.network.weights])
    with pytest.warns(UserWarning, match="were changed since fit: a new training begins with them"):
        tensors = saved(model, tmp_path / "mine")
    assert tensors["pixel_snail/steps_taken"] == 0
    for found, value in zip(parameters(pixel_snail.load(tmp_path / "mine")), parameters(other), strict=True):
        np.testing.assert_array_equal(found, value)


def test_parameters_that_keras_sets_in_a_new_network_count_as_loaded(tmp_path):
    source = build()
    source.fit(IMAGES, epochs=1, **SETTINGS)
    given = parameters(source)
    fitted, saving, initialised = (build(seed=7) for _ in range(3))
    for model in (fitted, saving, initialised):
        model.network.set_weights(given)
    with pytest.warns(UserWarning, match="were changed since build: they count as loaded"):
        fitted.fit(IMAGES, epochs=1, learning_rate=1e-30, **SETTINGS)  # so small a rate changes no parameter
    with pytest.warns(UserWarning, match="were changed since build: they count as loaded"):
        saved(saving, tmp_path)
    for model in (initialised, saving, fitted):
        with pytest.raises(UserError, match="has been trained or loaded: initialise one that build has just made"):
            model.initialise(IMAGES[:4])
    for model in (fitted, pixel_snail.load(tmp_path), initialised):
        for found, expected in zip(parameters(model), given, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "owner, name, calls, call",
    [
        (WeightNormalised, "_initialise", 3, lambda model: model.initialise(IMAGES[:4])),
        (WeightNormalised, "_initialise", 3, lambda model: model.fit(IMAGES, epochs=1, **SETTINGS)),
        (Trainer, "begin", 1, lambda model: model.fit(IMAGES, epochs=1, **SETTINGS)),
    ],
)
def test_an_initialisation_that_fails_leaves_a_new_network_that_can_be_initialised(
    owner, name, calls, call, monkeypatch, recwarn
):
    counted, original = [], getattr(owner, name)

    def failing(*arguments):
        counted.append(None)
        if len(counted) == calls:
            raise MemoryError
        return original(*arguments)

    model, expected = build(), build()
    with monkeypatch.context() as patch, pytest.raises((MemoryError, UserError)):
        patch.setattr(owner, name, failing)
        call(model)
    assert len(counted) == calls
    with pytest.raises(UserError, match="the network is new"):
        model.save("nowhere/params.ckpt")
    for each in (model, expected):
        each.initialise(IMAGES[:4])
    for found, value in zip(parameters(model), parameters(expected), strict=True):
        np.testing.assert_array_equal(found, value)
    assert not recwarn.list


def test_only_a_new_network_is_initialised(tmp_path):
    model = build()
    model.initialise(IMAGES[:4])
    model.initialise(IMAGES[:4])
    model.fit(IMAGES, epochs=1, **SETTINGS)
    saved(model, tmp_path / "mine")
    for each in (model, pixel_snail.load(tmp_path / "mine")):
        with pytest.raises(UserError, match="has been trained or loaded: initialise one that build has just made"):
            each.initialise(IMAGES[:4])


def test_no_network_is_initialised_with_no_images():
    model = build()
    before = parameters(model)
    with pytest.raises(UserError, match="there are no images: give at least one"):
        model.initialise(IMAGES[:0])
    for found, value in zip(parameters(model), before, strict=True):
        np.testing.assert_array_equal(found, value)


def test_an_interrupted_epoch_of_a_loaded_model_goes_on_with_as_many_images_only(tmp_path):
    model = build()
    model.fit(IMAGES, minutes=1e-9, **SETTINGS)
    saved(model, tmp_path / "mine")
    for images, steps in ((IMAGES, 4), (IMAGES[:9], 4), (IMAGES[:7], 3)):
        again = pixel_snail.load(tmp_path / "mine", optimizer=True)
        assert len(again.fit(images, epochs=1, **SETTINGS).steps) == steps


def test_the_newest_of_models_that_were_saved_from_python_is_found_not_that_of_most_steps(tmp_path):
    longer, later = build(), build(seed=7)
    longer.fit(IMAGES, epochs=2, **SETTINGS)
    later.fit(IMAGES, epochs=1, **SETTINGS)
    for i, (model, name) in enumerate(((longer, "base"), (later, "tuned"))):
        saved(model, tmp_path / name)
        os.utime(tmp_path / name / "params.ckpt.index", (10**9 + i, 10**9 + i))
    assert search.find(str(tmp_path)).prefix == str(tmp_path / "tuned" / "params.ckpt")


def test_a_call_that_is_refused_leaves_the_interrupted_epoch_as_it_is():
    def interrupted():
        model = build()
        model.fit(IMAGES, minutes=1e-9, **SETTINGS)
        return model

    refused, expected = interrupted(), interrupted()
    with pytest.raises(UserError, match="batch_size=2 is larger"):
        refused.fit(IMAGES[:1], epochs=1, **SETTINGS)
    for model in (refused, expected):
        model.fit(IMAGES, epochs=1, **SETTINGS)
    for found, value in zip(parameters(refused), parameters(expected), strict=True):
        np.testing.assert_array_equal(found, value)


def test_images_are_read_a_batch_at_a_time_from_a_file_and_shared_with_a_tensor(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    on_disk = np.load(tmp_path / "images.npy", mmap_mode="r")
    expected = build()
    expected.fit(IMAGES, epochs=1, **SETTINGS)
    read = []

    class Watched:
        shape, dtype = on_disk.shape, on_disk.dtype

        def __len__(self):
            return len(on_disk)

        def __getitem__(self, indices):
            read.append(np.size(indices))
            return on_disk[indices]

    for images in (Watched(), on_disk, tf.constant(IMAGES), list(IMAGES)):
        model = build()
        model.fit(images, epochs=1, **SETTINGS)
        for found, value in zip(parameters(model), parameters(expected), strict=True):
            np.testing.assert_array_equal(found, value)
    assert max(read) == 4  # the initialisation's


def test_on_epoch_sees_the_history_and_a_model_that_predicts_with_the_averages():
    model, seen = build(), []

    def look(history):
        seen.append((len(history.steps), history.test[-1], model.bits_per_dim(HELD_OUT, verbose=0).mean()))

    found = model.fit(IMAGES, validation=HELD_OUT, epochs=2, on_epoch=look, **SETTINGS)
    assert [steps for steps, *_ in seen] == [5, 10]
    for _, told, computed in seen:
        assert told == pytest.approx(computed, rel=1e-12)
    assert found is model.history
    assert (len(found.learning_rates), len(found.train), len(found.seconds)) == (10, 2, 2)
    np.testing.assert_allclose(found.train, np.reshape(found.steps, [2, 5]).mean(1))
    assert math.isfinite(found.test_unaveraged[0]) or math.isnan(found.test_unaveraged[0])


def test_other_threads_and_on_epoch_are_refused_while_fit_runs():
    model, raised = build(), []

    def use(method, *arguments, **keywords):
        try:
            method(*arguments, verbose=0, **keywords)
        except UserError as error:
            raised.append(str(error))

    def look(history):
        for method, argument in ((model.bits_per_dim, HELD_OUT), (model.sample, 1), (model.compress, HELD_OUT)):
            thread = threading.Thread(target=use, args=(method, argument))
            thread.start()
            thread.join()
        use(model.fit, IMAGES, epochs=1)

    model.fit(IMAGES, epochs=1, on_epoch=look, **SETTINGS)
    assert raised == [
        *["another thread trains this model: wait until its call of fit has ended"] * 3,
        "on_epoch calls fit, which is running: let it end first, by raising StopIteration",
    ]
    assert np.isfinite(model.bits_per_dim(HELD_OUT, verbose=0)).all()


def test_minutes_end_a_call_and_every_call_has_its_own():
    model = build()
    for _ in range(2):
        assert len(model.fit(IMAGES, minutes=1e-9, **SETTINGS).steps) == 1
    assert len(model.fit(IMAGES, minutes=1e9, epochs=1, **SETTINGS).steps) == 3  # the rest of the epoch


def test_a_model_that_was_not_trained_is_saved_and_read_without_a_warning(tmp_path, recwarn):
    model = build()
    model.fit(IMAGES, epochs=2, **SETTINGS)
    saved(model, tmp_path / "mine")
    copy = pixel_snail.load(tmp_path / "mine")
    saved(copy, tmp_path / "copy")
    again = pixel_snail.load(tmp_path / "copy")
    for found, value in zip(parameters(again), parameters(model), strict=True):
        np.testing.assert_array_equal(found, value)
    assert not [warning for warning in recwarn if "average" in str(warning.message)]


def test_save_replaces_its_own_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    model = build()
    with pytest.raises(UserError, match="the network is new and has random parameters only: fit or initialise it"):
        model.save(tmp_path / "params.ckpt")
    model.initialise(IMAGES[:4])
    monkeypatch.chdir(tmp_path)
    model.save("a/params.ckpt")
    model.save(tmp_path / "a" / "params.ckpt")
    (tmp_path / "notes.txt").write_text("mine")
    model.save(tmp_path / "params.ckpt")
    with pytest.raises(
        UserError, match=r"has a checkpoint params\.ckpt and other files, such as a: choose another name"
    ):
        model.save(tmp_path / "params.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a",
        "notes.txt",
        "params.ckpt.data-00000-of-00001",
        "params.ckpt.index",
    ]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for path, message in (
        (tmp_path / "a", "is a folder: give the checkpoint a name in it"),
        (tmp_path / "x.keras", "model.network.save writes a .keras file"),
        (tmp_path / "notes.txt" / "params.ckpt", "can't write"),
    ):
        with pytest.raises(UserError, match=message):
            model.save(path)


def test_save_never_replaces_the_current_directory_or_a_link(tmp_path, monkeypatch):
    model = build()
    model.initialise(IMAGES[:4])
    (tmp_path / "empty").mkdir()
    number = (tmp_path / "empty").stat().st_ino
    monkeypatch.chdir(tmp_path / "empty")
    model.save("params.ckpt")
    with pytest.raises(UserError, match=r"params\.ckpt, and the folder can't be replaced, .*: choose another"):
        model.save("params.ckpt")
    assert (tmp_path / "empty").stat().st_ino == number and search.find(".").prefix == "./params.ckpt"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    for _ in range(2):
        model.save("link/params.ckpt")
    assert (tmp_path / "link").is_symlink() and search.find(str(tmp_path / "target")).prefix


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "give epochs or minutes: how long to train"),
        ({"epochs": 0}, "epochs=0 is not a whole number above 0"),
        ({"minutes": -1}, "minutes=-1 is not a number above 0"),
        ({"epochs": 1, "batch_size": 2.0}, "batch_size=2.0 is not a whole number above 0"),
        ({"epochs": 1, "learning_rate": 0}, "learning_rate=0 is not a number above 0"),
        ({"epochs": 1, "polyak_decay": 1}, r"polyak_decay=1 is not in \[0, 1\)"),
        ({"epochs": 1, "batch_size": 4, "grad_accum": 3}, "batch_size=4 can't be cut into grad_accum=3 equal parts"),
        ({"epochs": 1, "batch_size": 12}, "batch_size"),
        ({"epochs": 1, "init_batch_size": 12}, "init_batch_size"),
        ({"epochs": 1, "lr_to_zero": "no"}, "lr_to_zero='no' is not True or False"),
        ({"epochs": 1, "on_epoch": 3}, "on_epoch must be a function of the history, not int"),
        ({"epochs": 1, "strategy": "gpu"}, r"strategy must be a tf\.distribute\.Strategy"),
        ({"epochs": 1, "validation": (HELD_OUT, *[None] * 3)}, "validation must be images, .*, not a tuple of 4"),
        ({"epochs": 1, "validation": (HELD_OUT, LABELS[:3])}, "validation must be .*: the network is not conditional"),
        ({"epochs": 1, "labels": LABELS}, "not conditional on classes: leave labels out"),
        ({"epochs": 1, "validation": HELD_OUT[:0]}, "validation must be .*: there are no images"),
        ({"epochs": 1, "validation": HELD_OUT[:, :4]}, r"images must be uint8 \[N, 8, 8, 3\]"),
    ],
)
def test_mistakes_are_told_and_leave_the_model_as_it_was(arguments, message):
    model = build()
    before = parameters(model)
    with pytest.raises(UserError, match=message):
        model.fit(IMAGES, **{"init_batch_size": 4, "verbose": 0} | arguments)
    for found, value in zip(parameters(model), before, strict=True):
        np.testing.assert_array_equal(found, value)


def test_a_checkpoint_without_adam_s_state_is_evaluated_but_not_gone_on_from(tmp_path):
    model = build()
    model.initialise(IMAGES[:4])
    model.save(tmp_path / "mine" / "params.ckpt")
    opened = Checkpoint(str(tmp_path / "mine" / "params.ckpt"))
    names = [name for name in opened.shapes if not name.startswith("Variable")]
    (tmp_path / "less").mkdir()
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "less" / "params.ckpt"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.convert_to_tensor(value) for value in opened.read(names)],
    )
    with pytest.warns(UserWarning, match="the initial parameters still have"):
        assert pixel_snail.load(tmp_path / "less").bits_per_dim(HELD_OUT, verbose=0).shape == (3,)
    with pytest.raises(UserError, match="has no state of Adam, so that training can't go on from it"):
        pixel_snail.load(tmp_path / "less", optimizer=True)
    with pytest.raises(UserError, match="predicts with the averages, as after fit: leave averaged=False out"):
        pixel_snail.load(tmp_path / "mine", averaged=False, optimizer=True)


def test_a_young_average_is_told_and_advice_is_given_only_where_it_can_be_followed(tmp_path):
    model = build()
    model.fit(IMAGES, epochs=1, **SETTINGS | {"polyak_decay": 0.99})
    model.save(tmp_path / "params.ckpt")
    for optimizer in (False, True):
        with pytest.warns(UserWarning, match="the initial parameters still have") as told:
            pixel_snail.load(tmp_path, optimizer=optimizer)
        assert ("averaged=False" in str(told[0].message)) != optimizer


def test_a_training_of_the_original_goes_on_with_an_average_of_unknown_age(tmp_path, recwarn):
    sizes = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2, "image_shape": (8, 8, 3)}
    model = pixel_snail.load(golden_numbers.checkpoint("h6_shift"), model="h6_shift", optimizer=True, **sizes)
    assert saved(model, tmp_path / "mine").keys().isdisjoint({"pixel_snail/weight_of_initial"})
    assert not recwarn.list
    averaging = pixel_snail.Distribution(model.network, parameters=lambda: [v * 0 for v in model.network.weights])
    assert (averaging.bits_per_dim(HELD_OUT, verbose=0) != model.bits_per_dim(HELD_OUT, verbose=0)).all()
    with pytest.raises(UserError, match="compressed files are of the network's own parameters"):
        averaging.compress(HELD_OUT, verbose=0)


@pytest.mark.parametrize("levels, nats", [(2, [" (22.18 nats an image)", " (11.09 nats an image)"]), (3, ["", ""])])
def test_the_line_of_an_epoch_has_nats_for_images_of_two_levels(levels, nats, capsys):
    network = types.SimpleNamespace(description=types.SimpleNamespace(image_shape=(8, 4, 1), levels=levels))
    watcher = Fit(types.SimpleNamespace(network=network), FitHistory(steps=[1.0]))
    watcher.tested({"epoch": 7, "time": 2.0, "test_bpd": 0.5, "test_bpd_unaveraged": 1.0})
    first, second = nats
    assert capsys.readouterr().err == (
        f"epoch 7: 2.0 s, training 1.0000 bits/dim{first}, validation 0.5000{second}, without averaging 1.0000{first}\n"
    )
