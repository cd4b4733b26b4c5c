"""From the fields of a row to an example: texts, images, options and answers, each read or refused in one line.

Multiple choice takes one form in all sources: options as lines "A. …" under the question, the answer as a letter.
"""

import os
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from PIL.Image import Image

from observe_r1.data.chat import parse_chat
from observe_r1.data.wrong_value import shorten
from observe_r1.errors import UserError
from observe_r1.records import Example, ImageSource
from observe_r1.registry import nearest
from observe_r1.rewards.judge.options import options_at

IN_THE_IMAGE = "Answer the question in the image."
"""The question of a row that has none in words."""

_NONE: tuple[Any, ...] = (None, "", b"", {"bytes": None, "path": None})
_URI = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)
_OPTION_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_BRACED = r"{((?:[^{}]|{(?:[^{}]|{(?:[^{}]|{[^{}]*})*})*})*)}"


def make_example(question: str, row_images: list[ImageSource], answer: str, place: str, row_id: str = "") -> Example:
    """Return the example that asks `question` in one user turn.

    Args:
        question: The text. Each `<image>` in it stands for the next image. Without any, the images come first;
            without images, the marks are removed.
        row_images: The images.
        answer: The gold answer.
        place: The row, for errors.
        row_id: The row's own id, empty if it has none.

    Raises:
        UserError: There are not as many marks as images, or a text spells a special token.
    """
    pieces = question.split("<image>") if row_images else [question.replace("<image>", "")]
    marks = len(pieces) - 1
    if marks not in (0, len(row_images)):
        raise UserError(
            f"{place}: the question has {marks} <image> marks for {len(row_images)} images: make them match"
        )
    if not marks:
        pieces = [""] * len(row_images) + pieces
    content: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        if number:
            content.append({"type": "image", "image": row_images[number - 1]})
        if piece.strip():
            content.append({"type": "text", "text": piece.strip("\n")})
    chat = parse_chat([{"role": "user", "content": content}], place, folder=None)
    return Example(id=row_id, messages=chat.messages, images=chat.images, answer=answer, origin=place)


def field(row: Mapping[str, Any], key: str, place: str) -> Any:
    """Return the value under `key`; raise `UserError`, naming the columns of the row, if there is none."""
    if key not in row:
        present = ", ".join(map(repr, row)) or "none"
        raise UserError(f"{place}: no column {key!r}{nearest(key, list(row))}: the row has {present}; check the source")
    return row[key]


def text(row: Mapping[str, Any], key: str, place: str) -> str:
    """Return the text or whole number under `key` without outer blanks; raise `UserError` for anything else."""
    value = field(row, key, place)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}, {key!r}: needs text, got {value!r:.80}: fill it in, or leave the row out")
    return value.strip()


def optional_text(row: Mapping[str, Any], key: str, place: str) -> str:
    """Return the text or whole number under `key`, empty if there is none; raise `UserError` for other values."""
    value = row.get(key)
    return "" if value is None or (isinstance(value, str) and not value.strip()) else text(row, key, place)


def images(values: Any, key: str, place: str, folder: Path | None) -> list[ImageSource]:
    """Return the images of a row as encoded bytes, URIs or absolute paths; none if all that it holds is empty.

    Args:
        values: A list, or None for none, of bytes, `{"bytes": …, "path": …}` as the Hub's files hold them, PIL images
            as `datasets` decodes them, URIs, or paths.
        key: Column, for errors.
        place: Row, for errors.
        folder: Where relative paths start: there or, since repositories keep their rows in a folder such as `data`,
            one above; None if there is no such place.

    Raises:
        UserError: `values` is no list, a value is no image, or there is no file at a path.
    """
    where = f"{place}, {key!r}"
    if values is not None and not isinstance(values, list):
        raise UserError(f"{where}: needs a list of images, got {values!r:.80}: make it a list")
    given = values or []
    return [] if all(value in _NONE for value in given) else [_image(value, where, folder) for value in given]


def image_under(row: Mapping[str, Any], key: str, place: str, folder: Path | None) -> list[ImageSource]:
    """Return the one image under `key`, or an empty list if it is empty there; raise `UserError` as `images`."""
    return images([field(row, key, place)], key, place, folder)


