"""ImageNet at 32 x 32 and 64 x 64 pixels as the paper uses it (van den Oord et al. 2016), without labels.

It has 1,281,149 training images. The 49,999 validation images serve as the test set. The version of 2017
(data/imagenet_resized.py) is another data set, which is easier to model.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data import converted, imagenet_resized, listing, untrusted
from pixel_snail.dataset import DataSet
from pixel_snail.errors import UserError, first_line
from pixel_snail.storage import pictures

TRAIN_IMAGES, TEST_IMAGES = 1_281_149, 49_999
TARS = {
    # name: bytes, SHA-256
    "train_32x32.tar": (4_113_018_880, "244a323d48f8d72f65ad8b54658c01fed68d2d7bdc77ccb43da58c11e94224e5"),
    "valid_32x32.tar": (161_474_560, "862e559462b24cf736212a19f6b0d47b55c2dc8ebdaa95ccecfe71260124c8f7"),
    "train_64x64.tar": (12_112_588_800, "e2a2c1947a748d0d256e98e6d82800d855441dc9e4de2e71a773f1324c4524d7"),
    "valid_64x64.tar": (477_255_680, "eeac03ec4f585baf871d2b4cb9c974bfe345e74878a74e5820fe6eb1041629cd"),
}
FOLDER = "small_imagenet"


def load(data_dir: Path, size: int, cache_dir: Path | str | None = None) -> DataSet:
    """Loads ImageNet of size x size pixels from data_dir or its folder small_imagenet.

    Looks in this order for: the tars (first, since only they can be verified); the original's .npz; the folders of
    PNGs; a data set prepared by TensorFlow Datasets (TFDS). The first use converts the images; afterwards their source
    may be deleted.

    Args:
        size: the side of the images.
        cache_dir: where the conversion goes; see converted.cache_folder.

    Raises:
        UserError: the files are missing or broken, or the conversion can't be written.
    """
    roots = [data_dir, data_dir / FOLDER]
    sources = next(filter(None, (find(root, size) for find in _FINDERS for root in roots)), None)
    splits = converted.splits(converted.cache_folder(data_dir, cache_dir, f"imagenet_{size}x{size}"), sources)
    if splits is None:
        raise UserError(_missing(roots, size))
    (train, _), (test, record) = splits["train"], splits["test"]
    return DataSet(train, test, source=record["identity"]["source"], unverified=_unverified(test, record))


def _unverified(test, record):
    if "sha256" not in record["identity"]:
        return f"{record['identity']['source']} has no published checksum: only images from the tars can be verified"
    if converted.pixels_sha256(test.images) != record["sha256"]:
        return f"{test.images.path} has been changed since it was made"
    return None


def _missing(roots, size):
    files = ", ".join(
        f"{name} ({TARS[name][0]:,} bytes, sha256 {TARS[name][1]})"
        for name in (f"train_{size}x{size}.tar", f"valid_{size}x{size}.tar")
    )
    message = (
        f"there is no ImageNet {size}x{size} in {roots[0]}, and its official link is gone: put there {files}, which "
        f"people pass on by torrent, or the folders of PNGs unpacked from them, or {FOLDER}/imgnet_{size}x{size}.npz"
    )
    if any(imagenet_resized.find(root, size) for root in roots):
        message += "; the batches that are there are the version of 2017, another set: --data_set=imagenet_resized"
    return message


def _tars(root, size):
    paths = {"train": root / f"train_{size}x{size}.tar", "test": root / f"valid_{size}x{size}.tar"}
    if not all(map(listing.is_file, paths.values())):
        return None
    totals = {"train": TRAIN_IMAGES, "test": TEST_IMAGES}
    return {
        name: converted.Source(
            identity={"source": str(path), "file": converted.file_identity(path), "sha256": TARS[path.name][1]},
            image_shape=(size, size, 3),
            total=totals[name],
            chunks=functools.partial(_from_tar, path, size),
        )
        for name, path in paths.items()
    }


def _from_tar(path, size, start):
    untrusted.check_checksum(path, "sha256", TARS[path.name][1])
    pictures = itertools.islice(untrusted.tar_pictures(path, path.parent), start, None)
    return converted.in_chunks((_of_size(file, f"{name} in {path}", size) for name, file in pictures), (size, size, 3))


def _folders(root, size):
    folders = {"train": root / f"train_{size}x{size}", "test": root / f"valid_{size}x{size}"}
    if not all(map(listing.is_folder, folders.values())):
        return None
    sources = {}
    for name, folder in folders.items():
        paths = [path for path in listing.inside(folder) if path.suffix == ".png" and path.name[0] != "."]
        if not paths:
            raise UserError(f"{folder} has no PNG files")
        sources[name] = converted.Source(
            # A folder's modification time changes when files are added or removed. This saves a million look-ups.
            identity={"source": str(folder), "folder": [len(paths), folder.stat().st_mtime_ns]},
            image_shape=(size, size, 3),
            total=len(paths),
            chunks=functools.partial(_from_folder, paths, size),
        )
    return sources


def _from_folder(paths, size, start):
    return converted.in_chunks((_of_size(path, str(path), size) for path in paths[start:]), (size, size, 3))


def _of_size(file, name, size):
    picture = pictures.read_picture(file, name)
    if picture.shape != (size, size, 3):
        raise UserError(f"{name} is {picture.shape[1]} x {picture.shape[0]} pixels, not {size} x {size}")
    return picture


def _npz(root, size):
    path = root / f"imgnet_{size}x{size}.npz"
    if not listing.is_file(path):
        return None
    if "trainx" not in untrusted.npz_names(path) and "data" in untrusted.npz_names(path):
        raise UserError(f"{path} is a batch of the version of 2017, another set: --data_set=imagenet_resized")
    sources = {}
    for name, key in (("train", "trainx"), ("test", "testx")):
        shape, dtype = untrusted.npz_header(path, key)
        if shape[1:] not in [(size, size, 3), (3, size, size)] or dtype != np.uint8:
            raise UserError(f"{path}: {key} is {dtype} {shape}, not 8-bit images of {size} x {size}")
        sources[name] = converted.Source(
            identity={"source": str(path), "file": converted.file_identity(path)},
            image_shape=(size, size, 3),
            total=shape[0],
            chunks=functools.partial(_from_npz, path, key),
        )
    return sources


def _from_npz(path, key, start) -> Iterator[converted.Chunk]:
    shape, _ = untrusted.npz_header(path, key)
    for images in untrusted.npz_rows(path, key, start, converted.rows_per_chunk(shape[1:])):
        yield converted.Chunk(images if shape[-1] == 3 else images.transpose(0, 2, 3, 1))


def _tfds(root, size):
    prepared = root / "downsampled_imagenet" / f"{size}x{size}"
    if not listing.is_folder(prepared):
        return None
    listing.check_readable(prepared)  # TFDS takes unreadable files for absent
    import tensorflow_datasets as tfds  # imported here because the import takes seconds

    with _errors_of_tfds(root):
        builder = tfds.builder(f"downsampled_imagenet/{size}x{size}", data_dir=root)
        if not builder.is_prepared():
            return None
        return {
            name: converted.Source(
                identity={"source": f"{builder.data_path}, {split}", "images": builder.info.splits[split].num_examples},
                image_shape=(size, size, 3),
                total=builder.info.splits[split].num_examples,
                chunks=functools.partial(_from_tfds, builder, split, size),
            )
            for name, split in (("train", "train"), ("test", "validation"))
        }


def _from_tfds(builder, split, size, start):
    import tensorflow_datasets as tfds

    def pictures():
        # Without shuffling, the files are read one after another: the order is the same every time.
        for number, example in enumerate(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))):
            if example["image"].shape != (size, size, 3):
                raise UserError(
                    f"image {number} of {builder.data_path} is {example['image'].shape}, not {size} x {size}"
                )
            if number >= start:
                yield example["image"]

    with _errors_of_tfds(builder.data_path):
        yield from converted.in_chunks(pictures(), (size, size, 3))


@contextlib.contextmanager
def _errors_of_tfds(folder):
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of many types: files, protocol buffers, TensorFlow
        raise UserError(f"can't read what TensorFlow Datasets prepared in {folder}: {first_line(error)}") from error


_FINDERS = (_tars, _npz, _folders, _tfds)
