"""`observe-r1 evaluate`: what an evaluation found, as tables or as JSON."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from observe_r1.config import EvaluateSettings
from observe_r1.run import Ended
from observe_r1.run.evaluate import SUMMARY, evaluate
from observe_r1.run.progress import Progress

_IN_TOKENS = "length"
_PARTS = {"difficulty": "by difficulty", "source": "by source", "kind": "by kind of answer"}
_LONGEST_NAME = 3
"""Parts of a model's path that a table's head shows."""
_MOST_PARTS = 24
"""Rows of the largest table that is printed; `summary.json` has all."""


def run(settings: EvaluateSettings, view: Progress) -> Ended:
    """Evaluate, and print the figures; arguments and errors as `run.evaluate.evaluate`."""
    summary = evaluate(settings, view)
    view.close()
    if summary is None:
        print(f"interrupted: {view.line}; the same command resumes")
        return Ended(130, "")
    if settings.run.json_summary:
        print(json.dumps(summary))
        return Ended(0, "")
    console = Console()
    for table in tables(summary):
        console.print(table)
    folder = settings.run.output
    print(f"every response is in {folder}/<model's number>/, all figures in {folder}/{SUMMARY}")
    return Ended(0, "")


def tables(summary: dict[str, Any]) -> list[Table]:
    """Return what `summary.json` holds as tables: figures of every model, differences, and accuracy by part."""
    models = summary["models"]
    drawn = [_figures([(_short(model["model"]), model["figures"]) for model in models], "figures, with 95 % intervals")]
    if summary["differences"]:
        rows = [(f"against {_short(each['against'])}", each["differences"]) for each in summary["differences"]]
        drawn.append(_figures(rows, "difference, question by question", signed=True))
    for part, title in _PARTS.items():
        names = list(models[0]["by"][part])
        if 1 < len(names) <= _MOST_PARTS:
            drawn.append(_accuracy_by(models, part, names, title))
    return drawn


def _figures(rows: list[tuple[str, dict[str, Any]]], title: str, *, signed: bool = False) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name, _ in rows:
        table.add_column(Text(name, overflow="fold"), justify="right")
    for figure in rows[0][1]:
        cells = [_cell(values[figure], figure == _IN_TOKENS, signed) if figure in values else "" for _, values in rows]
        table.add_row("length in tokens" if figure == _IN_TOKENS else figure, *cells)
    return table


def _accuracy_by(models: list[dict[str, Any]], part: str, names: list[str], title: str) -> Table:
    table = Table(title=f"accuracy {title}", title_justify="left")
    table.add_column("")
    table.add_column("questions", justify="right")
    for model in models:
        table.add_column(Text(_short(model["model"]), overflow="fold"), justify="right")
    for name in names:
        groups = [model["by"][part].get(name) for model in models]
        cells = [_cell(group["figures"]["accuracy"], False, False) if group else "" for group in groups]
        table.add_row(Text(name or "none"), f"{groups[0]['questions']:,}", *cells)
    return table


def _cell(figure: dict[str, float], in_tokens: bool, signed: bool) -> str:
    sign = "+" if signed else ""
    form = f"{{:{sign}z.0f}}" if in_tokens else f"{{:{sign}z.1%}}"
    return f"{form.format(figure['mean'])}  [{form.format(figure['low'])}, {form.format(figure['high'])}]"


def _short(model: str) -> str:
    """Return a model's name for the head of a table: a long path loses its start."""
    parts = model.rstrip("/").split("/")
    return model if len(parts) <= _LONGEST_NAME else "/".join(("…", *parts[-_LONGEST_NAME:]))
