"""What a page shows of its runs and evaluations beside their curves: maps, shares by level, cards for the gallery."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from observe_r1.report.charts import Chart, Compared
from observe_r1.report.climb import climb_chart, climb_of
from observe_r1.report.evaluation_records import EvaluationRecord, accuracy_by_part, evaluation_cards
from observe_r1.report.gallery import Gallery, answers_card, choose, spread, steps_shown, training_card
from observe_r1.report.pages import printable
from observe_r1.report.run_questions import Questions, held_out_questions, training_questions
from observe_r1.report.run_records import (
    RunRecord,
    SampledGroup,
    evaluated_steps,
    held_out_groups,
    rollout_steps,
    rollouts_file,
    sampled_groups,
    when,
)

_MOST_LEVELS = 16
_PARTS = ("evaluation", "held-out", "training")
"""Of the gallery, in their order."""


@dataclass(slots=True)
class Contents:
    """Filled run by run and evaluation by evaluation, which have numbers: first all runs, then all evaluations."""

    several: bool
    """Whether there are several runs, which their titles then name."""
    climbs: list[Chart] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is missing, and why."""
    groups: int = 0
    """Groups that could be in the gallery."""
    _cards: list[tuple[dict[str, Any], int, str, Questions]] = field(default_factory=list)
    """What `Gallery.add` takes."""
    _held_out: list[tuple[str, dict[str, list[bool]], int]] = field(default_factory=list)
    """What the held-out answers are of, whether they are right, by level, and the run's number."""
    _levels: str = ""
    """What the levels of the held-out questions are."""

    def add_rollouts(self, run: RunRecord, number: int, most: int) -> None:
        """Add the map of what a run has sampled, and at most `most` cards, spread over its steps."""
        steps = rollout_steps(run)
        if not steps:
            return
        questions = training_questions(run)
        self._note(run.name, questions)
        shown = dict(steps_shown(steps, most))
        found = []
        for step in steps:
            count = shown.get(step, 0)
            sampled = _sampled(run, step, count)
            self.groups += len(sampled.marks)
            self._cards += [(card, number, row_id, questions) for row_id, card in sampled.cards[:count]]
            found += [(step, *mark) for mark in sampled.marks]
        climb = climb_of(found, questions)
        if climb:
            self.climbs.append(climb_chart(climb, number, run.name if self.several else ""))

    def add_held_out(self, run: RunRecord, number: int, most: int) -> None:
        """Add a run's first and last answers to the held-out questions: right by level, and at most `most` cards."""
        steps = evaluated_steps(run)
        if not steps:
            return
        questions = held_out_questions(run)
        first, last = ({group.id: group for group in held_out_groups(run, step)} for step in (steps[0], steps[-1]))
        self._levels, levels = _levels(questions)
        if steps[0] != steps[-1] and not self._held_out:  # the first run's beginning stands for that of all
            self._held_out.append((when(steps[0]), _right(first, levels), number))
        whose = f"{run.name}, " if self.several else ""
        self._held_out.append((f"{whose}{when(steps[-1])}", _right(last, levels), number))
        self.groups += len(last)
        for row_id in spread([row_id for row_id in first if row_id in last], most):
            pair = {group.step: group for group in (first[row_id], last[row_id])}  # one, if there is one evaluation
            rows = [(when(step), group.rows[0]) for step, group in pair.items()]
            card = answers_card("held-out", steps[-1], str(rows[0][1]["answer"]), rows)
            self._cards.append((card, number, row_id, questions))

    def compare_held_out(self) -> None:
        """Compare the held-out answers of all runs by level, if there are several levels."""
        names = sorted({name for _, right, _ in self._held_out for name in right})
        if len(self._held_out) < 2 or not 1 < len(names) <= _MOST_LEVELS:
            return
        counts = [max(len(right.get(name, ())) for _, right, _ in self._held_out) for name in names]
        series = [
            (printable(label, 40), tuple(_mean(right.get(name, [])) for name in names))
            for label, right, _ in self._held_out
        ]
        about = "Greedy answers to the held-out questions, percent right."
        levels = tuple(zip(names, counts, strict=True))
        runs = tuple(number for _, _, number in self._held_out[1:])
        title = f"Held-out accuracy by {self._levels}"
        self.compared.append(Compared(title, about, self._levels, levels, tuple(series), runs))

    def add_evaluation(self, record: EvaluationRecord, number: int, most: int) -> None:
        """Add accuracy by part of an evaluation, and at most `most` cards."""
        self._note(record.name, record.questions)
        self.compared += accuracy_by_part(record)
        cards = list(evaluation_cards(record))
        self.groups += len(cards)
        self._cards += [(card, number, row_id, record.questions) for row_id, card in spread(cards, most)]

    def gallery(self) -> Gallery:
        """Return the gallery; what it has no room for is left out at random places, not at the end."""
        gallery = Gallery(groups=self.groups)
        places = range(len(self._cards))
        filled = {place: gallery.add(*self._cards[place]) for place in random.Random(0).sample(places, len(places))}
        gallery.cards += sorted((card for place in places if (card := filled[place])), key=_place)
        return gallery

    def _note(self, name: str, questions: Questions) -> None:
        if questions.missing:
            self.notes.append(f"{name}: its questions and images cannot be shown: {questions.missing}")


@dataclass(frozen=True, slots=True)
class _Sampled:
    """What a page needs of a step's responses, and remembers."""

    marks: list[tuple[str, float]]
    """Of every group, the id of its question and the share of its responses that are right."""
    cards: list[tuple[str, dict[str, Any]]]
    """Of the groups chosen for the gallery, the id and the card; fewer are the first of these."""


def _sampled(run: RunRecord, step: int, most: int) -> _Sampled:
    """Return a step's groups with `most` cards or more, as far as there are so many groups.

    With every new step, a run has fewer cards of each of its steps, or of other steps one card: one of each is kept.
    """

    def read() -> _Sampled:
        groups = sampled_groups(run, step)
        cards = [(group.id, training_card(group)) for group in choose(groups, max(1, most))]
        return _Sampled([(group.id, group.share_right) for group in groups], cards)

    def is_enough(known: _Sampled) -> bool:
        return len(known.cards) >= min(most, len(known.marks))

    return run.memory.of_file(rollouts_file(run, step), "sampled", read, is_enough)


def _place(card: dict[str, Any]) -> tuple[Any, ...]:
    """Return what cards are sorted by; compared answers that were wrong at first and are right at last come first."""
    compared = card["part"] != "training"
    mended = compared and card["responses"][-1]["correct"] and not card["responses"][0]["correct"]
    return _PARTS.index(card["part"]), card["run"], card["step"] or 0, not mended


def _levels(questions: Questions) -> tuple[str, dict[str, str]]:
    """Return what tells the questions apart, and the level of each: difficulty, or source if none is known."""
    if questions.difficulty:
        return "difficulty", {row_id: f"{value:.3g}" for row_id, value in questions.difficulty.items()}
    return "source", {row_id: printable(source or "none", 18) for row_id, source in questions.source.items()}


def _right(groups: dict[str, SampledGroup], levels: dict[str, str]) -> dict[str, list[bool]]:
    """Return whether each greedy answer is right, by level."""
    right: dict[str, list[bool]] = {}
    for row_id, group in groups.items():
        if row_id in levels:
            right.setdefault(levels[row_id], []).append(bool(group.rows[0]["correct"]))
    return right


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")
