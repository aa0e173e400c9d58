"""What a GPU would run: each operation of a step, an evaluation and a sampling step has a kernel for GPUs.

TensorFlow would run an operation without one on the CPU, unseen, between two copies. Its package for Linux knows the
kernels of GPUs on machines without one. The graphs are those that a machine with a GPU would get.
"""

import collections
import functools

import numpy as np
import pytest
import tensorflow as tf
from networks import build_shallow
from tensorflow.python.framework import kernels, op_def_registry

from pixel_snail import sampling, steps
from pixel_snail.kernels import xla
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.parallel import devices
from pixel_snail.weights import normalised_weights

EVERY_FLAG = {"bfloat16": True, "recompute": True, "grad_accum": 2}
NETWORKS = {
    "h8_noup_smallkey_ar_chs": {},
    "h6_noup_124mix_halfattn": EVERY_FLAG,
    "h6_shift": {},
    "model": EVERY_FLAG,
    "pxpp": EVERY_FLAG,
}
"""One of each wiring, and the settings of its training step: outputs by channel, attention of every kind, shifts, two
streams, PixelCNN++."""

FLOATS = {tf.float32, tf.bfloat16, tf.float64, tf.uint8, tf.uint16}
"""The types of feature maps, weights and random words."""

CALLS = {"If", "StatelessIf", "While", "StatelessWhile", "PartitionedCall", "StatefulPartitionedCall"}

pytestmark = pytest.mark.skipif(not tf.test.is_built_with_cuda(), reason="this TensorFlow knows no kernels of GPUs")


@pytest.fixture(autouse=True)
def as_with_a_gpu(monkeypatch):
    monkeypatch.setattr(devices, "number_of_gpus", lambda: 1)
    tf.function(lambda x: x + 1, jit_compile=True)(tf.ones([1]))  # TensorFlow registers XLA's kernels at the first use


@functools.cache
def registered(op, kinds):
    found = [kernel for kernel in kernels.get_registered_kernels_for_op(op).kernel if not kernel.label]
    return sorted((kernel for kernel in found if kernel.device_type in kinds), key=lambda k: k.device_type == "DEFAULT")


def kernel_for(node, kinds):
    """The kernel that takes the node's types; None if there is none."""

    def fits(constraint):
        value = node.attr[constraint.name]
        types = value.list.type if value.HasField("list") else [value.type]
        return set(types) <= set(constraint.allowed_values.list.type)

    return next((kernel for kernel in registered(node.op, kinds) if all(map(fits, kernel.constraint))), None)


def functions_called(node):
    for value in node.attr.values():
        yield from ([value.func.name] if value.HasField("func") else [function.name for function in value.list.func])


def graphs(concrete, by_xla=False):
    """The graph of a function and those of the functions that it calls: name -> (nodes, whether XLA compiles them)."""
    definition = concrete.graph.as_graph_def()
    library = {function.signature.name: function for function in definition.library.function}
    by_xla = by_xla or concrete.function_def.attr["_XlaMustCompile"].b
    found, waiting = {}, [("the graph itself", definition.node, by_xla)]
    while waiting:
        name, nodes, is_compiled = waiting.pop()
        if name in found:
            continue
        found[name] = nodes, is_compiled
        for function in (library[called] for node in nodes for called in functions_called(node)):
            compiled = is_compiled or function.attr["_XlaMustCompile"].b
            waiting.append((function.signature.name, function.node_def, compiled))
    return found


def without_gpu_kernel(concrete, by_xla=False):
    """The operations without a kernel for GPUs, with their types."""
    lacking = collections.Counter()
    for nodes, is_compiled in graphs(concrete, by_xla).values():
        kinds = ("XLA_GPU_JIT",) if is_compiled else ("GPU", "DEFAULT")
        for node in nodes:
            if node.op not in ("Placeholder", "NoOp", "Const") and kernel_for(node, kinds) is None:
                types = {tf.as_dtype(value.type).name for value in node.attr.values() if value.HasField("type")}
                lacking[node.op, *sorted(types)] += 1
    return lacking


def ends(arguments, node, of_kernel):
    """The type of each input or output of a node, and whether it is in the host's memory."""
    for argument in arguments:
        types = list(node.attr[argument.type_list_attr].list.type) if argument.type_list_attr else None
        if types is None:
            number = node.attr[argument.number_attr].i if argument.number_attr else 1
            types = [argument.type or node.attr[argument.type_attr].type] * number
        for i, type_ in enumerate(types):
            # Functions take integers of 32 bits in the host's memory.
            on_host = type_ == tf.int32.as_datatype_enum if node.op in CALLS else argument.name in of_kernel
            yield argument.name, i, tf.as_dtype(type_), on_host


