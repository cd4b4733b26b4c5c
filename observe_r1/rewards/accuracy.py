"""The accuracy reward: is the final answer the gold answer?

Both are read by the same parser into typed values, whole or not at all, and compared by type. Nothing is evaluated
beyond stated bounds, so it needs no process of its own and no time limit.
"""

from unicodedata import category

from observe_r1.rewards.judge.answer import MAX_CHARS, final_answer
from observe_r1.rewards.judge.comparing import matches


def accuracy_reward(response: str, answer: str) -> float:
    """Return 1.0 if the final answer of `response` is `answer`, else 0.0. Never raises, never hangs.

    The final answer is the text between the last complete pair of answer tags; lacking one, what follows the thought.
    What counts as the same is in docs/rewards.md. A gold answer that cannot be verified scores 0 for anything, as does
    what is no string.

    Source: Observe-R1 (arXiv 2505.12432), accuracy reward.
    """
    if not isinstance(response, str) or not isinstance(answer, str) or not is_whole(answer):
        return 0.0
    return float(matches(final_answer(response), final_answer(answer)))


def accuracy(response: str, answer: str, template: str) -> float:
    """`accuracy_reward` with the signature that every reward function has."""
    return accuracy_reward(response, answer)


def verifiable(answer: str) -> bool:
    """Return whether a gold answer can be verified: one without control characters that is its own right answer.

    Against any other gold answer every response scores 0, so that its row is of no use.
    """
    return isinstance(answer, str) and accuracy_reward(f"<answer>{answer}</answer>", answer) == 1.0


def is_whole(answer: str) -> bool:
    """Return whether a gold answer has at most 2,000 characters and none that an eaten backslash leaves (`\\frac`)."""
    return len(answer) <= MAX_CHARS and not any(category(c) in ("Cc", "Cs") and c not in "\n\t" for c in answer)
