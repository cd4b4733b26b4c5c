"""Gold answers that no response could be compared with."""

from observe_r1.data.wrong_value import shorten
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.rewards.accuracy import gold_fault, verifiable


def require_verifiable(example: Example) -> None:
    """Raise `UserError` where the gold answer of `example` cannot be verified."""
    if fault := gold_fault(example.answer):
        raise UserError(f"{example.origin}: the gold answer {shorten(example.answer)} cannot be verified: {fault}")
    if not verifiable(example.answer):
        raise UserError(
            f"{example.origin}: the gold answer {shorten(example.answer)} cannot be verified: correct it or drop "
            "the row; a letter, number, formula or short phrase can"
        )
