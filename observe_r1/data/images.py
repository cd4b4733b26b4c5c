"""Opening the images that rows name: files, `data:` URIs, URLs, bytes."""

from __future__ import annotations

import base64
import binascii
import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from http.client import responses
from io import BytesIO
from pathlib import Path
from threading import get_ident
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image, ImageOps
from urllib3 import BaseHTTPResponse, PoolManager
from urllib3.exceptions import HTTPError, MaxRetryError

from observe_r1.config import QuestionSettings
from observe_r1.errors import UserError
from observe_r1.files import LFS_POINTER, write_atomic
from observe_r1.records import Example, ImageSource
from observe_r1.threads import Budget
from observe_r1.web import DeadlineError, PrivateAddressError, http_client, request, without_password

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused before they are decoded: Pillow's own limit against decompression bombs."""

# Only formats that are decoded inside Pillow: others, such as EPS, start external programs.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# What Pillow's decoders raise on broken files: they have no error class of their own.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error)


class PrivateImageError(UserError):
    """An image at an address that is not public."""

    def __init__(self, refused: str) -> None:
        super().__init__(
            f"{refused}: download it and name the file, or, if you trust this dataset, set data.allow_private_addresses"
        )
        self.refused = refused
        """What is refused, and why, for callers without that setting."""


_LOOKALIKES = (
    (re.compile(rb"\s*<(!doctype\s+html|html)", re.IGNORECASE), "is an HTML page (a download that failed?)"),
    (re.compile(re.escape(LFS_POINTER)), "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
)

# Pillow only warns between its limit and twice that; here both are one error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


_MEMORY = Budget(1 << 29)
"""Bytes that images being decoded may take together, over all threads; a larger one is decoded alone."""

_BYTES_A_PIXEL = 16
"""Bytes per pixel while an image is converted to RGB, transparency included."""


@contextmanager
def decoded_image(data: bytes, place: str) -> Iterator[Image.Image]:
    """Yield an image as RGB, upright (EXIF orientation applied).

    Transparency is laid on white, 16-bit grey is scaled to 8 bits, CMYK is converted, and an animation gives its first
    frame. The image is closed after the block. Until then it counts against a limit on memory, for which threads with
    large images wait.

    Args:
        data: The encoded image.
        place: What errors begin with.

    Raises:
        UserError: The image is broken, empty, no image, over `MAX_PIXELS`, or of a pixel format without a defined range
            (32-bit integers, floats).
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
            upright.close()  # frees its memory now, even if someone still refers to it


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Turn Pillow's errors into a `UserError`."""
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
    """Scale 16-bit grey to 8 bits; Pillow's own conversion would clip everything above 255 to white."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UserError(f"{place} has 32-bit pixels, whose range is unknown: save it with 8 bits")
    return (values >> 8).astype(np.uint8)


MAX_BYTES = 100 * 2**20
"""Larger responses are not read to their end."""

TIMEOUT = 20.0
"""Seconds to connect, and seconds without any data."""

DEADLINE = 120.0
"""Seconds for one try, from the name's look-up to the last byte, however steadily bytes arrive."""

_RETRIES = 4
_CHUNK = 1 << 16


def fetch_image(url: str, place: str, settings: QuestionSettings) -> tuple[bytes, str]:
    """Return an image, from the cache if it is there, else from the network.

    Only an image that decodes enters the cache: under a hash of the address, written whole or not at all, so that
    several threads and processes may fetch at once. Cached images are never requested again.

    Args:
        url: The address.
        place: What errors begin with.
        settings: `image_cache` and `allow_private_addresses`.

    Returns:
        The encoded image; and its place, for later errors.

    Raises:
        UserError: The image cannot be fetched or cached, is not at a public address (unless `allow_private_addresses`),
            has more than `MAX_BYTES`, or is no image.
    """
    folder = Path(settings.image_cache).expanduser()
    cached = folder / sha256(url.encode()).hexdigest()
    try:
        if cached.exists():
            return cached.read_bytes(), f"{place} (cached as {str(cached)!r})"
        data = _download(url, place, public_only=not settings.allow_private_addresses)
        with decoded_image(data, place):
            pass  # raises if it is no image
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{place}: data.image_cache = {str(folder)!r} cannot be used: {error.strerror}") from error
    new = cached.with_name(f"{cached.name}-{os.getpid()}-{get_ident()}")
    write_atomic(new, data)
    new.replace(cached)
    return data, place


@cache
def _client(*, public_only: bool) -> PoolManager:
    return http_client(retries=_RETRIES, timeout=TIMEOUT, deadline=DEADLINE, public_only=public_only)


def _download(url: str, place: str, *, public_only: bool) -> bytes:
    try:
        return request(_client(public_only=public_only), "GET", url, lambda response: _read_all(response, place))
    except DeadlineError as error:
        raise UserError(
            f"{place} cannot be fetched: incomplete after {DEADLINE:g} s: download it and name the file"
        ) from error
    except PrivateAddressError as error:
        raise PrivateImageError(f"{place} is not fetched: {error}") from error
    except HTTPError as error:
        reason = error.reason if isinstance(error, MaxRetryError) else error
        raise UserError(f"{place} cannot be fetched: {without_password(' '.join(str(reason).split()))}") from error


def _read_all(response: BaseHTTPResponse, place: str) -> bytes:
    if response.status != 200:
        meaning = responses.get(response.status, "")
        raise UserError(f"{place} cannot be fetched: the server answered {response.status} {meaning}".rstrip())
    data = bytearray()
    while part := response.read1(_CHUNK):
        data += part
        if len(data) > MAX_BYTES:
            raise UserError(f"{place} has more than {MAX_BYTES:,} bytes: shrink it, or download it and name the file")
    return bytes(data)


MOST_HELD = 1 << 28
"""Bytes of encoded images that the rows read ahead may hold together."""

_DEFAULT = QuestionSettings()


@contextmanager
def opened_image(source: ImageSource, origin: str, settings: QuestionSettings = _DEFAULT) -> Iterator[Image.Image]:
    """Yield an image as `decoded_image` does: RGB and upright, its memory bounded over all threads during the block.

    Args:
        source: A path, a `data:` URI, an `http(s)` URL, or the encoded bytes.
        origin: The row that names the image, for errors.
        settings: `image_cache` and `allow_private_addresses`, for images at URLs.

    Raises:
        UserError: The image cannot be found, read, fetched or decoded; names the row and the image.
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
    """Return a copy of the image that `opened_image` yields; raises as it does."""
    with opened_image(source, origin, settings) as image:
        return image.copy()


def held_bytes(example: Example) -> int:
    """Return the bytes of the images that are inside the row."""
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
