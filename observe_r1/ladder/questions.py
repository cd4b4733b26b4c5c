"""Questions as rows in message format, the rows that stages write, and the images that belong to a ladder's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from observe_r1.config import QuestionSettings
from observe_r1.data.examples import Examples
from observe_r1.data.images import open_image
from observe_r1.data.json_rows import JsonRows
from observe_r1.data.wrong_value import wrong_value
from observe_r1.errors import UserError
from observe_r1.files import write_atomic
from observe_r1.ladder.stage import IMAGES
from observe_r1.records import Example, ImageSource, Message

Columns = Mapping[str, Any]
"""Columns by name, each with its type or a union of types."""


class _StageRows(JsonRows):
    """Rows that a stage wrote, each checked for its columns when it is read."""

    def __init__(self, path: Path, columns: Columns) -> None:
        super().__init__(path)
        self._name = str(path)
        self._columns = columns

    def item(self, index: int) -> dict[str, Any]:
        """Read and check one row."""
        row, place = super().item(index), f"{self._name} row {index + 1}"
        if not isinstance(row, dict):
            wrong_value(f"{place}: not as the build wrote it", "needs an object", row)
        for name, kind in self._columns.items():
            if not isinstance(row.get(name), kind):
                need = f"needs {getattr(kind, '__name__', kind)} (restore the file, or run the stage again with --anew)"
                wrong_value(f"{place}, {name!r}: not as the build wrote it", need, row.get(name))
        return row


def stage_rows(path: Path, columns: Columns | None = None) -> Sequence[dict[str, Any]]:
    """Return the rows of a file that a stage wrote, lazily.

    Args:
        path: The file, which may be empty.
        columns: The columns that each row must have, beside `id`.

    Raises:
        UserError: There is no such file; or, when a row is read, it lacks a column or holds another type there.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file: run the stage before this one first (screen, measure, arrange)")
    return _StageRows(path, {"id": str} | dict(columns or {}))


def read_questions(path: Path) -> Examples:
    """Return the questions that a stage wrote to `path` as examples; raise `UserError` as `stage_rows`."""
    rows = stage_rows(path, {"source": str})
    return Examples(rows, str(path), path.absolute().parent, "message", "answer", require_answer=True)


def question_row(example: Example, images: Sequence[str]) -> dict[str, Any]:
    """Return `example` as a row in message format that names its images as in `images`."""
    return dict(example.columns) | {
        "id": example.id,
        "source": example.source,
        "message": write_message(example.messages, images),
        "answer": example.answer,
    }


def write_message(messages: Sequence[Message], images: Sequence[str]) -> str:
    """Return a chat as the JSON string that the column `message` holds, with `images` in its image parts."""
    names = iter(images)
    turns = [
        {"role": turn["role"], "content": [_with_image(part, names) for part in turn["content"]]} for turn in messages
    ]
    return json.dumps(turns)


def _with_image(part: dict[str, Any], names: Iterator[str]) -> dict[str, Any]:
    return {**part, "image": next(names)} if part["type"] == "image" else part


def is_embedded(source: ImageSource) -> bool:
    """Return whether an image is inside its row, so that there is no file to read it from."""
    return isinstance(source, bytes) or source.startswith("data:")


def save_image(source: ImageSource, folder: Path, origin: str, settings: QuestionSettings) -> str:
    """Write an image into the folder's `images/`, named by its content.

    A file is copied byte by byte. A fetched image and one in a `data:` URI are written as PNG.

    Args:
        source: The image, as in `Example.images`.
        folder: The ladder's folder.
        origin: The row that names the image, for errors.
        settings: How images are opened.

    Returns:
        The path, relative to the folder.

    Raises:
        UserError: The image cannot be read or written.
    """
    data = encoded_image(source, origin, settings)
    with Image.open(BytesIO(data)) as image:
        suffix = (image.format or "png").lower().replace("jpeg", "jpg")
    name = f"{IMAGES}/{blake2b(data, digest_size=16).hexdigest()}.{suffix}"
    if not (folder / name).exists():
        (folder / IMAGES).mkdir(exist_ok=True)
        write_atomic(folder / name, data)
    return name


def encoded_image(source: ImageSource, origin: str, settings: QuestionSettings) -> bytes:
    """Return an image as a file holds it; a fetched image and one in a `data:` URI as PNG.

    Raises:
        UserError: It cannot be opened.
    """
    if isinstance(source, bytes):
        return source
    image = open_image(source, origin, settings)
    if Path(source).is_absolute():
        return Path(source).read_bytes()
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
