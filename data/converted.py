"""Images on disk as training reads them: raw pixels, memory-mapped, converted once from their source.

The cache folder has three files for a split `train`: `train_<id>.images`, the pixels of one image after another;
`train_<id>.labels` (int32), if the images have labels; and `train.json`, the record, which names them and is written
last. The id is the source's: a conversion of another source never writes into files that a running program reads. The
files of other sources are removed, but whoever has opened them still reads them. A split without a record, or with a
record of another source, counts as not converted. An interrupted conversion leaves `.part` files and a journal; the
next conversion goes on from them.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import mmap
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pixel_snail.commands import progress
from pixel_snail.dataset import Split
from pixel_snail.errors import UserError, option
from pixel_snail.storage import files

FOLDER = ".pixel_snail"
_CHUNK_BYTES = 16 << 20
_BYTES = np.dtype(np.uint8)
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""The errors if there is no such file. Other errors, such as a lack of permission, are no reason to convert anew."""
_READER = 2
"""Raised when pictures can be read that were bad before: then bad ones of earlier versions are tried again."""


class Bad(NamedTuple):
    """An image of the source that can't be used: its name, and the reason."""

    name: str
    reason: str


class Chunk(NamedTuple):
    """Images [n, H, W, C]; their labels, integers [n], or None; and the bad images between them."""

    images: np.ndarray
    labels: np.ndarray | None = None
    bad: list[Bad] = []


@dataclasses.dataclass(frozen=True)
class Source:
    """The source of a split's images.

    Args:
        identity: a JSON object that differs from any other source's and changes when the source does. Its entry
            `source` names the source for the user.
        image_shape: (H, W, C).
        total: the number of images, for the progress bar; None if it is not known beforehand.
        chunks: a function: chunks(start) yields the images from number `start` on, always in the same order. Bad images
            count.
        dtype: the type of the images' values: uint8 or uint16.
    """

    identity: Mapping[str, object]
    image_shape: tuple[int, int, int]
    total: int | None
    chunks: Callable[[int], Iterator[Chunk]]
    dtype: np.dtype = _BYTES


class MappedImages:
    """Images in a file, indexed like an array [N, H, W, C].

    The file is opened once: the images stay the same, even if another file takes its name, or it is removed. It is
    closed when the object is freed. Forked processes may share the object; pickled, it opens the path again.

    Every read maps the file anew. Pages that were read count as the process's memory until their map is closed: with
    a single map, an epoch would take as much memory as the whole file.

    Args:
        path: the file.
        shape: the shape of the images, [N, H, W, C]. They must be the rest of the file.
        dtype: the type of their values.
        offset: the number of bytes before the images.

    Raises:
        OSError: there is no such file, or no permission.
        ValueError: it has another size.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint8, offset: int = 0):
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._offset = offset
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor).atexit = False  # other threads may still read then
        self._bytes = offset + math.prod(shape) * self.dtype.itemsize
        if os.fstat(self._descriptor).st_size != self._bytes:
            raise ValueError(f"{path} does not have the pixels of images {shape}")

    def __reduce__(self):
        return MappedImages, (self.path, self.shape, self.dtype, self._offset)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        mapped = mmap.mmap(self._descriptor, self._bytes, access=mmap.ACCESS_READ)
        return np.array(np.frombuffer(mapped, self.dtype, offset=self._offset).reshape(self.shape)[index])


def file_identity(path: Path) -> list[object]:
    """A file's name, size and modification time, for the identity of a source."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def in_chunks(pictures: Iterable[np.ndarray | Bad], image_shape: tuple[int, int, int]) -> Iterator[Chunk]:
    """Groups pictures, uint8 [H, W, C], and bad ones into chunks without labels."""
    rows = rows_per_chunk(image_shape)
    images, bad = [], []
    for picture in pictures:
        (bad if isinstance(picture, Bad) else images).append(picture)
        if len(images) + len(bad) == rows:
            yield Chunk(np.array(images, np.uint8).reshape(-1, *image_shape), bad=bad)
            images, bad = [], []
    if images or bad:
        yield Chunk(np.array(images, np.uint8).reshape(-1, *image_shape), bad=bad)


