"""How a run begins: with new parameters, with those of another checkpoint, or where an earlier run stopped."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pixel_snail import checkpoint
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.dataset import Split
from pixel_snail.errors import UserError, counted
from pixel_snail.inputs.conditions import NO_CONDITION, Condition
from pixel_snail.inputs.labels import renamed_class
from pixel_snail.runs import earlier_runs, history, search
from pixel_snail.runs.average import Age
from pixel_snail.runs.history import History
from pixel_snail.trainer import Trainer


@dataclasses.dataclass
class Beginning:
    """How a run begins; `of_flags` makes it.

    Attributes:
        opened: the checkpoint that the run goes on from; None: the run begins anew. `start` closes the checkpoint: the
            run may remove its files, and the disk frees their space only when they are closed.
        folder: the folder of the run that --resume continues; None: the run gets a new folder.
        history: how far the run is.
        notes: lines for the log about the beginning.
    """

    opened: Checkpoint | None = None
    folder: Path | None = None
    history: History = dataclasses.field(default_factory=History)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def prefix(self) -> str | None:
        """The prefix of `opened`; None if there is none."""
        return self.opened and self.opened.prefix

    def what_is_over(self, flags: argparse.Namespace) -> str | None:
        """A sentence that says why the run has nothing left to do; None if it has.

        Raises:
            UserError: nothing is left to do, but --load_params asks for a new run.
        """
        minutes = self.history.seconds / 60
        if self.history.epoch >= flags.max_epochs:
            done = f"has already done {counted(self.history.epoch, 'epoch')}"
            limit = f"--max_epochs={flags.max_epochs}"
        elif flags.lr_to_zero and flags.max_minutes and minutes >= flags.max_minutes and self.history.is_tested:
            done, limit = f"has already trained {minutes:.2f} minutes", f"--max_minutes={flags.max_minutes:g}"
        else:
            return None
        over = f"{self.prefix} {done}, and the limit is {limit}"
        if not self.folder:
            raise UserError(f"{over}: raise it")
        return f"{over}: nothing is left to do"

    def check_data_set(self, condition: Condition, class_names: Sequence[str] | None) -> None:
        """Raises UserError if the run to go on with has another condition or other classes than the data set."""
        recorded = self.opened and self.opened.description()
        if recorded is None:
            return
        if renamed := renamed_class(recorded.class_names, class_names):
            instead = "" if self.folder else " in place of --load_params"
            raise UserError(
                f"{self.prefix} was trained on other classes than those of the data set, for example {renamed[0]} "
                f"instead of {renamed[1]}: give the data set of that run, or begin a new run with its parameters, by "
                f"--init_from={self.prefix}{instead}"
            )
        before, now = recorded.condition or NO_CONDITION, condition
        if (before.shape, before.levels) == (now.shape, now.levels):
            return
        has_fewer_codes = before.shape == now.shape and before.levels is not None and (now.levels or 0) < before.levels
        if has_fewer_codes and not self.folder:  # --resume finds runs of the same flags only
            raise UserError(
                f"the network of {self.prefix} takes conditions of {before.levels} codes, but those of the data set "
                f"have {now.levels}: give --condition_levels={before.levels}"
            )
        theirs, ours = ("none" if of.shape is None else str(of) for of in (before, now))
        raise UserError(
            f"the condition of {self.prefix} is {theirs}, but that of the data set is {ours}: give the data set of "
            "that run, or begin a new run, without --load_params and in another --save_dir"
        )

    def start(self, trainer: Trainer, images: Split, flags: argparse.Namespace) -> None:
        """Gives the network its parameters and the optimizer its state, and completes the notes.

        Raises:
            UserError: the checkpoint is of another network or can't be read, or memory does not suffice.
        """
        if self.opened:
            trainer.load(self.opened, self.history)
            summary = search.summary(self.opened, None if self.folder else flags.load_params)
            going_on = f"going on in epoch {self.history.epoch}, after {self.history.images} of its images"
            self.notes = [f"restored {summary}", *self.notes, going_on]
        elif flags.init_from:
            self._take_parameters(trainer, flags)
        else:
            trainer.initialise(images)
        self.opened = None

    def _take_parameters(self, trainer, flags):
        opened = search.find(flags.init_from)
        taken, fresh = checkpoint.load_parameters(opened, trainer.network, averaged=not flags.raw)
        trainer.cluster.check_same_checkpoint(trainer.network.weights)
        trainer.begin()
        trainer.history.age = Age(of_initial=None, of_loaded=1.0)
        which = "parameters" if flags.raw else "averaged parameters"
        self.notes.append(
            f"{which} of {search.summary(opened, flags.init_from)}: {counted(len(taken), 'tensor')} taken"
        )
        if fresh:
            self.notes.append(
                f"{counted(len(fresh), 'tensor')} not taken, so with random initial values: {', '.join(fresh)}"
            )
        self.notes.append("the optimizer, the average, the epoch and the figures begin anew")


def of_flags(flags: argparse.Namespace) -> Beginning:
    """How the run with these flags of train.py begins.

    Raises:
        UserError: a checkpoint, or a run that may be the one to resume, can't be read.
    """
    beginning = Beginning()
    if flags.resume:
        beginning.folder, beginning.opened, why_new = earlier_runs.newest_run(flags)
        if why_new and not flags.load_params:
            beginning.notes.append(f"{why_new}: a new run begins")
    if not beginning.folder and flags.load_params:
        beginning.opened = search.find(flags.load_params)
    if beginning.opened:
        recorded = history.read(beginning.opened)
        if recorded:
            beginning.history = recorded
        else:
            beginning.notes.append(
                "it has the parameters, their averages, Adam's state and, by its steps, the learning rate, but no "
                "epoch and no figures: epochs count from 0"
            )
        if not beginning.folder:
            beginning.history.age = Age(beginning.history.age.of_initial if recorded else None, of_loaded=1.0)
    return beginning
