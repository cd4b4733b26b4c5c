"""Units: which words, symbols and products of them are units, and what one unit is in another.

The names are listed here, because a library of units takes nearly every letter for one (`a` is a year, `y` a yocto).
Their values come from pint.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from observe_r1.rewards.judge.formulas import Token

_METRIC = {
    "m": "k c d m µ n", "g": "k m µ", "s": "m µ n", "A": "m µ", "V": "k m", "N": "k", "J": "k M", "W": "k M m",
    "Pa": "k M h", "T": "m",
    "Hz": "k M G", "L": "m", "l": "m", "eV": "k M", "mol": "m", "F": "µ n p m", "cal": "k", "Wh": "k", "t": "",
}  # fmt: skip
_PREFIXES = {
    "k": "kilo", "c": "centi", "d": "deci", "m": "milli", "µ": "micro", "n": "nano", "p": "pico", "M": "mega",
    "G": "giga", "h": "hecto",
}  # fmt: skip
_BASES = {
    "m": "meter", "g": "gram", "s": "second", "A": "ampere", "V": "volt", "N": "newton", "J": "joule", "W": "watt",
    "Pa": "pascal", "Hz": "hertz", "L": "liter", "l": "liter", "eV": "electron_volt", "mol": "mole", "F": "farad",
    "T": "tesla", "cal": "calorie", "Wh": "watt_hour", "t": "metric_ton",
}  # fmt: skip
_WORDS = (
    "meter metre gram second minute hour day week month year ampere volt newton joule kelvin liter litre watt coulomb "
    "farad tesla pascal hertz mole ohm inch foot yard mile pound ounce acre gallon ton tonne calorie bar atm psi mph "
    "degree radian knot angstrom"
).split()
_OTHER = {
    "K": "kelvin", "C": "coulomb", "h": "hour", "min": "minute", "hr": "hour", "hrs": "hour",
    "sec": "second", "secs": "second", "mins": "minute", "d": "day", "yr": "year", "yrs": "year", "ft": "foot",
    "feet": "foot", "in": "inch", "inches": "inch", "mi": "mile", "yd": "yard", "lb": "pound", "lbs": "pound",
    "oz": "ounce", "Ω": "ohm", "kΩ": "kiloohm", "ohms": "ohm", "°": "degree", "deg": "degree", "degs": "degree",
    "rad": "radian", "rads": "radian", "°C": "degC", "°F": "degF", "℃": "degC", "℉": "degF", "kph": "kph", "kmh": "kph",
    "mph": "mph", "tonne": "metric_ton", "tonnes": "metric_ton", "metre": "meter", "metres": "meter",
    "litre": "liter", "litres": "liter", "Å": "angstrom", "ha": "hectare", "amp": "ampere", "amps": "ampere",
    "厘米": "centimeter", "公分": "centimeter", "分米": "decimeter", "毫米": "millimeter", "千米": "kilometer",
    "公里": "kilometer", "米": "meter", "千克": "kilogram", "公斤": "kilogram", "克": "gram", "吨": "metric_ton",
    "秒": "second", "分钟": "minute", "分": "minute",
    "小时": "hour", "时": "hour", "天": "day", "年": "year", "升": "liter", "毫升": "milliliter", "度": "degree",
    "牛": "newton", "牛顿": "newton", "伏": "volt", "安": "ampere", "欧": "ohm", "欧姆": "ohm", "焦": "joule",
    "焦耳": "joule", "瓦": "watt", "帕": "pascal",
}  # fmt: skip
_TEMPERATURES = {"c": "degC", "celsius": "degC", "f": "degF", "fahrenheit": "degF"}
_POWERS = {"square": 2, "sq": 2, "平方": 2, "cubic": 3, "cu": 3, "立方": 3}


def _names() -> dict[str, str]:
    names = {word: word for word in _WORDS} | {f"{word}s": word for word in _WORDS}
    for symbol, prefixes in _METRIC.items():
        names[symbol] = base = _BASES[symbol]
        for prefix in prefixes.split():
            name = _PREFIXES[prefix] + base
            names |= {prefix + symbol: name, name: name, f"{name}s": name}
    names |= {name.replace("meter", "metre").replace("liter", "litre"): names[name] for name in list(names)}
    return names | _OTHER


_NAMES = _names()


class Unit(NamedTuple):
    """A product of units as pairs of pint's name and a power; empty for "units", which may be any unit."""

    factors: tuple[tuple[str, int], ...]


ANY = Unit(())
DEGREE = Unit((("degree", 1),))


