"""The contents of a checkpoint: read from its description or, for one of the original, inferred from its tensors.

`python -m pixel_snail.commands.inspection PREFIX` prints them.

`_matches` counts the layers of each network by formulas, which repeat its wiring, because building all networks to
compare their variables would take more than ten seconds for each number of residual steps.
"""

from pixel_snail.commands import packages  # noqa: F401

# isort: split
import argparse
import collections
from collections.abc import Sequence

import numpy as np

from pixel_snail import blocks, nn
from pixel_snail.checkpoint import NOT_OURS, Checkpoint
from pixel_snail.commands import command_line
from pixel_snail.errors import UserError
from pixel_snail.model import bound_arguments, specs
from pixel_snail.runs import search


def describe(opened: Checkpoint) -> dict[str, object]:
    """The network of a checkpoint, and how far it was trained, by name.

    Checkpoints of this program record the network. For others, it is inferred from the names and shapes of the tensors;
    if several networks have the same tensors and differ only in their wiring, all are named.

    Raises:
        UserError: the checkpoint can't be read, or another program wrote it.
    """
    shapes, description = opened.parameters(), opened.description()
    has_steps = opened.has_steps
    try:
        network = _network_of_shapes(shapes) if description is None else _network_of_description(description)
    except (LookupError, ValueError) as error:  # a tensor is missing, or has other dimensions
        raise UserError(
            f"the checkpoint {opened.prefix} was {NOT_OURS}: its layers fit none of their networks; give another one"
        ) from error
    return {
        "checkpoint": opened.prefix,
        **network,
        "labels": opened.nr_labels() or "none",
        "steps taken": opened.steps_taken() if has_steps else "not recorded",
        "parameters": sum(int(np.prod(shape)) for shape in shapes.values()),
        "averaged parameters": "yes" if opened.has_averages else "no",
        "Adam's state": "yes" if "Variable_1" in opened.shapes else "no",
    }


def _network_of_description(description):
    height, width, channels = description.image_shape
    return {
        "model": description.model,
        "nr_filters": description.nr_filters,
        "nr_resnet": str(description.nr_resnet),
        "nr_logistic_mix": description.nr_logistic_mix,
        "resnet_nonlinearity": description.resnet_nonlinearity,
        "images": f"{height} x {width}",
        "channels": channels,
        "levels": description.levels,
        "likelihood": description.likelihood,
        "condition": description.condition or "none",
    }


def _network_of_shapes(shapes):
    filters = _filters(shapes)
    matches = {
        (name, nr_resnet) for name in specs for nr_resnet in range(1, 33) if _matches(shapes, name, nr_resnet, filters)
    }
    names = sorted({name for name, _ in matches})
    is_channel_wise = any(bound_arguments(name).get("output") is blocks.ChannelWiseOutput for name in names)
    return {
        "model": " or ".join(names) or "not one of ours",
        "nr_filters": filters,
        "nr_resnet": " or ".join(str(number) for number in sorted({number for _, number in matches})) or "unknown",
        "nr_logistic_mix": _last_width(shapes) // (3 if is_channel_wise else 10),
    }


def _matches(shapes, name, nr_resnet, filters):
    """Whether a specification fits: the number of layers of each kind, and the widths of keys, values and queries."""
    found = collections.Counter(variable.split("/")[1].rsplit("_", 1)[0] for variable in shapes if variable[-1] == "V")
    if name == "pxpp":
        return found["conv2d"] == 24 * nr_resnet + 15 and found["deconv2d"] == 4
    row = bound_arguments(name)
    if "attn_rep" not in row:  # a specification that a user has added, of another network
        return False
    number_of_blocks, up = row["attn_rep"], row.get("up", False)
    plain_content = row.get("content") is blocks.PlainPointwise
    dense_of_attention = 7 if plain_content else 9
    if row.get("conv") is nn.causal_shift_nin:
        before_attention = 1 + 2 * nr_resnet
        expected = {"dense": 2 + number_of_blocks * (2 * nr_resnet + dense_of_attention)}
    else:
        before_attention = nr_resnet if up else 0
        expected = {
            "conv2d": 2 + up + 2 * (1 + up) * number_of_blocks * nr_resnet,
            "dense": 1 + number_of_blocks * (before_attention + dense_of_attention),
        }
    if row.get("output") is blocks.ChannelWiseOutput:
        expected["conv2d"] += 8
        expected["dense"] += 8
    found.pop("conditional_weights", None)
    if dict(found) != expected:
        return False
    key, mixin = row["key_channels"](filters), row["mixin_channels"](filters)
    content = before_attention + (0 if plain_content else 2)
    widths = [shapes[f"model/dense_{i}/V"][1] for i in (content, content + 3)]
    return widths == [key + mixin, key]


def _filters(shapes):
    stem = "model/conv2d_0/V" if "model/conv2d_0/V" in shapes else "model/dense_0/V"
    return shapes[stem][-1]


def _last_width(shapes):
    last = max(int(name.split("/")[1].rsplit("_", 1)[1]) for name in shapes if name.startswith("model/dense_"))
    return shapes[f"model/dense_{last}/V"][1]


def show(path: str) -> None:
    """Prints the contents of a checkpoint; `path` is as in search.find."""
    for name, value in describe(search.find(path)).items():
        print(f"{name:20} {value:,}" if name == "parameters" else f"{name:20} {value}")


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses argv, by default the program's arguments. A mistake prints a line on stderr and exits with code 2."""
    parser = command_line.Parser(
        prog="python -m pixel_snail.commands.inspection", description="Prints the contents of a checkpoint."
    )
    parser.add_argument(
        "path", metavar="PREFIX", type=command_line.path, help="the checkpoint, or a folder: its newest one"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line.run(parse_flags, lambda flags: show(flags.path))
