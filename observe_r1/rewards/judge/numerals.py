"""Numbers in words, "two hundred and fifty", "two thirds" or "three and a half", in digits."""

import re

_SMALL = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * number
    for number, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip


def _any(words: list[str]) -> str:
    return f"(?:{'|'.join(words)})"


_TO_99 = rf"(?:{_any([*_TENS])}(?:[ -]{_any([*_SMALL][1:10])})?|{_any([*_SMALL][::-1])})"
_TO_999 = rf"(?:(?:{_TO_99}|a)[ -]hundred(?: (?:and )?{_TO_99})?|{_TO_99})"
_BELOW = rf"(?: (?:and )?{_TO_999})?"
_WHOLE = (
    rf"(?:(?:{_TO_999}|a) (?:million|billion|trillion)(?: {_TO_999} thousand)?{_BELOW}"
    rf"|(?:{_TO_999}|a) thousand{_BELOW}|{_TO_999})"
)
_PART = rf"(?:(?:one|a)[ -](?P<one>{_any([*_PARTS])})|(?P<many>{_TO_99})[ -](?P<parts>halves|{_any([*_PARTS][1:])}s))"
_NUMBER = re.compile(
    rf"(?:(?<=\band )|(?<=\bor )|(?<![\w\\])(?<!\w ))"
    rf"(?:(?:(?P<whole>{_WHOLE}|(?<![^\s=(¤])\d+) and )?{_PART}|(?P<alone>{_WHOLE})|(?P<half>\Ahalf\Z))(?![\w-])",
    re.IGNORECASE,
)
_A_PART = re.compile(r"a[ -](?!half)", re.IGNORECASE)

OF_NUMBERS = {*_SMALL, *_TENS, "hundred", *_SCALES, *_PARTS, "eleventh", "twelfth", "sixteenth", "lakh", "crore"}
"""Words that change the number before them, in the singular: 3 tenths and 3 hundreds count nothing."""


def in_digits(text: str) -> str:
    """Return a text with its numbers in words as digits; what a word before them may change is left as it is."""
    return _NUMBER.sub(_digits, text)


def _digits(found: re.Match[str]) -> str:
    if found["half"]:
        return "(1/2)"
    if found["alone"]:
        return str(_number(found["alone"]))
    if not found["whole"] and _A_PART.match(found[0]):
        return found[0]  # a third may come after the second, and a quarter is a coin
    part = found["one"] or {"halves": "half"}.get(found["parts"].casefold(), found["parts"][:-1])
    over = _number(found["many"]) if found["many"] else 1
    fraction = f"{over}/{_PARTS[part.casefold()]}"
    return f"({_number(found['whole'])}+{fraction})" if found["whole"] else f"({fraction})"


def _number(words: str) -> int:
    if words.isdecimal():
        return int(words)
    total = current = 0
    for word in re.findall("[a-z]+", words.casefold()):
        if word == "hundred":
            current = max(current, 1) * 100
        elif word in _SCALES:
            total, current = total + max(current, 1) * _SCALES[word], 0
        else:
            current += _SMALL.get(word) or _TENS.get(word, 0)
    return total + current
