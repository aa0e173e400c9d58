"""What a program inherits (environment, keras.json, matplotlibrc) changes no number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from networks import shallow

import pixel_snail
from pixel_snail import backend, steps
from pixel_snail.backend import keras, tf
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.reports import plotting

ROOT = Path(__file__).parents[1]
INHERITED = {
    "a notebook's plots, a keras.json": {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "KERAS_HOME": "here",
    },
    "unknown plots, a matplotlibrc, another Keras backend, no folder for temporary files, no home": {
        "MPLBACKEND": "nothing",
        "MATPLOTLIBRC": "here/matplotlibrc",
        "KERAS_BACKEND": "jax",
        "TMPDIR": "/nowhere",
        "HOME": "/nowhere",
    },
}


def figures():
    """Numbers of every kind that a small network computes: likelihoods, a step, the average."""
    keras.utils.set_random_seed(0)
    model = pixel_snail.Distribution(
        shallow("h8_noup_smallkey_ar_chs")(nr_resnet=1, nr_filters=4, nr_logistic_mix=2, dropout_p=0.5).build_for(
            "h8_noup_smallkey_ar_chs", (4, 4, 3), 3
        )
    )
    images, labels = np.random.default_rng(0).integers(0, 256, [4, 4, 4, 3], np.uint8), np.arange(4) % 3
    model.initialise(images, labels)
    optimizer = PolyakAdam()
    optimizer.build(model.network.trainable_variables)
    step = steps.train_step(tf.distribute.get_strategy(), model.network, optimizer, 0)
    loss = float(step({"images": images, "labels": labels}))
    average = float(tf.reduce_sum(optimizer.average.value))
    return [
        *model.bits_per_dim(images, labels, verbose=0),
        loss,
        average,
        optimizer.last_learning_rate(),
    ]


@pytest.fixture(scope="module")
def expected():
    return figures()


@pytest.fixture
def keras_as_before():
    floatx, policy, form = keras.config.floatx(), keras.config.dtype_policy(), keras.config.image_data_format()
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(form)


@pytest.mark.parametrize("dtype", ["float16", "float64", "mixed_bfloat16"])
def test_another_dtype_of_keras_changes_no_number(dtype, expected, keras_as_before):
    if not dtype.startswith("mixed"):
        keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    keras.config.set_image_data_format("channels_first")
    np.testing.assert_array_equal(figures(), expected)


@pytest.mark.parametrize("inherited", INHERITED.values(), ids=INHERITED)
def test_an_inherited_environment_stops_nothing(inherited, tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"floatx": "float16", "backend": "torch", "epsilon": 0.1}))
    (tmp_path / "matplotlibrc").write_text("backend: qtagg\ntext.usetex: True\nfont.family: Nowhere\n")
    environment = os.environ | {name: value.replace("here", str(tmp_path), 1) for name, value in inherited.items()}
    program = """
        import sys
        import pixel_snail
        model = pixel_snail.build("h6_noup", image_shape=(4, 4, 3), nr_resnet=1, nr_filters=4, nr_logistic_mix=2)
        assert {variable.dtype for variable in model.network.variables} == {"float32"}
        from pixel_snail.reports import plotting
        plotting.save_learning_curve([[8.0, 7.0]], [7.5], sys.argv[1])
    """
    program = "\n".join(line.strip() for line in program.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "curve.png"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curve.png").exists()


def test_a_matplotlibrc_does_not_change_a_picture(tmp_path):
    plotting.save_learning_curve([[8.0, 7.0]], [7.5], tmp_path / "plain.png")
    with matplotlib.rc_context({"text.usetex": True, "figure.dpi": 7, "axes.facecolor": "black"}):
        plotting.save_learning_curve([[8.0, 7.0]], [7.5], tmp_path / "inherited.png")
    assert (tmp_path / "inherited.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_cusolver_is_loaded_from_where_pip_puts_it_and_its_absence_or_damage_stops_nothing(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(backend.ctypes, "CDLL", loaded.append)
    (tmp_path / "nvidia" / "cusolver" / "lib").mkdir(parents=True)
    (tmp_path / "nvidia" / "__init__.py").touch()  # stands before a package that is installed
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    backend._load_cusolver()
    assert not loaded
    library = tmp_path / "nvidia" / "cusolver" / "lib" / "libcusolver.so.11"
    library.write_text("no library")
    backend._load_cusolver()
    assert loaded == [str(library)]
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    backend._load_cusolver()  # really tries to


@pytest.mark.parametrize("program", ["train.py", "eval.py"])
@pytest.mark.parametrize("setting", [["-P"], ["-I"], []], ids=["-P", "-I", "PYTHONSAFEPATH"])
def test_a_command_finds_its_modules_where_python_leaves_out_its_folder(program, setting, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if not setting:
        environment["PYTHONSAFEPATH"] = "1"
    done = subprocess.run(
        [sys.executable, *setting, ROOT / program, "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_system_without_file_locks_is_told_in_one_line(tmp_path):
    """As Windows, which lacks this module of Python."""
    windows = "import sys; sys.modules['fcntl'] = None\n"
    needs = " needs Linux or macOS; on Windows, "
    for program, code, told in (
        ("import train", 2, f"error: this program{needs}install and use it in WSL 2"),
        ("import pixel_snail.codec.__main__", 2, f"error: this program{needs}install and use it in WSL 2"),
        ("import pixel_snail; pixel_snail.load", 1, f"ImportError: pixel_snail{needs}use it in WSL 2"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", windows + program], cwd=ROOT, capture_output=True, text=True, timeout=100
        )
        assert (done.returncode, done.stdout, done.stderr.splitlines()[-1]) == (code, "", told)
        assert code == 1 or done.stderr.count("\n") == 1
