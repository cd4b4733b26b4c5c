"""The accuracy reward: is the final answer the gold answer?

One parser reads both into typed values, whole or not at all, and they are compared by type. Everything is evaluated
within stated bounds, so the reward needs no process of its own and no time limit.
"""

import re
from dataclasses import replace
from functools import lru_cache
from string import ascii_uppercase, digits
from unicodedata import category

from observe_r1.data.wrong_value import answer_text, shorten
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.rewards.judge.answer import MAX_CHARS, final_answer
from observe_r1.rewards.judge.comparing import matches
from observe_r1.rewards.judge.options import chosen_letters, find_options, named_options
from observe_r1.rewards.judge.reading import read
from observe_r1.rewards.judge.values import Choice, described

_LOST_BACKSLASH = re.compile("[\a\b\f\v\r]|\t(?=imes|heta|ext|an\\b|riangle|frac)|\n(?=eq|abla|u\\b)")
"""What JSON makes of `\\frac`, `\\beta`, `\\times`, `\\neq` if they are written with one backslash."""

_MORE_THAN_AN_OPTION = re.compile(
    r"[.!?]\s+[^\W\d]|[。\uff1f]|\n|\b(?:answer|choose|select|pick|options?|which|what|find)\b", re.IGNORECASE
)
"""What a question may add after its last option, as in "(C) 60°. Choose one."."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def accuracy_reward(response: str, answer: str | float) -> float:
    """Return 1.0 if the final answer of `response` is `answer`, else 0.0. Never hangs on any text, and never raises.

    The final answer is the text between the last complete pair of answer tags, or else what follows the thought.
    docs/rewards.md says what counts as the same. With a gold answer that cannot be verified every response scores 0.

    Examples:
        >>> accuracy_reward("<think> one half </think> <answer> 0.5 </answer>", r"\\frac{1}{2}")
        1.0

    Args:
        response: What the model wrote; anything but a string scores 0.
        answer: The gold answer, a text or a number.

    Raises:
        UserError: `answer` is neither text nor a finite number.

    Source: Observe-R1 (arXiv 2505.12432), accuracy reward.
    """
    if not isinstance(answer, str):
        answer = answer_text(number := answer)
        if not answer:
            raise UserError(f"accuracy_reward: the gold answer needs text or a finite number, not {number!r:.100}")
    if not isinstance(response, str) or gold_fault(answer):
        return 0.0
    return float(matches(final_answer(response), final_answer(answer)))


def accuracy(response: str, answer: str, template: str) -> float:
    """`accuracy_reward` with the signature that every reward function has."""
    return accuracy_reward(response, answer)


def question_of(example: Example) -> str:
    """Return the text of the question: the last turn of the chat."""
    parts = (part for message in example.messages[-1:] for part in message["content"])
    return "".join(part["text"] for part in parts if part["type"] == "text")


def gold_answer(example: Example) -> str:
    """Return what the accuracy reward compares the responses to `example` with.

    If its question lists options, "(A) 45° (B) 60°", and the gold answer is the letter or the text of exactly one,
    that is letter and text, "B. 60°"; otherwise it is the gold answer itself.
    """
    return labelled_gold(question_of(example), example.answer)


@lru_cache(maxsize=4096)
def labelled_gold(question: str, answer: str) -> str:
    """Return the gold answer of a question as `gold_answer` does. Any doubt about the options leaves it as it is."""
    gold, options = final_answer(answer), find_options(question)
    if (
        not options
        or options.labels == digits[1:]
        or any(isinstance(each, Choice) and each.text for each in read(gold))
    ):
        return answer
    *others, last = options.texts
    texts = [*others, last.partition("\n")[0].strip()]
    letters = ascii_uppercase[: len(texts)]
    named = named_options(gold, replace(options, texts=texts))
    if len(named) != 1 or not all(_is_option(text, letters) for text in texts):
        return answer
    letter = named.pop()
    text = texts.pop(letters.index(letter))
    if any(_alike(text, other) for other in texts):
        return answer
    ways = [text] if chosen_letters(gold) == {letter} else [gold, text]
    whole = (f"{letter}. {way}" for way in ways)
    return next((each for each in whole if all(accuracy_reward(right, each) for right in (letter, text, gold))), answer)


def _is_option(text: str, letters: str) -> bool:
    """Whether a text can be that of an option, and is not the letter of another."""
    letter = chosen_letters(text)
    return (
        bool(read(text)) and not _MORE_THAN_AN_OPTION.search(text) and not (len(letter) == 1 and letter <= {*letters})
    )


def _alike(option: str, other: str) -> bool:
    """Whether an answer could be the text of either option: 5 is 5 cm and 5 m."""
    bare = [found[0] for found in _NUMBER.finditer(option)]
    return any(matches(text, option) and matches(text, other) for text in [option, other, *bare])


def verifiable(answer: str) -> bool:
    """Return whether a gold answer can be verified: given as a response, it scores 1.

    With any other gold answer every response scores 0, so that its row teaches nothing.
    """
    return isinstance(answer, str) and accuracy_reward(f"<answer>{answer}</answer>", answer) == 1.0


def gold_fault(answer: str) -> str | None:
    """Return what is wrong with the text of a gold answer, its length or its characters; None if nothing is."""
    if len(answer) > MAX_CHARS:
        return f"it has {len(answer):,} characters, over the {MAX_CHARS:,} that are read"
    if lost := _LOST_BACKSLASH.search(answer):
        return f"it holds {lost[0]!r}, what remains of a LaTeX command: in JSON write two backslashes, as in \\\\frac"
    odd = next((c for c in answer if category(c) in ("Cc", "Cs") and c not in "\n\t"), None)
    return f"it holds the control character U+{ord(odd):04X}: remove it" if odd else None


def require_verifiable(example: Example) -> None:
    """Check that the gold answer of `example` can be verified.

    Raises:
        UserError: It cannot.
    """
    if fault := gold_fault(example.answer):
        raise UserError(f"{example.origin}: the gold answer {shorten(example.answer)} cannot be verified: {fault}")
    if not verifiable(example.answer):
        raise UserError(
            f"{example.origin}: the gold answer {shorten(example.answer)} cannot be verified: correct it to a "
            "letter, number, formula or short phrase, or drop the row"
        )


def read_as(response: str) -> str:
    """Return in words how the final answer of a response is read, or the answer itself if it cannot be read."""
    answer = final_answer(response)
    readings = read(answer)
    return described(readings[0]) if readings else f"unread {answer!r}"
