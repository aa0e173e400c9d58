"""Images on disk as training reads them: raw pixels, memory-mapped, converted once from their source.

The cache folder has three files for a split `train`: `train.images`, the pixels of one image after another;
`train.labels` (int32), if the images have labels; and `train.json`, the record, which is written last. A split without
a record, or with a record of another source, counts as not converted. An interrupted conversion leaves `.part` files
and a journal; the next conversion goes on from them.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from pixel_snail import files, progress
from pixel_snail.dataset import Split
from pixel_snail.errors import UserError

FOLDER = ".pixel_snail"
_CHUNK_BYTES = 16 << 20

Chunk = tuple[np.ndarray, np.ndarray | None]
"""Images, uint8 [n, H, W, 3], and their labels, integers [n], or None."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The source of a split's images.

    Args:
        identity: a JSON object that differs from any other source's and changes when the source does. Its entry
            `source` names the source for the user.
        image_shape: (H, W, 3).
        total: the number of images, for the progress bar; None if it is not known beforehand.
        chunks: chunks(start) yields the images from number `start` on, always in the same order.
    """

    identity: Mapping[str, object]
    image_shape: tuple[int, int, int]
    total: int | None
    chunks: Callable[[int], Iterator[Chunk]]


class MappedImages:
    """Images in a file, indexed like an array uint8 [N, H, W, 3].

    Every read maps the file anew. Pages that were read count as the process's memory until their map is closed: with
    a single map, an epoch would take as much memory as the whole file.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path = path
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        return np.array(np.memmap(self.path, self.dtype, "r", shape=self.shape)[index])


def file_identity(path: Path) -> list[object]:
    """A file's name, size and modification time, for the identity of a source."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def in_chunks(pictures: Iterable[np.ndarray], image_shape: tuple[int, int, int]) -> Iterator[Chunk]:
    """Groups pictures, uint8 [H, W, 3], into chunks without labels."""
    rows, chunk = rows_per_chunk(image_shape), []
    for picture in pictures:
        chunk.append(picture)
        if len(chunk) == rows:
            yield np.stack(chunk), None
            chunk = []
    if chunk:
        yield np.stack(chunk), None


def rows_per_chunk(image_shape: tuple[int, ...]) -> int:
    """The number of images in a chunk of 16 MiB: large enough for the disk, small enough for memory."""
    return max(_CHUNK_BYTES // int(np.prod(image_shape)), 1)


def splits(folder: Path, sources: Mapping[str, Source] | None) -> dict[str, tuple[Split, dict]] | None:
    """Returns the splits `train` and `test`, each with its record; converts a split that is not converted yet.

    Args:
        folder: the cache folder.
        sources: of both splits; None if they no longer exist: then the cache is used as it is.

    Returns:
        None if there is neither source nor cache. A record holds the source's `identity`, the number of `images`,
        their `image_shape`, the SHA-256 of their pixels (`sha256`) and of their labels (`labels`; None without labels).

    Raises:
        UserError: a source is broken or has no images, or the folder can't be written to.
    """
    result = {}
    for name in ("train", "test"):
        source = None if sources is None else sources[name]
        record = _record(folder, name, source)
        if record is None:
            if source is None:
                return None
            with _errors(folder), _locked(folder):
                record = _record(folder, name, source) or _convert(folder, name, source)
        images = MappedImages(folder / f"{name}.images", (record["images"], *record["image_shape"]))
        labels = np.fromfile(folder / f"{name}.labels", np.int32) if record["labels"] else None
        result[name] = Split(images, labels), record
    return result


def pixels_sha256(images: np.ndarray | MappedImages) -> str:
    """The SHA-256 of the pixels of all images, in order."""
    digest = hashlib.sha256()
    rows = rows_per_chunk(images.shape[1:])
    starts = range(0, len(images), rows)
    for start in progress.bar(starts, desc="checking pixels", unit="chunk", leave=False, delay=2):
        digest.update(np.ascontiguousarray(images[start : start + rows]))
    return digest.hexdigest()


def _record(folder, name, source):
    """The record of a split; None if its files are not whole, or come from another source than `source` (if given)."""
    try:
        record = json.loads((folder / f"{name}.json").read_text())
        shape = record["images"], *record["image_shape"]
        whole = len(shape) == 4 and all(type(length) is int and length > 0 for length in shape)
        whole = whole and (folder / f"{name}.images").stat().st_size == math.prod(shape)
        whole = whole and isinstance(record["identity"]["source"], str) and isinstance(record["sha256"], str)
        if record["labels"] is not None:  # labels are small: their checksum is compared every time
            whole = whole and _sha256_of_file(folder / f"{name}.labels") == record["labels"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    same = source is None or record["identity"] == _as_json(source.identity)
    return record if whole and same else None


def _sha256_of_file(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _convert(folder, name, source):
    """Writes the images and labels that a split still lacks, then its record."""
    row_bytes = math.prod(source.image_shape)
    parts = {kind: folder / f"{name}.{kind}.part" for kind in ("images", "labels")}
    journal = folder / f"{name}.journal"
    rows, labelled = _rows_written(journal, parts, source)
    with contextlib.ExitStack() as stack:
        opened = {kind: stack.enter_context(open(path, "r+b" if rows else "w+b")) for kind, path in parts.items()}
        for kind, size in (("images", row_bytes), ("labels", 4 * labelled)):
            opened[kind].truncate(rows * size)
            opened[kind].seek(rows * size)
        bar = stack.enter_context(
            progress.bar(total=source.total, initial=rows, desc=f"converting {name}", unit="image", smoothing=0)
        )
        for images, labels in source.chunks(rows):
            if images.dtype != np.uint8 or images.shape[1:] != source.image_shape:
                raise UserError(f"images are {images.dtype} {images.shape[1:]}, not 8-bit {source.image_shape}")
            labelled = labels is not None
            opened["images"].write(np.ascontiguousarray(images))
            if labelled:
                opened["labels"].write(np.ascontiguousarray(labels, np.int32))
            for file in opened.values():
                file.flush()
                os.fsync(file.fileno())
            rows += len(images)
            _write_json(journal, {"identity": source.identity, "images": rows, "labels": labelled})
            bar.update(len(images))
    if not rows:
        raise UserError(f"there are no images for the {name} split")
    shape = (rows, *source.image_shape)
    record = {
        "identity": source.identity,
        "images": rows,
        "image_shape": source.image_shape,
        "labels": _sha256_of_file(parts["labels"]) if labelled else None,
        "sha256": pixels_sha256(MappedImages(parts["images"], shape)),
    }
    for kind, path in parts.items():
        os.replace(path, folder / f"{name}.{kind}")
    _write_json(folder / f"{name}.json", record)
    journal.unlink()
    return _as_json(record)


def _rows_written(journal, parts, source):
    """The number of images that an interrupted conversion of this source has written, and whether they have labels."""
    try:
        written = json.loads(journal.read_text())
        rows, labelled = written["images"], written["labels"]
        sizes = {"images": math.prod(source.image_shape), "labels": 4 * labelled}
        there = all(path.stat().st_size >= rows * sizes[kind] for kind, path in parts.items())
        if written["identity"] == _as_json(source.identity) and type(rows) is int and rows > 0 and there:
            return rows, bool(labelled)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return 0, False


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
def _errors(folder):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"can't write {folder}: {error.strerror or error}; once it can be written, the conversion goes on"
        ) from error
