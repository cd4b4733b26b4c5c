"""Rows on disk as a lazy sequence of `Example`s."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from observe_r1.data.arrow_rows import hub_rows, parquet_rows
from observe_r1.data.chat import parse_chat
from observe_r1.data.json_rows import JsonRows
from observe_r1.data.lazy import LazySequence
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.registry import nearest

_READERS = {".json": JsonRows, ".jsonl": JsonRows, ".parquet": parquet_rows}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, eq=False)
class Examples(LazySequence[Example]):
    """Examples made from raw rows, each anew when it is asked for; errors name the row then."""

    rows: Sequence[Any]
    name: str
    """File or Hub name, as the user gave it."""
    folder: Path | None
    """Where relative image paths start."""
    input_key: str
    label_key: str
    require_answer: bool

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> Example:
        """Read and check one row."""
        origin = f"{self.name} row {index + 1}"
        row = self.rows[index]
        if not isinstance(row, dict):
            raise UserError(f"{origin}: needs an object with named columns, got {type(row).__name__}")
        value = _column(row, self.input_key, "input_key", origin)
        chat = parse_chat(value, f"{origin}, {self.input_key!r}", self.folder)
        return Example(
            id=f"{Path(self.name).stem}#{index + 1}" if row.get("id") is None else str(row["id"]),
            messages=chat.messages,
            images=chat.images,
            answer=self._answer(row, origin),
            response=chat.response,
            source=str(row.get("source") or ""),
            difficulty=_number(row, "difficulty", (0, 1), origin),
            complexity=_number(row, "complexity", (0, math.inf), origin),
            origin=origin,
        )

    def _answer(self, row: dict[str, Any], origin: str) -> str:
        if not self.require_answer and row.get(self.label_key) in (None, ""):
            return ""
        value = _column(row, self.label_key, "label_key", origin)
        text = _answer_text(value)
        if not text.strip():
            need = "the gold answer needs text or a finite number"
            raise UserError(f"{origin}, {self.label_key!r}: {need}, got {value!r:.80}")
        return text


def load_examples(
    path: str | Path, input_key: str = "message", label_key: str = "answer", *, require_answer: bool = True
) -> Examples:
    """Return the rows of `path` as examples, lazily.

    Args:
        path: A JSON list, JSON lines or Parquet file (`.json`, `.jsonl`, `.parquet`); or, where there is
            no such file, the `owner/name` of a dataset on the Hugging Face Hub (its `train` split).
        input_key: Column that holds the chat, as `parse_chat` takes it.
        label_key: Column that holds the gold answer, text or a number.
        require_answer: Whether a row without a gold answer is an error; if not, its answer is empty.

    Returns:
        A sequence that parses a row each time it is asked for, and that can be pickled and shared between
        threads and processes. Rows count from 1, in origins and in ids (`file#row`, where there is no
        column `id`). The columns `source`, `difficulty` and `complexity` are carried where present; images
        stay unopened.

    Errors: `UserError`, at once for a file that is missing, unreadable or empty and for a wrong first
    row; for any other wrong row when it is read.
    """
    file = Path(path)
    reader = _READERS.get(file.suffix.lower())
    rows: Sequence[Any]
    if file.is_file() and reader:
        rows, folder = reader(file), file.absolute().parent
    elif file.is_file():
        raise UserError(f"{path}: unknown kind of file {file.suffix!r}: known are {', '.join(_READERS)}")
    elif _HUB_NAME.fullmatch(str(path)) and not reader and not file.exists():
        rows, folder = hub_rows(str(path)), None
    else:
        raise UserError(f"{path}: {'not a file: name a file' if file.exists() else 'no such file'}")
    if not rows:
        raise UserError(f"{path}: the dataset is empty")
    examples = Examples(rows, str(path), folder, input_key, label_key, require_answer)
    _ = examples[0]  # a wrong column name shows here, before anything else is loaded
    return examples


def _column(row: dict[str, Any], key: str, setting: str, origin: str) -> Any:
    if key not in row:
        present = ", ".join(row) or "none"
        raise UserError(f"{origin}: no column {key!r}{nearest(key, list(row))}: the row has {present}; set {setting}")
    return row[key]


def _answer_text(value: Any) -> str:
    """Return a gold answer as text, numbers without exponent; empty where it is no text or finite number."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return f"{Decimal(repr(value)):f}"


def _number(row: dict[str, Any], key: str, bounds: tuple[float, float], origin: str) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    low, high = bounds
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(
            f"{origin}, {key!r}: needs a number from {low} to {high}, got {value!r:.80}: "
            "rename the column if it means something else"
        )
    return float(value)
