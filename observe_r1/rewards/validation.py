"""What the user's own rewards return, checked before it is added to anything."""

import math
from numbers import Real
from typing import Any

from observe_r1.errors import UserError

LARGEST = 1e12
"""Advantages are computed in float32, where the squares of much larger rewards are infinite."""


def validated_rewards(values: Any, count: int, source: str) -> list[float]:
    """Return what a reward gave as floats.

    Args:
        values: A list, tuple, array or tensor of `count` numbers.
        count: Of the responses.
        source: What gave them; errors begin with it.

    Raises:
        UserError: `values` is anything else, or a number is NaN or beyond ±1e12.
    """
    values = _plain(values)
    if not isinstance(values, list | tuple):
        raise UserError(f"{source} gave {_shown(values)}; it must give a list of {count} numbers, one per response")
    if len(values) != count:
        raise UserError(f"{source} gave {len(values)} rewards for {count} responses; it must give one per response")
    return [_number(_plain(value), f"{source} gave reward {i} of {count} as") for i, value in enumerate(values, 1)]


def _plain(value: Any) -> Any:
    """Return an array, tensor or scalar of NumPy or torch as Python's own lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


def _number(value: Any, source: str) -> float:
    if not isinstance(value, Real):
        raise UserError(f"{source} {_shown(value)}; it must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST:
        raise UserError(f"{source} {number:g}; it must be finite and not beyond ±{LARGEST:g}")
    return number


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:80]
