"""Data sets of TensorFlow Datasets (TFDS) by name. Their images have one size, or their middle is taken.

A set that TFDS has prepared in --data_dir is used without a connection; otherwise TFDS downloads it. The images are
converted once, so that they may be larger than memory.
"""

import contextlib
import dataclasses
import difflib
import functools
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import absl.logging
import numpy as np

from data import converted, listing
from pixel_snail.commands import progress
from pixel_snail.commands.command_line import height_and_width
from pixel_snail.dataset import EVERY_TENTH, DataSet, Split, every_tenth
from pixel_snail.errors import UserError, first_line
from pixel_snail.storage import pictures

_TEST_SPLITS = ("test", "validation")
_LEVELS = {"binarized_mnist": 2}
"""The numbers of levels of sets that have fewer levels than their type of integers."""
_GOOGLE = "https://storage.googleapis.com/"
"""The address that is tried if TFDS does not say where a set comes from."""
_GET_IT = "connect this machine to the internet, or copy a set prepared by TensorFlow Datasets there"


@dataclasses.dataclass(frozen=True)
class _Kind:
    """The images and labels of a set.

    Args:
        image: the name of the feature that has the images.
        size: the height and width to which images are cropped; None if all have the same size.
        shape: of the resulting images, (H, W, C).
        dtype: uint8 or uint16.
        is_grey: whether colours become grey.
        label: the name of the feature that has the labels; None if there are none.
        class_names: the names of the classes, or None.
    """

    image: str
    size: tuple[int, int] | None
    shape: tuple[int, int, int]
    dtype: np.dtype
    is_grey: bool
    label: str | None
    class_names: tuple[str, ...] | None


def load(
    data_dir: Path,
    name: str,
    image_size: int | str | None = None,
    grey: bool = False,
    cache_dir: Path | str | None = None,
    advice: str = _GET_IT,
) -> DataSet:
    """Loads a set from what TFDS has prepared in data_dir; TFDS prepares it there if it has not.

    The test set is the split `test`, or else `validation`, or else every tenth training image.

    Args:
        name: NAME or NAME:CONFIG, as TFDS calls them.
        image_size: the side of the square in the middle to take, or HxW; None: images must all have the same size.
        grey: whether colours become grey, by ITU-R 601.
        cache_dir: where the conversion goes; see converted.cache_folder.
        advice: what to do if TFDS can't get the set.

    Returns:
        The data set. Its images are of 256 levels if TFDS has them as uint8, of 65,536 if as uint16; see also _LEVELS.

    Raises:
        UserError: there is no such set, it can't be downloaded, or it has no such images.
    """
    progress.say(f"loading {name} with TensorFlow Datasets ...")
    absl.logging.set_verbosity(absl.logging.ERROR)  # else TFDS would warn that a set is not prepared
    listing.check_readable(data_dir / name.partition(":")[0])  # TFDS takes unreadable files for absent
    builder = _found(data_dir, name)
    size = None if image_size is None else height_and_width(image_size)
    kind = _kind(builder, name, size, grey)  # before a download
    if not builder.is_prepared():
        with _errors(f"there is no {name} in {data_dir}, and TensorFlow Datasets can't get it", advice):
            _check_connection(builder)
            builder.download_and_prepare()
    splits = builder.info.splits
    if "train" not in splits:
        raise UserError(f"the set {name} has no split train, but {', '.join(splits) or 'none'}: choose another set")
    test = next((split for split in _TEST_SPLITS if split in splits), None)
    notes = [] if test == "test" else [f"the test set is the split {test}"]
    if test is None:
        notes = [f"the set has no test split: {EVERY_TENTH}"]
        if splits["train"].num_examples < 2:
            raise UserError(f"the set {name} has a single image, but training and testing need one each")
    if size:
        notes.append(f"of each image, the middle is taken: {size[0]} pixels high and {size[1]} wide")
    folder = "_".join(["tfds", *name.split(":"), *([f"{size[0]}x{size[1]}"] if size else []), *["grey"] * grey])
    found = converted.splits(
        converted.cache_folder(data_dir, cache_dir, folder),
        {
            "train": _source(builder, kind, "train", only_tenth=None if test else False),
            "test": _source(builder, kind, test or "train", only_tenth=None if test else True),
        },
    )
    (train, _), (test, _) = found["train"], found["test"]
    class_names = kind.class_names
    if kind.label and min(train.labels.min(), test.labels.min()) < 0:
        notes.append("the labels are left out, because some images have none")
        train, test, class_names = Split(train.images), Split(test.images), None
    return DataSet(
        train,
        test,
        source=str(builder.data_path),
        class_names=class_names,
        notes=tuple(notes),
        levels=_LEVELS.get(name, np.iinfo(kind.dtype).max + 1),
    )


