"""Multiple choice in one common form: options as lines "A. …" under the question, the answer as a letter."""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from observe_r1.errors import UserError
from observe_r1.ladder.sources.fields import field
from observe_r1.rewards.judge.options import options_at

_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")


def with_options(question: str, options: Sequence[str]) -> str:
    """Return the question with its options under it, one a line."""
    lines = (f"{letter}. {option}".rstrip() for letter, option in zip(ascii_uppercase, options, strict=False))
    return "\n".join([question, *lines])


def option_list(row: Mapping[str, Any], key: str, place: str, *, required: bool = False) -> list[str]:
    """Return the options under `key`.

    Errors: `UserError` for anything but 2 to 26 texts or numbers, or none if not `required`.
    """
    value = field(row, key, place)
    are_texts = isinstance(value, list) and all(isinstance(option, str | int | float) for option in value)
    if not are_texts or not (2 <= len(value) <= len(ascii_uppercase) or (not value and not required)):
        raise UserError(f"{place}, {key!r}: needs a list of 2 to 26 options, got {value!r:.80}: correct it")
    return [str(option).strip() for option in value]


def letter_at(index: Any, options: Sequence[str], where: str) -> str:
    """Return the letter of the option at `index`, counted from 0. Errors: `UserError` where there is none."""
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(options):
        raise UserError(f"{where}: needs one of {len(options)} options, got {index!r:.80}: correct the answer")
    return ascii_uppercase[index]


def letter_of(answer: str, options: Sequence[str], where: str) -> str:
    """Return the letter that `answer` names: "B", "b", "(B)", "B." or the text of just one of the options.

    Errors: `UserError` where it is out of range or neither.
    """
    if match := _LETTER.fullmatch(answer):
        index = ascii_uppercase.index(match[1].upper())
        if index < len(options):
            return ascii_uppercase[index]
    if options.count(answer) == 1:
        return ascii_uppercase[options.index(answer)]
    last = ascii_uppercase[len(options) - 1]
    raise UserError(f"{where}: needs a letter from A to {last} or an option's text, got {answer!r:.80}: correct it")


def split_options(text: str) -> list[str]:
    """Return the options of "(A) 1 (B) 2", "A. 1; B. 2", "(1) 1 (2) 2" and the like; none if they are not such.

    Labels count in order: the text of one option may hold any label but the next.
    """
    text = text.strip()
    options = options_at(text, 0)
    return options.texts if options else []
