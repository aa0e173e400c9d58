"""A command's standard output and error: they survive readers that leave and terminals that close."""

import contextlib
import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_NAMES = {
    number: {f"/dev/{name}", f"/dev/fd/{number}", f"/proc/self/fd/{number}"}
    for number, name in ((1, "stdout"), (2, "stderr"))
}


class _Stream(io.FileIO):
    """A stream whose reader may leave. Later output is then lost, but that is no error, and the work goes on.

    What can't be written to stderr is lost, too: a message about a full disk must not fail on that disk.
    """

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "w", closefd=False)
        self._was_terminal = self.isatty()

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno == errno.EPIPE or (error.errno == errno.EIO and self._was_terminal):
                discard(self.fileno())
            elif self.fileno() != 2:
                raise
        return len(data)


def discard(descriptor: int) -> None:
    """Lets all further output of a stream go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def prepare() -> None:
    """Prepares the process's stdout and stderr; streams that another program has put in their place stay.

    A stream that was closed when the program started becomes /dev/null: otherwise the next file that is opened would
    take its number, and with it all that libraries print. Characters that the encoding lacks are printed as escapes.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None and stream is not getattr(sys, f"__{name}__"):
            continue
        if stream is not None:
            stream.flush()
        raw = _Stream(number)
        prepared = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding="utf-8" if stream is None else stream.encoding,
            errors="backslashreplace",
            line_buffering=raw.isatty() or name == "stderr",
        )
        setattr(sys, name, prepared)


def own_output(path: str | Path) -> int | None:
    """1 if a path leads to the process's stdout, 2 if it leads to its stderr; else None.

    The path may be that of the file or pipe to which the shell has redirected the output.
    """
    try:
        about = os.stat(path)
        for number, names in _NAMES.items():
            # All programs share the terminal and /dev/null: only their names identify this process's output.
            is_shared = stat.S_ISCHR(about.st_mode)
            if os.path.abspath(path) in names or (not is_shared and os.path.samestat(about, os.fstat(number))):
                return number
    except OSError:
        pass
    return None


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """A pipe or device, opened to be written; of the process's own output the stream itself, at its present end."""
    number = own_output(path)
    if number is None:
        with open(path, "wb") as stream:
            yield stream
        return
    for text in (sys.stdout, sys.stderr):
        if text is not None:
            text.flush()
    with open(number, "wb", closefd=False) as stream:
        yield stream


@contextlib.contextmanager
def text_elsewhere(path: str | None) -> Iterator[None]:
    """Within it, if a file is written to stdout, the program's text goes to stderr: stdout gets only the file.

    Args:
        path: of the file; None: no file is written.
    """
    if path is None or own_output(path) != 1:
        yield
        return
    sys.stdout.flush()
    with contextlib.redirect_stdout(sys.stderr):
        yield
