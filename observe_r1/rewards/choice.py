"""Multiple choice: which letters a text chooses.

A letter counts alone, in brackets, with punctuation, before its option's text, after words such as "the
answer is" or "option", and as the only capital that stands by itself. It does not count inside a word or a
formula, where the text says "not", or where "a" is the English article.
"""

import re

from observe_r1.rewards.answer import undress

_WORD = r"0-9A-Za-zÀ-ɏ"
_FORMULA = r"'’_^=+*/<>\-"
_END = rf"(?![{_WORD}{_FORMULA}])"
_BRACKETED = r"[(\[] ?([A-Za-z]) ?[)\]]"

_ALONE = re.compile(rf"\{{*(?:{_BRACKETED}|([A-Za-z])) ?[)\].:]*\}}*")
_LABEL = re.compile(
    r"(?!(?:e\.g|i\.e)\b)\{*"
    rf"(?:{_BRACKETED}(?:[.:]| (?![+*/^=<>,&]|- )|(?=[{_WORD}\\]))|([A-Za-z]) ?(?:[).、]|:(?= )))"
    r" ?([^=,& ].*)"
)
_SECOND_LABEL = re.compile(r"(?:^|[ ,;/&])(?:[(\[]([A-Ja-j])[)\]](?![^ .,:])|([A-J](?=[).:、])|[a-j](?=\))). ?[^ ])")
_ONLY_LETTERS = re.compile(r"(?:(?:and|or|nor)\b|[,;/&+ .:()\[\]]|[A-Za-z](?![A-Za-z]))*")

_CUED = re.compile(
    r"\b(?i:answer|option|choice|choose|select|pick)"
    r"(?i: is| would be| should be| must be| option| choice)* ?[:=]? ?"
    rf"(?:{_BRACKETED}|([A-Za-z])){_END}"
)
_SECOND_CUED = re.compile(rf"[)\].]* ?(?:,|;|/|&|\+|、|and\b|or\b) ?(?:(?:and|or) )?(?:{_BRACKETED}|([A-Z])){_END}")
_EITHER = re.compile(r"[)\].]* ?(?:and|or)\b")
_STANDING = re.compile(
    rf"(?<![{_WORD}{_FORMULA}\\°])(?:(?<![0-9] )|(?=[A-Z][).:]))"
    rf"(?:\(([A-Za-z])\)|([A-Z])){_END}(?! ?[=+*/^<>])"
)
_LOWER_WORD = re.compile(r" (?!(?:is|because|since|as)\b)[a-z]")
_NEGATION = re.compile(r"\b(?i:not|neither|nor|never|cannot|except|wrong|incorrect)\b|n['’]t\b")


def chosen_letters(text: str) -> set[str]:
    """Return the letters, in upper case, that `text` chooses: one letter is a choice, several are none."""
    text = undress(text)
    if labelled := labels(text):
        return labelled[0]
    return _cued(text) or (set() if _NEGATION.search(text) else _standing(text))


def labels(text: str) -> tuple[set[str], str] | None:
    """Return letters and option text of an undressed "A", "(A)", "A." or "A. 12 cm"; None for anything else.

    The letters are several where the option text holds another label, as in "A. 12 cm B. 13 cm" or "A. and B.".
    """
    if alone := _ALONE.fullmatch(text):
        return {_letter(alone)}, ""
    label = _LABEL.match(text)
    if not label:
        return None
    letters = {_letter(label)} | _cued(label[3]) | {_letter(second) for second in _SECOND_LABEL.finditer(label[3])}
    if _ONLY_LETTERS.fullmatch(label[3]):
        letters |= {letter.upper() for letter in re.findall(r"\b[A-Za-z]\b", label[3])}
    return letters, label[3]


def _cued(text: str) -> set[str]:
    """The letters that words such as "the answer is" point at."""
    letters = set()
    for cue in _CUED.finditer(text):
        if cue[2] == "a" and _LOWER_WORD.match(text, cue.end()):
            continue
        letters.add(_letter(cue))
        if second := _SECOND_CUED.match(text, cue.end()):
            letters.add(_letter(second))
        elif either := _EITHER.match(text, cue.end()):
            letters |= _standing(text[either.end() :])
    return letters


def _standing(text: str) -> set[str]:
    """The capitals, and the letters in brackets, that stand by themselves."""
    return {_letter(found) for found in _STANDING.finditer(text) if not _is_english(found)}


def _is_english(found: re.Match[str]) -> bool:
    """Whether the letter is the pronoun I, or the article A at the start of a sentence."""
    before = found.string[max(0, found.start() - 2) : found.start()]
    starts = found.start() == 0 or before in (". ", "! ", "? ")
    article = found[0] == "I" or (found[0] == "A" and starts)
    return article and _LOWER_WORD.match(found.string, found.end()) is not None


def _letter(match: re.Match[str]) -> str:
    return (match[1] or match[2]).upper()
