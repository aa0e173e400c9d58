"""Files and folders are written whole or not at all, and a lock is held by one."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pixel_snail.errors import UserError
from pixel_snail.storage import files, paths


def write_folder(aside, text):
    aside.mkdir()
    (aside / "inner").write_text(text)


def read(path):
    return (path / "inner" if path.is_dir() else path).read_text()


@pytest.fixture(params=["file", "folder"])
def write(request):
    """Writes a file, or a folder with a file in it."""
    return write_folder if request.param == "folder" else lambda aside, text: aside.write_text(text)


def test_what_is_written_takes_the_place_of_what_was_there_and_leaves_nothing_beside_it(write, tmp_path):
    path = tmp_path / "result.png"
    for text in ("first", "second"):
        with files.replacing(path) as aside:
            write(aside, text)
            assert aside.suffix == ".png"
            assert files.is_leftover(aside.relative_to(tmp_path))
        assert read(path) == text
        assert list(tmp_path.iterdir()) == [path]


def test_two_processes_that_write_one_file_at_once_both_write_it_whole(tmp_path):
    path = tmp_path / "result"
    with files.replacing(path) as aside:
        aside.write_text("first")
        done = subprocess.run([sys.executable, "-c", WRITES_A_FILE, path], cwd=ROOT, timeout=60)
        assert done.returncode == 0 and path.read_text() == "of another process"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_nothing_else(write, tmp_path):
    path = tmp_path / "a[1].png"
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, timeout=60)
    write(tmp_path / f".writing_{int(done.stdout)}_{path.name}", "half")
    of_running = f".writing_{os.getppid()}_{path.name}"
    others = {tmp_path / name for name in (of_running, f".writing_{path.name}", f".writing_x_{path.name}", path.name)}
    for other in others:
        write(other, "of others")
    files.remove_unfinished(path)
    assert set(tmp_path.iterdir()) == others
    files.remove_unfinished(tmp_path / "nowhere" / "a.png")


def test_a_lock_that_another_holds_is_seen_by_all_who_ask(tmp_path):
    with files.locked(tmp_path, when_taken=lambda: None):
        assert files.is_locked(tmp_path) and files.is_locked(tmp_path)
    assert not files.is_locked(tmp_path) and not files.is_locked(tmp_path / "nowhere")


@pytest.mark.parametrize("step", ["writing", "replacing"])
def test_a_failure_leaves_what_was_there(write, step, tmp_path, monkeypatch):
    path = tmp_path / "result"
    with files.replacing(path) as aside:
        write(aside, "first")

    def fail(*_):
        raise OSError("no space")

    if step == "replacing":
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"), files.replacing(path) as aside:
        write(aside, "second")
        if step == "writing":
            fail()
    assert read(path) == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't write .*/file/result: "):
        files.write(tmp_path / "file" / "result", lambda path: None)
    files.write("/dev/null", lambda path: open(path, "w").close())


def test_a_lock_is_held_by_one_until_it_lets_go(tmp_path):
    def refuse():
        raise UserError("taken")

    with files.locked(tmp_path, refuse), pytest.raises(UserError, match="taken"), files.locked(tmp_path, refuse):
        pass
    with files.locked(tmp_path, refuse):
        pass


UNSYNCED = ["EINVAL", "EOPNOTSUPP", "ENOSYS", "EPERM", "EACCES", "EBADF", "EIO", "ENOTTY"]


@pytest.mark.parametrize("call", ["fsync", "open"])
@pytest.mark.parametrize("name", UNSYNCED)
def test_a_file_system_that_cannot_sync_folders_is_written_to(name, call, write, tmp_path, monkeypatch):
    sync, open_ = os.fsync, os.open

    def fail_for_folders(is_folder):
        if is_folder:
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    def fsync(descriptor):
        fail_for_folders(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        sync(descriptor)

    def opened(path, *arguments, **keywords):
        fail_for_folders(os.path.isdir(path) and "dir_fd" not in keywords)
        return open_(path, *arguments, **keywords)

    monkeypatch.setattr(os, call, fsync if call == "fsync" else opened)
    with files.replacing(tmp_path / "result") as aside:
        write(aside, "text")
    monkeypatch.undo()
    assert read(tmp_path / "result") == "text"


@pytest.mark.parametrize("name", UNSYNCED)
def test_a_file_that_cannot_be_synced_is_an_error(name, write, tmp_path, monkeypatch):
    def fail(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError) as error, files.replacing(tmp_path / "result") as aside:
        write(aside, "text")
    assert error.value.errno == getattr(errno, name)
    assert not list(tmp_path.iterdir())


def read_all(descriptor, into):
    with open(descriptor, "rb") as stream:
        into.append(stream.read())


@pytest.mark.parametrize("kind", ["named", "of a shell"])
def test_a_file_is_written_into_a_pipe_as_a_stream(kind, tmp_path):
    received = []
    if kind == "named":
        path = tmp_path / "pipe"
        os.mkfifo(path)
        reader = threading.Thread(target=lambda: read_all(path, received))
    else:
        source, sink = os.pipe()
        path = f"/dev/fd/{sink}"
        reader = threading.Thread(target=read_all, args=(source, received))
    reader.start()

    def save(path):  # as a library that goes back in its file
        with open(path, "wb") as file:
            file.write(b"....end")
            file.seek(0)
            file.write(b"begi")

    files.check_file_writable(str(path), "json")
    files.write(path, save)
    if kind != "named":
        os.close(sink)
        assert not os.path.exists(path)
    reader.join()
    assert received == [b"begiend"]
    assert kind != "named" or stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "file"])
def test_the_programs_own_output_is_written_on_and_never_replaced(name, tmp_path):
    """As with `--json=/dev/stdout >> log`. A program of its own: pytest has its own output."""
    log = tmp_path / "log"
    log.write_text("earlier\n")
    path = str(log) if name == "file" else name
    with open(log, "a") as stdout:
        program = [sys.executable, "-c", WRITES_TO_ITS_OUTPUT, path]
        done = subprocess.run(program, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "on stderr\n")
    assert log.read_text() == "earlier\nbefore\nthe file\nafter\n"


ROOT = Path(__file__).parents[2]
WRITES_A_FILE = """
import sys
from pixel_snail.storage import files
with files.replacing(sys.argv[1]) as aside:
    aside.write_text("of another process")
"""
WRITES_TO_ITS_OUTPUT = """
import sys
from pathlib import Path
from pixel_snail.commands import streams
from pixel_snail.storage import files
streams.prepare()
print("before")
files.check_file_writable(sys.argv[1], "json")
with streams.text_elsewhere(sys.argv[1]):
    print("on stderr")
    files.write(sys.argv[1], lambda path: Path(path).write_text("the file\\n"))
print("after")
"""


def test_a_pipe_with_a_picture_is_read_once_and_another_is_not_read_to_its_end():
    for content, read in ((b"\x89PNG picture", b"\x89PNG picture"), (b"y\n" * 10, b"y\ny\ny\n"), (b"", b"")):
        source, sink = os.pipe()
        os.write(sink, content)
        if read == content:
            os.close(sink)  # else the pipe does not end
        assert paths.readable_again(f"/dev/fd/{source}").getvalue() == read
        if read != content:
            os.close(sink)
        os.close(source)


def test_a_folder_that_leads_nowhere_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"can't write --save_dir=.*link/runs: .*link is not a folder"):
        files.check_writable(tmp_path / "link" / "runs", "save_dir")
