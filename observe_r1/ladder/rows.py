"""Questions as rows in message format, and the pictures that belong to the folder."""

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
from observe_r1.records import Example, ImageSource, Message

IMAGES = "images"
"""Folder, beside the rows, of the pictures that they name by relative paths."""


def question_row(example: Example, images: Sequence[str]) -> dict[str, Any]:
    """Return `example` as a row in message format, its pictures named as in `images`."""
    return {
        "id": example.id,
        "source": example.source,
        "message": write_message(example.messages, images),
        "answer": example.answer,
    }


def write_message(messages: Sequence[Message], images: Sequence[str]) -> str:
    """Return a chat as the JSON string that the column `message` holds, `images` put into its image parts."""
    names = iter(images)
    turns = [{"role": turn["role"], "content": [_part(part, names) for part in turn["content"]]} for turn in messages]
    return json.dumps(turns)


Columns = Mapping[str, Any]
"""Columns by name, each with its type, or union of types."""


class _Written(JsonRows):
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
                need = f"needs {getattr(kind, '__name__', kind)} (put it back, or begin the stage again: --anew)"
                wrong_value(f"{place}, {name!r}: not as the build wrote it", need, row.get(name))
        return row


def read_rows(path: Path, columns: Columns | None = None) -> Sequence[dict[str, Any]]:
    """Return the rows of a file that a stage wrote, none if it is empty; all have an `id`, and `columns`.

    Errors: `UserError` where there is no such file, and when a row is read that is not as the stage wrote it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file: run the stage before this one first (screen, measure, arrange)")
    return _Written(path, {"id": str} | dict(columns or {}))


def read_questions(path: Path) -> Examples:
    """Return the rows of such a file as examples."""
    rows = read_rows(path, {"source": str})
    return Examples(rows, str(path), path.absolute().parent, "message", "answer", require_answer=True)


def embedded(source: ImageSource) -> bool:
    """Whether an image stands inside its row, so that it has no place of its own to be read from."""
    return isinstance(source, bytes) or source.startswith("data:")


def keep_image(source: ImageSource, folder: Path, origin: str, settings: QuestionSettings) -> str:
    """Write an image into the folder's `images/`, named by its content, and return its path relative to the folder.

    The file is kept byte by byte where `source` is one; what is fetched or held in a `data:` URI is written as PNG.

    Errors: `UserError` where it cannot be read or written.
    """
    data = source if isinstance(source, bytes) else _read(source, origin, settings)
    with Image.open(BytesIO(data)) as image:
        suffix = (image.format or "png").lower().replace("jpeg", "jpg")
    name = f"{IMAGES}/{blake2b(data, digest_size=16).hexdigest()}.{suffix}"
    if not (folder / name).exists():
        (folder / IMAGES).mkdir(exist_ok=True)
        write_atomic(folder / name, data)
    return name


def _part(part: dict[str, Any], names: Iterator[str]) -> dict[str, Any]:
    return {**part, "image": next(names)} if part["type"] == "image" else part


def _read(source: str, origin: str, settings: QuestionSettings) -> bytes:
    image = open_image(source, origin, settings)
    if Path(source).is_absolute():
        return Path(source).read_bytes()
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
