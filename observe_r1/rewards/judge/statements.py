"""From tokens to values: lists, equations, inequalities, brackets, matrices, quantities."""

import re
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from observe_r1.rewards.judge.answer import REFUSES
from observe_r1.rewards.judge.evaluating import close, constant, inexact, near, scaled
from observe_r1.rewards.judge.formulas import OF_ANGLES, Node, Token, Unreadable, parse, variables, written
from observe_r1.rewards.judge.quantities import measured
from observe_r1.rewards.judge.units import in_base_units
from observe_r1.rewards.judge.values import (
    Brackets,
    Equation,
    Interval,
    Matrix,
    Named,
    Phrase,
    Quantity,
    Reading,
    Region,
    Several,
    scaled_quantity,
)  # fmt: skip

_SEPARATORS = frozenset({",", ";", "or", "and", "和", "或", "&"})
_RELATIONS = {"=": "=", "==": "=", "<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "<=": "<=", ">=": ">="} | {
    "\\ne": "!=", "!=": "!=", "\\approx": "~", "\\sim": "~", "\\cong": "~", "\\in": "in",
}  # fmt: skip
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_OPENING, _CLOSING = frozenset({"(", "[", "{", "\\{", "\\begin"}), frozenset({")", "]", "}", "\\}", "\\end"})
_TUPLE_OF_NAMES = re.compile(r"\([A-Za-z](?:,[A-Za-z])+\)")
_INFINITY = Node("constant", ("∞",))
_MINUS_INFINITY = Node("neg", (_INFINITY,))


def _split(tokens: list[Token], at: Any) -> tuple[list[list[Token]], list[str]]:
    """Split `tokens` at the tokens outside of brackets whose text is in `at`; return the parts, and these texts."""
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


def statement(tokens: list[Token]) -> list[Reading]:
    """Return the readings of a text's tokens, at least one.

    Raises:
        Unreadable: Not all of the tokens can be read.
    """
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
    """Return the sum of quantities in ever smaller units of one kind, as 2 hours and 30 minutes; None for others."""
    if not all(isinstance(item, Quantity) and item.unit and item.unit.factors for item in items):
        return None
    bases = [in_base_units(item.unit) for item in items]
    values = [value for item in items if isinstance(value := constant(item.formula), Fraction)]
    if len({base[2] for base in bases}) > 1 or len(values) < len(items):
        return None
    if not all(a[0] > b[0] for a, b in pairwise(bases)):
        return None
    total = sum(value * base[0] for value, base in zip(values, bases, strict=True)) / bases[-1][0]
    return Quantity(Node("number", (Fraction(total),)), items[-1].unit)


def _relation(tokens: list[Token]) -> list[Reading]:
    parts, signs = _split(tokens, _RELATIONS)
    relations = {_RELATIONS[sign] for sign in signs}
    if not signs:
        return _value(tokens)
    if relations == {"in"} and len(parts) == 2 and _name(parts[0]) is not None:
        return [_of(_name(parts[0]) or "", each) for each in statement(parts[1])]
    if "~" in relations and variables(measured(parts[-1]).formula):
        raise Unreadable("only a number is approximate")  # triangles are similar
    if relations <= {"=", "~"}:
        return _equality(parts)
    if relations == {"!="} and len(parts) == 2 and (not parts[0] or _name(parts[0]) is not None):
        bound = parse(parts[1])
        below = Interval(_MINUS_INFINITY, bound, False, False)
        return [Region((below, Interval(bound, _INFINITY, False, False)), _name(parts[0]) or "")]
    return [_region(parts, [_RELATIONS[sign] for sign in signs])]


