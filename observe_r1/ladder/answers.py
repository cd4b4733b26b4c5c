"""Which gold answers can be verified: those that can be parsed and are one answer.

With multiple answers each has to be correct, and a response names them in its own way and order. One answer may hold
separators, too: a point or an interval in brackets, a set in braces, a number in thousands, a range by inequalities
("x > 1 and x < 3"), a quantity in two units ("2 hours and 30 minutes"), prose.
"""

import re
from dataclasses import replace
from itertools import islice
from string import ascii_uppercase

from observe_r1.records import Example
from observe_r1.rewards import verifiable
from observe_r1.rewards.accuracy import question_of
from observe_r1.rewards.judge.answer import final_answer
from observe_r1.rewards.judge.notation import plain
from observe_r1.rewards.judge.options import Options, chosen_letters, find_options, named_options
from observe_r1.rewards.judge.reading import MAX_PHRASE_WORDS, Choice, Quantity, read

_FORMULA_WORDS = frozenset(
    "and or pi inf infty infinity alpha beta gamma theta sin cos tan cot sec csc log ln exp sqrt".split()
)
_SECOND_PART = re.compile(r"(?:^|\s)(?:\(1\).*\(2\)|\(a\).*\(b\)|\(i\).*\(ii\)|1[.)]\s.*\s2[.)]\s)", re.DOTALL)
_LETTERS = re.compile(r"[A-J](?: ?(?:,|/|&|and|or|,? and)? ?(?<![A-J])[A-J])+")
_MATH_MODE = re.compile(r"\\[()\[\]]|\\[,!;:> ]|\$|\\(?:left|right)(?![A-Za-z])")
"""How a formula is typeset, spaces included."""
_WRAPPED = re.compile(r"\\(?:boxed|mbox|mathrm|text[a-z]*)\s*\{([^{}]*)\}")
_BRACKETS = re.compile(r"[(\[{][^()\[\]{}]*[)\]}]")
_SEPARATOR = re.compile(r"(?<=\d),(?!\d{3}(?!\d))|(?<!\d),|[，、&和]|\band\b")
_NAME = re.compile(r"[A-Za-z]|[A-Z]{2,4}")
_QUANTITY = re.compile(r"[-+−±]?\d[\d.,/ ]*([A-Za-z°][A-Za-z°/^\d ]*)?")
_STATED = re.compile(r"[=:]\s*\S")
_RANGE = re.compile(r"[<>≤≥≠]|\\(?:[lg]e|[lg]t|ne)")
_SIGN = re.compile(r"[\d#\\π√∞]")
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{3,}")


def has_multiple_answers(answer: str) -> bool:
    """Return whether a gold answer that is not an option's letter is more than one answer."""
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
    """Return whether a part could be an answer by itself: a name, a quantity, "width = 5", a formula without words."""
    if _NAME.fullmatch(part) or _QUANTITY.fullmatch(part):
        return True
    if _RANGE.search(part):
        return False
    words = {word.casefold() for word in _WORD.findall(part)} - _FORMULA_WORDS
    return bool(_STATED.search(part) or (_SIGN.search(part) and not words))


PROOF = "asks for a proof"
MULTIPLE = "multiple answers"
FREE_TEXT = "free text"
UNREADABLE = "cannot be parsed"
NO_SUCH_OPTION = "names no option"
MULTIPLE_OPTIONS = "fits multiple options"

_ASKS_FOR_PROOF = re.compile(r"\b(?:prove|show|demonstrate) that\b|\bprove\b[^.?]*[.:]\s*$|证明", re.IGNORECASE)


def checked_answer(example: Example) -> tuple[str, str | None]:
    """Return the gold answer of `example`, without tags around it, and None or the reason why it cannot be verified.

    In multiple choice, an answer that is the text of exactly one option becomes that option's letter.
    """
    question, answer = question_of(example), final_answer(example.answer)
    readings = read(answer)
    options = find_options(question)
    if options and (choice := _chosen(answer, options)):
        return choice
    if not any(isinstance(each, Choice | Quantity) for each in readings) and _ASKS_FOR_PROOF.search(question):
        return answer, PROOF
    if has_multiple_answers(answer):
        return answer, MULTIPLE
    if verifiable(example.answer):
        return answer, None
    return answer, FREE_TEXT if len(answer.split()) > MAX_PHRASE_WORDS else UNREADABLE


def in_capitals(example: Example, answer: str) -> Example:
    """Return `example` with the checked `answer` and, if that is an option's letter, options labelled from (A)."""
    options = find_options(question_of(example))
    if options and options.labels != ascii_uppercase and answer in [*ascii_uppercase[: len(options.texts)]]:
        signs = list(question_of(example))
        for start, letter in zip(options.starts, ascii_uppercase, strict=False):
            signs[start] = letter
        rest = iter(signs)
        *before, last = example.messages
        content = [
            part | {"text": "".join(islice(rest, len(part["text"])))} if part["type"] == "text" else part
            for part in last["content"]
        ]
        example = replace(example, messages=(*before, {**last, "content": content}))
    return replace(example, answer=answer)


def _chosen(answer: str, options: Options) -> tuple[str, str | None] | None:
    """Return the option's letter that an answer names, or the reason why it names none; None if it is not an option."""
    if named := named_options(answer, options):
        return (named.pop(), None) if len(named) == 1 else (answer, MULTIPLE_OPTIONS)
    if options.labels != ascii_uppercase:
        return None
    if len(chosen_letters(answer)) == 1:
        return answer, NO_SUCH_OPTION
    letters = ascii_uppercase[: len(options.texts)]
    return (answer, MULTIPLE) if answer == "".join(sorted(set(answer) & set(letters))) else None