def floats_copied_to_the_host(concrete):
    """Which operations read, in the host's memory, floats that another operation has computed on the GPU."""
    copied = collections.Counter()
    for nodes, is_compiled in graphs(concrete).values():
        if is_compiled:  # one kernel to TensorFlow
            continue
        on_gpu = {}
        described = [
            (node, op_def_registry.get(node.op), kernel.host_memory_arg)
            for node in nodes
            if (kernel := kernel_for(node, ("GPU", "DEFAULT")))
        ]
        for node, definition, host in described:
            # Constants are copied once, when the graph is prepared.
            for i, (name, of_name, _, on_host) in enumerate(ends(definition.output_arg, node, host)):
                keys = {f"{node.name}:{name}:{of_name}", f"{node.name}:{i}", node.name if i == 0 else None}
                on_gpu |= dict.fromkeys(keys, not on_host and node.op not in ("Const", "Placeholder"))
        for node, definition, host in described:
            inputs = [name for name in node.input if not name.startswith("^")]
            for name, (_, _, dtype, on_host) in zip(inputs, ends(definition.input_arg, node, host), strict=True):
                if on_host and dtype in FLOATS and on_gpu.get(name):
                    copied[node.op] += 1
    return copied


class Traced(Exception):
    """Raised instead of running a function whose graph is all that a test needs."""


def functions_of_drawing(network, monkeypatch):
    """The graphs of the function that draws a row, which XLA compiles by default, and of the one before each row."""
    concrete = {}

    def traced_only(python_function, **settings):
        function = tf_function(python_function, autograph=False)

        def trace(*arguments):
            concrete[python_function.__name__] = function.get_concrete_function(*arguments)
            if len(concrete) == 2:
                raise Traced

        trace.experimental_get_tracing_count = lambda: 0
        return trace

    tf_function = tf.function
    with monkeypatch.context() as patch:
        patch.setattr(tf, "function", lambda f=None, **named: traced_only(f) if f else traced_only)
        draw = sampling.batch_drawer(network, 2)
    with pytest.raises(Traced):
        weights = normalised_weights(network, network.trainable_variables)
        draw(weights, *sampling.uniforms(0, 0, 2, (8, 8, 3), 2))
    return concrete["row"], concrete["advance"]


@pytest.mark.parametrize("name, settings", NETWORKS.items(), ids=NETWORKS)
def test_every_operation_of_training_evaluating_and_drawing_has_a_kernel_for_gpus(name, settings, rng, monkeypatch):
    network = build_shallow(name, (8, 8, 3), rng, dropout_p=0.5)
    batch = {"images": tf.constant(rng.integers(0, 256, [4, 8, 8, 3], np.uint8))}
    optimizer = PolyakAdam()
    optimizer.build(network.trainable_variables)
    strategy = tf.distribute.get_strategy()
    if settings:  # XLA compiles every function that it compiles for large maps
        monkeypatch.setattr(xla, "SMALL", 0)
    step = steps.train_step(strategy, network, optimizer, 0, **settings).get_concrete_function(batch)
    assert any(is_compiled for _, is_compiled in graphs(step).values()) == bool(settings)
    evaluator = steps.Evaluator(strategy, network)
    evaluation = evaluator.nats.get_concrete_function(batch, evaluator.prepared(network.weights))
    row, advance = functions_of_drawing(network, monkeypatch)
    assert not without_gpu_kernel(row, by_xla=True)
    for concrete in (step, evaluation, row, advance):
        assert not without_gpu_kernel(concrete)
        assert not floats_copied_to_the_host(concrete)


def test_an_operation_without_a_kernel_and_a_copy_would_be_found():
    @tf.function
    def inner(x):
        return tf.raw_ops.Dequantize(input=tf.cast(x, tf.quint8), min_range=0.0, max_range=1.0)

    @tf.function
    def outer(x):
        return inner(tf.range(tf.reduce_sum(x)))

    concrete = outer.get_concrete_function(tf.ones([3]))
    assert ("Dequantize", "float32", "quint8") in without_gpu_kernel(concrete)
    assert floats_copied_to_the_host(concrete) == {"Range": 3}
    compiled = tf.function(tf.strings.as_string, jit_compile=True).get_concrete_function(tf.ones([3]))
    assert ("AsString", "float32") in without_gpu_kernel(compiled)
