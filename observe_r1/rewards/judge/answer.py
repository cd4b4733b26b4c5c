"""The final answer of a response: which text it is, and which words around it are no part of the answer.

Every pattern takes one step per character, and the text is cut to `MAX_CHARS`: no time limit is needed.
"""

import re
from collections.abc import Iterator

MAX_CHARS = 2000
"""Only the last so many characters of a final answer are read."""

_MAX_LEADS = 20
"""How many times words around an answer are taken off, as in "So, therefore, the answer is"."""

_OPEN, _CLOSE, _THOUGHT = "<answer>", "</answer>", "</think>"


def _pattern(*parts: str) -> re.Pattern[str]:
    return re.compile("".join(parts), re.IGNORECASE)


_IS = r"(?:is|are|was|should be|would be|must be|equals)(?![A-Za-z])"
_CUE = _pattern(
    r"(?:(?:^|(?<=[\s.,;:!?#*-]))(?:(?:final|correct|right|my|the|best|our)\s+)*ans(?:wer|\.)(?:\s+(?:choice|option))?",
    rf"(?:(?<=\.)|\s*(?:{_IS}\s*:?|[:=]))",
    r"|(?:最终|正确|标准)?答案(?:选项)?(?:应?该?[是为选]|等于)?\s*:?|故?应?选(?:择|项)?\s*:?)\s*",
)
_LEAD = _pattern(
    r"(?:(?:so|therefore|thus|hence|then|finally|okay|ok|consequently|in conclusion|∴",
    r"|\\(?:therefore|implies|to|(?:Long)?[Rr]ightarrow))(?![A-Za-z])\s*,?",
    r"|因此|所以|综上|故|即|答:|,|:|=(?![=>]))\s*",
)
_PRONOUN = _pattern(
    r"(?:i (?:think|believe)(?: that)?(?= )|(?:it|this|that)'s(?= ))\s*",
    rf"|(?:it|this|that|(?:the )?(?:result|value|solution))\s*(?:{_IS}|[:=])\s*",
    r"|等于|[是为](?=.)",
)
_CHOOSE = _pattern(
    r"(?:i (?:would )?)?(?:choose|select|pick|option|choice)\s*:?\s*(?=[(\[]?[A-Za-z][)\]]?(?![A-Za-z]))|选项\s*",
    r"|both\s+(?=[A-H]\s)|(?:in|at|by)(?: the year)?\s+(?=\d)|(?:the )?year\s+(?=\d{4})",
)
_ABOUT = _pattern(
    r"(?:(?:a total of|about|approximately|approx\.?|roughly|exactly)(?![A-Za-z])",
    r"|\\(?:approx|sim|cong)(?![A-Za-z])|约)\s*",
)
_TAIL = _pattern(
    r"\s+is\s+(?:the\s+)?(?:final\s+)?(?:correct|right|answer)(?:\s+(?:answer|option|choice|one))?$",
    r"|\s+(?:in\s+(?:total|all|(?:the|this)\s+(?:picture|image|figure|diagram|photo|chart|graph))|altogether)$",
)
_REASON = _pattern(
    r"(?:,\s*|\s+)(?:since|because|as|given that|which|so that)\b",
    r"|,\s*(?:not(?=\s+(?!sure|certain|really))|因为)(?![A-Za-z])",
)
_OR = _pattern(r",\s*or\b")
_FAREWELL = _pattern(r"(?<=[.!])\s*(?:(?:i )?hope (?:it|this|that) (?:is correct|helps)|thank you)[.!]?$")
_BULLET = re.compile(r"\A(?:[#✅✓☑•]+\s*|\*\s+)+")
_SENTENCE_END = re.compile(r"[.!?;]\s|\n")
_VERB = _pattern(
    r"(?:\b(?:is|are|was|were|equals?|be|shows?|reads?|has|have|had|measures?|count|counted|find|found|get|got|gives?",
    r"|becomes?|there are|comes to|contains?|costs?|weighs?|needs?|takes?)\b(?:\s+(?:equal to|exactly))?",
    r"|[是为有共](?!\d*[是为有共])|等于|:(?= ))\s*",
)
_STATES = re.compile(r"[\d?!;]|\.\s|\\(?:frac|sqrt)")
REFUSES = _pattern(
    r"\b(?:not|never|no|neither|nor|none|cannot|except|but|maybe|might|may|could|either|perhaps|possibly|if|unless",
    r"|whether|or|wrong|incorrect|false|impossible|other|besides|least|most|than|without|between|anything|doubt|nobody|nothing|hardly|almost|nearly|opposite|another",
    r"|unlike|excluding|excluded?|eliminated?|reject(?:ed)?|discard(?:ed)?|ruled? out|instead|opposed|far from|unsure",
    r"|invalid|erroneous|mistaken)\b",
    r"|n't\b|不|非|错|或|可能|也许|大概",
)
"""Words before an answer that take it back or leave it open."""


