"""Formulas: from tokens to a tree.

The parser reads all of its tokens or refuses them; it never picks a formula out of a text.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

MAX_TOKENS = 500
MAX_BRACKETS = 100
_MAX_FORMULA = 250
"""Tokens of one formula at most, so that its tree is not too deep to be compared and written."""
_MAX_DEPTH = 40
_MAX_EXPONENT = 2000
"""Of a number such as 1e3."""

TOKEN = re.compile(
    r"(?P<number>(?:\d+(?:\.(?:\d+|(?=\\(?:overline|bar|dot)\b)))?|\.\d+)(?:[eE][+-]?\d+(?![\dA-Za-z]))?)"
    r"|(?P<command>\\(?:[A-Za-z]+|.))"
    r"|(?P<word>[^\W\d_]+)"
    r"|(?P<sign>\*\*|<=|>=|!=|\S)"
)
_FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"}
) | {"ln", "log", "lg", "exp", "sqrt", "abs"}
OF_ANGLES = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
_CONSTANTS = {"pi": "π", "infty": "∞", "infinity": "∞", "inf": "∞", "e": "e", "i": "i"}
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar".split()
)
_DECORATIONS = frozenset({"vec", "overrightarrow", "overline", "bar", "hat", "widehat", "tilde", "dot"})
_NO_PRODUCT = frozenset(
    "all an and any are as at but by for from go he if in is it its no not of off on or our out own per so the to up "
    "was we yes".split()
)
"""Words that are as short as a product of variables."""
_TIMES = frozenset({"*", "\\cdot", "\\times", "·", "×", "⋅", "∙", "\\ast"})
_OVER = frozenset({"/", "÷", "\\div", "⁄"})
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Unreadable(ValueError):  # noqa: N818  (it is no fault)
    """A text is no formula, or its value is out of bounds."""


class Node(NamedTuple):
    """A formula: an operator and its operands; `number` holds a Fraction, `variable` and `constant` a name."""

    op: str
    args: tuple[Any, ...]


class Token(NamedTuple):
    """A piece of a text: a `number`, `command`, `word` or `sign`, and whether white space precedes it."""

    kind: str
    text: str
    spaced: bool


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a text, without white space.

    Raises:
        Unreadable: There are over `MAX_TOKENS` of them, or over `MAX_BRACKETS` brackets.
    """
    tokens, end = [], 0
    for found in TOKEN.finditer(text):
        tokens.append(Token(found.lastgroup or "", found[0], found.start() > end))
        end = found.end()
        if len(tokens) > MAX_TOKENS:
            raise Unreadable("too long")
    if sum(token.text in _CLOSING for token in tokens) > MAX_BRACKETS:
        raise Unreadable("too many brackets")
    return tokens


