"""A run's main figures: what they are at its end, and how far that is from its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from observe_r1.report.run_records import RunRecord, when

FIGURES = (
    ("held-out accuracy", "evaluation/accuracy", "share"),
    ("held-out format", "evaluation/format", "share"),
    ("reward", "reward/mean", "number"),
    ("format", "response/well_formed", "share"),
    ("tokens per response", "response/length", "tokens"),
    ("groups used", "rollout/groups_used", "share"),
    ("loss", "sft/loss", "number"),
    ("accuracy while training", "reward/accuracy", "share"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure of one run, in words; empty if the run has none."""

    value: str = ""
    change: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of all runs, in their order."""

    name: str
    cells: tuple[Cell, ...]


def headline(runs: Sequence[RunRecord]) -> list[Row]:
    """Return every figure that one of the runs has."""
    rows = [Row(name, tuple(_cell(run, key, kind) for run in runs)) for name, key, kind in FIGURES]
    rows.append(Row("steps", tuple(_steps(run) for run in runs)))
    return [row for row in rows if any(cell.value for cell in row.cells)]


def first_and_last(run: RunRecord, key: str) -> tuple[float, float] | None:
    """Return where a curve begins and ends, None if the run has none.

    Held-out figures are those of the first and the last evaluation; others, which every step has, are means over the
    first and the last tenth of the steps.
    """
    values = run.curve(key)[1]
    if not values:
        return None
    tenth = 1 if key.startswith("evaluation/") else max(1, len(values) // 10)
    return sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth


def _cell(run: RunRecord, key: str, kind: str) -> Cell:
    found = first_and_last(run, key)
    if found is None:
        return Cell()
    first, last = found
    steps, _ = run.curve(key)
    if len(steps) == 1 and key.startswith("evaluation/"):  # one evaluation cannot tell what was learned
        return Cell(f"{last:.1%}", f"{when(steps[0])}, evaluated once")
    if kind == "share":
        return _share(first, last)
    digits = 1 if kind == "tokens" else 3
    return Cell(f"{last:,.{digits}f}", f"from {first:,.{digits}f} ({last - first:+z,.{digits}f})")


def _share(first: float, last: float) -> Cell:
    return Cell(f"{last:.1%}", f"from {first:.1%} ({100 * (last - first):+z.1f} points)")


def _steps(run: RunRecord) -> Cell:
    return Cell(f"{run.steps:,}", _duration(sum(run.curve("time/step")[1])))


def _duration(seconds: float) -> str:
    if seconds < 1:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"in {hours:,} h {minutes} min" if hours else f"in {minutes} min {rest} s" if minutes else f"in {rest} s"
