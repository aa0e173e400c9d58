"""The pixels that a completion keeps: upper rows or a mask, checked; and masks read from files."""

import numpy as np

from pixel_snail.errors import UserError, check_option, counted, is_whole, option
from pixel_snail.inputs.images import as_array
from pixel_snail.storage import paths, pictures


def given_pixels(
    number: int, image_shape: tuple[int, int, int], keep_rows: object = None, mask: object = None
) -> np.ndarray:
    """The pixels of images that a completion keeps, booleans [number, H, W]: upper rows, or those of a mask.

    Args:
        number: the number of images.
        image_shape: (H, W, C).
        keep_rows: how many upper rows stay; by default half of them, unless there is a mask.
        mask: booleans [number, H, W], or [H, W] for all images, True where a pixel stays; None: there is none.

    Raises:
        UserError: both are given, one does not have that form, or no pixel is left to draw.
    """
    height, width, _ = image_shape
    of_all, of_each = (height, width), (number, height, width)
    if mask is None:
        return np.broadcast_to(np.arange(height)[:, None] < _rows_to_keep(keep_rows, height), of_each)
    if keep_rows is not None:
        raise UserError(f"{option('mask')} and {option('keep_rows')} both say which pixels stay: give one of them")
    must_be = f"mask must be booleans {list(of_each)} or {list(of_all)}, True where a pixel stays"
    mask = np.asarray(as_array(mask, must_be))
    if mask.dtype != bool or mask.shape not in (of_all, of_each):
        hint = {(1, *of_all): "; use mask[0]", (*of_each, 1): "; use mask[..., 0]"}.get(mask.shape, "")
        if mask.shape in (of_all, of_each) and mask.dtype.kind in "iuf":
            hint = "; compare its numbers, as in mask > 127"
        raise UserError(f"{must_be}, not {mask.dtype} {list(mask.shape)}{hint}")
    if mask.size and mask.all():
        raise UserError(f"{option('mask')} leaves nothing to draw: every pixel is given")
    return np.broadcast_to(mask, of_each)


def given_values(
    number: int, image_shape: tuple[int, int, int], given: object, mask: object
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Images [number, H, W, C] in [-1, 1], float32, and booleans [number, H, W], True where a pixel stays; or None.

    Args:
        number, image_shape, mask: as for `given_pixels`.
        given: the images; None if there are none, and then there is no mask.

    Raises:
        UserError: there is only one of them, or they do not have that form.
    """
    if (given is None) != (mask is None):
        raise UserError("given and mask belong together: give both, or neither")
    if given is None:
        return None, None
    shape, must_be = (number, *image_shape), "given must be images {} of numbers from -1 to 1"
    given = np.asarray(as_array(given, must_be.format("[number, H, W, C]")))
    is_possible = given.shape == shape and given.dtype.kind == "f" and (not given.size or np.abs(given).max() <= 1)
    if not is_possible:
        described = f"{given.dtype} {list(given.shape)}"
        if given.shape == shape and given.dtype.kind == "f":
            described = f"from {given.min():g} to {given.max():g}"
        raise UserError(f"{must_be.format(list(shape))}, not {described}")
    return np.float32(given), given_pixels(number, image_shape, mask=mask)


def _rows_to_keep(keep_rows, height):
    keep_rows = height // 2 if keep_rows is None else keep_rows
    check_option("keep_rows", keep_rows, is_whole(keep_rows, least=0), "a whole number, 0 or more")
    if keep_rows >= height:
        raise UserError(
            f"{option('keep_rows')}={keep_rows} leaves nothing to draw: images have {counted(height, 'row')}"
        )
    return keep_rows


def read(
    path: str, number: int, image_shape: tuple[int, int, int], max_pixels: int = pictures.MAX_PIXELS
) -> np.ndarray:
    """Masks read from a file, one for each image, booleans [number, H, W], True where a pixel stays.

    Args:
        path: a picture of a mask, or of a grid of masks, row by row, white where a pixel stays and black where it is
            drawn; or an .npy file of booleans [H, W] or [n, H, W]. A single mask is for all images.
        number: the number of images.
        image_shape: (H, W, C).
        max_pixels: see pictures.read_picture.

    Raises:
        UserError: it can't be read, its masks are of another size or number, or it has other colours or values.
    """
    source = paths.readable_again(path)
    if pictures.is_npy(source):
        found = _of_array(pictures.read_npy(source, path), path, image_shape)
    else:
        found = _of_picture(pictures.read_picture(source, path, max_pixels), path, image_shape)
    if len(found) not in (1, number):
        masks, images = counted(len(found), "mask"), counted(number, "image")
        raise UserError(f"{path} has {masks} for {images}: give one mask for all images, or one for each")
    return np.broadcast_to(found, (number, *found.shape[1:]))


def _of_array(array, path, image_shape):
    """The masks in an array, booleans [n, H, W]."""
    height, width, _ = image_shape
    if array.dtype != bool or array.ndim not in (2, 3) or array.shape[-2:] != (height, width):
        raise UserError(
            f"{path} is an array {array.shape} of {array.dtype}, not of booleans ({height}, {width}) or (N, {height}, "
            f"{width}): save one that is True where a pixel stays"
        )
    return array.reshape(-1, height, width)


def _of_picture(picture, path, image_shape):
    """The masks in a picture, RGB, uint8 [rows, columns, 3]: booleans [n, H, W]."""
    (height, width, _), (rows, columns, _) = image_shape, picture.shape
    if rows % height or columns % width:
        raise UserError(
            f"{path} has {columns} x {rows} pixels, but a mask has {width} x {height}, as the network's images: give "
            "one of this size, or a grid of such masks"
        )
    is_white = (picture == 255).all(-1)
    is_other = ~is_white & picture.any(-1)
    if is_other.any():
        row, column = np.unravel_index(np.argmax(is_other), is_other.shape)
        value = ", ".join(map(str, picture[row, column]))
        raise UserError(
            f"{path} has the RGB value ({value}) at row {row}, column {column}, but a mask is white where a pixel "
            "stays and black where it is drawn: save a PNG of these two colours only, because JPEG changes colours"
        )
    return pictures.tiles(is_white, height, width)