def decoded_or_file(row: Mapping[str, Any], place: str, folder: Path | None) -> list[ImageSource]:
    """Return the image under `decoded_image` or else the file that `image` names; raise `UserError` as `images`."""
    key = "image" if row.get("decoded_image") is None else "decoded_image"
    return images([row.get(key)], key, place, folder)


def is_file(path: Path) -> bool:
    """Return whether a file is there: never for a name that no file can have, which `Path.is_file` raises for."""
    return os.path.isfile(path)  # noqa: PTH113


def _image(value: Any, where: str, folder: Path | None) -> ImageSource:
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, Image):
        buffer = BytesIO()
        value.save(buffer, format="PNG")
        return buffer.getvalue()
    if not isinstance(value, bytes | str) or not value:
        raise UserError(f"{where}: needs an image, got {value!r:.80}: leave the row out if it has none")
    return value if isinstance(value, bytes) or _URI.match(value) else _file(value, where, folder)


def _file(name: str, where: str, folder: Path | None) -> str:
    if folder is None and not Path(name).is_absolute():
        raise UserError(
            f"{where}: {name!r:.80} is a separate file, which the Hub does not send with the rows: download the "
            "dataset with its images, unpack them, and name the file of its rows"
        )
    start = folder or Path()
    for path in (start / name, start.parent / name):
        if is_file(path):
            return str(path)
    raise UserError(f"{where}: no image at {shorten(str(start / name))}: unpack the dataset's images there")


def with_options(question: str, options: Sequence[str]) -> str:
    """Return the question with its options under it, one per line."""
    lines = (f"{letter}. {option}".rstrip() for letter, option in zip(ascii_uppercase, options, strict=False))
    return "\n".join([question, *lines])


def option_list(row: Mapping[str, Any], key: str, place: str, *, required: bool = False) -> list[str]:
    """Return the list of options under `key`.

    Raises:
        UserError: It is not 2 to 26 texts or numbers; an empty list is allowed if not `required`.
    """
    value = field(row, key, place)
    are_texts = isinstance(value, list) and all(isinstance(option, str | int | float) for option in value)
    if not are_texts or not (2 <= len(value) <= len(ascii_uppercase) or (not value and not required)):
        raise UserError(f"{place}, {key!r}: needs a list of 2 to 26 options, got {value!r:.80}: correct it")
    return [str(option).strip() for option in value]


def split_options(listed: str) -> list[str]:
    """Return the options of "(A) 1 (B) 2", "A. 1; B. 2", "(1) 1 (2) 2" and the like; an empty list for other texts.

    Labels count in order: the text of one option may hold any label but the next.
    """
    options = options_at(listed.strip(), 0)
    return options.texts if options else []


def letter_at(index: Any, options: Sequence[str], where: str) -> str:
    """Return the letter of the option at `index`, counted from 0; raise `UserError` if there is none."""
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(options):
        raise UserError(f"{where}: needs one of {len(options)} options, got {index!r:.80}: correct the answer")
    return ascii_uppercase[index]


def letter_of(answer: str, options: Sequence[str], where: str) -> str:
    """Return the letter that `answer` names: "B", "b", "(B)", "B." or the text of exactly one of the options.

    Raises:
        UserError: The letter is out of range, or `answer` is neither.
    """
    if match := _OPTION_LETTER.fullmatch(answer):
        index = ascii_uppercase.index(match[1].upper())
        if index < len(options):
            return ascii_uppercase[index]
    if options.count(answer) == 1:
        return ascii_uppercase[options.index(answer)]
    last = ascii_uppercase[len(options) - 1]
    raise UserError(f"{where}: needs a letter from A to {last} or an option's text, got {answer!r:.80}: correct it")


def in_braces(given: str, command: str) -> list[str]:
    r"""Return the content of each `\command{…}` in a text, with braces nested up to three deep."""
    return [found.strip() for found in re.findall(rf"\\{command}\s*{_BRACED}", given)]


def in_answer_tags(given: str, where: str) -> str:
    """Return the content of the last `<answer>…</answer>`; raise `UserError` if there is none."""
    found = re.findall(r"<answer>(.*?)</answer>", given, re.DOTALL)
    if not found or not found[-1].strip():
        raise UserError(f"{where}: needs the answer in <answer>…</answer>, got {given!r:.80}: add it")
    return str(found[-1]).strip()
