"""The command: pictures of any size and kind come back as they are read, and its messages."""

import contextlib
import functools
import io
import itertools
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import PIL.Image
import pytest
from networks import OneStep, add_spec

import pixel_snail
from pixel_snail import checkpoint
from pixel_snail.codec import __main__ as codec
from pixel_snail.codec import archive, container
from pixel_snail.codec.coder import ImageCoder
from pixel_snail.commands import command_line
from pixel_snail.optimizer import PolyakAdam

ROOT = Path(__file__).parents[2]


def run(*argv):
    with pytest.raises(SystemExit) as exit_:
        command_line.run(codec.parse_flags, codec.work, list(map(str, argv)))
    return exit_.value.code


def write_checkpoint(folder, seed, channels=3, levels=256):
    keras.utils.set_random_seed(seed)
    settings = {"nr_filters": 4, "nr_resnet": 1, "nr_logistic_mix": 2}
    model = pixel_snail.build("h0", image_shape=(4, 4, channels), levels=levels, **settings)
    model.initialise(np.random.default_rng(0).integers(0, min(levels, 256), [4, 4, 4, channels], np.uint8))
    optimizer = PolyakAdam()
    optimizer.build(model.network.trainable_variables)
    checkpoint.save(str(folder / "0" / "params_photos.ckpt"), model.network, optimizer, {})
    return folder


