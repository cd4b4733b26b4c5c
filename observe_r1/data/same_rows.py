"""Whether a dataset still has the rows that a run began with, without which no run is resumed bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from observe_r1.errors import UserError
from observe_r1.records import Example

_MOST = 4_096
"""Rows that are looked at, at even distances where there are more: a fraction of a second.

Of a dataset with a hundredth of its rows replaced one in 10^17 escapes. Images are not opened.
"""
_DIGITS = 8
_UNREADABLE = "-" * _DIGITS


def row_digests(examples: Sequence[Example]) -> dict[str, Any]:
    """Return what `check_rows` compares, as JSON values: the number of rows, and one digest after the other."""
    return {"size": len(examples), "digests": "".join(_digest(examples, row) for row in _rows(len(examples)))}


def check_rows(saved: dict[str, Any], examples: Sequence[Example], setting: str) -> None:
    """Raise `UserError`, naming `setting`, where the rows are others than when `row_digests` returned `saved`.

    Rows that could not be read then are not compared: whoever has mended them wants to go on.
    """
    way = "resume with the same data, or give another run.output for a new run"
    if saved["size"] != len(examples):
        raise UserError(f"{setting}: the saved run had {saved['size']} rows, there are {len(examples)} now: {way}")
    for place, row in enumerate(_rows(len(examples))):
        old, new = saved["digests"][place * _DIGITS : (place + 1) * _DIGITS], _digest(examples, row)
        if old not in (new, _UNREADABLE):
            raise UserError(f"{setting}: {_name(examples, row)} is not the row that the saved run had there: {way}")


def _rows(size: int) -> list[int]:
    """Return the rows to look at, the first and the last among them."""
    if size <= _MOST:
        return list(range(size))
    return [place * (size - 1) // (_MOST - 1) for place in range(_MOST)]


def _digest(examples: Sequence[Example], row: int) -> str:
    try:
        example = examples[row]
    except UserError:  # said when the row is drawn
        return _UNREADABLE
    # Of a path the name, because folders move; of encoded bytes their number.
    images = [image.rpartition("/")[2] if isinstance(image, str) else len(image) for image in example.images]
    text = repr((example.id, example.messages, images, example.answer, example.response))
    return blake2b(text.encode(errors="surrogatepass"), digest_size=_DIGITS // 2).hexdigest()


def _name(examples: Sequence[Example], row: int) -> str:
    try:
        return examples[row].origin or f"row {row + 1}"
    except UserError as error:
        return f"row {row + 1} ({error})"
