r"""Which part of a final answer is the result, made ready for math-verify.

math-verify looks for LaTeX between delimiters, and for numbers in prose. A final answer is often LaTeX
without delimiters (`2\sqrt{3}`), where a search for numbers would find 2. So what is not prose is read as one
formula.
"""

import re

from observe_r1.rewards.gold import FORMULA_WORDS

_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "≈": "", "~": " ", "·": r"\cdot ", "⋅": r"\cdot ", "∞": r"\infty ", "°": r"^{\circ}"}
    | {"²": "^{2}", "³": "^{3}", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∠": r"\angle "}
    | {"½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"}
)
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\!|\\\$|[£€¥]", ""),
        (r"\\[,;:> ]", " "),
        (r"(?<![\\A-Za-z])(?:sqrt|√) ?\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"√ ?([0-9]+(?:\.[0-9]+)?|[A-Za-z])", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])sqrt(?=\{)", r"\\sqrt"),
        (r"(?<![0-9.,/])([0-9]+) ([0-9]+)/([0-9]+)(?![0-9/])", r"\1\\frac{\2}{\3}"),
        (r"([0-9])[eE]([+-]?[0-9]+)(?![0-9A-Za-z])", r"\1\\times 10^{\2}"),
    )
)
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?![0-9])")
_ENCLOSED = re.compile(r"\$\$?([^$]+)\$\$?|\\\(([^$]+)\\\)|\\\[([^$]+)\\\]")
_DELIMITER = re.compile(r"\$|\\\(|\\\[|\\boxed")

_UNIT = r"[A-Za-z]+(?:\^\{?[23]\}?)?"
_TRAILING_UNIT = re.compile(rf"(?<=[0-9}})])( ?)({_UNIT}(?:[ /]+{_UNIT})*)$")
_UNITS = re.compile(r"mm|cm|dm|km|mi|ft|yd|mg|kg|ml|sq|sec|min|hrs?|mph|deg|rad")
_LETTER_UNITS = re.compile(r"[msgh]")

_COMMAND = re.compile(r"\\(?:text|math|mbox|operatorname)[a-z]* ?\{[^{}]*\}|\\[A-Za-z]+")
_PROSE_WORD = re.compile(r"[a-z]{4,}|is|are|the|we|so|to|of|at|by|in|it|be|not|no|for|per|has|was|ans|an|as|on")
_BEFORE_RESULT = re.compile(r"\b(?:is|are|equals)\b|(?<=[A-Za-z]): |=")


def result(text: str) -> tuple[str, bool]:
    """Return the part of a final answer that holds the result, and whether it is one formula throughout.

    Otherwise the value is to be searched for in it. Delimiters around it and units at its end are gone.
    """
    text = _tidy(text)
    if _DELIMITER.search(text):
        return text, False
    if not _is_prose(text):
        return text, True
    end = _BEFORE_RESULT.split(text)[-1].strip()
    return (end, True) if end and not _is_prose(end) else (text, False)


def _tidy(text: str) -> str:
    text = " ".join(text.split()).rstrip(" .,;:")
    if enclosed := _ENCLOSED.fullmatch(text):
        text = next(filter(None, enclosed.groups())).strip()
    if text.count("$") == 1:
        text = text.replace("$", "")
    text = text.translate(_SIGNS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _THOUSANDS.sub(lambda number: number[0].replace(" ", ""), text)
    return _without_unit(" ".join(text.split()))


def _without_unit(text: str) -> str:
    """Drop the units after the last number. A single letter is one only as in "5 m/s" and "5 m^2"."""
    trailing = _TRAILING_UNIT.search(text)
    if not trailing:
        return text
    space, unit = trailing.groups()
    compound = space and ("/" in unit or "^" in unit)
    for word in re.findall(r"[a-z]+", unit.casefold()):
        is_unit = _UNITS.fullmatch(word) or (compound and _LETTER_UNITS.fullmatch(word))
        if not is_unit and (len(word) < 4 or word in FORMULA_WORDS):
            return text
    return text[: trailing.start()]


def _is_prose(text: str) -> bool:
    words = set(re.findall(r"[a-z]{2,}", _COMMAND.sub(" ", text).casefold())) - FORMULA_WORDS
    return any(_PROSE_WORD.fullmatch(word) for word in words)