def picture(kind, size, rng):
    """The bytes of a PNG file of random pixels."""
    values = rng.integers(0, 256, [*size, 3], np.uint8)
    image, stream = PIL.Image.fromarray(values), io.BytesIO()
    if kind == "P":
        image = image.quantize(16)
    elif kind != "RGB":
        image = image.convert(kind)
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two runs, pictures, and a file that holds them."""
    place = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        add_spec(patch, "h0", OneStep)
        # Each command would compile the loop over pixels anew.
        patch.setattr(archive, "ImageCoder", functools.partial(ImageCoder, jit=False))
        write_checkpoint(place / "run", 0)
        write_checkpoint(place / "other", 1)
        for name, kind, size in (
            ("large", "RGB", (9, 11)),
            ("row", "RGB", (1, 6)),
            ("column", "L", (7, 1)),
            ("pixel", "P", (1, 1)),
            ("tile", "RGBA", (4, 4)),
        ):
            (place / f"{name}.png").write_bytes(picture(kind, size, rng))
        (place / "more").mkdir()
        (place / "more" / "row.png").write_bytes(picture("RGB", (2, 3), rng))
        pictures = [*sorted(place.glob("*.png")), place / "more" / "row.png"]
        assert run("compress", "-r", place / "run", *pictures, "-o", place / "all.snail") == 0
        yield place


def test_pictures_of_every_size_and_kind_come_back(place, tmp_path, capsys):
    assert run("decompress", place / "all.snail", "-o", tmp_path / "out") == 0
    assert f"wrote 6 of 6 pictures into {tmp_path / 'out'}" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["column.png", "large.png", "pixel.png", "row.png", "row_2.png", "tile.png"]
    for name in names:
        original = place / "more" / "row.png" if name == "row_2.png" else place / name
        expected = codec.pictures.read_picture(original, name)
        np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "out" / name)), expected)


@pytest.mark.parametrize("channels, levels", [(1, 256), (1, 2), (1, 3), (3, 16)])
def test_pictures_of_any_channels_and_levels_come_back(channels, levels, place, tmp_path, capsys, rng):
    write_checkpoint(tmp_path / "run", 0, channels, levels)
    values = rng.integers(0, levels, [5, 7, channels], np.uint8)
    greys = np.array([round(255 * value / (levels - 1)) for value in range(levels)], np.uint8)
    PIL.Image.fromarray(greys[values].squeeze(2) if channels == 1 else greys[values]).save(tmp_path / "a.png")
    assert run("compress", "-r", tmp_path / "run", tmp_path / "a.png", "-o", tmp_path / "a.snail") == 0
    lines = dict(line.rsplit(maxsplit=2)[::2] for line in capsys.readouterr().out.splitlines()[1:-1])
    # The picture's bits, rounded up to whole bytes.
    assert float(lines["uncompressed"]) == pytest.approx((levels - 1).bit_length(), abs=8 / values.size)
    assert run("info", tmp_path / "a.snail") == 0
    info = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (info["channels"], info["levels"]) == (str(channels), str(levels))
    assert run("decompress", tmp_path / "a.snail", "-o", tmp_path / "out") == 0
    restored = codec.pictures.read_picture(tmp_path / "out" / "a.png", "a.png")
    np.testing.assert_array_equal(restored, codec.pictures.read_picture(tmp_path / "a.png", "a.png"))


@pytest.mark.parametrize(
    "channels, levels, reason",
    [
        (1, 256, "has a colour at row 0, column 0, but the network's images are grey: convert it to grey first"),
        (3, 2, "has the value .* at row 0, column 0, but a picture of the network's 2 levels has only 0, 255"),
        (2, 256, "a picture has 1 or 3 channels and at most 256 levels, but the network's images have 2 channels"),
        (1, 1024, "but the network's images have 1 channel and 1,024 levels: compress them from Python, as arrays"),
    ],
)
def test_a_picture_that_the_network_can_not_show_is_refused(channels, levels, reason, place, tmp_path, capsys):
    write_checkpoint(tmp_path / "run", 0, channels, levels)
    capsys.readouterr()
    assert run("compress", "-r", tmp_path / "run", place / "tile.png", "-o", tmp_path / "a.snail") == 2
    assert re.search(reason, capsys.readouterr().err)
    assert not (tmp_path / "a.snail").exists()


def test_the_sizes_are_told_beside_those_of_other_formats(place, tmp_path, capsys):
    out = tmp_path / "one.snail"
    assert run("compress", "-r", place / "run", place / "large.png", "-o", out, "--no_verify") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["bytes", str(out), "PNG", "WebP", "uncompressed", "not"]
    assert int(lines[1].split()[1].replace(",", "")) == out.stat().st_size
    assert lines[4].split()[1:] == ["297", "8.0000"]


def test_info_needs_neither_the_network_nor_tensorflow(place):
    program = (
        "import sys; from pixel_snail.codec import __main__ as codec; from pixel_snail.commands import command_line\n"
        "try: command_line.run(codec.parse_flags, codec.work, ['info', sys.argv[1]])\n"
        "finally: assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, place / "all.snail"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = {line[:20].strip(): line[21:] for line in done.stdout.splitlines()}
    assert told["images"] == "16 of 4 x 4 pixels, in groups of 8"
    assert told["groups"] == "2, 0 of them damaged"
    assert told["checkpoint"] == f"{place / 'run' / '0' / 'params_photos.ckpt'}, averaged"
    assert told["picture 2"] == "11 x 9 large.png"
    assert told["tensorflow"]


@pytest.mark.parametrize(
    "argv, code",
    [
        (["--help"], 0),
        (["compress", "--nonsense"], 2),
        (["compress", "-r", "run", "a.png", "-o", "a.snail", "--batch_size=257"], 2),
    ],
)
def test_help_and_mistakes_do_not_import_tensorflow(argv, code):
    program = (
        "import sys; from pixel_snail.codec import __main__ as codec\n"
        f"try: codec.parse_flags({argv})\n"
        "finally: assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == code
    assert done.stderr.count("\n") == code // 2


@pytest.mark.parametrize(
    "argv, message",
    [
        (["decompress", "all.snail", "-o", "out", "-r", "other"], "the file is of another checkpoint"),
        (["decompress", "large.png", "-o", "out"], "large.png is not a compressed file: give one that"),
        (["decompress", "none.snail", "-o", "out"], "can't read .*none.snail: No such file"),
        (["decompress", "all.snail", "-o", "."], "column.png exists: remove it, or choose another folder"),
        (["info", "run"], "can't read .*run: Is a directory"),
        (["compress", "-r", "run", "none.png", "-o", "a.snail"], "there is no file .*none.png"),
        (["compress", "-r", "run", "all.snail", "-o", "a.snail"], "all.snail is not a PNG, JPEG or WebP picture"),
        (["compress", "-r", "none", "large.png", "-o", "a.snail"], "no such folder or checkpoint"),
        (
            ["compress", "-r", "run", "large.png", "-o", "more"],
            "can't write --output=more: it is a folder; add the name of a file",
        ),
        (["compress", "-r", "run", "large.png", "-o", "a.snail", "--classes=1"], "--classes is for class-conditional"),
        (["compress", "-r", "run", "large.png", "-o", "tile.png"], "tile.png exists and is not a compressed file"),
    ],
)
def test_a_mistake_is_told_in_one_line(argv, message, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert run(*argv) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert re.search(message, line)
    assert not (place / "out").exists()
    assert not (place / "a.snail").exists()


def test_pictures_that_are_not_damaged_are_written(place, tmp_path, capsys):
    sources = [place / "large.png", place / "tile.png"]
    assert run("compress", "-r", place / "run", *sources, "-o", tmp_path / "two.snail", "--batch_size=8") == 0
    data = bytearray((tmp_path / "two.snail").read_bytes())
    data[-len(container.read(bytes(data))[1][1].stream) - 3] ^= 1  # the first group has 8 of large's 9 tiles
    (tmp_path / "two.snail").write_bytes(data)
    assert run("decompress", tmp_path / "two.snail", "-o", tmp_path / "out") == 2
    told = capsys.readouterr()
    assert "1 of 2 pictures" in told.out
    assert (
        "1 of 2 pictures was not restored; images 1 to 8 of 10 can't be decoded: that part of the file is damaged"
        in told.err
    )
    assert "not restored: large.png: images 1 to 8 of 10" in told.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tile.png"]
    assert run("info", tmp_path / "two.snail") == 0
    assert "2, 1 of them damaged" in capsys.readouterr().out


def test_every_name_that_a_picture_can_have_is_kept_or_shortened(place, tmp_path):
    names = [
        "Bild 1.23\u202fPM.png",
        "\U0001f469\u200d\U0001f680.png",
        "a\nb.png",
        f"{'x' * 251}.png",
        ".writing_y.png",
    ]
    sources = [tmp_path / "in" / name for name in [os.fsdecode(b"\xff.png"), *names]]
    (tmp_path / "in").mkdir()
    for path in sources:
        path.write_bytes((place / "pixel.png").read_bytes())
    assert run("compress", "-r", place / "run", *sources, "-o", tmp_path / "a.snail", "--no_verify") == 0
    assert run("decompress", tmp_path / "a.snail", "-o", tmp_path / "out") == 0
    expected = {path.name for path in sources[:-2]} | {f"{'x' * 200}.png", "_.writing_y.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    assert run("info", tmp_path / "a.snail") == 0


def test_a_file_that_appears_meanwhile_is_not_overwritten(place, tmp_path, monkeypatch, capsys):
    exists = os.path.lexists
    calls = itertools.count(1)
    appears = lambda path: Path(path).suffix == ".png" and next(calls) == 8
    monkeypatch.setattr(os.path, "lexists", lambda path: appears(path) or exists(path))
    assert run("decompress", place / "all.snail", "-o", tmp_path / "out") == 2
    assert "1 of 6 pictures was not restored" in capsys.readouterr().err
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_a_checkpoint_that_is_not_where_the_file_says_is_asked_for(place, tmp_path, capsys):
    write_checkpoint(tmp_path / "run", 0)
    assert run("compress", "-r", tmp_path / "run", place / "row.png", "-o", tmp_path / "a.snail", "--no_verify") == 0
    (tmp_path / "run").rename(tmp_path / "moved")
    assert run("decompress", tmp_path / "a.snail", "-o", tmp_path / "out") == 2
    assert "which is not here: give --load_params" in capsys.readouterr().err
    assert run("decompress", tmp_path / "a.snail", "-o", tmp_path / "out", "-r", tmp_path / "moved") == 0


def test_a_portable_file_is_read_with_the_environment_that_wrote_it(place, tmp_path, monkeypatch):
    out = tmp_path / "portable.snail"
    for name in codec.PORTABLE:
        monkeypatch.setenv(name, "")
    assert run("compress", "-r", place / "run", place / "row.png", "-o", out, "--portable") == 0
    assert container.read(out.read_bytes())[0].machine.items() >= codec.PORTABLE.items()
    for file, expected in ((out, codec.PORTABLE), (place / "all.snail", dict.fromkeys(codec.PORTABLE, ""))):
        for name in codec.PORTABLE:
            monkeypatch.setenv(name, "")
        assert run("decompress", file, "-o", tmp_path / file.stem) == 0
        assert {name: os.environ[name] for name in codec.PORTABLE} == expected


@contextlib.contextmanager
def filled(content):
    """The path, as of a shell's <(...), of a pipe into which a thread writes."""
    source, sink = os.pipe()

    def fill():
        with contextlib.suppress(BrokenPipeError), open(sink, "wb") as stream:
            stream.write(content)

    writer = threading.Thread(target=fill)
    writer.start()
    try:
        yield f"/dev/fd/{source}"
    finally:
        os.close(source)
        writer.join()


