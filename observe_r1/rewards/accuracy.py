"""The accuracy reward: is the final answer the gold answer?

Letters, words and plain numbers are compared here, at once. Formulas go to math-verify in a worker process:
model output such as `9**9**9**9` can keep it busy for ever.
"""

from collections.abc import Callable
from fractions import Fraction

from observe_r1.rewards.answer import final_answer, literal, undress
from observe_r1.rewards.choice import chosen_letters
from observe_r1.rewards.gold import Gold, is_words, plain_number, read_gold
from observe_r1.rewards.worker import OverLimit, ask_shared_worker

TIMEOUT = 5.0
"""Seconds that `accuracy_reward` and `verifiable` wait for one answer."""

_CLEARLY_APART = Fraction(1, 100_000)


def accuracy_reward(response: str, answer: str) -> float:
    """Return 1.0 if the final answer of `response` is `answer`, else 0.0. Never hangs, and no text makes it raise.

    The final answer is the text between the last complete pair of answer tags, or lacking one, the response;
    its last 2,000 characters are read. LaTeX counts with or without dollar signs, a letter in every usual
    dress. A gold answer that cannot be verified scores 0 for anything. What is no string, or takes over 5
    seconds or 2 GiB, scores 0.

    Raises: UserError where the process that compares is killed from outside, three times in a row: that is no score.

    Source: Observe-R1 (arXiv 2505.12432), accuracy reward; https://github.com/huggingface/Math-Verify.
    """
    if not isinstance(response, str) or not isinstance(answer, str):
        return 0.0
    decided = quick(response, answer)
    return float(_ask(_equal, response, answer) if decided is None else decided)


def verifiable(answer: str) -> bool:
    """Return whether a gold answer can be verified: a letter, number, formula or phrase of up to 8 words.

    Against any other gold answer every response scores 0, so that its row is of no use.
    """
    if not isinstance(answer, str):
        return False
    kind = read_gold(answer).kind
    return _ask(_verifies, answer) if kind == "formula" else kind != "none"


def accuracy(response: str, answer: str, template: str) -> float:
    """`accuracy_reward` with every reward function's signature, and no time limit: for worker processes."""
    decided = quick(response, answer)
    return float(_equal(response, answer) if decided is None else decided)


def quick(response: str, answer: str) -> bool | None:
    """Whether the final answer is right, where that can be told at once; None where it takes math-verify."""
    return _compare(final_answer(response), read_gold(answer))


def _compare(text: str, gold: Gold) -> bool | None:
    if gold.kind == "choice":
        letters = chosen_letters(text)
        return letters == {gold.letter} if letters or not gold.text else _compare(text, read_gold(gold.text))
    if gold.kind == "phrase":
        return literal(text) == literal(gold.text)
    if gold.kind == "number":
        return _compare_number(text, gold)
    return None if gold.kind == "formula" else False


def _compare_number(text: str, gold: Gold) -> bool | None:
    value, wanted = plain_number(literal(text)), plain_number(literal(gold.text))
    if value is None or wanted is None:
        return False if is_words(undress(text)) else None
    if value == wanted:
        return True
    # In between, the rounding of math-verify decides.
    return False if abs(value - wanted) > _CLEARLY_APART else None


def _equal(response: str, answer: str) -> bool:
    from observe_r1.rewards.equivalence import equal

    return equal(final_answer(response), read_gold(answer).text)


def _verifies(answer: str) -> bool:
    from observe_r1.rewards.equivalence import verifies

    return verifies(read_gold(answer).text)


def _ask(function: Callable[..., bool], *args: str) -> bool:
    try:
        return ask_shared_worker(function, *args, timeout=TIMEOUT)
    except (TimeoutError, OverLimit):
        return False
