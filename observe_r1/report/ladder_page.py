"""The report of a build folder: dataset card, figures, and one HTML page that holds all of it."""

import base64
from pathlib import Path

from observe_r1.data import load_examples
from observe_r1.files import write_atomic
from observe_r1.ladder.stage import kept_by
from observe_r1.report.build_folder import BuildFolder, open_build
from observe_r1.report.ladder_card import ladder_card, source_rows
from observe_r1.report.ladder_figures import FIGURES, draw_figure
from observe_r1.report.ladder_summary import LadderSummary, summarize
from observe_r1.report.pages import render
from observe_r1.report.question import Question, question

EXAMPLES_PER_LEVEL = 4
MOST_EXAMPLES = 48
"""On the page, as long as every level has one."""
MOST_REASONS = 50
"""Lines in the table of what was dropped."""


def write_ladder_report(folder: Path) -> list[Path]:
    """Write `README.md`, `figures/*.png` and `ladder.html` into a build folder and return their paths.

    The files depend on what the folder holds and nothing else; only `ladder.jsonl` has to be there. The page needs
    nothing beside itself. Images that cannot be opened leave a line in their place.

    Errors: `UserError` for a ladder that cannot be read, or files that cannot be written.
    """
    build = open_build(folder)
    summary = summarize(build)
    (folder / "figures").mkdir(exist_ok=True)
    figures = {folder / "figures" / f"{name}.png": draw_figure(name, summary) for name in FIGURES}
    files: dict[Path, str | bytes] = {
        folder / "README.md": ladder_card(summary),
        **figures,
        folder / "ladder.html": _page(build, summary, list(figures.values())),
    }
    for path, content in files.items():
        write_atomic(path, content)
    return list(files)


def _page(build: BuildFolder, summary: LadderSummary, figures: list[bytes]) -> str:
    return render(
        "ladder.html.j2",
        summary=summary,
        sources=source_rows(summary),
        figures=[
            {"caption": caption, "light": _uri(light), "dark": _uri(draw_figure(name, summary, dark=True))}
            for (name, (_, caption)), light in zip(FIGURES.items(), figures, strict=True)
        ],
        dropped=most_frequent(summary.dropped, MOST_REASONS),
        examples=_examples(build, summary),
    )


def most_frequent(dropped: tuple[tuple[str, str, int], ...], most: int) -> list[tuple[str, str, int, str]]:
    """Return at most `most` lines of the table, each with what would keep its rows; the rest adds up in a last one."""
    kept = sorted(sorted(range(len(dropped)), key=lambda i: -dropped[i][2])[:most])
    lines = [(*dropped[i], kept_by(*dropped[i][:2])) for i in kept]
    if left := len(dropped) - len(lines):
        rest = sum(row[2] for row in dropped) - sum(row[2] for row in lines)
        lines.append(("", f"{left:,} more reasons", rest, ""))
    return lines


def _examples(build: BuildFolder, summary: LadderSummary) -> list[list[Question]]:
    """Return some questions of each level, from all along the ladder."""
    examples = load_examples(build.path / "ladder.jsonl")
    count = max(1, min(EXAMPLES_PER_LEVEL, MOST_EXAMPLES // len(summary.levels)))
    return [[question(examples[row], build.data) for row in _spread(level.rows, count)] for level in summary.levels]


def _spread(rows: tuple[int, ...], count: int) -> list[int]:
    """Return `count` rows at even distances, or all where there are no more."""
    return [rows[len(rows) * i // count] for i in range(count)] if len(rows) > count else list(rows)


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
