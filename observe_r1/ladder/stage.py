"""What the stages of a build share: their names, the files of a ladder's folder, whom they report to, dropped rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from observe_r1.data.places import LADDER as LADDER  # the ladder itself, which data.path finds by this name

READ, SCREEN, MEASURE, ARRANGE = "read", "screen", "measure", "arrange"
"""The stages, as `progress.json` and `dropped.jsonl` name them."""

QUESTIONS = "questions.jsonl"
"""Questions that pass every filter that needs no model."""
SCREENING = "screening.jsonl"
"""One row per question and screening model: `id`, `model`, `tries`, `correct`, `answers`."""
SCREENED = "screened.jsonl"
"""Questions that pass the whole screen."""
MEASURED = "measured.jsonl"
"""One row a question: its figures, see `difficulty.question_figures`."""
RESPONSES = "responses.jsonl"
"""One row a response: `id` and `difficulty.RESPONSE_COLUMNS`."""
ASKED = "asked.yaml"
"""How the model was asked, see `difficulty.Asked`."""
UNSOLVED = "unsolved.jsonl"
"""Questions that no response solved, set aside until they are reviewed."""
REVIEW = "review.yaml"
"""What a person decides about those."""
DROPPED = "dropped.jsonl"
"""Every row that was left out: `id`, `source`, `stage`, `reason`, and `detail` if there is more to say."""
RECORDED = "ladder.yaml"
"""Every setting, enough to build the ladder again."""
BEGUN = "begun.json"
"""Digests of the models and files that each stage reads, which must not change."""
IMAGES = "images"
"""Folder of the images that rows name by relative paths."""


def round_name(number: int) -> str:
    """Return the name in `progress.json` of the round with screening model `number`, from 1."""
    return f"{SCREEN} {number}"


def _nothing(*_: object) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Callbacks by which a build reports what it does, and is told to stop."""

    progress: Callable[[str, int, int | None], None] = _nothing
    """Called with the stage, the rows done, and the rows in all (None if unknown)."""
    note: Callable[[str], None] = _nothing
    """Called with a line for the user."""
    now: Callable[..., None] = _nothing
    """Called with what is being done within a stage and, if that is counted, how much of it there is and a function
    that returns how much is done."""
    stopped: Callable[[], bool] = lambda: False
    """Asked after every batch. If it returns True the stage ends early; called again, it resumes."""


def dropped(row_id: str, source: str, stage: str, reason: str, detail: str = "") -> dict[str, Any]:
    """Return a row of `dropped.jsonl`."""
    row = {"id": row_id, "source": source, "stage": stage, "reason": reason}
    return row | {"detail": detail} if detail else row


_KEPT_BY = {
    "broken row": "a corrected row: `detail` and `observe-r1 data check` say what is wrong",
    "prompt too long": "a higher data.max_prompt_tokens",
    "simple": "a higher screen.threshold, or fewer screen.models",
    "low complexity": "a lower arrange.min_complexity",
    "solved by every response": "arrange.drop_solved: false",
    "not drawn for size or shares": "other arrange.size or arrange.shares",
    "answer": "one gold answer that can be verified",
    "duplicate": "nothing: each question is kept once",
    "benchmark": "fewer screen.benchmarks",
    "arrange": "arrange.measured: another measurement",
    "review": "another action in review.yaml",
}
"""By reason or, for stages with many reasons, by stage."""


def kept_by(stage: str, reason: str) -> str:
    """Return in words what would have kept the rows that `stage` dropped for `reason`; empty if that is unknown."""
    return _KEPT_BY.get(reason) or _KEPT_BY.get(stage, "")
