"""Opening an image that somebody else made: every common form in, RGB or one clear error out."""

from __future__ import annotations

import base64
import binascii
import re
import struct
import warnings
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image, ImageOps

from observe_r1.errors import UserError
from observe_r1.records import ImageSource

MAX_PIXELS = 89_478_485
"""Larger images are refused before they are decoded: Pillow's own limit against decompression bombs."""

# Only formats that are decoded inside Pillow: others, such as EPS, start external programs.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# What Pillow's decoders raise on broken files: they have no error class of their own.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error)

_LOOKALIKES = (
    (re.compile(rb"\s*<(!doctype\s+html|html)", re.IGNORECASE), "is an HTML page (a download that failed?)"),
    (
        re.compile(rb"version https://git-lfs"),
        "is a Git LFS pointer: run `git lfs pull`",
    ),
)

# Pillow only warns between its limit and twice that; here both are one error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def open_image(source: ImageSource, origin: str) -> Image.Image:
    """Return the image as RGB, upright (EXIF orientation applied).

    Transparency is laid on white, 16-bit greys are scaled to 8 bits, CMYK is converted, and of an animation
    the first frame is taken.

    Args:
        source: A path, a `data:` URI, or the encoded bytes.
        origin: The row that names the image, for errors.

    Errors: `UserError` naming origin and image where it is missing, broken, empty, not an image, over
    `MAX_PIXELS`, of a pixel format without a defined range (32-bit integers, floats), or behind a URL.
    """
    place = f"{origin}: image {_name(source)}"
    if isinstance(source, str) and re.match("https?://", source, re.IGNORECASE):
        raise UserError(f"{place} is a URL: download it and name the file")
    data = source if isinstance(source, bytes) else _read(source, place)
    _check_content(data, place)
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            return _to_rgb(ImageOps.exif_transpose(image), place)
    except Image.DecompressionBombError as error:
        raise UserError(f"{place} has more than {MAX_PIXELS:,} pixels: shrink it") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{place} is not an image of a known format ({', '.join(_FORMATS)})") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{place} is broken: {reason}") from error


def _name(source: ImageSource) -> str:
    if isinstance(source, bytes):
        return f"({len(source)} bytes in the row)"
    return repr(source) if len(source) <= 300 else repr(source[:60]) + "…"


def _read(source: str, place: str) -> bytes:
    if source.startswith("data:"):
        return _decode_data_uri(source, place)
    path = Path(source)
    try:
        if not path.exists():
            raise UserError(f"{place}: no such file")
        if not path.is_file():
            raise UserError(f"{place} is not a file")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error}") from error


def _decode_data_uri(uri: str, place: str) -> bytes:
    """Decode a `data:[type][;base64],…` URI (RFC 2397)."""
    header, comma, payload = uri.partition(",")
    if not comma:
        raise UserError(f"{place} is not a data URI: no comma before the data")
    data = unquote_to_bytes(payload)
    if not header.endswith(";base64"):
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error as error:
        raise UserError(f"{place} is not valid base64: {error}") from error


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
    return image.convert("RGB")


def _eight_bit(image: Image.Image, place: str) -> np.ndarray:
    """Scale 16-bit greys to 8 bits; Pillow's own conversion would clip all above 255 to white."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UserError(f"{place} has 32-bit pixels, whose range is unknown: save it with 8 bits")
    return (values >> 8).astype(np.uint8)
