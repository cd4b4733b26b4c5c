"""Reading `review.yaml`, in which a person decides about each question that no response solved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from observe_r1.errors import UserError, explain_yaml
from observe_r1.ladder.answers import checked_answer
from observe_r1.records import Example
from observe_r1.registry import nearest

UNDECIDED = "undecided"
ACTIONS = (UNDECIDED, "keep", "drop", "correct")
"""`undecided`: it stays aside until a measurement solves it; `keep`: the gold answer is right; `drop`: leave the
question out unless a newer measurement solves it; `correct`: `answer` is the right one."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One entry of the file."""

    id: str
    answer: str
    """The gold answer; with the action `correct`, the new one."""
    action: str = UNDECIDED
    """One of `ACTIONS`."""
    note: str = ""


_KEYS = [field.name for field in fields(Decision)]


def read_decisions(path: Path) -> dict[str, Decision]:
    """Return the decisions in `path` by id, in their order; none if there is no such file.

    Every value is read as text: `answer: 3` and `answer: yes` need no quotes.

    Raises:
        UserError: The file is no such list, or an id is in it twice; names the line or entry, and what is allowed.
    """
    if not path.exists():
        return {}
    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506 - makes text only
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {explain_yaml(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error
    if not entries:
        return {}
    if not isinstance(entries, list):
        raise UserError(f"{path}: needs a list of entries that start with '- id:'")
    decisions = [_decision(entry, f"{path} entry {number}") for number, entry in enumerate(entries, start=1)]
    duplicates = [id for id, count in Counter(decision.id for decision in decisions).items() if count > 1]
    if duplicates:
        raise UserError(f"{path}: duplicate id {duplicates[0]!r:.80}: remove one of the entries")
    return {decision.id: decision for decision in decisions}


def checked_decisions(path: Path, questions: Sequence[Example], places: Mapping[str, int]) -> dict[str, Decision]:
    """Return the decisions in `path` by id, none if there is no such file; corrections are read as gold answers are.

    Args:
        path: The file.
        questions: Those that may be decided about.
        places: The index of each id in them.

    Raises:
        UserError: As `read_decisions`; or an id is unknown, an answer differs from the gold answer although the action
            is not `correct`, or a correction is the gold answer or cannot be verified.
    """
    decisions = read_decisions(path)
    for decision in decisions.values():
        if decision.id not in places:
            raise UserError(f"{path}: unknown id {decision.id!r:.80}{nearest(decision.id, list(places))}: remove it")
        gold = questions[places[decision.id]].answer
        if decision.action != "correct" and decision.answer.split() != gold.split():
            raise UserError(
                f"{path}, {decision.id!r:.80}: action {decision.action} with answer {decision.answer!r:.80}, which "
                f"is not the gold answer {gold!r:.80}: use action correct, or restore the gold answer"
            )
        if decision.action == "correct":
            answer, unverifiable = checked_answer(replace(questions[places[decision.id]], answer=decision.answer))
            if unverifiable:
                raise UserError(
                    f"{path}, {decision.id!r:.80}: answer {decision.answer!r:.80} cannot be verified ({unverifiable}): "
                    "give an option's letter, a number, a formula or a short phrase"
                )
            if answer == gold:
                raise UserError(
                    f"{path}, {decision.id!r:.80}: action correct with {decision.answer!r:.80}, which is the gold "
                    "answer already: give the right one, or use action keep"
                )
            decisions[decision.id] = replace(decision, answer=answer)
    return decisions


def _decision(entry: Any, place: str) -> Decision:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise UserError(f"{place}: needs text under each of {', '.join(_KEYS)}, got {entry!r:.80}")
    if unknown := sorted(set(entry) - set(_KEYS)):
        raise UserError(f"{place}: unknown key {unknown[0]!r:.80}: known are {', '.join(_KEYS)}")
    if missing := [key for key in ("id", "answer", "action") if key not in entry]:
        raise UserError(f"{place}: no {missing[0]!r}: every entry needs id, answer and action")
    decision = Decision(**entry)
    if decision.action not in ACTIONS:
        raise UserError(f"{place}, 'action': {decision.action!r:.80}: needs one of {', '.join(ACTIONS)}")
    if decision.action == "correct" and (answer := decision.answer.strip()).casefold() in ("", "null", "~"):
        raise UserError(f"{place}, 'answer': {answer or 'empty'}: action correct needs the right answer")
    return decision
