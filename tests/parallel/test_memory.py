"""Where memory does not suffice: what errors say, what is known before the work, and the line that tells it."""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from networks import build_shallow, shallow

from pixel_snail import steps
from pixel_snail.distribution import Distribution
from pixel_snail.errors import UserError, options_named_as_flags
from pixel_snail.model import _least_parameters, build_network, specs
from pixel_snail.parallel import devices, memory
from pixel_snail.settings import TrainingSettings
from pixel_snail.trainer import how_to_save_memory

RESOURCE_EXHAUSTED = tf.errors.ResourceExhaustedError
GIB = 2**30


def raised(kind, text):
    return kind(None, None, text) if issubclass(kind, tf.errors.OpError) else kind(text)


@pytest.mark.parametrize(
    "kind, text, asked",
    [
        # TensorFlow, XLA, NumPy and Python, on a CPU whose memory was limited
        (
            RESOURCE_EXHAUSTED,
            "{{function_node __wrapped__Fill}} OOM when allocating tensor with shape[2000000,32,32,3] and type float "
            "on /job:localhost/replica:0/task:0/device:CPU:0 by allocator mklcpu [Op:Fill] name: ",
            4 * 2_000_000 * 32 * 32 * 3,
        ),
        (RESOURCE_EXHAUSTED, "OOM when allocating tensor with shape[] and type double on", 8),
        (RESOURCE_EXHAUSTED, "OOM when allocating tensor with shape[5,3] and type bfloat16 on", 30),
        (RESOURCE_EXHAUSTED, "OOM when allocating tensor with shape[5,3] and type uint8 on", 15),
        (RESOURCE_EXHAUSTED, "Out of memory while trying to allocate 149.01GiB. [Op:__inference_f_30]", 149.01 * GIB),
        (RESOURCE_EXHAUSTED, "Out of memory while trying to allocate 4096 bytes.", 4096),
        (
            RESOURCE_EXHAUSTED,
            "Iterator::Root::Prefetch::Map: MemoryError: Unable to allocate 931. GiB for an array with\nTrace",
            931 * GIB,
        ),
        (
            MemoryError,
            "Unable to allocate 4.47 TiB for an array with shape (2000000, 3) and data type float64",
            4577.28 * GIB,
        ),
        (MemoryError, "", None),
        (MemoryError, "std::bad_alloc", None),
        (tf.errors.InternalError, "Failed to call: std::bad_alloc", None),
        (tf.errors.UnknownError, "MemoryError: Unable to allocate 3.00 MiB for an array", 3 * 2**20),
        # GPUs, as others report them
        (
            tf.errors.InternalError,
            "failed to allocate 15.6GiB (16GiB) from device: CUDA_ERROR_OUT_OF_MEMORY",
            15.6 * GIB,
        ),
        (tf.errors.InternalError, "Failed to create cublas handle: CUBLAS_STATUS_ALLOC_FAILED", None),
    ],
)
def test_running_out_of_memory_is_told_in_a_line_with_how_much_was_asked_for(kind, text, asked):
    error = raised(kind, text)
    assert memory.bytes_asked_for(error) == (None if asked is None else pytest.approx(asked, rel=1e-3))
    with pytest.raises(UserError) as told, memory.shortage_reported(lambda: "do this"):
        raise error
    more = f" when {memory.in_words(round(asked))} more were asked for" if asked else ""
    assert re.sub(r"[\d,.]+ [GM]B", "", str(told.value)) == re.sub(
        r"[\d,.]+ [GM]B", "", f"out of memory{more}: do this"
    )


@pytest.mark.parametrize(
    "kind, text",
    [
        (RESOURCE_EXHAUSTED, "/disk/params.ckpt; No space left on device"),
        (RESOURCE_EXHAUSTED, "Too many open files"),
        (tf.errors.InvalidArgumentError, "Incompatible shapes: [3,4] and [5]"),
        (RESOURCE_EXHAUSTED, "Collective ops is aborted by: OOM when allocating tensor with shape[9] and type float"),
        (ValueError, "the zoom is out of range"),
    ],
)
def test_another_error_stays_as_it_is(kind, text):
    with pytest.raises(kind) as told, memory.shortage_reported("do this"):
        raise raised(kind, text)
    assert not isinstance(told.value, UserError)


def test_what_is_certain_before_is_told_too_and_advice_is_given_once(monkeypatch):
    monkeypatch.setattr(devices, "available_memory", lambda: 3 * 10**9)
    monkeypatch.setattr(devices, "own_memory", lambda: 10**9)
    memory.check(4 * 10**9, "it needs")
    with pytest.raises(UserError) as told, memory.shortage_reported("not this"), memory.shortage_reported("do this"):
        memory.check(4 * 10**9 + 1, "it needs")
    assert str(told.value) == "it needs at least 4.0 GB of memory, and there are 4.0 GB: do this"
    monkeypatch.setattr(devices, "number_of_gpus", lambda: 1)
    memory.check(10**15, "it needs")  # a GPU has memory of its own
    monkeypatch.setattr(devices, "number_of_gpus", lambda: 0)
    monkeypatch.setattr(devices, "available_memory", lambda: None)
    memory.check(10**15, "it needs")  # the system does not tell


@pytest.mark.parametrize("name", sorted(specs))
def test_the_least_number_of_parameters_is_a_lower_bound_and_no_idle_one(name):
    network = shallow(name)(nr_resnet=1, nr_filters=64, nr_logistic_mix=2, resnet_nonlinearity="elu", dropout_p=0.0)
    least = _least_parameters(network, nr_labels=0)
    network.build_for(name, (8, 8, 3), None)
    number = network.count_params()
    assert 0.1 * number < least <= number


