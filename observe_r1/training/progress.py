"""The live view of a run: a panel on a terminal, plain lines in a log."""

import math
from collections.abc import Sequence
from itertools import pairwise
from time import monotonic
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


class _Shown(NamedTuple):
    metric: str
    label: str
    form: str
    trend: bool = False


_RESULTS = (
    _Shown("sft/loss", "loss", "{:.4f}", trend=True),
    _Shown("reward/mean", "reward", "{:.3f}", trend=True),
    _Shown("reward/accuracy", "accuracy", "{:.1%}", trend=True),
    _Shown("evaluation/accuracy", "held-out", "{:.1%}", trend=True),
    _Shown("response/well_formed", "well formed", "{:.1%}"),
    _Shown("rollout/groups_used", "groups used", "{:.1%}"),
    _Shown("response/length", "length", "{:.0f} tokens"),
)
_SPEEDS = (
    _Shown("speed/sampling_tokens_per_s", "sampling", "{:,.0f} tokens/s"),
    _Shown("speed/scoring_tokens_per_s", "scoring", "{:,.0f} tokens/s"),
    _Shown("speed/updating_tokens_per_s", "updating", "{:,.0f} tokens/s"),
    _Shown("time/step", "step", "{:.2f} s"),
)
_BARS = "▁▂▃▄▅▆▇█"
_TREND_WIDTH = 16
_SECONDS_BETWEEN_LINES = 1.0


class Progress:
    """Shows step, results, speeds and time left; a context manager.

    On a terminal it redraws one panel. Elsewhere each step is one line, at most one a second, and the last
    step always. Metrics that a step does not have are left out.
    """

    def __init__(self, label: str, steps: int | None = None, console: Console | None = None) -> None:
        self.label = label
        self.steps = steps
        self.console = console or Console(stderr=True)
        self._step = 0
        self._metrics: dict[str, float] = {}
        self._evaluating = ""
        self._history: dict[str, list[float]] = {shown.metric: [] for shown in _RESULTS if shown.trend}
        self._started = self._printed_at = monotonic()
        self._printed_step = 0
        self._live = Live(self, console=self.console) if self.console.is_terminal else None

    def __enter__(self) -> Self:
        self._started = monotonic()
        if self._live:
            self._live.start()
        else:
            self.note(self.label)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        elif self._printed_step < self._step:
            self._print_line()

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Show the metrics of `step`, 0 for the starting model's; `progress` among them is the share of the run done.

        The figures of an evaluation stay until the next one.
        """
        held_out = {name: value for name, value in self._metrics.items() if name.startswith("evaluation/")}
        self._step, self._metrics, self._evaluating = step, held_out | metrics, ""
        for metric, values in self._history.items():
            if metric in metrics:
                values.append(metrics[metric])
        if not self._live and (
            step <= 1 or monotonic() - self._printed_at >= _SECONDS_BETWEEN_LINES or step == self.steps
        ):
            self._print_line()

    def evaluating(self, done: int, questions: int) -> None:
        """Show how far an evaluation has come, until the next `update`; a log has its result alone."""
        self._evaluating = f"evaluating {done:,}/{questions:,}"

    def note(self, text: str) -> None:
        """Print a line of its own, above the panel; control characters in it are made harmless."""
        safe = "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
        self.console.print(Text(safe), soft_wrap=True)

    def __rich__(self) -> Panel:
        """Draw the panel."""
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True)
        done = self._done
        head.add_row(self._step_text(), ProgressBar(total=1.0, completed=done), f"{done:.0%}  {self._times()}")
        body = Table.grid(padding=(0, 3, 0, 0))
        body.add_row(self._column(_RESULTS), self._column(_SPEEDS))
        outer = Table.grid(expand=True)
        outer.add_row(head)
        outer.add_row(body)
        subtitle = self._evaluating or None
        return Panel(
            outer, title=self.label, title_align="left", subtitle=subtitle, subtitle_align="left", border_style="dim"
        )

    @property
    def _done(self) -> float:
        return self._metrics.get("progress", 0.0)

    def _column(self, fields: Sequence[_Shown]) -> Table:
        column = Table.grid(padding=(0, 2, 0, 0))
        column.add_column(style="dim", no_wrap=True)
        column.add_column(justify="right", no_wrap=True)
        column.add_column(style="cyan", no_wrap=True)
        for shown in fields:
            if shown.metric in self._metrics:
                trend = sparkline(self._history[shown.metric]) if shown.trend else ""
                column.add_row(shown.label, shown.form.format(self._metrics[shown.metric]), trend)
        return column

    def _print_line(self) -> None:
        fields = [self._step_text()]
        fields += [
            f"{shown.label} {shown.form.format(self._metrics[shown.metric])}"
            for shown in (*_RESULTS, *_SPEEDS)
            if shown.metric in self._metrics
        ]
        self.note("  ".join([*fields, self._times()]))
        self._printed_at, self._printed_step = monotonic(), self._step

    def _step_text(self) -> str:
        return f"step {self._step:,}" + (f"/{self.steps:,}" if self.steps else "")

    def _times(self) -> str:
        elapsed = monotonic() - self._started
        if not self._done:
            return f"{_clock(elapsed)} elapsed"
        return f"{_clock(elapsed)} elapsed, {_clock(elapsed * (1 - self._done) / self._done)} left"


def sparkline(values: Sequence[float], width: int = _TREND_WIDTH) -> str:
    """Return `values` as at most `width` bars from lowest to highest, each the mean of its stretch."""
    known = [value for value in values if math.isfinite(value)]
    bins = min(width, len(known))
    edges = [len(known) * index // max(bins, 1) for index in range(bins + 1)]
    means = [sum(known[low:high]) / (high - low) for low, high in pairwise(edges)]
    if not means:
        return ""
    low, spread = min(means), (max(means) - min(means)) or 1.0
    return "".join(_BARS[round((mean - low) / spread * (len(_BARS) - 1))] for mean in means)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
