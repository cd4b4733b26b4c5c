"""From tokens to a quantity: a formula with the unit, money, scale or noun that follows it."""

import re
from dataclasses import replace
from fractions import Fraction

from observe_r1.rewards.judge.answer import REFUSES
from observe_r1.rewards.judge.formulas import Node, Token, Unreadable, has_angle, parse, variables
from observe_r1.rewards.judge.numerals import OF_NUMBERS
from observe_r1.rewards.judge.units import DEGREE, Unit, unit_of
from observe_r1.rewards.judge.values import Quantity

_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "mn": 6, "bn": 9, "万": 4, "亿": 8}
_AMOUNTS = _SCALES.keys() | {"dozen"}
_MONEY_SCALES = {"k": 3, "m": 6, "b": 9}
_MONEY = {
    "¤": "dollar", "€": "euro", "£": "sterling", "¥": "yuan", "dollar": "dollar", "dollars": "dollar", "usd": "dollar",
    "euro": "euro", "euros": "euro", "元": "yuan", "yuan": "yuan", "美元": "dollar", "cent": "us_cent",
    "cents": "us_cent", "¢": "us_cent",
}  # fmt: skip
_PERCENT = frozenset({"%", "\\%", "percent", "pct"})
_NO_NOUN = re.compile(
    r"(?:or|and|more|less|fewer|least|most|than|to|not|but|plus|minus|times|over|under|up|off|half|halves|percent|per|is|are|was|if|in|so|since|because|pi|sqrt|maybe|other|another|wrong|each|squared|cubed"
    r"|doubled|tripled|halved|factorial|mod|modulo|choose|divided|multiplied|added|subtracted"
    rf"|am|pm|st|nd|rd|th|(?:{'|'.join(OF_NUMBERS)}|ten|dozen)s?|right|left|of|out|by|with|without|except|no|a|the|i|etc|never|false|incorrect|.*[不错非没].*)",
    re.IGNORECASE,
)
_MAX_UNIT = 24
"""Tokens of a unit, at most."""
_DECIMAL = re.compile(r"[+-]?(\d*)\.(\d+)(?:[eE]([+-]?\d+)|(?:\*|×|·|\\times|\\cdot)10(?:\^|\*\*)\{?([+-]?\d+)\}?)?")


def measured(tokens: list[Token]) -> Quantity:
    """Return a formula with the unit, money, scale or noun that follows it.

    Raises:
        Unreadable: Not all of the tokens can be read.
    """
    if [token.text.casefold() for token in tokens[-2:]] == ["per", "cent"]:
        tokens = [*tokens[:-2], Token("word", "percent", True)]
    tokens, money = _without_money(tokens)
    if not tokens:
        raise Unreadable("nothing")
    percent = tokens[-1].text.casefold() in _PERCENT
    if percent:
        tokens = tokens[:-1]
    tokens, scale = _without_scale(tokens, money)
    if scale or percent or money:
        quantity = _number(tokens)
        if scale:
            formula = Node("*", (quantity.formula, Node("number", (scale,))))
            quantity = replace(quantity, formula=formula, step=quantity.step and quantity.step * scale)
        return replace(quantity, unit=money, percent=percent)
    for at in range(max(1, len(tokens) - _MAX_UNIT), len(tokens)):
        token = tokens[at]
        starts = token.kind == "word" or token.text in ("\\Omega", "\\mu", "\\frac", "°", "µ", "Å", "Ω")
        if starts and (unit := unit_of(tokens[at:])):
            if unit == DEGREE and any(each.text == "\\pi" for each in tokens):
                break  # π - 45°
            before = [each for each in tokens[:at] if unit != DEGREE or each.text != "°"]  # 180° - 45°
            try:
                quantity = _number(before)
            except Unreadable:
                continue
            if not variables(quantity.formula) and not (unit == DEGREE and has_angle(quantity.formula)):
                return replace(quantity, unit=unit)
    if at := _noun(tokens):
        counted = measured(tokens[:at])
        if not variables(counted.formula):
            return replace(counted, noun=tokens[-1].text.casefold())
    return _number(tokens)


def _number(tokens: list[Token]) -> Quantity:
    """Return a formula; with a decimal, also the value of its last digit and the number of its digits."""
    formula = parse(tokens)
    decimal = _DECIMAL.fullmatch("".join(token.text for token in tokens))
    if not decimal:
        return Quantity(formula)
    exponent = int(decimal[3] or decimal[4] or 0)
    if abs(exponent) > 10_000:
        raise Unreadable("too large")
    digits = len((decimal[1] + decimal[2]).lstrip("0"))
    return Quantity(formula, step=Fraction(10) ** (exponent - len(decimal[2])), digits=digits)


def _without_money(tokens: list[Token]) -> tuple[list[Token], Unit | None]:
    """Return the tokens without the sign or name of a currency at their beginning or end, and that currency."""
    for at in (0, -1):
        if tokens and (money := _MONEY.get(tokens[at].text.casefold())):
            return (tokens[1:] if at == 0 else tokens[:-1]), Unit(((money, 1),))
    if len(tokens) > 1 and tokens[0].text == "-" and (money := _MONEY.get(tokens[1].text)):
        return [tokens[0], *tokens[2:]], Unit(((money, 1),))
    return tokens, None


def _without_scale(tokens: list[Token], money: Unit | None) -> tuple[list[Token], Fraction | None]:
    """Return the tokens without million, dozen and the like at their end, and how many that is."""
    last = tokens[-1].text.casefold() if len(tokens) > 1 else ""
    scales = _SCALES | (_MONEY_SCALES if money else {})
    if last in scales:
        return tokens[:-1], Fraction(10) ** scales[last]
    return (tokens[:-1], Fraction(12)) if last == "dozen" else (tokens, None)


def _noun(tokens: list[Token]) -> int:
    """Return where the words begin that name what is counted, as in 5 red circles; 0 if there are none."""
    at = len(tokens)
    while at and tokens[at - 1].kind == "word" and tokens[at - 1].text.casefold() not in _AMOUNTS:
        at -= 1
    words = [token.text for token in tokens[at:]]
    if (
        not at
        or not 1 <= len(words) <= 4
        or (tokens[at - 1].kind not in ("number", "word") and tokens[at - 1].text != "}")
        or (not tokens[at].spaced and words[0].isascii())
    ):
        return 0
    if REFUSES.search(" ".join(words)):
        return 0
    if any(_NO_NOUN.fullmatch(word) or (word.isascii() and len(word) < 3) for word in words):
        return 0
    return at if all(word.isascii() or len(word) <= 4 for word in words) else 0
