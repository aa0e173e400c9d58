"""How far a run is, and its figures so far: this program's checkpoints hold them beside the original's tensors."""

import dataclasses
import math

import numpy as np

from pixel_snail.checkpoint import Checkpoint
from pixel_snail.errors import UserError
from pixel_snail.runs import average
from pixel_snail.runs.average import Age


@dataclasses.dataclass
class History:
    """The history of a run since its beginning, across interruptions.

    Attributes:
        epoch: the current epoch.
        images: how many images of the epoch's permutation have been used.
        of_images: how many images that permutation has; None if it is not known.
        steps: the training bits/dim of every step, in a list for each interval between tests.
        test: the test bits/dim of each test, of the averaged parameters.
        test_unaveraged: the test bits/dim of the parameters themselves, by the numbers of the tests that measured it.
        refused: how many updates the optimizer refused.
        seconds: the time trained in all starts, each counted from the end of its first step, if the learning rate
            depends on it (--lr_to_zero with --max_minutes); otherwise it is not updated.
        lr_factor: the factor of the learning rate in the last step.
        age: that of the Polyak average.
        plan: the epochs over which Distribution.fit lowers the learning rate to 0: the first one, and the one after
            the last. None if fit does not lower it, or has no limit of epochs.
    """

    epoch: int = 0
    images: int = 0
    steps: list[list[float]] = dataclasses.field(default_factory=list)
    test: list[float] = dataclasses.field(default_factory=list)
    refused: int = 0
    seconds: float = 0.0
    lr_factor: float = 1.0
    test_unaveraged: dict[int, float] = dataclasses.field(default_factory=dict)
    age: Age = dataclasses.field(default_factory=Age)
    plan: tuple[int, int] | None = None
    of_images: int | None = None

    @property
    def is_tested(self) -> bool:
        """Whether there has been no step since the last test."""
        return len(self.steps) == len(self.test)

    @property
    def name(self) -> str:
        """The name of a checkpoint saved now: the epoch that just ended, else epoch and images, as 3_512."""
        return f"{self.epoch}_{self.images}" if self.images else str(self.epoch - 1)

    @property
    def untested_steps(self) -> list[float]:
        """The training bits/dim of the steps since the last test."""
        return [] if self.is_tested else self.steps[-1]

    def add_step(self, bits_per_dim: float | None, images: int, polyak_decay: float) -> None:
        """Adds a step on so many images; its bits/dim is None if the update was refused."""
        self.images += images
        if self.is_tested:
            self.steps.append([])
        if bits_per_dim is not None:
            self.steps[-1].append(bits_per_dim)
            self.age.take_step(polyak_decay)

    def add_test(self, bits_per_dim: float, unaveraged: float | None) -> None:
        """Adds the figures of a test; `unaveraged` is None if only the averaged parameters were tested."""
        if unaveraged is not None:
            self.test_unaveraged[len(self.test)] = unaveraged
        self.test.append(bits_per_dim)

    def end_tested_epoch(self, images: int, batch: int) -> None:
        """Ends the epoch if its test is done and fewer of its images are left than a batch has."""
        if self.is_tested and images - self.images < batch:
            self.end_epoch()

    def begin_on(self, images: int) -> bool:
        """Ends an interrupted epoch if its permutation had another number of images; returns whether it did."""
        is_other = self.images > 0 and self.of_images not in (None, images)
        if is_other:
            self.end_epoch()
        self.of_images = images
        return is_other

    def end_epoch(self) -> None:
        self.epoch, self.images = self.epoch + 1, 0

    def plan_until(self, last_epoch: int) -> tuple[int, int]:
        """The plan for a call that ends before `last_epoch`: an interrupted call's plan if it ends there too, else a
        new plan from this epoch on.
        """
        return self.plan if self.plan and self.plan[1] == last_epoch else (self.epoch, last_epoch)

    def tensors(self) -> dict[str, np.ndarray]:
        """The history as tensors, from which `read` restores it."""
        return {
            "epoch": np.int64(self.epoch),
            "images": np.int64(self.images),
            "refused": np.int64(self.refused),
            "seconds": np.float64(self.seconds),
            "lr_factor": np.float64(self.lr_factor),
            "steps_between_tests": np.array([len(some) for some in self.steps], np.int64),
            "train_bpd": np.array([bits for some in self.steps for bits in some], np.float64),
            "test_bpd": np.array(self.test, np.float64),
            "tests_unaveraged": np.array(list(self.test_unaveraged), np.int64),
            "test_bpd_unaveraged": np.array(list(self.test_unaveraged.values()), np.float64),
            **({} if self.of_images is None else {"of_images": np.int64(self.of_images)}),
            **({"plan": np.array(self.plan, np.int64)} if self.plan else {}),
            **self.age.tensors(),
        }


def read(opened: Checkpoint) -> History | None:
    """The history that a checkpoint records; None for a checkpoint of the original, which records none.

    Raises:
        UserError: the checkpoint can't be read, or its history is missing a tensor or contradicts itself.
    """
    tensors = opened.progress()
    if not tensors:
        return None
    try:
        epoch, images, refused = (int(tensors[name]) for name in ("epoch", "images", "refused"))
        # Earlier versions recorded neither these two nor the figures without averaging.
        seconds, lr_factor = float(tensors.get("seconds", 0)), float(tensors.get("lr_factor", 1))
        numbers = np.asarray(tensors["steps_between_tests"], np.int64).reshape(-1)
        bits, test = (np.asarray(tensors[name], np.float64).reshape(-1) for name in ("train_bpd", "test_bpd"))
        tests = np.asarray(tensors.get("tests_unaveraged", []), np.int64).tolist()
        unaveraged = dict(zip(tests, np.asarray(tensors.get("test_bpd_unaveraged", [])).tolist(), strict=True))
        steps = [some.tolist() for some in np.split(bits, np.cumsum(numbers))[:-1]]
        age = average.from_tensors(tensors, opened.prefix)
        plan = tuple(int(end) for end in tensors["plan"]) if "plan" in tensors else None
        of_images = int(tensors["of_images"]) if "of_images" in tensors else None
        if (
            min(epoch, images, refused, *numbers) < 0
            or not (-math.inf < seconds < math.inf and 0 <= lr_factor <= 1)
            or numbers.sum() != len(bits)
            or len(steps) - len(test) not in (0, 1)
            or (of_images is not None and of_images < images)
            or not set(unaveraged) <= set(range(len(test)))
            or (plan is not None and not (len(plan) == 2 and 0 <= plan[0] < plan[1]))
        ):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"the checkpoint {opened.prefix} has no valid record of its run's progress: this program did not write it"
        ) from error
    if seconds < 0:
        raise UserError(
            f"the checkpoint {opened.prefix} says that its run has trained for {seconds:.0f} s: an earlier version "
            "measured the time by a clock that was set back; begin from an earlier checkpoint, with --load_params"
        )
    return History(epoch, images, steps, test.tolist(), refused, seconds, lr_factor, unaveraged, age, plan, of_images)
