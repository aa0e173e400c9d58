"""What many mistakes are told: each message names only flags of the command at hand, and numbers agree with nouns."""

import functools
import json
import re

import keras
import numpy as np
import PIL.Image
import pytest
from networks import add_spec, shallow

import data
import eval as eval_command
import golden_numbers
import pixel_snail
import train as train_command
from benchmarks.counted_training import ONE_BLOCK
from data import cifar10_plotdata
from pixel_snail import checkpoint
from pixel_snail.codec import __main__ as codec
from pixel_snail.codec import archive
from pixel_snail.codec.coder import ImageCoder
from pixel_snail.commands import command_line
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import counted
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.runs import history

SHAPE = (8, 8, 3)
NETWORK = {"model": "h1", "nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2}
ORIGINAL = "--model=h6_shift -q1 -n4 -m2"


def random_images(number):
    return np.random.default_rng(number).integers(0, 256, [number, *SHAPE], np.uint8)


def write_run(folder, images, labels=None, **settings):
    """Writes the folder of a run of train.py with a checkpoint; returns the distribution."""
    keras.utils.set_random_seed(0)
    model = pixel_snail.build(
        **NETWORK | settings, image_shape=SHAPE, nr_labels=None if labels is None else int(max(labels)) + 1
    )
    model.initialise(images[:4], None if labels is None else labels[:4])
    optimizer = PolyakAdam()
    optimizer.build(model.network.trainable_variables)
    prefix = folder / "0" / "params.ckpt"
    checkpoint.save(str(prefix), model.network, optimizer, history.History().tensors())
    argv = [f"--{name}={value}" for name, value in (NETWORK | settings).items()]
    argv += ["--data_set=tiny"] if labels is None else ["--data_set=tiny_labels", "-c"]
    (folder / "flags.json").write_text(json.dumps(vars(train_command.parse_flags(argv))))
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with runs, pictures and compressed files, in which the commands run."""
    place = tmp_path_factory.mktemp("place")
    images, labels = random_images(12), np.arange(12) % 3

    def data_set(labels=None):
        split = labels if labels is None else labels[:6]
        return DataSet(Split(images[:6], split), Split(images[6:], split))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        add_spec(patch, "h1", ONE_BLOCK)
        patch.setitem(pixel_snail.specs, "h6_noup_hier2", shallow("h6_noup_hier2"))
        patch.setitem(data.data_sets, "tiny", lambda _: data_set())
        patch.setitem(data.data_sets, "tiny_labels", lambda _: data_set(labels))
        patch.setitem(data.data_sets, "two_classes", lambda _: data_set(labels % 2))
        model = write_run(place / "run", images)
        write_run(place / "wide", images, nr_filters=8)
        write_run(place / "classes", images, labels)
        write_run(place / "leaking", images, model="h6_noup_hier2")
        patch.setattr(archive, "ImageCoder", functools.partial(ImageCoder, jit=False))
        pictures = [codec.Picture("a.png", 8, 8)]
        for name, origin in (("run", None), ("named", (str(place / "gone"), True))):
            file = model.archiver.compress(images[:1], pictures=pictures, checkpoint=origin, verify=False, verbose=0)
            (place / f"{name}.snail").write_bytes(file)
        (place / "cut.snail").write_bytes(file[:30])
        PIL.Image.fromarray(images[0]).save(place / "a.png")
        PIL.Image.new("1", (8, 8), "white").save(place / "white.png")
        (place / "pictures").mkdir()
        for name in "abcdefghijkl":
            PIL.Image.fromarray(images[0]).save(place / "pictures" / f"{name}.png")
        yield place


TRAIN, EVAL = "train.py", "eval.py"
CODEC = "python -m pixel_snail.codec "
COMMANDS = {
    TRAIN: (train_command.main, train_command.parse_flags, []),
    EVAL: (eval_command.main, eval_command.parse_flags, []),
    **{
        CODEC + name: (lambda argv: command_line.run(codec.parse_flags, codec.work, argv), codec.parse_flags, [name])
        for name in ("compress", "decompress", "info")
    },
    "data.cifar10_plotdata": (
        lambda argv: command_line.run(cifar10_plotdata.parse_flags, cifar10_plotdata.plot, argv),
        cifar10_plotdata.parse_flags,
        [],
    ),
}
TINY = "--data_set=tiny --model=h1 -q1 -n4 -m2 -b2 -a2 --sample_interval=0 -onew"
MISTAKES = [
    # the command, its arguments, and the message
    (TRAIN, f"{TINY} -c", "the data set tiny has no labels: drop --class_conditional"),
    (TRAIN, f"{TINY} -rwide", "is of another network: its --nr_filters is 8, not 4; give its values, or another"),
    (TRAIN, f"{TINY} -rclasses", "it was trained with --class_conditional; give its values"),
    (TRAIN, f"{TINY} -b7", "--batch_size=7 is larger"),
    (TRAIN, f"{TINY} -b3 --grad_accum=2", "--batch_size=3 can't be cut into --grad_accum=2 equal parts"),
    (TRAIN, f"{TINY} --image_size=8", "--image_size is not for --data_set=tiny"),
    (TRAIN, f"{TINY} --nr_gpu=9", "--nr_gpu=9, but TensorFlow already runs with 4 logical CPU devices"),
    (TRAIN, f"{TINY} --data_set=folder -ipictures -opictures/new", "choose a --save_dir outside of it"),
    (TRAIN, f"{TINY} --data_set=folder -ipictures -c", "has no folders: for a class-conditional network"),
    (TRAIN, f"{TINY} -n1000000", "the network's parameters need at least .* GB of memory, .*: lower --nr_filters"),
    (EVAL, "-rrun -b1000000000", "evaluating 1,000,000,000 images at once needs at least .* GB .*: lower --batch_size"),
    (
        EVAL,
        "-rclasses --data_set=tiny",
        "is conditional on 3 classes, but the data set tiny has no labels: evaluate it on",
    ),
    (
        EVAL,
        "-rclasses --data_set=two_classes",
        "is conditional on 3 classes, but the data set two_classes has 2: evalu",
    ),
    (EVAL, "-rclasses --data_set=folder -ipictures", "has no folders: for a class-conditional network"),
    (EVAL, "-rrun -c", "--class_conditional, but the run of .* had no --class_conditional: leave the flag out"),
    (EVAL, "-rrun -n8", "--nr_filters=8, but the run of .* had --nr_filters=4: leave the flag out"),
    (EVAL, "-rrun --image_size=8", "--image_size is not for --data_set=tiny"),
    (
        EVAL,
        "-rrun --nr_samples=1 --classes=1 -onew",
        "--classes is for class-conditional networks, and this one is not",
    ),
    (EVAL, "-rclasses --nr_samples=1 --classes=9 -onew", "--classes: there is no class 9, the last is 2"),
    (EVAL, "-rclasses --complete=a.png -onew", "is class-conditional: name the image's class with --classes"),
    (
        EVAL,
        "-rclasses --complete=a.png --classes=1,2 -onew",
        "--classes names 2 classes for 1 image: name the image's class",
    ),
    (EVAL, "-rrun --complete=a.png --keep_rows=8 -onew", "--keep_rows=8 leaves nothing to draw: images have 8 rows"),
    (EVAL, "-rrun --complete=a.png --mask=a.png -onew", "a.png has the RGB value .* at row 0, column 0, but a mask is"),
    (EVAL, "-rrun --complete=a.png --mask=white.png -onew", "--mask leaves nothing to draw: every pixel is given"),
    (EVAL, "-rleaking --nr_samples=1 -onew", "it can't sample: drop --nr_samples$"),
    (EVAL, "-rleaking --complete=a.png -onew", "it can't sample: drop --complete$"),
    (EVAL, "-rleaking --compress=new.snail", "it can't compress: drop --compress$"),
    (EVAL, f"-rORIGINAL --data_set=tiny {ORIGINAL} -n8", "--nr_filters"),
    (EVAL, f"-rORIGINAL --data_set=tiny {ORIGINAL} -c", "is not conditional on classes: drop --class_conditional"),
    (CODEC + "compress", "compress -rrun a.png -onew.snail --classes=1", "--classes is for class-conditional networks"),
    (
        CODEC + "compress",
        "compress -rclasses a.png -onew.snail",
        "is class-conditional: name the image's class with --classes",
    ),
    (
        CODEC + "compress",
        "compress -rclasses a.png a.png -onew.snail",
        "name one class for all images, or one for each with",
    ),
    (CODEC + "compress", f"compress -rORIGINAL a.png -onew.snail {ORIGINAL}", "give --image_size"),
    (CODEC + "compress", f"compress -rORIGINAL a.png -onew.snail --image_size=8 {ORIGINAL} -n8", "--nr_filters"),
    (CODEC + "compress", "compress -rrun a.png -onew.snail -n8", "its --nr_filters is 4, not 8; give its values"),
    (CODEC + "compress", "compress -rleaking a.png -onew.snail", "it can't compress"),
    (CODEC + "compress", "compress -rrun a.png -oa.png", "choose another name with --output"),
    (
        CODEC + "decompress",
        "decompress run.snail -onew -rwide",
        "run.snail was not written with the checkpoint wide/0/params.ckpt, which is of another network or has no "
        "averages: give the checkpoint that it was written with as --load_params; or add --raw, if",
    ),
    (CODEC + "decompress", "decompress named.snail -onew -rwide", "it was written with as --load_params$"),
    (
        CODEC + "decompress",
        "decompress run.snail -onew -rORIGINAL",
        "it was written with as --load_params; or add --raw",
    ),
    (
        CODEC + "decompress",
        "decompress run.snail -onew -rclasses",
        "another network: its number of classes is none, not 3",
    ),
    (CODEC + "decompress", "decompress run.snail -onew", "does not name its checkpoint: give --load_params"),
    (CODEC + "decompress", "decompress named.snail -onew", "which is not here: give --load_params"),
    (CODEC + "decompress", "decompress a.png -onew", "is not a compressed file"),
    (CODEC + "info", "info cut.snail", "cut off"),
    ("data.cifar10_plotdata", "--data_set=tiny --image_size=8", "--image_size is not for --data_set=tiny"),
]


@pytest.fixture(scope="module")
def known():
    """The flags that each command knows, by its name."""
    found = {}

    def of(name, capsys):
        if name not in found:
            _, parse, argv = COMMANDS[name]
            with pytest.raises(SystemExit):
                parse([*argv, "--help"])
            found[name] = set(re.findall(r"--\w+", capsys.readouterr().out))
        return found[name]

    return of


@pytest.mark.parametrize("name, argv, message", MISTAKES, ids=lambda value: str(value).replace(CODEC, ""))
def test_a_mistake_is_told_in_a_line_that_names_only_flags_of_the_command(name, argv, message, place, known, capsys):
    main = COMMANDS[name][0]
    flags = known(name, capsys)
    with pytest.raises(SystemExit) as exit_:
        main(argv.replace("ORIGINAL", golden_numbers.checkpoint("h6_shift")).split())
    told = capsys.readouterr().err
    assert exit_.value.code == 2, told
    (line,) = (line for line in told.splitlines() if line.startswith("error: "))
    if name.endswith(" compress") and "-rrun " in argv and "class" in message:
        assert "note: the initial parameters still have a weight of 100.0% in the average; --raw compresses" in told
    assert re.search(message, line), line
    # A flag of another command follows that command's name.
    own = re.sub(r"(?:eval\.py|train\.py|python -m [\w.]+(?: \w+)?)(?: --\w+)+", "", line)
    assert set(re.findall(r"--\w+", own)) <= flags, line
    assert not re.search(r"(?<![\d.,])1 (?:\w+ )?(?:images|pictures|classes|steps|epochs|rows|tensors)\b", line), line
    assert not (place / "new").exists() or not list((place / "new").iterdir())


def test_numbers_agree_with_nouns():
    assert [counted(number, "image") for number in (0, 1, 2, 2000)] == [
        "0 images",
        "1 image",
        "2 images",
        "2,000 images",
    ]
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]
