"""Turns the images of Fashion-MNIST into codes of two levels, as VQ-VAE-2 does (Razavi et al. 2019), and back.

The images, padded to 32x32, become 4x4 upper codes, for global structure, and 8x8 lower codes, for local detail.

python -m examples.two_levels encode --data_dir=data --save_dir=OUT
python -m examples.two_levels decode --save_dir=OUT --upper=UPPER.npy --lower=LOWER.npy --picture=PNG
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
from pixel_snail.errors import UserError
from pixel_snail.storage import files

FILTERS = 64
MODEL = "vq_vae_2.keras"
"""The file of --save_dir with the VQ-VAE. It may lie beside that of examples.codes, which is another network."""


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags in argv, by default the program's; a mistake prints one line on stderr and exits with code 2."""
    parser, decode = command.parser_of("examples.two_levels", __doc__.splitlines()[0], epochs=5)
    decode.add_argument("--upper", type=command_line.path, required=True, help="an .npy file: integers [N, 4, 4]")
    decode.add_argument("--lower", type=command_line.path, required=True, help="an .npy file: integers [N, 8, 8]")
    return parser.parse_args(argv)


def build() -> keras.Model:
    """A VQ-VAE of images [B, 32, 32, 1] in [0, 1].

    Its layers are `encoder`, `upper_encoder`, `upper_codebook`, `upper_decoder`, `lower_encoder`, `lower_codebook` and
    `decoder`. The lower encoder also gets the decoded upper codes, and the decoder gets both codes. So the lower codes
    need not repeat information that the upper codes have.
    """
    layers = keras.layers
    images = keras.Input([32, 32, 1])
    features = residual(halved(halved(images, FILTERS // 2), FILTERS))
    encoder = keras.Model(images, features, name="encoder")

    features = keras.Input([8, 8, FILTERS])
    vectors = layers.Conv2D(DIMENSIONS, 1)(residual(halved(features, FILTERS)))
    upper_encoder = keras.Model(features, vectors, name="upper_encoder")

    vectors = keras.Input([4, 4, DIMENSIONS])
    decoded_upper = doubled(residual(layers.Conv2D(FILTERS, 3, padding="same")(vectors)), FILTERS)
    upper_decoder = keras.Model(vectors, decoded_upper, name="upper_decoder")

    both = [features, keras.Input([8, 8, FILTERS])]
    merged = layers.Conv2D(FILTERS, 3, padding="same")(layers.Concatenate()(both))
    lower_encoder = keras.Model(both, layers.Conv2D(DIMENSIONS, 1)(residual(merged)), name="lower_encoder")

    both = [keras.Input([8, 8, FILTERS]), keras.Input([8, 8, DIMENSIONS])]
    merged = layers.Conv2D(FILTERS, 3, padding="same")(layers.Concatenate()(both))
    reconstructed = doubled(doubled(residual(merged), FILTERS // 2), 1, "sigmoid")
    decoder = keras.Model(both, reconstructed, name="decoder")

    features = encoder(images)
    decoded_upper = upper_decoder(VectorQuantizer(NR_CODES, name="upper_codebook")(upper_encoder(features)))
    vectors = VectorQuantizer(NR_CODES, name="lower_codebook")(lower_encoder([features, decoded_upper]))
    return keras.Model(images, decoder([decoded_upper, vectors]))


def codes_of(vq_vae: keras.Model, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower codes of images, float32 [N, 32, 32, 1] in [0, 1]: uint8 [N, 4, 4] and [N, 8, 8]."""
    layer = vq_vae.get_layer

    def upper(images):
        return layer("upper_codebook").codes(layer("upper_encoder")(layer("encoder")(images)))

    def lower(images, upper):
        decoded_upper = layer("upper_decoder")(layer("upper_codebook").vectors(upper))
        return layer("lower_codebook").codes(layer("lower_encoder")([layer("encoder")(images), decoded_upper]))

    upper_codes = in_batches(upper, images, desc="upper codes").astype(np.uint8)
    return upper_codes, in_batches(lower, images, upper_codes, desc="lower codes").astype(np.uint8)


def images_of(vq_vae: keras.Model, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The images of codes, integers [N, 4, 4] and [N, 8, 8]: float32 [N, 32, 32, 1] in [0, 1]."""
    layer = vq_vae.get_layer

    def decode(upper, lower):
        decoded_upper = layer("upper_decoder")(layer("upper_codebook").vectors(upper))
        return layer("decoder")([decoded_upper, layer("lower_codebook").vectors(lower)])

    return in_batches(decode, upper, lower, desc="decoding")


def encode(flags: argparse.Namespace) -> None:
    """Trains a VQ-VAE, and writes it and the codes of all images into --save_dir."""
    images, labels = command.fashion_mnist(flags.data_dir, side=32)
    vq_vae = command.trained(build, images["train"], flags.epochs, flags.save_dir, MODEL)
    upper, lower = {}, {}
    for split, of_split in images.items():
        upper[split], lower[split] = codes_of(vq_vae, of_split)
    mixed = {level: np.roll(of_level["test"], 1, axis=0) for level, of_level in (("upper", upper), ("lower", lower))}
    own = {"upper": upper["test"], "lower": lower["test"]}
    print_error(images["test"], images_of(vq_vae, **own))
    for level, of_others in mixed.items():  # the error without the right codes of a level shows how much they carry
        reconstructions = images_of(vq_vae, **own | {level: of_others})
        print_error(images["test"], reconstructions, f"test images, each with the {level} codes of another image")
    print_use_of_codes(upper["test"], "upper codes")
    print_use_of_codes(lower["test"], "lower codes")
    conditions = {f"{split}_condition": codes for split, codes in upper.items()}
    command.save_arrays(flags.save_dir, "upper.npz", **upper, **labels)
    command.save_arrays(flags.save_dir, "lower.npz", **lower, **labels, **conditions)
    command.save_arrays(flags.save_dir, "lower_alone.npz", **lower, **labels)


def decode(flags: argparse.Namespace) -> None:
    """Writes a picture of the images of codes."""
    files.check_file_writable(flags.picture, "picture")
    upper, lower = command.read_codes(flags.upper, 4, 4), command.read_codes(flags.lower, 8, 8)
    if len(upper) != len(lower):
        raise UserError(
            f"{flags.upper} has {len(upper):,} maps, but {flags.lower} {len(lower):,}: give as many of both"
        )
    images = images_of(command.load_model(flags.save_dir, MODEL), upper, lower)
    command.save_picture(images, flags.picture, flags.columns)


def work(flags: argparse.Namespace) -> None:
    """Runs the command that the flags name."""
    {"encode": encode, "decode": decode}[flags.command](flags)


if __name__ == "__main__":
    command_line.run(parse_flags, work)
