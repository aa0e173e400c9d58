"""Every command and Python block of the pages runs on a small scale, and every link has a target.

The blocks of a page run in order, in a folder with small stand-ins for the files that the pages mention: a demo's run,
pictures, the authors' checkpoints, data sets. Networks have fewer blocks than their names say, and training gets
further flags that make it short. A command on several pages runs once. Of commands that install or measure, the tests
only check that they exist.
"""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import PIL.Image
import pytest
from networks import OneStep, add_spec, shallow

import data
import eval as eval_command
import golden_numbers
import pixel_snail
import train as train_command
from data import cifar10_plotdata
from pixel_snail import checkpoint, nn
from pixel_snail.codec import __main__ as codec
from pixel_snail.commands import inspection
from pixel_snail.dataset import DataSet, Split
from pixel_snail.model import specs
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.parallel import cluster
from pixel_snail.pixel_cnn_pp import PixelCNNpp

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
TINY = "--model=h0 -q1 -n4 -m2 -z elu -p0.5 -a2 -b2 --max_minutes=1e-6 --sample_interval=0".split()
RELEASED = "--model=h6_shift -q1 -n4 -m2 -z elu".split()


def blocks(page):
    return BLOCK.findall(page.read_text())


def write_demo(folder):
    """Writes a run's folder as `make demo` does, of a tiny network."""
    model = pixel_snail.build("h0", image_shape=(32, 32, 3), nr_filters=4, nr_resnet=1, nr_logistic_mix=5)
    model.initialise(data.load("photos", None).train.images[::700])
    optimizer = PolyakAdam()
    optimizer.build(model.network.trainable_variables)
    checkpoint.save(str(folder / "0" / "params_photos.ckpt"), model.network, optimizer, {})
    flags = vars(train_command.parse_flags(["--data_set=photos", "--model=h0", "-q1", "-n4", "-m5"]))
    (folder / "flags.json").write_text(json.dumps(flags))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder with the stand-ins, in which the blocks run."""
    place = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        add_spec(patch, "h0", OneStep)
        for name in ("h8_noup_smallkey", "h6_noup_1mix_halfattn"):
            patch.setitem(specs, name, shallow(name))
        patch.setitem(specs, "pxpp", type("OneSize", (PixelCNNpp,), {"sizes": 1}))

        def tiny(size=32, channels=3):
            images = rng.integers(0, 256, [16, size, size, channels], np.uint8)
            labels = np.arange(16) % 10
            return DataSet(Split(images[:12], labels[:12]), Split(images[12:], labels[12:]), source="random numbers")

        for name in ("cifar", "imagenet", "imagenet64"):
            patch.setitem(data.data_sets, name, lambda _: tiny())
        patch.setitem(data.data_sets, "imagenet_resized", lambda _, image_size=32: tiny(image_size))
        patch.setitem(data.data_sets, "mnist", lambda _: tiny(8, channels=1))
        photos = data.load("photos", None)
        # Ten of 244 test images: a full batch and one that is not.
        few = dataclasses.replace(photos, test=Split(photos.test.images[::25]))
        patch.setitem(data.data_sets, "photos", lambda _: few)
        keras.utils.set_random_seed(0)
        write_demo(place / "data" / "save" / "demo" / "pixelsnail_photos_2026_01_01_00_00_00")
        arrays = tiny(8)
        np.savez(place / "digits.npz", train=arrays.train.images, test=arrays.test.images)
        (place / "pictures").mkdir()
        for i in range(20):
            picture = rng.integers(0, 256, [40, 50, 3], np.uint8)
            PIL.Image.fromarray(picture).save(place / "pictures" / f"{i}.png")
            folder = place / "animals" / ("train", "val")[i % 2] / ("cat", "dog")[i % 3 % 2]
            folder.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(picture).save(folder / f"{i}.png")
        prefix = Path(golden_numbers.checkpoint("h6_shift"))
        for name in ("cifar/params_cifar", "imagenet/params_imagenet", "pxpp/params_cifar"):
            (place / "released" / name).parent.mkdir(parents=True)
            for ending in (".index", ".data-00000-of-00001"):
                shutil.copy(f"{prefix}{ending}", place / "released" / f"{name}.ckpt{ending}")
        yield place


@pytest.fixture(autouse=True)
def registries_as_before():
    """A page adds a specification and a nonlinearity."""
    registries = specs, nn.nonlinearities
    before = [set(registry) for registry in registries]
    yield
    for registry, names in zip(registries, before, strict=True):
        for name in registry.keys() - names:
            del registry[name]


@pytest.fixture(scope="module")
def done():
    """The commands that have already run."""
    return set()


def run_commands(text, place, done, monkeypatch):
    for line in text.splitlines():
        if line in done:
            continue
        done.add(line)
        words = shlex.split(line.replace("/nfs/", f"{place}/nfs/"), comments=True)
        if words[0] == "make":
            targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert words[-1] in targets, line
        elif words[0] == "export":
            name, _, value = words[1].partition("=")
            with monkeypatch.context() as patch:
                patch.setenv(name, value)
                cluster.cluster_from_environment()
        else:
            assert words[0] == ".venv/bin/python", line
            run_python(words[1:], line)


def run_python(words, line):
    if words[:2] == ["-m", "pip"]:
        assert words[2:] in (["install", "-e", "."], ["install", "-e", ".[gpu]"]), line
    elif words[:2] == ["-m", "pytest"]:
        for path, _, test in (word.partition("::") for word in words[2:] if not word.startswith("-")):
            assert f"def {test.partition('[')[0]}" in (ROOT / path).read_text(), line
    elif words[:2] == ["-m", "pixel_snail.commands.inspection"]:
        inspection.show(*words[2:])
    elif words[:2] == ["-m", "pixel_snail.codec"]:
        codec.work(codec.parse_flags(words[2:]))
    elif words[:2] == ["-m", "data.cifar10_plotdata"]:
        cifar10_plotdata.plot(cifar10_plotdata.parse_flags(words[2:]))
    elif words[0] == "-m":
        assert (ROOT / f"{words[1].replace('.', '/')}.py").exists(), line
    else:
        command = {"train.py": train_command, "eval.py": eval_command}[words[0]]
        flags = TINY if command is train_command else RELEASED if "released/" in line else []
        if "--resume" in line:  # the pages' commands share a folder; a reader runs one of them
            flags = [*flags, "--new_run"]
        if "--nr_gpu" in line:
            flags = [*flags, "--nr_gpu=2"]  # each replica is compiled
        with pytest.raises(SystemExit) as exit_:
            command.main([*words[1:], *flags])
        assert exit_.value.code == 0, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page, place, done, monkeypatch, request):
    if page.name not in ("README.md", "compression.md"):  # they code so many pixels that compiled ones take less
        request.getfixturevalue("uncompiled_drawing")
    variables = {}
    for language, text in blocks(page):
        if language == "sh":
            run_commands(text, place, done, monkeypatch)
        elif language == "python":
            exec(compile(text, str(page), "exec"), variables)
        else:
            assert language == "text"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_programs_that_a_page_names_exist(page):
    text = page.read_text()
    for module in re.findall(r"python -m ([\w.]+)", text):
        if module not in ("pip", "pytest"):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for path in re.findall(r"`((?:pixel_snail|data|tests|benchmarks|examples)/[\w/]+\.py)`", text):
        assert (ROOT / path).exists(), path


def anchors(page):
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_readme_is_short_and_links_every_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert "(CONTRIBUTING.md)" in text and "(../CONTRIBUTING.md)" in (ROOT / "docs" / "README.md").read_text()
    for page in PAGES[2:]:
        if page.name != "README.md":
            assert f"(docs/{page.name})" in text
            assert f"({page.name})" in (ROOT / "docs" / "README.md").read_text()


def test_the_demo_s_commands_and_those_that_it_recommends_are_accepted():
    print_end = 'print_end: ; @echo "$$DEMO_END"'
    commands = "".join(
        subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for arguments in (["--dry-run", "demo"], [f"--eval={print_end}", "print_end"])
    )
    lines = re.findall(r"^ *\.venv/bin/python (train|eval)\.py (.*)$", commands, re.M)
    assert len(lines) == 4
    for program, arguments in lines:
        {"train": train_command, "eval": eval_command}[program].parse_flags(shlex.split(arguments))


@pytest.mark.parametrize("command", [train_command, eval_command], ids=lambda command: command.__name__)
def test_the_page_of_the_command_line_has_every_flag(command, capsys):
    with pytest.raises(SystemExit):
        command.parse_flags(["--help"])
    flags = set(re.findall(r"(--\w+)", capsys.readouterr().out)) - {"--help", "--helpfull"}
    documented = set(re.findall(r"`(--\w+)", (ROOT / "docs" / "command_line.md").read_text()))
    assert len(flags) > 15
    assert flags <= documented


def test_the_page_of_compression_has_every_flag_of_its_command(capsys):
    flags = set()
    for command in ("compress", "decompress", "info"):
        with pytest.raises(SystemExit):
            codec.parse_flags([command, "--help"])
        flags |= set(re.findall(r"(--\w+)", capsys.readouterr().out)) - {"--help", "--helpfull"}
    short = {"--nr_resnet": "-q", "--nr_filters": "-n", "--nr_logistic_mix": "-m", "--resnet_nonlinearity": "-z"}
    documented = set(re.findall(r"`(--?\w+)", (ROOT / "docs" / "compression.md").read_text()))
    assert len(flags) > 10
    assert {short.get(flag, flag) for flag in flags} <= documented
