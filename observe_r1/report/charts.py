"""Runs as charts for a page: SVG whose colours are the page's own, so that one drawing suits light and dark.

Matplotlib draws them, as it draws the figures of cards and of the README. What belongs to the run number N, counted
from 0, is in groups whose ids begin with `run-N-`: the page hides them by those.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from observe_r1.errors import UserError
from observe_r1.report.run_records import MOST_RUNS, RunRecord
from observe_r1.report.theme import Theme, styled

_VARIABLES = {
    "#0a0b01": "paper",
    "#0a0b02": "ink",
    "#0a0b03": "line",
    "#0a0b04": "muted",
    "#0a0b05": "good",
    "#0a0b06": "bad",
    **{f"#0a0b1{number}": f"run-{number}" for number in range(MOST_RUNS)},
    **{f"#0a0b2{number}": f"part-{number}" for number in range(4)},
}
"""Colours that stand for variables of `page.css` until the SVG is written."""
_COLOR = {name: color for color, name in _VARIABLES.items()}
PAGE = Theme(
    paper=_COLOR["paper"],
    ink=_COLOR["ink"],
    faint=_COLOR["line"],
    muted=_COLOR["muted"],
    first=_COLOR["run-0"],
    second=_COLOR["run-1"],
    right=_COLOR["good"],
    wrong=_COLOR["bad"],
    levels=(0.92, 0.12),
)
SMALL, TALL, WIDE = (4.5, 2.75), (4.5, 4.2), (10.6, 4.0)
"""Inches. The first two are as wide as a phone, where their text is then as large as the page's."""
_LETTERS_ACROSS = 46
"""Letters that stand beside each other in a `SMALL` chart."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart as a page shows it."""

    title: str
    about: str
    """What it shows, in a sentence."""
    svg: str
    narrow: str = ""
    """The same for a phone, where `svg` would be too small to read."""
    run: int | None = None
    """The number of the run that it shows alone; None if it shows all."""


@dataclass(frozen=True, slots=True)
class _Panel:
    key: str
    title: str
    about: str
    unit: str
    share: bool = False


_HELD_OUT = "evaluation/"
_PANELS = (
    _Panel("evaluation/accuracy", "Held-out accuracy", "Greedy answers to the held-out questions.", "right", True),
    _Panel("reward/mean", "Reward", "Mean over the sampled responses, without the bonus.", "reward"),
    _Panel(
        "reward/accuracy",
        "Accuracy while training",
        "Sampled responses that are right. On a ladder the questions get harder, so it may well fall.",
        "right",
        True,
    ),
    _Panel("response/well_formed", "Format", "Sampled responses in the requested format.", "well-formed", True),
    _Panel("response/length", "Length", "Mean length of the sampled responses.", "tokens"),
    _Panel("rollout/weight", "Weight", "Mean dynamic weight: high where about half of a group is right.", "weight"),
    _Panel("rollout/groups_used", "Groups used", "Sampled groups that teach something.", "of all groups", True),
    _Panel(
        "policy/sampler_difference",
        "Sampler difference",
        "Mean difference of a token's probability between sampler and trainer.",
        "probability",
    ),
    _Panel("policy/entropy", "Entropy", "Mean over the response tokens of the update.", "nats"),
    _Panel("sft/loss", "Loss", "Mean over the tokens of the demonstrations.", "nats"),
)


def curve_charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """Return every curve that any of the runs has, all runs in one chart, then the time of each run by part.

    Raises:
        UserError: There are more runs than can be told apart.
    """
    if len(runs) > MOST_RUNS:
        raise UserError(f"{len(runs)} runs are more than one chart can show: name at most {MOST_RUNS}")
    shown = [panel for panel in _PANELS if any(run.curve(panel.key)[0] for run in runs)]
    charts = [Chart(panel.title, panel.about, _curves(panel, runs)) for panel in shown]
    for number, run in enumerate(runs):
        if parts := _times(run):
            whose = f" of {run.name}" if len(runs) > 1 else ""
            title, about = (
                f"Time by part{whose}",
                "Seconds that each step took, evaluations and checkpoints not counted.",
            )
            charts.append(Chart(title, about, _stacked(parts, number), run=number))
    return charts


def _curves(panel: _Panel, runs: Sequence[RunRecord]) -> str:
    with page_style():
        figure, axes = page_figure(SMALL)
        for number, run in enumerate(runs):
            steps, values = run.curve(panel.key)
            if steps:
                _draw_run(axes, number, panel, steps, values)
        if panel.share:
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        else:
            axes.ticklabel_format(axis="y", scilimits=(-3, 5), useOffset=False)
            axes.margins(y=0.08)
        step_axis(axes, panel.unit)
        return page_svg(figure, panel.title)


