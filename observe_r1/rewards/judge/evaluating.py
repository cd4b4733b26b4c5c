"""The value of a formula, and whether two formulas have the same value.

Constants are compared by their values: rational ones exactly, others to 50 digits. Formulas with variables are the same
where they agree at several points (Schwartz, 1980; Zippel, 1979), which the variables' names determine. The size of
every number is bounded, so that hostile text costs milliseconds and needs no process of its own.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

from observe_r1.rewards.judge.formulas import Node, Unreadable, nodes, variables

_MAX_BITS = 20_000
"""Larger rational numbers are not computed: 2^2006 is, 9^9^9 is not."""
_POINTS = 6

_MP = mpmath.MPContext()
_MP.dps = 60
_AGREE = _MP.mpf(10) ** -50
"""A difference smaller than this, relative to the value, is rounding."""

_CONSTANTS = {"π": +_MP.pi, "e": +_MP.e, "i": _MP.mpc(0, 1), "∞": _MP.inf}

Value = Any
"""A Fraction, or a real or complex number of mpmath."""


@lru_cache(maxsize=4096)
def constant(tree: Node) -> Value | None:
    """Return the value of a formula without variables; None if it has variables, or no value within bounds."""
    return None if variables(tree) else _value(tree, {})


def same(left: Node, right: Node) -> bool:
    """Return whether two formulas have the same value wherever both have one.

    Real formulas are compared where they are real: `\\ln x^2` and `2\\ln x` are the same.
    """
    pairs = _common(left, right)
    return bool(pairs) and all(close(a, b) for a, b in pairs)


def proportional(left: Node, right: Node) -> bool:
    """Return whether `left = 0` and `right = 0` are the same equation up to a constant factor."""
    pairs = _common(left, right)
    if not pairs or all(close(a, Fraction(0)) for a, _ in pairs):
        return False
    first, second = next((a, b) for a, b in pairs if not close(a, Fraction(0)))
    return not close(second, Fraction(0)) and all(close(_times(a, second), _times(b, first)) for a, b in pairs)


def _common(left: Node, right: Node) -> list[tuple[Value, Value]]:
    """Return both values at the points where both have one; none if there are fewer than two such points."""
    names = sorted(variables(left) | variables(right))
    is_complex = any(node == Node("constant", ("i",)) for tree in (left, right) for node in nodes(tree))
    pairs = []
    for index in range(_POINTS if names else 1):
        point = {name: _coordinate(name, index) for name in names}
        both = _value(left, point), _value(right, point)
        if None in both or (not is_complex and not all(map(_is_real, both))):
            continue
        pairs.append(both)
    return pairs if len(pairs) >= (2 if names else 1) else []


def _coordinate(name: str, index: int) -> Fraction:
    drawn = zlib.crc32(f"{name} {index}".encode(errors="surrogatepass")) % 1000 + 1
    return Fraction(drawn if index < _POINTS // 2 else drawn - 1000, 331)


def _is_real(value: Value) -> bool:
    return isinstance(value, Fraction) or not value.imag


def close(left: Value, right: Value) -> bool:
    """Return whether two values are the same: rational ones exactly, others to 50 digits."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    left, right = inexact(left), inexact(right)
    if left == right:  # infinities
        return True
    if _MP.isinf(left) or _MP.isinf(right):
        return False
    return bool(abs(left - right) <= _AGREE * max(abs(left), abs(right)))


def near(left: Value, right: Value, tolerance: Fraction) -> bool:
    """Return whether two real values differ by at most `tolerance`."""
    if not _is_real(left) or not _is_real(right):
        return False
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return abs(left - right) <= tolerance
    difference = abs(inexact(left) - inexact(right))
    return bool(difference <= inexact(tolerance))


def scaled(value: Value, factor: Fraction, offset: Fraction = Fraction(0)) -> Value:
    """Return `value * factor + offset`."""
    if isinstance(value, Fraction):
        return value * factor + offset
    return value * inexact(factor) + inexact(offset)


def inexact(value: Value) -> Value:
    """Return a value as a number of mpmath; these can be ordered."""
    return _MP.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _value(tree: Node, point: Mapping[str, Fraction]) -> Value | None:
    try:
        value = _evaluate(tree, point)
    except (Unreadable, ArithmeticError, ValueError, _MP.NoConvergence):
        return None
    return None if not isinstance(value, Fraction) and _MP.isnan(value) else value


def _evaluate(tree: Node, point: Mapping[str, Fraction]) -> Value:
    values: dict[int, Value] = {}
    for node in reversed([*nodes(tree)]):  # operands first, without recursion: a sum of many terms is deep
        if node.op == "number":
            value = node.args[0]
        elif node.op == "variable":
            value = point[node.args[0]]
        elif node.op == "constant":
            value = _CONSTANTS[node.args[0]]
        else:
            value = _bounded(_OPERATIONS[node.op](*(values[id(each)] for each in node.args)))
        values[id(node)] = value
    return values[id(tree)]


def _bounded(value: Value) -> Value:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
            raise Unreadable("too large")
    elif not _MP.isinf(value) and abs(value) and not -_MAX_BITS < _MP.mag(value) < _MAX_BITS:
        raise Unreadable("too large")
    elif value.imag:
        return _rounded(value, abs(value))
    return value


