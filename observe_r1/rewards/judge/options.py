"""The options that a question lists, "(A) 30° (B) 45°", and which of them an answer names."""

import re
from dataclasses import dataclass
from itertools import islice
from string import ascii_lowercase, ascii_uppercase, digits

from observe_r1.rewards.judge.comparing import matches
from observe_r1.rewards.judge.reading import read
from observe_r1.rewards.judge.values import Choice

_LABELS = (ascii_uppercase, ascii_lowercase, digits[1:])
_STYLES = (r"\(({})\)", r"(?<!\w)({})[.):、]")
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
"""What an option does not hold. Parts of a question ("(1) Find x."), references ("by (1) and (2)") and statements
("(1) AB = CD … how many are true") have the same labels."""
_MAX_STARTS = 50
"""Places at which a list of options is looked for, of each kind of label. Each takes time linear in the question."""
_LABELLED = re.compile(r"\(?([A-Za-z1-9])(?:\)|[.:、](?!\d))\s*(.+)")
_BRACKETED = re.compile(r"\(([1-9])\)")
_NUMBERED = re.compile(r"\(?([1-9])\)?\.?")


@dataclass(frozen=True, slots=True)
class Options:
    """Labelled options, as a text lists them."""

    texts: list[str]
    labels: str
    """Their labels in order, letters or digits; there may be more labels than options."""
    starts: list[int]
    """Offset in the text of each label's letter or digit."""


def find_options(question: str) -> Options | None:
    """Return the options that a question lists; None if it lists none, or "(1) … (2) …" are questions themselves."""
    for pattern in _FIRST_OPTION:
        for first in islice(pattern.finditer(question), _MAX_STARTS):
            options = options_at(question, first.start())
            if options and (options.labels == ascii_uppercase or not any(map(_NO_OPTION.search, options.texts))):
                return options
    return None


def named_options(answer: str, options: Options) -> set[str]:
    """Return the capital letters of the options that an answer names, by label or else by text."""
    letters = ascii_uppercase[: len(options.texts)]
    by_label = dict(zip(options.labels, zip(letters, options.texts, strict=False), strict=False))
    label = _LABELLED.fullmatch(answer)
    letter, text = by_label.get(label[1], ("", "")) if label else ("", "")
    if label and _same(text, label[2]):
        return {letter}
    if len(chosen := chosen_letters(answer)) == 1 and chosen <= {*letters}:
        return {*chosen}
    if (number := _BRACKETED.fullmatch(answer)) and number[1] in by_label:
        return {by_label[number[1]][0]}
    same = {letter for letter, option in zip(letters, options.texts, strict=True) if _same(option, answer)}
    if (number := _NUMBERED.fullmatch(answer)) and number[1] in by_label:
        same.add(by_label[number[1]][0])
    return same


def chosen_letters(answer: str) -> frozenset[str]:
    """Return the letters, as capitals, of an answer that is read as a choice; none for any other answer."""
    return next((each.letters for each in read(answer) if isinstance(each, Choice)), frozenset())


def options_at(text: str, start: int) -> Options | None:
    """Return the options from `start` to the end of the text; None if there are fewer than two."""
    for labels in _LABELS:
        for style in _STYLES:
            if len(found := _labels_at(text, start, labels, style)) > 1:
                ends = [*(match.start() for match in found[1:]), len(text)]
                texts = [text[match.end() : end].strip() for match, end in zip(found, ends, strict=True)]
                cut = [option.rstrip(";,").rstrip() for option in texts]
                return Options(cut, labels, [match.start(1) for match in found])
    return None


def _labels_at(text: str, start: int, labels: str, style: str) -> list[re.Match[str]]:
    found: list[re.Match[str]] = []
    for label in labels:
        match = re.compile(style.format(label)).search(text, found[-1].end() if found else start)
        if match is None or (not found and match.start() > start):
            break
        found.append(match)
    return found


def _same(option: str, answer: str) -> bool:
    return bool(option) and (option.casefold() == answer.casefold() or matches(option, answer))
