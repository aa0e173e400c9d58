"""The age of a Polyak average: how much weight its starting values still have."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pixel_snail.checkpoint import Checkpoint
from pixel_snail.errors import UserError

YOUNG = 0.05
"""The average is young while the weight of its starting values exceeds this."""

_TENSORS = ("weight_of_initial", "weight_of_loaded")


@dataclasses.dataclass
class Age:
    """The weights of two old sets of parameters in a Polyak average, each from 0 to 1.

    Each step multiplies both by its decay. The average starts as the initial parameters. A run that starts from a
    checkpoint goes on with the checkpoint's average.

    Attributes:
        of_initial: the weight of the initial parameters; None, if it is not known.
        of_loaded: the weight of the average, or the parameters, that the run took from another checkpoint; 0, if it
            took none; None, if it is not known.
    """

    of_initial: float | None = 1.0
    of_loaded: float | None = 0.0

    def take_step(self, decay: float) -> None:
        """Counts a step of the average."""
        self.of_initial = None if self.of_initial is None else self.of_initial * decay
        self.of_loaded = None if self.of_loaded is None else self.of_loaded * decay

    def why_young(self) -> str | None:
        """Names, in a sentence, the old parameters that weigh more than YOUNG in the average; None if none do."""
        old = [
            f"{name} a weight of {weight:.1%}"
            for name, weight in (
                ("the loaded parameters still have", self.of_loaded),
                ("the initial parameters still have", self.of_initial),
            )
            if weight is not None and weight > YOUNG
        ]
        return f"{' and '.join(old)} in the average" if old else None

    def tensors(self) -> dict[str, np.ndarray]:
        """The weights as tensors of a checkpoint, from which `from_tensors` restores them."""
        return {
            name: np.float64(value)
            for name, value in zip(_TENSORS, (self.of_initial, self.of_loaded), strict=True)
            if value is not None
        }


def read(opened: Checkpoint) -> Age:
    """The age of the average in a checkpoint.

    Raises:
        UserError: the checkpoint can't be read, or the recorded weights are not possible.
    """
    try:
        return from_tensors(opened.progress(), opened.prefix)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the checkpoint {opened.prefix} has no valid record of its average's age, so it is broken: choose another"
        ) from error


def from_tensors(tensors: Mapping[str, np.ndarray], prefix: str) -> Age:
    """The age that the tensors of `Checkpoint.progress` record.

    Earlier versions recorded none. For their checkpoints, the weight of the initial parameters is computed from the
    run's flags, unless the run started from another checkpoint. For the original's checkpoints, no weight is known.

    Args:
        prefix: the checkpoint's.

    Raises:
        ValueError, TypeError: the recorded weights are not possible.
    """
    weights = [float(tensors[name]) if name in tensors else None for name in _TENSORS]
    if not all(weight is None or 0 <= weight <= 1 for weight in weights):
        raise ValueError
    return Age(*weights) if weights != [None, None] else _by_flags(tensors, prefix)


def _by_flags(tensors, prefix):
    """The age of an average that an earlier version wrote, computed from the flags of its run."""
    try:
        run = json.loads((Path(prefix).absolute().parent.parent / "flags.json").read_text())
        decay, steps = run["polyak_decay"], int(tensors["steps_taken"]) - int(tensors["refused"])
        if run["load_params"] is None and 0 <= decay < 1 and steps >= 0:
            return Age(of_initial=decay**steps)
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        pass
    return Age(None, None)