def _of(name: str, values: Reading) -> Reading:
    """Return an interval as one of the variable `name`; any other values as they are."""
    region = as_region(values)
    return values if region is None else replace(region, name=name)


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
    if not name and len(left) > 1 and all(token.kind == "word" for token in left):
        raise Unreadable("words before an inequality")
    quantity = measured(right)
    bound = scaled_quantity(quantity).formula
    closed = relation.endswith("=")
    if relation[0] == "<":
        return Region((Interval(_MINUS_INFINITY, bound, False, closed),), name, quantity.unit)
    return Region((Interval(bound, _INFINITY, closed, False),), name, quantity.unit)


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
    """Return what two half lines have in common, as x > 1 and x < 3."""
    if len(regions) != 2 or any(len(region.intervals) > 1 for region in regions) or regions[0].name != regions[1].name:
        raise Unreadable("no simple range")
    one, other = (region.intervals[0] for region in regions)
    if one.low == _MINUS_INFINITY:
        one, other = other, one
    if one.high != _INFINITY or other.low != _MINUS_INFINITY:
        raise Unreadable("no simple range")
    return Region((Interval(one.low, other.high, one.has_low, other.has_high),), regions[0].name)


def _name(tokens: list[Token]) -> str | None:
    """Return the symbol that tokens are: "" if they are a longer name, None if they are no name."""
    texts = [token.text for token in tokens if token.text != "'"]  # f'(x)
    if not texts:
        return None
    if _TUPLE_OF_NAMES.fullmatch("".join(texts)):
        return ""
    try:
        tree = parse(tokens)
    except Unreadable:
        words = texts[0] != "_" and all(
            token.kind == "word" or token.text in ("\\angle", "\\triangle", "_", "{", "}") for token in tokens
        )
        return "" if words and not {"is", "are"} & {*texts} and not REFUSES.search(" ".join(texts)) else None
    if tree.op in OF_ANGLES and variables(tree):
        return written(tree)  # \sin A
    if tree.op == "variable":
        name = tree.args[0]
        return name if len(name) == 1 or name.startswith("\\") else ""
    if len(texts) > 3 and texts[1] == "(" and texts[-1] == ")" and all(len(t) == 1 for t in texts):
        return "" if tokens[0].kind == "word" else None  # f(x)
    return "" if len(tokens) == 1 and tokens[0].kind == "word" and len(texts[0]) > 1 else None


def _equality(parts: list[list[Token]]) -> list[Reading]:
    name = _name(parts[0])
    if name is None and len(parts) == 2 and parts[1] and (name := _name(parts[1])) is not None:
        parts = parts[::-1]  # 3 = x
    rest = parts[1:] if name is not None and len(parts) > 1 else parts
    if not all(rest):
        raise Unreadable("nothing on one side")
    parts, rest = ([_as_product(part) for part in each] for each in (parts, rest))
    if len(rest) == 1:
        readings: list[Reading] = [
            Named(name or "", value) for value in _value(rest[0]) if not isinstance(value, Phrase)
        ]
        try:
            left, right = parse(parts[0]), parse(rest[0])
        except Unreadable:
            return readings
        if left.op == right.op == "variable" and all(len(n) > 1 or n.isupper() for (n,) in (left.args, right.args)):
            readings.clear()  # AB = CD is a relation; CD alone is not what it says
        if variables(right):
            readings.append(Equation(left, right))
        return readings
    members = [_value(part)[0] for part in rest]
    formulas = [each for each in members if isinstance(each, Quantity)]
    constants = [each for each in formulas if constant(each.formula) is not None]
    if len(constants) == len(members):
        if not all(_agree(first, second) for first, second in pairwise(constants)):
            raise Unreadable("the sides are not equal")
        return [Named(name or "", member) for member in members]
    if name is None and len(rest) == len(formulas) == 2:
        return [Equation(formulas[0].formula, formulas[1].formula)]
    if constants and members[-1] is constants[-1]:
        return [Named(name or "", members[-1])]
    if name is not None and len(formulas) == len(members):
        return [Named(name, members[-1])]
    raise Unreadable("no single value")


def _as_product(side: list[Token]) -> list[Token]:
    """Return a side of an equation that is one short word as a product of its letters: the `ma` in `F = ma`."""
    if len(side) == 1 and side[0].kind == "word" and len(side[0].text) in (2, 3) and side[0].text.isascii():
        return [Token("word", letter, False) for letter in side[0].text]
    return side


