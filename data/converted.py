"""Images on disk in the form that training reads: raw rows, memory-mapped, converted once from what they came in.

Of a split `train` in a cache's folder there are `train.images`, its pixels one image after the other, `train.labels`
(int32), if it has any, and `train.json`, written last: without it, or with one that tells of another source, the split
counts as not converted. An interrupted conversion leaves `.part` files and goes on from them.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from pixel_snail import progress
from pixel_snail.dataset import Split
from pixel_snail.errors import UserError

FOLDER = ".pixel_snail"
_CHUNK_BYTES = 16 << 20

Chunk = tuple[np.ndarray, np.ndarray | None]
"""Images, uint8 [n, H, W, 3], and their labels, integers [n], or None."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a split's images come from.

    Args:
        identity: tells this source from any other, and from itself after a change: for JSON; `source` is for people.
        image_shape: (H, W, 3).
        total: the number of images, if it is known beforehand; progress is shown with it.
        chunks: yields the images from the given number on, in an order that is always the same.
    """

    identity: Mapping[str, object]
    image_shape: tuple[int, int, int]
    total: int | None
    chunks: Callable[[int], Iterator[Chunk]]


class MappedImages:
    """Images in a file, indexed like an array uint8 [N, H, W, 3].

    Every read maps the file anew: pages that were touched count as the process's memory as long as a map lives, so
    that an epoch over one map would take as much memory as the whole set.
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
    """Name, size and time of a file: what an identity is made of."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def in_chunks(pictures: Iterable[np.ndarray], image_shape: tuple[int, int, int]) -> Iterator[Chunk]:
    """Pictures, one by one, as chunks without labels."""
    rows, chunk = rows_per_chunk(image_shape), []
    for picture in pictures:
        chunk.append(picture)
        if len(chunk) == rows:
            yield np.stack(chunk), None
            chunk = []
    if chunk:
        yield np.stack(chunk), None


def rows_per_chunk(image_shape: tuple[int, ...]) -> int:
    """How many images a chunk should have: enough for the disk, little for memory."""
    return max(_CHUNK_BYTES // int(np.prod(image_shape)), 1)


def splits(folder: Path, sources: Mapping[str, Source] | None) -> dict[str, tuple[Split, dict]] | None:
    """The splits `train` and `test`, converted if they aren't yet, and the record of each conversion.

    Args:
        folder: of the cache.
        sources: of both splits; None where there is none any more: then the cache is taken as it is.

    Returns:
        None if there is neither source nor cache. A record holds the source's `identity`, the number of `images`,
        their `image_shape`, the `sha256` of their pixels, and as `labels` that of their labels, or None.

    Raises:
        UserError: the sources are broken or have no images, or the folder can't be written to.
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
    """The SHA-256 of images' pixels, in order."""
    digest = hashlib.sha256()
    rows = rows_per_chunk(images.shape[1:])
    starts = range(0, len(images), rows)
    for start in progress.bar(starts, desc="checking pixels", unit="chunk", leave=False, delay=2):
        digest.update(np.ascontiguousarray(images[start : start + rows]))
    return digest.hexdigest()


def _record(folder, name, source):
    """What the cache says of a split, if it is whole and of this source (or of any, where there is none)."""
    try:
        record = json.loads((folder / f"{name}.json").read_text())
        shape = record["images"], *record["image_shape"]
        whole = len(shape) == 4 and all(type(length) is int and length > 0 for length in shape)
        whole = whole and (folder / f"{name}.images").stat().st_size == math.prod(shape)
        whole = whole and isinstance(record["identity"]["source"], str) and isinstance(record["sha256"], str)
        if record["labels"] is not None:  # they are few: their checksum can be compared every time
            whole = whole and _sha256_of_file(folder / f"{name}.labels") == record["labels"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    same = source is None or record["identity"] == _as_json(source.identity)
    return record if whole and same else None


def _sha256_of_file(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _convert(folder, name, source):
    """Writes what is missing of a split, and its record once all is there."""
    row_bytes = math.prod(source.image_shape)
    parts = {kind: folder / f"{name}.{kind}.part" for kind in ("images", "labels")}
    journal = folder / f"{name}.journal"
    rows, labelled = _rows_written(journal, parts, source)
    with contextlib.ExitStack() as stack:
        files = {kind: stack.enter_context(open(path, "r+b" if rows else "w+b")) for kind, path in parts.items()}
        for kind, size in (("images", row_bytes), ("labels", 4 * labelled)):
            files[kind].truncate(rows * size)
            files[kind].seek(rows * size)
        bar = stack.enter_context(
            progress.bar(total=source.total, initial=rows, desc=f"converting {name}", unit="image", smoothing=0)
        )
        for images, labels in source.chunks(rows):
            if images.dtype != np.uint8 or images.shape[1:] != source.image_shape:
                raise UserError(f"images are {images.dtype} {images.shape[1:]}, not 8-bit {source.image_shape}")
            labelled = labels is not None
            files["images"].write(np.ascontiguousarray(images))
            if labelled:
                files["labels"].write(np.ascontiguousarray(labels, np.int32))
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            rows += len(images)
            _write_whole(journal, {"identity": source.identity, "images": rows, "labels": labelled})
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
    _write_whole(folder / f"{name}.json", record)
    journal.unlink()
    return _as_json(record)


def _rows_written(journal, parts, source):
    """How many images an interrupted conversion of the same source left, and whether they have labels."""
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


def _write_whole(path, content):
    """Writes a JSON file that is there as a whole or not at all."""
    aside = path.with_name(f"{path.name}.new")
    with open(aside, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


@contextlib.contextmanager
def _locked(folder):
    """Two processes that need the same images convert them once: the second waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"waiting for another process that converts images in {folder} ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _errors(folder):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"can't write {folder}: {error.strerror or error}; once it can be written, the conversion goes on"
        ) from error
