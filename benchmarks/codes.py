"""Measures codes: a network on maps of known entropy, and the bytes that maps take on disk.

Prints JSON lines:

- a network trained for three epochs on maps whose rows are Markov chains of 8 states: its nats a map, beside the exact
  ones; and the largest difference of a transition's frequency in drawn maps from its probability;
- for each number of codes, without a condition and with one: the bytes of 1,000 maps of random codes, compressed by an
  untrained network, and how many percent they are above the nats. The maps are read back.

    python -m benchmarks.codes  # about five minutes
"""

import json
import math

import numpy as np

import pixel_snail
from pixel_snail.parallel import devices

SIDE, STATES, MAPS = 7, 8, 1000
NETWORK = {
    "model": "h8_noup_smallkey",
    "image_shape": (SIDE, SIDE),
    "likelihood": "categorical",
    "nr_filters": 16,
    "nr_resnet": 1,
    "dropout_p": 0.0,
    "seed": 0,
}


def main() -> None:
    print(json.dumps({"devices": devices.described(1), "processor": devices.processor().get("model name")}), flush=True)
    print(json.dumps(known_entropy()), flush=True)
    for levels in (2, 128, 512, 8192):
        for has_condition in (False, True):
            print(json.dumps(on_disk(levels, has_condition)), flush=True)


def known_entropy(train: int = 20_000, test: int = 2000, epochs: int = 3) -> dict[str, float]:
    """Trains a network on maps whose rows are Markov chains, and compares it with them.

    Args:
        train, test: the numbers of maps; as many as `test` are drawn.
        epochs: of the training.
    """
    rng = np.random.default_rng(0)
    transitions = 0.95 * rng.dirichlet(np.full(STATES, 0.4), STATES) + 0.05 / STATES
    maps, others = (markov_maps(number, transitions, rng) for number in (train, test))
    model = pixel_snail.build(levels=STATES, **NETWORK)
    settings = {"batch_size": 32, "learning_rate": 3e-3, "lr_to_zero": True, "polyak_decay": 0.99}
    model.fit(maps, epochs=epochs, **settings)
    nats = -model.log_prob(others, batch_size=64)
    drawn = model.sample(test)[..., 0]
    counts = np.zeros([STATES, STATES])
    np.add.at(counts, (drawn[:, :, :-1], drawn[:, :, 1:]), 1)
    differences = np.abs(counts / counts.sum(1, keepdims=True) - transitions)
    exact = SIDE * math.log(STATES) - np.log(transitions[others[:, :, :-1], others[:, :, 1:]]).sum((1, 2))
    return {
        "exact_nats": round(exact.mean(), 3),
        "nats": round(nats.mean(), 3),
        "ratio": round(nats.mean() / exact.mean(), 5),
        "largest_difference_of_a_transition": round(differences.max(), 4),
    }


def markov_maps(number: int, transitions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Maps whose rows are Markov chains from a uniform first state: uint8 [number, SIDE, SIDE]."""
    maps = np.empty([number, SIDE, SIDE], np.uint8)
    maps[:, :, 0] = rng.integers(0, STATES, [number, SIDE])
    below = transitions.cumsum(1)
    for x in range(1, SIDE):
        passed = below[maps[:, :, x - 1]] < rng.random([number, SIDE, 1])
        maps[:, :, x] = np.minimum(passed.sum(-1), STATES - 1)
    return maps


def on_disk(levels: int, has_condition: bool, number: int = MAPS) -> dict[str, float]:
    """The bytes of a compressed file of random codes, beside their nats."""
    rng = np.random.default_rng(0)
    of_condition = {"condition_shape": (SIDE, SIDE), "condition_levels": 32, "condition_resnet": 1}
    model = pixel_snail.build(levels=levels, **NETWORK, **(of_condition if has_condition else {}))
    condition = rng.integers(0, 32, [number, SIDE, SIDE]) if has_condition else None
    codes = rng.integers(0, levels, [number, SIDE, SIDE])
    model.initialise(codes[:64], condition=None if condition is None else condition[:64])
    file = model.compress(codes, condition=condition, verify=False)
    assert np.array_equal(model.decompress(file, condition)[..., 0], codes)
    bytes_of_nats = -model.log_prob(codes, condition=condition, batch_size=50).sum() / math.log(2) / 8
    return {
        "levels": levels,
        "has_condition": has_condition,
        "bytes": len(file),
        "percent_above_nats": round(100 * (len(file) / bytes_of_nats - 1), 2),
    }


if __name__ == "__main__":
    main()