def _rounded(value: Value, size: Value) -> Value:
    """Return a value without the rounding that cancelling terms of a `size` leave, as `\\sqrt{2} - \\sqrt{2}` does."""
    if isinstance(value, Fraction) or not _MP.isfinite(value) or not _MP.isfinite(size):
        return value
    parts = [part if abs(part) > _AGREE * size else _MP.mpf(0) for part in (value.real, value.imag)]
    return _MP.mpc(*parts) if parts[1] else parts[0]


def _added(left: Value, right: Value) -> Value:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left + right
    left, right = inexact(left), inexact(right)
    return _rounded(left + right, max(abs(left), abs(right)))


def _exactly(operation: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    def apply(left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return operation(left, right)
        return operation(inexact(left), inexact(right))

    return apply


_times = _exactly(lambda a, b: a * b)


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        if isinstance(base, Fraction):
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits * abs(exponent) > _MAX_BITS:
                raise Unreadable("too large")
            return base**exponent
        if abs(exponent) > _MAX_BITS:
            raise Unreadable("too large")
        return base ** int(exponent)
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and base >= 0:
        return _root(_power(base, Fraction(exponent.numerator)), Fraction(exponent.denominator))
    if isinstance(base, Fraction) and base < 0 and isinstance(exponent, Fraction) and exponent.denominator % 2:
        return _times(Fraction((-1) ** exponent.numerator), _power(-base, exponent))
    base, exponent = inexact(base), inexact(exponent)
    if abs(exponent) > _MAX_BITS or (abs(base) and abs(_MP.mag(base)) * abs(exponent) > _MAX_BITS):
        raise Unreadable("too large")
    return base**exponent


def _root(radicand: Value, index: Value) -> Value:
    if not isinstance(index, Fraction) or index.denominator != 1 or not 0 < index <= 1000:
        raise Unreadable("no root")
    n = int(index)
    if isinstance(radicand, Fraction):
        if radicand < 0 and n % 2:
            return _times(Fraction(-1), _root(-radicand, index))
        if radicand >= 0:
            over, under = (_whole_root(part, n) for part in (radicand.numerator, radicand.denominator))
            if over is not None and under is not None:
                return Fraction(over, under)
    return _MP.root(inexact(radicand), n)


def _whole_root(number: int, n: int) -> int | None:
    if number < 2:
        return number
    if number.bit_length() > 4000:
        return None
    low, high = 1, 1 << (number.bit_length() // n + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**n < number:
            low = middle + 1
        else:
            high = middle
    return low if low**n == number else None


def _log(value: Value, base: Value = Fraction(10)) -> Value:
    if isinstance(value, Fraction) and isinstance(base, Fraction) and value > 0 and base > 1:
        guess = round(float(_MP.log(inexact(value)) / _MP.log(inexact(base))))
        if abs(guess) < 1000 and base**guess == value:
            return Fraction(guess)
    return _MP.log(inexact(value)) / _MP.log(inexact(base))


def _factorial(value: Value) -> Value:
    if not isinstance(value, Fraction) or not -1 < value <= 2100:
        raise Unreadable("no factorial")
    return Fraction(math.factorial(int(value))) if value.denominator == 1 else _MP.gamma(inexact(value + 1))


def _binomial(n: Value, k: Value) -> Value:
    if not isinstance(n, Fraction) or not isinstance(k, Fraction) or max(abs(n), abs(k)) > 1000:
        raise Unreadable("no binomial coefficient")
    if n.denominator == k.denominator == 1 and 0 <= k <= n:
        return Fraction(math.comb(int(n), int(k)))
    return _MP.binomial(inexact(n), inexact(k))


def _whole(rounding: Callable[[Value], int]) -> Callable[[Value], Value]:
    def apply(value: Value) -> Value:
        if not isinstance(value, Fraction) and (value.imag or not _MP.isfinite(value)):
            raise Unreadable("no real number")
        return Fraction(int(rounding(value)))

    return apply


def _through(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    def apply(value: Value) -> Value:
        value = inexact(value)
        if not _MP.isinf(value) and abs(value) > 10**6:
            raise Unreadable("too large")
        return function(value)

    return apply


def _periodic(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    """Return a function of angles with exact zeros: without the rounding at multiples of π."""
    applied = _through(function)
    return lambda value: _rounded(applied(value), min(abs(inexact(value)), _MP.mpf(1)))


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "+": _added,
    "-": lambda a, b: _added(a, -b),
    "*": _times,
    "/": _exactly(lambda a, b: a / b),
    "^": _power,
    "neg": lambda a: -a,
    "abs": abs,
    "floor": _whole(math.floor),
    "ceil": _whole(math.ceil),
    "sqrt": lambda a: _root(a, Fraction(2)),
    "root": _root,
    "degrees": lambda a: inexact(a) * _MP.pi / 180,
    "factorial": _factorial,
    "binom": _binomial,
    "log": _log,
    "ln": lambda a: _MP.log(inexact(a)),
    "arcsin": _through(_MP.asin),
    "arccos": _through(_MP.acos),
    "arctan": _through(_MP.atan),
}
for _name in ("sin", "cos", "tan", "cot", "sec", "csc"):
    _OPERATIONS[_name] = _periodic(getattr(_MP, _name))
for _name in ("sinh", "cosh", "tanh", "exp"):
    _OPERATIONS[_name] = _through(getattr(_MP, _name))
