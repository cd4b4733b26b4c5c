"""From a question as a row holds it to messages, images and the demonstrated response.

Images are checked here, but not opened: a row names them, and `images.opened_image` reads them.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from observe_r1.data.wrong_value import check_text, explain_json_error, shorten, wrong_value
from observe_r1.errors import UserError
from observe_r1.records import ImageSource, Message

ROLES = ("system", "user", "assistant")
_SPEAKERS = {"human": "user", "gpt": "assistant"} | {role: role for role in ROLES}
"""Roles by the names that LLaVA's `{"from": …, "value": …}` gives them."""
_IGNORED = ("id", "name")
"""Keys of a turn that the question does not need."""
_MARK = "<image>"
_MARK_PART = {"type": "image"}
_PYTHON_LIST = re.compile(r"\s*[\[{(]+\s*'")
_SPECIAL_TOKEN = re.compile(r"<\|[a-z][a-z0-9_]{2,}\|>")

LIMITS = ("min_pixels", "max_pixels")
"""Keys of an image's own limits, which apply within those of the model."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_HOLDERS = ("bytes", "path", "image", "image_url", "url")
_IGNORED_IMAGE_KEYS = ("type", "text", "detail")
"""Keys of an image that the question does not need; in columns of Parquet, `text` is null there."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A parsed chat; the fields are those of `Example`."""

    messages: tuple[Message, ...]
    images: tuple[ImageSource, ...]
    response: str | None


@dataclass
class _Images:
    """The images of a chat while its turns are read: its own, and marks for those in a column beside it."""

    folder: Path | None
    beside: list[Any] | None
    found: list[tuple[dict[str, Any], ImageSource | None]] = field(default_factory=list)
    """The image parts of the messages, each with its image, or None for a mark."""

    def add(self, image: dict[str, Any], place: str) -> dict[str, Any]:
        """Add the next image, or the mark for one, and return its part of the message."""
        if image is _MARK_PART or (self.beside is not None and _held(image, place) is None):
            source, limits = None, _own_limits(image, place)
        else:
            source, limits = _image_source(image, place, self.folder)
        self.found.append(({"type": "image", **limits}, source))
        return self.found[-1][0]

    def sources(self, place: str) -> list[ImageSource]:
        """Return all images in order, with marks replaced; those beside the chat if it has neither images nor marks."""
        marks = sum(source is None for _, source in self.found)
        if self.found and not marks:
            return [source for _, source in self.found if source is not None]
        numbered = enumerate(self.beside or (), start=1)
        beside = [_image_source(image, f"{place}, image {number}", self.folder) for number, image in numbered]
        if not self.found:
            self.found = [({"type": "image", **limits}, source) for source, limits in beside]
            return [source for source, _ in beside]
        if marks != len(beside):
            raise UserError(
                f"{place}: every <image> mark needs an image, and every image a mark: {marks} marked and "
                f"{len(beside)} given in this row"
            )
        rest = iter(beside)
        return [source if source is not None else _fill(part, *next(rest)) for part, source in self.found]


def _fill(mark: dict[str, Any], source: ImageSource, limits: dict[str, int]) -> ImageSource:
    mark.update(limits)
    return source


def parse_chat(value: Any, place: str, folder: Path | None, images: list[Any] | None = None) -> Chat:
    """Check and split one chat.

    Args:
        value: A list of `{"role": …, "content": …}` or (LLaVA) `{"from": …, "value": …}`, or a string that holds one
            as JSON. Content is a list of `{"type": "text", "text": …}`, `{"type": "image", "image": …}` and (OpenAI)
            `{"type": "image_url", "image_url": …}`, or a string, in which (in user turns) each `<image>` is a mark for
            the next of `images`. An image's `min_pixels` and `max_pixels` stay in its part of the message.
        place: Row and column, for errors.
        folder: Where relative image paths start; None if there is no such place.
        images: The images in the row's own column; None if it has no such column. If it has one, an image part
            without an image is also a mark. They are ignored if the chat has its own images, and come before the
            text of the first user turn if the chat has neither images nor marks, as in TRL.

    Returns:
        The chat up to and including its last user turn, its images in order, and the text of the assistant
        turn after that, if there is one.

    Raises:
        UserError: `value` is no such chat, there are not as many marks as images, or a text spells a special token:
            the tokenizer would take it for the real one, and text could pass for an image or a turn.
    """
    found = _Images(folder, images)
    messages = [
        _message(turn, found, f"{place}, turn {number}", is_first=number == 1)
        for number, turn in enumerate(_as_list(value, place), start=1)
    ]
    response = _text(messages.pop()) if messages and messages[-1]["role"] == "assistant" else None
    if not messages or messages[-1]["role"] != "user":
        raise UserError(f"{place}: the chat needs a user turn at its end, or before its last assistant turn")
    are_beside = not found.found
    sources = found.sources(place)
    if are_beside:
        first = next(message for message in messages if message["role"] == "user")
        first["content"][:0] = [part for part, _ in found.found]
    return Chat(tuple(messages), tuple(sources), response)


