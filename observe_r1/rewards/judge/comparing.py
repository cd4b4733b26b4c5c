"""Whether two answers are the same; what each of them is decides how they are compared."""

from collections.abc import Sequence
from fractions import Fraction

from observe_r1.rewards.judge.evaluating import Value, close, constant, near, proportional, same, scaled
from observe_r1.rewards.judge.formulas import Node
from observe_r1.rewards.judge.reading import read
from observe_r1.rewards.judge.statements import as_region
from observe_r1.rewards.judge.units import DEGREE, in_base_units
from observe_r1.rewards.judge.values import (
    Brackets,
    Choice,
    Clock,
    Equation,
    Interval,
    Matrix,
    Named,
    Quantity,
    Ratio,
    Reading,
    Region,
    Several,
    Span,
    described,
    scaled_quantity,
)

_ROUNDED_DIGITS = 3
"""A gold decimal with fewer significant digits is exact."""
_APPROXIMATE_DIGITS = 6
"""A decimal with at least so many significant digits stands for the exact value that rounds to it."""

_LAST_OPTION = "H"
"""A gold answer of one letter, up to this one, may be an option; a later letter, as x, is a variable."""


def matches(answer: str, gold: str) -> bool:
    """Return whether a final answer is the gold answer."""
    golds, readings = read(gold), read(answer)
    is_option = any(isinstance(wanted, Choice) and max(wanted.letters) <= _LAST_OPTION for wanted in golds)
    return any(
        _same(wanted, given)
        for wanted in golds
        for given in readings
        if isinstance(wanted, Choice) or not (is_option and isinstance(given, Choice))  # A. B chooses A
    )


def verdict(answer: str, gold: str) -> str:
    """Return whether a final answer is the gold answer, and why, in words."""
    wanted, given = read(gold), read(answer)
    if not wanted:
        return "wrong: the gold answer cannot be read as a whole, so nothing counts for it"
    if not given:
        return "wrong: the answer cannot be read as a whole"
    if matches(answer, gold):
        return "right: both are the same"
    return f"wrong: {described(given[0])} is not {described(wanted[0])}"


def _same(gold: Reading, answer: Reading) -> bool:
    if isinstance(gold, Choice):
        return _same_choice(gold, answer)
    if isinstance(answer, Choice) and answer.text:
        return any(_same(gold, reading) for reading in read(answer.text))
    if isinstance(gold, Named) or isinstance(answer, Named):
        return _same_named(gold, answer)
    if isinstance(gold, Clock) and isinstance(answer, Clock):
        return _same_clock(gold, answer)
    if isinstance(gold, Ratio):
        return _same_ratio(gold, answer)
    if isinstance(answer, Ratio):
        return _same_ratio(answer, gold)
    if isinstance(gold, Region) or isinstance(answer, Region):
        return _same_region(as_region(gold), as_region(answer))
    if isinstance(gold, Several | Brackets) and isinstance(answer, Several | Brackets):
        return _same_collection(gold, answer)
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return _same_quantity(gold, answer)
    if isinstance(gold, Span) and isinstance(answer, Span):
        return _same_quantity(gold.low, answer.low) and _same_quantity(gold.high, answer.high)
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        difference = [Node("-", (each.left, each.right)) for each in (gold, answer)]
        return proportional(*difference)
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        return _same_matrix(gold, answer)
    return gold == answer


def _same_choice(gold: Choice, answer: Reading) -> bool:
    if not isinstance(answer, Choice):
        return bool(gold.text) and any(_same(reading, answer) for reading in read(gold.text))
    if gold.letters != answer.letters or gold.alternatives != answer.alternatives:
        return False
    return not gold.text or not answer.text or matches(answer.text, gold.text)


def _same_named(gold: Reading, answer: Reading) -> bool:
    names = [each.name for each in (gold, answer) if isinstance(each, Named)]
    if len(names) == 2 and all(names) and names[0] != names[1]:
        return False
    gold, answer = (each.value if isinstance(each, Named) else each for each in (gold, answer))
    return _same(gold, answer)


def _same_clock(gold: Clock, answer: Clock) -> bool:
    """Whether two times of day are the same; one side may lack a.m. or p.m., and 15:45 is 3:45 p.m."""
    if gold.half and answer.half:
        return gold == answer
    hours, hours_2 = (
        {each.hour, each.hour % 12 + 12 * (each.half == "p")} if each.half else {each.hour} for each in (gold, answer)
    )
    return bool(hours & hours_2) and (gold.minute, gold.second) == (answer.minute, answer.second)


def _same_ratio(gold: Ratio, answer: Reading) -> bool:
    if isinstance(answer, Clock):
        terms = Fraction(answer.hour), Fraction(answer.minute)
        return not answer.half and answer.minute > 9 and _proportional(gold.terms, terms)  # 12:05 is no 12:5
    if isinstance(answer, Ratio):
        return _proportional(gold.terms, answer.terms)
    if isinstance(answer, Quantity) and len(gold.terms) == 2 and gold.terms[1] and answer.formula.op == "/":
        return constant(answer.formula) == gold.terms[0] / gold.terms[1]
    return False


