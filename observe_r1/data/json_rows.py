"""Rows of a JSON list or a JSON-lines file, parsed one at a time when they are asked for."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from observe_r1.data.lazy import LazySequence
from observe_r1.errors import UserError

_SPACE = re.compile(r"[ \t\n\r]*")
_TRAILING_COMMA = re.compile(r",\s*([\]}])")
_BOM = b"\xef\xbb\xbf"


class JsonRows(LazySequence[Any]):
    """The values of a JSON list, or one value a line; which of the two it is, the first character tells.

    Only each row's place in the file is kept (16 bytes a row), and no open file, so that the rows can be
    pickled and read from any thread or process. JSON lines are indexed without parsing them: a broken line is
    an error when it is read. A list has to be in memory once, as text, and is checked as a whole.

    Errors: `UserError` for a file that cannot be read, and for broken JSON with its line and column.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts, self._ends = array("q"), array("q")
        try:
            self._holds_list = _holds_list(path)
            spans = _list_spans(path) if self._holds_list else _line_spans(path)
            for start, end in spans:
                self._starts.append(start)
                self._ends.append(end)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error

    def __len__(self) -> int:
        return len(self._starts)

    def item(self, index: int) -> Any:
        """Read and parse one row."""
        start, end = self._starts[index], self._ends[index]
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                text = file.read(end - start).decode().rstrip()
            return json.loads(text)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise _broken(self._path, start + error.start, "not UTF-8 text") from error
        except json.JSONDecodeError as error:
            reason = explain_json_error(text, error)
            if not self._holds_list:
                reason += " (every line is a row, unless the file is one list)"
            raise _broken(self._path, start + len(text[: error.pos].encode()), reason) from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; endless nesting
            raise _broken(self._path, start, str(error)) from error


def explain_json_error(text: str, error: json.JSONDecodeError) -> str:
    """Return why `text` is not JSON, trailing commas named as such."""
    comma = text.rfind(",", 0, error.pos + 1)
    closing = _TRAILING_COMMA.match(text, comma) if comma >= 0 else None
    if closing and closing.end() > error.pos:
        return f"trailing comma before {closing[1]!r}: remove it"
    return error.msg


def _holds_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(_BOM).lstrip().startswith(b"[")


def _line_spans(path: Path) -> Iterator[tuple[int, int]]:
    """Yield the byte range of every line that is not blank."""
    with path.open("rb") as file:
        start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(start)
        for line in file:
            end = start + len(line)
            if not line.isspace():
                yield start, end
            start = end


def _list_spans(path: Path) -> Iterator[tuple[int, int]]:
    """Yield the byte range of every element of the list that the file holds."""
    # Latin-1 makes one character of every byte, so positions are byte offsets; JSON's own signs are ASCII.
    text = path.read_bytes().decode("latin-1")
    decoder = json.JSONDecoder()
    separator = text.index("[")
    start = _skip_space(text, separator + 1)
    try:
        if text.startswith("]", start):
            separator = start
        while not text.startswith("]", separator):
            start = _skip_space(text, separator + 1)
            _, end = decoder.raw_decode(text, start)
            yield start, end
            separator = _skip_space(text, end)
            if text[separator : separator + 1] not in ("]", ","):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, separator)
        rest = _skip_space(text, separator + 1)
        if rest < len(text):
            raise json.JSONDecodeError("Text after the end of the list", text, rest)
    except json.JSONDecodeError as error:
        raise _broken(path, error.pos, explain_json_error(text, error)) from error
    except (ValueError, RecursionError) as error:
        raise _broken(path, start, str(error)) from error


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None  # an empty match counts
    return match.end()


def _broken(path: Path, offset: int, reason: str) -> UserError:
    """Return the error for the byte at `offset`, its line and column counted from 1."""
    line_number, line_start = 1, 0
    with path.open("rb") as file:
        for line in file:
            if line_start + len(line) > offset or not line.endswith(b"\n"):
                break
            line_number += 1
            line_start += len(line)
        else:
            line = b""
    column = len(line[: offset - line_start].decode(errors="replace")) + 1
    return UserError(f"{path}: line {line_number}, column {column}: broken JSON: {reason}")
