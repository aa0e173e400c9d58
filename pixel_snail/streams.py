"""A command's standard output and error: they survive readers that leave and terminals that close."""

import errno
import io
import os
import sys


class _Stream(io.FileIO):
    """A stream whose reader may leave. What is written afterwards is lost; that is no error, and the work goes on."""

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "w", closefd=False)
        self._was_terminal = self.isatty()

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            has_left = error.errno == errno.EPIPE or (error.errno == errno.EIO and self._was_terminal)
            if not has_left:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return len(data)


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
