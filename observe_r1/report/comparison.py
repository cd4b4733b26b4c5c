"""Runs beside each other: the settings that differ, and their last answers to the same held-out questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from observe_r1.errors import UserError
from observe_r1.evaluation.figures import Answered, Figure, GradedResponse, differences, figure_row, figures, plain
from observe_r1.report.pages import printable
from observe_r1.report.run_records import (
    RunRecord,
    SampledGroup,
    evaluated_steps,
    evaluation_file,
    held_out_groups,
    when,
)

NOT_COMPARED = ("run.output", "run.resume")
"""Settings that say where a run is, not what it does."""
NO_SETTING = "–"
"""Stands for a setting that a run does not have: another command or another version wrote it."""
_LONGEST = 80


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The last evaluations of the runs that have some, over the questions that all of these have answered."""

    runs: tuple[int, ...]
    """The numbers of these runs, from 0."""
    steps: tuple[int, ...]
    """After which each of them was evaluated last."""
    questions: int
    asked: tuple[int, ...]
    """How many questions each was asked; those that the others were not are left out."""
    figures: tuple[dict[str, Figure], ...]
    """Of each run; see `evaluation.figures.figures`."""
    leads: tuple[dict[str, Figure], ...]
    """By how much the first run is above each of the others, question by question."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What tells runs apart."""

    settings: dict[str, tuple[Any, ...]]
    """Each setting that differs, by dotted name, with its value in each run; `NO_SETTING` if it has none."""
    held_out: HeldOut | None
    """None if fewer than two runs have evaluations of a question in common."""


def compare_runs(runs: Sequence[RunRecord]) -> Comparison:
    """Compare runs.

    Raises:
        UserError: A file of an evaluation is not as the run wrote it.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings if name not in NOT_COMPARED)
    values = {name: tuple(run.settings.get(name, NO_SETTING) for run in runs) for name in names}
    differing = {name: each for name, each in values.items() if any(value != each[0] for value in each)}
    return Comparison(differing, _held_out(runs))


def _held_out(runs: Sequence[RunRecord]) -> HeldOut | None:
    numbers = [number for number, run in enumerate(runs) if evaluated_steps(run)]
    steps = [evaluated_steps(runs[number])[-1] for number in numbers]
    answered = [_answered(runs[number], step) for number, step in zip(numbers, steps, strict=True)]
    # The same question, if it has the same id and the same gold answer.
    common = set.intersection(*(set(each) for each in answered)) if len(answered) > 1 else set()
    if not common:
        return None
    shared = [[answers[key] for key in answered[0] if key in common] for answers in answered]
    return HeldOut(
        runs=tuple(numbers),
        steps=tuple(steps),
        questions=len(common),
        asked=tuple(len(each) for each in answered),
        figures=tuple(figures(each) for each in shared),
        leads=tuple(differences(shared[0], each) for each in shared[1:]),
    )


def _answered(run: RunRecord, step: int) -> dict[tuple[str, str], Answered]:
    """Return the questions of an evaluation, by id and gold answer."""
    try:
        return {(group.id, str(group.rows[0]["answer"])): _question(group) for group in held_out_groups(run, step)}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{evaluation_file(run, step)}: not as a run wrote it ({error}): put the file back") from error


def _question(group: SampledGroup) -> Answered:
    greedy, *samples = (
        GradedResponse(row["text"], bool(row["correct"]), bool(row["well_formed"]), int(row["tokens"]), row["finish"])
        for row in group.rows
    )
    return Answered(group.id, "", "", "", greedy, tuple(samples))


def settings_table(comparison: Comparison) -> list[list[str]]:
    """Return a row per setting that differs: its name, and its value in each run as the recipe has it."""
    return [
        [name, *(value if value is NO_SETTING else printable(json.dumps(value), _LONGEST) for value in values)]
        for name, values in comparison.settings.items()
    ]


def held_out_table(held_out: HeldOut, names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows: each figure of each run with its interval, and by how much the first run leads."""
    shown = [names[number] for number in held_out.runs]
    heads = [*shown, *(f"{shown[0]} minus {name}" for name in shown[1:])]
    kinds = [name for name in held_out.figures[0] if all(name in each for each in held_out.figures)]
    models, leads = ([plain(each) for each in group] for group in (held_out.figures, held_out.leads))
    return heads, [figure_row(kind, models, leads) for kind in kinds]


def held_out_columns(held_out: HeldOut) -> list[tuple[int, ...]]:
    """Return the numbers of the runs that each column of `held_out_table` is about, the first column left out."""
    first, *others = held_out.runs
    return [(run,) for run in held_out.runs] + [(first, run) for run in others]


def held_out_line(held_out: HeldOut, names: Sequence[str]) -> str:
    """Say over which questions and after which steps the figures of `held_out_table` are."""
    evaluated = ", ".join(
        f"{names[number]} {when(step)}" for number, step in zip(held_out.runs, held_out.steps, strict=True)
    )
    line = f"Last evaluations ({evaluated}) over the {held_out.questions:,} questions that all of them have"
    if any(asked != held_out.questions for asked in held_out.asked):
        line += f", of {', '.join(f'{asked:,}' for asked in held_out.asked)}"
    return f"{line}; 95 % intervals by bootstrap over the questions, differences question by question."


def as_json(comparison: Comparison, runs: Sequence[RunRecord], curves: Sequence[str]) -> dict[str, Any]:
    """Return the comparison as JSON values, with the curves of these metrics.

    Args:
        comparison: Of `runs`.
        runs: In their order.
        curves: Names of metrics.
    """
    held_out = comparison.held_out
    missing = {name: [None if v is NO_SETTING else v for v in values] for name, values in comparison.settings.items()}
    return {
        "runs": [{"name": run.name, "path": str(run.path), "steps": run.steps} for run in runs],
        "settings": missing,
        "curves": {
            key: [dict(zip(("steps", "values"), run.curve(key), strict=True)) for run in runs] for key in curves
        },
        "held_out": held_out
        and {
            "questions": held_out.questions,
            "runs": [
                {"run": number, "step": step, "asked": asked, "figures": plain(found)}
                for number, step, asked, found in zip(
                    held_out.runs, held_out.steps, held_out.asked, held_out.figures, strict=True
                )
            ],
            "differences": [
                {"run": held_out.runs[0], "minus": number, "figures": plain(lead)}
                for number, lead in zip(held_out.runs[1:], held_out.leads, strict=True)
            ],
        },
    }
