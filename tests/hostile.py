"""What a model may write at its worst: texts that break parsers, fill memory and never end.

They come from a plain random generator, so that a hundred thousand of them are as different as the first ten; `TEXTS`
and `GROUPS` are the same for hypothesis.
"""

from random import Random

from hypothesis import strategies as st

PIECES = ["\\frac", "\\sqrt", "{", "}", "^", "_", "9", "10", "(", ")", "[", "]", "$", "\\(", "\\boxed{", "answer is "]
PIECES += ["A", "B", " and ", " ", "\n", "**", "!", "%", "/", "=", "<", "<answer>", "</answer>", "\ud800", "\x00"]
PIECES += ["\u200b", "½", "√", "∞", ",", ".", "-", "x", "\\int", "\\sum_", "\\begin{pmatrix}", "&", "\\\\", "sin "]
PIECES += ["\\text{", " or ", "1e", "99999", "|", "\\log_", " cm", "²", ":", " a ", "\u202e", "é", "红", "not "]
PIECES += ["<think>", "</think>", "<observe>", "</observe>"]

PAIRS = [
    ("{", "}"),
    ("(", ")"),
    ("\\frac{1}{", "}"),
    ("\\sqrt{", "}"),
    ("\\left(", "\\right)"),
    ("\\begin{pmatrix}", ""),
]
PAIRS += [("<think>", "</think>"), ("<observe><think>", "</observe></think>"), ("<answer>", "</answer>"), ("-", "!")]

TOWERS = [("9^{", "}"), ("9**", ""), ("10^{-", "}"), ("(x+1)^{", "}"), ("2^{10^{", "}}"), ("(", "!)!"), ("\\pi^{", "}")]

FORMS = ["{}", "-{}", "0.{}", "1e{}", "1e-{}", "{0}/{0}", "{}%", "\\sqrt[{0}]{{{0}}}", "{0}^{0}", "\\log_{{{0}}}{0}"]

DRESSES = ["{}", "<answer>{}</answer>", "<observe>a</observe><think>b</think><answer>{}</answer>"]
DRESSES += ["<observe>{0}</observe><think>{0}</think><answer>{0}</answer>", "<answer>${}$", "\\boxed{{{}}}"]

ALPHABETS = [(0, 0x20), (0x20, 0x7F), (0x80, 0x250), (0x2000, 0x2070), (0x2200, 0x2300), (0x4E00, 0x9FFF)]
ALPHABETS += [(0xD800, 0xE000), (0xFF00, 0xFFFF), (0, 0x110000)]

GOLDS = ["A", "12", "0.5", "\\frac{1}{2}", "(1,2)", "red", "12 cm", "x^2+1"]


def broken(dice: Random) -> str:
    """Tags, LaTeX and words in any order."""
    return "".join(dice.choices(PIECES, k=dice.choice([0, 1, 2, 4, 8, 16])))


def any_text(dice: Random) -> str:
    """Characters of any kind: control characters, lone surrogates, marks that turn the direction of writing."""
    return "".join(chr(dice.randrange(*dice.choice(ALPHABETS))) for _ in range(dice.choice([1, 2, 8, 50])))


def long(dice: Random) -> str:
    """Up to some hundred thousand characters."""
    return broken(dice) * dice.randint(1, 3000)


def number(dice: Random) -> str:
    """Digits by the thousand."""
    return dice.choice(FORMS).format(dice.choice(["9", "10", "0", "1,000"]) * dice.randint(1, 3000))


def deep(dice: Random) -> str:
    """Brackets, commands and tags nested up to a thousand deep."""
    return _nested(dice.choice(PAIRS), dice.randint(1, 1000), broken(dice))


def tower(dice: Random) -> str:
    """Powers of powers, and factorials of factorials."""
    return _nested(dice.choice(TOWERS), dice.randint(1, 8), dice.choice(["2", "9", "99999", "x"]))


# The last three often run into the time limit, which costs a second: a few of a thousand are enough.
_SHARES = {broken: 500, any_text: 400, long: 80, number: 5, deep: 4, tower: 4}


def hostile_text(dice: Random) -> str:
    """One response, or gold answer."""
    (kind,) = dice.choices(list(_SHARES), list(_SHARES.values()))
    return dice.choice(DRESSES).format(kind(dice))


def hostile_group(dice: Random) -> list[str]:
    """Eight responses."""
    return [hostile_text(dice) for _ in range(8)]


TEXTS = st.randoms(use_true_random=True).map(hostile_text)
GROUPS = st.randoms(use_true_random=True).map(hostile_group)


def after_json(text: str) -> str:
    """`text` as JSON keeps it: a high and a low surrogate side by side are one character there."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _nested(pair: tuple[str, str], depth: int, inside: str) -> str:
    return pair[0] * depth + inside + pair[1] * depth