def _found(data_dir, name):
    """TFDS's builder of a set: for what it has prepared in data_dir, of any version, or else for a download."""
    import tensorflow_datasets as tfds  # imported here because the import takes seconds
    from tensorflow_datasets.core import read_only_builder

    full_name = name.replace(":", "/")
    of_files = _errors(f"can't read what TensorFlow Datasets prepared in {data_dir / full_name}", "get it anew")
    with of_files, contextlib.suppress(tfds.core.DatasetNotFoundError):
        return read_only_builder.builder_from_files(full_name, data_dir=data_dir)
    only = name.partition(":")[0]
    names = tfds.list_builders(with_community_datasets=False)
    if only not in names:
        near = difflib.get_close_matches(only, names, n=3, cutoff=0.75)
        raise UserError(
            f"TensorFlow Datasets has no set {only}, and none is prepared in {data_dir}"
            + (f"; did you mean {' or '.join(near)}?" if near else ": see www.tensorflow.org/datasets/catalog")
        )
    configs = list(tfds.builder_cls(only).builder_configs)
    if ":" in name and name.partition(":")[2] not in configs:
        known = f"it has {', '.join(configs[:20])}" if configs else f"leave it out: --data_set=tfds:{only}"
        raise UserError(f"the set {only} of TensorFlow Datasets has no configuration {name.partition(':')[2]}; {known}")
    with _errors(f"TensorFlow Datasets can't load {name}", "install what it needs, or choose another set"):
        return tfds.builder(full_name, data_dir=data_dir)


def _kind(builder, name, size, grey):
    import tensorflow_datasets as tfds

    features = builder.info.features
    features = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    key = "image" if "image" in images else images[0] if len(images) == 1 else None
    if key is None:
        has = f"several kinds of images, {', '.join(images)}" if images else f"no images, but {', '.join(features)}"
        raise UserError(f"the set {name} has {has}: choose another set")
    dtype, shape = np.dtype(features[key].np_dtype), tuple(features[key].shape)
    if dtype not in (np.uint8, np.uint16) or len(shape) != 3 or not shape[2]:
        raise UserError(f"the images of {name} are {dtype} {list(shape)}, not uint8 or uint16 [H, W, C]")
    if size is None and None in shape[:2]:
        raise UserError(
            f"the images of {name} have various sizes: give the size to crop them to, such as --image_size=32"
        )
    if size and any(side and side < least for side, least in zip(shape[:2], size, strict=True)):
        raise UserError(
            f"the images of {name} are {shape[0]} x {shape[1]}, smaller than {size[0]} x {size[1]}: lower --image_size"
        )
    if grey and shape[2] != 1 and (shape[2] != 3 or dtype != np.uint8):
        raise UserError(f"the images of {name} are {dtype} with {shape[2]} channels: --grey is for 8-bit RGB")
    label = "label" if "label" in features else None
    if label is None:
        classes = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
        label = classes[0] if len(classes) == 1 else None
    of_label = features.get(label)
    if of_label is not None and (of_label.shape != () or np.dtype(of_label.np_dtype).kind not in "iu"):
        label, of_label = None, None
    names = tuple(of_label.names) if isinstance(of_label, tfds.features.ClassLabel) else None
    result = (*(size or shape[:2]), 1 if grey else shape[2])
    return _Kind(key, size, result, dtype, grey and shape[2] == 3, label, names)


def _check_connection(builder):
    """Raises OSError within seconds if there is no connection: TFDS would try again and again for minutes."""
    address = next((url for url in builder.url_infos or () if url.startswith(("http://", "https://"))), _GOOGLE)
    with contextlib.suppress(urllib.error.HTTPError):  # it is an answer
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=20).close()


def _source(builder, kind, split, only_tenth):
    """The source of a split; only_tenth: True for every tenth image, False for the others, None for all."""
    number = builder.info.splits[split].num_examples
    is_chosen = np.full(number, True) if only_tenth is None else every_tenth(number) == only_tenth
    return converted.Source(
        identity={
            "source": f"{builder.data_path}, {split}",
            "prepared": converted.file_identity(Path(builder.data_path) / "dataset_info.json"),
            "features": [kind.image, kind.label],
            "only_tenth": only_tenth,
        },
        image_shape=kind.shape,
        total=np.count_nonzero(is_chosen),
        chunks=functools.partial(_chunks, builder, kind, split, is_chosen),
        dtype=kind.dtype,
    )


def _chunks(builder, kind, split, is_chosen, start) -> Iterator[converted.Chunk]:
    import tensorflow_datasets as tfds

    def examples():
        # Without shuffling, the order is the same every time.
        for number, example in enumerate(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))):
            if is_chosen[number]:
                yield number, example

    rows = converted.rows_per_chunk(kind.shape)
    with _errors(f"can't read what TensorFlow Datasets prepared in {builder.data_path}", "get it anew"):
        images, labels = [], []
        for place, (number, example) in enumerate(examples()):
            if place < start:
                continue
            images.append(_image(example[kind.image], kind, f"image {number} of {builder.data_path}, {split},"))
            if kind.label:
                labels.append(example[kind.label])
            if len(images) == rows:
                yield _chunk(images, labels)
                images, labels = [], []
        if images:
            yield _chunk(images, labels)


def _chunk(images, labels):
    return converted.Chunk(np.stack(images), np.array(labels) if labels else None)


def _image(image, kind, name):
    height, width, _ = kind.shape
    if kind.size:
        if image.shape[0] < height or image.shape[1] < width:
            raise UserError(
                f"{name} is {image.shape[0]} x {image.shape[1]}, smaller than {height} x {width}: lower --image_size"
            )
        image = pictures.middle(image, height, width)
    if kind.is_grey:
        image = pictures.grey(image)
    if image.shape != kind.shape:
        raise UserError(f"{name} has the shape {list(image.shape)}, not {list(kind.shape)}")
    return image


@contextlib.contextmanager
def _errors(what, advice):
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of many types: network, files, protocol buffers, missing packages
        raise UserError(f"{what} ({first_line(error)}): {advice}") from error
