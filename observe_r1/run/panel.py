"""What the live view of a run shows: drawn as a panel for a terminal, or written as a line for a log.

`Status` holds what is known of the run; the functions below it turn that into text. None of them reads a clock or
prints.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


class PanelFigure(NamedTuple):
    """A metric that is shown."""

    metric: str
    label: str
    form: str
    """As `str.format` takes it; with `z` where rounding could give -0.0000."""
    trend: bool = False
    """Whether the panel draws its course over the run."""


RESULTS = (
    PanelFigure("sft/loss", "loss", "{:z.4f}", trend=True),
    PanelFigure("reward/mean", "reward", "{:z.3f}", trend=True),
    PanelFigure("reward/accuracy", "accuracy", "{:.1%}", trend=True),
    PanelFigure("evaluation/accuracy", "held-out", "{:.1%}", trend=True),
    PanelFigure("response/well_formed", "well formed", "{:.1%}"),
    PanelFigure("rollout/groups_used", "groups used", "{:.1%}"),
    PanelFigure("response/length", "length", "{:.0f} tokens"),
)
HEALTH = (
    PanelFigure("policy/reference_kl", "KL", "{:z.4f}"),
    PanelFigure("policy/approx_kl", "KL of update", "{:z.2g}"),
    PanelFigure("policy/entropy", "entropy", "{:z.3f}"),
    PanelFigure("response/truncated", "truncated", "{:.1%}"),
    PanelFigure("speed/sampling_tokens_per_s", "sampling", "{:,.0f} tokens/s"),
    PanelFigure("speed/updating_tokens_per_s", "updating", "{:,.0f} tokens/s"),
    PanelFigure("time/step", "step", "{:.2f} s"),
)
_BARS = "▁▂▃▄▅▆▇█"
_TREND_WIDTH = 16


def _no_history() -> dict[str, list[float]]:
    return {each.metric: [] for each in RESULTS if each.trend}


class Activity(NamedTuple):
    """What is being done now, and how much of it."""

    what: str
    total: int
    """0 if it is not counted."""
    done: Callable[[], int]
    started: float

    def __str__(self) -> str:
        return f"{self.what} {self.done():,}/{self.total:,}" if self.total else self.what


@dataclass
class Status:
    """What is known of a run. Times are seconds of one monotonic clock."""

    label: str
    steps: int | None
    """Of the whole run, if they are known."""
    started: float
    pace_since: float
    """When the first step of this process began: loading and a first evaluation are no part of its pace."""
    step: int = 0
    done_before: float = 0.0
    """The share of the run that earlier processes did."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the latest step; an evaluation's stay until the next evaluation."""
    history: dict[str, list[float]] = field(default_factory=_no_history)
    facts: dict[str, str] = field(default_factory=dict)
    stages: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    """Rows done and their total, by stage."""
    activity: Activity | None = None
    stopping: str = ""
    """What happens next, once the run was asked to stop."""

    def forget(self) -> None:
        """Forget all steps: a run that has lost a rank starts again from a checkpoint."""
        self.metrics, self.history = {}, _no_history()

    def take(self, step: int, metrics: dict[str, float], now: float) -> None:
        """Take the metrics of `step`; those that do not advance the run, an evaluation's, start its pace anew."""
        held_out = {name: value for name, value in self.metrics.items() if name.startswith("evaluation/")}
        self.step, self.metrics = step, held_out | metrics
        if self.done() <= self.done_before:
            self.pace_since = now
        for metric, values in self.history.items():
            if metric in metrics:
                values.append(metrics[metric])

    def done(self) -> float:
        """Return the share of the run that is done, in [0, 1]."""
        return self.metrics.get("progress", self.done_before)

    def step_text(self) -> str:
        """Return `step 3/12`, or `step 3` if the total is not known."""
        return f"step {self.step:,}" + (f"/{self.steps:,}" if self.steps else "")

    def times(self, now: float) -> str:
        """Return how long the process has run and, once it has advanced the run, how long it still needs."""
        done_here = self.done() - self.done_before
        left = f", {clock((now - self.pace_since) * (1 - self.done()) / done_here)} left" if done_here > 0 else ""
        return f"{clock(now - self.started)} elapsed{left}"

    def figures(self, shown: Sequence[PanelFigure]) -> list[tuple[PanelFigure, str]]:
        """Return those of `shown` that the run has, with their values as text."""
        metrics = self.metrics  # another thread may replace them meanwhile
        return [(each, each.form.format(metrics[each.metric])) for each in shown if each.metric in metrics]


