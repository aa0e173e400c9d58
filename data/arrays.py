"""Arrays of your own: images of any size, channels and levels in an .npz file, or in .npy files of a folder.

The .npy files may be larger than memory: batches are read from them when they are needed. An .npz file is read into
memory.
"""

import functools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data import listing, untrusted
from data.converted import MappedImages
from pixel_snail.dataset import EVERY_TENTH, DataSet, Split, every_tenth
from pixel_snail.errors import UserError, counted
from pixel_snail.inputs.images import scaling
from pixel_snail.inputs.labels import one_for_each
from pixel_snail.likelihoods.levels import MOST_LEVELS, dtype_of
from pixel_snail.storage import values
from pixel_snail.storage.pictures import npy_header, readable

IMAGES = {"train": ("train", "x_train", "train_images"), "test": ("test", "x_test", "test_images")}
LABELS = {"train": ("train_labels", "y_train"), "test": ("test_labels", "y_test")}
CONDITIONS = {"train": ("train_condition",), "test": ("test_condition",)}
"""The names of the arrays of each split."""


class _Array(NamedTuple):
    """An array in a file: its name in messages, its shape and type, and the function that reads it or maps it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    open: Callable[[tuple[int, ...]], np.ndarray]


class _Rows:
    """Rows of an array, read as values of a given type, whatever the array's type. It is indexed like an array.

    Args:
        array: indexed like an array.
        dtype: the type of the values.
        rows: the numbers of the rows to take, in order; None: all.
        levels: if the values are known to be from 0 to levels - 1, their number.
    """

    def __init__(self, array, dtype, rows=None, levels=None):
        self._array, self._rows, self.levels = array, rows, levels
        self.dtype = np.dtype(dtype)
        self.shape = (len(array) if rows is None else len(rows), *array.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        return np.asarray(self._array[index if self._rows is None else self._rows[index]]).astype(self.dtype)


def load(data_dir: Path, levels: int | None = None) -> DataSet:
    """Loads images, arrays [N, H, W, C] or [N, H, W], and their labels [N] and conditions [N, ...].

    Their names are those in IMAGES, LABELS and CONDITIONS. Images and labels may be of any type of integers, images
    also booleans; for conditions, see inputs/conditions.py. Without a test array, every tenth image becomes the test
    set.

    Args:
        data_dir: an .npz file, or a folder of .npy files.
        levels: the number of levels. None: one more than the largest value, if that is 1, 3, 7, 15, ... or 65,535. If
            it is below 256, but the arrays are uint8 and their largest value is 255, the result has 256 levels: these
            are images of 8 bits, to be reduced.

    Returns:
        The data set, without a training split if there is only a test array. Its images are uint8 up to 256 levels,
        else uint16.

    Raises:
        UserError: there are no arrays of these names; they are broken, or have another form; their values are outside
            of the levels, or do not show how many there are.
    """
    arrays = _of_npz(data_dir) if listing.is_file(data_dir) else _of_folder(data_dir)
    images = {split: _chosen(data_dir, arrays, names) for split, names in IMAGES.items()}
    labels = {split: _chosen(data_dir, arrays, names) for split, names in LABELS.items()}
    conditions = {split: _chosen(data_dir, arrays, names) for split, names in CONDITIONS.items()}
    _check_names(data_dir, arrays)
    if not any(images.values()):
        has = f" (it has {', '.join(sorted(arrays)[:9])})" if arrays else ""
        if not arrays and (files := [path for path in listing.inside(data_dir) if path.suffix == ".npz"]):
            has = f"; to use an .npz file, give its path: --data_dir={files[0]}"
        raise UserError(f"{data_dir} has no array called train, x_train or train_images, nor one for the test{has}")
    for what, of_splits in (("labels", labels), ("conditions", conditions)):
        for split, array in of_splits.items():
            if array is not None and images[split] is None:
                raise UserError(f"{array.name} has {what}, but there are no {split} images: add an array {split}")
    opened = {split: _opened_images(array, levels or 256) for split, array in images.items() if array is not None}
    numbers = {split: _opened_labels(labels[split], len(opened[split])) for split in opened}
    given = {split: _opened_condition(conditions[split], len(opened[split])) for split in opened}
    _check_both({split: images[split].name for split in opened}, opened, numbers, given)
    levels, notes = _levels({split: (images[split].name, array) for split, array in opened.items()}, levels)
    if "test" in opened:
        chosen = dict.fromkeys(opened)
    else:
        chosen, opened = _every_tenth(opened["train"], images["train"].name), dict.fromkeys(IMAGES, opened["train"])
        numbers, given = (dict.fromkeys(IMAGES, of_splits["train"]) for of_splits in (numbers, given))
        notes.append(f"there is no test array: {EVERY_TENTH}")
    splits = {}
    for split, rows in chosen.items():
        of_labels, condition = numbers[split], given[split]
        splits[split] = Split(
            _Rows(opened[split], dtype_of(levels), rows, levels),
            of_labels if of_labels is None or rows is None else of_labels[rows],
            condition=None if condition is None else _Rows(condition, condition.dtype, rows),
        )
    notes += [f"{array.name}: each image has a condition" for array in conditions.values() if array is not None]
    known = {name for names in (IMAGES, LABELS, CONDITIONS) for of_split in names.values() for name in of_split}
    if unused := sorted(arrays.keys() - known):
        notes.append(f"not used: {', '.join(unused[:9])} in {data_dir}")
    return DataSet(splits.get("train"), splits["test"], source=str(data_dir), notes=tuple(notes), levels=levels)


def _of_npz(path):
    """The arrays in an .npz file by name; each as a function that returns an _Array."""

    def array(name):
        shape, dtype = untrusted.npz_header(path, name)
        return _Array(f"{name} in {path}", shape, dtype, lambda shape: untrusted.npz_array(path, name).reshape(shape))

    if path.suffix == ".npy":
        raise UserError(f"{path} is a single array: give --data_dir the folder that has train.npy and test.npy")
    return {name: functools.partial(array, name) for name in untrusted.npz_names(path)}


def _of_folder(folder):
    """The arrays in the .npy files of a folder, as _of_npz."""

    def array(path):
        with readable(path), open(path, "rb") as file:
            try:
                shape, dtype, order = npy_header(file)
            except Exception as error:  # a broken header may make NumPy raise almost anything
                raise UserError(f"{path} is not an array that can be read: {error}") from error
            begin, end = file.tell(), file.seek(0, os.SEEK_END)
        size = math.prod(shape) * dtype.itemsize
        if order == "F":
            raise UserError(f"{path} is in Fortran's order: save it again, with numpy.ascontiguousarray")
        if end - begin != size:
            raise UserError(
                f"{path} is broken: it has {end - begin:,} bytes for its array {dtype} {list(shape)}, which takes "
                f"{size:,}; get it anew"
            )
        return _Array(str(path), shape, dtype, lambda shape: MappedImages(path, shape, dtype, begin))

    if not listing.is_folder(folder):
        raise UserError(
            f"there is no file or folder {folder}: --data_dir names the .npz file, or the folder of .npy files"
        )
    return {path.stem: functools.partial(array, path) for path in listing.inside(folder) if path.suffix == ".npy"}


def _check_names(data_dir, arrays):
    """Raises UserError if an array seems to have conditions, but has another name than they need."""
    known = [name for names in CONDITIONS.values() for name in names]
    for name in sorted(arrays):
        if re.search(r"(^|_)cond(ition)?s?(_|$)", name.lower()) and name not in known:
            raise UserError(
                f"{data_dir} has an array {name}: conditions are called {' and '.join(known)}; rename it, or remove it"
            )


def _chosen(data_dir, arrays, names):
    """The array that has one of the names; None if there is none."""
    there = [name for name in names if name in arrays]
    if len(there) > 1:
        raise UserError(f"{data_dir} has both {' and '.join(there)}: leave one of them out")
    return arrays[there[0]]() if there else None


def _opened_images(array, levels):
    shape = array.shape
    if array.dtype.kind == "f":
        raise UserError(f"{array.name} has {_floats(array, levels)}")
    if array.dtype.kind not in "iub":
        raise UserError(f"{array.name} is of the type {array.dtype}, not of integers")
    if len(shape) not in (3, 4) or not math.prod(shape):
        raise UserError(f"{array.name} has the shape {list(shape)}, not [N, H, W, C], or [N, H, W] for one channel")
    return array.open(shape if len(shape) == 4 else (*shape, 1))


def _floats(array, levels):
    """What floating-point values an array has, and how they become values from 0 to levels - 1, in words."""
    kind, do = f"{array.dtype} values", f"save integers from 0 to {levels - 1}"
    low, high = math.inf, -math.inf
    if array.dtype.itemsize and array.shape and math.prod(array.shape):
        for start, chunk in values.chunks(array.open(array.shape)):
            if where := values.first_nan(chunk, start):
                return f"{kind} ({where}): {do}"
            low, high = min(low, chunk.min()), max(high, chunk.max())
        kind += f" from {low:g} to {high:g}"
    if found := scaling(low, high, levels):
        given, formula = found
        do += f"; if {given}, save np.{dtype_of(levels).__name__}({formula})"
    return f"{kind}: {do}"


def _opened_labels(array, number):
    if array is None:
        return None
    if array.shape != (number,) or array.dtype.kind not in "iu":
        do = one_for_each(array.shape, number)
        if array.shape == (number,) and array.dtype.kind == "f":
            do = "labels.astype(int)"
        raise UserError(
            f"{array.name} is {array.dtype} {list(array.shape)}: give {counted(number, 'label')}, integers"
            f"{f', as {do} does' if do else ''}; or, if no classes are wanted, remove the array"
        )
    return np.array(array.open(array.shape)[:])


def _opened_condition(array, number):
    if array is None:
        return None
    if array.dtype.kind not in "fiu" or array.shape[:1] != (number,):
        raise UserError(
            f"{array.name} is {array.dtype} {list(array.shape)}: give {counted(number, 'condition')}, floating-point "
            "numbers [N, D] or [N, h, w, D], or integers [N, h, w]"
        )
    one_channel = array.dtype.kind in "iu" and len(array.shape) == 4 and array.shape[-1] == 1  # as codes are drawn
    return array.open(array.shape[:-1] if one_channel else array.shape)


def _check_both(names, images, labels, conditions):
    """Raises UserError unless both splits have images of one shape, and both or none have labels or conditions."""
    if len(names) < 2:
        return
    train, test = (images[split].shape[1:] for split in ("train", "test"))
    if train != test:
        shapes = f"{names['train']} has images {list(train)}, {names['test']} has images {list(test)}"
        raise UserError(f"{shapes}: both need the same shape")
    lacking = [split for split in names if labels[split] is None]
    if len(lacking) == 1:
        raise UserError(
            f"{names[lacking[0]]} has no labels, the other images have: add {' or '.join(LABELS[lacking[0]])}, or "
            "remove the other labels"
        )
    lacking = [split for split in names if conditions[split] is None]
    if len(lacking) == 1:
        raise UserError(
            f"{names[lacking[0]]} has no conditions, the other images have: add {CONDITIONS[lacking[0]][0]}, or remove "
            "the other conditions"
        )


def _levels(images: dict[str, tuple[str, np.ndarray]], given) -> tuple[int, list[str]]:
    """The number of levels of the splits' images, and notes about it.

    Args:
        images: of each split, the array's name in messages and the array.
        given: the number of levels that the user has given, or None.
    """
    kinds = [array.dtype for _, array in images.values()]
    if given and all(values.is_within(kind, given) for kind in kinds):
        return given, []
    largest = 0
    for name, array in images.values():
        for start, chunk in values.chunks(array):
            if chunk.min() < 0:
                i = int(np.argmax((chunk < 0).any((1, 2, 3))))
                raise UserError(f"{name}: image {start + i} has the value {chunk[i].min()}: values must be 0 or more")
            largest = max(largest, int(chunk.max()))
    if given:
        if largest == 255 and given < 256 and all(kind == np.uint8 for kind in kinds):
            return 256, []
        for name, array in images.values():
            if largest >= given and (found := values.first_outside(array, given)):
                eight = f"np.uint8(np.uint16(images) * {given} // 256)" if given > 2 else "np.uint8(images > 127)"
                mend = f"; if these are 8-bit images, save {eight}" if given < 256 and largest < 256 else ""
                raise UserError(
                    f"{name}: {found[1]}, but --levels={given} allows only values from 0 to {given - 1}{mend}"
                )
        if given <= 256 and largest + 1 < given and all(kind == np.uint8 for kind in kinds):
            return given, [
                f"the largest value is {largest}: the values are taken as they are, of {given} levels; if they are "
                f"8-bit images to be reduced, save np.uint8(np.uint16(images) * {given} // 256)"
            ]
        return given, []
    levels = 2 if all(kind.kind == "b" for kind in kinds) else largest + 1
    if levels > MOST_LEVELS:
        raise UserError(
            f"the largest value of {_names(images)} is {largest}: there may be at most {MOST_LEVELS:,} levels"
        )
    if levels < 2 or levels & (levels - 1):
        likely = (256, "8-bit images") if largest < 256 else (MOST_LEVELS, "16-bit images")
        raise UserError(
            f"the largest value of {_names(images)} is {largest}, which does not decide the number of levels: give "
            f"--levels, such as --levels={likely[0]} for {likely[1]}, or --levels={max(levels, 2)}"
        )
    return levels, [f"values from 0 to {largest}: {levels:,} levels"]


def _names(images: dict[str, tuple[str, np.ndarray]]) -> str:
    return " and ".join(name for name, _ in images.values())


def _every_tenth(images, name):
    """The numbers of the images of both splits, if one array is divided."""
    number = len(images)
    if number == 1:
        raise UserError(f"{name} has only one image, but training and testing need one each: add another")
    is_test = every_tenth(number)
    return {"train": np.flatnonzero(~is_test), "test": np.flatnonzero(is_test)}
