"""Compresses pictures without loss with a network, restores them, and lists what a compressed file holds.

python -m pixel_snail.codec compress --load_params=RUN PICTURE... -o OUT.snail
python -m pixel_snail.codec decompress OUT.snail -o FOLDER
python -m pixel_snail.codec info OUT.snail
"""

from pixel_snail.commands import packages  # noqa: F401

# isort: split
import argparse
import collections
import functools
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pixel_snail.codec import PORTABLE, container
from pixel_snail.codec.container import Picture, tiles_of
from pixel_snail.commands import command_line, streams
from pixel_snail.errors import UserError, counted, printable
from pixel_snail.settings import NETWORK_DEFAULTS
from pixel_snail.storage import files, paths, pictures, prefixes

# Modules that need TensorFlow are imported inside functions: it takes seconds to start, and `info` does not need it.


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in argv, by default the program's; a mistake prints one line on stderr and exits with code 2."""
    parser = command_line.Parser(prog="python -m pixel_snail.codec", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
        parser_class=functools.partial(command_line.Parser, inherited_absl_flags=None),
    )

    of_compress = commands.add_parser("compress", help="write pictures into one file")
    add = of_compress.add_argument
    add("pictures", nargs="+", metavar="PICTURE", type=command_line.path, help="PNG, JPEG or WebP pictures")
    add("-o", "--output", required=True, metavar="FILE", type=command_line.path, help="the compressed file")
    place = "the checkpoint, or a folder: its newest one"
    add("-r", "--load_params", metavar="PREFIX", type=command_line.path, required=True, help=place)
    add("--raw", action="store_true", help="use the parameters themselves, not their running average")
    add(
        "--classes",
        type=lambda text: text.split(","),
        help="class-conditional network: one class for all pictures, or one for each",
    )
    add(
        "--batch_size",
        type=command_line.positive_int,
        help="images coded at once (default: 8; 32 for more than 16 tiles; up to 256 for many small tiles)",
    )
    add("--no_verify", action="store_true", help="do not decode what was encoded: this halves the time")
    add("--portable", action="store_true", help="compute so that other x86-64 processors can read the file")
    limit = pictures.MAX_PIXELS // 10**6
    add("--max_megapixels", type=command_line.positive_int, default=limit, help="the largest picture that can be used")

    of_decompress = commands.add_parser("decompress", help="write the pictures that a compressed file holds")
    add = of_decompress.add_argument
    add("file", metavar="FILE", type=command_line.path, help="the compressed file")
    add("-o", "--output", required=True, metavar="FOLDER", type=command_line.path, help="the folder for the pictures")
    hint = f"{place}; without it, the checkpoint that the file names"
    add("-r", "--load_params", metavar="PREFIX", type=command_line.path, help=hint)
    add(
        "--raw",
        action="store_true",
        help="use the parameters, not their average, if the file does not say which it was written with",
    )

    of_compress.add_argument("--image_size", type=command_line.positive_int, help="side of the network's images")
    # Flags that are not given come from the checkpoint; for decompress, all come from the file.
    command_line.add_network_flags(of_compress, defaults=False)

    of_info = commands.add_parser("info", help="list what a compressed file holds, without the network")
    of_info.add_argument("file", metavar="FILE", type=command_line.path, help="the compressed file")
    flags = parser.parse_args(argv)
    if flags.command == "compress" and (flags.batch_size or 1) > container.MOST_IN_A_GROUP:
        of_compress.error(
            f"--batch_size={flags.batch_size}: at most {container.MOST_IN_A_GROUP} images are coded at once"
        )
    return flags


def compress(flags: argparse.Namespace) -> None:
    """Writes pictures into one file, and prints its size beside those of other formats.

    Raises:
        UserError: a picture or the checkpoint can't be read, the file can't be written, or as Archiver and its
            `compress`.
    """
    files.check_file_writable(flags.output, "output")
    container.check_replaceable(flags.output, "output")
    prefixes.prefix_at(flags.load_params)  # before the seconds that TensorFlow takes
    with streams.text_elsewhere(flags.output):
        _compress(flags)


