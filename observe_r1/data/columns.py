"""Which columns of a row hold the question, its images and its gold answer."""

import json
import re
from contextlib import suppress
from typing import Any

from observe_r1.errors import UserError
from observe_r1.registry import nearest

MESSAGE = "message"
"""The column that always holds a chat. In any other a text may be the question itself."""

_IN_ITS_PLACE = ("problem", "prompt")
_IMAGE_COLUMNS = ("images", "image")
_CHAT_AS_JSON = re.compile(r"\s*(\[\s*)?\{\s*\"|\s*\[\s*\]\s*$")


def question(row: dict[str, Any], key: str, origin: str) -> tuple[str, Any]:
    """Return the column that holds the question, and the question as `parse_chat` takes it.

    It is the column `key`; where that is `message` and the row has none or null (the rows of a Parquet file all have
    the same columns), `problem` (EasyR1) or `prompt` (verl, TRL).
    Errors: `UserError` if there is no such column.
    """
    if key == MESSAGE and row.get(key) in (None, ""):
        key = next((name for name in _IN_ITS_PLACE if row.get(name) not in (None, "")), key)
    value = column(row, key, "input_key", origin)
    if isinstance(value, str) and key != MESSAGE and not _CHAT_AS_JSON.match(value):
        value = [{"role": "user", "content": value}]
    return key, value


def images(row: dict[str, Any]) -> list[Any] | None:
    """Return what the column `images` or else `image` holds, as a list; None if the row has neither column."""
    present = [row[name] for name in _IMAGE_COLUMNS if name in row]
    for value in present:
        if value not in (None, ""):
            return _listed(value)
    return [] if present else None


def _listed(value: Any) -> list[Any]:
    """Return one image, several, or (CSV has texts alone) a list of them as JSON, as a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):
            value = json.loads(value)
    return value if isinstance(value, list) else [value]


def holder(row: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the dict to look `key` up in, and the name it has there: `a.b` is `b` inside the column `a`."""
    outer, dot, inner = key.partition(".")
    if key in row or not dot or not isinstance(row.get(outer), dict):
        return row, key
    return holder(row[outer], inner)


def column(row: dict[str, Any], key: str, setting: str, origin: str) -> Any:
    """Return the value under `key`. Errors: `UserError` that names the columns present and the setting."""
    inside, name = holder(row, key)
    if name in inside:
        return inside[name]
    names = _dotted_names(row)
    present = ", ".join(names) or "none"
    raise UserError(f"{origin}: no column {key!r}{nearest(key, names)}: the row has {present}; set data.{setting}")


def _dotted_names(row: dict[str, Any]) -> list[str]:
    inner = {name: value if isinstance(value, dict) else {} for name, value in row.items()}
    return [f"{name}.{key}" if key else name for name, keys in inner.items() for key in (keys or ("",))]
