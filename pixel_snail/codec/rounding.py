"""What decides how sums are rounded: this program's drawing, the processor, versions of packages, settings."""

import importlib.metadata
import os

import pixel_snail
from pixel_snail.backend import tf
from pixel_snail.parallel import devices

DRAWING = 1
"""The number of the way in which drawing and coding round. Raise it, and pixel_snail.__version__, with every change
after which a pixel's prediction differs in any bit: files of before can't be read any more, and readers are told which
version reads them. tests/codec/test_rounding.py fails after a change that may be such a one."""

_UNRECORDED = {"pixel_snail": "2.0", "drawing": 1}
"""What wrote the files that do not record it."""

_PACKAGES = ["tensorflow", "keras", "numpy", "constriction"]
_VARIABLES = ["XLA_FLAGS", "TF_XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "NPY_DISABLE_CPU_FEATURES"]


def description() -> dict[str, object]:
    """This program, and this machine: its processor, cores, the versions of packages and their settings."""
    gpus = sorted({devices.name_of_gpu(gpu) for gpu in tf.config.get_visible_devices("GPU")})
    return {
        "pixel_snail": pixel_snail.__version__,
        "drawing": DRAWING,
        "processor": devices.processor().get("model name", os.uname().machine),
        "instructions": [name for name in devices.INSTRUCTIONS if name in devices.instructions()],
        **({"gpus": gpus, "tf32": tf.config.experimental.tensor_float_32_execution_enabled()} if gpus else {}),
        "cores": devices.number_of_cores(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        **{name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def difference(there: dict[str, object], here: dict[str, object]) -> str:
    """How two machines differ in what may change a sum, in words; "" if in nothing that is recorded.

    Args:
        there: the description of another machine, which may be anything that JSON can hold.
        here: this machine's.
    """
    told = []
    for name in sorted({*there, *here} - {"cores", "pixel_snail", "drawing"}):
        theirs, ours = there.get(name), here.get(name)
        if theirs == ours:
            continue
        if isinstance(theirs, list) and isinstance(ours, list):
            lacking = [item for item in theirs if item not in ours], [item for item in ours if item not in theirs]
            for items, where in zip(lacking, ("there", "here"), strict=True):
                if items:
                    told.append(f"{in_words(name)}: {in_words(' '.join(map(str, items)))} only {where}")
        else:
            told.append(f"{in_words(name)}: {in_words(theirs)} there, {in_words(ours)} here")
    return "; ".join(told[:_MOST_DIFFERENCES])


def other_version(there: dict[str, object]) -> str | None:
    """The version of this program that wrote a file, if its drawing rounds differently from this one's; else None.

    Args:
        there: what wrote the file, as in `difference`.
    """
    there = _UNRECORDED | there
    return None if there["drawing"] == DRAWING else in_words(there["pixel_snail"])


_MOST_DIFFERENCES = 20
"""As many are told: the description of another machine may be as long as a file's header."""


def in_words(value: object) -> str:
    """A value of a file that anybody may have made, in few words."""
    return "none" if value is None else str(value)[:80]
