"""The folder of a run, and print.log in it."""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pixel_snail.cluster import Cluster
from pixel_snail.errors import UserError


def check_writable(folder: str) -> None:
    """Raises UserError, before any work is done, if a folder can't be made or written to."""
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    if not path.is_dir():
        raise UserError(f"can't write to {folder}: {path} is not a folder")
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"can't write to {folder}: no permission in {path}")


def complete_flags(
    flags: argparse.Namespace, prefix: str, network: Mapping[str, object], data: Mapping[str, object]
) -> None:
    """Gives flags that are None the value that the run of a checkpoint had, or else their default.

    Args:
        flags: changed in place.
        prefix: the checkpoint's; a run of ours has `flags.json` in the folder above its own.
        network: defaults of the flags that make a network what it is: a given one must not contradict the run's.
        data: defaults of the flags that say what it is evaluated on; `data_set` given as another than the run's, none
            of them is the run's.

    Raises:
        UserError: a flag contradicts the run's, or flags.json is broken.
    """
    path = Path(prefix).absolute().parent.parent / "flags.json"
    run = {}
    if path.exists():
        try:
            run = json.loads(path.read_text())
            run = {name: run[name] for name in (*network, "data_set")} | {
                name: run[name] for name in data if name in run
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"the run's flags can't be read from {path}: {error!r}") from error
    for name in network:
        given = getattr(flags, name)
        if given is not None and run.get(name, given) != given:
            raise UserError(f"--{name}={given}, but the run of {prefix} had --{name}={run[name]}: leave the flag out")
    if flags.data_set not in (None, run.get("data_set")):
        run = {name: value for name, value in run.items() if name in network}
    for name, default in (network | data).items():
        if getattr(flags, name) is None:
            setattr(flags, name, run.get(name, default))


def write(path: str | Path, save: Callable) -> None:
    """Calls save(path), its folder made; raises UserError where that can't be done."""
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        save(path)
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror}") from error


class RunFolder:
    """`SAVE_DIR/pixelsnail_<data set>_<time>/`, made anew by the chief, with the run's flags in `flags.json`.

    Raises:
        UserError: it can't be made.
    """

    def __init__(self, flags: argparse.Namespace, cluster: Cluster):
        self._cluster = cluster
        made = str(_make(flags)) if cluster.is_chief else None
        self.path = Path(cluster.gather_objects(made)[0])

    def log(self, text: str) -> None:
        """Prints, and keeps a copy in print.log, if this is the chief."""
        if not self._cluster.is_chief:
            return
        print(text, flush=True)
        with open(self.path / "print.log", "a") as file:
            file.write(f"{text}\n")


def _make(flags):
    while True:
        path = Path(flags.save_dir) / f"pixelsnail_{flags.data_set}_{time.strftime('%Y_%m_%d_%H_%M_%S')}"
        try:
            path.mkdir(parents=True)
            (path / "flags.json").write_text(json.dumps(vars(flags), indent=4, sort_keys=True) + "\n")
            return path
        except FileExistsError:
            time.sleep(1)  # another run of the same second
        except OSError as error:
            raise UserError(f"can't make the run's folder {path}: {error.strerror}") from error
