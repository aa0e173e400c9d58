"""Files and folders are written whole or not at all, and a lock is held by one."""

import os

import pytest

from pixel_snail import files
from pixel_snail.errors import UserError


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
