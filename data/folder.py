"""A data set of your own: the PNG, JPEG and WebP pictures below a folder, each cropped to a square."""

import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import PIL.Image

from data import converted
from pixel_snail import pictures
from pixel_snail.dataset import DataSet
from pixel_snail.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
_TEST_SHARE = 10


def load(data_dir: Path, image_size: int = 32, downsample: bool = False) -> DataSet:
    """Loads the pictures below data_dir/train and data_dir/test or, without these folders, all below data_dir.

    Without these folders, a tenth of the pictures becomes the test set. It is chosen by a hash of their names, so that
    the same names always give the same split. Each picture is cropped to the square in its middle.

    Args:
        image_size: the side of the square.
        downsample: whether a picture is first shrunk until its shorter side is image_size.

    Raises:
        UserError: there are no or too few pictures; a picture is broken or smaller than the square; or the conversion
            can't be written.
    """
    if not data_dir.is_dir():
        raise UserError(f"there is no folder {data_dir}: --data_dir names the folder of the pictures")
    if _has_splits(data_dir):
        splits = {name: _pictures(data_dir / name) for name in ("train", "test")}
    else:
        paths = sorted(_pictures(data_dir), key=lambda path: _hash(path.relative_to(data_dir)))
        if len(paths) == 1:
            raise UserError(f"{data_dir} has only one picture, {paths[0].name}: training and testing take one each")
        number = -(-len(paths) // _TEST_SHARE)
        splits = {"train": sorted(paths[number:]), "test": sorted(paths[:number])}
    for name, paths in splits.items():
        if not paths:
            raise UserError(f"there are no PNG, JPEG or WebP pictures for the {name} split in {data_dir}")
    sources = {
        name: converted.Source(
            identity={"source": str(data_dir), "downsample": downsample, "pictures": _fingerprint(data_dir, paths)},
            image_shape=(image_size, image_size, 3),
            total=len(paths),
            chunks=functools.partial(_chunks, paths, image_size, downsample),
        )
        for name, paths in splits.items()
    }
    kind = "downsampled" if downsample else "cropped"
    splits = converted.splits(data_dir / converted.FOLDER / f"{kind}_{image_size}x{image_size}", sources)
    return DataSet(splits["train"][0], splits["test"][0], source=str(data_dir))


def check_apart(data_dir: Path, save_dir: Path) -> None:
    """Raises UserError if pictures written to save_dir would become part of the data set."""
    if not _has_splits(data_dir) and save_dir.resolve().is_relative_to(data_dir.resolve()):
        raise UserError(
            f"--save_dir={save_dir} lies in --data_dir={data_dir}, below which all pictures are the data set: name a "
            "--data_dir or --save_dir apart from the other"
        )


def _has_splits(data_dir):
    return (data_dir / "train").is_dir() and (data_dir / "test").is_dir()


def _pictures(folder):
    """The paths of the pictures below a folder, sorted; hidden files and folders are left out."""
    found, seen = [], set()
    for root, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(root) in seen:  # links may form a circle
            folders.clear()
            continue
        seen.add(os.path.realpath(root))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(root, name) for name in files if Path(name).suffix.lower() in SUFFIXES and name[0] != "."]
        found += filter(Path.is_file, paths)  # no broken links, no pipes
    return sorted(found)


def _hash(path):
    return hashlib.sha256(os.fsencode(path.as_posix())).digest()


def _fingerprint(data_dir, paths):
    digest = hashlib.sha256()
    for path in paths:
        digest.update(repr([path.relative_to(data_dir).as_posix(), *converted.file_identity(path)]).encode())
    return digest.hexdigest()


def _chunks(paths, size, downsample, start):
    return converted.in_chunks((_square(path, size, downsample) for path in paths[start:]), (size, size, 3))


def _square(path, size, downsample):
    picture = pictures.read_picture(path, str(path))
    height, width = picture.shape[:2]
    if min(height, width) < size:
        raise UserError(f"{path} is {width} x {height} pixels, smaller than --image_size={size}")
    if downsample:
        factor = size / min(height, width)
        width, height = round(width * factor), round(height * factor)
        picture = np.asarray(PIL.Image.fromarray(picture).resize((width, height), PIL.Image.Resampling.LANCZOS))
    top, left = (height - size) // 2, (width - size) // 2
    return picture[top : top + size, left : left + size]
