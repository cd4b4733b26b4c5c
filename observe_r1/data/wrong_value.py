"""Errors for wrong values in data: what is needed, what is there instead, and where JSON is broken."""

import json
import math
import re
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn

from observe_r1.errors import UserError
from observe_r1.web import without_password

_TRAILING_COMMA = re.compile(r",\s*([\]}])")


def explain_json_error(text: str, error: json.JSONDecodeError) -> tuple[str, int]:
    """Return why `text` is not JSON and at which character; trailing commas and raw line breaks are named as such.

    A trailing comma is reported at the bracket after it, in all versions of Python: 3.13 reports the comma, earlier
    versions the bracket.
    """
    comma = text.rfind(",", 0, error.pos + 1)
    closing = _TRAILING_COMMA.match(text, comma) if comma >= 0 else None
    if closing and closing.end() > error.pos:
        return f"trailing comma before {closing[1]!r}: remove it", closing.end() - 1
    reason = error.msg
    if reason.startswith("Invalid control character"):
        reason = f"the string holds the raw control character {text[error.pos]!r}: write it as json.dumps does"
        if text[error.pos] in "\r\n":
            reason = "the string holds raw line breaks: write each as \\n, as json.dumps does"
    elif reason.startswith("Unterminated string"):
        reason = f"{reason}; write a line break inside a string as \\n, as json.dumps does"
    return reason, error.pos


def answer_text(value: Any) -> str:
    """Return a gold answer as text, numbers without exponent; empty if it is neither text nor a finite number."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return ""
    return str(int(value)) if isinstance(value, Integral) else f"{Decimal(repr(float(value))):f}"


def broken_json(path: Path, offset: int, reason: str) -> UserError:
    """Return the error for the byte at `offset` of a file, with its line and column counted from 1."""
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


_LONGEST = 80
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def wrong_value(place: str, need: str, value: Any) -> NoReturn:
    """Raise a `UserError` that names the place, what it needs, and the value that is there instead."""
    raise UserError(f"{place}: {need}, got {shorten(value)}")


def shorten(value: Any) -> str:
    """Return the beginning of a value, text in quotes, without the passwords in its addresses."""
    if value is None:
        return "null"
    if isinstance(value, str):
        text = without_password(value)
        return repr(text[:_LONGEST]) + "…" * (len(text) > _LONGEST)
    text = without_password(repr(value))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def check_text(place: str, text: str) -> None:
    """Raise a `UserError` for half a character, which JSON can spell, but neither UTF-8 nor a tokenizer."""
    if half := _LONE_SURROGATE.search(text):
        raise UserError(f"{place}: {half[0]!r} is half a character (a lone surrogate): remove or replace it")
