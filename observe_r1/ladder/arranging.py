"""Arranging: measured questions become a ladder. No model is asked, and the same files give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from observe_r1.config import ArrangeSettings, LadderSettings
from observe_r1.data import apply_format_prompt
from observe_r1.data.examples import Examples
from observe_r1.errors import UserError
from observe_r1.files import json_line, write_atomic
from observe_r1.ladder.difficulty import FIGURE_COLUMNS, RESPONSE_COLUMNS, question_figures
from observe_r1.ladder.journal import Journal, is_complete, start_over
from observe_r1.ladder.mix import mix, quotas
from observe_r1.ladder.questions import is_embedded, read_questions, save_image, stage_rows, write_message
from observe_r1.ladder.review import UNDECIDED, Decision, checked_decisions
from observe_r1.ladder.stage import (
    ARRANGE,
    DROPPED,
    LADDER,
    MEASURE,
    MEASURED,
    RESPONSES,
    REVIEW,
    SCREENED,
    UNSOLVED,
    Watch,
    dropped,
)
from observe_r1.registry import nearest
from observe_r1.rewards import accuracy_reward
from observe_r1.rewards.accuracy import gold_answer

REVIEWED = "review"
"""The stage, in `dropped.jsonl`, of questions that a person drops."""
LOW_COMPLEXITY = "low complexity"
SOLVED = "solved by every response"
NOT_DRAWN = "not drawn for size or shares"
MOST_MIN_COMPLEXITY, OF_THE_MEDIAN = 40, 0.2
"""The default of `arrange.min_complexity`: so many tokens, but at most this share of the median question's complexity.
In the figure of arXiv 2505.12432, whose mean is 210, responses of 2 and 23 tokens are dropped and 56 are kept."""

_LADDER_FIGURES = ("difficulty", "complexity", "complexity_correct", "well_formed")


@dataclass(frozen=True, slots=True)
class MeasuredQuestion:
    """A measured question."""

    row: int
    """Its row in `screened.jsonl`, from 0."""
    figures: dict[str, Any]
    """Its row of `measured.jsonl`."""
    answer: str | None = None
    """The corrected gold answer; None if it was not corrected."""

    @property
    def id(self) -> str:
        """The question's id."""
        return str(self.figures["id"])

    @property
    def level(self) -> int:
        """The number of wrong responses: 0 is the easiest level."""
        return int(self.figures["tries"] - self.figures["correct"])


def arrange(folder: Path, settings: LadderSettings, watch: Watch) -> None:
    """Write `ladder.jsonl` and `unsolved.jsonl`, and add what falls out to `dropped.jsonl`.

    The decisions of the review come first, then responses too short, unsolved questions, those always solved, the draw
    by size and shares, and the mixing.

    Args:
        folder: The ladder's folder.
        settings: Of the ladder.
        watch: Is told what a user should know.

    Raises:
        UserError: An earlier stage is not complete, `review.yaml` is broken, or no question is left. Then everything
            stays as it was, except that a folder without a ladder gets its `unsolved.jsonl`, for the review.
    """
    arranging = settings.arrange
    questions = read_questions(folder / SCREENED)
    places = {row["id"]: place for place, row in enumerate(questions.rows)}
    items = _measured(folder, arranging, places)
    unmeasured = [] if arranging.measured == "." else sorted(set(places.values()) - {item.row for item in items})
    decisions = checked_decisions(folder / REVIEW, questions, places)
    items = _corrected(folder, arranging, items, questions, decisions)
    decisions = _without_outdated(folder, arranging, items, decisions, watch)
    shortest = min_complexity(items, arranging)
    levels, unsolved, out = sort_out(items, decisions, shortest, arranging.drop_solved)
    low, solved = (sum(why == reason for _, _, why in out) for reason in (LOW_COMPLEXITY, SOLVED))
    drawn, left = _draw(levels, arranging, watch) if any(levels) else (levels, [])
    aside = "".join(json_line(_row(item, questions, folder, settings)) for item in unsolved)
    if not any(drawn):
        if not (folder / LADDER).exists():  # then only a review of these leads to one
            write_atomic(folder / UNSOLVED, aside)
        raise UserError(
            f"{folder}: no question is left for the ladder ({len(items)} measured, {len(unsolved)} of them unsolved "
            f"and waiting for review, {solved} dropped as always solved, {low} with responses under {shortest:g} "
            "tokens): lower arrange.min_complexity, change arrange.shares, or build from more questions"
        )
    if low:
        how = "" if arranging.min_complexity is not None else ", by default from the median"
        watch.note(f"{low} questions dropped: responses of under {shortest:g} tokens (arrange.min_complexity{how})")
    gone = [(row, ARRANGE, f"not measured in {arranging.measured}", "") for row in unmeasured]
    gone += [(item.row, stage, reason, _detail(item, reason, shortest)) for item, stage, reason in out]
    gone += [(item.row, ARRANGE, NOT_DRAWN, "") for item in left]
    slots = mix(drawn, arranging.seed, key=lambda item: item.figures["complexity"])
    numbered = ((slot, item) for slot, mixed in enumerate(slots) for item in mixed)
    ladder = "".join(json_line(_row(item, questions, folder, settings) | {"slot": slot}) for slot, item in numbered)
    start_over(folder, [ARRANGE])
    with Journal(folder, ARRANGE, [DROPPED]) as journal:
        rows = ((questions.rows[row], why) for row, *why in gone)
        journal.append(DROPPED, (dropped(row["id"], row["source"], *why) for row, why in rows))
        write_atomic(folder / UNSOLVED, aside)
        write_atomic(folder / LADDER, ladder)
        journal.commit(len(questions), complete=True)


