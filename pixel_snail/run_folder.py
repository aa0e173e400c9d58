"""The folder of a run, and print.log in it."""

import os
import time
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


class RunFolder:
    """`SAVE_DIR/pixelsnail_<data set>_<time>/`, made anew.

    Raises:
        UserError: it can't be made.
    """

    def __init__(self, save_dir: str, data_set: str):
        while True:
            path = Path(save_dir) / f"pixelsnail_{data_set}_{time.strftime('%Y_%m_%d_%H_%M_%S')}"
            try:
                path.mkdir(parents=True)
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
