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


_MENDED = "mending them: `observe-r1 data check` or `detail` says how"
_KEPT_BY = {
    "broken row": _MENDED,
    "prompt too long": "a higher data.max_prompt_tokens",
    "simple": "a higher screen.threshold, or fewer screen.models",
    "low complexity": "a lower arrange.min_complexity",
    "not drawn for size or shares": "other arrange.size or arrange.shares",
    "answer": "a gold answer that can be verified",
    "duplicate": "nothing: each question is kept once",
    "benchmark": "fewer screen.benchmarks",
    "arrange": "arrange.measured: another measurement",
    "review": "another action in review.yaml",
}
"""By reason, or where a stage has many by stage."""


def kept_by(stage: str, reason: str) -> str:
    """Return in words what would have kept the rows that `stage` dropped for `reason`; empty where that is unknown."""
    return _KEPT_BY.get(reason) or _KEPT_BY.get(stage, "")