def parse(tokens: list[Token]) -> Node:
    """Return the formula that all of `tokens` make up.

    Raises:
        Unreadable: They make up none.
    """
    if len(tokens) > _MAX_FORMULA:
        raise Unreadable("too long")
    parser = _Parser(tokens)
    tree = parser.sum()
    if parser.at < len(parser.tokens):  # which the parser splits further
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
        tree = self.product()
        while self.peek() in ("+", "-"):
            tree = Node(self.take(), (tree, self.product()))
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
        """Whether what follows is multiplied without a sign, as in `2x` and `3(x + 1)`; a number, only after `!`."""
        text, kind = self.peek(), self.kind()
        if kind == "number":
            return self.tokens[self.at - 1].text == "!"  # 2!4!
        if kind == "word":
            return True
        if kind == "command":
            return (
                text in ("\\frac", "\\sqrt", "\\binom", "\\lfloor", "\\lceil")
                or text[1:] in _FUNCTIONS | _GREEK | _DECORATIONS | _CONSTANTS.keys()
            )
        return text in ("(", "{")

    def power(self) -> Node:
        return self.followed(self.deeper())

    def followed(self, tree: Node) -> Node:
        """Read the powers, factorials, degrees and percents after an atom."""
        while True:
            following = self.peek()
            if following in ("^", "**"):
                self.take()
                tree = Node("^", (tree, self.exponent()))
            elif following == "!":
                self.take()
                tree = Node("factorial", (tree,))
            elif following == "°":
                self.take()
                tree = Node("degrees", (tree,))
            elif following in ("%", "\\%"):
                self.take()
                tree = Node("/", (tree, Node("number", (Fraction(100),))))
            else:
                return tree

    def exponent(self) -> Node:
        sign = ""
        if self.peek() in ("+", "-"):
            sign = self.take()
        self.depth += 1  # a tower has no brackets
        tree = self.power() if self.peek() != "{" else self.deeper()
        self.depth -= 1
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

    def deeper(self) -> Node:
        """Read an atom, one level down."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise Unreadable("nested too deeply")
        tree = self.atom()
        self.depth -= 1
        return tree

    def number(self, text: str) -> Node:
        if self.subscripted():
            return self.variable(text)  # 101_2: digits in another base are what they are
        exponent = text.casefold().partition("e")[2]
        if exponent and abs(int(exponent)) > _MAX_EXPONENT:
            raise Unreadable("too large")
        value = Fraction(text)
        if self.peek() in ("\\overline", "\\bar", "\\dot") and not exponent:
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
        if len(self.tokens) + len(pieces) > _MAX_FORMULA:
            raise Unreadable("too long")
        self.tokens = [
            *self.tokens[: self.at - 1],
            *(Token("word", each, False) for each in pieces),
            *self.tokens[self.at :],
        ]
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
        if name in ("lfloor", "lceil"):
            tree = self.sum()
            self.expect(f"\\r{name[1:]}")
            return Node(name[1:], (tree,))
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
        """Read the operand of a command: in braces, or a single digit, letter or command, as in `\\frac12`."""
        if self.peek() == "{":
            return self.deeper()
        if self.kind() == "number" and len(self.peek()) > 1:
            token = self.tokens[self.at]
            rest = Token("number", token.text[1:], False)
            if not token.text.isdecimal():
                raise Unreadable("an operand without braces")
            self.tokens = [*self.tokens[: self.at], rest, *self.tokens[self.at + 1 :]]
            return Node("number", (Fraction(token.text[0]),))
        return self.deeper()

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
        radicand = self.deeper()
        return Node("root", (radicand, index)) if index else Node("sqrt", (radicand,))

    def argument(self) -> Node:
        """Read the argument of a function: a bracket, or factors up to the next sign or function, as in `\\sin 2x`."""
        if self.peek() in _CLOSING or self.peek() == "|":
            return self.deeper()
        tree = self.signed()
        while self.starts_factor() and self.peek() not in ("(", "{") and self.peek().lstrip("\\") not in _FUNCTIONS:
            tree = _beside(tree, self.power())
        return tree


def _beside(left: Node, right: Node) -> Node:
    """Return `left` and `right`, which have no sign between them: a product, or a mixed number as `1\\frac{1}{2}`."""
    if left.op == "neg" and left.args[0].op == "number" and right.op == "/":
        return Node("neg", (_beside(left.args[0], right),))
    if left.op == "number" and right.op == "/":
        whole, (over, under) = left.args[0], right.args
        if over.op == under.op == "number":
            if whole.denominator == 1 and 0 < over.args[0] < under.args[0]:
                return Node("+", (left, right))
            raise Unreadable("no mixed number")
    return Node("*", (left, right))


def variables(tree: Node) -> frozenset[str]:
    """Return the names of the variables in a formula."""
    return frozenset(node.args[0] for node in nodes(tree) if node.op == "variable")


def has_angle(tree: Node) -> bool:
    """Return whether a formula has a function of an angle; a degree sign at the end is the angle's, as in \\cos 60°."""
    return any(node.op in OF_ANGLES for node in nodes(tree))


def nodes(tree: Node) -> Iterator[Node]:
    """Yield a formula's nodes."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [each for each in node.args if isinstance(each, Node)]


def written(tree: Node) -> str:
    """Return a formula as text, for people."""
    if tree.op in ("number", "variable", "constant"):
        return str(tree.args[0])
    parts = [*map(written, tree.args)]
    if tree.op in ("+", "-", "*", "/", "^"):
        return f"({parts[0]} {tree.op} {parts[1]})" if tree.op in "+-" else f"{parts[0]}{tree.op}{parts[1]}"
    return f"-{parts[0]}" if tree.op == "neg" else f"{tree.op}({', '.join(parts)})"
