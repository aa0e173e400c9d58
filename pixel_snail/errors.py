"""Mistakes of the user, reported in one line."""

import contextlib
import contextvars
import numbers
import re
import textwrap
from collections.abc import Iterator

_named_as_flags = contextvars.ContextVar("named_as_flags", default=False)


class UserError(ValueError):
    """A mistake that the user can mend; the message says what was wrong and what to do.

    The commands print the message on stderr, without a traceback, and exit with code 2. A message may quote files:
    characters that would break the line or control the terminal are escaped.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


class Stopped(BaseException):
    """The work was asked to stop. Not an Exception, because TensorFlow's tracing catches many Exceptions."""


def printable(text: str) -> str:
    """The text, with characters escaped that would break the line or control the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@contextlib.contextmanager
def options_named_as_flags() -> Iterator[None]:
    """Within it, `option` names command-line flags: the commands run in it."""
    token = _named_as_flags.set(True)
    try:
        yield
    finally:
        _named_as_flags.reset(token)


def option(name: str, in_python: str | None = None) -> str:
    """An option's name in a message: `--name` on a command line, the argument's name in Python.

    Args:
        name: the flag's name.
        in_python: the argument's name, if it differs from the flag's.
    """
    return f"--{name}" if _named_as_flags.get() else in_python or name


def check_option(name: str, value: object, is_possible: bool, must_be: str) -> None:
    """Raises UserError if an option's value is not allowed.

    Args:
        name: the option's.
        value: the given value. The message has at most the first 80 characters of it.
        is_possible: whether the value is allowed.
        must_be: the allowed values, in words: "a number above 0".
    """
    if not is_possible:
        shown = textwrap.shorten(repr(value), 80, placeholder=" ...")  # an array's would fill the screen
        raise UserError(f"{option(name)}={shown} is not {must_be}")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number of things in words: "1 image", "2,000 images".

    Args:
        plural: of the noun; by default, the noun and an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def is_whole(value: object, least: int) -> bool:
    """Whether a value is a whole number, `least` or more."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Whether a value is a real number."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def plain(value: object) -> object:
    """A number of NumPy's as one of Python's, with which TensorFlow computes in float32; other values as they are."""
    return value.item() if isinstance(value, numbers.Number) and hasattr(value, "item") else value


_DECORATION = re.compile(r"\{\{\w+ [^}]*\}\} ?| *\[Op:\w*\].*|\.tempstate\d+|/job:\w+/replica:\d+/task:\d+/device:")
"""Parts that TensorFlow adds to messages: nodes, operations, temporary names, and the machine of a device."""

_ORIGIN = re.compile(r'Graph execution error:|Detected at node |File ".*", line \d+|<stack traces|\d+ root error')
"""Lines that TensorFlow prints before the reason."""


def first_line(error: Exception) -> str:
    """The line of another library's error message that gives the reason; the error's type, if no line does."""
    lines = [line.strip() for line in _DECORATION.sub("", str(getattr(error, "message", error))).splitlines()]
    return next((line for line in lines if line and not _ORIGIN.match(line)), type(error).__name__)
