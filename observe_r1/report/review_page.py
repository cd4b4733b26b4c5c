"""The questions that no response solved, on pages to look at and in a file to edit."""

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
from observe_r1.ladder.review import REVIEW, Decision, read_decisions
from observe_r1.records import Example
from observe_r1.report.build_folder import open_build, read_rows
from observe_r1.report.pages import printable, render
from observe_r1.report.question import question, question_text
from observe_r1.rewards.accuracy import read_as
from observe_r1.rewards.judge.answer import final_answer

_HEADER = """\
# Questions that no response of the measuring model solved: too hard, or wrong. review.html shows them under the same
# numbers. Decide about each by its action:
#
#   undecided  as long as you say nothing: it stays aside, and comes into the ladder when a newer measurement solves it
#   keep       the gold answer is right: put it into the ladder at the highest difficulty
#   correct    the gold answer is wrong: put it into the ladder with the right one, which you write under answer
#   drop       leave it out of the ladder; it comes in all the same when a newer measurement solves it
#
# note is yours. Then run `observe-r1 ladder arrange` on this folder. Decisions stay when this file is written again.
"""


class _Dumper(yaml.SafeDumper):
    """Escapes what is not printable: PyYAML itself writes some line breaks in a way that it does not read back."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """Return the node of a string."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def write_decisions(path: Path, decisions: Iterable[Decision], questions: Mapping[str, str]) -> None:
    """Write the file whole, explained by comments: on top, and above each entry its number and question.

    Args:
        path: Of the file.
        decisions: In the order of the pages, then those about questions that are not there.
        questions: The text of each question on the pages, by id.

    Errors: `UserError` where it cannot be written.
    """
    entries = [_entry(number, decision, questions) for number, decision in enumerate(decisions, start=1)]
    write_atomic(path, "\n".join([_HEADER, *entries]))


def _entry(number: int, decision: Decision, questions: Mapping[str, str]) -> str:
    question = printable(questions.get(decision.id, "(no longer unsolved)"), 100)
    entry = asdict(decision)
    seen = " ".join(" ".join(entry.values()).split()).isprintable()  # else escaped, as what turns a text around must be
    text = yaml.dump([entry], Dumper=_Dumper, sort_keys=False, allow_unicode=seen, width=float("inf"))
    return f"# {number}. {question}\n{text}"


PAGE_SIZE = 100
"""Questions a page, which is some megabytes with their pictures and responses."""
MOST_RESPONSES = 16
"""Shown of a question's responses; the final answers of all are counted."""
MOST_ANSWERS = 16
"""Shown of a question's different final answers, the most frequent ones."""


@dataclass(slots=True)
class _Responses:
    """The responses to one question: where they stand in their file, and what they answer."""

    rows: list[int] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """By what the accuracy reward reads them as."""
    spellings: dict[str, str] = field(default_factory=dict)
    """How a response wrote each of them."""

    def add(self, row: int, text: str) -> None:
        """Count a response that stands in this row."""
        self.rows.append(row)
        self.spellings.setdefault(form := read_as(text), final_answer(text))
        self.answers[form] += 1

    def agreement(self) -> float:
        """Return the share of the most frequent answer; 0 without responses."""
        return max(self.answers.values()) / len(self.rows) if self.rows else 0.0


def write_review(folder: Path) -> tuple[Path, Path]:
    """Write `review.html` and `review.yaml` for the rows of `unsolved.jsonl` in a build folder; return their paths.

    The questions on which most responses agree come first: there the gold answer is likeliest to be wrong. Beyond
    `PAGE_SIZE` questions further pages follow (`review-2.html`, …), each complete in itself and linked to the others.
    What `review.yaml` says already stays, about questions that are no longer unsolved too.

    Errors: `UserError` for files that cannot be read or written; a `review.yaml` that cannot be read stays as it is.
    """
    build = open_build(folder)
    decisions = read_decisions(folder / REVIEW)
    examples = _unsolved(folder / "unsolved.jsonl")
    places = {example.id: place for place, example in enumerate(examples)}
    log = read_rows(build.measured / "responses.jsonl")
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
        content = render("review.html.j2", folder=build.name, command=command, items=items, **values)
        write_atomic(folder / name, content)
    for stale in folder.glob("review-*.html"):
        if re.fullmatch(r"review-[1-9][0-9]*\.html", stale.name) and stale.name not in names:
            stale.unlink()
    questions = {id: question_text(examples[place]) for id, place in places.items()}
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
        "card": question(example, data),
        "decision": decision,
        "answers": [
            {"text": responses.spellings[form], "read_as": form, "count": count, "share": count / total}
            for form, count in responses.answers.most_common(MOST_ANSWERS)
        ],
        "responses": [log[row] for row in responses.rows[:MOST_RESPONSES]],
        "total": total,
    }
