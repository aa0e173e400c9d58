"""What decides how sums are rounded is recorded; a change of the drawing's sums has to change its number."""

import dataclasses
import functools
import hashlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import add_spec

import pixel_snail
from benchmarks.counted_training import ONE_BLOCK
from pixel_snail.codec import archive, container, rounding
from pixel_snail.codec.coder import ImageCoder
from pixel_snail.errors import UserError
from pixel_snail.likelihoods import logistic_mixture
from pixel_snail.model import specs

DRAWING = 3
NETWORKS = {
    # a specification, and a checksum of what its network computes where rounding.DRAWING is DRAWING
    "attention of whole pixels and of cells, an output for each channel": (
        functools.partial(specs["h8_noup_smallkey_ar_chs"], attn_rep=2, hier=(1, 2)),
        "a7fa27524f0d0522",
    ),
    "maps of several sizes": (specs["pxpp"], "e4305063de83800b"),
}
"""They have every kind of block."""


def described(value):
    """An attribute of an operation as text, with short numbers: processors may round constants differently."""
    if not value.HasField("tensor"):
        return str(value)
    array = tf.make_ndarray(value.tensor)
    numbers = [f"{number:.4g}" if array.dtype.kind == "f" else str(number) for number in array.ravel()]
    return f"{array.dtype} {array.shape} {' '.join(numbers)}"


def operations(nodes, arguments, functions):
    """One line for each operation: its kind, the numbers of those that give its inputs, and its attributes."""
    numbers = {name: str(number) for number, name in enumerate([*arguments, *(node.name for node in nodes)])}
    for node in nodes:
        inputs = [name.lstrip("^").partition(":") for name in node.input]
        yield f"{node.op} {' '.join(numbers[name] + ''.join(rest) for name, *rest in inputs)}"
        for name, value in sorted(node.attr.items()):
            if value.HasField("func"):
                yield f"{name}:"
                called = functions[value.func.name]
                yield from operations(called.node_def, [a.name for a in called.signature.input_arg], functions)
            elif not name.startswith("_") or name == "_output_shapes":
                yield f"{name}: {described(value)}"


class RecordedError(Exception):
    """Ends the coding of an image once the function of its first row is recorded."""


def drawing_of(spec, monkeypatch):
    """A checksum of the operations with which a network codes the first row of an image, and of what they get.

    Not of their results: other processors round these differently. In the first row, maps of every size have a row.
    """
    digest, function = hashlib.sha256(), tf.function

    def recorded(python_function=None, **settings):
        if python_function is None:
            return functools.partial(recorded, **settings)
        traced = function(python_function, autograph=False)

        def call(*arguments):
            graph = traced.get_concrete_function(*arguments).graph.as_graph_def(add_shapes=True)
            functions = {called.signature.name: called for called in graph.library.function}
            for line in operations(graph.node, [], functions):
                digest.update(line.encode())
            for tensor in filter(tf.is_tensor, tf.nest.flatten(arguments)):
                digest.update(tensor.numpy().tobytes())
            if "jit_compile" in settings:
                raise RecordedError

        return call

    network = spec(nr_resnet=1, nr_filters=4, nr_logistic_mix=2).build_for("a network", (4, 4, 3), None)
    rng = np.random.default_rng(0)
    for variable in network.weights:
        variable.assign(rng.integers(-99, 100, variable.shape) / np.float32(128))
    monkeypatch.setattr(tf, "function", recorded)
    with pytest.raises(RecordedError):
        ImageCoder(network, batch=2).encode(archive._weights(network), np.zeros([2, 4, 4, 3], np.uint8))
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", NETWORKS)
def test_what_drawing_computes_has_not_changed_without_its_number(name, monkeypatch):
    spec, expected = NETWORKS[name]
    found = drawing_of(spec, monkeypatch)
    assert (rounding.DRAWING, found) == (DRAWING, expected), (
        f"coding an image takes other operations than before, or other weights (checksum {found}). Files that were "
        "compressed before may not be readable any more. If every sum is still the same bit by bit, and "
        "tests/test_earlier_files.py passes, put the new checksum into NETWORKS. Otherwise raise rounding.DRAWING, "
        "DRAWING here and pixel_snail.__version__, and write the compressed files in tests/earlier anew."
    )


def test_a_changed_sum_changes_the_checksum(monkeypatch):
    spec, expected = next(iter(NETWORKS.values()))
    below = logistic_mixture.probabilities_below
    monkeypatch.setattr(logistic_mixture, "probabilities_below", lambda *arguments: 1 * below(*arguments))
    assert drawing_of(spec, monkeypatch) != expected


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        add_spec(patch, "h1", ONE_BLOCK)
        model = pixel_snail.build("h1", image_shape=(4, 4, 3), nr_filters=4, nr_resnet=1, nr_logistic_mix=2)
        model.initialise(np.zeros([2, 4, 4, 3], np.uint8))
        yield model


def test_a_file_of_a_version_that_draws_differently_names_the_version(model, uncompiled_drawing, monkeypatch):
    images = np.zeros([1, 4, 4, 3], np.uint8)
    file = model.compress(images, verbose=0)
    header, groups = container.read(file)
    assert (header.machine["pixel_snail"], header.machine["drawing"]) == (pixel_snail.__version__, rounding.DRAWING)
    unrecorded = {name: value for name, value in header.machine.items() if name not in ("pixel_snail", "drawing")}
    of_before = container.write(dataclasses.replace(header, machine=unrecorded), groups)
    of_another_version = container.write(
        dataclasses.replace(header, machine=header.machine | {"pixel_snail": "9"}), groups
    )
    for read in (file, of_another_version):
        np.testing.assert_array_equal(model.decompress(read, verbose=0), images)
    monkeypatch.setattr(rounding, "DRAWING", rounding.DRAWING + 1)
    monkeypatch.setattr(pixel_snail, "__version__", "3.0")
    for written, version in ((file, header.machine["pixel_snail"]), (of_before, "2.0"), (of_another_version, "9")):
        with pytest.raises(UserError) as error:
            model.decompress(written, verbose=0)
        assert str(error.value) == (
            f"the file was written by version {version} of this program, whose drawing rounds differently from that of "
            f"this version, 3.0: decompress it with version {version}"
        )
