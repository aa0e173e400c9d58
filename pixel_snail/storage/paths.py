"""Checks of paths that users give. A file or folder that can't be examined is never taken for absent."""

import errno
import io
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from pixel_snail.errors import UserError

_STARTS = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"\x93NUMPY")
"""The first bytes of pictures and arrays."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def expanded(text: str) -> str:
    """A path that a user has typed, with `~` expanded, which shells don't do after `--flag=`.

    Raises:
        UserError: it is empty, or a URL.
    """
    if not text:
        raise UserError("the path is empty")
    if _URL.match(text):
        raise UserError(
            f"{text} is a URL, not a path: copy the files to this machine, or mount the storage as a folder"
        )
    return os.path.expanduser(text)


def status(path: str | Path) -> os.stat_result | None:
    """The status of the file or folder at a path, links followed; None if there is none, or if links form a circle.

    Raises:
        UserError: it can't be examined: for example, this user may not look into a folder on the way.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no file has a NUL in its name
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # links that lead to each other
            return None
        raise UserError(f"can't look at {path}: {error.strerror or error}") from error


def entries(folder: str | Path) -> list[os.DirEntry]:
    """The entries of a folder, ordered by name; none if there is no such folder.

    Raises:
        UserError: this user may not look into it.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"can't look into {folder}: {error.strerror or error}") from error


def readable_again(path: str) -> Path | BinaryIO:
    """The path itself; for a pipe, which can be read only once, its content, if it is a picture or an array.

    Raises:
        UserError: it can't be read.
    """
    about = status(path)
    if about is None or not stat.S_ISFIFO(about.st_mode):
        return Path(path)
    try:
        with open(path, "rb") as pipe:
            content = pipe.read(max(map(len, _STARTS)))
            if content.startswith(_STARTS):  # another pipe may never end
                content += pipe.read()
            return io.BytesIO(content)
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from error
