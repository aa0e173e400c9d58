"""Errors where memory does not suffice: raised before the work where that is certain, else when memory runs out."""

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pixel_snail.backend import tf
from pixel_snail.errors import UserError
from pixel_snail.parallel import devices

MORE_MEMORY = "end other programs, or use a machine with more memory"
"""The advice where no option takes less memory."""

_SHORTAGE = re.compile(
    r"\bOOM\b|out of memory|bad_alloc|can(?:'|no)t allocate memory|(?:unable|failed) to allocate|MemoryError"
    r"|OUT_OF_MEMORY|ALLOC_FAILED",
    re.IGNORECASE,
)
"""Words in the messages of TensorFlow, XLA, CUDA, NumPy and C++ when memory runs out."""

_TENSOR = re.compile(r"tensor with shape ?\[([\d,]*)\] and type (\w+)")  # TensorFlow
_BYTES = re.compile(r"allocat\w* ([\d.]+) ?([KMGTPE]i)?(?:B|bytes)")  # XLA, CUDA and NumPy
_UNITS = {unit: 1024**power for power, unit in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))}
_TYPES = {"float": 4, "double": 8, "half": 2}
"""The bytes of types that TensorFlow calls by C++'s names in its messages."""


class Shortage(UserError):
    """Memory does not suffice. `shortage_reported` adds what to do."""


class OutOfMemory(UserError):
    """Memory does not suffice; the message also advises what to do.

    Attributes:
        what: the shortage, in words.
        advice: what to do, in words.
    """

    def __init__(self, what: str, advice: str):
        super().__init__(f"{what}: {advice}")
        self.what, self.advice = what, advice

    def with_advice(self, advice: str) -> "OutOfMemory":
        """The same error with this advice."""
        return OutOfMemory(self.what, advice)


def check(needed: int, what: str) -> None:
    """Raises Shortage if something certainly needs more memory than this process can have.

    On GPUs, which have memory of their own, nothing is checked.

    Args:
        needed: a lower bound of the bytes that the process will have, including those that it has already.
        what: what needs it, in words, with its verb: "a training step needs".
    """
    available = devices.available_memory()
    if available is None or devices.number_of_gpus():
        return
    most = available + devices.own_memory()
    if needed > most:
        raise Shortage(f"{what} at least {in_words(needed)} of memory, and there are {in_words(most)}")


def check_content(path: Path, size: int, advice: str = MORE_MEMORY) -> None:
    """Raises OutOfMemory if the content of a file certainly exceeds the machine's memory, also where there are GPUs.

    Args:
        path: the file.
        size: the bytes that its content takes in memory.
        advice: what to do, in words.
    """
    available = devices.available_memory()
    if available is not None and size > available:
        raise OutOfMemory(f"{path} takes {in_words(size)} of memory, and there are {in_words(available)}", advice)


@contextlib.contextmanager
def shortage_reported(advice: str | Callable[[], str]) -> Iterator[None]:
    """Within it, running out of memory raises OutOfMemory, as does a Shortage. It also decorates functions.

    Linux may kill a process that runs out of memory: then no error is raised.

    Args:
        advice: what to do, in words, or a function that returns it.
    """
    in_full = lambda what: OutOfMemory(what, advice() if callable(advice) else advice)
    try:
        yield
    except Shortage as error:
        raise in_full(error) from error
    except (MemoryError, tf.errors.OpError) as error:
        if not is_shortage(error):
            raise
        asked = bytes_asked_for(error)
        raise in_full(
            f"out of memory when {in_words(asked)} more were asked for" if asked else "out of memory"
        ) from error


@contextlib.contextmanager
def advised(advice: str) -> Iterator[None]:
    """Within it, an OutOfMemory gets this advice in place of its own."""
    try:
        yield
    except OutOfMemory as error:
        raise error.with_advice(advice) from error


def is_shortage(error: Exception) -> bool:
    """Whether an exception says that this process has run out of memory."""
    text = str(error)
    # If an operation of several workers fails on one of them, it ends with that error on all workers.
    elsewhere = "Collective ops is aborted" in text
    return isinstance(error, MemoryError) or (bool(_SHORTAGE.search(text)) and not elsewhere)


def bytes_asked_for(error: Exception) -> int | None:
    """How much memory was asked for when it ran out; None, if the exception does not report it."""
    text = str(error)
    if tensor := _TENSOR.search(text):
        sizes = [int(size) for size in tensor[1].split(",") if size]
        with contextlib.suppress(TypeError):  # not a type of tensors of numbers
            return math.prod(sizes) * (_TYPES.get(tensor[2]) or tf.as_dtype(tensor[2]).size)
    amount = _BYTES.search(text)
    return round(float(amount[1]) * _UNITS[amount[2] or ""]) if amount else None


def in_words(number: int) -> str:
    """A number of bytes: "24.6 GB", "12 MB"."""
    return f"{number / 1e9:,.1f} GB" if number >= 1e8 else f"{number / 1e6:,.0f} MB"