def _proportional(first: Sequence[Fraction], second: Sequence[Fraction]) -> bool:
    if len(first) != len(second) or not any(first) or not any(second):
        return False
    pairs = [*zip(first, second, strict=True)]
    one, other = next(pair for pair in pairs if any(pair))
    return bool(one and other) and all(a * other == b * one for a, b in pairs)


def _same_region(gold: Region | None, answer: Region | None) -> bool:
    if gold is None or answer is None or len(gold.intervals) != len(answer.intervals):
        return False
    if gold.name and answer.name and gold.name != answer.name:
        return False
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    return all(_same_interval(a, b) for a, b in zip(gold.intervals, answer.intervals, strict=True))


def _same_interval(gold: Interval, answer: Interval) -> bool:
    ends = gold.has_low == answer.has_low and gold.has_high == answer.has_high
    return ends and same(gold.low, answer.low) and same(gold.high, answer.high)


def _same_collection(gold: Several | Brackets, answer: Several | Brackets) -> bool:
    ordered = [isinstance(each, Brackets) and each.opening != "{" for each in (gold, answer)]
    if len(gold.items) != len(answer.items):
        return False
    if ordered[0] != ordered[1] and not (_are_coordinates(gold, answer) or _are_coordinates(answer, gold)):
        return False
    names = [[item.name if isinstance(item, Named) else "" for item in each.items] for each in (gold, answer)]
    one_sided = (len(set(names[0])) > 1 and not any(names[1])) or (len(set(names[1])) > 1 and not any(names[0]))
    if any(ordered) or one_sided:
        brackets = (
            isinstance(gold, Several)
            or isinstance(answer, Several)
            or (gold.opening == answer.opening and gold.closing == answer.closing)
        )
        return brackets and all(_same(a, b) for a, b in zip(gold.items, answer.items, strict=True))
    rest = list(answer.items)
    for wanted in gold.items:
        found = next((item for item in rest if _same(wanted, item)), None)
        if found is None:
            return False
        rest.remove(found)
    return True


def _are_coordinates(items: Several | Brackets, point: Several | Brackets) -> bool:
    """Whether items are a point's coordinates by their names, as x = 3, y = 4."""
    names = [item.name if isinstance(item, Named) else "" for item in items.items]
    return (
        all(names)
        and names == sorted({*names})
        and isinstance(point, Brackets)
        and (point.opening, point.closing) == ("(", ")")
    )


def _same_matrix(gold: Matrix, answer: Matrix) -> bool:
    cells = [[cell for row in each.rows for cell in row] for each in (gold, answer)]
    alike = gold.kind == answer.kind and [*map(len, gold.rows)] == [*map(len, answer.rows)]
    return alike and all(same(a, b) for a, b in zip(*cells, strict=True))


def _same_quantity(gold: Quantity, answer: Quantity) -> bool:
    if gold.noun and answer.noun and gold.noun.rstrip("s") != answer.noun.rstrip("s"):
        return False
    if (gold.noun and answer.unit and answer.unit.factors) or (answer.noun and gold.unit and gold.unit.factors):
        return False
    if gold.unit and answer.unit and gold.unit.factors and answer.unit.factors and gold.unit != answer.unit:
        return _same_converted(gold, answer)
    if gold.percent != answer.percent:
        other = answer if gold.percent else gold
        if other.noun or (other.unit and other.unit.factors):
            return False  # 150% is no 1.5 V
        fraction = scaled_quantity(gold), scaled_quantity(answer)
        return _same_value(*fraction) or (other.unit is None and _same_value(gold, answer))
    if (gold.unit, answer.unit) in ((DEGREE, None), (None, DEGREE)) and _same_angle(gold, answer):
        return True
    return _same_value(gold, answer)


def _same_angle(*angles: Quantity) -> bool:
    """Whether an angle in degrees is one in radians that is written with π."""
    values = [constant(Node("degrees", (each.formula,)) if each.unit else each.formula) for each in angles]
    return None not in values and close(*values)


def _same_converted(gold: Quantity, answer: Quantity) -> bool:
    (factor, offset, dimension), (factor_2, offset_2, dimension_2) = map(in_base_units, (gold.unit, answer.unit))
    wanted, given = constant(gold.formula), constant(answer.formula)
    if dimension != dimension_2 or wanted is None or given is None:
        return False
    wanted, given = scaled(wanted, factor, offset), scaled(given, factor_2, offset_2)
    return close(wanted, given) or _rounds(wanted, gold.step and gold.step * factor, gold.digits, given)


def _same_value(gold: Quantity, answer: Quantity) -> bool:
    wanted, given = constant(gold.formula), constant(answer.formula)
    if wanted is None or given is None:
        return same(gold.formula, answer.formula)
    if close(wanted, given):
        return True
    if gold.step and answer.step:
        return answer.step < gold.step and _rounds(wanted, gold.step, gold.digits, given)
    for decimal, value, exact in ((gold, wanted, given), (answer, given, wanted)):
        whole = isinstance(exact, Fraction) and exact.denominator == 1
        if decimal.step and decimal.digits >= _APPROXIMATE_DIGITS and not whole:
            return near(value, exact, decimal.step)
    return False


def _rounds(gold: Value, step: Fraction | None, digits: int, answer: Value) -> bool:
    """Whether an answer, rounded to the gold's own digits, is the gold."""
    return step is not None and digits >= _ROUNDED_DIGITS and near(gold, answer, step / 2)