def _as_list(value: Any, place: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            if _PYTHON_LIST.match(value):
                raise UserError(
                    f"{place}: not a chat: a Python list as str() writes it, starting with {shorten(value)}: write "
                    "it with json.dumps, or as a real list"
                ) from error
            reason, position = explain_json_error(error.doc, error)
            raise UserError(
                f"{place}: not a chat: the string is not JSON (character {position + 1}: {reason}), "
                f"starting with {shorten(error.doc)}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not a chat: the string is not JSON ({error})") from error
    if not isinstance(value, list):
        wrong_value(place, "not a chat: needs a list of messages", value)
    return value


def _message(turn: Any, images: _Images, place: str, is_first: bool) -> Message:
    role, content = _speech(turn, place)
    if role == "system" and not is_first:
        raise UserError(f"{place}: only the first turn may be a system turn")
    if isinstance(content, str):
        content = _split_at_marks(content) if role == "user" else [{"type": "text", "text": content}]
    if not isinstance(content, list):
        wrong_value(place, "content needs a string or a list of parts", content)
    parts = [_part(part, role, images, place) for part in content]
    if not any(part["type"] == "image" or part["text"].strip() for part in parts):
        raise UserError(f"{place}: the {role} turn is empty")
    return {"role": role, "content": parts}


def _speech(turn: Any, place: str) -> tuple[str, Any]:
    """Return a turn's role and content; raise `UserError` if it is no turn, or has a key that is not read."""
    if not isinstance(turn, dict):
        wrong_value(place, 'needs {"role": …, "content": …}', turn)
    llava = turn.get("role") is None and turn.get("from") is not None
    who, what = ("from", "value") if llava else ("role", "content")
    role = turn.get(who)
    roles = _SPEAKERS if llava else ROLES
    if not isinstance(role, str) or role not in roles:
        wrong_value(place, f"{who} needs one of {', '.join(roles)}", role)
    if unread := sorted(key for key in turn if key not in (who, what, *_IGNORED) and turn[key] not in (None, [], "")):
        raise UserError(f"{place}, {unread[0]!r}: this key of a turn is not read: move its content into {what!r}")
    return (_SPEAKERS[role] if llava else role), turn.get(what)


def _split_at_marks(text: str) -> list[dict[str, str]]:
    pieces = re.split(f"({_MARK})", text)
    return [_MARK_PART if piece == _MARK else {"type": "text", "text": piece} for piece in pieces if piece]


def _part(part: Any, role: str, images: _Images, place: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        text = part.get("text")
        if not isinstance(text, str):
            wrong_value(place, "a text part needs a string under 'text'", text)
        check_text(place, text)
        if token := _SPECIAL_TOKEN.search(text):
            raise UserError(f"{place}: the text contains the special token {token[0]!r}: remove or reword it")
        return {"type": "text", "text": text}
    if kind in ("image", "image_url"):
        if role != "user":
            raise UserError(f"{place}: only user turns may have images, not the {role} turn")
        return images.add(part, place)
    if isinstance(part, dict):
        wrong_value(place, "unknown content type: known are 'text', 'image' and 'image_url'", kind)
    wrong_value(place, 'a content part needs {"type": …}', part)


def _text(message: Message) -> str:
    return "".join(part["text"] for part in message["content"])


def _image_source(image: Any, place: str, folder: Path | None) -> tuple[ImageSource, dict[str, int]]:
    """Return an image as `open_image` takes it, and its own limits.

    Args:
        image: A path, a `file://`, `data:` or `http(s)` URI, or bytes; or a dict that holds one of these under `bytes`,
            `path`, `image`, `image_url` or `url`, as `datasets`, verl and OpenAI write images, perhaps with `LIMITS`.
        place: Row and column, for errors.
        folder: Where relative paths start; None if there is no such place.

    Returns:
        An absolute path, a `data:` URI, an `http(s)` URL or bytes; and the limits.

    Raises:
        UserError: `image` is anything else, or a dict has a key that is not read.
    """
    own: dict[str, int] = {}
    while isinstance(image, dict):  # OpenAI: {"image_url": {"url": …}}
        own |= _own_limits(image, place)
        image = _held(image, place)
    return _source(image, place, folder), own


def _held(image: dict[str, Any], place: str) -> Any:
    """Return the image in a dict, None if there is none; raise `UserError` for keys that are not read."""
    unread = sorted(
        key for key in image if image[key] is not None and key not in (*_HOLDERS, *LIMITS, *_IGNORED_IMAGE_KEYS)
    )
    if unread:
        raise UserError(
            f"{place}, {unread[0]!r}: this key of an image is not read: remove it; known are "
            f"{', '.join((*_HOLDERS, *LIMITS))}"
        )
    return next((image[key] for key in _HOLDERS if image.get(key) is not None), None)


def _own_limits(image: dict[str, Any], place: str) -> dict[str, int]:
    """Return the limits beside an image; raise `UserError` if they are no such numbers, or the wrong way round."""
    own = {key: image[key] for key in LIMITS if image.get(key) is not None}
    for key, value in own.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            wrong_value(f"{place}, {key!r}", "needs a whole number of pixels, at least 1", value)
    if own.get("min_pixels", 1) > own.get("max_pixels", math.inf):
        raise UserError(
            f"{place}: min_pixels = {own['min_pixels']} is over max_pixels = {own['max_pixels']}: correct one of them"
        )
    return own


def _source(image: Any, place: str, folder: Path | None) -> ImageSource:
    if isinstance(image, bytes):
        return image
    if image is None:
        raise UserError(
            f"{place}: the image has no path, URI or bytes (missing or null): give one, or leave the row out"
        )
    if not isinstance(image, str) or not image.strip():
        wrong_value(place, "an image needs a path, a URI or bytes", image)
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
        wrong_value(place, "a dataset on the Hub has no folder that relative image paths could start from", image)
    return str((folder or Path()) / image)
