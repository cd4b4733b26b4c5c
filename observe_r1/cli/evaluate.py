"""`observe-r1 evaluate`: what an evaluation found, as tables or as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from observe_r1.cli.terminal import one_line
from observe_r1.config import EvaluateSettings
from observe_r1.evaluation.figures import SUMMARY, figure_row
from observe_r1.report.run_records import is_run
from observe_r1.run import Ended
from observe_r1.run.benchmarks import evaluate_benchmarks
from observe_r1.run.evaluate import evaluate
from observe_r1.run.progress import Progress

_PARTS = {"difficulty": "by difficulty", "source": "by source", "kind": "by kind of answer"}
_MOST_PARTS = 24
"""Rows of the largest table that is printed; `summary.json` has all."""


def run(settings: EvaluateSettings, view: Progress) -> Ended:
    """Evaluate, and print the figures; arguments and errors as `run.evaluate.evaluate`."""
    try:
        summary = evaluate_benchmarks(settings, view) if settings.benchmarks.names else evaluate(settings, view)
    except KeyboardInterrupt:
        summary = None
    view.close()
    if summary is None:
        out = sys.stderr if settings.run.json_summary else sys.stdout
        print(f"interrupted: {view.line}; the same command resumes", file=out)
        return Ended(130, "")
    if settings.run.json_summary:
        print(json.dumps(summary))
        return Ended(0, "")
    console = Console()
    for table in tables(summary):
        console.print(table)
    folder = settings.run.output
    print(f"every response is in {folder}/<model's number>/, all figures in {folder}/{SUMMARY}")
    return Ended(0, next_steps(settings))


def next_steps(settings: EvaluateSettings) -> str:
    """Return what to do with an evaluation: look at it and, of a run's model, hand that over with its figures."""
    folder, model = settings.run.output, Path(settings.model.path)
    line = f"look at it: `observe-r1 report {folder}`"
    if is_run(model.parent) and model.name in ("model", "best"):
        best = " --best" if model.name == "best" else ""
        line += f"; hand the model over: `observe-r1 export {model.parent} --to NEW_FOLDER{best} --evaluation {folder}`"
    return line


def tables(summary: dict[str, Any]) -> list[Table]:
    """Return what `summary.json` holds as tables: models, their figures, differences, and accuracy by part."""
    models = summary["models"]
    heads = [f"model {number}" for number, _ in enumerate(models, start=1)]
    drawn = [_asked(models, heads)]
    drawn.append(_figures("figures, with 95 % intervals", heads, [model["figures"] for model in models]))
    if summary["differences"]:
        found = [each["differences"] for each in summary["differences"]]
        drawn.append(_figures("difference, question by question", _minus(heads), found, leads=True))
    for part, title in _PARTS.items():
        names = list(models[0]["by"][part])
        if 1 < len(names) <= _MOST_PARTS:
            drawn.append(_accuracy_by(models, heads, part, names, title))
            if part == "source" and summary["differences"]:
                drawn.append(_leads_by_source(summary["differences"], heads, names))
    if "lmms_eval" in summary:
        drawn.append(_scores_of_lmms_eval(summary, heads))
    return drawn


def _leads_by_source(leads: list[dict[str, Any]], heads: list[str], names: list[str]) -> Table:
    table = _with_columns("difference in accuracy by source", ("",), _minus(heads))
    for name in names:
        _, *cells = figure_row("accuracy", [], [lead["by"]["source"][name] for lead in leads])
        table.add_row(Text(one_line(name) or "none"), *cells)
    return table


def _scores_of_lmms_eval(summary: dict[str, Any], heads: list[str]) -> Table:
    """Show what lmms-eval makes of the same responses, and how many it scores unlike our judge."""
    found = summary["lmms_eval"]
    table = _with_columns(
        f"scored by lmms-eval {found['release']} (differs: unlike our judge)", ("", "answer by"), heads
    )
    for name in found["models"][0]:
        for way, whose in (("our_extraction", "ours"), ("own_extraction", "its own")):
            cells = [model[name] for model in found["models"]]
            table.add_row(
                name,
                whose,
                *(f"{100 * c[way]:.1f}% ({c[f'{way}_differs']:,} differ)" if c["questions"] else "" for c in cells),
            )
    return table


def _minus(heads: list[str]) -> list[str]:
    return [f"model 1 minus {head.removeprefix('model ')}" for head in heads[1:]]


def _asked(models: list[dict[str, Any]], heads: list[str]) -> Table:
    table = Table(title="models", title_justify="left")
    table.add_column("")
    table.add_column("", overflow="fold")
    table.add_column("questions", justify="right")
    for head, model in zip(heads, models, strict=True):
        answered, left_out = model["questions"], model["left_out"]
        count = f"{answered:,} of {answered + left_out:,}" if left_out else f"{answered:,}"
        table.add_row(head, Text(one_line(model["model"])), count)
    return table


def _with_columns(title: str, first: tuple[str, ...], heads: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in first:
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    return table


def _figures(title: str, heads: list[str], values: list[dict[str, Any]], *, leads: bool = False) -> Table:
    table = _with_columns(title, ("",), heads)
    for figure in values[0]:
        table.add_row(*(figure_row(figure, [], values) if leads else figure_row(figure, values)))
    return table


def _accuracy_by(models: list[dict[str, Any]], heads: list[str], part: str, names: list[str], title: str) -> Table:
    table = _with_columns(f"accuracy {title}", ("", "questions"), heads)
    for name in names:
        groups = [model["by"][part].get(name) for model in models]
        _, *cells = figure_row("accuracy", [group["figures"] if group else {} for group in groups])
        table.add_row(Text(one_line(name) or "none"), f"{groups[0]['questions']:,}", *cells)
    return table
