"""Measures the released network (46,180,788 parameters): building, saving, loading and evaluating a batch.

Prints one JSON line: the seconds of each, and the gigabytes of the checkpoint and of peak memory.

    python -m benchmarks.released_size
"""

import json
import os
import tempfile

import numpy as np

from benchmarks.process import peak_gb, timed
from data import photos
from pixel_snail import checkpoint, steps
from pixel_snail.backend import tf
from pixel_snail.checkpoint import Checkpoint
from pixel_snail.model import build_network
from pixel_snail.optimizer import PolyakAdam
from pixel_snail.parallel import replicas


def main() -> None:
    seconds = {}
    strategy = replicas.strategy(1)
    images = photos.load()[1][:8]
    batch = {"images": tf.constant(images)}

    def time(name, function):
        seconds[name] = round(timed(function), 2)

    def build():
        settings = {"nr_resnet": 4, "nr_filters": 256, "nr_logistic_mix": 10}
        built.append(build_network("h12_noup_smallkey", (32, 32, 3), **settings))

    built = []
    time("build_seconds", build)
    (model,) = built
    optimizer = PolyakAdam()
    optimizer.build(model.trainable_variables)
    with tempfile.TemporaryDirectory() as folder:
        prefix = os.path.join(folder, "0", "params_photos.ckpt")
        time("save_seconds", lambda: checkpoint.save(prefix, model, optimizer, {}))
        size = sum(os.path.getsize(file) for file in (f"{prefix}.index", f"{prefix}.data-00000-of-00001"))
        expected = [np.asarray(variable) for variable in model.trainable_variables]
        for variable in model.trainable_variables:
            variable.assign(tf.zeros(variable.shape))
        time("load_seconds", lambda: checkpoint.load(Checkpoint(prefix), model, optimizer))
    assert all(np.array_equal(a, b) for a, b in zip(expected, model.trainable_variables, strict=True))
    evaluator = steps.Evaluator(strategy, model)
    time("first_evaluation_seconds", lambda: evaluator.nats(batch, evaluator.prepared(model.weights)).numpy())
    weights = evaluator.prepared(model.weights)
    time("evaluation_seconds", lambda: evaluator.nats(batch, weights).numpy())
    result = {
        "parameters": sum(value.size for value in expected),
        "batch_size": len(images),
        **seconds,
        "checkpoint_gb": round(size / 1e9, 2),
        "peak_gb": peak_gb(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
