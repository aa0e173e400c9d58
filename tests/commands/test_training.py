"""Training steps against the original's numbers, one replica against several, and whole small runs."""

import dataclasses
import json
import re
import time

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from networks import OneStep, add_spec, build_shallow, shallow

import data
import eval as eval_command
import golden_numbers
import train as train_command
from benchmarks.counted_training import ONE_BLOCK
from golden_numbers import as_batch
from pixel_snail import steps
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.model import build_network, specs
from pixel_snail.optimizer import PolyakAdam, flatten
from pixel_snail.parallel import devices
from pixel_snail.reports import comparisons, plotting
from pixel_snail.runs import search
from pixel_snail.runs.run import DIGITS
from pixel_snail.weights import normalised_weights, using

pytestmark = pytest.mark.usefixtures("uncompiled_drawing")


@pytest.mark.parametrize("name", golden_numbers.NAMES)
def test_three_steps_and_two_from_the_checkpoint_are_the_originals(name):
    errors = golden_numbers.errors_of_steps(name)
    assert errors.keys() == {"steps", "averaged_outputs", "steps_from_checkpoint"}
    assert max(errors.values()) < 1e-5, errors


def build_small(patch, name, spec):
    """Builds a network of a specification with dropout and fixed parameters."""
    add_spec(patch, name, spec)
    keras.utils.set_random_seed(0)
    model = build_network(name, (8, 8, 3), nr_resnet=1, nr_filters=4, nr_logistic_mix=2, dropout_p=0.5)
    steps.initialise(model, as_batch(golden_numbers.load("h8_noup_smallkey")["x"][0]), seed=0)
    return model


@pytest.fixture
def one_step(monkeypatch):
    """A function that builds the smallest network, for tests that any network with dropout serves."""
    return lambda: build_small(monkeypatch, "h0", OneStep)


@pytest.fixture
def one_block(monkeypatch):
    """A function that builds a network of one block, whose steps have seeds of their own."""
    return lambda: build_small(monkeypatch, "h1", ONE_BLOCK)


def test_four_replicas_take_the_steps_of_one_on_the_joint_batch_dropout_included(one_step, mirrored, rng):
    x = golden_numbers.load("h8_noup_smallkey")["x"]
    batches = [as_batch(np.concatenate([x[i], x[i - 1]])) for i in range(len(x))]
    results = []
    split = Split(rng.integers(0, 256, [3, 8, 8, 3], np.uint8))
    for strategy in (tf.distribute.get_strategy(), mirrored(4)):
        with strategy.scope():
            model = one_step()
            optimizer = PolyakAdam(polyak_decay=0.9)
            optimizer.build(model.trainable_variables)
        step = steps.train_step(strategy, model, optimizer, seed=0)
        joint = tf.data.Dataset.from_generator(
            lambda: batches, output_signature={"images": tf.TensorSpec([4, 8, 8, 3], tf.uint8)}
        )
        losses = [float(step(batch)) for batch in strategy.experimental_distribute_dataset(joint)]
        parameters = [np.asarray(variable) for variable in model.trainable_variables]
        evaluator = steps.Evaluator(strategy, model)
        tested = evaluator.in_batches("nats", optimizer.averages(), split, batch_size=1)
        nats = steps.summed_over_pixels(tested).sum(1)
        results.append((losses, parameters, nats))
    losses, parameters, nats = results[0]
    assert nats.shape == (3,)
    for losses_of_several, parameters_of_several, nats_of_several in results[1:]:
        np.testing.assert_allclose(losses_of_several, losses, rtol=1e-5)
        np.testing.assert_allclose(nats_of_several, nats, rtol=1e-5)
        for actual, expected in zip(parameters_of_several, parameters, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)  # 1% of the change in one step


def loss_and_gradients(model, x, **settings):
    with tf.GradientTape() as tape:
        with using(normalised_weights(model, model.trainable_variables)):
            outputs = model(x, seed=tf.constant([1, 2, 0]), **settings)
        loss = tf.reduce_sum(logistic_mixture.loss_per_image(x, outputs))
    return loss, tape.gradient(loss, model.trainable_variables)


