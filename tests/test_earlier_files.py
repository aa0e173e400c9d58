"""Files that an earlier version wrote are read to the same parameters, figures and images: tests/earlier/README.md."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from networks import add_spec

import data
import pixel_snail
import train as train_command
from benchmarks.counted_training import ONE_BLOCK
from pixel_snail import codec
from pixel_snail.codec import container, rounding
from pixel_snail.dataset import DataSet, Split
from pixel_snail.parallel import devices
from pixel_snail.runs import history, search

ROOT = Path(__file__).parents[1]
EARLIER = ROOT / "tests" / "earlier"
EXPECTED = json.loads((EARLIER / "expected.json").read_text(encoding="utf-8"))
LACKED = {"plan": None, "of_images": None}
"""Attributes of a history that the version of the files lacked."""


def as_json(value):
    """A dataclass as JSON gives it back: with lists for tuples, and texts for the keys of dictionaries."""
    return json.loads(json.dumps(dataclasses.asdict(value)))


@pytest.fixture
def h1(monkeypatch):
    """Makes the network of the files known."""
    add_spec(monkeypatch, "h1", ONE_BLOCK)


@pytest.fixture
def animals():
    arrays = np.load(EARLIER / "animals.npz")
    splits = (Split(arrays[name], arrays[f"{name}_labels"]) for name in ("train", "test"))
    return DataSet(*splits, class_names=("cat", "døg"))


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_checkpoint_has_the_same_parameters_description_history_and_likelihoods(kind, h1, animals):
    expected = EXPECTED[kind]
    opened = search.find(str(EARLIER / kind))
    assert opened.steps_taken() == 9
    lacking = {"levels": 256, "likelihood": "logistic_mixture"}
    lacking |= {"condition_shape": None, "condition_levels": None, "condition_resnet": 0}
    assert as_json(opened.description()) == expected["description"] | lacking
    assert as_json(history.read(opened)) == expected["history"] | LACKED
    for parameters in ("averaged", "raw"):
        model = pixel_snail.load(opened, averaged=parameters == "averaged")
        weights = b"".join(variable.numpy().tobytes() for variable in model.network.weights)
        assert hashlib.sha256(weights).hexdigest() == expected[parameters]["weights"]
        labels = animals.test.labels if kind == "conditional" else None
        bits = model.bits_per_dim(animals.test.images, labels, verbose=0)
        np.testing.assert_allclose(bits, expected[parameters]["bits_per_dim"], rtol=1e-5)


def test_training_goes_on_from_a_checkpoint_as_with_the_version_that_wrote_it(h1, animals, tmp_path, monkeypatch):
    monkeypatch.setitem(data.data_sets, "folder", lambda *_, **__: animals)
    (run,) = (EARLIER / "conditional").iterdir()
    flags = json.loads((run / "flags.json").read_text())
    given = ["class_conditional", "data_set", "image_size", "model", "nr_resnet", "nr_filters", "nr_logistic_mix"]
    given += ["batch_size", "init_batch_size", "learning_rate", "polyak_decay", "sample_interval"]
    argv = [f"--{name}" if flags[name] is True else f"--{name}={flags[name]}" for name in given]
    argv += ["--max_epochs=4", f"--load_params={run}", f"--data_dir={EARLIER}", f"--save_dir={tmp_path / 'save'}"]
    with pytest.raises(SystemExit) as exit_:
        train_command.main(argv)
    assert exit_.value.code == 0
    expected, opened = EXPECTED["conditional"]["longer"], search.find(str(tmp_path / "save"))
    told = as_json(history.read(opened))
    assert (opened.steps_taken(), told["epoch"]) == (expected["taken"], 4)
    assert told["steps"][:3] == expected["steps"][:3]
    np.testing.assert_allclose(told["steps"][3], expected["steps"][3], rtol=1e-5)
    np.testing.assert_allclose(told["test"], expected["test"], rtol=1e-5)
    assert told["age"] == pytest.approx(expected["age"])


READS = """
import os, sys
from pixel_snail import codec
os.environ |= codec.PORTABLE
import networks, pixel_snail, pytest
import numpy as np
from benchmarks.counted_training import ONE_BLOCK
from pixel_snail.codec import __main__ as command
from pixel_snail.commands import command_line
networks.add_spec(pytest.MonkeyPatch(), "h1", ONE_BLOCK)
code = 0
for kind in ("conditional", "unconditional"):
    try:
        command_line.run(command.parse_flags, command.work, ["decompress", f"{kind}.snail", "-r", kind, "-o", kind])
    except SystemExit as exit_:
        code = max(code, exit_.code)
sys.exit(code)
"""


@pytest.mark.parametrize("version", ["2.0", "2.2"])
def test_a_compressed_file_of_a_version_that_rounds_differently_names_that_version(h1, version):
    model = pixel_snail.load(EARLIER / "unconditional")
    words = rf"written by version {version} .* decompress it with version {version}$"
    with pytest.raises(pixel_snail.UserError, match=words):
        model.decompress((EARLIER / f"unconditional_of_{version}.snail").read_bytes(), verbose=0)


def test_compressed_files_give_the_same_pictures_or_the_documented_line(tmp_path):
    """In a process of its own: what makes sums portable has to be set before TensorFlow starts."""
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    headers = [container.read((EARLIER / f"{kind}.snail").read_bytes())[0] for kind in EXPECTED]
    assert [header.labels for header in headers] == [[0, 0, 1], None]
    assert all(header.machine.items() >= codec.PORTABLE.items() for header in headers)
    done = subprocess.run(
        [sys.executable, "-c", READS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    here = rounding.description()
    packages = [
        name for name in ("tensorflow", "keras", "numpy", "constriction") if here[name] != headers[0].machine[name]
    ]
    if done.returncode and (packages or "avx2" not in devices.instructions()):
        assert done.returncode == 2
        assert "can't be decoded here: sums are rounded differently here than where the file was written" in done.stderr
        assert not list(tmp_path.glob("*conditional/*.png"))
        return
    assert done.returncode == 0, done.stderr
    for kind in ("conditional", "unconditional"):
        for name in ("a.png", "b.png"):
            restored, picture = (np.asarray(PIL.Image.open(path / name)) for path in (tmp_path / kind, EARLIER))
            np.testing.assert_array_equal(restored, picture)
