"""A ladder in three figures, after the dataset's figure in arXiv 2505.12432: shares, complexity and mix by slot."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patheffects import withStroke

from observe_r1.report.ladder_summary import LadderSummary
from observe_r1.report.theme import DARK, LIGHT, Theme, styled

_INCHES, _DPI = (5.6, 3.8), 180
_MOST_TICKS = 9
_MOST_LABELS = 13
"""The most bars that have room for a number each, and the most lines of a legend."""
_LABELLED_SHARE = 0.045
"""Smaller parts of a slot have no room for a number."""


def draw_figure(name: str, summary: LadderSummary, *, dark: bool = False) -> bytes:
    """Return one of `FIGURES` as a PNG, the same bytes for the same ladder and matplotlib."""
    draw, _ = FIGURES[name]
    theme = DARK if dark else LIGHT
    with styled(theme):
        figure = Figure(figsize=_INCHES, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
        draw(figure.subplots(), summary, theme)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _draw_share(axes: Any, summary: LadderSummary, theme: Theme) -> None:
    places = range(len(summary.levels))
    shares = [level.count / summary.count for level in summary.levels]
    measured = [level.measured / summary.measured if summary.measured else 0 for level in summary.levels]
    highest = max(*shares, *measured)
    bars = axes.bar(places, shares, width=0.74, color=_level_colors(summary, theme))
    legend: dict[str, Any] = {f"in the ladder ({summary.count:,})": (bars[0], bars[len(bars) // 2], bars[-1])}
    if summary.measured:
        halo = [withStroke(linewidth=4.5, foreground=theme.paper)]
        known = [place for place in places if measured[place]]
        ends = ([place - 0.44 for place in known], [place + 0.44 for place in known])
        lines = axes.hlines([measured[place] for place in known], *ends, color=theme.ink, lw=2, path_effects=halo)
        legend[f"among all measured ({summary.measured:,})"] = lines
    if len(places) <= _MOST_LABELS:
        where = {"ha": "center", "va": "bottom", "textcoords": "offset points", "xytext": (0, 4)}
        for place in np.flatnonzero(shares).tolist():
            has_room = measured[place] > shares[place] + 0.12 * highest  # for the number between the bar and the line
            top = shares[place] if has_room else max(shares[place], measured[place])
            axes.annotate(f"{shares[place]:.1%}", (place, top), fontsize=8.5, **where)
    _level_axis(axes, summary)
    _title_above_legend(axes, "Questions by difficulty", legend)
    axes.set_ylabel("share of questions")
    axes.yaxis.set_major_formatter(_percent)
    axes.set_ylim(0, 1.1 * highest)


def _draw_complexity(axes: Any, summary: LadderSummary, theme: Theme) -> None:
    of_all = [level.complexity for level in summary.levels]
    of_correct = [level.complexity_correct for level in summary.levels]
    all_look = {"color": theme.first, "marker": "o"}
    correct_look = {"color": theme.second, "marker": "s", "ls": "--", "ms": 9, "mfc": "none", "mew": 1.6}
    legend = {}
    for label, values, look in (
        ("all responses", of_all, all_look),
        ("correct responses", of_correct, correct_look),
    ):
        if any(value is not None for value in values):  # a level without questions interrupts the line
            (legend[label],) = axes.plot([np.nan if value is None else value for value in values], **look)
    _level_axis(axes, summary)
    _title_above_legend(axes, "Complexity by difficulty", legend)
    axes.set_ylabel("mean response length (tokens)")
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.margins(y=0.1)


def _draw_slots(axes: Any, summary: LadderSummary, theme: Theme) -> None:
    totals = [sum(slot) for slot in summary.slots]
    base = [0.0] * len(totals)
    colors, names = _level_colors(summary, theme), _level_names(summary)
    for level in np.flatnonzero(np.sum(summary.slots, axis=0)).tolist():
        color = colors[level]
        shares = [slot[level] / total if total else 0 for slot, total in zip(summary.slots, totals, strict=True)]
        bars = axes.bar(
            range(len(totals)), shares, 0.86, base, color=color, edgecolor=theme.paper, lw=0.8, label=names[level]
        )
        if len(totals) <= _MOST_LABELS:
            texts = [f"{100 * share:.0f}" if share >= _LABELLED_SHARE else "" for share in shares]
            axes.bar_label(bars, texts, label_type="center", fontsize=7.5, color=_readable_on(color))
        base = [low + share for low, share in zip(base, shares, strict=True)]
    _places(axes, [f"{slot}\n{total:,}" for slot, total in enumerate(totals)])
    axes.tick_params("x", labelsize=8.5)
    axes.set_title("Mix of each slot (percent)")
    axes.set_xlabel("slot in the order of training, and its number of questions")
    axes.set_ylabel("share of the slot's questions")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(_percent)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    handles, labels = axes.get_legend_handles_labels()
    step = _step(len(labels), _MOST_LABELS)
    outside = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "title": "difficulty"}
    axes.legend(handles[::-step], labels[::-step], **outside)


Draw = Callable[[Any, LadderSummary, Theme], None]

FIGURES: dict[str, tuple[Draw, str]] = {
    "share": (_draw_share, "Share of the questions at each difficulty, in the ladder and among all that were measured"),
    "complexity": (_draw_complexity, "Mean response length at each difficulty, of all and of correct responses"),
    "slots": (_draw_slots, "Share of each difficulty in each slot of the ladder, and how many questions it has"),
}
"""By name: the function that draws a figure, and its caption."""


def _level_colors(summary: LadderSummary, theme: Theme) -> list[tuple[float, ...]]:
    easy, hard = theme.levels
    last = max(len(summary.levels) - 1, 1)
    return [colormaps["viridis"](easy + (hard - easy) * i / last) for i in range(len(summary.levels))]


def _readable_on(color: tuple[float, ...]) -> str:
    """Return the text colour with more contrast (by WCAG 2 both are equal at this luminance)."""
    linear = [((value + 0.055) / 1.055) ** 2.4 for value in color[:3]]
    return "black" if np.dot((0.2126, 0.7152, 0.0722), linear) > 0.179 else "white"


def _level_names(summary: LadderSummary) -> list[str]:
    return [f"{level.difficulty:.3g}" for level in summary.levels]


def _title_above_legend(axes: Any, title: str, entries: dict[str, Any]) -> None:
    """Put the legend between the title and the axes, where it never covers data."""
    axes.set_title(title, pad=28)
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "borderaxespad": 0.4, "borderpad": 0}
    several_colors = {tuple: HandlerTuple(ndivide=None, pad=0)}
    axes.legend(entries.values(), entries.keys(), handler_map=several_colors, **above)


def _level_axis(axes: Any, summary: LadderSummary) -> None:
    _places(axes, _level_names(summary))
    axes.set_xlabel("difficulty (share of wrong responses)")


def _places(axes: Any, names: list[str]) -> None:
    """Name the places 0, 1, … of the horizontal axis, as many as have room; a few of them do not fill its width."""
    step = _step(len(names), _MOST_TICKS)
    axes.set_xticks(range(0, len(names), step), names[::step])
    middle, reach = (len(names) - 1) / 2, max(len(names), 5) / 2 + 0.1
    axes.set_xlim(middle - reach, middle + reach)


def _step(count: int, most: int) -> int:
    return -(-count // most)


def _percent(value: float, _: int) -> str:
    return f"{100 * value:.3g}%"