def rows_per_chunk(image_shape: tuple[int, ...]) -> int:
    """The number of images in a chunk of 16 MiB: large enough for the disk, small enough for memory."""
    return max(_CHUNK_BYTES // int(np.prod(image_shape)), 1)


def cache_folder(data_dir: Path, cache_dir: Path | str | None, name: str) -> Path:
    """The cache folder of a data set.

    Args:
        data_dir: the folder of the data set's files.
        cache_dir: where cache folders lie. There, each data_dir has a folder of its own; None: they lie in data_dir.
        name: the cache folder's name.
    """
    if cache_dir is None:
        return data_dir / FOLDER / name
    path = os.path.abspath(data_dir)
    # Its last part is for people; file systems limit how many bytes a name has.
    own = f"{os.path.basename(path)[:50]}_{hashlib.sha256(path.encode(errors='surrogatepass')).hexdigest()[:12]}"
    return Path(cache_dir) / own / name


def splits(folder: Path, sources: Mapping[str, Source] | None) -> dict[str, tuple[Split, dict]] | None:
    """Returns the splits, each with its record; converts a split that is not converted yet.

    Args:
        folder: the cache folder.
        sources: the sources of the splits `train` and `test`, or of one of them; None if they no longer exist, so that
            the cache of both is used without a comparison with its source.

    Returns:
        None if there is neither source nor cache. A record holds the source's `identity`, the number of `images`,
        their `image_shape`, their `dtype` if it is not uint8, the SHA-256 of their pixels (`sha256`) and of their
        labels (`labels`; None without labels), and the `bad` images, lists [name, reason]. A split has no images only
        if all were bad.

    Raises:
        UserError: a source is broken or has no images, or the folder can't be written to or read.
    """
    result = {}
    for name in sources or ("train", "test"):
        source = None if sources is None else sources[name]
        with _errors("read", folder):
            result[name] = _found(folder, name, source)
        if result[name] is None:
            if source is None:
                return None
            with _errors("write", folder), _locked(folder):
                result[name] = _found(folder, name, source) or _convert(folder, name, source)
    return result


def pixels_sha256(images: np.ndarray | MappedImages) -> str:
    """The SHA-256 of the pixels of all images, in order."""
    digest = hashlib.sha256()
    rows = rows_per_chunk(images.shape[1:])
    starts = range(0, len(images), rows)
    for start in progress.bar(starts, desc="checking pixels", unit="chunk", leave=False, delay=2):
        digest.update(np.ascontiguousarray(images[start : start + rows]))
    return digest.hexdigest()


def _found(folder, name, source):
    """A split and its record; None if its files are not whole, or of another source than `source` (if given)."""
    text, read = None, None
    with contextlib.suppress(*_ABSENT, ValueError):  # no record, or no path
        # Between the record and the files, another process may put a record of other files in its place.
        while (text := (folder / f"{name}.json").read_text(errors="replace")) != read:
            try:
                return _opened(folder, name, source, json.loads(text))
            except (*_ABSENT, ValueError, KeyError, TypeError, RecursionError):
                read = text
    return None


def _opened(folder, name, source, record):
    """As _found, from the record; raises ValueError or another exception instead of returning None."""
    # Conversions of earlier versions have no `files` and no `bad`.
    stem, bad = (record["files"], record["bad"]) if "files" in record else (name, [])
    shape = record["images"], *record["image_shape"]
    if stem not in (name, _stem(name, record["identity"])):
        raise ValueError("these are not its files")
    if len(shape) != 4 or not all(type(length) is int and length >= 0 for length in shape) or not math.prod(shape[1:]):
        raise ValueError("no images have this shape")
    if not _are_bad(bad) or not (shape[0] or bad):
        raise ValueError("it has no images")
    if bad and record.get("reader") != _READER:
        raise ValueError("its bad images may be good for this version")
    if not isinstance(record["identity"]["source"], str) or not isinstance(record["sha256"], str):
        raise ValueError("it is no record")
    if source is not None and record["identity"] != _as_json(source.identity):
        raise ValueError("it is of another source")
    kind = record.get("dtype", "uint8")
    if kind not in ("uint8", "uint16") or (source is not None and kind != source.dtype):
        raise ValueError("it has other values")
    images = MappedImages(folder / f"{stem}.images", shape, kind)
    labels = None
    if record["labels"] is not None:  # labels are small: their checksum is compared every time
        content = (folder / f"{stem}.labels").read_bytes()
        if hashlib.sha256(content).hexdigest() != record["labels"]:
            raise ValueError("the labels are damaged")
        labels = np.frombuffer(content, np.int32)
    return Split(images, labels), record | {"bad": bad}


def _are_bad(values):
    """Whether values from a JSON file are bad images: lists [name, reason]."""
    return isinstance(values, list) and all(
        isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value) for value in values
    )


