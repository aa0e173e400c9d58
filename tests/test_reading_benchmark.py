"""What benchmarks.reading compares are the same images, read in different ways."""

import numpy as np

from benchmarks import measuring, reading


def test_all_ways_read_images_of_black_and_white_and_all_but_the_drawn_the_same(rng, tmp_path, monkeypatch):
    grey = rng.integers(0, 256, [5, 28, 28, 1], np.uint8)
    monkeypatch.setattr(measuring, "grey_photos", lambda: (grey, grey))
    ways = reading.ways(tmp_path, 12)
    read = {way: np.asarray(images[np.arange(12)]) for way, images in ways.items()}
    assert list(read) == ["memory", "mapped", "reduced", "binarized"]
    for way, images in read.items():
        assert (images.shape, images.dtype, images.max()) == ((12, 28, 28, 1), np.uint8, 1), way
        if way != "binarized":
            np.testing.assert_array_equal(images, grey[np.arange(12) % 5] >= 128)
    assert 0.5 < np.mean(read["binarized"] == read["memory"]) < 0.9