@pytest.mark.parametrize("name", ["h8_noup_smallkey_ar_chs", "h6_shift", "model", "pxpp"])
def test_recomputed_gradients_are_those_kept_dropout_included(name, rng):
    golden = golden_numbers.load(name)
    model = build_shallow(name, (8, 8, 3), rng, dropout_p=0.5)
    (loss, gradients), (loss_2, gradients_2) = (
        tf.function(loss_and_gradients, autograph=False)(model, tf.constant(golden["x"][0]), recompute=recompute)
        for recompute in (False, True)
    )
    np.testing.assert_allclose(loss_2, loss, rtol=1e-6)
    for gradient, gradient_2 in zip(gradients, gradients_2, strict=True):
        np.testing.assert_allclose(gradient_2, gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())


@pytest.mark.parametrize("name", ["h6_hier4", "h6_noup_124mix_halfattn", "h6_shift", "h8_noup_smallkey_ar_chs", "pxpp"])
def test_bfloat16_gives_the_loss_and_float32_gradients_to_its_precision(name, rng):
    golden = golden_numbers.load(name)
    model = build_shallow(name, (8, 8, 3), rng, dropout_p=0.0)
    (loss, gradients), (loss_16, gradients_16) = (
        tf.function(loss_and_gradients, autograph=False)(model, tf.constant(golden["x"][0]), bfloat16=bfloat16)
        for bfloat16 in (False, True)
    )
    np.testing.assert_allclose(loss_16, loss, rtol=5e-3)  # rounding to 8 bits is an error of 0.4% at most
    assert {gradient.dtype for gradient in gradients_16} == {tf.float32}
    gradient, gradient_16 = flatten(gradients), flatten(gradients_16)
    # The rounding errors of dozens of layers, forward and backward, add up to 1 to 2%, in PixelCNN++ to 4%.
    assert tf.norm(gradient_16 - gradient) < 0.08 * tf.norm(gradient)


def test_parts_of_a_batch_sum_up_to_its_step_dropout_included(one_block):
    golden = golden_numbers.load("h8_noup_smallkey")
    batch = as_batch(np.concatenate([golden["x"][0], golden["x"][1]]))
    results = []
    for parts in (1, 2, 4):
        model = one_block()
        optimizer = PolyakAdam()
        optimizer.build(model.trainable_variables)
        step = steps.train_step(tf.distribute.get_strategy(), model, optimizer, seed=0, grad_accum=parts)
        losses = [float(step(batch)) for _ in range(2)]
        results.append((losses, flatten([variable.value for variable in model.trainable_variables])))
    for losses, parameters in results[1:]:
        np.testing.assert_allclose(losses, results[0][0], rtol=1e-5)
        np.testing.assert_allclose(parameters, results[0][1], rtol=0, atol=1e-5)  # 1% of the change in one step


def test_dropout_differs_between_steps_and_is_repeated_by_the_seed(one_step):
    golden = golden_numbers.load("h8_noup_smallkey")
    losses = []
    for seed in (1, 1, 2):
        model = one_step()
        optimizer = PolyakAdam(learning_rate=1e-30)  # every step starts from the same parameters
        optimizer.build(model.trainable_variables)
        step = steps.train_step(tf.distribute.get_strategy(), model, optimizer, seed=seed)
        losses.append([float(step(as_batch(golden["x"][0]))) for _ in range(2)])
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]
    assert losses[0] != losses[2]


def tiny_data_set(labels=False):
    rng = np.random.default_rng(0)

    def split(images):
        return Split(rng.integers(0, 256, [images, 8, 8, 3], np.uint8), np.arange(images) % 3 if labels else None)

    return DataSet(train=split(11), test=split(5), source="random numbers", unverified=None)


TINY_NETWORK = ["--model=h0", "-q1", "-n4", "-m2", "--data_set=tiny", "-b2"]


@pytest.fixture
def tiny(monkeypatch):
    add_spec(monkeypatch, "h0", OneStep)
    monkeypatch.setitem(data.data_sets, "tiny", lambda data_dir: tiny_data_set())
    published = comparisons.PublishedTestSet(5, 11, (("Another, 2016", 7.5, ""),), paper=9.0)
    monkeypatch.setitem(comparisons.published_test_sets, ("tiny", None), published)
    odd = Split(np.zeros([11, 7, 7, 3], np.uint8))
    monkeypatch.setitem(data.data_sets, "odd", lambda data_dir: DataSet(odd, odd))
    monkeypatch.setitem(data.data_sets, "tiny_labels", lambda data_dir: tiny_data_set(labels=True))


def run(command, argv):
    """Runs train.py or eval.py with arguments, and returns the exit code."""
    with pytest.raises(SystemExit) as exit_:
        command.main(argv)
    return exit_.value.code


