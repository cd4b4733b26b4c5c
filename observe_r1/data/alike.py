"""Many messages of one cause told as one line with a count, in little memory however many they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

NAMED = 3
"""Messages of a cause that are told, or named by their places, each by itself."""
MOST_CAUSES = 50
"""More causes are counted together."""

_PLACE = re.compile(r"((?:.*? )?(row|step) [\d,]+|.*?: line \d+)(?:, column \d+)?[:,] (.*)", re.DOTALL)
"""Where a message begins with the row, step or line that it is about."""
_VALUE = re.compile(
    r"""((?<=got )[^:;]+|(?!^)(?<!column )(?<!\w)'(?:[^'\\]|\\.)*(?:'|$)|"(?:[^"\\]|\\.)*(?:"|$)|\d[\d.,]*\d|\d)""",
    re.DOTALL,
)
"""What differs between messages of one cause: quoted values and numbers, but not the name of a column."""
_LONGEST = 1_000
"""Characters of a message that tell its cause."""
_OTHERS = "other causes"
_ANY_TEXT = "'…'"
"""Stands for quoted values that differ."""


@dataclass(slots=True)
class _Cause:
    """What is kept of all messages of one cause."""

    noun: str
    """What the messages are about: `rows` or `steps`."""
    parts: list[str]
    """The text; at odd places a value, or dots where the messages have different ones."""
    start: str
    first: list[str]
    """The parts as the first message had them."""
    count: int = 0
    told: int = 0
    """The count when it was last told."""
    messages: list[str] = field(default_factory=list)
    """The first `NAMED`."""
    places: list[str] = field(default_factory=list)
    """Theirs."""

    def line(self) -> str:
        """Return the count, the text, the first places, and what dots in quotes stand for at the first."""
        shown: list[str] = []
        for place, before in zip(self.places, ["", *self.places], strict=False):
            head, _, number = place.rpartition(" ")
            shown.append(number if head and head == before.rpartition(" ")[0] else place)
        hidden = [text for text, part in zip(self.first, self.parts, strict=True) if part == _ANY_TEXT != text]
        values = f"; the first has {' and '.join(hidden)}" if hidden else ""
        first = f" (first: {', '.join(shown)}{values})" if any(shown) else ""
        return f"{self.start}{self.count:,} {self.noun}: {''.join(self.parts)}{first}"


class Alike:
    """Groups messages such as `a.jsonl row 3: no column 'answer'` by what they say, whatever row and value they name.

    With `tell`, the first `NAMED` messages of a cause are told when they come, after that a line with the count at
    10, 100, 1,000, …, and with `close` the last count. Without, `lines` has all that there is to say.

    Args:
        tell: Called with a line.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._tell = tell
        self._causes: dict[str, _Cause] = {}

    def add(self, message: str, start: str = "") -> None:
        """Take a message. `start` stands before it, and before the line that counts it."""
        found = _PLACE.match(message)
        place, text = (found[1], found[3]) if found else ("", message)
        noun = "steps" if found and found[2] == "step" else "rows"
        parts = _VALUE.split(text[:_LONGEST])
        key = "\0".join([noun, start, *parts[::2]])
        if key not in self._causes and len(self._causes) >= MOST_CAUSES:
            key, parts = _OTHERS, [_OTHERS]
        cause = self._causes.setdefault(key, _Cause(noun, parts, start, [*parts]))
        cause.count += 1
        for index in range(1, len(parts), 2):
            if parts[index] != cause.parts[index]:
                cause.parts[index] = _ANY_TEXT if parts[index][0] in "'\"" else "…"
        if cause.count <= NAMED:
            cause.messages.append(start + message)
            cause.places.append(place)
        if self._tell and cause.count <= NAMED:
            self._tell(start + message)
            cause.told = cause.count
        elif self._tell and _is_round(cause.count):
            self._tell(f"{cause.line()} so far")
            cause.told = cause.count

    def lines(self) -> list[str]:
        """Return the messages of causes that have few of them, and one line for each of the others."""
        return [
            line
            for cause in self._causes.values()
            for line in (cause.messages if cause.count <= NAMED else [cause.line()])
        ]

    def close(self) -> None:
        """Tell the counts that were not told yet."""
        for cause in self._causes.values():
            if self._tell and cause.told < cause.count:
                self._tell(cause.line())
                cause.told = cause.count


def _is_round(count: int) -> bool:
    """Whether `count` is 10, 100, 1,000, …"""
    return re.fullmatch("10+", str(count)) is not None
