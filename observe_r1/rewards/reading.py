"""What an answer says, as typed values: the same reading for gold answers and for responses.

The whole text must be read; nothing is searched for in it. A text can have several readings (`(1, 2)` is a point and an
interval), and each accounts for all of it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from observe_r1.rewards.answer import MAX_CHARS, cores, plain
from observe_r1.rewards.expressions import Node, Token, Unreadable, constant, has_angle, inexact, near, parse, tokenize, variables
from observe_r1.rewards.units import DEGREE, Unit, unit_of

MAX_PHRASE_WORDS = 8
"""Longer prose cannot be verified by comparing it literally."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Options by their letters, upper case; `text` is what stands beside the letter."""

    letters: frozenset[str]
    text: str = ""
    alternatives: bool = False


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day."""

    hour: int
    minute: int
    second: int
    half: str = ""


@dataclass(frozen=True, slots=True)
class Date:
    """A date's parts in the order in which they stand; a month's name is its number with a marker."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Numbers with colons between them."""

    terms: tuple[Fraction, ...]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number or formula, perhaps with a unit or with what is counted."""

    formula: Node
    unit: Unit | None = None
    noun: str = ""
    percent: bool = False
    step: Fraction | None = None
    """Of a decimal: one in its last digit."""
    digits: int = 0
    """Of a decimal: how many are significant."""


@dataclass(frozen=True, slots=True)
class Span:
    """A range between two quantities, as "10-20" or "5 to 7 years"."""

    low: Quantity
    high: Quantity


@dataclass(frozen=True, slots=True)
class Brackets:
    """A point, an interval, a list or a set: values in brackets, in their order."""

    opening: str
    items: tuple["Reading", ...]
    closing: str


@dataclass(frozen=True, slots=True)
class Interval:
    """All between two bounds."""

    low: Node
    high: Node
    has_low: bool
    has_high: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A union of intervals, of the variable that is named."""

    intervals: tuple[Interval, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """A value with its name, as in `x = 5`; the name is empty where it is more than a symbol."""

    name: str
    value: "Reading"


@dataclass(frozen=True, slots=True)
class Equation:
    """Two formulas that are equal."""

    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Several:
    """Values beside one another, in any order."""

    items: tuple["Reading", ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of formulas."""

    kind: str
    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words, or a formula of signs that have no value here; compared literally."""

    text: str


Reading = Choice | Clock | Date | Ratio | Quantity | Span | Brackets | Region | Named | Equation | Several | Matrix | Phrase

_LETTER = re.compile(r"(?:\( ?(?=[A-Za-z] ?\))|\[ ?(?=[A-Za-z] ?\])|\{ ?(?=[A-Za-z] ?\})|(?=[A-Za-z] ?\)?[.:,]?$))([A-Za-z]) ?[)\]}]?[.:,]?")
_LABELLED = re.compile(r"(?:[(\[]([A-Ha-h])[)\]][.:]?|([A-H])[.:)]|([a-h])\)) ?(.+)", re.DOTALL)
_OTHER_LABEL = re.compile(r"^(?:and|or|&|,)(?![A-Za-z])|(?:^|[\s,;])(?:[(\[]?[A-H][).:\]](?:\s|$|[A-Z\d])|[(\[]?[a-h]\)\s)")
_LETTER_LIST = re.compile(r"\s*(?:,\s*(?:and|or)\b|[,;/&+]|\band\b|\bor\b|\bthen\b|\s|和|或)\s*")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?(?: ?([ap])\.?m\.?)?|(\d{1,2}) ?([ap])\.?m\.?", re.IGNORECASE)
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH = r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
_DATE = (
    re.compile(r"(\d{1,4})([/.-])(\d{1,2})\2(\d{1,4})"),
    re.compile(rf"({_MONTH}) (\d{{1,2}})(?:st|nd|rd|th)?(?:,? (\d{{4}}))?", re.IGNORECASE),
    re.compile(rf"(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})(?:,? (\d{{4}}))?", re.IGNORECASE),
    re.compile(rf"({_MONTH}),? (\d{{4}})", re.IGNORECASE),
)
_RATIO = re.compile(r"\d+(?:\.\d+)?(?: ?: ?\d+(?:\.\d+)?)+")
_SPAN = re.compile(r"(?:from |between )?([+-]?\d[\d.,]*)(?: ?(%))?(?: ?- ?| ?~ ?| to | and |至|到)([+-]?\d[\d.,]*)((?: ?[^\W\d_]| ?[%°¤]).*|)", re.IGNORECASE)
_FEET = re.compile(r"(\d+)' ?(\d+(?:\.\d+)?)(?:\"|'')")
_THOUSANDS = re.compile(r"(?<![\d.,(\[{])(\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+)(?![\d]|,\d|[)\]}])")
_MIXED = re.compile(r"(?<![\d.^_/}])(\d+) (\d+)/(\d+)(?![\d/.])")
_BOUNDS = (
    (re.compile(r"(?:at least|no (?:less|fewer) than|a minimum of) (.+)", re.IGNORECASE), r"\\ge \1"),
    (re.compile(r"(?:at most|no (?:more|greater) than|up to|a maximum of) (.+)", re.IGNORECASE), r"\\le \1"),
    (re.compile(r"(?:less|fewer|smaller) than (.+)", re.IGNORECASE), r"< \1"),
    (re.compile(r"(?:more|greater|larger) than (.+)", re.IGNORECASE), r"> \1"),
    (re.compile(r"(.+) or (?:more|greater|above)", re.IGNORECASE), r"\\ge \1"),
    (re.compile(r"(.+) or (?:less|fewer|below)", re.IGNORECASE), r"\\le \1"),
)
_SEPARATORS = frozenset({",", ";", "or", "and", "和", "或", "&"})
_RELATIONS = {"=": "=", "==": "=", "<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "<=": "<=", ">=": ">="} | {
    "\\ne": "!=", "!=": "!=", "\\approx": "~", "\\in": "in",
}  # fmt: skip
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_OPENING, _CLOSING = frozenset({"(", "[", "{", "\\{"}), frozenset({")", "]", "}", "\\}"})
_INFINITY = Node("constant", ("∞",))
_MINUS_INFINITY = Node("neg", (_INFINITY,))
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12, "万": 4, "亿": 8}
_MONEY_SCALES = {"k": 3, "m": 6, "mn": 6, "b": 9, "bn": 9}
_MONEY = {"¤": "$", "€": "€", "£": "£", "¥": "¥", "dollar": "$", "dollars": "$", "usd": "$", "euro": "€", "euros": "€"} | {
    "pounds": "£", "元": "¥", "yuan": "¥", "美元": "$",
}  # fmt: skip
_PERCENT = frozenset({"%", "\\%", "percent", "pct", "per cent"})
_NUMBER_WORDS = {
    word: number
    for number, word in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())
}
_NO_NOUN = re.compile(
    r"(?:or|and|more|less|fewer|least|most|than|to|not|but|plus|minus|times|over|under|up|dozen|hundred|half|halves|thirds?"
    r"|quarters?|percent|per|is|are|was|if|in|so|since|because|pi|sqrt|maybe|other|another|wrong|each|squared|cubed"
    r"|am|pm|st|nd|rd|th|right|left|of|out|by|with|without|except|no|a|the|i)",
    re.IGNORECASE,
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_HAS_CONTENT = re.compile(r"\w")
_HAS_LETTER = re.compile(r"[^\W\d_]")
_WORDS = re.compile(r"(?=.*\w)[\w\s'\".,:;/+%&()°¤@#=-]+")
_ARTICLE = re.compile(r"(?:a|an|the) (?=\S)")
_DECIMAL = re.compile(r"[+-]?(\d*)\.(\d+)(?:[eE]([+-]?\d+)|(?:\*|×|·|\\times|\\cdot)10(?:\^|\*\*)\{?([+-]?\d+)\}?)?")


@lru_cache(maxsize=8192)
def read(text: str) -> tuple[Reading, ...]:
    """Return the readings of a final answer, none where it cannot be read.

    Source: the rules stand in docs/rewards.md.
    """
    if not text.strip() or len(text) > MAX_CHARS:
        return ()
    readings: list[Reading] = []
    for core, taken_apart in cores(plain(text)):
        if not taken_apart and (phrase := _phrase(core)):
            readings.append(phrase)
        if core and (typed := _typed(core)):
            readings += typed
            break  # what would be taken off now is part of this reading
    return tuple(dict.fromkeys(readings))


def _typed(text: str) -> list[Reading]:
    """The readings of a text as anything but a phrase."""
    readings: list[Reading] = []
    if choice := _choice(text):
        readings.append(choice)
        if len(choice.letters) > 1 or choice.text:
            return readings
    if reading := _clock(text) or _date(text) or _ratio(text) or _span(text) or _feet(text):
        return [reading]
    try:
        return readings + _statement(tokenize(_numerals(text)))
    except Unreadable:
        return readings


def _phrase(text: str) -> Phrase | None:
    """A text as words, or as a formula that is not understood; both must look whole."""
    text = re.sub(r"(?<=\w)[!?]+$", "", text)
    if "\\" in text:
        whole = all(text.count(a) == text.count(b) for a, b in ("{}", "[]", "()"))
        return Phrase(text.replace(" ", "")) if whole and _HAS_CONTENT.search(_COMMAND.sub(" ", text)) else None
    if not _WORDS.fullmatch(text) or len(text.split()) > MAX_PHRASE_WORDS or _is_formula(text):
        return None
    bare = text.casefold()
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
    if 1 < len(text) < 8 and text.isascii() and text.isupper() and all(a < b for a, b in zip(text, text[1:], strict=False)) and text[-1] <= "J":
        return Choice(frozenset(text))
    if (labelled := _LABELLED.fullmatch(text)) and not _OTHER_LABEL.search(labelled[4]) and _is_option(labelled[4]):
        letter = (labelled[1] or labelled[2] or labelled[3]).upper()
        return Choice(frozenset(letter), labelled[4].strip())
    items = [item for item in _LETTER_LIST.split(text) if item]
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
    if hour > 24 or minute > 59 or second > 59:
        return None
    return Clock(hour, minute, second, (found[4] or "").lower())


def _date(text: str) -> Date | None:
    if found := _DATE[0].fullmatch(text):
        return Date((str(int(found[1])), str(int(found[3])), str(int(found[4]))))
    for pattern, (month, *rest) in zip(_DATE[1:], ((1, 2, 3), (2, 1, 3), (1, 2)), strict=True):
        if found := pattern.fullmatch(text):
            number = _MONTHS.index(found[month][:3].lower()) + 1
            return Date((f"month {number}", *(str(int(found[each])) for each in rest if found[each])))
    return None


def _ratio(text: str) -> Ratio | None:
    return Ratio(tuple(Fraction(term) for term in text.split(":"))) if _RATIO.fullmatch(text.replace(" ", "")) else None


def _span(text: str) -> Span | None:
    found = _SPAN.fullmatch(text)
    if not found or ("and" in text[: found.start(3)] and not text.lower().startswith("between")):
        return None
    try:
        low = _measured(tokenize(_numerals(found[1] + found[4])))
        high = _measured(tokenize(_numerals(found[3] + found[4])))
    except Unreadable:
        return None
    return Span(low, high)


def _feet(text: str) -> Quantity | None:
    if found := _FEET.fullmatch(text):
        inches = 12 * Fraction(found[1]) + Fraction(found[2])
        return Quantity(Node("number", (inches,)), Unit((("inch", 1),)))
    return None


def _numerals(text: str) -> str:
    """`text` with numbers in one piece: no separators of thousands, no mixed numbers; bounds in words as signs."""
    for pattern, sign in _BOUNDS:
        if pattern.fullmatch(text):
            text = pattern.sub(sign, text)
            break
    text = _THOUSANDS.sub(lambda found: re.sub("[, ]", "", found[0]), text)
    return _MIXED.sub(lambda found: f"({found[1]}+{found[2]}/{found[3]})" if int(found[2]) < int(found[3]) else found[0], text)


def _split(tokens: list[Token], at: Any) -> tuple[list[list[Token]], list[str]]:
    """The parts of `tokens` between the tokens outside of brackets whose text is in `at`, and these tokens."""
    parts: list[list[Token]] = [[]]
    between, depth = [], 0
    for token in tokens:
        if token.text in _OPENING:
            depth += 1
        elif token.text in _CLOSING:
            depth -= 1
        if depth == 0 and token.text in at:
            parts.append([])
            between.append(token.text)
        else:
            parts[-1].append(token)
    return parts, between


def _statement(tokens: list[Token]) -> list[Reading]:
    parts, _ = _split(tokens, _SEPARATORS)
    filled = [part for part in parts if part]
    if len(parts) == 1:
        return _relation(tokens)
    if len(filled) < 2 or (not parts[0] or not parts[-1]):
        raise Unreadable("an empty place in a list")
    items = [_relation(part)[0] for part in filled]
    regions = [item for item in items if isinstance(item, Region)]
    if len(regions) == len(items):
        joined_by_and = any(token.text == "and" for token in tokens)
        return [_intersection(regions) if joined_by_and else _union(regions)]
    if isinstance(items[0], Named) and items[0].name and not any(isinstance(item, Named) for item in items[1:]):
        items[0] = items[0].value  # n = 2, 3, 4
    readings: list[Reading] = [Several(tuple(items))]
    if (total := _compound(items)) is not None:
        readings.append(total)
    return readings


def _compound(items: list[Any]) -> Quantity | None:
    """The sum of quantities in ever smaller units of one kind, as 2 hours and 30 minutes."""
    from observe_r1.rewards.units import in_base_units

    if not all(isinstance(item, Quantity) and item.unit and item.unit.factors for item in items):
        return None
    bases = [in_base_units(item.unit) for item in items]
    values = [constant(item.formula) for item in items]
    if len({base[2] for base in bases}) > 1 or not all(isinstance(value, Fraction) for value in values):
        return None
    if not all(a[0] > b[0] for a, b in zip(bases, bases[1:], strict=False)):
        return None
    total = sum(value * base[0] for value, base in zip(values, bases, strict=True)) / bases[-1][0]
    return Quantity(Node("number", (Fraction(total),)), items[-1].unit)


def _relation(tokens: list[Token]) -> list[Reading]:
    parts, signs = _split(tokens, _RELATIONS)
    relations = {_RELATIONS[sign] for sign in signs}
    if not signs:
        return _value(tokens)
    if relations == {"in"} and len(parts) == 2 and _name(parts[0]) is not None:
        return _statement(parts[1])
    if relations <= {"=", "~"}:
        return _equality(parts)
    if relations == {"!="} and len(parts) == 2 and (not parts[0] or _name(parts[0]) is not None):
        bound = parse(parts[1])
        below = Interval(_MINUS_INFINITY, bound, False, False)
        return [Region((below, Interval(bound, _INFINITY, False, False)), _name(parts[0]) or "")]
    return [_region(parts, [_RELATIONS[sign] for sign in signs])]


def _region(parts: list[list[Token]], relations: list[str]) -> Region:
    if not set(relations) <= _MIRRORED.keys() or len(relations) > 2:
        raise Unreadable("no inequality")
    if len(relations) == 2:
        low, middle, high = parts
        if relations[0][0] != relations[1][0] or (name := _name(middle)) is None:
            raise Unreadable("no double inequality")
        if relations[0][0] == ">":
            low, high, relations = high, low, relations[::-1]
        ends = (relations[0].endswith("="), relations[1].endswith("="))
        return Region((Interval(parse(low), parse(high), *ends),), name)
    left, right = parts
    (relation,) = relations
    name = "" if not left else _name(left)
    if name is None:
        left, right, relation = right, left, _MIRRORED[relation]
        name = _name(left)
        if name is None:
            raise Unreadable("no inequality of a variable")
    bound = _measured(right).formula
    closed = relation.endswith("=")
    if relation[0] == "<":
        return Region((Interval(_MINUS_INFINITY, bound, False, closed),), name)
    return Region((Interval(bound, _INFINITY, closed, False),), name)


def _union(regions: list[Region]) -> Region:
    if len({region.name for region in regions}) > 1:
        raise Unreadable("several variables")
    intervals = [interval for region in regions for interval in region.intervals]
    bounds = [constant(interval.low) for interval in intervals]
    if all(isinstance(bound, Fraction) or (bound is not None and not bound.imag) for bound in bounds):
        order = sorted(range(len(intervals)), key=lambda index: inexact(bounds[index]))
        intervals = [intervals[index] for index in order]
    return Region(tuple(intervals), regions[0].name)


def _intersection(regions: list[Region]) -> Region:
    """Of two half lines that meet: x > 1 and x < 3."""
    if len(regions) != 2 or any(len(region.intervals) > 1 for region in regions) or regions[0].name != regions[1].name:
        raise Unreadable("no simple range")
    one, other = (region.intervals[0] for region in regions)
    if one.low == _MINUS_INFINITY:
        one, other = other, one
    if one.high != _INFINITY or other.low != _MINUS_INFINITY:
        raise Unreadable("no simple range")
    return Region((Interval(one.low, other.high, one.has_low, other.has_high),), regions[0].name)


def _name(tokens: list[Token]) -> str | None:
    """The symbol that tokens name: "" where they name something by more than a symbol, None where they name nothing."""
    texts = [token.text for token in tokens]
    if not texts:
        return None
    try:
        tree = parse(tokens)
    except Unreadable:
        words = all(token.kind == "word" or token.text in ("\\angle", "\\triangle", "_", "{", "}", "m", "的") for token in tokens)
        return "" if words else None
    if tree.op == "variable":
        name = tree.args[0]
        return name if len(name) == 1 or name.startswith("\\") else ""
    if len(texts) > 3 and texts[1] == "(" and texts[-1] == ")" and all(len(t) == 1 for t in texts):
        return "" if tokens[0].kind == "word" else None  # f(x)
    return "" if len(tokens) == 1 and tokens[0].kind == "word" and len(texts[0]) > 1 else None


def _equality(parts: list[list[Token]]) -> list[Reading]:
    name = _name(parts[0])
    rest = parts[1:] if name is not None and len(parts) > 1 else parts
    if not all(rest):
        raise Unreadable("nothing on one side")
    if len(rest) == 1:
        readings: list[Reading] = [Named(name or "", value) for value in _value(rest[0]) if not isinstance(value, Phrase)]
        try:
            left, right = parse(parts[0]), parse(rest[0])
        except Unreadable:
            return readings
        if variables(right):
            readings.append(Equation(left, right))
        return readings
    members = []
    for part in rest:
        reading = _value(part)[0]
        members.append(reading)
    constants = [m for m in members if isinstance(m, Quantity) and constant(m.formula) is not None]
    if len(constants) == len(members):
        if not all(_agree(first, second) for first, second in zip(constants, constants[1:], strict=False)):
            raise Unreadable("the sides are not equal")
        return [Named(name or "", member) for member in members]
    if name is None and len(rest) == 2 and all(isinstance(m, Quantity) for m in members):
        return [Equation(members[0].formula, members[1].formula)]
    if constants and members[-1] is constants[-1]:
        return [Named(name or "", members[-1])]
    if name is not None and all(isinstance(m, Quantity) for m in members):
        return [Named(name, members[-1])]
    raise Unreadable("no single value")


def _agree(left: Quantity, right: Quantity) -> bool:
    """Whether two sides of an equation have one value, or one is the other rounded."""
    values = constant(left.formula), constant(right.formula)
    if left.percent != right.percent or None in values:
        return left.percent != right.percent
    step = max(left.step or Fraction(0), right.step or Fraction(0))
    tolerance = step / 2 if max(left.digits, right.digits) > 1 else Fraction(0)
    return near(*values, tolerance + Fraction(1, 10**40))


def _value(tokens: list[Token]) -> list[Reading]:
    if not tokens:
        raise Unreadable("nothing")
    texts = [token.text for token in tokens]
    if texts[0] == "\\begin":
        return [_matrix(tokens)]
    if texts == ["\\emptyset"] or texts in (["\\{", "\\}"], ["{", "}"]):
        return [Brackets("{", (), "}")]
    if "\\cup" in texts:
        parts, _ = _split(tokens, ("\\cup",))
        return [_union([_as_region(_value(part)[0]) for part in parts])]
    if texts.count("\\pm") == 1:
        at = texts.index("\\pm")
        both = [[*tokens[:at], Token("sign", sign, False), *tokens[at + 1 :]] for sign in ("+", "-")]
        return [Several(tuple(_measured(each[1:] if at == 0 and index == 0 else each) for index, each in enumerate(both)))]
    if texts[0] in _OPENING and texts[-1] in _CLOSING and len(_split(tokens, ())[0]) == 1 and _encloses(texts):
        return _bracketed(tokens)
    return [_measured(tokens)]


def _encloses(texts: list[str]) -> bool:
    depth = 0
    for index, text in enumerate(texts):
        depth += (text in _OPENING) - (text in _CLOSING)
        if depth == 0:
            return index == len(texts) - 1
    return False


def _bracketed(tokens: list[Token]) -> list[Reading]:
    opening, inner, closing = tokens[0].text, tokens[1:-1], tokens[-1].text
    parts, _ = _split(inner, (",", ";"))
    if len(parts) == 1:
        described, _ = _split(inner, ("|", ":"))
        if opening in ("{", "\\{") and len(described) == 2 and _name(described[0]) is not None:
            return _statement(described[1])
        if opening != "\\{":
            return _statement(inner)
    opening, closing = opening.lstrip("\\"), closing.lstrip("\\")
    return [Brackets(opening, tuple(_relation(part)[0] for part in parts), closing)]


def _as_region(reading: Reading) -> Region:
    if isinstance(reading, Region):
        return reading
    if isinstance(reading, Brackets) and len(reading.items) == 2 and reading.opening in "([" and reading.closing in ")]":
        low, high = reading.items
        if isinstance(low, Quantity) and isinstance(high, Quantity):
            interval = Interval(low.formula, high.formula, reading.opening == "[", reading.closing == "]")
            return Region((interval,))
    raise Unreadable("no interval")


def as_region(reading: Reading) -> Region | None:
    """Return a reading as a region where it can be one: brackets with two bounds can."""
    try:
        return _as_region(reading)
    except Unreadable:
        return None


def _matrix(tokens: list[Token]) -> Matrix:
    texts = [token.text for token in tokens]
    if texts[1] != "{" or texts[-1] != "}" or texts[-4] != "\\end" or texts[2] != texts[-2]:
        raise Unreadable("no matrix")
    kind = texts[2]
    if kind not in ("pmatrix", "bmatrix", "matrix", "vmatrix"):
        raise Unreadable("no matrix")
    rows, _ = _split(tokens[4:-4], ("\\\\",))
    cells = tuple(tuple(parse(cell) for cell in _split(row, ("&",))[0]) for row in rows if row)
    if len({len(row) for row in cells}) != 1:
        raise Unreadable("no matrix")
    return Matrix("v" if kind == "vmatrix" else "", cells)


def _measured(tokens: list[Token]) -> Quantity:
    """A formula with the unit, money, scale or noun that follows it."""
    tokens, money = _without_money(tokens)
    if not tokens:
        raise Unreadable("nothing")
    if tokens[0].text.casefold() in _NUMBER_WORDS:
        tokens = [Token("number", str(_NUMBER_WORDS[tokens[0].text.casefold()]), False), *tokens[1:]]
    percent = tokens[-1].text.casefold() in _PERCENT
    if percent:
        tokens = tokens[:-1]
    tokens, scale = _without_scale(tokens, money)
    if scale or percent or money:
        quantity = _number(tokens, noun=money)
        if scale:
            quantity = Quantity(Node("*", (quantity.formula, Node("number", (scale,)))), noun=money)
        return Quantity(quantity.formula, None, money, percent, quantity.step, quantity.digits)
    for at in range(1, len(tokens)):
        token = tokens[at]
        starts = token.kind == "word" or token.text in ("\\Omega", "°", "^", "µ", "Å", "Ω")
        if starts and (unit := unit_of(tokens[at:])):
            try:
                quantity = _number(tokens[:at])
            except Unreadable:
                continue
            if not variables(quantity.formula) and not (unit == DEGREE and has_angle(quantity.formula)):
                return Quantity(quantity.formula, unit, step=quantity.step, digits=quantity.digits)
    if noun := _noun(tokens):
        return _number(tokens[:noun], noun=tokens[-1].text.casefold())
    return _number(tokens)


def _number(tokens: list[Token], noun: str = "") -> Quantity:
    formula = parse(tokens)
    decimal = _DECIMAL.fullmatch("".join(token.text for token in tokens))
    if not decimal:
        return Quantity(formula, noun=noun)
    exponent = int(decimal[3] or decimal[4] or 0)
    if abs(exponent) > 10_000:
        raise Unreadable("too large")
    digits = len((decimal[1] + decimal[2]).lstrip("0"))
    return Quantity(formula, noun=noun, step=Fraction(10) ** (exponent - len(decimal[2])), digits=digits)


def _without_money(tokens: list[Token]) -> tuple[list[Token], str]:
    for at in (0, -1):
        if tokens and (money := _MONEY.get(tokens[at].text.casefold())):
            return (tokens[1:] if at == 0 else tokens[:-1]), money
        if len(tokens) > 1 and tokens[0].text == "-" and (money := _MONEY.get(tokens[1].text)):
            return [tokens[0], *tokens[2:]], money
    return tokens, ""


def _without_scale(tokens: list[Token], money: str) -> tuple[list[Token], Fraction | None]:
    last = tokens[-1].text.casefold() if len(tokens) > 1 else ""
    scales = _SCALES | (_MONEY_SCALES if money else {})
    if last in scales:
        return tokens[:-1], Fraction(10) ** scales[last]
    return (tokens[:-1], Fraction(12)) if last == "dozen" else (tokens, None)


def _noun(tokens: list[Token]) -> int:
    """Where the words begin that say what is counted, as in 5 red circles; 0 where there are none."""
    at = len(tokens)
    while at and tokens[at - 1].kind == "word":
        at -= 1
    words = [token.text for token in tokens[at:]]
    if not at or not 1 <= len(words) <= 4 or tokens[at - 1].kind != "number" or not tokens[at].spaced and words[0].isascii():
        return 0
    if any(_NO_NOUN.fullmatch(word) or (word.isascii() and len(word) < 3) for word in words):
        return 0
    return at if all(word.isascii() or len(word) <= 4 for word in words) else 0
