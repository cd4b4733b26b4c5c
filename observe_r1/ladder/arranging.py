"""Arranging: measured questions become a ladder. Nothing is asked of a model; the same files give the same bytes."""

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
from observe_r1.evaluation.accuracy import GradedResponse
from observe_r1.files import json_line, write_atomic
from observe_r1.ladder import measuring
from observe_r1.ladder.journal import Journal, is_complete, start_over
from observe_r1.ladder.mix import mix, quotas
from observe_r1.ladder.review import REVIEW, UNDECIDED, Decision, checked_decisions
from observe_r1.ladder.rows import embedded, keep_image, read_questions, read_rows, write_message
from observe_r1.ladder.simple import SCREENED
from observe_r1.ladder.stage import DROPPED, Watch, dropped
from observe_r1.rewards import accuracy_reward
from observe_r1.rewards.accuracy import gold_answer

STAGE = "arrange"
LADDER = "ladder.jsonl"
"""The ladder, easy to hard: message format, with what was measured and the slot."""
UNSOLVED = "unsolved.jsonl"
"""Questions that no response answered, set aside until they are reviewed."""

REVIEWED = "review"
"""The stage that drops by hand."""
LOW_COMPLEXITY = "low complexity"
NOT_DRAWN = "not drawn for size or shares"
MOST_MIN_COMPLEXITY, OF_THE_MEDIAN = 40, 0.2
"""`arrange.min_complexity` where it is not given, in tokens: so much, but no more than this share of the median
question's. In the figure of arXiv 2505.12432, whose mean is 210, responses of 2 and 23 tokens go and 56 stay."""

_FIGURES = ("difficulty", "complexity", "complexity_correct", "well_formed")


@dataclass(frozen=True, slots=True)
class Item:
    """A measured question."""

    row: int
    """In `screened.jsonl`, from 0."""
    figures: dict[str, Any]
    """Its row of `measured.jsonl`."""
    answer: str | None = None
    """The gold answer, where it was corrected."""

    @property
    def level(self) -> int:
        """Wrong responses: 0 is the easiest level."""
        return int(self.figures["tries"] - self.figures["correct"])


