"""Formulas: from tokens to a tree, and whether two trees have one value.

The parser consumes all of its tokens or refuses them; it never picks a formula out of a text. Two constants are the same
where their values are: rational ones exactly, others to 50 digits. Two formulas with variables are the same where they
agree at several points (Schwartz, 1980; Zippel, 1979), drawn from the variables' names. Tokens, nesting and the size of
every number are bounded, so hostile text costs milliseconds and needs no process of its own.
"""

import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import mpmath

MAX_TOKENS = 500
_MAX_DEPTH = 40
_MAX_BITS = 20_000
"""Rational numbers beyond this size are given up; 2^2006 is in, 9^9^9 is not."""

_MP = mpmath.MPContext()
_MP.dps = 60
_AGREE = _MP.mpf(10) ** -50
_POINTS = 6

Value = Any
"""A Fraction, or a real or complex number of mpmath's."""

TOKEN = re.compile(
    r"(?P<number>(?:\d+(?:\.(?:\d+|(?=\\overline)))?|\.\d+)(?:[eE][+-]?\d{1,5}(?![\dA-Za-z]))?)"
    r"|(?P<command>\\(?:[A-Za-z]+|.))"
    r"|(?P<word>[^\W\d_]+)"
    r"|(?P<sign>\*\*|<=|>=|!=|\S)"
)
_FUNCTIONS = (
    frozenset({"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"})
    | {"ln", "log", "lg", "exp", "sqrt", "abs"}
)
_OF_ANGLES = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
_CONSTANTS = {"pi": "π", "infty": "∞", "infinity": "∞", "inf": "∞", "e": "e", "i": "i"}
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar".split()
)
_DECORATIONS = frozenset({"vec", "overrightarrow", "overline", "bar", "hat", "widehat", "tilde", "dot"})
_NO_PRODUCT = frozenset(
    "all an and any are as at but by for from go he if in is it its no not of off on or our out own per so the to up was we yes".split()
)
"""Words that are as short as products of variables."""
_TIMES = frozenset({"*", "\\cdot", "\\times", "·", "×", "⋅", "∙", "\\ast"})
_OVER = frozenset({"/", "÷", "\\div", "⁄"})
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Unreadable(ValueError):
    """A text that is no formula, or one whose value is out of bounds."""


class Node(NamedTuple):
    """A formula: an operator and its operands; `number` holds a Fraction, `variable` and `constant` a name."""

    op: str
    args: tuple[Any, ...]


