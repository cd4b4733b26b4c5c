"""The error for a value of the wrong kind."""

from typing import Any, NoReturn

from observe_r1.errors import UserError

_LONGEST = 80


def wrong_value(place: str, need: str, value: Any) -> NoReturn:
    """Raise a `UserError` that names the place, what it needs, and the value it holds instead."""
    raise UserError(f"{place}: {need}, got {shorten(value)}")


def shorten(value: Any) -> str:
    """Return the beginning of a value as Python writes it."""
    text = repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