def step_line(status: Status, now: float) -> str:
    """Return the latest step as a line of a log."""
    figures = [f"{figure.label} {value}" for figure, value in status.figures((*RESULTS, *HEALTH))]
    return "  ".join([status.step_text(), *figures, status.times(now)])


def activity_line(status: Status, activity: Activity, now: float) -> str:
    """Return what is being done as a line of a log."""
    where = ""
    if status.stages:
        where = f"{stage_line(status)}, "
    elif status.step:
        where = f"{status.step_text()}  "
    return f"{where}{activity}  {clock(now - status.started)} elapsed"


def stage_line(status: Status) -> str:
    """Return how far the latest stage is, in words."""
    if not status.stages:
        return "nothing done yet"
    name, (done, total) = list(status.stages.items())[-1]
    return f"{name}: {done:,}" + ("" if total is None else f" of {total:,}") + " questions"


def draw_panel(status: Status, now: float, *, trends: bool) -> Panel:
    """Return the panel of a terminal; `trends` says whether the terminal can show their bars."""
    outer = Table.grid(expand=True)
    if status.facts:
        facts = Table.grid(padding=(0, 2, 0, 0))
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(overflow="fold")
        for name, fact in status.facts.items():
            facts.add_row(name, Text(fact))
        outer.add_row(facts)
    if status.stages:
        outer.add_row(_stage_bars(status))
    elif status.facts or status.metrics:
        outer.add_row(_head(status, now))
    if status.metrics:
        body = Table.grid(padding=(0, 3, 0, 0))
        body.add_row(_column(status, RESULTS, trends), _column(status, HEALTH, trends))
        outer.add_row(body)
    if activity := status.activity:
        outer.add_row(Text.assemble("now  ", (str(activity), "cyan"), f"  {clock(now - activity.started)}"))
    if status.stopping:
        outer.add_row(Text(status.stopping, style="bold yellow"))
    return Panel(outer, title=Text(status.label), title_align="left", border_style="dim")


def _head(status: Status, now: float) -> Table:
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(no_wrap=True)
    head.add_column(ratio=1)
    head.add_column(no_wrap=True)
    done = status.done()
    head.add_row(status.step_text(), ProgressBar(total=1.0, completed=done), f"{done:.0%}  {status.times(now)}")
    return head


def _stage_bars(status: Status) -> Table:
    bars = Table.grid(padding=(0, 2), expand=True)
    bars.add_column(overflow="fold")
    bars.add_column(ratio=1)
    bars.add_column(no_wrap=True, justify="right")
    for name, (done, total) in status.stages.items():
        bar = ProgressBar(total=total or None, completed=done if total else 0, pulse=total is None)
        bars.add_row(Text(name), bar, f"{done:,}" + ("" if total is None else f"/{total:,}"))
    return bars


def _column(status: Status, shown: Sequence[PanelFigure], trends: bool) -> Table:
    column = Table.grid(padding=(0, 2, 0, 0))
    column.add_column(style="dim", no_wrap=True)
    column.add_column(justify="right", no_wrap=True)
    column.add_column(style="cyan", no_wrap=True)
    for figure, value in status.figures(shown):
        trend = sparkline(status.history[figure.metric]) if figure.trend and trends else ""
        column.add_row(figure.label, value, trend)
    return column


def sparkline(values: Sequence[float], width: int = _TREND_WIDTH, span: tuple[float, float] | None = None) -> str:
    """Return `values` as at most `width` bars, each the mean of its stretch.

    Args:
        values: In their order.
        width: Bars at most.
        span: The lowest and the highest bar, for curves on one scale; by default those of `values`.
    """
    known = [value for value in values if math.isfinite(value)]
    bins = min(width, len(known))
    edges = [len(known) * index // max(bins, 1) for index in range(bins + 1)]
    means = [sum(known[low:high]) / (high - low) for low, high in pairwise(edges)]
    if not means:
        return ""
    low, high = span or (min(means), max(means))
    spread = (high - low) or 1.0
    return "".join(_BARS[round((mean - low) / spread * (len(_BARS) - 1))] for mean in means)


def clock(seconds: float) -> str:
    """Return a duration as `minutes:seconds`, or `hours:minutes:seconds`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
