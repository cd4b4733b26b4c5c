"""What an answer can be: one small record for each kind, and how it is described to people."""

from dataclasses import dataclass
from fractions import Fraction

from observe_r1.rewards.judge.formulas import Node, written
from observe_r1.rewards.judge.units import Unit


@dataclass(frozen=True, slots=True)
class Choice:
    """Options by their letters, as capitals; `text` is the text after the letter."""

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
    """A date's parts in the order in which they are written; a month's name is its number with a marker."""

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
    """Of a decimal: the value of one in its last digit."""
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
    unit: Unit | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """A value with its name, as in `x = 5`; the name is empty if it is more than a symbol."""

    name: str
    value: "Reading"


@dataclass(frozen=True, slots=True)
class Equation:
    """Two formulas that are equal."""

    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Several:
    """Several values, in any order."""

    items: tuple["Reading", ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of formulas."""

    kind: str
    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words, or a formula with signs that have no value here; compared literally."""

    text: str


def scaled_quantity(quantity: Quantity) -> Quantity:
    """Return a quantity without its percent sign: a hundredth of the number before it."""
    if not quantity.percent:
        return quantity
    formula = Node("/", (quantity.formula, Node("number", (Fraction(100),))))
    return Quantity(formula, step=quantity.step and quantity.step / 100, digits=quantity.digits)


Reading = (
    Choice | Clock | Date | Ratio | Quantity | Span | Brackets | Region | Named | Equation | Several | Matrix | Phrase
)


def described(reading: Reading) -> str:
    """Return a reading in words, as `number 3`, `quantity 5 cm` or `option B`."""
    match reading:
        case Choice():
            letters = ", ".join(sorted(reading.letters))
            joined = letters.replace(", ", " or ") if reading.alternatives else letters
            return f"option{'s' * (len(reading.letters) > 1)} {joined}" + (f": {reading.text}" if reading.text else "")
        case Clock():
            seconds = f":{reading.second:02}" if reading.second else ""
            return f"time {reading.hour}:{reading.minute:02}{seconds}" + (f" {reading.half}.m." if reading.half else "")
        case Date():
            return f"date {' '.join(reading.parts)}"
        case Ratio():
            return f"ratio {':'.join(map(str, reading.terms))}"
        case Quantity():
            return _described_quantity(reading)
        case Span():
            return f"range from {described(reading.low)} to {described(reading.high)}"
        case Brackets():
            inner = ", ".join(map(described, reading.items))
            return (
                f"set {{{inner}}}" if reading.opening == "{" else f"brackets {reading.opening}{inner}{reading.closing}"
            )
        case Region():
            ends = [("[" if each.has_low else "(", "]" if each.has_high else ")") for each in reading.intervals]
            both = zip(reading.intervals, ends, strict=True)
            return "range " + " or ".join(f"{a}{written(each.low)}, {written(each.high)}{b}" for each, (a, b) in both)
        case Named():
            return f"{reading.name or 'a name'} = {described(reading.value)}"
        case Equation():
            return f"equation {written(reading.left)} = {written(reading.right)}"
        case Several():
            return f"several: {'; '.join(map(described, reading.items))}"
        case Matrix():
            return "matrix " + "; ".join(", ".join(map(written, row)) for row in reading.rows)
        case Phrase():
            return f"words {reading.text!r}".replace("\\\\", "\\")  # LaTeX as it was written


def kind(reading: Reading) -> str:
    """Return the kind of a reading in one word, for counting: "number", "formula", "choice" …"""
    if isinstance(reading, Quantity):
        if reading.unit or reading.noun or reading.percent:
            return "quantity"
        plain = reading.formula.args[0] if reading.formula.op == "neg" else reading.formula
        return "number" if plain.op == "number" else "formula"
    return type(reading).__name__.lower()


def _described_quantity(quantity: Quantity) -> str:
    unit = "".join(
        f" {name}" + (f"^{power}" if power != 1 else "")
        for name, power in (quantity.unit.factors if quantity.unit else ())
    )
    noun = f" {quantity.noun}" if quantity.noun else ""
    return f"{kind(quantity)} {written(quantity.formula)}{'%' * quantity.percent}{unit}{noun}"
