"""Which questions a run was asked when, and how well it did: a map in which the ladder is seen being climbed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator, PercentFormatter

from observe_r1.report.charts import PAGE, TALL, WIDE, Chart, page_figure, page_style, page_svg, step_axis
from observe_r1.report.run_questions import Questions

_MOST_LEVELS = 17
"""More difficulties than 16 responses a question can have are put together in tenths."""
_BAND = 0.86
"""Of the height of a level, how much its questions fill."""


_DIFFICULTY = "difficulty"
_KNOWN = (
    "The ladder being climbed",
    "Every sampled group: its step across, its question upwards from easy to hard, and how many of its responses"
    " are right by colour. Training at the edge of what the model can do shows as a band that rises.",
)
_UNKNOWN = (
    "The questions over time",
    "Every sampled group: its step across, its question upwards in the order of the dataset, and how many of its"
    " responses are right by colour. Of these questions no difficulty is known.",
)
"""What the map is called and shows, where difficulties are known and where they are not."""


@dataclass(frozen=True, slots=True)
class Climb:
    """Every group that a run sampled, in parallel columns."""

    step: list[int]
    height: list[float]
    """Of the group's question: 0 for the easiest, 1 for the hardest; or its place in the dataset."""
    share_right: list[float]
    levels: tuple[tuple[str, float], ...]
    """Names along the height, and where they are."""
    axis: str


def climb_of(groups: Iterable[tuple[int, str, float]], questions: Questions) -> Climb | None:
    """Return where each group of a run is in training and among the questions; None if there is nothing to show.

    Questions whose difficulty is known stand in bands, one for each difficulty, within which they have the order of the
    dataset. Without difficulties they have that order alone.

    Args:
        groups: Of each, its step, the id of its question, and the share of its responses that are right.
        questions: Of the run.
    """
    known = bool(questions.difficulty)
    places, levels = _bands(questions) if known else _rows(questions)
    found = [(step, places[row_id], share) for step, row_id, share in groups if row_id in places]
    if not found:
        return None
    steps, heights, shares = (list(column) for column in zip(*found, strict=True))
    axis = _DIFFICULTY if known else "row of the dataset"
    return Climb(steps, heights, shares, levels, axis)


Placed = tuple[dict[str, float], tuple[tuple[str, float], ...]]


def _bands(questions: Questions) -> Placed:
    difficulty = questions.difficulty
    if len(set(difficulty.values())) > _MOST_LEVELS:
        difficulty = {row_id: round(value, 1) for row_id, value in difficulty.items()}
    values = sorted(set(difficulty.values()))
    inside: dict[float, list[str]] = {value: [] for value in values}
    for row_id in sorted(difficulty, key=lambda each: questions.row[each]):
        inside[difficulty[row_id]].append(row_id)
    places = {
        row_id: level + _BAND * ((rank + 0.5) / len(inside[value]) - 0.5)
        for level, value in enumerate(values)
        for rank, row_id in enumerate(inside[value])
    }
    return places, tuple((f"{value:.3g}", float(level)) for level, value in enumerate(values))


def _rows(questions: Questions) -> Placed:
    places = {row_id: float(row + 1) for row_id, row in questions.row.items()}
    return places, _round_numbers(len(places))


def _round_numbers(count: int) -> tuple[tuple[str, float], ...]:
    """Return the first row and round numbers after it."""
    places = [place for place in MaxNLocator(5, integer=True).tick_values(1, max(count, 2)) if 1 < place <= count]
    return tuple((f"{place:,.0f}", float(place)) for place in (1, *places))


def climb_chart(climb: Climb, number: int, name: str) -> Chart:
    """Return a map of questions against training time, coloured by the share of right responses."""
    title, about = _KNOWN if climb.axis == _DIFFICULTY else _UNKNOWN
    title += f"{name and ': '}{name}"
    svg, narrow = (_map(climb, title, size) for size in (WIDE, TALL))
    return Chart(title, about, svg, narrow, number)


def _map(climb: Climb, title: str, size: tuple[float, float]) -> str:
    with page_style():
        figure, axes = page_figure(size)
        area = float(np.clip(40_000 / len(climb.step), 1.5, 30)) * size[0] / WIDE[0]
        # Drawn as pixels: a run has tens of thousands of groups.
        look: dict[str, Any] = {"marker": "s", "lw": 0, "cmap": _colors(), "vmin": 0, "vmax": 1, "rasterized": True}
        dots = axes.scatter(climb.step, climb.height, c=climb.share_right, s=area, **look)
        axes.set_yticks([place for _, place in climb.levels], [label for label, _ in climb.levels])
        axes.margins(x=0.01, y=0.03)
        step_axis(axes, climb.axis)
        along = {"pad": 0.015, "aspect": 28} if size == WIDE else {"location": "top", "pad": 0.02, "aspect": 30}
        bar = figure.colorbar(dots, ax=axes, format=PercentFormatter(1.0, decimals=0), **along)
        bar.set_label("right responses")
        bar.outline.set_visible(False)
        return page_svg(figure, f"{title} {size}")


def _colors() -> ListedColormap:
    easy, hard = PAGE.levels
    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(hard, easy, 256)))
