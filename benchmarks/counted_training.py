"""train.py, which also writes the number of steps it has taken into a file, after each: one that is killed can't tell.

So that a tiny network starts quickly, it knows `--model=h1`, of one block, and leaves out the rewriting of graphs.

    python -m benchmarks.counted_training FILE FLAGS...
"""

import functools
import sys
from pathlib import Path

import tensorflow as tf

import train
from pixel_snail import flags as command_line
from pixel_snail import model as models
from pixel_snail import steps, training

ONE_BLOCK = functools.partial(models.h8_noup_smallkey_spec, attn_rep=1)
"""Compiled in a fourth of the time of the smallest network that has a name."""


def main() -> None:
    file = Path(sys.argv.pop(1))
    make_step = steps.train_step

    def counted(strategy, model, optimizer, *arguments, **keywords):
        step = make_step(strategy, model, optimizer, *arguments, **keywords)

        def counted_step(batch):
            loss = step(batch)
            file.write_text(str(optimizer.steps_taken()))
            return loss

        return counted_step

    steps.train_step = counted
    models.specs["h1"] = ONE_BLOCK
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    command_line.run(training.train, train.parse_flags())


if __name__ == "__main__":
    main()
