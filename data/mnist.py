"""MNIST (LeCun, Cortes and Burges 1998) and Fashion-MNIST (Xiao et al. 2017): grey images of 28 x 28, in ten classes.

Both have 60,000 training and 10,000 test images, in four IDX files of the same names.
"""

import dataclasses
from pathlib import Path

import numpy as np

from data import idx, listing, tfds_sets
from pixel_snail.dataset import DataSet, Split
from pixel_snail.errors import UserError

PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
MD5 = {
    # of the uncompressed files, in the order of PARTS
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion_mnist": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}


def load(data_dir: Path, name: str, cache_dir: Path | str | None = None) -> DataSet:
    """Loads the four IDX files in data_dir or in its folder of the set's name; without them, TFDS downloads the set.

    The files may be compressed by gzip, and their names may have a dot: train-images.idx3-ubyte. Of a file and its
    compressed form, the file is read. The set counts as the published one by the md5 of the uncompressed files.

    Args:
        name: `mnist` or `fashion_mnist`.
        cache_dir: where the conversion of images from TFDS goes; see converted.cache_folder. The four files need none.

    Returns:
        The data set, uint8 [N, 28, 28, 1], with labels. It is unverified if it does not count as the published one.

    Raises:
        UserError: files are missing or broken, they are those of the other set, or there are none and the download
            fails.
    """
    if listing.is_file(data_dir):
        raise UserError(f"{data_dir} is a file: give --data_dir the folder that has the four files of {name}")
    found = {root: _files(root) for root in (data_dir / name, data_dir)}
    root, paths = max(found.items(), key=lambda item: len(item[1]))
    if not paths:
        return _from_tfds(data_dir, name, cache_dir)
    if missing := [f"{_names(part)[0]} or {_names(part)[0]}.gz" for part in PARTS if part not in paths]:
        raise UserError(f"{root} lacks {' and '.join(missing)}: put all four files of {name} there")
    arrays, md5 = zip(*(idx.read(paths[part], 3 if "images" in part else 1) for part in PARTS), strict=True)
    for other, of_other in MD5.items():
        if other != name and (md5[0] == of_other[0] or md5[2] == of_other[2]):
            raise UserError(f"the files in {root} are those of another set: --data_set={other}")
    changed = [paths[part].name for part, ours, theirs in zip(PARTS, md5, MD5[name], strict=True) if ours != theirs]
    return DataSet(
        _split(arrays[0], arrays[1], paths["train-images"], paths["train-labels"]),
        _split(arrays[2], arrays[3], paths["t10k-images"], paths["t10k-labels"]),
        source=str(root),
        unverified=f"by their md5, {', '.join(changed)} in {root} are not the published files" if changed else None,
        class_names=CLASSES[name],
    )


def _names(part):
    """The names of a part's file, without .gz."""
    kind = "idx3-ubyte" if "images" in part else "idx1-ubyte"
    return f"{part}-{kind}", f"{part}.{kind}"


def _files(root):
    """The files of those parts that are in a folder."""
    found = {}
    for part in PARTS:
        names = [f"{name}{ending}" for ending in ("", ".gz") for name in _names(part)]
        if path := next(filter(listing.is_file, (root / name for name in names)), None):
            found[part] = path
    return found


def _split(images, labels, images_path, labels_path):
    if len(images) != len(labels):
        raise UserError(
            f"{images_path} has {len(images):,} images, but {labels_path} {len(labels):,} labels: get both files anew"
        )
    if labels.max() > 9:
        i = int(np.argmax(labels > 9))
        raise UserError(f"{labels_path}: image {i} has the label {labels[i]}, not one from 0 to 9")
    return Split(images[..., None], labels)


def _from_tfds(data_dir, name, cache_dir):
    put_there = f"put there {', '.join(f'{_names(part)[0]}.gz' for part in PARTS)}"
    data_set = tfds_sets.load(data_dir, name, cache_dir=cache_dir, advice=put_there)
    return dataclasses.replace(
        data_set,
        class_names=CLASSES[name],
        unverified="TensorFlow Datasets keeps the images in another order: only the published files can be verified",
    )
