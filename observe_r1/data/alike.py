"""Many messages of one cause reported as one line with a count, in little memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

NAMED = 3
"""Messages of a cause that are reported, or named by their places, one by one."""
MOST_CAUSES = 50
"""Further causes are counted together."""

_PLACE = re.compile(r"((?:.*? )?(row|step) [\d,]+|.*?: line \d+)(?:, column \d+)?[:,] (.*)", re.DOTALL)
"""A message that begins with the row, step or line it is about."""
_VALUE = re.compile(
    r"""((?<=got )[^:;]+|(?!^)(?<!column )(?<!\w)'(?:[^'\\]|\\.)*(?:'|$)|"(?:[^"\\]|\\.)*(?:"|$)|\d[\d.,]*\d|\d)""",
    re.DOTALL,
)
"""What differs between messages of one cause: quoted values and numbers, except the name of a column."""
_LONGEST = 1_000
"""Characters of a message by which its cause is recognized."""
_OTHERS = "other causes"
_ANY_TEXT = "'…'"
"""Replaces quoted values that differ."""


@dataclass(slots=True)
class _Cause:
    """What is kept of the messages of one cause."""

    noun: str
    """What the messages are about: `rows` or `steps`."""
    parts: list[str]
    """The text, split: at odd places a value, or dots if it differs between messages."""
    start: str
    first: list[str]
    """The parts of the first message."""
    count: int = 0
    told: int = 0
    """The count when it was last reported."""
    messages: list[str] = field(default_factory=list)
    """The first `NAMED` messages."""
    places: list[str] = field(default_factory=list)
    """Their places."""

    def line(self) -> str:
        """Return the count, the text, the first places, and the first values that dots in quotes replace."""
        shown: list[str] = []
        for place, before in zip(self.places, ["", *self.places], strict=False):
            head, _, number = place.rpartition(" ")
            shown.append(number if head and head == before.rpartition(" ")[0] else place)
        hidden = [text for text, part in zip(self.first, self.parts, strict=True) if part == _ANY_TEXT != text]
        values = f"; the first has {' and '.join(hidden)}" if hidden else ""
        first = f" (first: {', '.join(shown)}{values})" if any(shown) else ""
        return f"{self.start}{self.count:,} {self.noun}: {''.join(self.parts)}{first}"


class Alike:
    """Groups messages such as `a.jsonl row 3: no column 'answer'` by their cause, whatever row and value they name.

    With `tell`, the first `NAMED` messages of a cause are reported as they come, after that a line with the count at
    10, 100, 1,000, …, and by `close` the final count. Without it, `lines` returns the whole report.

    Args:
        tell: Called with each line to report.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._tell = tell
        self._causes: dict[str, _Cause] = {}

    def add(self, message: str, start: str = "") -> None:
        """Add a message. `start` is put before it, and before the line that counts it."""
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
        """Return the messages of causes with few of them, and one line for each other cause."""
        return [
            line
            for cause in self._causes.values()
            for line in (cause.messages if cause.count <= NAMED else [cause.line()])
        ]

    def close(self) -> None:
        """Report the counts that were not reported yet."""
        for cause in self._causes.values():
            if self._tell and cause.told < cause.count:
                self._tell(cause.line())
                cause.told = cause.count


def _is_round(count: int) -> bool:
    """Return whether `count` is 10, 100, 1,000, …"""
    return re.fullmatch("10+", str(count)) is not None
