"""The questions that no response solved: pages that show them, and a file in which a person decides about them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from observe_r1.config import QuestionSettings
from observe_r1.data import load_examples
from observe_r1.files import write_atomic
from observe_r1.ladder.review import Decision, read_decisions
from observe_r1.ladder.stage import RESPONSES, REVIEW, UNSOLVED
from observe_r1.records import Example
from observe_r1.report.build_folder import open_build, optional_rows
from observe_r1.report.pages import printable, render_template
from observe_r1.report.question import question_card, shown_text
from observe_r1.rewards.accuracy import read_as
from observe_r1.rewards.judge.answer import final_answer

_HEADER = """\
# Questions that no response of the measuring model solved: they are too hard, or wrong. review.html shows them under
# the same numbers. Choose an action for each:
#
#   undecided  the default: it stays aside, and enters the ladder if a newer measurement solves it
#   keep       the gold answer is right: put the question into the ladder, at the highest difficulty
#   correct    the gold answer is wrong: write the right one under answer, and the question enters the ladder
#   drop       leave it out of the ladder, unless a newer measurement solves it
#
# note is for you. Then run `observe-r1 ladder arrange` on this folder. Writing this file again keeps your decisions.
"""


class _Dumper(yaml.SafeDumper):
    """Escapes what is not printable: PyYAML writes some line breaks in a way that it does not read back."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """Return the node of a string."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def write_decisions(path: Path, decisions: Iterable[Decision], questions: Mapping[str, str]) -> None:
    """Write `review.yaml`, with an explanation at the top and each entry's number and question in a comment above it.

    Args:
        path: The file.
        decisions: In the order of the pages, followed by those about questions that are not there.
        questions: The text of each question on the pages, by id.

    Raises:
        UserError: The file cannot be written.
    """
    entries = [_entry(number, decision, questions) for number, decision in enumerate(decisions, start=1)]
    write_atomic(path, "\n".join([_HEADER, *entries]))


def _entry(number: int, decision: Decision, questions: Mapping[str, str]) -> str:
    question = printable(questions.get(decision.id, "(no longer unsolved)"), 100)
    entry = asdict(decision)
    seen = " ".join(
        " ".join(entry.values()).split()
    ).isprintable()  # else escaped: marks that reverse the direction of writing must be
    text = yaml.dump([entry], Dumper=_Dumper, sort_keys=False, allow_unicode=seen, width=float("inf"))
    return f"# {number}. {question}\n{text}"


PAGE_SIZE = 100
"""Questions per page, which makes some megabytes with their images and responses."""
MAX_RESPONSES = 16
"""Responses shown per question; the final answers of all are counted."""
MAX_ANSWERS = 16
"""Different final answers shown per question, the most frequent ones."""


@dataclass(slots=True)
class _Responses:
    """The responses to one question: their rows in `responses.jsonl`, and their final answers."""

    rows: list[int] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """How often each was given, by what the accuracy reward reads it as."""
    spellings: dict[str, str] = field(default_factory=dict)
    """Each of them as a response wrote it."""

    def add(self, row: int, text: str) -> None:
        """Count the response in this row."""
        self.rows.append(row)
        self.spellings.setdefault(form := read_as(text), final_answer(text))
        self.answers[form] += 1

    def agreement(self) -> float:
        """Return the share of the most frequent answer; 0 without responses."""
        return max(self.answers.values()) / len(self.rows) if self.rows else 0.0


def write_review(folder: Path) -> tuple[Path, Path]:
    """Write `review.html` and `review.yaml` for the unsolved questions of a ladder's folder, and return their paths.

    The questions on which most responses agree come first: their gold answers are likeliest to be wrong. Beyond
    `PAGE_SIZE` questions further pages follow (`review-2.html`, …), each self-contained and linked to the others.
    Decisions in an existing `review.yaml` are kept, also those about questions that are no longer unsolved.

    Raises:
        UserError: A file cannot be read or written. A `review.yaml` that cannot be read stays as it is.
    """
    build = open_build(folder)
    decisions = read_decisions(folder / REVIEW)
    examples = _unsolved(folder / UNSOLVED)
    places = {example.id: place for place, example in enumerate(examples)}
    log = optional_rows(build.measured / RESPONSES)
    responses = _responses(log, places)
    order = sorted(places, key=lambda id: (-responses[id].agreement(), places[id]))
    current = {id: decisions.get(id) or Decision(id, examples[places[id]].answer) for id in order}
    for first, name in zip(range(0, max(len(order), 1), PAGE_SIZE), (names := _names(len(order))), strict=True):
        items = [
            _item(examples[places[id]], responses[id], log, current[id], build.data)
            for id in order[first : first + PAGE_SIZE]
        ]
        values = {"names": names, "current": name, "total": len(order), "first": first + 1, "model": build.model}
        command = f"observe-r1 ladder arrange {quote(str(folder))}"
        content = render_template("review.html.j2", folder=build.name, command=command, items=items, **values)
        write_atomic(folder / name, content)
    for stale in folder.glob("review-*.html"):
        if re.fullmatch(r"review-[1-9][0-9]*\.html", stale.name) and stale.name not in names:
            stale.unlink()
    questions = {id: shown_text(examples[place]) for id, place in places.items()}
    write_decisions(folder / REVIEW, (current | decisions).values(), questions)
    return folder / "review.html", folder / REVIEW


def _names(count: int) -> list[str]:
    """Return the names of the pages for `count` questions."""
    return ["review.html", *(f"review-{number}.html" for number in range(2, -(-count // PAGE_SIZE) + 1))]


def _unsolved(path: Path) -> Sequence[Example]:
    return load_examples(path) if path.exists() and path.stat().st_size else ()


def _responses(log: Sequence[dict[str, Any]], ids: dict[str, int]) -> dict[str, _Responses]:
    """Return the responses to the questions `ids`, in one pass over a file of any length."""
    found = {id: _Responses() for id in ids}
    for place, row in enumerate(log):
        if responses := found.get(row["id"]):
            responses.add(place, row["text"])
    return found


def _item(
    example: Example, responses: _Responses, log: Sequence[dict[str, Any]], decision: Decision, data: QuestionSettings
) -> dict[str, Any]:
    total = len(responses.rows)
    return {
        "card": question_card(example, data),
        "decision": decision,
        "answers": [
            {"text": responses.spellings[form], "read_as": form, "count": count, "share": count / total}
            for form, count in responses.answers.most_common(MAX_ANSWERS)
        ],
        "responses": [log[row] for row in responses.rows[:MAX_RESPONSES]],
        "total": total,
    }
