"""An evaluation's folder as its reports read it: figures, accuracy by part, and every response."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from observe_r1.data.json_rows import JsonRows
from observe_r1.errors import UserError
from observe_r1.evaluation.figures import SUMMARY, figure_row
from observe_r1.ladder.stage import RESPONSES
from observe_r1.report.charts import Compared
from observe_r1.report.gallery import answers_card
from observe_r1.report.pages import printable
from observe_r1.report.run_questions import Questions, read_questions
from observe_r1.report.run_records import label_runs
from observe_r1.run.folder import CONFIG

_PARTS = {"difficulty": "difficulty", "source": "source", "kind": "kind of answer"}
_MOST_LEVELS = 16


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """What an evaluation has found."""

    path: Path
    name: str
    models: tuple[str, ...]
    """What the reports call its models, all different."""
    summary: dict[str, Any]
    """See `evaluation.figures.summarize`."""
    questions: Questions


def read_evaluation(folder: Path, name: str) -> EvaluationRecord:
    """Read an evaluation that has come to its end.

    Raises:
        UserError: It has not, or a file is not as the evaluation wrote it.
    """
    try:
        settings = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        models = [Path(model["model"]) for model in summary["models"]]
        questions = read_questions(settings["data"], 0, folder / CONFIG, settings["run"]["output"])
    except FileNotFoundError as error:
        raise UserError(f"{folder}: the evaluation has no {error.filename}: run its command again") from error
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{folder}: not as the evaluation wrote it ({error}): put its files back") from error
    return EvaluationRecord(folder, name, _model_names(models), summary, questions)


def _model_names(models: Sequence[Path]) -> tuple[str, ...]:
    """Return names of models, all different: one that is there twice (at a server and here, say) is numbered."""
    places = [model.resolve() for model in models]
    once = list(dict.fromkeys(places))
    names = dict(zip(once, label_runs(once), strict=True))
    numbered = enumerate(places, start=1)
    return tuple(names[p] if places.count(p) == 1 else f"{names[p]} (model {number})" for number, p in numbered)


def figures_table(record: EvaluationRecord) -> tuple[list[str], list[list[str]]]:
    """Return the heads and rows of a table: each figure of each model, and by how much the first one leads."""
    models, leads = record.summary["models"], record.summary["differences"]
    heads = [*record.models, *(f"minus {name}" for name in record.models[1:])]
    found, ahead = [model["figures"] for model in models], [lead["differences"] for lead in leads]
    return heads, [figure_row(name, found, ahead) for name in found[0]]


def accuracy_by_part(record: EvaluationRecord) -> list[Compared]:
    """Return accuracy by difficulty, source and kind of answer, if there are several: the first model last."""
    models = list(zip(record.models, record.summary["models"], strict=True))
    models = models[1:] + models[:1]
    found = []
    for part, words in _PARTS.items():
        parts = models[-1][1]["by"][part]
        if not 1 < len(parts) <= _MOST_LEVELS or any(model["by"][part].keys() != parts.keys() for _, model in models):
            continue
        found.append(
            Compared(
                title=f"Accuracy by {words}",
                about=f"Greedy answers of {record.name}.",
                axis=words,
                levels=tuple((printable(name or "none", 18), group["questions"]) for name, group in parts.items()),
                series=tuple(
                    (
                        printable(name, 30),
                        tuple(model["by"][part][level]["figures"]["accuracy"]["mean"] for level in parts),
                    )
                    for name, model in models
                ),
            )
        )
    return found


def evaluation_cards(record: EvaluationRecord) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each question's id and its card: the greedy response of every model, the first model last."""
    order = [*range(1, len(record.models)), 0]
    greedy = {
        record.models[number]: {
            row["id"]: row for row in JsonRows(record.path / str(number + 1) / "greedy" / RESPONSES)
        }
        for number in order
    }
    for row_id in greedy[record.models[0]]:
        rows = [(name, responses[row_id]) for name, responses in greedy.items() if row_id in responses]
        example = record.questions.get(row_id)
        yield row_id, answers_card("evaluation", None, example.answer if example else "", rows)
