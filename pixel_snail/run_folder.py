"""The folder of a run, and print.log in it."""

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

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


def complete_flags(flags: argparse.Namespace, prefix: str, defaults: Mapping[str, object]) -> None:
    """Gives flags that are None the value that the run of a checkpoint had, or else their default.

    Args:
        flags: changed in place.
        prefix: the checkpoint's; a run of ours has `flags.json` in the folder above its own.
        defaults: of the flags that make a network what it is: a given flag must not contradict the run's.

    Raises:
        UserError: it does, or flags.json is broken.
    """
    path = Path(prefix).absolute().parent.parent / "flags.json"
    run = {}
    if path.exists():
        try:
            run = {name: json.loads(path.read_text())[name] for name in (*defaults, "data_set")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"the run's flags can't be read from {path}: {error!r}") from error
    for name, default in (*defaults.items(), ("data_set", "cifar")):
        given = getattr(flags, name)
        if given is None:
            setattr(flags, name, run.get(name, default))
        elif name in defaults and run.get(name, given) != given:
            raise UserError(f"--{name}={given}, but the run of {prefix} had --{name}={run[name]}: leave the flag out")


class RunFolder:
    """`SAVE_DIR/pixelsnail_<data set>_<time>/`, made anew, with the run's flags in `flags.json`.

    Raises:
        UserError: it can't be made.
    """

    def __init__(self, flags: argparse.Namespace):
        while True:
            path = Path(flags.save_dir) / f"pixelsnail_{flags.data_set}_{time.strftime('%Y_%m_%d_%H_%M_%S')}"
            try:
                path.mkdir(parents=True)
                (path / "flags.json").write_text(json.dumps(vars(flags), indent=4, sort_keys=True) + "\n")
                break
            except FileExistsError:
                time.sleep(1)  # another run of the same second
            except OSError as error:
                raise UserError(f"can't make the run's folder {path}: {error.strerror}") from error
        self.path = path

    def log(self, text: str) -> None:
        """Prints, and keeps a copy in print.log."""
        print(text, flush=True)
        with open(self.path / "print.log", "a") as file:
            file.write(f"{text}\n")