def test_pictures_and_files_go_through_pipes(place, tmp_path, capfdbinary):
    content = (place / "row.png").read_bytes()
    named = tmp_path / "named.png"
    os.mkfifo(named)
    writer = threading.Thread(target=lambda: named.write_bytes((place / "pixel.png").read_bytes()))
    writer.start()
    with filled(content) as first, filled(content) as second:
        argv = ["compress", "-r", place / "run", first, named, second, "-o", "/dev/stdout", "--no_verify"]
        assert run(*argv) == 0
    writer.join()
    compressed, err = capfdbinary.readouterr()
    assert [picture.name for picture in container.read(compressed)[0].pictures] == ["picture", "named.png", "picture"]
    assert b"/dev/stdout" in err and b"uncompressed" in err
    with filled(compressed) as file:
        assert run("info", file) == 0
    assert b"1 x 1 named.png" in capfdbinary.readouterr().out
    with filled(compressed) as file:
        assert run("decompress", file, "-o", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["named.png", "picture.png", "picture_2.png"]
    expected = codec.pictures.read_picture(place / "row.png", "row")
    for name in ("picture.png", "picture_2.png"):
        np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "out" / name)), expected)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_pipe_without_a_picture_is_told_in_one_line(content, place, tmp_path, capsys):
    with filled(content) as file:
        assert run("compress", "-r", place / "run", file, "-o", tmp_path / "a.snail") == 2
        (line,) = capsys.readouterr().err.splitlines()
    assert f"{file} is not a PNG, JPEG or WebP picture" in line