def test_a_run_leaves_its_folder_and_eval_reads_it(tiny, tmp_path, capsys):
    save_dir = tmp_path / "runs"
    assert run(train_command, [*TINY_NETWORK, "-x3", "-t2", f"-o{save_dir}", "--polyak_decay=0.5"]) == 0
    (folder,) = save_dir.iterdir()
    assert folder.name.startswith("pixelsnail_tiny_20")
    log = (folder / "print.log").read_text()
    assert log == capsys.readouterr().out
    flags = json.JSONDecoder().raw_decode(log[log.index("{") :])[0]
    assert (flags["nr_filters"], flags["batch_size"], flags["max_epochs"]) == (4, 2, 3)
    assert "dataset size: 11" in log
    reader = search.find(str(folder))
    parameters = sum(int(np.prod(shape)) for shape in reader.parameters().values())
    assert f"# of Parameters {parameters}\n" in log
    for epoch in range(3):
        assert f"epoch {epoch}\n" in log
    logged = {
        key: [float(line.split()[1]) for line in log.splitlines() if line.startswith(f"{key} ")]
        for key in ("time", "lr", "train_bpd", "test_bpd")
    }
    assert {len(values) for values in logged.values()} == {3}
    # Five steps an epoch: the remainder of the eleven images is left out.
    np.testing.assert_allclose(logged["lr"], 1e-3 * 0.999998 ** np.array([5, 10, 15]), rtol=1e-6)
    assert json.loads((folder / "flags.json").read_text()) == flags
    assert sorted(path.name for path in folder.glob("[0-9]*")) == ["0", "2"]  # every second epoch
    assert (folder / "learning_curve.png").stat().st_size > 0
    assert list((folder / "tensorboard").iterdir())
    assert np.load(folder / "tiny_samples.npy").shape == (2, 8, 8, 3)

    result_file, samples = tmp_path / "result.json", tmp_path / "samples"
    # The network and the data set are read from the run's folder.
    argv = [f"-r{folder}", "-b2", f"--json={result_file}", "--nr_samples=3", f"-o{samples}"]
    assert run(eval_command, argv) == 0
    result = json.loads(result_file.read_text())
    assert (result["data_set"], result["model"], result["images"]) == ("tiny", "h0", 5)
    assert result["averaged"] is True
    assert result["causal"] is True
    bits = np.array(result["bits_per_dim_per_image"])
    assert bits.shape == (5,)
    assert result["bits_per_dim"] == pytest.approx(bits.mean())
    assert result["bits_per_dim_stderr"] == pytest.approx(bits.std(ddof=1) / 5**0.5)
    # After its last epoch, training tested the same averaged parameters on the whole test set.
    assert result["bits_per_dim"] == pytest.approx(logged["test_bpd"][-1], rel=1e-5)
    assert np.load(samples / "tiny_samples.npy").shape == (3, 8, 8, 3)
    assert (samples / "tiny_bits.png").stat().st_size > 0
    assert np.mean(list(result["bits_per_dim_per_channel"].values())) == pytest.approx(result["bits_per_dim"])
    assert (result["test_set_images"], result["paper_bits_per_dim"], result["why_not_comparable"]) == (5, 9.0, None)
    table = capsys.readouterr().out
    assert "bits/dim on 5 of 5 test images of tiny (random numbers)" in table
    assert re.search(rf"difference from the paper +{result['bits_per_dim'] - 9:.4f} \w+ twice the standard err", table)
    assert "Another, 2016" in table
    # A batch may be larger than the test set.
    assert run(eval_command, [f"-r{folder}", "-b8", f"--json={result_file}"]) == 0
    in_one = json.loads(result_file.read_text())["bits_per_dim_per_image"]
    np.testing.assert_allclose(in_one, bits, rtol=1e-5)
    capsys.readouterr()
    assert run(eval_command, [*argv, "--nr_filters=8"]) == 2
    assert "--nr_filters=8, but the run of" in capsys.readouterr().err

    complete = [f"-r{folder}", "-b2", f"-o{samples}", "--skip_test", f"--complete={samples / 'tiny_samples.npy'}"]
    assert run(eval_command, [*complete, "--nr_samples=2", "--keep_rows=5", "--sample_batch=4"]) == 0
    completions = np.load(samples / "tiny_completions.npy")
    assert completions.shape == (3, 2, 8, 8, 3)
    kept = np.load(samples / "tiny_samples.npy")[:, None, :5]
    np.testing.assert_array_equal(completions[:, :, :5], np.repeat(kept, 2, 1))
    assert "bits/dim" not in capsys.readouterr().out
    assert run(eval_command, [*complete, "--keep_rows=8"]) == 2
    assert "leaves nothing to draw" in capsys.readouterr().err

    assert run(eval_command, [*argv, "--raw"]) == 0
    raw = json.loads(result_file.read_text())
    assert raw["averaged"] is False
    assert raw["bits_per_dim"] != result["bits_per_dim"]

    # A resumed run continues with the checkpoint's steps and learning rate.
    assert (
        run(train_command, [*TINY_NETWORK, "-x4", f"-o{tmp_path / 'more'}", f"-r{folder}", "--sample_interval=0"]) == 0
    )
    out = capsys.readouterr().out
    assert "15 steps taken" in out
    assert "going on in epoch 3, after 0 of its images" in out


