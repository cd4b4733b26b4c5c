"""What the stages of a build share: what they say while they work, and the rows that they drop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DROPPED = "dropped.jsonl"
"""Every row that did not come through: `id`, `source`, `stage`, `reason`, and `detail` where there is more to say."""


def _nothing(*_: object) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Whoever waits for a build."""

    progress: Callable[[str, int, int | None], None] = _nothing
    """Called with the stage, rows worked through, and rows in all where they are known."""
    note: Callable[[str], None] = _nothing
    """Called with a line worth reading."""
    now: Callable[..., None] = _nothing
    """Called with what is being done within a stage and, where that is counted, how much of it there is, and a function
    that returns how much is done."""
    stopped: Callable[[], bool] = lambda: False
    """Asked after every batch; where it says yes the stage ends early, and goes on when it is called again."""


def dropped(row_id: str, source: str, stage: str, reason: str, detail: str = "") -> dict[str, Any]:
    """Return a row of `dropped.jsonl`."""
    row = {"id": row_id, "source": source, "stage": stage, "reason": reason}
    return row | {"detail": detail} if detail else row
