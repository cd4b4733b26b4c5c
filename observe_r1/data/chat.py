"""From the `message` column of a row to messages, images and the demonstrated response."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

from observe_r1.data.json_rows import explain_json_error
from observe_r1.errors import UserError
from observe_r1.records import ImageSource, Message

ROLES = ("system", "user", "assistant")
_SPECIAL_TOKEN = re.compile(r"<\|[a-z][a-z0-9_]{2,}\|>")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Chat:
    """What `parse_chat` returns; the fields are those of `Example`."""

    messages: tuple[Message, ...]
    images: tuple[ImageSource, ...]
    response: str | None


def parse_chat(value: Any, place: str, folder: Path | None) -> Chat:
    """Check and split one chat of the message format.

    Args:
        value: A list of `{"role": …, "content": …}`, or a string that holds one as JSON. Content is a
            string or a list of `{"type": "text", "text": …}` and `{"type": "image", "image": …}`, where an
            image is a path, a `file://`, `data:` or `http(s)` URI, bytes, or `{"bytes": …}`.
        place: Row and column, for errors.
        folder: Where relative image paths start; None if there is no such place.

    Returns:
        The chat up to and including its last user turn, its images in order, and the text of the assistant
        turn after that, if there is one.

    Errors: `UserError` for all that is not such a chat, and for text that spells a special token: the
    tokenizer would take it for the real one, and text could pass for an image or for a turn.
    """
    turns = _as_list(value, place)
    messages: list[Message] = []
    images: list[ImageSource] = []
    for number, turn in enumerate(turns, start=1):
        messages.append(_message(turn, images, f"{place}, turn {number}", folder, is_first=number == 1))
    response = _text(messages.pop()) if messages and messages[-1]["role"] == "assistant" else None
    if not messages or messages[-1]["role"] != "user":
        raise UserError(f"{place}: no user turn at the end of the chat, or before its last assistant turn")
    return Chat(tuple(messages), tuple(images), response)


def _as_list(value: Any, place: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            reason = explain_json_error(error.doc, error)
            raise UserError(
                f"{place}: not a chat: the string is not JSON (character {error.pos + 1}: {reason}), "
                f"starts with {_short(error.doc)}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not a chat: the string is not JSON ({error})") from error
    if not isinstance(value, list):
        _wrong(place, "not a chat: needs a list of messages", value)
    return value


def _message(turn: Any, images: list[ImageSource], place: str, folder: Path | None, is_first: bool) -> Message:
    if not isinstance(turn, dict):
        _wrong(place, 'needs {"role": …, "content": …}', turn)
    role, content = turn.get("role"), turn.get("content")
    if role not in ROLES:
        _wrong(place, f"role needs one of {', '.join(ROLES)}", role)
    if role == "system" and not is_first:
        raise UserError(f"{place}: a system turn may only come first")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        _wrong(place, "content needs a string or a list of parts", content)
    parts = [_part(part, role, images, place, folder) for part in content]
    if not any(part["type"] == "image" or part["text"].strip() for part in parts):
        raise UserError(f"{place}: the {role} turn is empty")
    return {"role": role, "content": parts}


def _part(part: Any, role: str, images: list[ImageSource], place: str, folder: Path | None) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        text = part.get("text")
        if not isinstance(text, str):
            _wrong(place, "a text part needs a string under 'text'", text)
        if token := _SPECIAL_TOKEN.search(text):
            raise UserError(f"{place}: the text spells the special token {token[0]!r}: remove or reword it")
        return {"type": "text", "text": text}
    if kind == "image":
        if role != "user":
            raise UserError(f"{place}: images may only stand in user turns, not in the {role} turn")
        images.append(_image_source(part.get("image"), place, folder))
        return {"type": "image"}
    if isinstance(part, dict):
        _wrong(place, "unknown content type: known are 'text' and 'image'", kind)
    _wrong(place, 'a content part needs {"type": …}', part)


def _image_source(image: Any, place: str, folder: Path | None) -> ImageSource:
    if isinstance(image, dict):
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str) or not image.strip():
        _wrong(place, "an image part needs a path, a URI or bytes under 'image'", image)
    scheme = _SCHEME.match(image)
    if image.startswith("data:") or (scheme and scheme[0].lower() in ("http://", "https://")):
        return image
    if scheme and scheme[0].lower() == "file://":
        path = unquote(image[len("file://") :].removeprefix("localhost"))
        if not path.startswith("/"):
            _wrong(place, "a file URI needs an absolute path, as in file:///data/1.png", image)
        return path
    if scheme:
        _wrong(place, "images are read from paths and from file, data, http and https URIs", image)
    if folder is None and not Path(image).is_absolute():
        _wrong(place, "a dataset on the Hub has no folder for relative image paths to start from", image)
    return str((folder or Path()) / image)


def _text(message: Message) -> str:
    return "".join(part["text"] for part in message["content"])


def _wrong(place: str, need: str, value: Any) -> NoReturn:
    raise UserError(f"{place}: {need}, got {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