_SUBJECT = re.compile(r"[^=<>|&\[\]*+/%\"$~^]*")
"""What a value may be said of: words and formulas' names, no operators."""
_PLAIN_SUBJECT = re.compile(r"[Tt](?:he|his)(?: (?!is\b|are\b)[\w'-]+){1,6} ")
"""What a word may be said of: "The colour of the car is red"."""
_JUDGED = _pattern(r"(yes|no|true|false)[,.;:] (?!\d+$)")
_WAVERS = _pattern(
    r"\b(?:yes|no|true|false|or|but|maybe|might|may|could|perhaps|if|unless|however|wrong|incorrect",
    r"|impossible|unsure|doubt|actually|wait|not (?:sure|really|right|correct|true))\b",
)


def final_answer(response: str) -> str:
    """Return the text between the last complete pair of answer tags; without one, what follows the thought.

    Longer texts are cut to their last `MAX_CHARS` characters.
    """
    close = response.rfind(_CLOSE)
    opening = response.rfind(_OPEN, 0, close) if close >= 0 else -1
    if opening < 0:
        untagged = response[-MAX_CHARS:].rpartition(_THOUGHT)[2]
        return untagged.replace(_OPEN, " ").replace(_CLOSE, " ").strip()
    start = opening + len(_OPEN)
    end = response.index(_CLOSE, start)
    return response[max(start, end - MAX_CHARS) : end].strip()


def cores(text: str) -> Iterator[tuple[str, bool]]:
    """Yield candidates for the answer in a plain text, from the whole text inwards.

    One after the other, these are taken off: "therefore", "the answer is", "I choose", "it is", "… is correct", a
    reason after the answer, what follows "Yes," and "No,", and at last a subject and its verb, if the subject states
    no number, doubt, negation or alternative.

    Yields:
        A candidate, and whether it counts only as a value, not as words.
    """
    text = _trimmed(_FAREWELL.sub("", text))
    *_, cue = [None, *_CUE.finditer(text)]
    if cue and text[cue.end() :].strip() and not REFUSES.search(_SENTENCE_END.split(text[: cue.start()])[-1]):
        text = _trimmed(text[cue.end() :])
    yield text, False
    bare = _without_lead(text)
    yield bare, False
    if (reason := _REASON.search(bare)) and reason.start() and not _OR.search(bare[reason.end() :]):
        bare = _without_lead(bare[: reason.start()])
        yield bare, False
    if (judged := _JUDGED.match(bare)) and not _WAVERS.search(bare[judged.end() :]):
        bare = judged[1]
        yield bare, False
    *_, verb = [None, *_VERB.finditer(bare)]
    subject = bare[: verb.start()] if verb else ""
    if verb and not REFUSES.search(subject) and not _STATES.search(subject) and _SUBJECT.fullmatch(subject):
        of_words = _PLAIN_SUBJECT.fullmatch(subject) and verb[0].strip() in ("is", "are")
        yield _without_lead(bare[verb.end() :]), not of_words


def _without_lead(text: str) -> str:
    text = _trimmed(text)
    for _ in range(_MAX_LEADS):
        shorter = _trimmed(_TAIL.sub("", text))
        for pattern in (_LEAD, _PRONOUN, _CHOOSE, _ABOUT):
            found = pattern.match(shorter)
            if found and found.end() < len(shorter):
                shorter = _trimmed(shorter[found.end() :])
        if shorter == text:
            break
        text = shorter
    return text


def _trimmed(text: str) -> str:
    text = _BULLET.sub("", text.strip(), count=1).rstrip(" .,;:✓✅☑")
    if len(text) > 2 and text[0] in "\"'" and text[-1] == text[0] and text.count(text[0]) == 2:
        return _trimmed(text[1:-1])
    return text
