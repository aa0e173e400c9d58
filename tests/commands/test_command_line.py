"""The command line is parsed as the original's; mistakes get one line."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

import eval as eval_command
import train as train_command
from data import cifar10_plotdata
from pixel_snail.codec import __main__ as codec
from pixel_snail.commands import command_line, inspection

ORIGINAL = [
    # short, long, the original's default, another value
    ("-i", "--data_dir", "./data", "elsewhere"),
    ("-o", "--save_dir", "./data/save", "elsewhere"),
    ("-d", "--data_set", "cifar", "photos"),
    ("-t", "--save_interval", 10, 3),
    ("-r", "--load_params", None, "prefix"),
    (None, "--model", "h12_noup_smallkey", "h8_noup_smallkey"),
    ("-q", "--nr_resnet", 4, 2),
    ("-n", "--nr_filters", 256, 64),
    ("-m", "--nr_logistic_mix", 10, 32),
    ("-z", "--resnet_nonlinearity", "elu", "concat_elu"),
    ("-l", "--learning_rate", 1e-3, 2e-4),
    ("-e", "--lr_decay", 0.999998, 0.99),
    ("-b", "--batch_size", 8, 16),
    ("-a", "--init_batch_size", 8, 100),
    ("-p", "--dropout_p", 0.5, 0.0),
    ("-x", "--max_epochs", 5000, 7),
    ("-g", "--nr_gpu", None, 4),
    (None, "--polyak_decay", 0.9995, 0.999),
    ("-s", "--seed", 42, 1),
]
KNOWN_DATA_SET = ["--data_set=photos"]


@pytest.mark.parametrize("short, long, default, value", ORIGINAL, ids=lambda v: str(v))
def test_every_flag_of_the_original_parses_in_every_form(short, long, default, value):
    name = long[2:]
    argv = [] if name == "data_set" else KNOWN_DATA_SET
    if name != "data_set":
        assert getattr(train_command.parse_flags(argv), name) == default
    forms = [[long, str(value)], [f"{long}={value}"]]
    if short:
        forms += [[short, str(value)], [f"{short}{value}"]]
    for form in forms:
        assert getattr(train_command.parse_flags([*argv, *form]), name) == value


def test_class_conditional_is_a_switch():
    assert train_command.parse_flags(KNOWN_DATA_SET).class_conditional is False
    for form in ("-c", "--class_conditional", "--class", "--c"):
        assert train_command.parse_flags([*KNOWN_DATA_SET, form]).class_conditional is True


@pytest.mark.parametrize(
    "prefix, name, value",
    [
        ("--b", "batch_size", 3),
        ("--max", "max_epochs", 3),  # although --max_minutes exists, which the original does not have
        ("--mo", "model", "h8_noup_smallkey"),
        ("--p", "polyak_decay", 0.3),
        ("--i", "init_batch_size", 3),
        ("--save_i", "save_interval", 3),
        ("--se", "seed", 3),
    ],
)
def test_prefixes_mean_what_they_meant(prefix, name, value):
    for form in ([prefix, str(value)], [f"{prefix}={value}"]):
        assert getattr(train_command.parse_flags([*KNOWN_DATA_SET, *form]), name) == value


def test_a_prefix_of_two_flags_is_refused(capsys):
    with pytest.raises(SystemExit):
        train_command.parse_flags([*KNOWN_DATA_SET, "--m=h8_noup_smallkey"])  # --model or --max_epochs
    assert "ambiguous" in capsys.readouterr().err


@pytest.mark.parametrize("parse", [train_command.parse_flags, eval_command.parse_flags])
@pytest.mark.parametrize(
    "argv, message",
    [
        (["--model=h12"], "unknown model 'h12'; known: .*h12_noup_smallkey, "),
        (["--data_set=mnits"], "unknown data set 'mnits'; known: .*photos"),
        (["-z", "gelu"], "unknown resnet_nonlinearity 'gelu'; known: concat_elu, elu, relu"),
        (["--nr_filters=many"], "--nr_filters: 'many' is not a whole number above 0"),
        (["--batch_size=0"], "--batch_size: '0' is not a whole number above 0"),
        (["--seed=-1"], "--seed: '-1' is not a whole number from 0"),
        (["--seed=2147483648"], "--seed: '2147483648' is not a whole number from 0"),
        (["--no_such_flag"], "no_such_flag"),
    ],
)
def test_mistakes_are_refused_in_one_line_with_exit_code_2(parse, argv, message, capsys):
    import re

    with pytest.raises(SystemExit) as exit_:
        parse(["--load_params=x", *KNOWN_DATA_SET, *argv])
    assert exit_.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert re.search(message, stderr)


@pytest.mark.parametrize("flag", ["--learning_rate", "--lr_decay", "--max_minutes"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast"])
def test_rates_and_times_are_positive_numbers(flag, value, capsys):
    with pytest.raises(SystemExit) as exit_:
        train_command.parse_flags([f"{flag}={value}"])
    assert exit_.value.code == 2
    assert f"{flag}: '{value}' is not a number above 0\n" in capsys.readouterr().err


def test_a_mutation_rate_is_from_0_to_1_and_only_training_takes_one(capsys):
    assert train_command.parse_flags([]).mutation_rate == 0
    for value in (0, 0.1, 1):
        assert train_command.parse_flags([f"--mutation_rate={value}"]).mutation_rate == value
    for parse, argv, message in (
        *((train_command.parse_flags, value, "is not a number from 0 to 1") for value in ("-0.1", "1.1", "nan", "x")),
        (eval_command.parse_flags, "0.1", "unrecognized arguments: --mutation_rate=0.1"),
    ):
        with pytest.raises(SystemExit) as exit_:
            parse(["--load_params=x", f"--mutation_rate={argv}"])
        stderr = capsys.readouterr().err
        assert exit_.value.code == 2 and message in stderr and stderr.count("\n") == 1


def test_help_tells_the_default_of_each_flag_that_has_one(capsys):
    with pytest.raises(SystemExit):
        train_command.parse_flags(["--help"])
    of_flags = [" ".join(text.split()) for text in capsys.readouterr().out.split("\n  -")[1:]]
    for _, long, default, _ in ORIGINAL:
        (of_flag,) = [text for text in of_flags if f"{long[1:]} " in text.partition("(")[0]]
        assert ("(default: " in of_flag) == (default is not None)
        assert default is None or f"(default: {default})" in of_flag


def test_eval_needs_a_checkpoint_and_a_place_for_samples(capsys):
    for argv in (
        [],
        ["-rx", "--nr_samples=4"],
        ["-rx", "--complete=images.png"],
        ["-rx", "--skip_test"],
        ["-rx", "--nr_samples=4", "-oy", "--keep_rows=3"],
        ["-rx", "--temperature=-1"],
    ):
        with pytest.raises(SystemExit) as exit_:
            eval_command.parse_flags([*KNOWN_DATA_SET, *argv])
        assert exit_.value.code == 2


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--nr_samples=4"], "--mask is for --complete"),
        (["--complete=a.png", "--keep_rows=3"], "--mask and --keep_rows both say which pixels stay: give one of them"),
    ],
)
def test_a_mask_is_for_completions_and_instead_of_rows(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        eval_command.parse_flags(["-rx", "-oy", "--mask=b.png", *argv])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(message)


def test_a_path_that_is_not_there_is_told_before_tensorflow_is_imported(tmp_path):
    (tmp_path / "params.ckpt.index").touch()
    argv = {
        "train -r gone": "no such folder or checkpoint: gone; give a run's folder, or a file of a checkpoint, such as",
        "train -d folder -i gone": "there is no folder gone: --data_dir names the folder of the pictures",
        "eval -r gone": "no such folder or checkpoint: gone; give",
        "eval -r params.ckpt -d folder -i gone": "there is no folder gone: --data_dir names the folder of the pictures",
        "eval -r params.ckpt --complete=gone.png -o out": "there is no file --complete=gone.png: give a picture or an",
        "eval -r params.ckpt --complete=. --mask=gone.png -o out": "there is no file --mask=gone.png: give a picture",
    }
    program = (
        "import sys, eval, train\n"
        "for argv in sys.argv[1:]:\n"
        "    command, *argv = argv.split()\n"
        "    try: {'train': train, 'eval': eval}[command].main(argv)\n"
        "    except SystemExit as exit_: assert exit_.code == 2\n"
        "    assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *argv],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    for line, message in zip(done.stderr.splitlines(), argv.values(), strict=True):
        assert line.startswith(f"error: {message}")


COMMANDS = {
    "train": (train_command.parse_flags, []),
    "eval": (eval_command.parse_flags, ["-rx"]),
    "compress": (codec.parse_flags, ["compress", "-rx", "-oy", "a.png"]),
    "decompress": (codec.parse_flags, ["decompress", "-oy", "a.snail"]),
    "info": (codec.parse_flags, ["info", "a.snail"]),
    "inspection": (inspection.parse_flags, ["x"]),
    "contact sheet": (cifar10_plotdata.parse_flags, []),
}
NO_PATHS = {"test_folder", "classes", "paper", "command", "undefok", argparse.SUPPRESS}
"""Arguments that take texts which are no paths; the last two are absl's."""


