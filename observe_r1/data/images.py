"""Opening an image, wherever a row says that it is."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote_to_bytes

from PIL import Image

from observe_r1.config import QuestionSettings
from observe_r1.data.image_decoding import decoded_image
from observe_r1.data.image_fetching import fetch_image
from observe_r1.errors import UserError
from observe_r1.records import Example, ImageSource
from observe_r1.web import without_password

MOST_HELD = 1 << 28
"""Bytes that rows which are read ahead may hold together, in encoded images."""

_DEFAULT = QuestionSettings()


@contextmanager
def opened_image(source: ImageSource, origin: str, settings: QuestionSettings = _DEFAULT) -> Iterator[Image.Image]:
    """Give the image as `decoded_image` does: RGB and upright, its memory bounded over all threads during the block.

    Args:
        source: A path, a `data:` URI, an `http(s)` URL, or the encoded bytes.
        origin: The row that names the image, for errors.
        settings: `image_cache` and `allow_private_addresses`, for images behind URLs.

    Errors: `UserError` naming origin and image where it cannot be found, read, fetched or decoded.
    """
    place = f"{origin}: image {_name(source)}"
    if isinstance(source, bytes):
        data = source
    elif re.match("https?://", source, re.IGNORECASE):
        data, place = fetch_image(source, place, settings)
    else:
        data = _read(source, place)
    with decoded_image(data, place) as image:
        yield image


def open_image(source: ImageSource, origin: str, settings: QuestionSettings = _DEFAULT) -> Image.Image:
    """Return the image that `opened_image` gives, for one at a time. Errors: as there."""
    with opened_image(source, origin, settings) as image:
        return image.copy()


def held_bytes(example: Example) -> int:
    """Return the bytes of the images that stand in the row itself."""
    return sum(map(len, example.images))


def _name(source: ImageSource) -> str:
    if isinstance(source, bytes):
        return f"({len(source)} bytes in the row)"
    shown = without_password(source)
    return repr(shown) if len(shown) <= 300 else repr(shown[:60]) + "…"


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
