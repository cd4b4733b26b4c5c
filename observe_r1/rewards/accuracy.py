"""The accuracy reward: is the final answer the gold answer?

Both are read by the same parser into typed values, whole or not at all, and compared by type. Nothing is evaluated
beyond stated bounds, so it needs no process of its own and no time limit.
"""

import re
from unicodedata import category

from observe_r1.rewards.judge.answer import MAX_CHARS, final_answer
from observe_r1.rewards.judge.comparing import matches
from observe_r1.rewards.judge.reading import read
from observe_r1.rewards.judge.values import described

_EATEN = re.compile("[\a\b\f\v\r]|\t(?=imes|heta|ext|an\\b|riangle|frac)|\n(?=eq|abla|u\\b)")
"""What JSON makes of `\\frac`, `\\beta`, `\\times`, `\\neq` that are written with one backslash."""


def accuracy_reward(response: str, answer: str) -> float:
    """Return 1.0 if the final answer of `response` is `answer`, else 0.0. Never hangs, and no text makes it raise.

    The final answer is the text between the last complete pair of answer tags; lacking one, what follows the thought.
    What counts as the same is in docs/rewards.md. A gold answer that cannot be verified scores 0 for anything, as does
    what is no string.

    Source: Observe-R1 (arXiv 2505.12432), accuracy reward.
    """
    if not isinstance(response, str) or not isinstance(answer, str) or gold_fault(answer):
        return 0.0
    return float(matches(final_answer(response), final_answer(answer)))


def accuracy(response: str, answer: str, template: str) -> float:
    """`accuracy_reward` with the signature that every reward function has."""
    return accuracy_reward(response, answer)


def verifiable(answer: str) -> bool:
    """Return whether a gold answer can be verified: its own text counts as right for it.

    Against any other gold answer every response scores 0, so that its row is of no use.
    """
    return isinstance(answer, str) and accuracy_reward(f"<answer>{answer}</answer>", answer) == 1.0


def gold_fault(answer: str) -> str | None:
    """Return what is wrong with the text of a gold answer: its length, or characters that nobody writes."""
    if len(answer) > MAX_CHARS:
        return f"it has {len(answer):,} characters, over the {MAX_CHARS:,} that are read"
    if eaten := _EATEN.search(answer):
        return (
            f"it holds {eaten[0]!r}, which is left of a command of LaTeX: in JSON write two backslashes, as in \\\\frac"
        )
    odd = next((c for c in answer if category(c) in ("Cc", "Cs") and c not in "\n\t"), None)
    return f"it holds the control character U+{ord(odd):04X}: remove it" if odd else None


def read_as(response: str) -> str:
    """Return in words how the final answer of a response is read; where it is not, the answer itself."""
    answer = final_answer(response)
    readings = read(answer)
    return described(readings[0]) if readings else f"unread {answer!r}"