class Token(NamedTuple):
    """A piece of a text: `number`, `command`, `word` or `sign`, and whether white space stands before it."""

    kind: str
    text: str
    spaced: bool


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a text, white space left out.

    Raises:
        Unreadable: there are over `MAX_TOKENS`.
    """
    tokens, end = [], 0
    for found in TOKEN.finditer(text):
        tokens.append(Token(found.lastgroup or "", found[0], found.start() > end))
        end = found.end()
        if len(tokens) > MAX_TOKENS:
            raise Unreadable("too long")
    return tokens


def parse(tokens: list[Token]) -> Node:
    """Return the formula that all of `tokens` make.

    Raises:
        Unreadable: they make none.
    """
    parser = _Parser(tokens)
    tree = parser.sum()
    if parser.at < len(tokens):
        raise Unreadable(f"{parser.peek()!r} is left over")
    return tree


class _Parser:
    """Recursive descent: sum, product, sign, power, atom."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    def peek(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at].text if at < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at].kind if self.at < len(self.tokens) else ""

    def take(self) -> str:
        if self.at == len(self.tokens):
            raise Unreadable("it ends too early")
        self.at += 1
        return self.tokens[self.at - 1].text

    def expect(self, text: str) -> None:
        if self.take() != text:
            raise Unreadable(f"no {text!r} where one must be")

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise Unreadable("nested too deeply")
        tree = self.product()
        while self.peek() in ("+", "-"):
            tree = Node(self.take(), (tree, self.product()))
        self.depth -= 1
        return tree

    def product(self) -> Node:
        tree = self.signed()
        while True:
            if self.peek() in _TIMES:
                self.take()
                tree = Node("*", (tree, self.signed()))
            elif self.peek() in _OVER:
                self.take()
                tree = Node("/", (tree, self.signed()))
            elif self.starts_factor():
                tree = _beside(tree, self.power())
            else:
                return tree

    def signed(self) -> Node:
        signs = 0
        while self.peek() in ("+", "-"):
            signs += self.take() == "-"
        tree = self.power()
        return Node("neg", (tree,)) if signs % 2 else tree

    def starts_factor(self) -> bool:
        """Whether what follows is multiplied without a sign, as in `2x` and `3(x + 1)`; a number never is."""
        text, kind = self.peek(), self.kind()
        if kind == "word":
            return True
        if kind == "command":
            return text in ("\\frac", "\\sqrt", "\\binom") or text[1:] in _FUNCTIONS | _GREEK | _DECORATIONS | _CONSTANTS.keys()
        return text in ("(", "{")

    def power(self) -> Node:
        tree = self.atom()
        while True:
            following = self.peek()
            if following in ("^", "**"):
                self.take()
                if self.degrees():
                    tree = Node("degrees", (tree,))
                else:
                    tree = Node("^", (tree, self.exponent()))
            elif following == "!":
                self.take()
                tree = Node("factorial", (tree,))
            elif following in ("°", "\\degree"):
                self.take()
                tree = Node("degrees", (tree,))
            elif following in ("%", "\\%"):
                self.take()
                tree = Node("/", (tree, Node("number", (Fraction(100),))))
            else:
                return tree

    def degrees(self) -> bool:
        if self.peek() == "\\circ":
            self.take()
            return True
        if self.peek() == "{" and self.peek(1) == "\\circ" and self.peek(2) == "}":
            self.at += 3
            return True
        return False

    def exponent(self) -> Node:
        sign = ""
        if self.peek() in ("+", "-"):
            sign = self.take()
        tree = self.power() if self.peek() != "{" else self.atom()
        return Node("neg", (tree,)) if sign == "-" else tree

    def atom(self) -> Node:
        kind, text = self.kind(), self.take()
        if kind == "number":
            return self.number(text)
        if kind == "word":
            return self.word(text)
        if kind == "command":
            return self.command(text)
        if text in _CLOSING:
            tree = self.sum()
            self.expect(_CLOSING[text])
            return tree
        if text == "|":
            tree = self.sum()
            self.expect("|")
            return Node("abs", (tree,))
        raise Unreadable(f"{text!r} starts no formula")

    def number(self, text: str) -> Node:
        value = Fraction(text)
        if self.peek() == "\\overline" and "e" not in text.casefold():
            self.take()
            self.expect("{")
            period = self.take()
            self.expect("}")
            if not period.isdecimal() or not period.isascii() or len(period) > 50:
                raise Unreadable("no period of a decimal")
            places = len(text.partition(".")[2])
            value += Fraction(int(period), (10 ** len(period) - 1) * 10**places)
        return Node("number", (value,))

    def word(self, text: str) -> Node:
        if text in _CONSTANTS and not self.subscripted():
            return Node("constant", (_CONSTANTS[text],))
        if text in _FUNCTIONS:
            return self.function(text)
        if len(text) == 1 or text.isupper():
            return self.variable(text)
        known = next((name for name in _FUNCTIONS if text.startswith(name)), "")
        if len(text) - len(known) > 3 or len(self.tokens) == 1 or text in _NO_PRODUCT or not text.isascii():
            raise Unreadable(f"{text!r} is a word")
        name = known or text[0]
        pieces = [name, *text[len(name) :]]
        self.tokens = [*self.tokens[: self.at - 1], *(Token("word", each, False) for each in pieces), *self.tokens[self.at :]]
        return self.word(name)

    def variable(self, name: str) -> Node:
        while self.peek() == "_" or self.peek() == "'":
            name += self.take()
            if name.endswith("_"):
                name += self.subscript()
        return Node("variable", (name,))

    def subscripted(self) -> bool:
        return self.peek() in ("_", "'")

    def subscript(self) -> str:
        if self.peek() != "{":
            return self.take()
        self.take()
        parts = []
        while self.peek() != "}":
            parts.append(self.take())
        self.take()
        return "".join(parts)

    def command(self, text: str) -> Node:
        name = text[1:]
        if name == "frac":
            return Node("/", (self.group(), self.group()))
        if name == "binom":
            return Node("binom", (self.group(), self.group()))
        if name in _CONSTANTS:
            return Node("constant", (_CONSTANTS[name],))
        if name in _FUNCTIONS:
            return self.function(name)
        if name in _GREEK:
            return self.variable(text)
        if name in ("angle", "triangle", "odot"):
            return Node("variable", (text + self.take(),))
        if name in _DECORATIONS:
            return Node("variable", (text + self.raw_group(),))
        raise Unreadable(f"{text!r} is not known")

    def group(self) -> Node:
        """The operand of a command: in braces, or a single digit, letter or command, as in `\\frac12`."""
        if self.peek() == "{":
            return self.atom()
        if self.kind() == "number" and len(self.peek()) > 1:
            token = self.tokens[self.at]
            rest = Token("number", token.text[1:], False)
            if not token.text.isdecimal():
                raise Unreadable("an operand without braces")
            self.tokens = [*self.tokens[: self.at], rest, *self.tokens[self.at + 1 :]]
            return Node("number", (Fraction(token.text[0]),))
        return self.atom()

    def raw_group(self) -> str:
        if self.peek() != "{":
            return self.take()
        return self.subscript()

    def function(self, name: str) -> Node:
        if name == "sqrt":
            return self.root()
        base, power = None, None
        while self.peek() in ("_", "^"):
            if self.take() == "_":
                base = self.group()
            else:
                power = self.exponent()
        argument = self.argument()
        if name == "lg":
            name, base = "log", Node("number", (Fraction(10),))
        if power == Node("neg", (Node("number", (Fraction(1),)),)) and name in ("sin", "cos", "tan"):
            name, power = f"arc{name}", None
        tree = Node(name, (argument, base) if base else (argument,))
        return Node("^", (tree, power)) if power else tree

    def root(self) -> Node:
        index = None
        if self.peek() == "[":
            self.take()
            index = self.sum()
            self.expect("]")
        radicand = self.atom()
        return Node("root", (radicand, index)) if index else Node("sqrt", (radicand,))

    def argument(self) -> Node:
        """What a function is applied to: a bracket, or factors up to the next sign or function, as in `\\sin 2x`."""
        if self.peek() in _CLOSING or self.peek() == "|":
            return self.power()
        tree = self.signed()
        while self.starts_factor() and self.peek() not in ("(", "{") and self.peek().lstrip("\\") not in _FUNCTIONS:
            tree = _beside(tree, self.power())
        return tree


