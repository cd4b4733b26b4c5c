"""The report of a ladder: dataset card, figures, and one HTML page that holds all of it."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from observe_r1 import registry
from observe_r1.data import load_examples
from observe_r1.files import write_atomic
from observe_r1.ladder.sources.source import Source
from observe_r1.ladder.stage import LADDER, kept_by
from observe_r1.report.build_folder import BuildFolder, open_build
from observe_r1.report.gallery import spread
from observe_r1.report.ladder_figures import FIGURES, draw_figure
from observe_r1.report.ladder_summary import LadderSummary, summarize_ladder
from observe_r1.report.pages import render_template
from observe_r1.report.question import QuestionCard, question_card

_HUB_LICENCES = {"afl-3.0", "apache-2.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-4.0", "gpl-3.0", "mit"}
"""The licences of our sources that are identifiers on the Hub (hf.co/docs/hub/repositories-licenses)."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

MAX_SOURCES = 50
"""Further sources are counted together."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A source's line in the tables."""

    name: str
    counts: tuple[int, ...]
    """(levels,) questions."""
    licence: str
    benchmark: str
    """Which benchmark must not be reported after training on it; empty if none is known."""


def source_rows(summary: LadderSummary) -> list[SourceRow]:
    """Return the largest sources with what is registered about them, and a last line for all others."""
    items = list(summary.sources.items())
    rows = [_source_row(name, counts) for name, counts in items[:MAX_SOURCES]]
    if rest := items[MAX_SOURCES:]:
        counts = tuple(sum(column) for column in zip(*(counts for _, counts in rest), strict=True))
        rows.append(SourceRow(f"{len(rest):,} more sources", counts, "", ""))
    return rows


def ladder_card(summary: LadderSummary, dataset: str | None = None) -> str:
    """Return the card (`README.md`) of the ladder, for the folder that holds `ladder.jsonl` and `figures/`.

    Args:
        summary: Of the ladder.
        dataset: If the card is for the folder of `report.ladder_dataset`, how others load that: a name on the Hub.
    """
    return render_template(
        "ladder_card.md.j2",
        metadata=yaml.safe_dump(_metadata(summary, "data/train-*.parquet" if dataset else LADDER), sort_keys=False),
        dataset=dataset,
        summary=summary,
        sources=source_rows(summary),
        figures={name: caption for name, (_, caption) in FIGURES.items()},
    )


def _source_row(name: str, counts: tuple[int, ...]) -> SourceRow:
    source = _registered(name)
    return SourceRow(name, counts, source.licence if source else "unknown", (source and source.benchmark) or "")


def _registered(name: str) -> Source | None:
    return registry.load("source", name) if name in registry.REGISTRY["source"] else None


def _metadata(summary: LadderSummary, files: str) -> dict[str, object]:
    return {
        "license": _licence(summary),
        "pretty_name": "NeuraLadder",
        "task_categories": ["visual-question-answering", "image-text-to-text"],
        "tags": ["reinforcement-learning", "curriculum-learning", "reasoning", "observe-r1"],
        "size_categories": [next((name for bound, name in _SIZES if summary.count < bound), "n>1M")],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": files}]}],
    }


def _licence(summary: LadderSummary) -> str | list[str]:
    """Return the licences of the sources; `unknown` if one of them is."""
    sources = [_registered(name) for name in summary.sources]
    found = sorted({source.licence.lower().replace(" ", "-") if source else "" for source in sources})
    if not _HUB_LICENCES.issuperset(found):
        return "unknown"
    return found if len(found) > 1 else found[0]


EXAMPLES_PER_LEVEL = 4
MAX_EXAMPLES = 48
"""Examples on the page, as long as every level has one."""
MAX_REASONS = 50
"""Lines in the table of dropped rows."""


def write_ladder_report(folder: Path) -> list[Path]:
    """Write `README.md`, `figures/*.png` and `ladder.html` into a ladder's folder and return their paths.

    The files depend on nothing but the content of the folder, which only needs a `ladder.jsonl`. The page is
    self-contained. An image that cannot be opened leaves a line in its place.

    Raises:
        UserError: The ladder cannot be read, or a file cannot be written.
    """
    build = open_build(folder)
    summary = summarize_ladder(build)
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
    return render_template("ladder.html.j2", **_values(build, summary, figures))


def ladder_values(folder: Path) -> dict[str, Any]:
    """Return what `ladder_body.html.j2` shows of a ladder's folder.

    Raises:
        UserError: The ladder cannot be read.
    """
    build = open_build(folder)
    summary = summarize_ladder(build)
    return _values(build, summary, [draw_figure(name, summary) for name in FIGURES])


def _values(build: BuildFolder, summary: LadderSummary, figures: list[bytes]) -> dict[str, Any]:
    return {
        "summary": summary,
        "sources": source_rows(summary),
        "figures": [
            {"caption": caption, "light": _uri(light), "dark": _uri(draw_figure(name, summary, dark=True))}
            for (name, (_, caption)), light in zip(FIGURES.items(), figures, strict=True)
        ],
        "dropped": most_frequent(summary.dropped, MAX_REASONS),
        "examples": _examples(build, summary),
    }


def most_frequent(dropped: tuple[tuple[str, str, int], ...], most: int) -> list[tuple[str, str, int, str]]:
    """Return at most `most` lines of the table, each with what would keep its rows, and a last line with the rest."""
    kept = sorted(sorted(range(len(dropped)), key=lambda i: -dropped[i][2])[:most])
    lines = [(*dropped[i], kept_by(*dropped[i][:2])) for i in kept]
    if left := len(dropped) - len(lines):
        rest = sum(row[2] for row in dropped) - sum(row[2] for row in lines)
        lines.append(("", f"{left:,} more reasons", rest, ""))
    return lines


def _examples(build: BuildFolder, summary: LadderSummary) -> list[list[QuestionCard]]:
    """Return some questions of each level, spread over the ladder."""
    examples = load_examples(build.path / LADDER)
    count = max(1, min(EXAMPLES_PER_LEVEL, MAX_EXAMPLES // len(summary.levels)))
    return [[question_card(examples[row], build.data) for row in spread(level.rows, count)] for level in summary.levels]


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
