"""Rows on disk as a lazy sequence of `Example`s."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from observe_r1.data import columns
from observe_r1.data.chat import parse_chat
from observe_r1.data.lazy import Joined, LazySequence
from observe_r1.data.places import find_parts, place_and_split
from observe_r1.data.rows import open_rows
from observe_r1.data.wrong_value import wrong_value
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.registry import nearest


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
        key, question = columns.question(row, self.input_key, origin)
        chat = parse_chat(question, f"{origin}, {key!r}", self.folder, columns.images(row))
        columns.refuse_unread(row, (key, self.input_key, self.label_key), chat, origin)
        return Example(
            id=self.implied_id(index) if row.get("id") in (None, "") else str(row["id"]),
            messages=chat.messages,
            images=chat.images,
            answer=self._answer(row, origin, is_demonstration=chat.response is not None),
            response=chat.response,
            source=str(row.get("source") or ""),
            difficulty=_number(row, "difficulty", (0, 1), origin),
            complexity=_number(row, "complexity", (0, math.inf), origin),
            origin=origin,
        )

    def implied_id(self, index: int) -> str:
        """Return the id of a row that states none: `file#row`, rows counted from 1."""
        return f"{Path(self.name).stem}#{index + 1}"

    def _answer(self, row: dict[str, Any], origin: str, *, is_demonstration: bool) -> str:
        inside, name = columns.holder(row, self.label_key)
        absent = inside.get(name) in (None, "")
        if absent and not self.require_answer:
            return ""
        if absent and is_demonstration:
            others = [column for column in row if column != self.label_key]
            raise UserError(
                f"{origin}: no gold answer in {self.label_key!r}{nearest(self.label_key, others)}: the row ends with "
                "an assistant turn, a demonstration for sft; train and ladder need a gold answer: write it into that "
                "column, or name another with data.label_key"
            )
        value = columns.column(row, self.label_key, "label_key", origin)
        text = _answer_text(value)
        if not text.strip():
            wrong_value(f"{origin}, {self.label_key!r}", "the gold answer needs text or a finite number", value)
        return text


def load_examples(
    path: str | Path, input_key: str = "message", label_key: str = "answer", *, require_answer: bool = True
) -> Sequence[Example]:
    """Return the rows of `path` as examples, lazily.

    Args:
        path: A file (a JSON list, JSON lines, Parquet, CSV, TSV, Arrow), a glob, a folder of such files or one that
            `save_to_disk` wrote, or an `owner/name` on the Hugging Face Hub; see `find_parts`. `@SPLIT` after a folder
            or name says which split to read, if not `train`.
        input_key: Column that holds the chat, as `parse_chat` takes it, or (not in `message`) the question as
            text. What may stand in the place of `message`: see `columns.question`. Images stand in the chat or
            in the column `images` or `image`.
        label_key: Column that holds the gold answer, text or a number; `a.b` is `b` inside `a`.
        require_answer: Whether a row without a gold answer is an error; if not, its answer is empty.

    Returns:
        A sequence that parses a row each time it is asked for, and that can be pickled and shared between
        threads and processes. Rows count from 1, in origins and in ids (`file#row`, where there is no
        column `id`). The columns `source`, `difficulty` and `complexity` are carried where present; images
        stay unopened.

    Errors: `UserError`, at once for a file that is missing, unreadable or empty and for a wrong first
    row; for any other wrong row when it is read.
    """
    parts = open_examples(path, input_key, label_key, require_answer=require_answer)
    for part in parts:
        _ = part[0]  # a wrong column name shows here, before anything else is loaded
    return parts[0] if len(parts) == 1 else Joined(parts)


def open_examples(path: str | Path, input_key: str, label_key: str, *, require_answer: bool) -> list[Examples]:
    """Return what `load_examples` does, file by file and without a look at the first row."""
    place, split = place_and_split(str(path))
    parts = find_parts(place, split or "train", asked=bool(split))
    opened = ((name, *open_rows(name, split or "train")) for name in parts)
    return [Examples(rows, name, folder, input_key, label_key, require_answer) for name, rows, folder in opened]


def _answer_text(value: Any) -> str:
    """Return a gold answer as text, numbers without exponent; empty where it is no text or finite number."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return f"{Decimal(repr(value)):f}"


def _number(row: dict[str, Any], key: str, bounds: tuple[float, float], origin: str) -> float | None:
    value = row.get(key)
    if value in (None, ""):
        return None
    low, high = bounds
    if isinstance(value, str):  # all values of a CSV file are
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        need = f"needs a number from {low} to {high} (rename the column if it means something else)"
        wrong_value(f"{origin}, {key!r}", need, value)
    return float(value)
