"""Which gold answers can be verified: parseable, and one answer."""

import re
from dataclasses import replace
from itertools import islice
from string import ascii_uppercase

from observe_r1.ladder.several import has_several
from observe_r1.records import Example
from observe_r1.rewards import verifiable
from observe_r1.rewards.accuracy import question_text
from observe_r1.rewards.judge.options import Options, chosen_letters, find_options, named_options
from observe_r1.rewards.judge.reading import MAX_PHRASE_WORDS, Choice, Quantity, read

PROOF = "asks for a proof"
SEVERAL = "several answers"
FREE_TEXT = "free text"
UNREADABLE = "cannot be parsed"
NO_SUCH_OPTION = "names no option"
SEVERAL_OPTIONS = "fits several options"

_ASKS_FOR_PROOF = re.compile(r"\b(?:prove|show|demonstrate) that\b|\bprove\b[^.?]*[.:]\s*$|证明", re.IGNORECASE)


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


def _chosen(answer: str, options: Options) -> tuple[str, str | None] | None:
    """Return the letter that an answer to multiple choice names, or the reason why not; None if it is no option."""
    if named := named_options(answer, options):
        return (named.pop(), None) if len(named) == 1 else (answer, SEVERAL_OPTIONS)
    if options.labels != ascii_uppercase:
        return None
    if len(chosen_letters(answer)) == 1:
        return answer, NO_SUCH_OPTION
    letters = ascii_uppercase[: len(options.texts)]
    return (answer, SEVERAL) if answer == "".join(sorted(set(answer) & set(letters))) else None
