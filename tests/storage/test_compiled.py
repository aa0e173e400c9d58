"""The compilation cache: what a second process reads from it, and which files and folders it does not trust."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import pixel_snail
from pixel_snail.errors import UserError
from pixel_snail.storage import compiled

NETWORK = {"image_shape": (4, 4, 1), "levels": 2, "nr_filters": 4, "nr_resnet": 1, "nr_logistic_mix": 1, "seed": 0}
PROGRAM = f"""
import numpy as np
import pixel_snail
from pixel_snail.backend import tf
tf.function(lambda x: x + 1, jit_compile=True)(1)
model = pixel_snail.build("h6_shift", **{NETWORK})
np.save("drawn.npy", model.draw(8, seed=3, verbose=0))
"""


def files_in(folder):
    """The compiled functions in a folder of the cache, with the times at which they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.pb")}


def test_a_second_process_draws_the_same_images_by_what_the_first_compiled_and_never_by_a_damaged_file(tmp_path):
    def drawn():
        environment = os.environ | {compiled.VARIABLE: str(tmp_path / "a cache"), "PYTHONPATH": os.getcwd()}
        subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, check=True)
        return np.load(tmp_path / "drawn.npy")

    expected = pixel_snail.build("h6_shift", **NETWORK).draw(8, seed=3, verbose=0)
    np.testing.assert_array_equal(drawn(), expected)
    written = files_in(tmp_path)
    damaged, _ = sorted(written, key=os.path.getsize, reverse=True)  # the one that draws
    assert all(path.with_name(f"{path.name}.checksum").is_file() for path in written)
    content = damaged.read_bytes()
    damaged.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    np.testing.assert_array_equal(drawn(), expected)
    again = files_in(tmp_path)
    assert again.keys() == written.keys()
    assert [path for path in again if again[path] != written[path]] == [damaged]


@pytest.fixture
def ask(monkeypatch):
    """Asks for the cache with a value of its variable; what is to be done at the end of the process is left out."""
    monkeypatch.setattr(compiled.atexit, "register", lambda *_: None)
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)

    def flags(value, **others):
        for name, other in {compiled.VARIABLE: str(value), **others}.items():
            monkeypatch.setenv(name, str(other))
        return compiled.xla_flags()

    return flags


def test_the_cache_is_off_unless_it_is_asked_for(ask, tmp_path):
    assert ask("") is None
    (start, folder) = ask(1, XDG_CACHE_HOME=tmp_path).split("=")
    assert start == "--tf_xla_persistent_cache_directory"
    assert folder.startswith(f"'{tmp_path}/pixel_snail/compiled_")
    assert ask(1, TF_XLA_FLAGS="--tf_xla_clustering_debug").startswith("--tf_xla_clustering_debug --tf_xla_persistent")


def test_other_settings_of_xla_have_a_folder_of_their_own(ask, tmp_path):
    usual = ask(tmp_path)
    assert ask(tmp_path, XLA_FLAGS="--xla_cpu_max_isa=AVX2") != usual


def test_a_folder_or_a_setting_that_can_not_be_used_is_one_line(ask, tmp_path):
    for value in ("cache", "on", tmp_path / "it's", "~nobody_of_this_name/cache"):
        with pytest.raises(UserError, match="give the absolute path of a folder"):
            ask(value)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=r"can't use .*: Not a directory; give another folder"):
        ask(file)
    ask(tmp_path / "open")
    (folder,) = (tmp_path / "open").iterdir()
    folder.chmod(0o777)
    with pytest.raises(UserError, match=r"others may write .*compiled_.*: give a folder that only you can write"):
        ask(tmp_path / "open")
    folder.chmod(0o700)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UserError, match=r"others may write .*open, and"):
        ask(tmp_path / "open")
    (tmp_path / "open").chmod(0o1777)  # as that of /tmp: others can't replace what is not theirs
    assert str(folder) in ask(tmp_path / "open")
    with pytest.raises(UserError, match="not the name of a file of flags"):
        ask(tmp_path, TF_XLA_FLAGS="flags.txt")


def test_a_full_disk_is_noticed_before_anything_is_compiled(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(UserError, match=r"the disk of .* has less than 256 MB free: free some, or unset the variable"):
        ask(tmp_path)


def test_a_file_whose_checksum_is_no_text_is_removed(ask, tmp_path):
    ask(tmp_path)
    (folder,) = tmp_path.iterdir()
    for name in ("function.pb", "function.pb.checksum"):
        (folder / name).write_bytes(b"\xff")
    ask(tmp_path)
    assert not [*folder.iterdir()]


@pytest.mark.parametrize(
    "module", ["pixel_snail.commands.inspection", "examples.codes", "examples.out_of_distribution"]
)
def test_commands_that_need_tensorflow_from_the_start_refuse_a_wrong_setting_in_a_line(module):
    environment = os.environ | {compiled.VARIABLE: "on"}
    ended = subprocess.run([sys.executable, "-m", module, "--help"], env=environment, capture_output=True, text=True)
    assert ended.returncode == 2 and not ended.stdout
    assert ended.stderr.startswith(f"error: {compiled.VARIABLE}=on: give the absolute path of a folder")
    assert ended.stderr.count("\n") == 1
