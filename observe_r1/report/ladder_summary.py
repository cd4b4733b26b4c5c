"""The content of a ladder, counted by difficulty level, slot and source."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from observe_r1.data.json_rows import JsonRows
from observe_r1.errors import UserError
from observe_r1.ladder.difficulty import FIGURE_COLUMNS
from observe_r1.ladder.stage import DROPPED, LADDER, MEASURED, UNSOLVED
from observe_r1.report.build_folder import BuildFolder, optional_rows

_COLUMNS = {
    "difficulty": (True, 1),
    "complexity": (True, math.inf),
    "complexity_correct": (False, math.inf),
    "well_formed": (False, 1),
    "slot": (True, 9_999),
}
"""Columns of numbers ≥ 0: whether every row must have one, and the largest allowed."""

_ABSOLUTE_IMAGE = re.compile(r'"image"\s*:\s*"(?:/|file:)')


@dataclass(frozen=True, slots=True)
class Level:
    """The questions of one difficulty."""

    difficulty: float
    """Share of wrong responses, in [0, 1]."""
    measured: int
    """Questions measured at this level, also those left out of the ladder; corrected ones as graded again."""
    rows: tuple[int, ...]
    """The rows of `ladder.jsonl` at this level, from 0."""
    complexity: float | None
    """Mean length of the responses in tokens; None without rows."""
    complexity_correct: float | None
    """The same of correct responses; None if no response is correct."""
    well_formed: float | None
    """Share of responses that keep the format."""

    @property
    def count(self) -> int:
        """Questions in the ladder."""
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class LadderSummary:
    """What the report shows of a ladder's folder."""

    name: str
    levels: tuple[Level, ...]
    """Easy first, empty ones included."""
    slots: tuple[tuple[int, ...], ...]
    """(slots, levels): questions of each level in each slot."""
    sources: dict[str, tuple[int, ...]]
    """(levels,) questions by source, the largest source first."""
    complexity: float
    """Mean over all questions of the ladder, in tokens."""
    dropped: tuple[tuple[str, str, int], ...]
    """As `count_dropped`."""
    unsolved: int
    """Questions set aside for review because no response was correct."""
    absolute_images: bool
    """Whether rows name images by paths that are valid on this machine only."""
    model: str
    """The model that measured; empty if the folder does not say."""
    asked: str
    """What it was asked for, in words; empty if the folder does not say."""
    tries: int | None
    """Responses per question; None if the folder does not say, or if it differs."""
    format_prompt: str
    """The prompt that every question already contains, or `none`."""
    settings: str
    """See `BuildFolder.settings`."""

    @property
    def count(self) -> int:
        """Questions in the ladder."""
        return sum(level.count for level in self.levels)

    @property
    def measured(self) -> int:
        """Questions measured; 0 if the folder does not say."""
        return sum(level.measured for level in self.levels)


def summarize_ladder(build: BuildFolder) -> LadderSummary:
    """Count what a ladder's folder holds; it only needs a `ladder.jsonl`.

    Only the numbers, the source and the id of each row are kept in memory.

    Raises:
        UserError: The ladder is missing, empty or lacks a column.
    """
    path = build.path / LADDER
    table = [_numbers(row, f"{path} row {i}") for i, row in enumerate(JsonRows(path), start=1)]
    if not table:
        raise UserError(f"{path}: the ladder is empty")
    numbers = np.array([row[:5] for row in table])
    difficulty, complexity, slot = numbers[:, 0], numbers[:, 1], numbers[:, 4].astype(int)
    own = {row[7]: row[0] for row in table}
    rows = optional_rows(build.measured / MEASURED, FIGURE_COLUMNS)
    measured = [(own.get(row["id"], row["difficulty"]), row["tries"]) for row in rows]
    tries = {number for _, number in measured}
    difficulties = _difficulties(difficulty, measured, tries)
    level = _nearest(difficulty, difficulties)
    measured_level = _nearest(np.array([value for value, _ in measured]), difficulties)
    mix = np.zeros((slot.max() + 1, len(difficulties)), int)
    np.add.at(mix, (slot, level), 1)
    return LadderSummary(
        name=build.name,
        levels=tuple(
            Level(
                value,
                int((measured_level == i).sum()),
                tuple(np.flatnonzero(level == i).tolist()),
                *(_mean(column[level == i]) for column in numbers.T[1:4]),
            )
            for i, value in enumerate(difficulties)
        ),
        slots=tuple(tuple(row) for row in mix.tolist()),
        sources=_by_source([row[5] for row in table], level, len(difficulties)),
        complexity=float(complexity.mean()),
        dropped=count_dropped(build.path),
        unsolved=len(optional_rows(build.path / UNSOLVED)),
        absolute_images=any(row[6] for row in table),
        model=build.model,
        asked=build.asked,
        tries=tries.pop() if len(tries) == 1 else None,
        format_prompt=build.format_prompt,
        settings=build.settings,
    )


def _numbers(row: Any, place: str) -> tuple[float, float, float, float, int, str, bool, str]:
    """Return difficulty, complexity, that of correct responses, share well-formed, slot, source, absolute image, id."""
    values: list[float] = []
    for key, (required, highest) in _COLUMNS.items():
        value = row.get(key)
        if value is None and not required:
            value = math.nan
        elif not isinstance(value, int | float) or not 0 <= value <= highest or value == math.inf:
            need = (
                f"needs a number from 0 to {highest:,}" if highest < math.inf else "needs a finite number of at least 0"
            )
            raise UserError(f"{place}, {key!r}: {need}, got {value!r:.80}: build the ladder again")
        values.append(value)
    absolute = bool(_ABSOLUTE_IMAGE.search(str(row.get("message"))))
    difficulty, complexity, correct, well_formed, slot = values
    source = str(row.get("source") or "")
    return difficulty, complexity, correct, well_formed, int(slot), source, absolute, str(row.get("id"))


def _difficulties(found: np.ndarray, measured: Sequence[tuple[float, int]], tries: set[int]) -> list[float]:
    """Return every level that the number of tries allows or, if that is not the same for all, those that occur."""
    if len(tries) == 1:
        (number,) = tries
        return [level / number for level in range(number + 1)]
    return sorted({round(float(value), 6) for value in (*found, *(value for value, _ in measured))})


def _nearest(values: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    return np.abs(values.reshape(-1, 1) - np.array(levels)).argmin(axis=1)


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _by_source(sources: Sequence[str], level: np.ndarray, levels: int) -> dict[str, tuple[int, ...]]:
    pairs = Counter(zip(sources, level.tolist(), strict=True))
    totals = Counter(sources)
    ranked = sorted(totals, key=lambda source: (-totals[source], source))
    return {source: tuple(pairs[source, i] for i in range(levels)) for source in ranked}


def count_dropped(folder: Path) -> tuple[tuple[str, str, int], ...]:
    """Return each stage and reason with the number of rows dropped; stages in their order, frequent reasons first."""
    counts = Counter(
        (str(row["stage"]), str(row["reason"]))
        for row in optional_rows(folder / DROPPED, {"stage": str, "reason": str})
    )
    stages = list(dict.fromkeys(stage for stage, _ in counts))
    ranked = sorted(counts.items(), key=lambda item: (stages.index(item[0][0]), -item[1]))
    return tuple((stage, reason, count) for (stage, reason), count in ranked)
