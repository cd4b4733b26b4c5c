"""`observe-r1 compare`: runs side by side in the terminal, as JSON, or as a page."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from observe_r1.cli.report import check_target, write_page
from observe_r1.cli.terminal import one_line
from observe_r1.config import CompareSettings
from observe_r1.errors import UserError
from observe_r1.registry import beside
from observe_r1.report.comparison import (
    Comparison,
    as_json,
    compare_runs,
    held_out_line,
    held_out_table,
    settings_table,
)
from observe_r1.report.headline import FIGURES, headline
from observe_r1.report.run_records import MOST_RUNS, RunRecord, is_run, label_runs, read_run
from observe_r1.run import Ended
from observe_r1.run.panel import sparkline
from observe_r1.run.progress import Progress


def run(settings: CompareSettings, view: Progress) -> Ended:
    """Compare runs, and print how they differ.

    Args:
        settings: Which runs, and how they are shown.
        view: Shows what is being done; entered already.

    Raises:
        UserError: There are fewer than two runs or too many, a folder is no run, or the page cannot be written.
    """
    options = settings.compare
    folders = [Path(folder) for folder in options.runs]
    to = None if options.to is None else Path(options.to)
    if to is not None:
        check_target(to)
    runs = read_runs(folders)
    view.now("comparing the runs")
    comparison = compare_runs(runs)
    if to is not None:
        write_page(folders, to, view)
    view.close()
    if options.json_summary:
        print(json.dumps(as_json(comparison, runs, [key for _, key, _ in FIGURES])))
        return Ended(0, "")
    console = Console()
    for shown in drawn(comparison, runs):
        console.print(shown)
    if to is not None:
        print(f"the page is {options.to}; any browser opens it")
    return Ended(0, "")


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Return the runs of these folders.

    Raises:
        UserError: As `run`.
    """
    if len(folders) < 2:
        raise UserError(f"{folders[0]} alone cannot be compared: name two runs or more (`observe-r1 report` shows one)")
    if len(folders) > MOST_RUNS:
        raise UserError(f"{len(folders)} runs: name {MOST_RUNS} at most")
    for folder in folders:
        if not is_run(folder):
            what = "not the folder of a training run" if folder.is_dir() else f"no such folder{beside(folder, is_run)}"
            raise UserError(f"{folder}: {what}: name the run.output of `observe-r1 train` or `sft`")
    return [read_run(folder, name) for folder, name in zip(folders, label_runs(folders), strict=True)]


def drawn(comparison: Comparison, runs: Sequence[RunRecord]) -> list[Table | str]:
    """Return what the terminal shows: tables of settings, of curves and of held-out figures."""
    names = [one_line(run.name) for run in runs]
    shown: list[Table | str] = []
    settings = settings_table(comparison)
    if settings:
        shown.append(_table("settings that differ", names, settings, justify="left"))
    else:
        shown.append("all settings are the same")
    shown.append(_table("figures at the end, and at the beginning", names, _curves(runs)))
    if comparison.held_out:
        heads, rows = held_out_table(comparison.held_out, names)
        shown.append(_table("held-out questions", heads, rows))
        shown.append(held_out_line(comparison.held_out, names))
    else:
        first, *others = (f"{run.path / 'model'}" for run in runs)
        shown.append(
            "fewer than two runs have answered the same held-out questions (evaluation.path); this asks their models:"
            f" `observe-r1 evaluate {first} HELD_OUT.jsonl --against {','.join(others)}`"
        )
    return shown


def _curves(runs: Sequence[RunRecord]) -> list[list[str]]:
    """Return a row per figure that a run has, with its curve; those of all runs are on one scale."""
    keys = {name: key for name, key, _ in FIGURES}
    rows = []
    for row in headline(runs):
        curves = [run.curve(keys[row.name])[1] if row.name in keys else [] for run in runs]
        ends = [value for curve in curves for value in curve]
        span = (min(ends), max(ends)) if ends else None
        cells = [
            " ".join(part for part in (sparkline(curve, span=span), cell.value, cell.change) if part)
            for curve, cell in zip(curves, row.cells, strict=True)
        ]
        rows.append([row.name, *cells])
    return rows


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], justify: str = "right") -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for head in heads:
        table.add_column(Text(head), justify="left" if justify == "left" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    return table