def measured_peaks():
    """The peaks in GB that docs/performance.md tells, with flags as train_step takes them, by (F, flags)."""
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    rows = re.findall(r"^\| (\d+) \| 32x32 \| `([^|]*)` \| [\d.]+ s \| ([\d.]+) GB", text, re.M)
    assert len(rows) >= 3
    return [(int(filters), flags, float(peak)) for filters, flags, peak in rows if int(filters) <= 64]


def test_the_least_memory_of_a_step_is_below_every_peak_that_was_measured(monkeypatch):
    monkeypatch.setattr(devices, "number_of_cores", lambda: 2)
    networks = {}
    for filters, flags, peak in [(32, "", 1.63), (64, "", 2.11), *measured_peaks()]:
        settings = {flag.lstrip("-").partition("=")[0]: flag.partition("=")[2] for flag in flags.split()}
        if filters not in networks:
            networks[filters] = build_network("h12_noup_smallkey", (32, 32, 3), nr_filters=filters, nr_resnet=4)
        least = steps.least_memory(
            tf.distribute.get_strategy(),
            networks[filters],
            int(settings.get("batch_size", 8)),
            int(settings.get("grad_accum", 1)),
            bfloat16="bfloat16" in settings,
            recompute="recompute" in settings,
        )
        assert least / 1e9 < peak


def test_the_least_memory_of_a_step_grows_with_all_that_needs_memory(rng):
    strategy = tf.distribute.get_strategy()
    small = build_shallow("h12_noup_smallkey", (8, 8, 3), rng)
    least = steps.least_memory(strategy, small, 8)
    parameters = small.count_params()
    images = 8 * 8 * 8 * 3
    assert least > 20 * parameters + images
    assert steps.least_memory(strategy, small, 10**6) > 192 * 10**6
    assert steps.least_memory(strategy, build_shallow("h12_noup_smallkey", (16, 16, 3), rng), 8) > least
    assert steps.least_memory(strategy, build_shallow("h12_noup_smallkey", (8, 8, 3), rng, nr_filters=8), 8) > least
    assert steps.least_memory(strategy, small, 8, recompute=True) <= least
    assert steps.least_memory(strategy, small, 8, bfloat16=True) <= least


@pytest.mark.parametrize(
    "gpus, flags, advice",
    [
        (0, {}, "--recompute, or else --grad_accum=8"),
        (0, {"grad_accum": 8}, "--recompute, or else --bfloat16"),
        (0, {"recompute": True}, "--grad_accum=8, or else a smaller --nr_filters"),
        (0, {"recompute": True, "grad_accum": 8}, "a smaller --nr_filters"),
        (0, {"bfloat16": True, "batch_size": 1}, "--recompute, or else a smaller --nr_filters"),
        (0, {"batch_size": 10**6}, "a smaller --batch_size, or else --recompute"),
        (1, {}, "--grad_accum=8, or else --recompute"),
        (1, {"grad_accum": 8}, "--recompute, or else --bfloat16"),
        (1, {"grad_accum": 8, "recompute": True}, "--bfloat16, or else a smaller --nr_filters"),
        (1, {"grad_accum": 8, "recompute": True, "bfloat16": True}, "a smaller --nr_filters"),
    ],
)
def test_training_is_advised_to_what_saves_most_with_its_flags_on_its_devices(gpus, flags, advice, monkeypatch):
    monkeypatch.setattr(devices, "number_of_gpus", lambda: gpus)
    monkeypatch.setattr(devices, "available_memory", lambda: 10**9)
    with options_named_as_flags():
        assert how_to_save_memory(TrainingSettings(**flags), (32, 32, 3)) == f"try {advice}"


def test_python_and_the_commands_are_told_by_their_own_names_what_takes_less(rng, monkeypatch):
    model = Distribution(build_shallow("h8_noup_smallkey", (8, 8, 3), rng))
    images = rng.integers(0, 256, [2, 8, 8, 3], np.uint8)
    with pytest.raises(
        UserError, match=r"evaluating 10,000,000,000 images at once needs at least .* GB: lower batch_s"
    ):
        model.log_prob(images, batch_size=10**10, verbose=0)
    with pytest.raises(UserError, match=r"the network's parameters need at least .* GB: lower nr_filters"):
        build_network("h8_noup_smallkey", (8, 8, 3), nr_filters=10**6)
    with options_named_as_flags():
        with pytest.raises(UserError, match=": lower --batch_size"):
            model.log_prob(images, batch_size=10**10, verbose=0)
        with pytest.raises(UserError, match=": lower --nr_filters"):
            build_network("pxpp", (8, 8, 3), nr_filters=10**6)
    monkeypatch.setattr(devices, "available_memory", lambda: 1000)
    with pytest.raises(
        UserError, match=r"computing 8 images at a time, pixel by pixel, .* are free: end other programs"
    ):
        model.sample(1, verbose=0)
    with pytest.raises(UserError, match=r"computing 2 images at a time, pixel by pixel, .* are free: lower batch_size"):
        model.compress(images, batch_size=2, verbose=0)

    def out_of_memory(*_, **__):
        raise raised(RESOURCE_EXHAUSTED, "OOM when allocating tensor with shape[9000,1000,100] and type float on")

    monkeypatch.undo()
    monkeypatch.setattr(model._evaluator, "nats", out_of_memory)
    with pytest.raises(UserError, match=r"^out of memory when 3\.6 GB more were asked for: lower batch_size$"):
        model.bits_per_dim(images, verbose=0)