@pytest.mark.parametrize("replicas, lacks_bfloat16", [(2, True), (1, False)])
def test_the_first_lines_of_a_log_say_what_computes_and_what_bfloat16_gives_there(
    replicas, lacks_bfloat16, tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(devices, "number_of_cores", lambda: 2)
    monkeypatch.setattr(devices, "lacks_bfloat16", lambda: lacks_bfloat16)
    argv = ["-b2", f"--nr_gpu={replicas}"]
    training_flags = ["--bfloat16", "-x1", "--max_minutes=1e-6", "--sample_interval=0", f"-o{tmp_path}"]
    assert run(train_command, [*TINY_NETWORK, *argv, *training_flags]) == 0
    trained = capsys.readouterr().out
    assert ("--bfloat16 saves memory only, and no time: this processor has no" in trained) == lacks_bfloat16
    assert run(eval_command, [*argv, f"-r{tmp_path}"]) == 0
    evaluated = capsys.readouterr().out
    for out, beginning in ((trained, "run folder: "), (evaluated, "checkpoint: ")):
        first, second, third, *_ = out.splitlines()
        assert first.startswith(beginning)
        logical = ", as 2 logical devices" if replicas == 2 else ""
        assert re.fullmatch(r"devices: CPU, 2 cores( \([\w-]+\))?" + logical, second)
        assert third.startswith("no GPU is used: the 2 replicas of --nr_gpu are logical CPU dev") == (replicas == 2)


def test_a_class_conditional_run_trains_evaluates_and_samples_chosen_classes(tiny, tmp_path, capfd):
    network = [*TINY_NETWORK, "--data_set=tiny_labels", "-c"]
    assert run(train_command, [*network, "-x1", f"-o{tmp_path}"]) == 0
    result_file = tmp_path / "result.json"
    samples = tmp_path / "samples"
    argv = ["-b2", f"-r{tmp_path}", f"--json={result_file}", f"-o{samples}"]
    assert run(eval_command, [*argv, "--nr_samples=4", "--classes=2,0"]) == 0
    assert np.isfinite(json.loads(result_file.read_text())["bits_per_dim"])
    drawn = np.load(samples / "tiny_labels_samples.npy")
    assert drawn.shape == (4, 8, 8, 3)
    assert run(eval_command, [*argv, "--nr_samples=3"]) == 0
    every_class = np.load(samples / "tiny_labels_samples.npy")
    # Image 0 has the same random numbers in both calls, but another class.
    assert np.abs(every_class[0] - drawn[0]).max() > 0
    assert run(eval_command, [*argv, "--nr_samples=3", "--classes=3"]) == 2
    assert "there is no class 3, the last is 2" in capfd.readouterr().err


def test_figures_go_to_stdout_and_progress_to_stderr(tiny, tmp_path, capfd):
    assert run(train_command, [*TINY_NETWORK, "-x1", f"-o{tmp_path}/runs", "--polyak_decay=0.1"]) == 0
    of_training = capfd.readouterr()
    argv = [f"-r{tmp_path}/runs", "--nr_samples=1", f"-o{tmp_path}/pictures"]
    assert run(eval_command, argv) == 0
    of_evaluation = capfd.readouterr()
    for out, err, figure in ((*of_training, "test_bpd "), (*of_evaluation, "bits/dim: ")):
        assert figure in out
        assert figure not in err
        for progress in ("step/s", "batch/s", "row/s", "it/s", "\r", "compiling"):
            assert progress not in out
        assert "%|" in err
    names = [line.split()[0] for line in of_training.out.splitlines() if line.split()[0] in DIGITS]
    assert names == ["epoch", "time", "lr", "train_bpd", "test_bpd"]
    assert all(len(line.split()[1]) < 12 for line in of_training.out.splitlines() if line.split()[0] in names)
    assert of_evaluation.out.startswith("checkpoint: ")


def test_a_run_says_why_it_ended_and_where_its_results_are(tiny, tmp_path, capsys):
    assert run(train_command, [*TINY_NETWORK, "-x2", f"-o{tmp_path}"]) == 0
    (folder,) = tmp_path.iterdir()
    out = capsys.readouterr().out
    assert "ended after 10 steps: --max_epochs=2 is reached\n" in out
    for line in (
        f"checkpoint: {folder}/1/params_tiny.ckpt",
        f"samples: {folder}/tiny_samples.png",
        f"learning curve: {folder}/learning_curve.png",
    ):
        assert f"{line}\n" in out
        assert list(tmp_path.rglob(line.rpartition("/")[2] + "*"))


def test_the_time_of_the_first_step_does_not_count(tiny, tmp_path, capsys, monkeypatch):
    make = steps.train_step

    def slow_at_first(*arguments, **keywords):
        step, calls = make(*arguments, **keywords), []

        def call(batch):
            if not calls:
                time.sleep(3)  # longer than --max_minutes
            calls.append(None)
            return step(batch)

        return call

    monkeypatch.setattr(steps, "train_step", slow_at_first)
    assert run(train_command, [*TINY_NETWORK, "-x1", "--max_minutes=0.05", "--sample_interval=0", f"-o{tmp_path}"]) == 0
    assert "ended after 5 steps" in capsys.readouterr().out


def test_max_minutes_is_told_as_the_reason(tiny, tmp_path, capsys):
    assert run(train_command, [*TINY_NETWORK, "--max_minutes=1e-6", "--sample_interval=0", f"-o{tmp_path}"]) == 0
    assert "ended after 1 step: --max_minutes=1e-06 are over, in epoch 0\n" in capsys.readouterr().out


@pytest.mark.parametrize("decay, is_young", [(0.9995, True), (0.5, False)])
def test_a_test_of_a_young_average_also_tells_the_figure_of_the_parameters(decay, is_young, tiny, tmp_path, capsys):
    argv = [*TINY_NETWORK, "-x1", f"--polyak_decay={decay}", "--sample_interval=0", f"-o{tmp_path}"]
    assert run(train_command, argv) == 0
    out = capsys.readouterr().out
    assert ("the initial parameters still have a weight of 99.8% in the average" in out) == is_young
    if is_young:
        assert run(eval_command, [f"-r{tmp_path}", "--raw"]) == 0
        raw = re.search(r"without averaging, test_bpd is ([\d.]+)", out)[1]
        evaluated = re.search(r"bits/dim: ([\d.]+)", capsys.readouterr().out)[1]
        assert float(raw) == pytest.approx(float(evaluated), abs=2e-4)  # both are rounded


def test_the_learning_curve_is_drawn_before_the_first_test_is(tiny, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("pixel_snail.runs.run._FIRST_CURVE", 1e-9)
    save = plotting.save_learning_curve

    def recording(steps, test, path, unaveraged, **others):
        drawn.append((len(test), list(unaveraged)))
        save(steps, test, path, unaveraged)

    monkeypatch.setattr(plotting, "save_learning_curve", recording)
    assert run(train_command, [*TINY_NETWORK, "-x1", "--sample_interval=0", f"-o{tmp_path}"]) == 0
    assert drawn[0] == (0, [])
    assert drawn[-1] == (1, [0])  # the average is young: both figures are shown


def test_a_set_of_another_size_than_the_published_one_is_told_before_training(tiny, tmp_path, capsys, monkeypatch):
    argv = [*TINY_NETWORK, "-x1", "--sample_interval=0"]
    assert run(train_command, [*argv, f"-o{tmp_path}/a"]) == 0
    assert "comparable" not in capsys.readouterr().out
    for test_images, train_images, reason in ((6, 11, "test set has 6"), (5, 12, "training set has 12")):
        published = comparisons.PublishedTestSet(test_images, train_images, (), paper=9.0)
        monkeypatch.setitem(comparisons.published_test_sets, ("tiny", None), published)
        assert run(train_command, [*argv, f"-o{tmp_path}/{train_images}"]) == 0
        told = f"warning: no result will be comparable with the paper's: the published {reason} images\n"
        assert told in capsys.readouterr().out


def test_names_of_classes_are_kept_shown_and_compared(tiny, tmp_path, capsys, monkeypatch):
    def load(names):
        return lambda data_dir: dataclasses.replace(tiny_data_set(labels=True), class_names=names)

    monkeypatch.setitem(data.data_sets, "tiny_labels", load(("cat", "dog", "a gnu")))
    argv = [*TINY_NETWORK, "-c", "--data_set=tiny_labels", "-x1", "--polyak_decay=0.5"]
    assert run(train_command, [*argv, f"-o{tmp_path}/runs"]) == 0
    (samples,) = (tmp_path / "runs").rglob("*_samples.png")
    assert PIL.Image.open(samples).size[0] > 8  # a name beside each row, of one image of 8 x 8 here
    capsys.readouterr()
    drawing = [f"-r{tmp_path}/runs", "--skip_test", "--nr_samples=3", f"-o{tmp_path}/drawn"]
    assert run(eval_command, [*drawing, "--classes=a gnu,0"]) == 0
    assert "samples: 4 images, 2 of each of 2 classes: " in capsys.readouterr().out
    assert run(eval_command, [*drawing, "--classes=emu"]) == 2
    assert "there is no class emu, the last is 2; the classes are cat, dog, a gnu" in capsys.readouterr().err
    monkeypatch.setitem(data.data_sets, "tiny_labels", load(("cat", "emu", "a gnu")))
    assert run(eval_command, [f"-r{tmp_path}/runs"]) == 2
    assert "was trained on other classes" in (err := capsys.readouterr().err)
    assert err.endswith("for example dog instead of emu: evaluate it on the data set of its training\n")


def test_a_checkpoint_of_another_number_of_classes_is_told_by_the_number(tiny, tmp_path, capsys, monkeypatch):
    argv = [*TINY_NETWORK, "-c", "--data_set=tiny_labels", "-x1", "--sample_interval=0"]
    assert run(train_command, [*argv, f"-o{tmp_path}/runs"]) == 0
    fewer = tiny_data_set(labels=True)
    fewer = DataSet(Split(fewer.train.images, fewer.train.labels % 2), Split(fewer.test.images, fewer.test.labels % 2))
    monkeypatch.setitem(data.data_sets, "tiny_labels", lambda data_dir: fewer)
    assert run(eval_command, [f"-r{tmp_path}/runs"]) == 2
    assert "is conditional on 3 classes, but the data set tiny_labels has 2" in capsys.readouterr().err
    assert run(train_command, [*argv, "-x2", f"-r{tmp_path}/runs", f"-o{tmp_path}/more"]) == 2
    assert "its number of classes is 3, not 2" in capsys.readouterr().err


@pytest.mark.parametrize("split, labels", [("training", [0, 1, -1]), ("test", [0, 2, 1])])
def test_a_label_that_is_no_class_is_refused_with_its_image(split, labels):
    images, good = np.zeros([3, 4, 4, 3], np.uint8), np.array([0, 1, 1])
    of_split = {"training": good, "test": good} | {split: np.array(labels)}
    outside = 2 if split == "training" else 1
    with pytest.raises(UserError, match=f"{split} image {outside} has the label {labels[outside]}, but the classes"):
        DataSet(Split(images, of_split["training"]), Split(images, of_split["test"]))


def test_channel_wise_outputs_train_evaluate_and_sample(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(specs, "h8_noup_smallkey_ar_chs", shallow("h8_noup_smallkey_ar_chs"))
    network = [*TINY_NETWORK, "--model=h8_noup_smallkey_ar_chs"]
    assert run(train_command, [*network, "-x1", f"-o{tmp_path}", "--sample_interval=0"]) == 0
    result_file = tmp_path / "result.json"
    argv = [f"-r{tmp_path}", "-b2", f"--json={result_file}", "--nr_samples=2", f"-o{tmp_path}"]
    assert run(eval_command, argv) == 0
    assert np.isfinite(json.loads(result_file.read_text())["bits_per_dim"])
    images = np.load(tmp_path / "tiny_samples.npy")
    assert np.abs(images).max() <= 1
    assert images.std() > 0.1


def test_a_leaking_model_says_so_and_refuses_to_sample(tiny, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(specs, "h6_noup_hier2", shallow("h6_noup_hier2"))
    network = [*TINY_NETWORK, "--model=h6_noup_hier2"]
    assert run(train_command, [*network, "-x1", f"-o{tmp_path}"]) == 0
    assert "its bits/dim is not a likelihood" in capfd.readouterr().out
    assert not list(tmp_path.rglob("*samples*"))
    result_file = tmp_path / "result.json"
    argv = [f"-r{tmp_path}", "-b2", f"--json={result_file}"]
    assert run(eval_command, argv) == 0
    out = capfd.readouterr().out
    assert "its bits/dim is not a likelihood" in out
    assert "Not compared with the paper's figures: the network predicts pixels from themselves" in out
    result = json.loads(result_file.read_text())
    assert result["causal"] is False
    assert "paper_bits_per_dim" not in result
    assert "predicts pixels from themselves" in result["why_not_comparable"]
    assert run(eval_command, [*argv, "--nr_samples=2", f"-o{tmp_path}"]) == 2
    assert "it can't sample" in capfd.readouterr().err


CHECKPOINT = golden_numbers.checkpoint("h6_shift")


@pytest.mark.parametrize(
    "command, argv, message",
    [
        (
            train_command,
            ["-b12"],
            "--batch_size=12 is larger than the training set, which has 11 images: lower it\n",
        ),
        (train_command, ["-a12"], "--init_batch_size=12 is larger than the training set, which has 11 images: lower"),
        (eval_command, [f"-r{CHECKPOINT}", "--json=/proc"], "can't write --json=/proc: it is a folder; add the name"),
        (
            eval_command,
            [f"-r{CHECKPOINT}", "--json=/proc/a.json"],
            "can't write --json=/proc/a.json: .* in /proc; choose",
        ),
        (
            eval_command,
            [f"-r{CHECKPOINT}", "-o/proc/pictures"],
            "can't write --save_dir=/proc/pictures: .* in /proc; choose",
        ),
        (train_command, ["-c"], "tiny has no labels"),
        (
            train_command,
            ["--model=pxpp", "--data_set=odd"],
            "pxpp takes images whose sides are multiples of 4, not 7 x 7",
        ),
        (
            train_command,
            ["-o/proc/version/runs"],
            "can't write --save_dir=/proc/version/runs: /proc/version is not a folder; ",
        ),
        (train_command, ["-o/proc/runs"], "can't write --save_dir=/proc/runs: .* in /proc; choose another"),
        (train_command, ["-r/nowhere/params_tiny.ckpt"], "no such folder or checkpoint: /nowhere/params_tiny.ckpt"),
        (eval_command, ["-r/nowhere"], "no such folder or checkpoint: /nowhere"),
        (train_command, ["--nr_gpu=5"], "--nr_gpu=5, but TensorFlow already runs with 4"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2_and_leave_nothing(tiny, tmp_path, capfd, command, argv, message):
    save_dir = tmp_path / "runs"
    out = [] if any(argument.startswith("-o") for argument in argv) or command is eval_command else [f"-o{save_dir}"]
    assert run(command, [*TINY_NETWORK, *out, *argv]) == 2
    stderr = capfd.readouterr().err
    assert stderr.count("\n") == 1
    assert re.search(message, stderr)
    assert not save_dir.exists()


def test_max_minutes_ends_a_run_of_two_replicas_in_mid_epoch_with_a_checkpoint(tiny, tmp_path):
    argv = [*TINY_NETWORK, f"-o{tmp_path}", "-x5000", "--max_minutes=0.0001", "--nr_gpu=2"]
    assert run(train_command, argv) == 0
    assert len(list(tmp_path.rglob("*.ckpt.index"))) == 1
    (samples,) = tmp_path.rglob("tiny_samples.npy")
    assert len(np.load(samples)) == 4  # a batch of two for each replica


def test_going_on_from_a_checkpoint_needs_epochs_to_go(tiny, tmp_path, capsys):
    assert run(train_command, [*TINY_NETWORK, f"-o{tmp_path}", "-x1", "--sample_interval=0"]) == 0
    assert run(train_command, [*TINY_NETWORK, f"-o{tmp_path}", "-x1", f"-r{tmp_path}"]) == 2
    assert "has already done 1 epoch, and the limit is --max_epochs=1: raise it" in capsys.readouterr().err