@pytest.mark.parametrize("parse, argv", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(
    "url", ["gs://bucket/run", "s3://bucket/x.snail", "file:///data/x", "HTTP://host", "az+x.y-z://a"]
)
def test_no_path_of_any_command_is_a_url(parse, argv, url, monkeypatch, capsys):
    """Every parser's arguments are looked through, so that none is forgotten."""
    parsers, of_argument = [], argparse.ArgumentParser.parse_known_args

    def recorded(parser, *arguments, **keywords):
        parsers.append(parser)
        return of_argument(parser, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", recorded)
        parse(argv)
    texts = [action for action in parsers[-1]._actions if action.nargs != 0 and action.dest not in NO_PATHS]
    of_paths = [action for action in texts if action.type is command_line.path]
    others = {getattr(action.type, "__name__", action.dest) for action in texts if action not in of_paths}
    assert others <= {"parsed", "name", "image_size"}  # numbers, and names of networks and data sets
    assert of_paths
    for action in of_paths:
        with pytest.raises(SystemExit) as exit_:
            parse([*argv, f"{action.option_strings[-1]}={url}"] if action.option_strings else [*argv[:-1], url])
        assert exit_.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{url} is a URL, not a path: copy the files to this machine" in line


@pytest.mark.parametrize("path", ["a:/b", "//host/x", "a/gs://b", "C:\\x", "lr:1e-3", "://x"])
def test_a_path_with_colons_is_a_path(path):
    assert command_line.path(path) == path
