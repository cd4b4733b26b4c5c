"""The elements of a JSON list too long for memory: where each of them starts in its file."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from observe_r1.data.json_errors import broken_json, explain_json_error

WINDOW = 1 << 18
"""Bytes that are read at once."""

_LONGEST_TOKEN = 16
"""Longer than every JSON token but strings and numbers; what those look like when cut is seen to below."""

_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


class _Window:
    """A part of the file as text that moves on through it.

    Latin-1 makes one character of every byte, so that positions are byte offsets; JSON's own signs are ASCII.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.text = ""
        self.start = 0
        """Where `text` starts in the file."""
        self.at_end = False
        """Whether nothing follows `text` in the file."""

    def move(self, keep: int) -> None:
        """Read on by at least as much as is kept, and forget what stands before the position `keep`."""
        more = self._file.read(max(WINDOW, len(self.text) - keep))
        self.text = self.text[keep:] + more.decode("latin-1")
        self.start += keep
        self.at_end = not more


def list_offsets(path: Path) -> Iterator[int]:
    """Yield where every element of the list that the file holds starts, and at last where the list ends.

    The whole list is parsed, an element at a time: in memory are a window of the file and one element.

    Errors: `UserError` for broken JSON, with its line and column.
    """
    with path.open("rb") as file:
        window = _Window(file)
        window.move(0)
        separator = window.text.index("[")
        while window.text[separator] != "]":
            try:
                start, following = _element(window.text, separator)
            except json.JSONDecodeError as error:
                if window.at_end or not _may_be_cut(error):
                    reason, position = explain_json_error(window.text, error)
                    raise broken_json(path, window.start + position, reason) from error
                window.move(keep=separator)
                separator = 0
                continue
            except (ValueError, RecursionError) as error:  # a number of thousands of digits; endless nesting
                first = _skip_space(window.text, separator + 1)
                raise broken_json(path, window.start + first, str(error)) from error
            if start < following:
                yield window.start + start
            separator = following
        yield window.start + separator
        _check_end(path, window, separator + 1)


def _element(text: str, separator: int) -> tuple[int, int]:
    """Return where the element after a separator starts, and where the next separator stands.

    The same twice for the end of an empty list. Errors: `JSONDecodeError`.
    """
    start = _skip_space(text, separator + 1)
    if text[separator] == "[" and text.startswith("]", start):
        return start, start
    _, end = _decode(text, start)
    following = _skip_space(text, end)
    if text[following : following + 1] not in ("]", ","):
        raise json.JSONDecodeError("Expecting ',' or ']'", text, following)
    return start, following


def _may_be_cut(error: json.JSONDecodeError) -> bool:
    """Whether the text may be wrong only because it ends too early. A number cut short lacks its separator."""
    return error.msg.startswith("Unterminated string") or error.pos > len(error.doc) - _LONGEST_TOKEN


def _check_end(path: Path, window: _Window, position: int) -> None:
    while (rest := _skip_space(window.text, position)) == len(window.text) and not window.at_end:
        window.move(keep=rest)
        position = 0
    if rest < len(window.text):
        raise broken_json(path, window.start + rest, "Text after the end of the list")


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None  # an empty match counts
    return match.end()