def sort_out(
    items: Sequence[MeasuredQuestion], decisions: Mapping[str, Decision], min_complexity: float, drop_solved: bool
) -> tuple[list[list[MeasuredQuestion]], list[MeasuredQuestion], list[tuple[MeasuredQuestion, str, str]]]:
    """Sort measured questions by level, and out.

    Args:
        items: All with the same number of responses.
        decisions: Of the review, by id.
        min_complexity: In mean tokens; questions below it are dropped unless a decision keeps them.
        drop_solved: Drop those that every response solved, too.

    Returns:
        The levels, easy first; the unsolved questions, which stay aside; the dropped ones with stage and reason.
    """
    tries = items[0].figures["tries"] if items else 0
    levels: list[list[MeasuredQuestion]] = [[] for _ in range(tries + 1)]
    unsolved, out = [], []
    for item in items:
        decision = decisions.get(item.id)
        action = decision.action if decision else UNDECIDED
        wanted = action in ("keep", "correct")
        if item.figures["complexity"] < min_complexity and not wanted:
            out.append((item, ARRANGE, LOW_COMPLEXITY))
        elif item.figures["correct"] == 0 and not wanted:
            unsolved.append(item)
        elif action == "drop":
            out.append((item, REVIEWED, "dropped by hand"))
        elif drop_solved and item.level == 0 and not wanted:
            out.append((item, ARRANGE, SOLVED))
        else:
            levels[item.level].append(item)
    return levels, unsolved, out


def min_complexity(items: Sequence[MeasuredQuestion], settings: ArrangeSettings) -> float:
    """Return the least complexity, in mean tokens, that a question of the ladder needs."""
    if settings.min_complexity is not None or not items:
        return settings.min_complexity or 0.0
    return min(MOST_MIN_COMPLEXITY, OF_THE_MEDIAN * median(item.figures["complexity"] for item in items))


def _detail(item: MeasuredQuestion, reason: str, shortest: float) -> str:
    return f"{item.figures['complexity']:g} tokens per response, under {shortest:g}" if reason == LOW_COMPLEXITY else ""


def _without_outdated(
    folder: Path,
    settings: ArrangeSettings,
    items: Sequence[MeasuredQuestion],
    decisions: dict[str, Decision],
    watch: Watch,
) -> dict[str, Decision]:
    """Return `decisions` without those to drop a question that another measurement left unsolved and this one solves.

    They were made about a question that no response had solved.
    """
    solved = {item.id for item in items if item.figures["correct"] > 0}
    drops = {row_id for row_id, decision in decisions.items() if decision.action == "drop"} & solved
    places = [folder, *sorted(folder.glob("refreshed-*"))] if drops else []
    outdated: set[str] = set()
    for place in places:
        if is_complete(place, MEASURE):
            rows = stage_rows(place / MEASURED, FIGURE_COLUMNS)
            outdated |= {row["id"] for row in rows if row["id"] in drops and row["correct"] == 0}
    if outdated:
        ids = ", ".join(sorted(outdated)[:3]) + (", …" if len(outdated) > 3 else "")
        watch.note(
            f"{len(outdated)} questions that {REVIEW} drops were unsolved and are solved in {settings.measured}: they "
            f"are in the ladder ({ids})"
        )
    return {row_id: decision for row_id, decision in decisions.items() if row_id not in outdated}


