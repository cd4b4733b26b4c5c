"""Which gold answers can be verified: parseable, and one answer."""

import re
from string import ascii_uppercase

from observe_r1.ladder.several import has_several
from observe_r1.ladder.sources.options import split_options
from observe_r1.records import Example
from observe_r1.rewards import verifiable
from observe_r1.rewards.accuracy import quick
from observe_r1.rewards.answer import literal
from observe_r1.rewards.gold import MAX_PHRASE_WORDS, read_gold

PROOF = "asks for a proof"
SEVERAL = "several answers"
FREE_TEXT = "free text"
UNREADABLE = "cannot be parsed"
NO_SUCH_OPTION = "names no option"
SEVERAL_OPTIONS = "is the text of several options"

_ASKS_FOR_PROOF = re.compile(r"\b(?:prove|show|demonstrate) that\b|\bprove\b[^.?]*[.:]\s*$|证明", re.IGNORECASE)
_FIRST_OPTION = re.compile(r"\(A\)|(?<!\w)A[.):、]")
_LABELLED = re.compile(r"\(?([A-Z])[).:、]\s*(.+)")


def checked_answer(example: Example) -> tuple[str, str | None]:
    """Return the gold answer of `example`, and None or the reason why it cannot be verified.

    In multiple choice, an answer that is the text of just one of the options becomes that option's letter.
    """
    question, answer = question_text(example), example.answer.strip()
    gold = read_gold(answer)
    options = find_options(question)
    if options and (choice := _chosen(answer, options)):
        return choice
    if gold.kind not in ("choice", "number") and _ASKS_FOR_PROOF.search(question):
        return answer, PROOF
    if gold.kind == "none":
        return answer, FREE_TEXT
    if gold.kind != "choice" and has_several(answer):
        return answer, SEVERAL
    if verifiable(answer):
        return answer, None
    return answer, FREE_TEXT if len(answer.split()) > MAX_PHRASE_WORDS else UNREADABLE


def question_text(example: Example) -> str:
    """Return the text of the last user turn, where the question stands."""
    return "".join(part["text"] for part in example.messages[-1]["content"] if part["type"] == "text")


def find_options(question: str) -> list[str]:
    """Return the options that a question lists, in order from A; none where it lists none."""
    for first in _FIRST_OPTION.finditer(question):
        if options := split_options(question[first.start() :]):
            return options
    return []


def _chosen(answer: str, options: list[str]) -> tuple[str, str | None] | None:
    """Return the letter that an answer to multiple choice names, or the reason why not; None if it is no option."""
    label = _LABELLED.fullmatch(answer)
    index = ord(label[1]) - ord("A") if label else len(options)
    if label and index < len(options) and _same(options[index], label[2]):
        return label[1], None
    letters = ascii_uppercase[: len(options)]
    gold = read_gold(answer)
    if gold.kind == "choice" and gold.letter in letters:
        return gold.letter, None
    same = [letter for letter, option in zip(letters, options, strict=True) if _same(option, answer)]
    if same:
        return (same[0], None) if len(same) == 1 else (answer, SEVERAL_OPTIONS)
    if gold.kind == "choice":
        return answer, NO_SUCH_OPTION
    return (answer, SEVERAL) if answer == "".join(sorted(set(answer) & set(letters))) else None


def _same(option: str, answer: str) -> bool:
    return bool(option) and (literal(option) == literal(answer) or quick(option, answer) is True)
