"""Linux's control groups, by which containers and schedulers limit a process's CPU time and memory."""

from collections.abc import Iterator
from pathlib import Path


def cpu_quotas(root: Path) -> Iterator[float]:
    """The CPU time, in cores, that each limit of this process's groups allows, such as a limit by Docker's --cpus.

    Args:
        root: the folder that has proc and sys.
    """
    for folder in _folders(root, "cpu"):
        quota = _read(folder / "cpu.max") or _read(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        if len(quota) == 2 and min(quota) > 0:
            yield quota[0] / quota[1]


def memory_left(root: Path) -> Iterator[int]:
    """The bytes of memory that each limit of this process's groups leaves; `root` as in cpu_quotas."""
    for folder in _folders(root, "memory"):
        limit_and_use = _read(folder / "memory.max", folder / "memory.current") or _read(
            folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes"
        )
        if len(limit_and_use) == 2:
            limit, used = limit_and_use
            of = named_numbers(folder / "memory.stat")
            # Linux can free cached files. The count also has files in shared memory, which it can't free: the result
            # is an upper bound.
            yield limit - used + of.get("total_cache", of.get("file", 0) + of.get("slab_reclaimable", 0))


def named_numbers(path: Path) -> dict[str, int]:
    """The numbers, by name, in a file of lines such as `MemFree: 123 kB` or `file 123`; none if there is no file."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _folders(root, controller):
    """The folders of this process's groups under a controller, from the outermost on: each group's limit holds."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # another system than Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has one hierarchy, without controllers; version 1 has one for each set of them, and links to it.
        mounted = root / "sys/fs/cgroup" / (controller if controllers else "")
        # Within a container, the process's own group may be the mounted folder.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            yield mounted.joinpath(*parts[:depth])


def _read(*paths):
    """The numbers in files; none if a file is not there or has something else, such as "max"."""
    try:
        return [int(word) for path in paths for word in path.read_text().split()]
    except (OSError, ValueError):
        return []
