"""What a machine computes with, as far as it decides how sums are rounded."""

import importlib.metadata
import os

from pixel_snail.backend import tf
from pixel_snail.parallel import devices

_INSTRUCTIONS = """
    sse4_1 sse4_2 avx avx2 fma f16c avx_vnni avx512f avx512dq avx512bw avx512vl avx512_bf16 avx512_fp16 avx512_vnni
    amx_bf16 amx_int8 amx_tile asimd asimdhp sve sve2 bf16
""".split()
_PACKAGES = ["tensorflow", "keras", "numpy", "constriction"]
_VARIABLES = ["XLA_FLAGS", "TF_XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "NPY_DISABLE_CPU_FEATURES"]


def description() -> dict[str, object]:
    """This machine: its processor and what it can do, threads, versions of packages, settings of these."""
    gpus = sorted({devices.name_of_gpu(gpu) for gpu in tf.config.get_visible_devices("GPU")})
    return {
        "processor": devices.processor().get("model name", os.uname().machine),
        "instructions": [name for name in _INSTRUCTIONS if name in devices.instructions()],
        **({"gpus": gpus, "tf32": tf.config.experimental.tensor_float_32_execution_enabled()} if gpus else {}),
        "cores": devices.number_of_cores(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        **{name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def difference(there: dict[str, object], here: dict[str, object]) -> str:
    """How two machines differ, in words; "" if in nothing that is recorded. The number of cores changes no sum.

    Args:
        there: the description of another machine, which may be anything that JSON can hold.
        here: this machine's.
    """
    told = []
    for name in sorted({*there, *here} - {"cores"}):
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


_MOST_DIFFERENCES = 20
"""As many are told: the description of another machine may be as long as a file's header."""


def in_words(value: object) -> str:
    """A value of a file that anybody may have made, in few words."""
    return "none" if value is None else str(value)[:80]
