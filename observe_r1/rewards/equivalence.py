"""Whether two answers are mathematically the same, as math-verify sees it.

That covers fractions and decimals, percentages, units, sets, intervals, equations and inequalities.

Nothing here is safe on hostile text, which can keep sympy busy for ever: call it in a worker process. The
time limits of math-verify are off: they do not interrupt arithmetic, and they would take the process's only
alarm.
"""

import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from observe_r1.rewards.reading import result

# It would warn that its time limits are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_LATEX = (LatexExtractionConfig(),)
_NUMBER = (ExprExtractionConfig(),)

_NUMERAL = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_NUMERALS_APART = re.compile(r"[0-9] [0-9]")


def equal(text: str, gold: str) -> bool:
    """Whether a final answer equals the gold answer. False where either cannot be read."""
    return _same(_read_gold(gold), _read(text))


def verifies(gold: str) -> bool:
    """Whether a gold answer can be read, and equals itself, which `1/0` does not."""
    return _same(_read_gold(gold), _read_gold(gold))


@lru_cache(maxsize=1024)
def _read_gold(gold: str) -> list[Any]:
    return _read(gold)


def _read(text: str) -> list[Any]:
    """The value of a text as sympy objects, of which any may match; none if it cannot be read."""
    text, is_formula = result(text)
    if not is_formula:
        return _parse(text, _LATEX + _NUMBER)
    # math-verify reads numbers that stand apart as their sum.
    if _NUMERALS_APART.search(text):
        return []
    values = _parse(f"${text}$", _LATEX)
    has_one_number = len(_NUMERAL.findall(text)) == 1
    return _parse(text, _NUMBER) if not values and has_one_number else values


def _parse(text: str, targets: tuple[Any, ...]) -> list[Any]:
    return parse(text, targets, fallback_mode="no_fallback", parsing_timeout=None)


def _same(gold: list[Any], values: list[Any]) -> bool:
    return verify(gold, values, timeout_seconds=None)
