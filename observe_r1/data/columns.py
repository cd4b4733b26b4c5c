"""Which columns of a row hold the question, its images and its gold answer."""

import json
import re
from contextlib import suppress
from typing import Any

from observe_r1.data.chat import Chat
from observe_r1.data.wrong_value import shorten
from observe_r1.errors import UserError
from observe_r1.registry import nearest

MESSAGE = "message"
"""The column that always holds a chat. In any other a text may be the question itself."""

_IN_ITS_PLACE = ("problem", "prompt", "messages", "conversations", "question")
_IMAGE_COLUMNS = ("images", "image")
_CHAT_AS_JSON = re.compile(r"""\s*(\[\s*)?\{\s*"|\s*\[\s*\]\s*$|\s*\[\s*\{\s*'(role|content|from|value)'""")
_NEVER_READ = re.compile(r"(.*_)?(videos?|audios?|speech|tools?|tool_calls|functions)(_(paths?|urls?|files?))?|objects")
_MORE_IMAGES = re.compile(r"(images?|img|pictures?)_?\d+")
_MAYBE_IMAGES = re.compile(r"(.*_)?(images?|img|pictures?|figures?|screenshots?)(_(paths?|urls?|files?|names?))?")
_MAYBE_TEXT = ("options", "choices", "context", "passage", "system", "system_prompt")
_EMPTY: tuple[Any, ...] = (None, "", b"", [], {})


def question(row: dict[str, Any], key: str, origin: str) -> tuple[str, Any]:
    """Return the column that holds the question, and the question as `parse_chat` takes it.

    It is the column `key`; where that is `message` and the row has none or null (the rows of a Parquet file all have
    the same columns), `problem` (EasyR1) or `prompt` (verl, TRL), `messages` (OpenAI, ms-swift) or `conversations`
    (LLaVA), or `question` (many image folders).
    Errors: `UserError` if there is no such column, or nothing in it.
    """
    if key == MESSAGE and row.get(key) in (None, ""):
        present = [name for name in (key, *_IN_ITS_PLACE) if name in row]
        key = next((name for name in present if row[name] not in (None, "")), key)
        if present and row.get(key) in (None, ""):
            raise UserError(f"{origin}, {present[0]!r}: the question is empty: write it there, or leave out the row")
    value = column(row, key, "input_key", origin)
    if isinstance(value, str) and key != MESSAGE and not _CHAT_AS_JSON.match(value):
        value = [{"role": "user", "content": value}]
    return key, value


def refuse_unread(row: dict[str, Any], read: tuple[str, ...], chat: Chat, origin: str) -> None:
    """Raise `UserError` where a column that is not read says something that the question needs.

    That is: videos, audio, tools; numbered images; what may be an image where the question has none; options, context
    or a system prompt that do not stand in the chat. All others (ids, origins, metadata) are nobody's question.

    Args:
        row: With its columns.
        read: Columns that are read, as the settings name them.
        chat: What was made of them.
        origin: The row, for errors.
    """
    for name, value in row.items():
        if name in (*_IMAGE_COLUMNS, *read) or value in _EMPTY:
            continue
        place = f"{origin}, {name!r}"
        if _NEVER_READ.fullmatch(name):
            raise UserError(
                f"{place}: the question may need this column, which is not read: leave out the row, or the column"
            )
        is_image = _MAYBE_IMAGES.fullmatch(name) is not None and isinstance(value, str | list)
        if _MORE_IMAGES.fullmatch(name) or (not chat.images and (is_image or _holds_file(value))):
            raise UserError(
                f"{place}: an image that is not read: put all images into the column 'images', or leave it out"
            )
        if name in _MAYBE_TEXT and (missing := _missing(value, chat)):
            raise UserError(
                f"{place}: {shorten(missing)} does not stand in the question, and this column is not read: write it "
                "into the question, or leave the column out"
            )


def _holds_file(value: Any) -> bool:
    """Whether a value is a file's bytes, as `datasets` writes images, audio and videos."""
    value = value[0] if isinstance(value, list) else value
    return isinstance(value, bytes) or (isinstance(value, dict) and {"bytes", "path"} <= value.keys())


def _missing(value: Any, chat: Chat) -> str | None:
    """Return a text of `value` that does not stand in the chat, None if all do."""
    text = "\n".join(part.get("text", "") for message in chat.messages for part in message["content"])
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return next((item for item in inner if isinstance(item, str) and item.strip() not in text), None)


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
    present = ", ".join(name if name.isprintable() else repr(name) for name in names) or "none"
    raise UserError(f"{origin}: no column {key!r}{nearest(key, names)}: the row has {present}; set data.{setting}")


def _dotted_names(row: dict[str, Any]) -> list[str]:
    inner = {name: value if isinstance(value, dict) else {} for name, value in row.items()}
    return [f"{name}.{key}" if key else name for name, keys in inner.items() for key in (keys or ("",))]
