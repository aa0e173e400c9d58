"""Plots how the time and memory of a step grow, from the lines that `benchmarks.training --growth` prints.

python -m benchmarks.training --nr_filters=64 --growth > growth.json
python -m benchmarks.plot_growth growth.json growth.png
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python -m benchmarks.plot_growth LINES.json PICTURE.png")
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    batches = [line for line in lines if line["image_size"] == 32]
    sizes = sorted((line for line in lines if line["batch_size"] == 8), key=lambda line: line["image_size"])
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _plot(left, [line["batch_size"] for line in batches], batches, "images of 32x32 in a batch")
    _plot(right, [line["image_size"] ** 2 for line in sizes], sizes, "pixels of an image, 8 in a batch")
    figure.savefig(sys.argv[2], dpi=80)


def _plot(axes, x, lines, label):
    seconds = [line["step_seconds"] for line in lines]
    axes.plot(x, seconds, "o-", label="step, s")
    axes.plot(x, [line["evaluation_seconds"] for line in lines], "o-", label="evaluation, s")
    axes.plot(x, [line["peak_gb"] for line in lines], "o-", label="memory at the peak, GB")
    axes.plot(x, [seconds[-1] * value / x[-1] for value in x], "k:", label="proportional")
    axes.set(xscale="log", yscale="log", xlabel=label, xticks=x, xticklabels=x)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()


if __name__ == "__main__":
    main()
