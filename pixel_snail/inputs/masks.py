"""Which pixels of images a completion keeps: upper rows or a mask, as users give them."""

import numpy as np

from pixel_snail.errors import UserError, check_option, counted, is_whole, option
from pixel_snail.inputs.images import as_array


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


def _rows_to_keep(keep_rows, height):
    keep_rows = height // 2 if keep_rows is None else keep_rows
    check_option("keep_rows", keep_rows, is_whole(keep_rows, least=0), "a whole number, 0 or more")
    if keep_rows >= height:
        raise UserError(
            f"{option('keep_rows')}={keep_rows} leaves nothing to draw: images have {counted(height, 'row')}"
        )
    return keep_rows
