"""The gold answer, read once: its kind decides how responses are compared with it."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from observe_r1.rewards.answer import MAX_CHARS, literal, undress
from observe_r1.rewards.choice import labels

MAX_PHRASE_WORDS = 8
"""Longer prose cannot be verified by comparing it literally."""

FORMULA_WORDS = (
    frozenset({"and", "or", "pi", "inf", "infty", "infinity", "alpha", "beta", "gamma", "theta"})
    | {"sin", "cos", "tan", "cot", "sec", "csc"}
    | {"log", "ln", "exp", "sqrt"}
)
"""Words that math-verify reads as part of a formula."""

_ANNOUNCED = re.compile(r"(?i:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?(?: ?[:=])?) ?(?=.)")
_PLAIN_NUMBER = re.compile(r"[+-]?(?=\.?[0-9])(?:[0-9]{0,30}|[0-9]{1,3}(?:,[0-9]{3}){1,9})(?:\.[0-9]{1,30})?")
_NUMERAL = re.compile(r"(?<![\^_A-Za-z0-9{])[0-9]+(?:[.,][0-9]+)*")
_LETTERS = re.compile(r"[A-Za-zÀ-ɏ]{2}|[\u0400-\u04ff]{2}|[\u3040-\u9fff\uac00-\ud7af]")
_FORMULA_SIGN = re.compile(r"[0-9\\^_=+*/<>|{}√∞π²³½]|(?<![A-Za-z])-|-(?![A-Za-z])")

Kind = Literal["choice", "number", "phrase", "formula", "none"]


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold answer."""

    kind: Kind
    """`choice` a letter, `number` a plain integer or decimal, `phrase` words that are compared literally,
    `formula` what only math-verify can read, `none` nothing that can be verified."""
    text: str
    """The answer; of a choice the option's text, which may be empty."""
    letter: str = ""
    """Of a choice, in upper case."""


@lru_cache(maxsize=4096)
def read_gold(answer: str) -> Gold:
    """Return the gold answer by its kind. Whether a formula can be verified shows only when it is parsed."""
    if not answer.strip() or len(answer) > MAX_CHARS:
        return Gold("none", "")
    bare = undress(answer)
    announced = _ANNOUNCED.match(bare)
    labelled = labels(bare[announced.end() :] if announced else bare)
    if labelled and len(labelled[0]) == 1:
        return Gold("choice", labelled[1], letter=labelled[0].pop())
    if plain_number(literal(answer)) is not None:
        return Gold("number", answer)
    if _is_phrase(bare):
        return Gold("phrase" if len(bare.split()) <= MAX_PHRASE_WORDS else "none", answer)
    return Gold("formula", answer)


def plain_number(text: str) -> Fraction | None:
    """Return the value of an undressed integer or decimal, with or without thousands separators, or None."""
    return Fraction(text.replace(",", "")) if _PLAIN_NUMBER.fullmatch(text) else None


def is_words(text: str) -> bool:
    """Whether an undressed text is words and nothing that could be part of a formula."""
    is_formula = _FORMULA_SIGN.search(text) or _words(text) & FORMULA_WORDS
    return _LETTERS.search(text) is not None and not is_formula


def _is_phrase(text: str) -> bool:
    """Whether an undressed text is words, or words between numbers ("2 hours 30 minutes")."""
    between_numbers = _NUMERAL.split(text)[1:-1]
    has_words_between = any(_words(part) - FORMULA_WORDS for part in between_numbers)
    return is_words(text) or (has_words_between and "\\" not in text)


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{2,}", text.casefold()))