def _compress(flags):
    max_pixels = flags.max_megapixels * 10**6
    read = [pictures.read_picture(paths.readable_again(path), path, max_pixels) for path in flags.pictures]
    if flags.portable:
        os.environ |= PORTABLE
    from pixel_snail.commands import drawing
    from pixel_snail.parallel import memory
    from pixel_snail.reports import comparisons
    from pixel_snail.runs import average, search

    with memory.shortage_reported("lower --batch_size, or compress fewer pictures at a time"):
        opened = search.find(flags.load_params)
        prefix = os.path.abspath(opened.prefix)
        recorded = opened.description()
        channels, levels = (recorded.image_shape[2], recorded.levels) if recorded else (3, 256)
        values = [
            pictures.as_values(picture, channels, levels, path)
            for path, picture in zip(flags.pictures, read, strict=True)
        ]
        image_shape = (flags.image_size, flags.image_size, channels) if flags.image_size else None
        model = _load(opened, {name: getattr(flags, name) for name in NETWORK_DEFAULTS}, image_shape, not flags.raw)
        if not flags.raw and (young := average.read(opened).why_young()):
            print(f"note: {young}; --raw compresses with the parameters themselves", file=sys.stderr, flush=True)
        if model.network.condition is not None:
            raise UserError(
                f"the network of {prefix} is conditional on {model.network.condition}, which a picture does not have: "
                "compress from Python, with condition="
            )
        tiles = [list(tiles_of(*picture.shape[:2], *model.image_shape[:2])) for picture in values]
        classes = drawing.class_numbers(flags.classes, model.nr_labels, model.class_names)
        labels = drawing.classes_of_images(classes, len(read), model.nr_labels)
        if labels is not None:
            labels = np.repeat(labels, list(map(len, tiles)))
        images = np.zeros([sum(map(len, tiles)), *model.image_shape], np.uint8)
        cut = ((picture, tile) for picture, of_picture in zip(values, tiles, strict=True) for tile in of_picture)
        for image, (picture, (top, left, rows, columns)) in zip(images, cut, strict=True):
            image[:rows, :columns] = picture[top : top + rows, left : left + columns]
        named = [
            Picture(_name_of(path), *picture.shape[:2]) for path, picture in zip(flags.pictures, values, strict=True)
        ]
        settings, origin = {"batch_size": flags.batch_size, "verify": not flags.no_verify}, (prefix, not flags.raw)
        data = model.archiver.compress(images, labels, pictures=named, checkpoint=origin, **settings)
    files.write(flags.output, lambda path: Path(path).write_bytes(data))

    others = [comparisons.file_sizes(picture, levels) for picture in values]
    formats = [name for name in others[0] if all(name in of_picture for of_picture in others)]
    sizes = {flags.output: len(data)} | {f"{name} files": sum(of[name] for of in others) for name in formats}
    number = sum(picture.size for picture in values)
    uncompressed = -(-number * (levels - 1).bit_length() // 8)
    width = max(map(len, sizes))
    print(f"{'':{width}} {'bytes':>12} {'bits/dim':>9}")
    for name, size in (sizes | {"uncompressed": uncompressed}).items():
        print(f"{name:{width}} {size:12,} {8 * size / number:9.4f}")
    print("not read back: --no_verify" if flags.no_verify else "every pixel was read back")


def decompress(flags: argparse.Namespace) -> None:
    """Writes the pictures of a compressed file as PNG files. If some can't be restored, the others are written.

    Raises:
        UserError: the file or the checkpoint can't be read, a picture can't be restored or exists already, or as
            Archiver and its `decompress`.
    """
    header, groups, _ = _read(flags.file)
    if reason := pictures.why_no_picture(header.image_shape[2], header.levels):
        raise UserError(f"{flags.file}: {reason}: decompress the file from Python, as arrays")
    files.check_writable(flags.output, "output")
    for path in (Path(flags.output, name) for name in _names(header)):
        if os.path.lexists(path):
            raise _exists(path)
    if header.condition is not None:
        raise UserError(f"{flags.file} is of a network with a condition: decompress it from Python, with condition=")
    prefix, is_averaged = header.checkpoint or (None, not flags.raw)
    if flags.load_params:
        prefixes.prefix_at(flags.load_params)
    elif prefix is None:
        raise UserError(f"{flags.file} does not name its checkpoint: give --load_params")
    elif paths.status(f"{prefix}.index") is None:
        raise UserError(f"{flags.file} names the checkpoint {prefix}, which is not here: give --load_params")
    if header.machine.items() >= PORTABLE.items():
        os.environ |= PORTABLE
    from pixel_snail.parallel import memory

    with memory.shortage_reported(memory.MORE_MEMORY):
        _restore(flags, header, groups, prefix, is_averaged)


def _restore(flags, header, groups, prefix, is_averaged):
    from pixel_snail.checkpoint import Checkpoint, Mismatch
    from pixel_snail.runs import search

    opened = search.find(flags.load_params) if flags.load_params else Checkpoint(prefix)
    settings = {name: header.network.get(name, default) for name, default in NETWORK_DEFAULTS.items()}
    try:
        model = _load(opened, settings, header.image_shape, is_averaged, header.levels)
    except Mismatch as error:
        raw = "" if header.checkpoint or flags.raw else "; or add --raw, if it was compressed with --raw"
        raise UserError(
            f"{flags.file} was not written with the checkpoint {opened.prefix}, which is of another network or has no "
            f"averages: give the checkpoint that it was written with as --load_params{raw}"
        ) from error
    written, failures = 0, []
    of_file = _pictures(header, _images(header, groups, model.archiver))
    for path, picture in zip((Path(flags.output, name) for name in _names(header)), of_file, strict=True):
        if not isinstance(picture, UserError) and os.path.lexists(path):
            picture = _exists(path)  # made meanwhile, or a.png and A.png are one file on this disk
        if isinstance(picture, UserError):
            print(printable(f"not restored: {path.name}: {picture}"), file=sys.stderr, flush=True)
            failures.append(picture)
            continue
        files.write(path, functools.partial(pictures.save_values, picture, header.levels))
        written += 1
    total = written + len(failures)
    print(f"wrote {written:,} of {counted(total, 'picture')} into {flags.output}")
    if failures:
        were, first = ("were", "the first: ") if len(failures) > 1 else ("was", "")
        raise UserError(
            f"{flags.file}: {len(failures):,} of {counted(total, 'picture')} {were} not restored; {first}{failures[0]}"
        )


def info(flags: argparse.Namespace) -> None:
    """Prints what a compressed file holds.

    Raises:
        UserError: it can't be read.
    """
    header, groups, size = _read(flags.file)
    height, width, channels = header.image_shape
    coded = sum(channels * rows * columns for rows, columns in header.sizes())
    damaged = sum(group.stream is None for group in groups)
    lines = {
        "size": f"{size:,} bytes" + (f", {8 * size / coded:.4f} bits/dim" if coded else ""),
        "size without streams": f"{size - sum(len(group.stream or b'') for group in groups):,} bytes"
        if not damaged
        else None,
        "images": f"{header.images:,} of {width} x {height} pixels, in groups of {header.batch}",
        "groups": f"{len(groups)}, {damaged} of them damaged",
        "channels": channels,
        "levels": header.levels,
        **{name: header.network.get(name, default) for name, default in NETWORK_DEFAULTS.items()},
        "number of classes": header.network.get("nr_labels"),
        "checksum (weights)": header.weights,
        "checkpoint": header.checkpoint and f"{header.checkpoint[0]}, {'averaged' if header.checkpoint[1] else 'raw'}",
    }
    for name, value in header.machine.items():
        lines.setdefault(name, " ".join(map(str, value)) if isinstance(value, list) else value)
    lines |= {f"picture {i}": f"{p.width} x {p.height} {p.name}" for i, p in enumerate(header.pictures or (), 1)}
    for name, value in lines.items():
        if value is not None:
            print(printable(f"{name:20} {value}"))


def _read(path):
    """The header, the groups and the bytes of a compressed file."""
    with pictures.readable(path), open(path, "rb") as stream:
        file = stream.read(len(container.SIGNATURE))
        if file == container.SIGNATURE:  # another file may be larger than memory
            file += stream.read()
    try:
        return *container.read(file), len(file)
    except UserError as error:
        raise UserError(f"{path} is {error}") from error


def _name_of(path):
    """The name of a picture's file; "picture" for a pipe without a name, whose path ends with a mere number."""
    name = os.path.basename(path)
    return "picture" if name.isdecimal() and files.is_stream(path) else name


def _load(opened, settings, image_shape, averaged, levels=None):
    from pixel_snail import loading

    return loading.load(opened, **settings, image_shape=image_shape, levels=levels, averaged=averaged)


def _names(header) -> Iterator[str]:
    """The names of the PNG files for a compressed file's pictures: in the order of the pictures, all different."""
    if header.pictures is None:
        yield from (f"{i:0{len(str(header.images))}}.png" for i in range(1, header.images + 1))
    taken, numbers = set(), collections.defaultdict(lambda: itertools.count(2))
    for picture in header.pictures or ():
        # Names get longer while a file is written, and a file system limits them.
        stem = os.fsdecode(os.fsencode(Path(picture.name).stem)[:_LONGEST_STEM])
        if files.is_leftover(Path(stem)):
            stem = f"_{stem}"
        name = stem
        while name in taken:
            name = f"{stem}_{next(numbers[stem])}"
        taken.add(name)
        yield f"{name}.png"


_LONGEST_STEM = 200
"""The most bytes of a restored picture's name, without its number and ending."""


def _exists(path):
    return UserError(f"{path} exists: remove it, or choose another folder")


def _images(header, groups, archiver) -> Iterator[np.ndarray | UserError]:
    """Each image, or the error that says why it can't be restored."""
    for first, of_group in zip(range(0, header.images, header.batch), archiver.decompress(header, groups), strict=True):
        if isinstance(of_group, UserError):
            yield from [of_group] * min(header.batch, header.images - first)
        else:
            yield from of_group


def _pictures(header, images) -> Iterator[np.ndarray | UserError]:
    """Each picture, put together from its tiles, or the error that says why it can't be restored."""
    if header.pictures is None:
        yield from images
        return
    for picture in header.pictures:
        # A damaged file may claim a huge picture: allocate it only once all its tiles are decoded.
        of_picture, lost = [], None
        for tile in tiles_of(picture.height, picture.width, *header.image_shape[:2]):
            image = next(images)
            lost = lost or (image if isinstance(image, UserError) else None)
            if not lost:
                of_picture.append((tile, image))
        if lost:
            yield lost
            continue
        whole = np.empty([picture.height, picture.width, header.image_shape[2]], np.uint8)
        for (top, left, rows, columns), image in of_picture:
            whole[top : top + rows, left : left + columns] = image[:rows, :columns]
        yield whole


def work(flags: argparse.Namespace) -> None:
    """Runs the command that the flags name."""
    {"compress": compress, "decompress": decompress, "info": info}[flags.command](flags)


if __name__ == "__main__":
    command_line.run(parse_flags, work)
