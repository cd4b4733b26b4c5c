"""Runs, evaluations and ladders as one self-contained HTML page: `observe-r1 report`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from observe_r1.files import write_atomic
from observe_r1.report.charts import Compared, compared_chart, curve_charts
from observe_r1.report.comparison import (
    Comparison,
    compare_runs,
    held_out_columns,
    held_out_line,
    held_out_table,
    settings_table,
)
from observe_r1.report.contents import Contents
from observe_r1.report.evaluation_records import EvaluationRecord, figures_table, read_evaluation
from observe_r1.report.folder_kinds import folder_kinds
from observe_r1.report.gallery import MAX_GROUPS, Gallery
from observe_r1.report.headline import headline
from observe_r1.report.ladder_page import ladder_values
from observe_r1.report.memory import Memory
from observe_r1.report.pages import printable, render_template
from observe_r1.report.run_records import RunRecord, label_runs, read_run


def write_report(
    folders: Sequence[Path], to: Path, now: Callable[[str], None] = lambda _: None, compared: Sequence[Compared] = ()
) -> None:
    """Write the page of the folders to a file; arguments and errors as `render_report`."""
    write_atomic(to, render_report(folders, now, compared=compared))


def render_report(
    folders: Sequence[Path],
    now: Callable[[str], None] = lambda _: None,
    *,
    version: str = "",
    compared: Sequence[Compared] = (),
    memory: Memory | None = None,
) -> str:
    """Return the page of runs, evaluations and ladders.

    Args:
        folders: Of each of them; a run may be live.
        now: Is told what is being done.
        version: Of what is shown, if the page is served and looks for a newer one; empty for a file.
        compared: More comparisons to show.
        memory: From the last time, so that only what is new in a run is read.

    Raises:
        UserError: A folder is none of these, is named twice, or a file in it is not as it was written.
    """
    memory = memory or Memory()
    memory.begin()
    names = dict(zip(folders, label_runs(folders), strict=True))
    kinds = folder_kinds(folders)
    runs = [read_run(folder, name, memory) for folder, name in names.items() if kinds[folder] == "run"]
    evaluations = [read_evaluation(folder, name) for folder, name in names.items() if kinds[folder] == "evaluation"]
    ladders = [ladder_values(folder) for folder in folders if kinds[folder] == "ladder"]
    now("drawing the curves")
    curves = curve_charts(runs)
    contents = Contents(several=len(runs) > 1, compared=list(compared))
    each = MAX_GROUPS // max(1, 2 * len(runs) + len(evaluations))
    for number, run in enumerate(runs):
        now(f"reading the responses of {run.name}")
        contents.add_rollouts(run, number, each)
        contents.add_held_out(run, number, each)
    contents.compare_held_out()
    for number, record in enumerate(evaluations, start=len(runs)):
        now(f"reading the responses of {record.name}")
        contents.add_evaluation(record, number, each)
    shown = [*(run.name for run in runs), *(record.name for record in evaluations)]
    now("copying the images")
    gallery = contents.gallery()
    return render_template(
        "report.html.j2",
        title=", ".join(names.values()),
        version=version,
        runs=[_shown_run(run) for run in runs],
        headline=headline(runs),
        notes=contents.notes,
        curves=curves,
        evaluations=[_shown_evaluation(record) for record in evaluations],
        compared=[compared_chart(each) for each in contents.compared],
        climbs=contents.climbs,
        ladders=ladders,
        comparison=_shown_comparison(compare_runs(runs), runs) if len(runs) > 1 else None,
        gallery=gallery,
        gallery_line=_gallery_line(gallery),
        parts=list(dict.fromkeys(card["part"] for card in gallery.cards)),
        gallery_data={
            "runs": [printable(name, 60) for name in shown],
            "cards": gallery.cards,
            "images": gallery.images,
        },
        scripts=["report.js"] * (gallery.groups > 0) + ["refresh.js"] * bool(version),
    )


def _gallery_line(gallery: Gallery) -> str:
    """Say how much of the responses the page has, and how they were chosen."""
    shown = len(gallery.cards)
    if shown == gallery.groups:
        return f"All {shown:,} questions with their responses."
    line = (
        f"{shown:,} of {gallery.groups:,} questions with their responses, spread over the steps; of each step, those"
        " with both right and wrong responses first. The folder has all of them."
    )
    return line + (" More images and texts would make the page too large." if gallery.full else "")


def _shown_run(run: RunRecord) -> dict[str, str]:
    places = [Path(str(run.settings.get(name, ""))) for name in ("model.path", "data.path")]
    model, data = ("/".join(place.parts[-2:]) for place in places)  # not the whole: a page names nobody's home folder
    return {
        "name": run.name,
        "about": f"{run.steps:,} steps, starting from {printable(model, 100)}, on {printable(data, 100)}.",
        "settings_text": "\n".join(f"{name}: {json.dumps(value)}" for name, value in run.settings.items()),
    }


def _shown_comparison(comparison: Comparison, runs: Sequence[RunRecord]) -> dict[str, Any]:
    names, held_out = [run.name for run in runs], comparison.held_out
    heads, figures = held_out_table(held_out, names) if held_out else ([], [])
    return {
        "settings": settings_table(comparison),
        "heads": heads,
        "figures": figures,
        "columns": held_out_columns(held_out) if held_out else [],
        "line": held_out_line(held_out, names) if held_out else "",
    }


def _shown_evaluation(record: EvaluationRecord) -> dict[str, Any]:
    heads, rows = figures_table(record)
    return {"name": record.name, "heads": heads, "rows": rows}
