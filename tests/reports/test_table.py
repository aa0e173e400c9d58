"""The result of an evaluation as JSON and as a table: nats beside bits/dim for two levels, and the channels' names."""

import numpy as np
import pytest

from pixel_snail.reports import comparisons, table
from pixel_snail.storage.reductions import BINARIZED


def figures_of(nats, image_shape, levels, **others):
    of_result = {"data_set": "folder", "source": "here", "model": "h", "load_params": "", "unverified": None}
    of_result |= {"averaged": True, "causal": True, "class_conditional": False, "reduction": None, "age": None}
    of_result |= {"likelihood": "logistic_mixture"}
    figures = table.result(nats, image_shape, levels=levels, **of_result | others)
    return figures | {"files_bits_per_dim": {"PNG": 0.5}}


def test_images_of_two_levels_have_nats_beside_bits_per_dim(rng):
    nats = rng.uniform(70, 90, [12, 1])
    figures = figures_of(nats, (28, 20, 1), 2)
    assert figures["nats_per_image"] == pytest.approx(nats.mean())
    assert figures["nats_per_image_stderr"] == pytest.approx(nats.std(ddof=1) / 12**0.5)
    assert figures["bits_per_dim"] == pytest.approx(nats.mean() / (560 * np.log(2)))
    most = nats[:, 0].argmax()
    assert figures["worst_first"][0] == [most, pytest.approx(nats.max() / (560 * np.log(2))), nats.max()]
    assert (figures["image_shape"], figures["levels"], figures["reduction"]) == ([28, 20, 1], 2, None)
    bits, mean = figures["bits_per_dim"], nats.mean()
    summary = f"bits/dim: {bits:.4f} +- {figures['bits_per_dim_stderr']:.4f} (standard error); "
    assert table.summary(figures) == f"{summary}nats an image: {mean:.2f} +- {figures['nats_per_image_stderr']:.2f}"
    lines = table.table(figures).splitlines()
    assert lines[1] == "bits/dim and nats an image on 12 of 12 test images of folder (here)"
    stderrs = f"+- {figures['bits_per_dim_stderr']:.4f} and +- {figures['nats_per_image_stderr']:.2f} (standard error)"
    assert " ".join(lines[3].split()) == f"h, averaged parameters {bits:.4f} {mean:.2f} {stderrs}"
    assert lines[4].split() == ["PNG", "files", "0.5000", f"{0.5 * np.log(2) * 560:.2f}"]  # no row of the only channel
    assert lines[7].split() == [str(most), f"{nats.max() / (560 * np.log(2)):.4f}", f"{nats.max():.2f}"]


def test_codes_have_nats_a_code_perplexity_and_accuracy_beside_the_most_bits_of_a_code(rng):
    nats = rng.uniform(100, 150, [5, 1])
    accuracy = np.array([0.25, 0.5, 0.5, 0.75, 0.5])
    figures = figures_of(nats, (7, 6, 1), 128, likelihood="categorical", accuracy=accuracy)
    of_codes = nats[:, 0] / 42
    assert figures["nats_per_code"] == pytest.approx(of_codes.mean())
    assert figures["nats_per_code_stderr"] == pytest.approx(of_codes.std(ddof=1) / 5**0.5)
    assert figures["perplexity"] == pytest.approx(np.exp(of_codes.mean()))
    assert figures["bits_per_dim"] == pytest.approx(of_codes.mean() / np.log(2))
    mean, perplexity = of_codes.mean(), np.exp(of_codes.mean())
    assert (figures["accuracy"], figures["accuracy_stderr"]) == (0.5, pytest.approx(accuracy.std(ddof=1) / 5**0.5))
    told = f"nats a code: {mean:.4f}, perplexity {perplexity:.1f}; 50.00% of codes predicted right; "
    told += "without a prediction, a code takes 7 bits"
    assert table.summary(figures).endswith(told)


def test_the_rows_of_channels_have_the_nats_of_the_channel(rng):
    nats = rng.uniform(5, 9, [4, 2])
    figures = figures_of(nats, (4, 6, 2), 2)
    assert list(figures["bits_per_dim_per_channel"]) == ["1", "2"]
    lines = table.table(figures).splitlines()
    assert [line[:14] for line in lines[4:6]] == ["  of channel 1", "  of channel 2"]
    for line, mean in zip(lines[4:6], nats.mean(0), strict=True):
        assert line.split()[3:] == [f"{mean / (24 * np.log(2)):.4f}", f"{mean:.2f}"]


@pytest.mark.parametrize("channels, names", [(1, ["1"]), (3, ["R", "G", "B"]), (4, ["1", "2", "3", "4"])])
def test_other_images_have_no_nats_and_channels_by_name_or_number(channels, names, rng):
    figures = figures_of(rng.uniform(5, 9, [3, channels]), (4, 6, channels), 256)
    assert list(figures["bits_per_dim_per_channel"]) == names
    assert not any("nats" in name for name in figures)
    assert all(len(entry) == 2 for entry in figures["worst_first"])
    printed = table.table(figures)
    assert "nats" not in printed + table.summary(figures)
    assert printed.count("  of ") == (channels if channels > 1 else 0)


def test_the_result_of_a_published_set_stands_beside_its_figures(rng):
    nats = np.full([10_000, 1], 80.0)
    of_mnist = {"data_set": "mnist", "reduction": BINARIZED}
    figures = figures_of(nats, (28, 28, 1), 2, **of_mnist)
    assert figures["why_not_comparable"] is None and "paper_bits_per_dim" not in figures
    rows = {line.split("  ")[0]: line for line in table.table(figures).splitlines()}
    (row,) = (line for name, line in rows.items() if name.startswith("PixelSNAIL in pytorch-generative"))
    assert f"{78.61 / (784 * np.log(2)):.4f}     78.61" in row
    assert "Larochelle" not in table.table(figures)
    figures = figures_of(nats[:9], (28, 28, 1), 2, **of_mnist)
    told = "Not compared with published figures: the published test set has 10,000 images."
    assert told in table.table(figures) and "pytorch-generative" not in table.table(figures)
    figures = figures_of(nats, (28, 28, 1), 2, data_set="fashion_mnist", reduction=BINARIZED)
    told = "Not compared with the paper's figures: no published figure is of these images."
    assert told in table.table(figures)


def test_published_figures_in_bits_per_dim_are_shown_as_they_are():
    figures = figures_of(np.full([10_000, 1], 500.0), (28, 28, 1), 256, data_set="mnist")
    printed = table.table(figures)
    assert all(f" {figure:.4f} " in f"{printed} " or f" {figure:.4f}\n" in printed for figure in (1.06, 0.97, 2.80))
    assert comparisons.ORIGINAL not in printed