def _stem(name, identity):
    """The name, without its ending, of the files of a split's conversion from the source of this identity."""
    return f"{name}_{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]}"


def _convert(folder, name, source):
    """Writes the images and labels that a split still lacks, then its record; returns the split and its record."""
    parts = {kind: folder / f"{name}.{kind}.part" for kind in ("images", "labels")}
    journal = folder / f"{name}.journal"
    rows, labelled, bad = _written(journal, parts, source)
    with contextlib.ExitStack() as stack:
        opened = {kind: stack.enter_context(open(path, "r+b" if rows else "w+b")) for kind, path in parts.items()}
        for kind, size in _row_bytes(source, labelled).items():
            opened[kind].truncate(rows * size)
            opened[kind].seek(rows * size)
        settings = {"desc": f"converting {name}", "unit": "image", "smoothing": 0}
        bar = stack.enter_context(progress.bar(total=source.total, initial=rows + len(bad), **settings))
        for images, labels, bad_ones in source.chunks(rows + len(bad)):
            if images.dtype != source.dtype or images.shape[1:] != source.image_shape:
                raise UserError(
                    f"images are {images.dtype} {images.shape[1:]}, not {source.dtype} {source.image_shape}"
                )
            labelled = labels is not None
            opened["images"].write(np.ascontiguousarray(images))
            if labelled:
                opened["labels"].write(np.ascontiguousarray(labels, np.int32))
            for file in opened.values():
                file.flush()
                os.fsync(file.fileno())
            rows += len(images)
            bad += bad_ones
            written = {"identity": source.identity, "images": rows, "labels": labelled, "bad": bad, "reader": _READER}
            _write_json(journal, written)
            bar.update(len(images) + len(bad_ones))
    if not rows and not bad:
        raise UserError(f"there are no images for the {name} split")
    record = {
        "identity": source.identity,
        "reader": _READER,
        "files": _stem(name, source.identity),
        "images": rows,
        "image_shape": source.image_shape,
        "labels": hashlib.sha256(parts["labels"].read_bytes()).hexdigest() if labelled else None,
        "sha256": pixels_sha256(MappedImages(parts["images"], (rows, *source.image_shape), source.dtype)),
        "bad": bad,
    }
    if source.dtype != _BYTES:
        record["dtype"] = source.dtype.name
    for kind, path in parts.items():
        os.replace(path, folder / f"{record['files']}.{kind}")
    _write_json(folder / f"{name}.json", record)
    journal.unlink()
    with contextlib.suppress(OSError):  # they only take space
        for path in folder.glob(f"{name}*"):
            if path.suffix in (".images", ".labels") and path.stem != record["files"]:
                path.unlink()
    return _opened(folder, name, source, _as_json(record))


def _written(journal, parts, source):
    """The progress of an interrupted conversion of this source: rows, whether they have labels, and bad images."""
    try:
        written = json.loads(journal.read_text())
        rows, labelled, bad = written["images"], written["labels"], written["bad"]
        sizes = _row_bytes(source, labelled)
        there = all(path.stat().st_size >= rows * sizes[kind] for kind, path in parts.items())
        same = written["identity"] == _as_json(source.identity) and (not bad or written.get("reader") == _READER)
        if same and type(rows) is int and rows >= 0 and _are_bad(bad) and there:
            return rows, bool(labelled), bad
    except (*_ABSENT, ValueError, KeyError, TypeError, RecursionError):
        pass
    return 0, False, []


def _row_bytes(source, labelled):
    """The bytes that an image takes in the file of each kind."""
    return {"images": math.prod(source.image_shape) * source.dtype.itemsize, "labels": 4 * labelled}


def _as_json(value):
    return json.loads(json.dumps(value))


def _write_json(path, content):
    with files.replacing(path) as aside:
        aside.write_text(json.dumps(content))


@contextlib.contextmanager
def _locked(folder):
    """Holds the lock of a cache folder, so that a second process waits instead of converting the same images."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting = f"waiting for another process that converts images in {folder} ..."
    with files.locked(folder, when_taken=lambda: progress.say(waiting)):
        yield


@contextlib.contextmanager
def _errors(what, folder):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"can't {what} {folder}: {error.strerror or error}; correct this and start again, or choose another folder "
            f"with {option('cache_dir')}"
        ) from error
