"""What an answer says, as typed values; gold answers and responses are read alike.

The whole text must be readable; nothing is searched for in it. A text can have several readings (`(1, 2)` is a point
and an interval), and each of them accounts for all of it.
"""

import re
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from string import ascii_letters

from observe_r1.rewards.judge.answer import MAX_CHARS, cores
from observe_r1.rewards.judge.formulas import Node, Unreadable, parse, tokenize
from observe_r1.rewards.judge.notation import plain
from observe_r1.rewards.judge.numerals import in_digits
from observe_r1.rewards.judge.quantities import measured
from observe_r1.rewards.judge.statements import statement
from observe_r1.rewards.judge.units import Unit
from observe_r1.rewards.judge.values import Choice, Clock, Date, Phrase, Quantity, Ratio, Reading, Span

MAX_PHRASE_WORDS = 8
"""Longer prose cannot be verified by comparing it literally."""


_NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?")
_LETTER = re.compile(
    r"(?:\( ?(?=[A-Za-z] ?\))|\[ ?(?=[A-Za-z] ?\])|\{ ?(?=[A-Za-z] ?\})|(?=[A-Za-z] ?\)?[.:,]?$))"
    r"([A-Za-z]) ?[)\]}]?[.:,]?"
)
_LABELLED = re.compile(
    r"(?:[(\[]([A-Ha-h])[)\]][.:]?|([A-H])(?:[:)]|\.(?!\.|[A-Z](?:\.|$)))|([a-h])\)) ?(.+)", re.DOTALL
)
_OTHER_LABEL = re.compile(
    r"^(?:and|or|&|,)(?![A-Za-z])|(?:^|[\s,;])(?:[(\[]?[A-H][).:\]](?:\s|$|[A-Z\d])|[(\[]?[a-h]\)\s)"
    r"|\b(?:[Nn]ot?|[Aa]ctually|[Ww]ait|[Rr]ather),? [(\[]?[A-H](?![\w'])"
)
_LETTER_LIST = re.compile(r"\s*(?:,\s*(?:and|or)\b|[,;/&+]|\band\b|\bor\b|\bthen\b|\s|和|或)\s*")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?(?: ?([ap])\.?m\.?)?|(\d{1,2}) ?([ap])\.?m\.?", re.IGNORECASE)
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATE = (
    re.compile(r"(\d{1,4})([/.-])(\d{1,2})\2(\d{1,4})"),
    re.compile(rf"({_MONTH}) (\d{{1,2}})(?:st|nd|rd|th)?(?:,? (\d{{4}}))?", re.IGNORECASE),
    re.compile(rf"(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})(?:,? (\d{{4}}))?", re.IGNORECASE),
    re.compile(rf"({_MONTH}),? (\d{{4}})", re.IGNORECASE),
)
_DECADE = re.compile(r"(?:the )?\d{1,3}0s")
_SECONDS = re.compile(r"\d{2,3}s")
"""What may be a decade or a time: the 90s, 90 s."""
_RATIO = re.compile(r"\d+(?:\.\d+)?(?: ?: ?\d+(?:\.\d+)?)+")
_SPAN = re.compile(
    r"(?:from |between )?([+-]?\d[\d.,]*)(?: ?(%))?(?: ?- ?| ?~ ?| to | and |至|到)([+-]?\d[\d.,]*)"
    r"((?: ?[^\W\d_]| ?[%°¤]).*|)",
    re.IGNORECASE,
)
_FEET = re.compile(r"(\d+)' ?(\d+(?:\.\d+)?)(?:\"|'')")
_THOUSANDS = re.compile(r"(?<![\d.,(\[{])(\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d{1,3}(?:'\d{3})+)(?![\d]|,\d|[)\]}])")
_MIXED = re.compile(r"(?<![\d.^_/}])(\d+) (\d+)/(\d+)(?![\d/.])")
_BOUNDS = (
    (re.compile(r"(?:negative|minus) (.+)", re.IGNORECASE), r"- \1"),
    (re.compile(r"(?:at least|no (?:less|fewer) than|a minimum of) (.+)", re.IGNORECASE), r"\\ge \1"),
    (re.compile(r"(?:at most|no (?:more|greater) than|up to|a maximum of) (.+)", re.IGNORECASE), r"\\le \1"),
    (re.compile(r"(?:less|fewer|smaller) than (.+)", re.IGNORECASE), r"< \1"),
    (re.compile(r"(?:more|greater|larger) than (.+)", re.IGNORECASE), r"> \1"),
    (re.compile(r"(.+) or (?:more|greater|above)", re.IGNORECASE), r"\\ge \1"),
    (re.compile(r"(.+) or (?:less|fewer|below)", re.IGNORECASE), r"\\le \1"),
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_HAS_CONTENT = re.compile(r"\w")
_VALUE_SIGN = re.compile(r"[\d+=]")
_LONG_WORD = re.compile(r"[^\W\d_]{4,}")
_SUBSCRIPT = re.compile(r"(?<=[A-Za-z)]) ?_ ?(?:\{ ?(\d{1,9}) ?\}|(\d{1,9}))(?: (?=[A-Z]))?")
"""As in H_2O, which is H2O."""
_CHARGE = re.compile(r"(?<=[A-Za-z0-9]) ?\^ ?\{? ?(\d?[+-]) ?\}?$")
"""As in Na^+, which is Na+."""
_SINGLE = re.compile(r"\{(\w)\}")
_HAS_LETTER = re.compile(r"[^\W\d_]")
_WORDS = re.compile(r"(?=.*\w)[\w\s'\".,:;/+%&()°¤@#=-]+")
_ARTICLE = re.compile(r"(?:a|an|the) (?=\S)")


@lru_cache(maxsize=8192)
def read(text: str) -> tuple[Reading, ...]:
    """Return the readings of a final answer, by the rules of docs/rewards.md; none if it cannot be read."""
    text = text.strip()
    if not text or len(text) > MAX_CHARS:
        return ()
    if _NUMBER.fullmatch(text):
        return (measured(tokenize(text)),)
    if len(text) == 1 and text in ascii_letters:
        return tuple(_typed(text))
    typed: list[Reading] = []
    phrases: list[Reading] = []
    for core, taken_apart in cores(plain(text)):
        if not taken_apart and (phrase := _phrase(core)):
            phrases.append(phrase)
        if core and (typed := _typed(core)):
            break  # what would be taken off now is part of this reading
    return tuple(dict.fromkeys(typed + phrases))


def _typed(text: str) -> list[Reading]:
    """Return the readings of a text as anything but a phrase."""
    readings: list[Reading] = []
    if choice := _choice(text):
        readings.append(choice)
        if len(choice.letters) > 1 or choice.text:
            return readings
    if reading := _clock(text) or _date(text) or _ratio(text) or _span(text) or _feet(text):
        if not _SECONDS.fullmatch(text):
            return [reading]
        readings.append(reading)
    try:
        return readings + statement(tokenize(_numerals(text)))
    except Unreadable:
        return readings


def _phrase(text: str) -> Phrase | None:
    """Return a text as words, or as a formula that is not understood; None if it does not look whole."""
    text = re.sub(r"(?<=\w)!+$", "", text)
    text = _CHARGE.sub(r"\1", _SUBSCRIPT.sub(r"\1\2", text))
    if "\\" in text:
        whole = all(text.count(a) == text.count(b) for a, b in ("{}", "[]", "()"))
        return (
            Phrase(_SINGLE.sub(r"\1", text.replace(" ", "")))
            if whole and _HAS_CONTENT.search(_COMMAND.sub(" ", text))
            else None
        )
    if not _WORDS.fullmatch(text) or len(text.split()) > MAX_PHRASE_WORDS or _is_formula(text):
        return None
    letters = _LONG_WORD if _VALUE_SIGN.search(text) else _HAS_LETTER  # 12 N is not 12 n
    bare = letters.sub(lambda found: found[0].casefold(), text)
    return Phrase(_ARTICLE.sub("", bare, count=1) if _ARTICLE.match(bare) else bare)


def _is_formula(text: str) -> bool:
    if _HAS_LETTER.search(text):
        return False
    try:
        parse(tokenize(text))
    except Unreadable:
        return False
    return True


def _choice(text: str) -> Choice | None:
    if alone := _LETTER.fullmatch(text):
        return Choice(frozenset(alone[1].upper()))
    if (
        1 < len(text) < 8
        and text.isascii()
        and text.isalpha()
        and text.isupper()
        and all(a < b for a, b in pairwise(text))
        and text[-1] <= "J"
    ):
        return Choice(frozenset(text))
    if (labelled := _LABELLED.fullmatch(text)) and not _OTHER_LABEL.search(labelled[4]) and _is_option(labelled[4]):
        letter = (labelled[1] or labelled[2] or labelled[3]).upper()
        return Choice(frozenset(letter), labelled[4].strip())
    items = [item for item in _LETTER_LIST.split(text.replace(")(", "),(")) if item]
    letters = [_LETTER.fullmatch(item) for item in items]
    if len(items) > 1 and all(each and (each[1].isupper() or len(each[0]) > 1) for each in letters):
        alternatives = re.search(r"\bor\b|/|或", text) is not None
        return Choice(frozenset(each[1].upper() for each in letters if each), alternatives=alternatives)
    return None


def _is_option(text: str) -> bool:
    """Whether a text is a value or words, as an option's is."""
    return _WORDS.fullmatch(text) is not None or bool(_typed(text)) or _phrase(text) is not None


def _clock(text: str) -> Clock | None:
    found = _CLOCK.fullmatch(text)
    if not found:
        return None
    if found[5]:
        return Clock(int(found[5]), 0, 0, found[6].lower())
    hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
    if hour > (12 if found[4] else 24) or minute > 59 or second > 59:
        return None
    return Clock(hour, minute, second, (found[4] or "").lower())


def _date(text: str) -> Date | None:
    if _DECADE.fullmatch(text):
        return Date((text,))
    if found := _DATE[0].fullmatch(text):
        return Date((str(int(found[1])), str(int(found[3])), str(int(found[4]))))
    for pattern, (month, *rest) in zip(_DATE[1:], ((1, 2, 3), (2, 1, 3), (1, 2)), strict=True):
        if found := pattern.fullmatch(text):
            number = _MONTHS.index(found[month][:3].lower()) + 1
            return Date((f"month {number}", *(str(int(found[each])) for each in rest if found[each])))
    return None


def _ratio(text: str) -> Ratio | None:
    return Ratio(tuple(Fraction(term) for term in text.split(":"))) if _RATIO.fullmatch(text) else None


def _span(text: str) -> Span | None:
    found = _SPAN.fullmatch(text)
    if not found or ("and" in text[: found.start(3)] and not text.lower().startswith("between")):
        return None
    try:
        low = measured(tokenize(_numerals(found[1] + found[4])))
        high = measured(tokenize(_numerals(found[3] + found[4])))
    except Unreadable:
        return None
    if found[4] and not (low.unit or low.noun or low.percent):
        return None  # 2 - 3i
    return Span(low, high)


def _feet(text: str) -> Quantity | None:
    if found := _FEET.fullmatch(text):
        inches = 12 * Fraction(found[1]) + Fraction(found[2])
        return Quantity(Node("number", (inches,)), Unit((("inch", 1),)))
    return None


def _numerals(text: str) -> str:
    """Return `text` without separators of thousands and mixed numbers, with bounds as signs and numbers as digits."""
    for pattern, sign in _BOUNDS:
        if pattern.fullmatch(text):
            text = pattern.sub(sign, text)
            break
    text = in_digits(text)
    text = _THOUSANDS.sub(lambda found: re.sub("[, ']", "", found[0]), text)
    return _MIXED.sub(
        lambda found: f"({found[1]}+{found[2]}/{found[3]})" if int(found[2]) < int(found[3]) else found[0], text
    )
