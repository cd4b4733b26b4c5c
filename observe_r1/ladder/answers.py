"""Which gold answers can be verified: parseable, and one answer."""

import re
from dataclasses import replace
from itertools import islice
from string import ascii_uppercase

from observe_r1.ladder.several import has_several
from observe_r1.ladder.sources.options import Options, options_at
from observe_r1.records import Example
from observe_r1.rewards import verifiable
from observe_r1.rewards.judge.comparing import matches
from observe_r1.rewards.judge.reading import MAX_PHRASE_WORDS, Choice, Quantity, read

PROOF = "asks for a proof"
SEVERAL = "several answers"
FREE_TEXT = "free text"
UNREADABLE = "cannot be parsed"
NO_SUCH_OPTION = "names no option"
SEVERAL_OPTIONS = "fits several options"

_ASKS_FOR_PROOF = re.compile(r"\b(?:prove|show|demonstrate) that\b|\bprove\b[^.?]*[.:]\s*$|证明", re.IGNORECASE)
_FIRST_OPTION = (
    re.compile(r"\(A\)|(?<!\w)A[.):、]"),
    re.compile(r"(?<![\w\\])\(a\)"),
    re.compile(r"(?:^|(?<=[?_\uff1f])|(?<=[?_\uff1f] )|(?<=[?_\uff1f]; ))\(1\)", re.MULTILINE),
)
_NO_OPTION = re.compile(
    r"^(?:and|or|with)\b|[?\uff1f求]|\b(?:find|what|which|how|calculate|compute|determine|prove|show|solve|explain)\b"
    r"|__|\(\s*\)|[=\uff1d是]\s*$|\bnumber (?:of|that)\b|个数",
    re.IGNORECASE,
)
"""Parts of a question ("(1) Find x."), references ("by (1) and (2)") and statements ("(1) AB = CD … how many are true")
are labelled in the same way."""
_LABELLED = re.compile(r"\(?([A-Za-z1-9])(?:\)|[.:、](?!\d))\s*(.+)")
_BRACKETED = re.compile(r"\(([1-9])\)")
_NUMBERED = re.compile(r"\(?([1-9])\)?\.?")


def checked_answer(example: Example) -> tuple[str, str | None]:
    """Return the gold answer of `example`, and None or the reason why it cannot be verified.

    In multiple choice, an answer that is the text of just one of the options becomes that option's letter.
    """
    question, answer = question_text(example), example.answer.strip()
    readings = read(answer)
    options = find_options(question)
    if options and (choice := _chosen(answer, options)):
        return choice
    if not any(isinstance(each, Choice | Quantity) for each in readings) and _ASKS_FOR_PROOF.search(question):
        return answer, PROOF
    if has_several(answer):
        return answer, SEVERAL
    if verifiable(answer):
        return answer, None
    return answer, FREE_TEXT if len(answer.split()) > MAX_PHRASE_WORDS else UNREADABLE


def question_text(example: Example) -> str:
    """Return the text of the last user turn, where the question stands."""
    return "".join(part["text"] for part in example.messages[-1]["content"] if part["type"] == "text")


def in_capitals(example: Example, answer: str) -> Example:
    """Return `example` with the checked `answer`, and where that is an option's letter, with options from (A) on."""
    options = find_options(question_text(example))
    if options and options.labels != ascii_uppercase and answer in [*ascii_uppercase[: len(options.texts)]]:
        signs = list(question_text(example))
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


def find_options(question: str) -> Options | None:
    """Return the options that a question lists; None where it lists none, or asks "(1) … (2) …" one after the other."""
    for pattern in _FIRST_OPTION:
        for first in pattern.finditer(question):
            options = options_at(question, first.start())
            if options and (options.labels == ascii_uppercase or not any(map(_NO_OPTION.search, options.texts))):
                return options
    return None


def _chosen(answer: str, options: Options) -> tuple[str, str | None] | None:
    """Return the letter that an answer to multiple choice names, or the reason why not; None if it is no option."""
    letters = ascii_uppercase[: len(options.texts)]
    by_label = dict(zip(options.labels, zip(letters, options.texts, strict=False), strict=False))
    label = _LABELLED.fullmatch(answer)
    letter, text = by_label.get(label[1], ("", "")) if label else ("", "")
    if label and _same(text, label[2]):
        return letter, None
    chosen = next((each.letters for each in read(answer) if isinstance(each, Choice)), frozenset())
    if len(chosen) == 1 and chosen <= {*letters}:
        return min(chosen), None
    if (number := _BRACKETED.fullmatch(answer)) and number[1] in by_label:
        return by_label[number[1]][0], None
    same = {letter for letter, option in zip(letters, options.texts, strict=True) if _same(option, answer)}
    if (number := _NUMBERED.fullmatch(answer)) and number[1] in by_label:
        same.add(by_label[number[1]][0])
    if same:
        return (same.pop(), None) if len(same) == 1 else (answer, SEVERAL_OPTIONS)
    if options.labels != ascii_uppercase:
        return None
    if len(chosen) == 1:
        return answer, NO_SUCH_OPTION
    return (answer, SEVERAL) if answer == "".join(sorted(set(answer) & set(letters))) else None


def _same(option: str, answer: str) -> bool:
    return bool(option) and (option.casefold() == answer.casefold() or matches(option, answer))