def _measured(folder: Path, settings: ArrangeSettings, places: Mapping[str, int]) -> list[MeasuredQuestion]:
    """Return the measured questions in the order of `screened.jsonl`."""
    place = folder / settings.measured
    if not place.is_dir():
        known = [".", *sorted(path.name for path in folder.glob("refreshed-*"))]
        raise UserError(
            f"arrange.measured = {settings.measured!r}: no such folder in {folder}{nearest(settings.measured, known)}: "
            f"there are {', '.join(map(repr, known))}"
        )
    if not is_complete(place, MEASURE):
        verb = "measure" if settings.measured == "." else "refresh"
        raise UserError(f"{place}: the measurement is not complete: run `observe-r1 ladder {verb} {folder}` first")
    rows = stage_rows(place / MEASURED, FIGURE_COLUMNS)
    items = [MeasuredQuestion(places[row["id"]], row) for row in rows if row["id"] in places]
    for item in items:
        if not 0 <= item.figures["correct"] <= item.figures["tries"]:
            count = f"{item.figures['correct']} of {item.figures['tries']} right"
            raise UserError(f"{place / MEASURED}: {item.id!r} has {count}: restore the file")
    tries = {item.figures["tries"] for item in items}
    if len(tries) > 1:
        raise UserError(f"{place / MEASURED}: {sorted(tries)} responses per question: measure all with the same number")
    return sorted(items, key=lambda item: item.row)


def _corrected(
    folder: Path,
    settings: ArrangeSettings,
    items: Sequence[MeasuredQuestion],
    questions: Examples,
    decisions: dict[str, Decision],
) -> list[MeasuredQuestion]:
    """Return `items` with corrected answers, and with the figures of their responses graded against these."""
    new = {row_id: decision.answer for row_id, decision in decisions.items() if decision.action == "correct"}
    corrected = {item.id: item for item in items if item.id in new}
    golds = {
        row_id: gold_answer(replace(questions[item.row], answer=new[row_id])) for row_id, item in corrected.items()
    }
    given: dict[str, list[dict[str, Any]]] = {row_id: [] for row_id in corrected}
    responses = folder / settings.measured / RESPONSES
    for row in stage_rows(responses, RESPONSE_COLUMNS) if corrected else ():
        if row["id"] in corrected:
            right = accuracy_reward(row["text"], golds[row["id"]]) > 0
            given[row["id"]].append(row | {"correct": right})
    for row_id, item in corrected.items():
        if len(given[row_id]) != item.figures["tries"]:
            raise UserError(f"{responses}: not all responses to {row_id!r} are there: restore the file")
    return [
        replace(item, figures=question_figures(item.id, given[item.id]), answer=new[item.id])
        if item.id in corrected
        else item
        for item in items
    ]


def _draw(
    levels: Sequence[Sequence[MeasuredQuestion]], settings: ArrangeSettings, watch: Watch
) -> tuple[list[list[MeasuredQuestion]], list[MeasuredQuestion]]:
    """Return the questions of each level that the ladder takes, and those that it leaves."""
    wanted, shortage = quotas([len(level) for level in levels], settings.size, settings.shares)
    if shortage:
        watch.note(shortage)
    if settings.size is not None and sum(wanted) < settings.size:
        watch.note(f"the ladder has {sum(wanted)} questions: there are no more for arrange.size = {settings.size}")
    drawn, left = [], []
    for number, (level, count) in enumerate(zip(levels, wanted, strict=True)):
        order = np.random.default_rng([settings.seed, number]).permutation(len(level))
        drawn.append([level[index] for index in sorted(order[:count])])
        left += [level[index] for index in sorted(order[count:])]
    return drawn, left


def _row(item: MeasuredQuestion, questions: Examples, folder: Path, settings: LadderSettings) -> dict[str, Any]:
    row = dict(questions.rows[item.row])
    arranging = settings.arrange
    if arranging.images == "copy" or arranging.format_prompt != "none":
        example = questions[item.row]
        messages = apply_format_prompt(example.messages, arranging.format_prompt, arranging.format_prompt_place)
        images = [_image_name(source, folder, settings, example.origin) for source in example.images]
        row["message"] = write_message(messages, images)
    if item.answer is not None:
        row["answer"] = item.answer
    return row | {name: item.figures[name] for name in _LADDER_FIGURES}


def _image_name(source: Any, folder: Path, settings: LadderSettings, origin: str) -> str:
    """Return the name of an image: its relative path in the folder, or its place outside."""
    home = folder.absolute()
    if not is_embedded(source) and Path(source).is_relative_to(home):
        return str(Path(source).relative_to(home))
    if settings.arrange.images == "copy":
        return save_image(source, folder, origin, settings.data)
    return str(source)
