"""The tests that `make quick` runs: those of tests/quick.txt, a file, a folder or a test in each line."""

import re
from pathlib import Path

import golden_numbers
from pixel_snail.model import specs

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "tests" / "quick.txt").read_text().splitlines()


def test_what_is_listed_exists_and_once():
    assert len(set(LINES)) == len(LINES)
    for line in LINES:
        path, _, test = line.partition("::")
        assert (ROOT / path).exists(), line
        assert not test or f"def {test.partition('[')[0]}(" in (ROOT / path).read_text(), line


def kinds_of_wiring(names):
    """What the networks of these names are made of: their classes, and the values of all arguments but sizes."""
    kinds = set()
    for spec in map(specs.get, names):
        arguments = dict(getattr(spec, "keywords", {}))
        for size in ("attn_rep", "nr_filters", "key_channels", "mixin_channels"):
            arguments.pop(size, None)
        arguments["hier"] = max(arguments.get("hier", (1,))) > 1
        kinds |= {(getattr(spec, "func", spec), *argument) for argument in arguments.items()}
    return kinds


def test_the_golden_networks_among_them_have_every_kind_of_wiring():
    tests = re.findall(
        r"tests/test_model\.py::test_outputs_loss_and_gradients_are_the_originals\[(\w+)\]", "\n".join(LINES)
    )
    assert kinds_of_wiring(tests) == kinds_of_wiring(golden_numbers.NAMES)
    assert kinds_of_wiring(tests[:1]) < kinds_of_wiring(tests)
