"""Rows of a JSON list or a JSON-lines file, each parsed when it is asked for."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from observe_r1.data.lazy import LazySequence
from observe_r1.data.wrong_value import broken_json, explain_json_error
from observe_r1.errors import UserError

WINDOW = 1 << 18
"""Bytes that are read at once."""

_LONGEST_TOKEN = 16
"""Longer than every JSON token except strings and numbers; `_may_be_cut` says how those look when cut."""

_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


class _Window:
    """A part of the file as text, which moves through the file.

    Latin-1 makes one character of every byte, so that positions are byte offsets; JSON's own characters are ASCII.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.text = ""
        self.start = 0
        """Where `text` starts in the file."""
        self.at_end = False
        """Whether nothing follows `text` in the file."""

    def move(self, keep: int) -> None:
        """Read on by at least as much as is kept, and forget the text before position `keep`."""
        more = self._file.read(max(WINDOW, len(self.text) - keep))
        self.text = self.text[keep:] + more.decode("latin-1")
        self.start += keep
        self.at_end = not more


def list_offsets(path: Path) -> Iterator[int]:
    """Yield the offset where each element of the file's list starts, and last the offset where the list ends.

    The whole list is parsed, one element at a time: a window of the file and one element are in memory.

    Raises:
        UserError: The JSON is broken; names line and column.
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
    """Return where the element after a separator starts, and where the next separator is.

    Both are the same at the end of an empty list. Raises `JSONDecodeError`.
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
    """Return whether the text may be wrong only because it ends too early. A number cut short lacks its separator."""
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


_BOM = b"\xef\xbb\xbf"

_SMALL = 1 << 26
"""Bytes of the largest file that is parsed as a whole only to explain what is wrong with it."""


class JsonRows(LazySequence[Any]):
    """The values of a JSON list, or of JSON lines; the first character tells which.

    Only each row's place in the file is kept (8 bytes per row), and no open file, so that the rows can be pickled and
    read from any thread or process. JSON lines are indexed without parsing them: a broken line is an error when it is
    read. A list is checked as a whole.

    Raises:
        UserError: The file cannot be read, or the JSON is broken; names line and column.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._holds_list = _holds_list(path)
            self._offsets = array("q", list_offsets(path) if self._holds_list else _line_offsets(path))
            """Where each row starts, and last where the last row ends."""
            if not self._holds_list:
                self._refuse_one_object()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def item(self, index: int) -> Any:
        """Read and parse one row."""
        start, end = self._offsets[index], self._offsets[index + 1]
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                text = file.read(end - start).decode().rstrip()
            if self._holds_list:
                text = text.removesuffix(",")
            return json.loads(text)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise broken_json(self._path, start + error.start, "not UTF-8 text") from error
        except json.JSONDecodeError as error:
            reason, position = explain_json_error(text, error)
            if not self._holds_list:
                reason += " (each line is a row, unless the file is one list)"
            raise broken_json(self._path, start + len(text[:position].encode()), reason) from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; endless nesting
            raise broken_json(self._path, start, str(error)) from error

    def _refuse_one_object(self) -> None:
        """Raise `UserError` if the lines are no rows: one object holds all, or objects span several lines."""
        if len(self) == 0:
            return
        spread = len(self) > 1 and _is_cut(self._line(0)) and not _is_object(self._line(1))
        if (spread or len(self) == 1) and self._offsets[-1] < _SMALL and _holds_rows(self._path.read_bytes()):
            raise UserError(
                f"{self._path}: one JSON object that holds rows, or columns, under its keys: write the rows as a list "
                "[{…}, …], or one per line"
            )
        if spread:
            raise UserError(
                f"{self._path}: line 1: a JSON object that spans several lines: write each row on one line, or all "
                "as a list [{…}, …]"
            )

    def _line(self, index: int) -> bytes:
        start, end = self._offsets[index], self._offsets[index + 1]
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read(end - start).strip()


def _is_cut(line: bytes) -> bool:
    """Return whether an object begins in a line and does not end there."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return line.startswith(b"{") and error.pos >= len(error.doc)
    except (ValueError, RecursionError):
        return False
    return False


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _holds_rows(text: bytes) -> bool:
    """Return whether `text` is an object of similar objects or of lists of objects, and no row with chats in it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    values = list(value.values()) if isinstance(value, dict) else []
    if len(values) > 1 and all(isinstance(inner, dict) for inner in values):
        return all(inner.keys() == values[0].keys() for inner in values)
    rows = [row for inner in values if isinstance(inner, list) for row in inner[:1]]
    return len(rows) == len(values) > 0 and all(isinstance(r, dict) and not r.keys() & {"role", "from"} for r in rows)


def _holds_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(_BOM).lstrip().startswith(b"[")


def _line_offsets(path: Path) -> Iterator[int]:
    """Yield the offset where each line that is not blank starts, and last the offset where the file ends."""
    with path.open("rb") as file:
        start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(start)
        for line in file:
            if not line.isspace():
                yield start
            start += len(line)
        yield start
