"""Output of a command whose reader leaves, whose terminal closes, whose streams are closed or can't encode a name."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import golden_numbers
from pixel_snail.errors import UserError

ROOT = Path(__file__).parents[2]
PRINTS_MUCH = """
import sys
from pathlib import Path
from pixel_snail.commands import streams
streams.prepare()
for i in range(20_000):
    print(i, flush=True)
    print(i, file=sys.stderr)
Path(sys.argv[1]).write_text("done")
"""


FAILS_AFTER_OUTPUT = """
from pixel_snail.commands import command_line
from pixel_snail.errors import UserError
def work(flags):
    print("output")
    raise UserError("a mistake")
command_line.run(lambda argv: None, work)
"""


def start(program, *arguments, **settings):
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, **settings)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_leaves_does_not_end_the_work(stream, tmp_path):
    process = start(PRINTS_MUCH, tmp_path / "result", **{"stdout": subprocess.DEVNULL, stream: subprocess.PIPE})
    reader = getattr(process, stream)
    assert reader.readline() == b"0\n"
    reader.close()
    assert process.wait(60) == 0
    assert (tmp_path / "result").read_text() == "done"


def test_a_terminal_that_closes_does_not_end_the_work(tmp_path):
    ours, its = pty.openpty()
    process = start(PRINTS_MUCH, tmp_path / "result", stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    os.read(ours, 1)
    os.close(ours)
    assert process.wait(60) == 0
    assert (tmp_path / "result").read_text() == "done"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_does_not_end_the_work_nor_get_into_files(closed, tmp_path):
    command = f"exec {sys.executable} -c '{PRINTS_MUCH}' {tmp_path}/result {closed}"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "result").read_text() == "done"


def test_messages_that_a_full_disk_does_not_take_do_not_end_the_work(tmp_path):
    with open("/dev/full", "w") as full:
        process = start(PRINTS_MUCH, tmp_path / "result", stdout=subprocess.DEVNULL, stderr=full)
        assert process.wait(60) == 0
    assert (tmp_path / "result").read_text() == "done"


def test_a_command_whose_output_a_full_disk_does_not_take_ends_with_one_line():
    command = [sys.executable, "-m", "pixel_snail.commands.inspection", golden_numbers.checkpoint("h6_shift")]
    full_disk = "error: can't write the output: No space left on device; free some space, and repeat the command\n"
    for program, told in ((command, full_disk), ([sys.executable, "-c", FAILS_AFTER_OUTPUT], "error: a mistake\n")):
        with open("/dev/full", "w") as full:
            done = subprocess.run(program, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (2, told)


def test_a_full_disk_is_still_an_error():
    with open("/dev/full", "w") as full:
        process = start(PRINTS_MUCH, "/dev/null", stdout=full, stderr=subprocess.DEVNULL)
        assert process.wait(60) != 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
@pytest.mark.parametrize("name", [b"caf\xc3\xa9", b"\xff", b"\xe6\xbc\xa2", b"a\nb", b"\xf0\x9f\x90\x8c"])
def test_a_name_that_cant_be_encoded_is_printed_with_escapes(encoding, name):
    program = f"import os; from pixel_snail.commands import streams; streams.prepare(); print(os.fsdecode({name!r}))"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == f"{os.fsdecode(name)}\n".encode(encoding, "backslashreplace")


@given(st.text() | st.binary().map(os.fsdecode))
@settings(max_examples=200)
def test_any_name_in_an_error_message_stays_in_its_line(name):
    message = str(UserError(f"there is no folder {name}"))
    assert message.isprintable()
    message.encode("utf-8")


@pytest.mark.parametrize(
    "command",
    [
        ["eval.py", "--model=h6_shift", "--nr_filters=4", "--nr_resnet=1", "--nr_logistic_mix=2", "--data_set=arrays"],
        ["-m", "pixel_snail.commands.inspection"],
    ],
    ids=["eval.py", "inspection"],
)
def test_a_command_does_its_work_although_its_reader_leaves_at_the_first_line(command, tmp_path):
    checkpoint = golden_numbers.checkpoint("h6_shift")
    images, result = tmp_path / "images.npz", tmp_path / "result.json"
    np.savez(images, train=np.zeros([1, 4, 4, 3], np.uint8), test=np.zeros([1, 4, 4, 3], np.uint8))
    evaluating = [f"--load_params={checkpoint}", f"--data_dir={images}", "--levels=256", f"--json={result}"]
    arguments = [*command, *(evaluating if "eval.py" in command else [checkpoint])]
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().startswith("checkpoint")
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(200) == 0
    assert "Traceback" not in errors
    assert result.exists() == ("eval.py" in command)