def _beside(left: Node, right: Node) -> Node:
    """`left` and `right` without a sign between them: a product, or a mixed number as `1\\frac{1}{2}`."""
    if left.op == "number" and right.op == "/":
        whole, (over, under) = left.args[0], right.args
        if over.op == under.op == "number":
            if whole.denominator == 1 and 0 < over.args[0] < under.args[0]:
                return Node("+", (left, right))
            raise Unreadable("no mixed number")
    return Node("*", (left, right))


def variables(tree: Node) -> frozenset[str]:
    """Return the names of the variables in a formula."""
    return frozenset(node.args[0] for node in _nodes(tree) if node.op == "variable")


def has_angle(tree: Node) -> bool:
    """Whether a formula applies a function to an angle, which then owns a degree sign at the end: \\cos 60°."""
    return any(node.op in _OF_ANGLES for node in _nodes(tree))


def _nodes(tree: Node) -> Iterator[Node]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [each for each in node.args if isinstance(each, Node)]


@lru_cache(maxsize=4096)
def constant(tree: Node) -> Value | None:
    """Return the value of a formula without variables; None where it has variables, or no value in bounds."""
    return None if variables(tree) else _value(tree, {})


def same(left: Node, right: Node) -> bool:
    """Whether two formulas have the same value, everywhere where both have one.

    Real formulas are compared where they are real: `\\ln x^2` and `2\\ln x` are the same.
    """
    pairs = _common(left, right)
    return bool(pairs) and all(_close(a, b) for a, b in pairs)


def proportional(left: Node, right: Node) -> bool:
    """Whether `left = 0` and `right = 0` are one equation up to a constant factor."""
    pairs = _common(left, right)
    if not pairs or all(_close(a, Fraction(0)) for a, _ in pairs):
        return False
    first, second = next((a, b) for a, b in pairs if not _close(a, Fraction(0)))
    return not _close(second, Fraction(0)) and all(_close(_times(a, second), _times(b, first)) for a, b in pairs)


