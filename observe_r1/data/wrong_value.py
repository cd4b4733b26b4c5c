"""The error for a value of the wrong kind."""

import re
from typing import Any, NoReturn

from observe_r1.errors import UserError
from observe_r1.web import without_password

_LONGEST = 80
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def wrong_value(place: str, need: str, value: Any) -> NoReturn:
    """Raise a `UserError` that names the place, what it needs, and the value it holds instead."""
    raise UserError(f"{place}: {need}, got {shorten(value)}")


def shorten(value: Any) -> str:
    """Return the beginning of a value as Python writes it, without the passwords of addresses in it."""
    text = without_password(repr(value))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def check_text(place: str, text: str) -> None:
    """Raise a `UserError` for half of a character, which JSON can spell and neither UTF-8 nor a tokenizer can."""
    if half := _LONE_SURROGATE.search(text):
        raise UserError(f"{place}: {half[0]!r} is half of a character (a lone surrogate): remove or replace it")
