"""A check that a dataset still has the rows that a run began with: without them, no run resumes bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from observe_r1.errors import UserError
from observe_r1.records import Example

_MOST = 4_096
"""Rows that are compared, at even distances if there are more: that takes a fraction of a second.

If a hundredth of the rows were replaced, that goes unnoticed once in 10^17 cases. Images are not opened.
"""
_DIGITS = 8
_UNREADABLE = "-" * _DIGITS


def row_digests(examples: Sequence[Example]) -> dict[str, Any]:
    """Return what `check_rows` compares, as JSON values: the number of rows, and their digests in one text."""
    return {"size": len(examples), "digests": "".join(_digest(examples, row) for row in _rows(len(examples)))}


def check_rows(saved: dict[str, Any], examples: Sequence[Example], setting: str) -> None:
    """Check that the rows are those of an earlier `row_digests`.

    Rows that could not be read then are not compared: they may have been corrected meanwhile.

    Args:
        saved: What `row_digests` returned.
        examples: The rows now.
        setting: The setting that names the data, for errors.

    Raises:
        UserError: There are more or fewer rows, or another row in the place of one.
    """
    way = "resume with the same data, or set another run.output for a new run"
    if saved["size"] != len(examples):
        raise UserError(f"{setting}: the saved run had {saved['size']} rows, there are {len(examples)} now: {way}")
    for place, row in enumerate(_rows(len(examples))):
        old, new = saved["digests"][place * _DIGITS : (place + 1) * _DIGITS], _digest(examples, row)
        if old not in (new, _UNREADABLE):
            raise UserError(
                f"{setting}: {_name(examples, row)} is not the row that the saved run had in its place: {way}"
            )


def _rows(size: int) -> list[int]:
    """Return the rows to compare, the first and the last among them."""
    if size <= _MOST:
        return list(range(size))
    return [place * (size - 1) // (_MOST - 1) for place in range(_MOST)]


def _digest(examples: Sequence[Example], row: int) -> str:
    try:
        example = examples[row]
    except UserError:  # raised again when the row is drawn
        return _UNREADABLE
    # The last name of a path, because folders move; the length of encoded bytes.
    images = [image.rpartition("/")[2] if isinstance(image, str) else len(image) for image in example.images]
    read = (example.id, example.messages, images, example.answer, example.response)
    text = repr(
        (*read, dict(example.columns)) if example.columns else read
    )  # runs from before there were columns go on
    return blake2b(text.encode(errors="surrogatepass"), digest_size=_DIGITS // 2).hexdigest()


def _name(examples: Sequence[Example], row: int) -> str:
    try:
        return examples[row].origin or f"row {row + 1}"
    except UserError as error:
        return f"row {row + 1} ({error})"
