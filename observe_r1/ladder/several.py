r"""Which gold answers are several answers: each has to be right, and a response names them in its own way and order.

One answer with separators in it is not such: a point or an interval in brackets, a set in braces, a number in
thousands, a range by inequalities ("x > 1 and x < 3"), a quantity in two units ("2 hours and 30 minutes"), prose.
"""

import re

from observe_r1.rewards.judge.notation import plain

_FORMULA_WORDS = frozenset(
    "and or pi inf infty infinity alpha beta gamma theta sin cos tan cot sec csc log ln exp sqrt".split()
)
_SECOND_PART = re.compile(r"(?:^|\s)(?:\(1\).*\(2\)|\(a\).*\(b\)|\(i\).*\(ii\)|1[.)]\s.*\s2[.)]\s)", re.DOTALL)
_LETTERS = re.compile(r"[A-J](?: ?(?:,|/|&|and|or|,? and)? ?(?<![A-J])[A-J])+")
_MATH_MODE = re.compile(r"\\[()\[\]]|\\[,!;:> ]|\$|\\(?:left|right)(?![A-Za-z])")
"""What says how a formula is set, spaces included."""
_WRAPPED = re.compile(r"\\(?:boxed|mbox|mathrm|text[a-z]*)\s*\{([^{}]*)\}")
_BRACKETS = re.compile(r"[(\[{][^()\[\]{}]*[)\]}]")
_SEPARATOR = re.compile(r"(?<=\d),(?!\d{3}(?!\d))|(?<!\d),|[，、&和]|\band\b")
_NAME = re.compile(r"[A-Za-z]|[A-Z]{2,4}")
_QUANTITY = re.compile(r"[-+−±]?\d[\d.,/ ]*([A-Za-z°][A-Za-z°/^\d ]*)?")
_STATED = re.compile(r"[=:]\s*\S")
_RANGE = re.compile(r"[<>≤≥≠]|\\(?:[lg]e|[lg]t|ne)")
_SIGN = re.compile(r"[\d#\\π√∞]")
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{3,}")


def has_several(answer: str) -> bool:
    """Return whether a gold answer that is no letter of an option is several answers."""
    bare = plain(answer)
    if _LETTERS.fullmatch(bare) or re.search("[;；]", bare) or _SECOND_PART.search(bare):
        return True
    return "\\begin" not in answer and ("\n" in answer.strip() or _lists_values(answer))


def _lists_values(answer: str) -> bool:
    flat = _WRAPPED.sub(r" \1 ", _MATH_MODE.sub("", answer))
    while (outer := _BRACKETS.sub("#", flat)) != flat:
        flat = outer
    parts = [part for text in _SEPARATOR.split(flat) if (part := text.strip(" ."))]
    units = {quantity[1] for part in parts if (quantity := _QUANTITY.fullmatch(part)) and quantity[1]}
    return len(parts) > 1 and len(units) < 2 and all(map(_is_value, parts))


def _is_value(part: str) -> bool:
    """Whether a part could be an answer of its own: a name, a quantity, "width = 5", a formula without words."""
    if _NAME.fullmatch(part) or _QUANTITY.fullmatch(part):
        return True
    if _RANGE.search(part):
        return False
    words = {word.casefold() for word in _WORD.findall(part)} - _FORMULA_WORDS
    return bool(_STATED.search(part) or (_SIGN.search(part) and not words))
