"""Input of a data set as large as ImageNet: its conversion, a later start, an epoch, and its share of a training step.

Writes tars of PNGs with as many images as ImageNet 32x32 (crops of photographs, repeated) to a temporary folder. Needs
10 GB of disk and about ten minutes. Prints a JSON line for each phase, which runs in a process of its own: the
`seconds`, and the peak memory `peak_gb`, TensorFlow included. The last line has the `input_seconds` of a batch, the
`step_seconds`, and their ratio, `share`.

    python -m benchmarks.data
"""

import argparse
import hashlib
import io
import json
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import in_a_process
from benchmarks.process import peak_gb, timed

BATCH_SIZE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_281_149, help="training images")
    parser.add_argument("--folder", help="where the temporary folder is made")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        in_a_process(make_tars, Path(folder), flags.images)
        for phase in (convert, start, read_an_epoch):
            print(json.dumps({"images": flags.images, **in_a_process(phase, Path(folder))}), flush=True)
        print(json.dumps(in_a_process(input_and_step, Path(folder))), flush=True)


def make_tars(folder, images):
    import PIL.Image

    from data import photos

    pngs = []
    for crop in photos.load()[0][:1000]:
        stream = io.BytesIO()
        PIL.Image.fromarray(crop).save(stream, format="PNG")
        pngs.append(stream.getvalue())
    for split, number in (("train", images), ("valid", max(images // 25, 1))):
        with tarfile.open(folder / f"{split}_32x32.tar", "w") as tar:
            for i in range(number):
                png = pngs[i % len(pngs)]
                info = tarfile.TarInfo(f"{split}_32x32/{i + 1:07d}.png")
                info.size = len(png)
                tar.addfile(info, io.BytesIO(png))
                tar.members.clear()


def load(folder):
    """Loads the data set, with its tars registered as the published ones; returns it and the seconds that took."""
    import data
    from data import imagenet

    for path in folder.glob("*.tar"):
        with open(path, "rb") as file:
            imagenet.TARS[path.name] = path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    begin = time.perf_counter()
    data_set = data.load("imagenet", folder)
    return data_set, time.perf_counter() - begin


def convert(folder):
    data_set, seconds = load(folder)
    return {"phase": "conversion", "seconds": round(seconds, 1), "peak_gb": peak_gb(), "source": data_set.source[-15:]}


def start(folder):
    _, seconds = load(folder)
    return {"phase": "later start", "seconds": round(seconds, 2), "peak_gb": peak_gb()}


def read_an_epoch(folder):
    from pixel_snail.parallel.batches import training_batches

    data_set, _ = load(folder)
    begin = time.perf_counter()
    images = sum(len(batch["images"]) for batch in training_batches(data_set.train, BATCH_SIZE, seed=0, epoch=0))
    seconds = time.perf_counter() - begin
    return {"phase": f"an epoch of {images} images", "seconds": round(seconds, 1), "peak_gb": peak_gb()}


def input_and_step(folder):
    from pixel_snail import model, steps
    from pixel_snail.optimizer import PolyakAdam
    from pixel_snail.parallel import replicas
    from pixel_snail.parallel.batches import training_batches

    strategy = replicas.strategy(1)
    data_set, _ = load(folder)
    batches = list(training_batches(data_set.train, BATCH_SIZE, seed=0, epoch=0).take(12))
    network = model.build_network("h12_noup_smallkey", (32, 32, 3), nr_resnet=4, nr_filters=32, nr_logistic_mix=10)
    steps.initialise(network, batches[0], seed=0)
    optimizer = PolyakAdam()
    optimizer.build(network.trainable_variables)
    step = steps.train_step(strategy, network, optimizer, seed=0)
    of_steps = [timed(lambda batch=batch: float(step(batch))) for batch in batches]
    batches = iter(training_batches(data_set.train, BATCH_SIZE, seed=0, epoch=1))
    next(batches)
    inputs = timed(lambda: [next(batches) for _ in range(2000)]) / 2000
    seconds = statistics.median(of_steps[2:])
    return {
        "phase": "input of h12_noup_smallkey, F 32",
        "batch_size": BATCH_SIZE,
        "input_seconds": round(inputs, 6),
        "step_seconds": round(seconds, 3),
        "share": round(inputs / seconds, 5),
    }


if __name__ == "__main__":
    main()
