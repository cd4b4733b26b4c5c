"""Where an image is to be read from, as a row names it."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from observe_r1.data.wrong_value import check_text, wrong_value
from observe_r1.records import ImageSource

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def image_source(image: Any, place: str, folder: Path | None) -> ImageSource:
    """Return what `open_image` takes: an absolute path, a `data:` URI, an `http(s)` URL, or encoded bytes.

    Args:
        image: A path, a `file://`, `data:` or `http(s)` URI, bytes; or a dict that holds one of these under `bytes`,
            `path` or `image`, as `datasets` and verl write images.
        place: Row and column, for errors.
        folder: Where relative paths start; None if there is no such place.

    Errors: `UserError` for anything else.
    """
    value = image
    if isinstance(value, dict):
        image = next((value[key] for key in ("bytes", "path", "image") if value.get(key) is not None), None)
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str) or not image.strip():
        wrong_value(place, "an image needs a path, a URI or bytes", value)
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
