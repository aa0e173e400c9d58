"""Turns the images of Fashion-MNIST into maps of 7x7 codes with a small VQ-VAE, and maps of codes into images.

python -m examples.codes encode --data_dir=data --save_dir=OUT
python -m examples.codes decode --save_dir=OUT CODES.npy --picture=PNG
"""

from pixel_snail.commands import packages  # noqa: F401

# isort: split
import argparse
from collections.abc import Sequence

import numpy as np

from examples import command
from examples.vq_vae import (
    DIMENSIONS,
    NR_CODES,
    VectorQuantizer,
    doubled,
    halved,
    in_batches,
    print_error,
    print_use_of_codes,
    residual,
)
from pixel_snail.backend import keras
from pixel_snail.commands import command_line
from pixel_snail.storage import files

FILTERS = 64
MODEL = "vq_vae.keras"
"""The file of --save_dir with the VQ-VAE."""


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in argv, by default the program's; a mistake prints one line on stderr and exits with code 2."""
    parser, decode = command.parser_of("examples.codes", __doc__.splitlines()[0], epochs=6)
    decode.add_argument("codes", metavar="CODES", type=command_line.path, help="an .npy file: integers [N, 7, 7]")
    return parser.parse_args(argv)


def build() -> keras.Model:
    """A VQ-VAE of images [B, 28, 28, 1] in [0, 1], with layers `encoder`, `codebook` and `decoder`."""
    images = keras.Input([28, 28, 1])
    features = residual(halved(halved(images, FILTERS // 2), FILTERS))
    encoder = keras.Model(images, keras.layers.Conv2D(DIMENSIONS, 1)(features), name="encoder")
    vectors = keras.Input([7, 7, DIMENSIONS])
    features = residual(keras.layers.Conv2D(FILTERS, 3, padding="same")(vectors))
    decoder = keras.Model(vectors, doubled(doubled(features, FILTERS // 2), 1, "sigmoid"), name="decoder")
    codebook = VectorQuantizer(NR_CODES, name="codebook")
    return keras.Model(images, decoder(codebook(encoder(images))))


def codes_of(vq_vae: keras.Model, images: np.ndarray) -> np.ndarray:
    """The codes of images, float32 [N, 28, 28, 1] in [0, 1]: uint8 [N, 7, 7]."""
    encoder, codebook = vq_vae.get_layer("encoder"), vq_vae.get_layer("codebook")
    return in_batches(lambda batch: codebook.codes(encoder(batch)), images, desc="encoding").astype(np.uint8)


def images_of(vq_vae: keras.Model, codes: np.ndarray) -> np.ndarray:
    """The images of codes, integers [N, 7, 7]: float32 [N, 28, 28, 1] in [0, 1]."""
    codebook, decoder = vq_vae.get_layer("codebook"), vq_vae.get_layer("decoder")
    return in_batches(lambda batch: decoder(codebook.vectors(batch)), codes, desc="decoding")


def encode(flags: argparse.Namespace) -> None:
    """Trains a VQ-VAE, and writes it and the codes of all images into --save_dir."""
    images, labels = command.fashion_mnist(flags.data_dir)
    vq_vae = command.trained(build, images["train"], flags.epochs, flags.save_dir, MODEL)
    codes = {split: codes_of(vq_vae, of_split) for split, of_split in images.items()}
    print_error(images["test"], images_of(vq_vae, codes["test"]))
    print_use_of_codes(codes["test"])
    command.save_arrays(flags.save_dir, "codes.npz", **codes, **labels)


def decode(flags: argparse.Namespace) -> None:
    """Writes a picture of the images of codes."""
    files.check_file_writable(flags.picture, "picture")
    codes = command.read_codes(flags.codes, 7, 7)
    images = images_of(command.load_model(flags.save_dir, MODEL), codes)
    command.save_picture(images, flags.picture, flags.columns)


def work(flags: argparse.Namespace) -> None:
    """Runs the command that the flags name."""
    {"encode": encode, "decode": decode}[flags.command](flags)


if __name__ == "__main__":
    command_line.run(parse_flags, work)
