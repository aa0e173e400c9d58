"""What affects how sums are rounded: this program's drawing, the processor, package versions and settings."""

import importlib.metadata
import os

import pixel_snail
from pixel_snail.backend import tf
from pixel_snail.parallel import devices

DRAWING = 3
"""The version of the arithmetic of drawing and coding. Raise it, and pixel_snail.__version__, with every change that
alters any bit of a pixel's prediction: older compressed files then can't be decoded, and the error names the version
that decodes them. tests/codec/test_rounding.py fails after a change that may alter a bit."""

_UNRECORDED = {"pixel_snail": "2.0", "drawing": 1}
"""The version and the number of drawing of files that do not record them."""

_PACKAGES = ["keras", "numpy", "constriction"]
_VARIABLES = ["XLA_FLAGS", "TF_XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "NPY_DISABLE_CPU_FEATURES"]


def description() -> dict[str, object]:
    """The version of this program, and this machine's processor, cores, package versions and settings, by name."""
    gpus = sorted({devices.name_of_gpu(gpu) for gpu in tf.config.get_visible_devices("GPU")})
    return {
        "pixel_snail": pixel_snail.__version__,
        "drawing": DRAWING,
        "processor": devices.processor().get("model name", os.uname().machine),
        "instructions": [name for name in devices.INSTRUCTIONS if name in devices.instructions()],
        **({"gpus": gpus, "tf32": tf.config.experimental.tensor_float_32_execution_enabled()} if gpus else {}),
        "cores": devices.number_of_cores(),
        "tensorflow": tf.__version__,  # its package may be called tensorflow-cpu
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        **{name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def difference(there: dict[str, object], here: dict[str, object]) -> str:
    """In which recorded properties that may change a sum two machines differ, in words; "" if in none.

    Args:
        there: the description of another machine, as a file records it: any values that JSON can hold.
        here: the description of this machine.
    """
    differences = []
    for name in sorted({*there, *here} - {"cores", "pixel_snail", "drawing"}):
        theirs, ours = there.get(name), here.get(name)
        if theirs == ours:
            continue
        if isinstance(theirs, list) and isinstance(ours, list):
            lacking = [item for item in theirs if item not in ours], [item for item in ours if item not in theirs]
            for items, where in zip(lacking, ("there", "here"), strict=True):
                if items:
                    differences.append(f"{in_words(name)}: {in_words(' '.join(map(str, items)))} only {where}")
        else:
            differences.append(f"{in_words(name)}: {in_words(theirs)} there, {in_words(ours)} here")
    return "; ".join(differences[:_MOST_DIFFERENCES])


def other_version(there: dict[str, object]) -> str | None:
    """The version of this program that wrote a file, if its drawing rounds differently from this one's; else None.

    Args:
        there: the description that the file records, as in `difference`.
    """
    there = _UNRECORDED | there
    return None if there["drawing"] == DRAWING else in_words(there["pixel_snail"])


_MOST_DIFFERENCES = 20
"""The most differences that a message names: a file's header may record thousands of properties."""


def in_words(value: object) -> str:
    """A value from a file, cut to 80 characters: anybody may have made the file."""
    return "none" if value is None else str(value)[:80]
