"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 x 32 pixels, in ten classes."""

import os
import tempfile
import urllib.request
from pathlib import Path

import absl.logging
import numpy as np

from data import listing, untrusted
from pixel_snail.commands import progress
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError, first_line
from pixel_snail.storage import files

_SITE = "https://www.cs.toronto.edu/~kriz"
URL = f"{_SITE}/cifar-10-binary.tar.gz"
"""The archive that TensorFlow Datasets (TFDS) downloads."""
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_BYTES = 170_498_071
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER = Path("cifar-10-python", "cifar-10-batches-py")
TRAIN_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEST_MD5 = {"test_batch": "40351d587109b95175f43aff81a1287e"}


def load(data_dir: Path) -> DataSet:
    """Loads CIFAR-10 from data_dir. If data_dir has none of its files, TensorFlow Datasets (TFDS) downloads it.

    Looks in this order for: the original's folder of batches; the archive, which is unpacked into that folder; a data
    set prepared by TFDS.

    Raises:
        UserError: the files are broken, or there are none and the download fails.
    """
    folders = [data_dir / FOLDER, data_dir / FOLDER.name]
    archives = [data_dir / ARCHIVE, data_dir / FOLDER.parent / ARCHIVE]
    folder = next(filter(listing.is_folder, folders), None)
    archive = next(filter(listing.is_file, archives), None)
    if folder is None and archive is not None:
        folder = _unpack(archive, data_dir / FOLDER)
    return _from_tfds(data_dir) if folder is None else _from_batches(folder)


def _unpack(archive, folder):
    """Unpacks the archive in a temporary folder and moves the result to `folder`, which is never half written."""
    untrusted.check_checksum(archive, "md5", ARCHIVE_MD5)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"waiting for another process that unpacks {archive} ..."
        with files.locked(folder.parent, when_taken=lambda: progress.say(waiting)):
            if not folder.is_dir():  # another process may have unpacked it meanwhile
                _unpack_aside(archive, folder)
    except OSError as error:
        raise UserError(f"can't unpack {archive} into {folder.parent}: {error.strerror or error}") from error
    return folder


def _unpack_aside(archive, folder):
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking_") as aside:
        untrusted.unpack(archive, Path(aside))
        if not (Path(aside) / folder.name).is_dir():
            raise UserError(f"{archive} has no folder {folder.name}")
        with files.replacing(folder) as whole:
            os.rename(Path(aside) / folder.name, whole)


def _from_batches(folder):
    splits = [_split(folder, batches) for batches in (TRAIN_MD5, TEST_MD5)]
    others = [name for name, md5 in (TRAIN_MD5 | TEST_MD5).items() if untrusted.checksum(folder / name, "md5") != md5]
    unverified = f"by their md5, {', '.join(others)} in {folder} are not the published files" if others else None
    return DataSet(*splits, source=str(folder), unverified=unverified, class_names=CLASSES)


def _split(folder, batches):
    images, labels = zip(*(_batch(folder / name) for name in batches), strict=True)
    return Split(np.concatenate(images), np.concatenate(labels))


def _batch(path):
    content = untrusted.unpickle(path)
    pixels, labels = untrusted.array(content, "data", path), untrusted.array(content, "labels", path)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,) or not len(pixels):
        raise UserError(f"{path} is not a batch of CIFAR-10: its data are {pixels.dtype} {pixels.shape}")
    if labels.dtype.kind not in "iu" or labels.shape != (len(pixels),):
        raise UserError(
            f"{path} is not a batch of CIFAR-10: it has {len(pixels)} images and labels {labels.dtype} {labels.shape}"
        )
    if labels.min() < 0 or labels.max() > 9:
        raise UserError(f"{path} is not a batch of CIFAR-10: it has labels from {labels.min()} to {labels.max()}")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _from_tfds(data_dir):
    listing.check_readable(data_dir / "cifar10")  # TFDS takes unreadable files for absent
    progress.say("loading CIFAR-10 with TensorFlow Datasets ...")
    import tensorflow_datasets as tfds  # imported here because the import takes seconds

    # TFDS would warn that the data set is not prepared, but an error should be a single line.
    absl.logging.set_verbosity(absl.logging.ERROR)

    try:
        builder = tfds.builder("cifar10", data_dir=data_dir)
        if not builder.is_prepared():
            # Without a network, TFDS would try ten times over three minutes; this request fails sooner.
            urllib.request.urlopen(urllib.request.Request(URL, method="HEAD"), timeout=20).close()
            builder.download_and_prepare()
        splits = [_split_of_tfds(builder, name) for name in ("train", "test")]
    except Exception as error:  # of many types: network, files, protocol buffers
        raise UserError(
            f"there is no CIFAR-10 in {data_dir}, and TensorFlow Datasets can't get it ({first_line(error)}): download "
            f"{_SITE}/{ARCHIVE} and put it there ({ARCHIVE_BYTES:,} bytes, md5 {ARCHIVE_MD5})"
        ) from error
    return DataSet(*splits, source=str(builder.data_path), class_names=CLASSES)


def _split_of_tfds(builder, name):
    """A split in the published order: TFDS shuffles the images, but their ids keep the order."""
    import tensorflow_datasets as tfds

    content = tfds.as_numpy(builder.as_dataset(split=name, batch_size=-1))
    order = np.argsort(content["id"])
    return Split(content["image"][order], content["label"][order])