def arrange(folder: Path, settings: LadderSettings, watch: Watch) -> None:
    """Write `ladder.jsonl` and `unsolved.jsonl`, and add what falls out to `dropped.jsonl`.

    Review first; then responses too short, unsolved questions, the draw by size and shares, and the mixing.

    Errors: `UserError` where a stage before has not come to its end, for a broken review, and where no question is
    left; then everything stays as it was, and without a ladder `unsolved.jsonl` is written, for the review.
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
    levels, unsolved, out = sort_out(items, decisions, shortest)
    low = sum(reason == LOW_COMPLEXITY for _, _, reason in out)
    drawn, left = _draw(levels, arranging, watch) if any(levels) else (levels, [])
    aside = "".join(json_line(_row(item, questions, folder, settings)) for item in unsolved)
    if not any(drawn):
        if not (folder / LADDER).exists():  # then a review of these is the only way to one
            write_atomic(folder / UNSOLVED, aside)
        raise UserError(
            f"{folder}: no question is left for the ladder ({len(items)} measured, {len(unsolved)} of them unsolved, "
            f"which wait for review, {low} with responses under {shortest:g} tokens): "
            "lower arrange.min_complexity, change arrange.shares, or build from more questions"
        )
    if low:
        how = "" if arranging.min_complexity is not None else ", from the lengths of all"
        watch.note(f"responses of {low} questions are under {shortest:g} tokens (arrange.min_complexity{how}): dropped")
    gone = [(row, STAGE, f"not measured in {arranging.measured}", "") for row in unmeasured]
    gone += [(item.row, stage, reason, _detail(item, reason, shortest)) for item, stage, reason in out]
    gone += [(item.row, STAGE, NOT_DRAWN, "") for item in left]
    slots = mix(drawn, arranging.seed, key=lambda item: item.figures["complexity"])
    numbered = ((slot, item) for slot, mixed in enumerate(slots) for item in mixed)
    ladder = "".join(json_line(_row(item, questions, folder, settings) | {"slot": slot}) for slot, item in numbered)
    start_over(folder, [STAGE])
    with Journal(folder, STAGE, [DROPPED]) as journal:
        rows = ((questions.rows[row], why) for row, *why in gone)
        journal.append(DROPPED, (dropped(row["id"], row["source"], *why) for row, why in rows))
        write_atomic(folder / UNSOLVED, aside)
        write_atomic(folder / LADDER, ladder)
        journal.commit(len(questions), complete=True)


def sort_out(
    items: Sequence[Item], decisions: Mapping[str, Decision], min_complexity: float
) -> tuple[list[list[Item]], list[Item], list[tuple[Item, str, str]]]:
    """Return the levels, easy first, the unsolved questions that stay aside, and the others with stage and reason."""
    tries = items[0].figures["tries"] if items else 0
    levels: list[list[Item]] = [[] for _ in range(tries + 1)]
    unsolved, out = [], []
    for item in items:
        decision = decisions.get(item.figures["id"])
        action = decision.action if decision else UNDECIDED
        wanted = action in ("keep", "correct")
        if item.figures["complexity"] < min_complexity and not wanted:
            out.append((item, STAGE, LOW_COMPLEXITY))
        elif item.figures["correct"] == 0 and not wanted:
            unsolved.append(item)
        elif action == "drop":
            out.append((item, REVIEWED, "dropped by hand"))
        else:
            levels[item.level].append(item)
    return levels, unsolved, out


def min_complexity(items: Sequence[Item], settings: ArrangeSettings) -> float:
    """Return the length of responses, in mean tokens, from which on a question is no longer too short."""
    if settings.min_complexity is not None or not items:
        return settings.min_complexity or 0.0
    return min(MOST_MIN_COMPLEXITY, OF_THE_MEDIAN * median(item.figures["complexity"] for item in items))


def _detail(item: Item, reason: str, shortest: float) -> str:
    return f"{item.figures['complexity']:g} tokens a response, under {shortest:g}" if reason == LOW_COMPLEXITY else ""


def _without_outdated(
    folder: Path, settings: ArrangeSettings, items: Sequence[Item], decisions: dict[str, Decision], watch: Watch
) -> dict[str, Decision]:
    """Return `decisions` without those that drop a question which was unsolved in another measurement, not in this one.

    They were made about a question that no response had solved: now one has.
    """
    solved = {item.figures["id"] for item in items if item.figures["correct"] > 0}
    drops = {row_id for row_id, decision in decisions.items() if decision.action == "drop"} & solved
    places = [folder, *sorted(folder.glob("refreshed-*"))] if drops else []
    outdated: set[str] = set()
    for place in places:
        if is_complete(place, measuring.STAGE):
            rows = read_rows(place / measuring.MEASURED, measuring.FIGURES)
            outdated |= {row["id"] for row in rows if row["id"] in drops and row["correct"] == 0}
    if outdated:
        ids = ", ".join(sorted(outdated)[:3]) + (", …" if len(outdated) > 3 else "")
        which = f"{len(outdated)} questions that {REVIEW} drops were unsolved and are solved in {settings.measured}"
        watch.note(f"{which}: they stand in the ladder ({ids})")
    return {row_id: decision for row_id, decision in decisions.items() if row_id not in outdated}


def _measured(folder: Path, settings: ArrangeSettings, places: Mapping[str, int]) -> list[Item]:
    """Return the measured questions in the order of `screened.jsonl`."""
    place = folder / settings.measured
    if not place.is_dir():
        known = ", ".join([".", *sorted(path.name for path in folder.glob("refreshed-*"))])
        raise UserError(f"arrange.measured = {settings.measured!r}: no such folder in {folder}: known are {known}")
    if not is_complete(place, measuring.STAGE):
        verb = "measure" if settings.measured == "." else "refresh"
        raise UserError(f"{place}: not measured to the end yet: run `observe-r1 ladder {verb} {folder}` first")
    rows = read_rows(place / measuring.MEASURED, measuring.FIGURES)
    items = [Item(places[row["id"]], row) for row in rows if row["id"] in places]
    for item in items:
        if not 0 <= item.figures["correct"] <= item.figures["tries"]:
            count = f"{item.figures['correct']} of {item.figures['tries']} right"
            raise UserError(f"{place / measuring.MEASURED}: {item.figures['id']!r} has {count}: put it back")
    tries = {item.figures["tries"] for item in items}
    if len(tries) > 1:
        raise UserError(
            f"{place / measuring.MEASURED}: {sorted(tries)} responses a question: measure all with the same number"
        )
    return sorted(items, key=lambda item: item.row)


def _corrected(
    folder: Path,
    settings: ArrangeSettings,
    items: Sequence[Item],
    questions: Examples,
    decisions: dict[str, Decision],
) -> list[Item]:
    """Put corrected answers in, and grade the responses that were kept against them."""
    new = {row_id: decision.answer for row_id, decision in decisions.items() if decision.action == "correct"}
    golds = {
        row_id: gold_answer(replace(questions[item.row], answer=new[row_id]))
        for item in items
        if (row_id := item.figures["id"]) in new
    }
    given: dict[str, list[GradedResponse]] = {row_id: [] for row_id in new}
    responses = folder / settings.measured / measuring.RESPONSES
    if new:
        for row in read_rows(responses, measuring.RESPONSE):
            if row["id"] in golds:
                right = accuracy_reward(row["text"], golds[row["id"]]) > 0
                response = GradedResponse(row["text"], right, row["well_formed"], row["tokens"], row["finish"])
                given[row["id"]].append(response)
    for item in items:
        if item.figures["id"] in new and len(given[item.figures["id"]]) != item.figures["tries"]:
            raise UserError(f"{responses}: not all responses to {item.figures['id']!r} are there: put it back")
    return [
        replace(item, figures=measuring.figures(row_id, given[row_id]), answer=new[row_id]) if row_id in new else item
        for item in items
        for row_id in (item.figures["id"],)
    ]


def _draw(
    levels: Sequence[Sequence[Item]], settings: ArrangeSettings, watch: Watch
) -> tuple[list[list[Item]], list[Item]]:
    """Return what the ladder takes of each level, and what it leaves."""
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


def _row(item: Item, questions: Examples, folder: Path, settings: LadderSettings) -> dict[str, Any]:
    row = dict(questions.rows[item.row])
    arranging = settings.arrange
    if arranging.images == "copy" or arranging.format_prompt != "none":
        example = questions[item.row]
        messages = apply_format_prompt(example.messages, arranging.format_prompt, arranging.format_prompt_place)
        images = [_place(source, folder, settings, example.origin) for source in example.images]
        row["message"] = write_message(messages, images)
    if item.answer is not None:
        row["answer"] = item.answer
    return row | {name: item.figures[name] for name in _FIGURES}


def _place(source: Any, folder: Path, settings: LadderSettings, origin: str) -> str:
    """Return where a picture stands: in the folder, by its relative path, or outside."""
    home = folder.absolute()
    if not embedded(source) and Path(source).is_relative_to(home):
        return str(Path(source).relative_to(home))
    if settings.arrange.images == "copy":
        return keep_image(source, folder, origin, settings.data)
    return str(source)
