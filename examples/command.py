"""What the commands of the examples share: flags, Fashion-MNIST, and the files that they read and write."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

import data
from examples.vq_vae import NR_CODES, train
from pixel_snail.backend import keras
from pixel_snail.commands import command_line
from pixel_snail.errors import UserError, first_line
from pixel_snail.reports import plotting
from pixel_snail.storage import files, paths, pictures, values

ENLARGEMENT = 3
"""The factor by which images are enlarged in a picture."""


def parser_of(name: str, description: str, epochs: int) -> tuple[command_line.Parser, command_line.Parser]:
    """The parser of a command with the subcommands `encode` and `decode`, and the parser of `decode`.

    Args:
        name: the module's.
        epochs: the default of --epochs.
    """
    parser = command_line.Parser(prog=f"python -m {name}", description=description)
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
        parser_class=functools.partial(command_line.Parser, inherited_absl_flags=None),
    )
    encode = commands.add_parser("encode", help="train a VQ-VAE on Fashion-MNIST and write the codes of its images")
    encode.add_argument("--data_dir", type=command_line.path, default="./data", help="where Fashion-MNIST lies")
    encode.add_argument("--epochs", type=command_line.positive_int, default=epochs, help="epochs of training")
    decode = commands.add_parser("decode", help="turn codes into a picture of their images")
    decode.add_argument("--picture", type=command_line.path, required=True, help="the PNG file to write")
    decode.add_argument("--columns", type=command_line.positive_int, default=10, help="images in each row of it")
    for command in (encode, decode):
        command.add_argument("--save_dir", type=command_line.path, required=True, help="the folder of the VQ-VAE")
    return parser, decode


def fashion_mnist(data_dir: str, side: int = 28) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Fashion-MNIST: the images of `train` and `test`, float32 [N, side, side, 1] in [0, 1], and the labels of both.

    Args:
        side: the height and width in pixels, even and at least 28; above 28, a black margin is added.

    Raises:
        UserError: the files are missing or broken, or have images of another size.
    """
    data_set = data.load("fashion_mnist", Path(data_dir))
    if data_set.image_shape != (28, 28, 1):
        raise UserError(f"the images of {data_set.source} are {data_set.image_shape}, not 28x28 pixels: get them anew")
    margin = [(0, 0), ((side - 28) // 2,) * 2, ((side - 28) // 2,) * 2, (0, 0)]
    splits = {"train": data_set.train, "test": data_set.test}
    images = {name: np.pad(np.float32(split.images) / 255, margin) for name, split in splits.items()}
    return images, {f"{name}_labels": split.labels for name, split in splits.items()}


def trained(build: Callable[[], keras.Model], images: np.ndarray, epochs: int, save_dir: str, name: str) -> keras.Model:
    """Builds and trains a VQ-VAE of images, float32 [N, H, W, C] in [0, 1], and writes it into a file of a folder.

    Raises:
        UserError: the folder can't be written.
    """
    files.check_writable(save_dir, "save_dir")
    keras.utils.set_random_seed(0)
    vq_vae = build()
    train(vq_vae, images, epochs)
    files.write(Path(save_dir, name), vq_vae.save)
    return vq_vae


def load_model(save_dir: str, name: str) -> keras.Model:
    """Reads the VQ-VAE that `encode` has written into a file of a folder.

    Raises:
        UserError: the file is missing or can't be read.
    """
    path = Path(save_dir, name)
    if paths.status(path) is None:
        raise UserError(f"there is no file {path}: write it with the command encode, and give it the same --save_dir")
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # on a broken file, Keras raises nearly anything
        raise UserError(f"{path} is not a VQ-VAE that can be read: {first_line(error)}; encode anew") from error


def save_arrays(save_dir: str, name: str, **arrays: np.ndarray) -> None:
    """Writes arrays into an .npz file of a folder."""
    files.write(Path(save_dir, name), lambda path: np.savez_compressed(path, **arrays))


def read_codes(path: str, height: int, width: int) -> np.ndarray:
    """The codes in an .npy file, integers [N, H, W] or [N, H, W, 1], as [N, H, W].

    Raises:
        UserError: the array has another shape or type, is empty, or has a code outside of the codebook; or the file
            can't be read.
    """
    codes = pictures.read_npy(paths.readable_again(path), path)
    if codes.ndim == 4 and codes.shape[-1] == 1:
        codes = codes[..., 0]
    if codes.ndim != 3 or codes.shape[1:] != (height, width) or not len(codes) or codes.dtype.kind not in "iu":
        raise UserError(
            f"{path} has {codes.dtype} {list(codes.shape)}, not codes: give integers [N, {height}, {width}] or [N, "
            f"{height}, {width}, 1]"
        )
    if outside := values.first_outside(codes, NR_CODES):
        raise UserError(f"{path}: {outside[1]}, but codes are from 0 to {NR_CODES - 1}")
    return codes


def save_picture(images: np.ndarray, path: str, columns: int) -> None:
    """Writes images, float32 [N, H, W, 1] in [0, 1], as a PNG with so many images in each row."""
    enlarged = images.repeat(ENLARGEMENT, axis=1).repeat(ENLARGEMENT, axis=2)
    files.write(path, lambda path: plotting.save_grid(2 * enlarged - 1, path, columns))
