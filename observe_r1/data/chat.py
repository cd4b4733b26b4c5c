"""From a question as a row holds it to messages, images and the demonstrated response."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from observe_r1.data.image_sources import held, image_source, own_limits
from observe_r1.data.wrong_value import check_text, explain_json_error, shorten, wrong_value
from observe_r1.errors import UserError
from observe_r1.records import ImageSource, Message

ROLES = ("system", "user", "assistant")
_SPEAKERS = {"human": "user", "gpt": "assistant"} | {role: role for role in ROLES}
"""Who speaks in LLaVA's `{"from": …, "value": …}`."""
_IGNORED = ("id", "name")
"""Keys of a turn that say nothing of the question."""
_MARK = "<image>"
_MARK_PART = {"type": "image"}
_PYTHON_LIST = re.compile(r"\s*[\[{(]+\s*'")
_SPECIAL_TOKEN = re.compile(r"<\|[a-z][a-z0-9_]{2,}\|>")


@dataclass(frozen=True, slots=True)
class Chat:
    """What `parse_chat` returns; the fields are those of `Example`."""

    messages: tuple[Message, ...]
    images: tuple[ImageSource, ...]
    response: str | None


@dataclass
class _Images:
    """The images of a chat as its turns are read: its own, and marks for those that stand beside it."""

    folder: Path | None
    beside: list[Any] | None
    found: list[tuple[dict[str, Any], ImageSource | None]] = field(default_factory=list)
    """The parts of the messages that stand for images, each with its image, or None for a mark."""

    def add(self, image: dict[str, Any], place: str) -> dict[str, Any]:
        """Take the next image, or the mark for one; returns its part of the message."""
        if image is _MARK_PART or (self.beside is not None and held(image, place) is None):
            source, limits = None, own_limits(image, place)
        else:
            source, limits = image_source(image, place, self.folder)
        self.found.append(({"type": "image", **limits}, source))
        return self.found[-1][0]

    def sources(self, place: str) -> list[ImageSource]:
        """Return all images in order, marks replaced. Without images or marks in the chat, those beside it."""
        marks = sum(source is None for _, source in self.found)
        if self.found and not marks:
            return [source for _, source in self.found if source is not None]
        numbered = enumerate(self.beside or (), start=1)
        beside = [image_source(image, f"{place}, image {number}", self.folder) for number, image in numbered]
        if not self.found:
            self.found = [({"type": "image", **limits}, source) for source, limits in beside]
            return [source for source, _ in beside]
        if marks != len(beside):
            raise UserError(
                f"{place}: every <image> mark needs an image, every image a mark: {marks} and {len(beside)} in this row"
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
        images: What the row holds beside the chat; None if it has no column for images. Else an image part
            without an image is a mark, too. A chat that brings its own images does without them; in one with
            neither images nor marks they stand before the text of the first user turn, as in TRL.

    Returns:
        The chat up to and including its last user turn, its images in order, and the text of the assistant
        turn after that, if there is one.

    Errors: `UserError` for all that is not such a chat, for marks and images of different number, and for
    text that spells a special token: the tokenizer would take it for the real one, and text could pass for
    an image or for a turn.
    """
    found = _Images(folder, images)
    messages = [
        _message(turn, found, f"{place}, turn {number}", is_first=number == 1)
        for number, turn in enumerate(_as_list(value, place), start=1)
    ]
    response = _text(messages.pop()) if messages and messages[-1]["role"] == "assistant" else None
    if not messages or messages[-1]["role"] != "user":
        raise UserError(f"{place}: no user turn at the end of the chat, or before its last assistant turn")
    stand_beside = not found.found
    sources = found.sources(place)
    if stand_beside:
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
                    f"{place}: not a chat: a Python list as str() writes it, starts with {shorten(value)}: write it "
                    "with json.dumps, or as a real list"
                ) from error
            reason, position = explain_json_error(error.doc, error)
            raise UserError(
                f"{place}: not a chat: the string is not JSON (character {position + 1}: {reason}), "
                f"starts with {shorten(error.doc)}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not a chat: the string is not JSON ({error})") from error
    if not isinstance(value, list):
        wrong_value(place, "not a chat: needs a list of messages", value)
    return value


def _message(turn: Any, images: _Images, place: str, is_first: bool) -> Message:
    role, content = _speech(turn, place)
    if role == "system" and not is_first:
        raise UserError(f"{place}: a system turn may only come first")
    if isinstance(content, str):
        content = _split_at_marks(content) if role == "user" else [{"type": "text", "text": content}]
    if not isinstance(content, list):
        wrong_value(place, "content needs a string or a list of parts", content)
    parts = [_part(part, role, images, place) for part in content]
    if not any(part["type"] == "image" or part["text"].strip() for part in parts):
        raise UserError(f"{place}: the {role} turn is empty")
    return {"role": role, "content": parts}


def _speech(turn: Any, place: str) -> tuple[str, Any]:
    """Return who speaks, and what. Errors: `UserError` where it is no turn, or says more than is read."""
    if not isinstance(turn, dict):
        wrong_value(place, 'needs {"role": …, "content": …}', turn)
    llava = turn.get("role") is None and turn.get("from") is not None
    who, what = ("from", "value") if llava else ("role", "content")
    role = turn.get(who)
    roles = _SPEAKERS if llava else ROLES
    if not isinstance(role, str) or role not in roles:
        wrong_value(place, f"{who} needs one of {', '.join(roles)}", role)
    if unread := sorted(key for key in turn if key not in (who, what, *_IGNORED) and turn[key] not in (None, [], "")):
        raise UserError(f"{place}, {unread[0]!r}: this key of a turn is not read: write what it says into {what!r}")
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
            raise UserError(f"{place}: the text spells the special token {token[0]!r}: remove or reword it")
        return {"type": "text", "text": text}
    if kind in ("image", "image_url"):
        if role != "user":
            raise UserError(f"{place}: images may only stand in user turns, not in the {role} turn")
        return images.add(part, place)
    if isinstance(part, dict):
        wrong_value(place, "unknown content type: known are 'text', 'image' and 'image_url'", kind)
    wrong_value(place, 'a content part needs {"type": …}', part)


def _text(message: Message) -> str:
    return "".join(part["text"] for part in message["content"])
