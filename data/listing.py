"""Lists folders and files so that an unreadable one is never taken for absent.

Path.is_dir, Path.is_file, Path.glob and os.walk silently pass over files and folders that may not be examined; which
ones, depends on the version of Python. Here, these are errors that name the path.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pixel_snail.storage import paths

_OF_SYSTEMS = {
    "@eadir",
    "@recycle",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "__macosx",
    "lost+found",
    "system volume information",
}
"""Folders that systems make, in small letters: thumbnails, forks of macOS, bins, files found by a repair."""


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder of this path, or a link to one."""
    about = paths.status(path)
    return about is not None and stat.S_ISDIR(about.st_mode)


def is_file(path: str | Path) -> bool:
    """Whether there is a file of this path, or a link to one; a pipe or a device is none."""
    about = paths.status(path)
    return about is not None and stat.S_ISREG(about.st_mode)


def is_hidden(name: str) -> bool:
    """Whether a name is that of a hidden file or folder, or of a folder that a system makes."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def inside(folder: Path) -> list[Path]:
    """The entries of a folder, ordered by name; none if there is no such folder."""
    return [folder / name for name in sorted(os.listdir(folder))] if is_folder(folder) else []


def below(folder: Path) -> Iterator[Path]:
    """Yields the files below a folder, without hidden ones, broken links, pipes and devices.

    A folder to which several links lead is read once.
    """
    seen, folders = set(), [os.fspath(folder)]
    while folders:
        place = folders.pop()
        real = os.path.realpath(place)
        if real in seen:  # links may form a circle
            continue
        seen.add(real)
        with os.scandir(place) as entries:
            found = [entry for entry in entries if not is_hidden(entry.name)]
        further = []
        for entry in found:
            # Only for a link is the system asked again.
            is_link = entry.is_symlink()
            if is_folder(entry.path) if is_link else entry.is_dir(follow_symlinks=False):
                further.append(entry.path)
            elif is_file(entry.path) if is_link else entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
        folders += sorted(further, reverse=True)


def check_readable(folder: Path) -> None:
    """Raises OSError if a folder, or one below it, can't be listed. There need not be such a folder."""
    if is_folder(folder):
        for _ in below(folder):
            pass