def unit_of(tokens: list[Token]) -> Unit | None:
    """Return the unit that all of `tokens` name, as `m/s^2`, `square meters` or `J/(kg K)`; None if they do not."""
    factors: dict[str, int] = {}
    at, sign, bracket = 0, 1, False
    tokens = _without_fraction(tokens)
    while at < len(tokens):
        power, at = _leading_power(tokens, at)
        name, at = _name(tokens, at, bool(power))
        if name is None:
            return None
        if not power:
            power, at = _trailing_power(tokens, at)
        if name:
            factors[name] = factors.get(name, 0) + sign * power
        if bracket and at == len(tokens) - 1 and tokens[at].text == ")":
            bracket, at = False, at + 1
        if at == len(tokens):
            return None if bracket else Unit(tuple(sorted(factors.items())))
        if tokens[at].text in ("/", "per"):
            if bracket:
                return None
            sign, at = -1, at + 1
            if at < len(tokens) and tokens[at].text == "(":  # J/(kg·K)
                bracket, at = True, at + 1
        elif tokens[at].text in ("·", "*", "\\cdot", "\\times", "⋅"):
            at += 1
    return None


def _without_fraction(tokens: list[Token]) -> list[Token]:
    """Return `\\frac{m}{s^2}` as `m / s^2`, and any other tokens as they are."""
    texts = [token.text for token in tokens]
    if texts[:2] != ["\\frac", "{"] or texts[-1] != "}" or "}" not in texts[2:-1]:
        return tokens
    middle = texts.index("}")
    if texts[middle + 1] != "{":
        return tokens
    return [*tokens[2:middle], Token("sign", "/", False), *tokens[middle + 2 : -1]]


def _leading_power(tokens: list[Token], at: int) -> tuple[int, int]:
    """Return the power that `square` or `cubic` gives, 0 for none, and where the unit's name begins."""
    power = _POWERS.get(tokens[at].text.casefold(), 0)
    if power:
        at += 1
        if at < len(tokens) and tokens[at].text == ".":
            at += 1
    return power, at


def _name(tokens: list[Token], at: int, powered: bool) -> tuple[str | None, int]:
    """Return pint's name of the unit at `at`, "" for any unit, None for none; and where it ends."""
    if at == len(tokens):
        return None, at
    text = tokens[at].text
    if text in ("unit", "units", "单位"):
        return "", at + 1
    following = tokens[at + 1].text.casefold() if at + 1 < len(tokens) else ""
    if text.casefold() in ("°", "degree", "degrees") and following in _TEMPERATURES:
        return _TEMPERATURES[following], at + 2
    if text == "\\mu" and at + 1 < len(tokens):
        return _NAMES.get(f"µ{tokens[at + 1].text}"), at + 2
    if text == "\\Omega":
        return "ohm", at + 1
    if text.startswith("平方") or text.startswith("立方"):
        name = _NAMES.get(text[2:])
        return (None, at) if name is None or powered else (f"{name}**{_POWERS[text[:2]]}", at + 1)
    name = _NAMES.get(text) or (_NAMES.get(text.casefold()) if len(text) > 3 else None)
    return name, at + 1


def _trailing_power(tokens: list[Token], at: int) -> tuple[int, int]:
    """Return the power after a unit's name, as in `m^{-2}`, `cm2` or `second squared`, and where it ends."""
    texts = [token.text for token in tokens[at : at + 5]]
    if texts[:1] in (["squared"], ["cubed"]):
        return (2 if texts[0] == "squared" else 3), at + 1
    if texts[:1] != ["^"]:
        if texts[:1] in (["2"], ["3"]) and not tokens[at].spaced:  # cm2
            return int(texts[0]), at + 1
        return 1, at
    inside = texts[1:]
    braces = inside[:1] == ["{"]
    inside = inside[1:] if braces else inside
    sign = -1 if inside[:1] == ["-"] else 1
    inside = inside[1:] if sign < 0 else inside
    if not inside or not re.fullmatch(r"[1-9]", inside[0]) or (braces and inside[1:2] != ["}"]):
        return 1, at
    return sign * int(inside[0]), at + 2 + (sign < 0) + 2 * braces


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint  # half a second, which only answers in different units need

    registry = pint.UnitRegistry(non_int_type=Fraction)
    for currency in ("dollar", "euro", "sterling", "yuan"):
        registry.define(f"{currency} = [{currency}]")
    registry.define("us_cent = dollar / 100")
    return registry


@lru_cache(maxsize=1024)
def in_base_units(unit: Unit) -> tuple[Fraction, Fraction, tuple[tuple[str, Fraction], ...]]:
    """Return factor and offset of `value * factor + offset` in base units, and the powers of the base units."""
    registry = _registry()
    whole = registry.Unit("")
    for name, power in unit.factors:
        if name in ("degC", "degF") and unit.factors != ((name, 1),):
            name = f"delta_{name}"  # in J/(kg °C) a degree is a difference, without an offset
        whole *= registry.Unit(name) ** power
    zero, one = (registry.Quantity(Fraction(size), whole).to_base_units() for size in (0, 1))
    dimension = tuple(sorted((str(name), Fraction(power)) for name, power in one.unit_items()))
    return Fraction(one.magnitude - zero.magnitude), Fraction(zero.magnitude), dimension
