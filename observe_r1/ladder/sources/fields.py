"""Reading one field of a row, or one clear error; and the example that the fields make."""

import os
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL.Image import Image

from observe_r1.data.chat import parse_chat
from observe_r1.data.wrong_value import shorten
from observe_r1.errors import UserError
from observe_r1.records import Example, ImageSource
from observe_r1.registry import nearest

IN_THE_PICTURE = "Answer the question in the picture."
"""Asked where a row has no question in words."""

_NONE: tuple[Any, ...] = (None, "", b"", {"bytes": None, "path": None})
_URI = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)


def field(row: Mapping[str, Any], key: str, place: str) -> Any:
    """Return the value under `key`. Errors: `UserError` naming the columns that there are."""
    if key not in row:
        present = ", ".join(map(repr, row)) or "none"
        raise UserError(f"{place}: no column {key!r}{nearest(key, list(row))}: the row has {present}; check the source")
    return row[key]


def text(row: Mapping[str, Any], key: str, place: str) -> str:
    """Return the text or whole number under `key` without outer blanks. Errors: `UserError` where there is none."""
    value = field(row, key, place)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}, {key!r}: needs text, got {value!r:.80}: fill it in, or leave the row out")
    return value.strip()


def optional_text(row: Mapping[str, Any], key: str, place: str) -> str:
    """Return the text or whole number under `key`, empty where there is none. Errors: `UserError` for other values."""
    value = row.get(key)
    return "" if value is None or (isinstance(value, str) and not value.strip()) else text(row, key, place)


def images(values: Any, key: str, place: str, folder: Path | None) -> list[ImageSource]:
    """Return the images of a row as encoded bytes, URIs or absolute paths; none where all that it has is empty.

    Args:
        values: A list, or None for none, of bytes, `{"bytes": …, "path": …}` as the Hub's files hold them, PIL images
            as `datasets` decodes them, URIs, or paths.
        key: Column, for errors.
        place: Row, for errors.
        folder: Where relative paths start: there or, since repositories keep their rows in a folder such as `data`,
            one above; None if there is no such place.

    Errors: `UserError` for what is no list or no image, and where there is no file at a path.
    """
    where = f"{place}, {key!r}"
    if values is not None and not isinstance(values, list):
        raise UserError(f"{where}: needs a list of images, got {values!r:.80}: make it a list")
    given = values or []
    return [] if all(value in _NONE for value in given) else [_image(value, where, folder) for value in given]


def decoded_image(row: Mapping[str, Any], place: str, folder: Path | None) -> list[ImageSource]:
    """Return the image under `decoded_image`, or lacking that, at the path under `image`. Errors: as `images`."""
    key = "image" if row.get("decoded_image") is None else "decoded_image"
    return images([row.get(key)], key, place, folder)


def is_file(path: Path) -> bool:
    """Whether a file is there: never for a name that no file can have, which `Path.is_file` raises for."""
    return os.path.isfile(path)  # noqa: PTH113


def example(question: str, pictures: list[ImageSource], answer: str, place: str, row_id: str = "") -> Example:
    """Return the example that asks `question` in one user turn.

    Each `<image>` in the question is replaced by the next picture; without any, the pictures come first. Where there is
    no picture, the marks go.

    Errors: `UserError` where marks and pictures differ in number, and for text that spells a special token.
    """
    pieces = question.split("<image>") if pictures else [question.replace("<image>", "")]
    marks = len(pieces) - 1
    if marks not in (0, len(pictures)):
        raise UserError(f"{place}: the question has {marks} <image> marks for {len(pictures)} images: make them match")
    if not marks:
        pieces = [""] * len(pictures) + pieces
    content: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        if number:
            content.append({"type": "image", "image": pictures[number - 1]})
        if piece.strip():
            content.append({"type": "text", "text": piece.strip("\n")})
    chat = parse_chat([{"role": "user", "content": content}], place, folder=None)
    return Example(id=row_id, messages=chat.messages, images=chat.images, answer=answer, origin=place)


def _image(value: Any, where: str, folder: Path | None) -> ImageSource:
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, Image):
        buffer = BytesIO()
        value.save(buffer, format="PNG")
        return buffer.getvalue()
    if not isinstance(value, bytes | str) or not value:
        raise UserError(f"{where}: needs an image, got {value!r:.80}: leave the row out if it has none")
    return value if isinstance(value, bytes) or _URI.match(value) else _file(value, where, folder)


def _file(name: str, where: str, folder: Path | None) -> str:
    if folder is None and not Path(name).is_absolute():
        raise UserError(
            f"{where}: {name!r:.80} is a file beside the rows, which the Hub does not send along: download the dataset "
            "with its images, unpack them, and name the file of its rows"
        )
    start = folder or Path()
    for path in (start / name, start.parent / name):
        if is_file(path):
            return str(path)
    raise UserError(f"{where}: no image at {shorten(str(start / name))}: unpack the dataset's images there")