def _draw_run(axes: Any, number: int, panel: _Panel, steps: list[int], values: list[float]) -> None:
    color, name = _COLOR[f"run-{number}"], panel.key.replace("/", "-")
    if panel.key.startswith(_HELD_OUT) or len(steps) < 12:
        axes.plot(steps, values, "o-", ms=4.5, color=color, gid=f"run-{number}-{name}")
        return
    axes.plot(steps, values, color=color, lw=1, alpha=0.3, gid=f"run-{number}-{name}-raw")
    axes.plot(steps, smoothed(values), color=color, gid=f"run-{number}-{name}")


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and its neighbours, a tenth of the curve in all; fewer at its ends."""
    reach = max(1, len(values) // 20)
    return [fmean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]


_PARTS = {"sampling": "time/sampling", "scoring": "time/scoring", "updating": "time/updating"}


def _times(run: RunRecord) -> dict[str, list[tuple[int, float]]]:
    """Return the seconds of each part by step; nothing if the run did not record them."""
    rows = [row for row in run.metrics if isinstance(row.get("time/step"), int | float)]
    parts = {name: [(row["step"], float(row.get(key) or 0)) for row in rows] for name, key in _PARTS.items()}
    rest = [
        (row["step"], max(0.0, row["time/step"] - sum(row.get(key) or 0 for key in _PARTS.values()))) for row in rows
    ]
    return parts | {"other": rest} if rows else {}


def _stacked(parts: Mapping[str, list[tuple[int, float]]], number: int) -> str:
    with page_style():
        figure, axes = page_figure(SMALL)
        steps = [step for step, _ in next(iter(parts.values()))]
        values = [smoothed([value for _, value in series]) for series in parts.values()]
        colors = [_COLOR[f"part-{part}"] for part in range(len(parts))]
        axes.stackplot(steps, values, labels=list(parts), colors=colors, lw=0)
        axes.set_ylim(bottom=0)
        _legend_above(axes, len(parts))
        step_axis(axes, "seconds a step")
        return page_svg(figure, f"Time by part of run {number + 1}")


@dataclass(frozen=True, slots=True)
class Compared:
    """Shares by level, such as accuracy by difficulty: before and after, or of several models."""

    title: str
    about: str
    axis: str
    """What the levels are: `difficulty`."""
    levels: tuple[tuple[str, int], ...]
    """Name and number of questions of each."""
    series: tuple[tuple[str, tuple[float, ...]], ...]
    """Name and shares in [0, 1], one a level (NaN if there is no question); others are compared with the first."""
    runs: tuple[int, ...] = ()
    """The numbers of the runs that the others are of; empty if they are of models."""


def compared_chart(compared: Compared) -> Chart:
    """Return shares by level as groups of bars, the first of each group grey."""
    svg, narrow = (_bars(compared, size) for size in (WIDE, TALL if len(compared.series) > 2 else SMALL))
    return Chart(compared.title, compared.about, svg, narrow)


def _bars(compared: Compared, size: tuple[float, float]) -> str:
    with page_style():
        figure, axes = page_figure(size)
        width = 0.82 / len(compared.series)
        for number, (name, shares) in enumerate(compared.series):
            places = [level + (number - (len(compared.series) - 1) / 2) * width for level in range(len(shares))]
            run = (compared.runs or range(MOST_RUNS))[number - 1]
            color = _COLOR[f"run-{run}" if number else "muted"]
            bars = axes.bar(places, shares, width=width * 0.94, color=color, label=name)
            for level, bar in enumerate(bars if number and compared.runs else ()):
                bar.set_gid(f"run-{run}-level-{level}")
            if size == WIDE and len(shares) * len(compared.series) <= 24:
                labels = axes.bar_label(bars, [f"{100 * share:.0f}" for share in shares], fontsize=8, padding=2)
                for level, label in enumerate(labels if number and compared.runs else ()):
                    label.set_gid(f"run-{run}-share-{level}")
        counts = "\n{:,}" if size == WIDE else ""
        names = [f"{name}{counts.format(n)}" for name, n in compared.levels]
        axes.set_xticks(range(len(names)), names)
        if size != WIDE and sum(map(len, names)) > _LETTERS_ACROSS - 16:
            axes.tick_params(axis="x", rotation=90)
        axes.set(xlabel=f"{compared.axis}{counts and ', and number of questions'}", ylabel="right", ylim=(0, 1.06))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        _legend_above(axes, len(compared.series))
        return page_svg(figure, f"{compared.title} {size}")


@contextmanager
def page_style() -> Iterator[None]:
    """Draw for a page during the block. Names of models and sources may have dollar signs, which are no formulas."""
    with styled(PAGE), matplotlib.rc_context({"text.parse_math": False}):
        yield


def page_figure(size: tuple[float, float]) -> tuple[Figure, Any]:
    """Return a figure and its axes, both without a ground: the page's own shows through."""
    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


def step_axis(axes: Any, unit: str) -> None:
    """Count steps across, and name the unit upwards."""
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel(unit)


def _legend_above(axes: Any, columns: int) -> None:
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.3, "borderpad": 0}
    letters = sum(len(text) + 4 for text in axes.get_legend_handles_labels()[1])  # a box takes about four
    if letters > _LETTERS_ACROSS * axes.figure.get_figwidth() / SMALL[0]:
        columns = 1
    axes.legend(ncols=columns, columnspacing=1.2, handlelength=1, handleheight=0.9, fontsize=10, **place)


def page_svg(figure: Figure, title: str) -> str:
    """Return the figure as SVG that is part of a page: as wide as its place, with text that can be selected."""
    written = StringIO()
    plain = dict.fromkeys(("Date", "Creator", "Type", "Format"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that its own font lacks: the browser has others
        figure.savefig(written, format="svg", dpi=200, metadata=plain)
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\s(?:width|height)="[0-9.]+pt"', "", text, count=2)
    return re.sub("#0a0b[0-9a-f]{2}", lambda match: f"var(--{_VARIABLES[match[0]]})", text)
