"""Where an image is to be read from, as a row names it."""

import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from observe_r1.data.wrong_value import check_text, wrong_value
from observe_r1.errors import UserError
from observe_r1.records import ImageSource

LIMITS = ("min_pixels", "max_pixels")
"""Keys of an image's own limits, which hold within those of the model."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_HOLDERS = ("bytes", "path", "image", "image_url", "url")
_IGNORED = ("type", "text", "detail")
"""Keys that say nothing of what the image shows; `text` is null there, in columns of Parquet."""


def image_source(image: Any, place: str, folder: Path | None) -> tuple[ImageSource, dict[str, int]]:
    """Return what `open_image` takes (an absolute path, a `data:` URI, an `http(s)` URL, bytes) and the image's limits.

    Args:
        image: A path, a `file://`, `data:` or `http(s)` URI, bytes; or a dict that holds one of these under `bytes`,
            `path`, `image`, `image_url` or `url`, as `datasets`, verl and OpenAI write images, maybe with `LIMITS`.
        place: Row and column, for errors.
        folder: Where relative paths start; None if there is no such place.

    Errors: `UserError` for anything else, and for keys of a dict that are not read.
    """
    own: dict[str, int] = {}
    while isinstance(image, dict):  # OpenAI: {"image_url": {"url": …}}
        own |= own_limits(image, place)
        image = held(image, place)
    return _source(image, place, folder), own


def held(image: dict[str, Any], place: str) -> Any:
    """Return what a dict holds as its image, None if nothing. Errors: `UserError` for keys that are not read."""
    unread = sorted(key for key in image if image[key] is not None and key not in (*_HOLDERS, *LIMITS, *_IGNORED))
    if unread:
        raise UserError(
            f"{place}, {unread[0]!r}: this key of an image is not read: remove it; read are "
            f"{', '.join((*_HOLDERS, *LIMITS))}"
        )
    return next((image[key] for key in _HOLDERS if image.get(key) is not None), None)


def own_limits(image: dict[str, Any], place: str) -> dict[str, int]:
    """Return the limits that stand beside an image. Errors: `UserError` where they are none, or cross."""
    own = {key: image[key] for key in LIMITS if image.get(key) is not None}
    for key, value in own.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            wrong_value(f"{place}, {key!r}", "needs a whole number of pixels from 1", value)
    if own.get("min_pixels", 1) > own.get("max_pixels", math.inf):
        raise UserError(
            f"{place}: min_pixels = {own['min_pixels']} is over max_pixels = {own['max_pixels']}: correct one of them"
        )
    return own


def _source(image: Any, place: str, folder: Path | None) -> ImageSource:
    if isinstance(image, bytes):
        return image
    if image is None:
        raise UserError(
            f"{place}: an image without path, URI or bytes (missing or null): give one, or leave the row out"
        )
    if not isinstance(image, str) or not image.strip():
        wrong_value(place, "an image needs a path, a URI or bytes", image)
    scheme = _SCHEME.match(image)
    if image.startswith("data:") or (scheme and scheme[0].lower() in ("http://", "https://")):
        check_text(place, image)
        return image
    if scheme and scheme[0].lower() == "file://":
        path = unquote(image[len("file://") :].removeprefix("localhost"))
        if not path.startswith("/"):
            wrong_value(place, "a file URI needs an absolute path, as in file:///data/1.png", image)
        return path
    if scheme:
        wrong_value(place, "images are read from paths and from file, data, http and https URIs", image)
    if folder is None and not Path(image).is_absolute():
        wrong_value(place, "a dataset on the Hub has no folder for relative image paths to start from", image)
    return str((folder or Path()) / image)
