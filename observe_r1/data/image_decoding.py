"""From an image file's bytes to pixels: every common form in, RGB or one clear error out."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from observe_r1.errors import UserError
from observe_r1.files import LFS_POINTER
from observe_r1.threads import Budget

MAX_PIXELS = 89_478_485
"""Larger images are refused before they are decoded: Pillow's own limit against decompression bombs."""

# Only formats that are decoded inside Pillow: others, such as EPS, start external programs.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# What Pillow's decoders raise on broken files: they have no error class of their own.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error)

_LOOKALIKES = (
    (re.compile(rb"\s*<(!doctype\s+html|html)", re.IGNORECASE), "is an HTML page (a download that failed?)"),
    (re.compile(re.escape(LFS_POINTER)), "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
)

# Pillow only warns between its limit and twice that; here both are one error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


_MEMORY = Budget(1 << 29)
"""Bytes that images being decoded may take together, in however many threads; a larger one is decoded alone."""

_BYTES_A_PIXEL = 16
"""Of an image on its way to RGB, transparency included."""


@contextmanager
def decoded_image(data: bytes, place: str) -> Iterator[Image.Image]:
    """Give the image as RGB, upright (EXIF orientation applied).

    Transparency is laid on white, 16-bit greys are scaled to 8 bits, CMYK is converted, and of an animation
    the first frame is taken. The image is gone after the block; until then it counts, and threads with large ones wait.

    Errors: `UserError`, beginning with `place`, where it is broken, empty, not an image, over `MAX_PIXELS`, or of a
    pixel format without a defined range (32-bit integers, floats).
    """
    _check_content(data, place)
    with _explained(place), Image.open(BytesIO(data), formats=_FORMATS) as image:
        pixels = image.width * image.height
        if pixels > MAX_PIXELS:
            raise Image.DecompressionBombError
    with _MEMORY.take(pixels * _BYTES_A_PIXEL):
        with _explained(place), Image.open(BytesIO(data), formats=_FORMATS) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            upright = _to_rgb(image, place)
        try:
            yield upright
        finally:
            upright.close()  # its memory goes back now, whoever still has the name


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Turn what Pillow raises into a `UserError`."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise UserError(f"{place} has more than {MAX_PIXELS:,} pixels: shrink it") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{place} is not an image of a known format ({', '.join(_FORMATS)})") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{place} is broken: {reason}") from error


def _check_content(data: bytes, place: str) -> None:
    if not data:
        raise UserError(f"{place} is empty (0 bytes)")
    for pattern, what in _LOOKALIKES:
        if pattern.match(data):
            raise UserError(f"{place} {what}")


def _to_rgb(image: Image.Image, place: str) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bit(image, place)).convert("RGB")
    if image.mode == "F":
        raise UserError(f"{place} has float pixels, whose range is unknown: save it with 8 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(image: Image.Image, place: str) -> np.ndarray:
    """Scale 16-bit greys to 8 bits; Pillow's own conversion would clip all above 255 to white."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UserError(f"{place} has 32-bit pixels, whose range is unknown: save it with 8 bits")
    return (values >> 8).astype(np.uint8)