def _agree(left: Quantity, right: Quantity) -> bool:
    """Whether two sides of an equation have the same value, or one is the other rounded."""
    values = constant(left.formula), constant(right.formula)
    if None in values or (left.noun and right.noun and left.noun != right.noun):
        return False
    if left.unit and right.unit and left.unit != right.unit:
        (factor, offset, dimension), (factor_2, offset_2, dimension_2) = map(in_base_units, (left.unit, right.unit))
        both = scaled(values[0], factor, offset), scaled(values[1], factor_2, offset_2)
        return dimension == dimension_2 and close(*both)
    if left.percent != right.percent:  # 0.25 = 25%, and 0.25 × 100 = 25%
        fractions = (constant(scaled_quantity(each).formula) for each in (left, right))
        return close(*values) or close(*fractions)
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
    if len(parts := _split(tokens, ("\\cup",))[0]) > 1:
        return [_union([_as_region(_value(part)[0]) for part in parts])]
    if texts.count("\\pm") == 1:
        at = texts.index("\\pm")
        both = [[*tokens[:at], Token("sign", sign, False), *tokens[at + 1 :]] for sign in ("+", "-")]
        return [
            Several(tuple(measured(each[1:] if at == 0 and index == 0 else each) for index, each in enumerate(both)))
        ]
    if len(texts[0]) == 1 and "A" <= texts[0] <= "Z" and "," in texts and _encloses(texts[1:]) and texts[1] == "(":
        return [Named(texts[0], point) for point in _bracketed(tokens[1:])]  # A(3, 4)
    if texts[0] in _OPENING and texts[-1] in _CLOSING and len(_split(tokens, ())[0]) == 1 and _encloses(texts):
        return _bracketed(tokens)
    return [_whole(tokens)]


def _whole(tokens: list[Token]) -> Quantity:
    """Return a quantity in one unit, or in several units one after the other, as 1 h 30 min."""
    starts = [at for at in range(1, len(tokens)) if tokens[at].kind == "number" and tokens[at - 1].kind == "word"]
    if not starts or tokens[0].kind != "number":
        return measured(tokens)
    parts = [tokens[a:b] for a, b in pairwise([0, *starts, len(tokens)])]
    total = _compound([measured(part) for part in parts])
    if total is None:
        raise Unreadable("numbers beside one another")
    return total


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
            return statement(described[1])
        if opening + closing in ("()", "[]", "{}"):
            return statement(inner)
    opening, closing = opening.lstrip("\\"), closing.lstrip("\\")
    return [Brackets(opening, tuple(_relation(part)[0] for part in parts), closing)]


def _as_region(reading: Reading) -> Region:
    if isinstance(reading, Region):
        return reading
    if (
        isinstance(reading, Brackets)
        and len(reading.items) == 2
        and reading.opening in "(["
        and reading.closing in ")]"
    ):
        low, high = reading.items
        if isinstance(low, Quantity) and isinstance(high, Quantity):
            interval = Interval(low.formula, high.formula, reading.opening == "[", reading.closing == "]")
            return Region((interval,))
    raise Unreadable("no interval")


def as_region(reading: Reading) -> Region | None:
    """Return a reading as a region if it can be one: brackets with two bounds can."""
    try:
        return _as_region(reading)
    except Unreadable:
        return None


def _matrix(tokens: list[Token]) -> Matrix:
    texts = [token.text for token in tokens]
    if len(texts) < 8 or texts[1] != "{" or texts[-1] != "}" or texts[-4] != "\\end" or texts[2] != texts[-2]:
        raise Unreadable("no matrix")
    kind = texts[2]
    if kind not in ("pmatrix", "bmatrix", "matrix", "vmatrix", "array"):
        raise Unreadable("no matrix")
    begin = 4
    if kind == "array":  # whose columns are described first, as in {c|c}
        begin = texts.index("}", 4) + 1
    rows, _ = _split(tokens[begin:-4], ("\\\\",))
    cells = tuple(tuple(parse(cell) for cell in _split(row, ("&",))[0]) for row in rows if row)
    if len({len(row) for row in cells}) != 1:
        raise Unreadable("no matrix")
    return Matrix("v" if kind == "vmatrix" else "", cells)
