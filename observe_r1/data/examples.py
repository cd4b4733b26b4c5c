"""Rows on disk as a lazy sequence of `Example`s."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from observe_r1.data.chat import Chat, parse_chat
from observe_r1.data.lazy import Joined, LazySequence
from observe_r1.data.places import find_parts, place_and_split
from observe_r1.data.rows import open_rows
from observe_r1.data.wrong_value import answer_text, shorten, wrong_value
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.registry import nearest

MESSAGE = "message"
"""The column that always holds a chat. In any other column, a text may be the question itself."""

_ALTERNATIVES = ("problem", "prompt", "messages", "conversations", "question")
_IMAGE_COLUMNS = ("images", "image")
_CHAT_AS_JSON = re.compile(r"""\s*(\[\s*)?\{\s*"|\s*\[\s*\]\s*$|\s*\[\s*\{\s*'(role|content|from|value)'""")
_NEVER_READ = re.compile(r"(.*_)?(videos?|audios?|speech|tools?|tool_calls|functions)(_(paths?|urls?|files?))?|objects")
_MORE_IMAGES = re.compile(r"(images?|img|pictures?)_?\d+")
_MAYBE_IMAGES = re.compile(r"(.*_)?(images?|img|pictures?|figures?|screenshots?)(_(paths?|urls?|files?|names?))?")
_CHOICES = ("options", "choices")
_MAYBE_TEXT = (*_CHOICES, "context", "passage", "system", "system_prompt")
_LABEL = re.compile(r"[A-Za-z]|\d{1,2}")
_EMPTY: tuple[Any, ...] = (None, "", b"", [], {})


def question_column(row: dict[str, Any], key: str, origin: str) -> tuple[str, Any]:
    """Return the column that holds the question, and the question as `parse_chat` takes it.

    It is the column `key`. If that is `message` and the row has none, or null (all rows of a Parquet file have the same
    columns), it is `problem` (EasyR1), `prompt` (verl, TRL), `messages` (OpenAI, ms-swift), `conversations` (LLaVA) or
    `question` (many image folders).

    Raises:
        UserError: There is no such column, or it is empty.
    """
    if key == MESSAGE and row.get(key) in (None, ""):
        present = [name for name in (key, *_ALTERNATIVES) if name in row]
        key = next((name for name in present if row[name] not in (None, "")), key)
        if present and row.get(key) in (None, ""):
            raise UserError(f"{origin}, {present[0]!r}: the question is empty: fill it in, or leave the row out")
    value = column(row, key, "input_key", origin)
    if isinstance(value, str) and key != MESSAGE and not _CHAT_AS_JSON.match(value):
        value = [{"role": "user", "content": value}]
    return key, value


def refuse_unread(row: dict[str, Any], read: tuple[str, ...], chat: Chat, answer: str, origin: str) -> None:
    """Refuse a row if a column that is not read holds something that the question needs.

    That is: videos, audio, tools; numbered images; what may be an image if the question has none; options, context or
    a system prompt that are not in the chat, or options that are, but without the label that is the gold answer.
    Options may be missing if the gold answer is the text of one. Other columns (ids, origins, metadata) are ignored.

    Args:
        row: The row.
        read: The columns that are read, as the settings name them.
        chat: What was parsed from them.
        answer: The gold answer.
        origin: The row, for errors.

    Raises:
        UserError: There is such a column.
    """
    for name, value in row.items():
        if name in (*_IMAGE_COLUMNS, *read) or value in _EMPTY:
            continue
        place = f"{origin}, {name!r}"
        if _NEVER_READ.fullmatch(name):
            raise UserError(
                f"{place}: the question may need this column, which is not read: leave the row or the column out"
            )
        is_image = _MAYBE_IMAGES.fullmatch(name) is not None and isinstance(value, str | list)
        if _MORE_IMAGES.fullmatch(name) or (not chat.images and (is_image or _holds_file(value))):
            raise UserError(
                f"{place}: this image is not read: put all images into the column 'images', or leave it out"
            )
        if name in _MAYBE_TEXT:
            _refuse_unasked(list(_texts(value)), chat, answer if name in _CHOICES else "", place)


def _refuse_unasked(needed: Sequence[str], chat: Chat, answer: str, place: str) -> None:
    """Refuse texts that the question needs and does not have, and a gold answer that is a label it does not have.

    If the gold answer is the text of a choice, the question can be asked openly, as EasyR1 asks those of Geometry3K.
    """
    if answer in needed and not re.fullmatch("[A-Za-z]", answer):
        return
    question = "\n".join(part.get("text", "") for message in chat.messages for part in message["content"])
    for text in needed:
        if not _has_words(question, text):
            raise UserError(
                f"{place}: {shorten(text)} is not in the question, and this column is not read: write it into the "
                "question, or leave the column out"
            )
    if _LABEL.fullmatch(answer) and not _has_words(question, answer):
        raise UserError(
            f"{place}: the gold answer {answer!r} is none of these, and the question gives none of them that label: "
            "write the labels into the question, or give the right choice's text as the answer"
        )


def _has_words(question: str, words: str) -> bool:
    """Return whether a question has these words, and not only inside of others: 12 has no 1."""
    pattern = rf"(?:(?<!\w)|(?=\W)){re.escape(words)}(?:(?!\w)|(?<=\W))"
    return re.search(pattern, question, re.ASCII) is not None  # ASCII alone: Chinese has no spaces between words


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts and numbers in a value, however they are nested, as a question would have them."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
    elif isinstance(value, float) and value.is_integer():
        yield str(int(value))
    elif text := answer_text(value).strip():
        yield text


def _holds_file(value: Any) -> bool:
    """Return whether a value is a file's bytes, as `datasets` writes images, audio and videos."""
    value = value[0] if isinstance(value, list) else value
    return isinstance(value, bytes) or (isinstance(value, dict) and {"bytes", "path"} <= value.keys())


def image_column(row: dict[str, Any]) -> list[Any] | None:
    """Return the content of the column `images` or else `image` as a list; None if the row has neither column."""
    present = [row[name] for name in _IMAGE_COLUMNS if name in row]
    for value in present:
        if value not in (None, ""):
            return _listed(value)
    return [] if present else None


def _listed(value: Any) -> list[Any]:
    """Return one image, several, or a list of them as JSON (CSV has nothing but texts), as a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):
            value = json.loads(value)
    return value if isinstance(value, list) else [value]


def holder(row: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the dict to look up `key` in, and its name there: `a.b` is `b` inside the column `a`."""
    outer, dot, inner = key.partition(".")
    if key in row or not dot or not isinstance(row.get(outer), dict):
        return row, key
    return holder(row[outer], inner)


def column(row: dict[str, Any], key: str, setting: str, origin: str) -> Any:
    """Return the value under `key`; if there is none, raise `UserError` that names the columns and the setting."""
    inside, name = holder(row, key)
    if name in inside:
        return inside[name]
    names = _dotted_names(row)
    present = ", ".join(name if name.isprintable() else repr(name) for name in names) or "none"
    raise UserError(f"{origin}: no column {key!r}{nearest(key, names)}: the row has {present}; set data.{setting}")


def _dotted_names(row: dict[str, Any]) -> list[str]:
    inner = {name: value if isinstance(value, dict) else {} for name, value in row.items()}
    return [f"{name}.{key}" if key else name for name, keys in inner.items() for key in (keys or ("",))]


@dataclass(frozen=True, eq=False)
class Examples(LazySequence[Example]):
    """Examples made from raw rows, each when it is asked for; that is also when a bad row raises its error."""

    rows: Sequence[Any]
    name: str
    """The file or Hub name, as the user gave it."""
    folder: Path | None
    """Where relative image paths start; None for the Hub."""
    input_key: str
    label_key: str
    require_answer: bool
    columns: tuple[str, ...] = ()
    """What else is read of a row, as `Example.columns`."""

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> Example:
        """Read and check one row."""
        origin = f"{self.name} row {index + 1}"
        row = self.rows[index]
        if not isinstance(row, dict):
            raise UserError(f"{origin}: needs an object with named columns, got {type(row).__name__}")
        key, question = question_column(row, self.input_key, origin)
        chat = parse_chat(question, f"{origin}, {key!r}", self.folder, image_column(row))
        answer = self._answer(row, origin, is_demonstration=chat.response is not None)
        refuse_unread(row, (key, self.input_key, self.label_key, *self.columns), chat, answer, origin)
        return Example(
            id=self.implied_id(index) if row.get("id") in (None, "") else str(row["id"]),
            messages=chat.messages,
            images=chat.images,
            answer=answer,
            response=chat.response,
            source=str(row.get("source") or ""),
            difficulty=_number(row, "difficulty", (0, 1), origin),
            complexity=_number(row, "complexity", (0, math.inf), origin),
            origin=origin,
            columns={name: _json_value(row, name, origin) for name in self.columns},
        )

    def implied_id(self, index: int) -> str:
        """Return the id of a row that has none: `file#row`, with rows counted from 1."""
        return f"{Path(self.name).stem}#{index + 1}"

    def _answer(self, row: dict[str, Any], origin: str, *, is_demonstration: bool) -> str:
        inside, name = holder(row, self.label_key)
        absent = inside.get(name) in (None, "")
        if absent and not self.require_answer:
            return ""
        if absent and is_demonstration:
            others = [column for column in row if column != self.label_key]
            raise UserError(
                f"{origin}: no gold answer in {self.label_key!r}{nearest(self.label_key, others)}: the row ends with "
                "an assistant turn, a demonstration for sft; train and ladder need a gold answer: write it into that "
                "column, or name another column with data.label_key"
            )
        value = column(row, self.label_key, "label_key", origin)
        text = answer_text(value)
        if not text.strip():
            wrong_value(f"{origin}, {self.label_key!r}", "the gold answer needs text or a finite number", value)
        return text


def load_examples(
    path: str | Path,
    input_key: str = "message",
    label_key: str = "answer",
    *,
    require_answer: bool = True,
    columns: tuple[str, ...] = (),
) -> Sequence[Example]:
    """Return the rows of `path` as examples, lazily.

    Args:
        path: A file (a JSON list, JSON lines, Parquet, CSV, TSV, Arrow), a glob, a folder of such files or one that
            `save_to_disk` wrote, or an `owner/name` on the Hugging Face Hub; see `find_parts`. `@SPLIT` after a folder
            or name says which split to read, if not `train`.
        input_key: The column with the chat, as `parse_chat` takes it, or (except in `message`) the question as text.
            For the columns that replace a missing `message` see `question_column`. Images are in the chat or in the
            column `images` or `image`.
        label_key: The column with the gold answer, a text or a number; `a.b` is `b` inside `a`.
        require_answer: Whether a row without a gold answer is an error; if not, its answer is empty.
        columns: What else is read of a row, as `Example.columns`; `a.b` is `b` inside `a`.

    Returns:
        A sequence that parses a row each time it is asked for, and that can be pickled and shared between threads and
        processes. Rows count from 1, in origins and in ids (`file#row`, if there is no column `id`). The columns
        `source`, `difficulty` and `complexity` are kept if present; images stay unopened.

    Raises:
        UserError: At once if a file is missing, unreadable or empty, or its first row is bad; for any other bad row
            when it is read.
    """
    parts = open_examples(path, input_key, label_key, columns, require_answer=require_answer)
    for part in parts:
        _ = part[0]  # a wrong column name shows here, before anything else is loaded
    return parts[0] if len(parts) == 1 else Joined(parts)


def open_examples(
    path: str | Path, input_key: str, label_key: str, columns: tuple[str, ...], *, require_answer: bool
) -> list[Examples]:
    """Return what `load_examples` does, file by file, without checking the first rows."""
    place, split = place_and_split(str(path))
    parts = find_parts(place, split or "train", asked=bool(split))
    opened = ((name, *open_rows(name, split or "train")) for name in parts)
    return [
        Examples(rows, name, folder, input_key, label_key, require_answer, columns) for name, rows, folder in opened
    ]


def _json_value(row: dict[str, Any], name: str, origin: str) -> Any:
    value = column(row, name, "columns", origin)
    try:
        json.dumps(value)  # checkpoints and ladders hold it
    except (TypeError, ValueError):
        wrong_value(
            f"{origin}, {name!r}", "data.columns needs what JSON can hold: text, numbers, lists, objects", value
        )
    return value


def _number(row: dict[str, Any], key: str, bounds: tuple[float, float], origin: str) -> float | None:
    value = row.get(key)
    if value in (None, ""):
        return None
    low, high = bounds
    if isinstance(value, str):  # as all values of a CSV file
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        need = f"needs a number from {low} to {high} (rename the column if it means something else)"
        wrong_value(f"{origin}, {key!r}", need, value)
    return float(value)