def _common(left: Node, right: Node) -> list[tuple[Value, Value]]:
    """The values of both at the points where both have one; none if these are fewer than two."""
    names = sorted(variables(left) | variables(right))
    is_complex = any(node == Node("constant", ("i",)) for tree in (left, right) for node in _nodes(tree))
    pairs = []
    for index in range(_POINTS if names else 1):
        point = {name: _coordinate(name, index) for name in names}
        both = _value(left, point), _value(right, point)
        if None in both or (not is_complex and not all(map(_is_real, both))):
            continue
        pairs.append(both)
    return pairs if len(pairs) >= (2 if names else 1) else []


def _coordinate(name: str, index: int) -> Fraction:
    drawn = zlib.crc32(f"{name} {index}".encode()) % 1000 + 1
    return Fraction(drawn if index < _POINTS // 2 else drawn - 1000, 331)


def _is_real(value: Value) -> bool:
    return isinstance(value, Fraction) or not value.imag


def _close(left: Value, right: Value) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    left, right = inexact(left), inexact(right)
    if left == right:  # infinities
        return True
    if _MP.isinf(left) or _MP.isinf(right):
        return False
    size = max(abs(left), abs(right))
    return bool(size < _AGREE or abs(left - right) <= _AGREE * size)


def near(left: Value, right: Value, tolerance: Fraction) -> bool:
    """Whether two real values are at most `tolerance` apart, in their own unit."""
    if not _is_real(left) or not _is_real(right):
        return False
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return abs(left - right) <= tolerance
    difference = abs(inexact(left) - inexact(right))
    return bool(difference <= inexact(tolerance))


def close(left: Value, right: Value) -> bool:
    """Whether two values are the same: rational ones exactly, others to 50 digits."""
    return _close(left, right)


def scaled(value: Value, factor: Fraction, offset: Fraction = Fraction(0)) -> Value:
    """Return `value * factor + offset`."""
    if isinstance(value, Fraction):
        return value * factor + offset
    return value * inexact(factor) + inexact(offset)


def inexact(value: Value) -> Value:
    """Return a value as one of mpmath's, which can be ordered among each other."""
    return _MP.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _value(tree: Node, point: Mapping[str, Fraction]) -> Value | None:
    try:
        value = _evaluate(tree, point)
    except (Unreadable, ArithmeticError, ValueError, _MP.NoConvergence):
        return None
    return None if not isinstance(value, Fraction) and _MP.isnan(value) else value


def _evaluate(tree: Node, point: Mapping[str, Fraction]) -> Value:
    if tree.op == "number":
        return tree.args[0]
    if tree.op == "variable":
        return point[tree.args[0]]
    if tree.op == "constant":
        return {"π": +_MP.pi, "e": +_MP.e, "i": _MP.mpc(0, 1), "∞": _MP.inf}[tree.args[0]]
    return _bounded(_OPERATIONS[tree.op](*(_evaluate(each, point) for each in tree.args)))


def _bounded(value: Value) -> Value:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
            raise Unreadable("too large")
    elif not _MP.isinf(value) and abs(value) and not -_MAX_BITS < _MP.mag(value) < _MAX_BITS:
        raise Unreadable("too large")
    return value


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
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 1000:
        raise Unreadable("no factorial")
    return Fraction(math.factorial(int(value)))


def _binomial(n: Value, k: Value) -> Value:
    whole = isinstance(n, Fraction) and isinstance(k, Fraction) and n.denominator == k.denominator == 1
    if not whole or not 0 <= k <= n <= 1000:
        raise Unreadable("no binomial coefficient")
    return Fraction(math.comb(int(n), int(k)))


def _through(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    def apply(value: Value) -> Value:
        value = inexact(value)
        if not _MP.isinf(value) and abs(value) > 10**6:
            raise Unreadable("too large")
        return function(value)

    return apply


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "+": _exactly(lambda a, b: a + b),
    "-": _exactly(lambda a, b: a - b),
    "*": _times,
    "/": _exactly(lambda a, b: a / b),
    "^": _power,
    "neg": lambda a: -a,
    "abs": abs,
    "sqrt": lambda a: _root(a, Fraction(2)),
    "root": _root,
    "degrees": lambda a: inexact(a) * _MP.pi / 180,
    "factorial": _factorial,
    "binom": _binomial,
    "log": _log,
    "ln": lambda a: _MP.log(inexact(a)),
} | {
    name: _through(getattr(_MP, attribute))
    for name, attribute in {
        **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp")},
        **{"arcsin": "asin", "arccos": "acos", "arctan": "atan"},
    }.items()
}
