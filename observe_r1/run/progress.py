"""The live view of a run: a panel on a terminal, plain lines in a log. It also takes Ctrl-C, and says so at once."""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from observe_r1.run.interrupt import StopRequest, undisturbed


class _Shown(NamedTuple):
    metric: str
    label: str
    form: str
    """With `z`, where the figure can round to zero from below: no -0.0000."""
    trend: bool = False


_RESULTS = (
    _Shown("sft/loss", "loss", "{:z.4f}", trend=True),
    _Shown("reward/mean", "reward", "{:z.3f}", trend=True),
    _Shown("reward/accuracy", "accuracy", "{:.1%}", trend=True),
    _Shown("evaluation/accuracy", "held-out", "{:.1%}", trend=True),
    _Shown("response/well_formed", "well formed", "{:.1%}"),
    _Shown("rollout/groups_used", "groups used", "{:.1%}"),
    _Shown("response/length", "length", "{:.0f} tokens"),
)
_HEALTH = (
    _Shown("policy/reference_kl", "KL", "{:z.4f}"),
    _Shown("policy/approx_kl", "KL of update", "{:z.2g}"),
    _Shown("policy/entropy", "entropy", "{:z.3f}"),
    _Shown("response/truncated", "truncated", "{:.1%}"),
    _Shown("speed/sampling_tokens_per_s", "sampling", "{:,.0f} tokens/s"),
    _Shown("speed/updating_tokens_per_s", "updating", "{:,.0f} tokens/s"),
    _Shown("time/step", "step", "{:.2f} s"),
)
_BARS = "▁▂▃▄▅▆▇█"
_TREND_WIDTH = 16
_SECONDS_BETWEEN_LINES = 5.0
"""From one step's line in a log to the next one's, and from a stage's to its next."""
_LONGEST_SILENCE = 10.0
"""Seconds after which a log says what is being done."""
_BEAT = 0.25
"""Seconds between two looks at what has changed."""


class _Activity(NamedTuple):
    what: str
    total: int
    done: Callable[[], int]
    started: float

    def __str__(self) -> str:
        count = f" {self.done():,}/{self.total:,}" if self.total else ""
        return f"{self.what}{count}"


class Progress:
    """Shows what a run is, what it is doing, results and time left; a context manager.

    On a terminal it redraws one panel. In a log a step is one line, and where nothing has been printed for ten seconds,
    what is being done is one. Metrics that a step does not have are left out. A run that fails before its first step
    leaves no panel behind.

    The first Ctrl-C inside is a request in `stop`, shown here.
    """

    def __init__(self, label: str, steps: int | None = None, console: Console | None = None) -> None:
        self.label = label
        self.steps = steps
        self.console = console or Console(stderr=True)
        self.stop = StopRequest(self._acknowledge)
        self.again = "the same command with --run.resume"
        """What goes on with an interrupted run."""
        self.line = "nothing done yet"
        """How far the latest stage is, in words."""
        self._step = 0
        self._done_before = 0.0
        """Share of the run that an earlier process has done."""
        self._metrics: dict[str, float] = {}
        self._history: dict[str, list[float]] = {shown.metric: [] for shown in _RESULTS if shown.trend}
        self._facts: dict[str, str] = {}
        self._stages: dict[str, tuple[int, int | None]] = {}
        self._printed_stages: dict[str, float] = {}
        self._activity: _Activity | None = None
        self._stopping = ""
        self._said_stopping = False
        self._started = self._ready = self._printed_at = monotonic()
        self._printed_step, self._printed_step_at = 0, -math.inf
        self._begun = self._open = False
        self._entered = ExitStack()
        self._closed = Event()
        self._thread = Thread(target=self._beat, daemon=True)
        self._live = None
        if self.console.is_terminal:
            here = sys.stdout is not None and sys.stdout.isatty()  # else what is printed would not go where it should
            self._live = Live(self, console=self.console, auto_refresh=False, redirect_stdout=here)

    def __enter__(self) -> Self:
        self._started = self._ready = monotonic()
        self._open = True
        with ExitStack() as stack:
            stack.enter_context(self.stop)
            if self._live:
                stack.enter_context(undisturbed())
                self._live.start(refresh=True)
            self._thread.start()
            self._entered = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            self._entered.close()

    def about(self, **facts: str) -> None:
        """Say what the run is: its model, data, device and folder; in a log this is one line."""
        self._facts, self._begun, self._ready = facts, True, monotonic()
        if not self._live:
            self.note(f"{self.label}: " + "; ".join(f"{name} {fact}" for name, fact in facts.items()))

    def going_on(self, step: int, done: float) -> None:
        """Start after `step`, where the share `done` of the run is done; 0 for a new run."""
        self._step = self._printed_step = step
        self._done_before = done

    def now(self, what: str, total: int = 0, done: Callable[[], int] = int) -> None:
        """Show what is being done until the next call, and how far it is; `done` is asked from another thread."""
        self._activity = _Activity(what, total, done, monotonic())
        if not self._begun and not self._live:
            self.note(f"{self.label}: {what}")
        self._begun = True

    def stage(self, name: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` rows of a stage are worked through; each stage has a bar or lines of its own."""
        self._activity = None
        self._stages = self._stages | {name: (done, total)}  # another thread may be going over the old ones
        self.line = f"{name}: {done:,}" + ("" if total is None else f" of {total:,}") + " questions"
        printed_at = self._printed_stages.get(name, -math.inf)
        if not self._live and (done == total or monotonic() - printed_at >= _SECONDS_BETWEEN_LINES):
            self.note(self.line)
            self._printed_stages[name] = monotonic()

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Show the metrics of `step`, 0 for the starting model's; `progress` among them is the share of the run done.

        The figures of an evaluation stay until the next one.
        """
        held_out = {name: value for name, value in self._metrics.items() if name.startswith("evaluation/")}
        self._step, self._metrics = step, held_out | metrics
        for metric, values in self._history.items():
            if metric in metrics:
                values.append(metrics[metric])
        since = monotonic() - self._printed_step_at
        if not self._live and (since >= _SECONDS_BETWEEN_LINES or step == self.steps):
            self._print_step()

    def note(self, text: str) -> None:
        """Print a line of its own, above the panel; control characters in it are made harmless."""
        safe = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
        self.console.print(Text(safe), soft_wrap=True)
        self._printed_at = monotonic()

    def __rich__(self) -> Panel:
        """Draw the panel."""
        outer = Table.grid(expand=True)
        if self._facts:
            facts = Table.grid(padding=(0, 2, 0, 0))
            facts.add_column(style="dim", no_wrap=True)
            facts.add_column(overflow="fold")
            for name, fact in self._facts.items():
                facts.add_row(name, Text(fact))
            outer.add_row(facts)
        if self._stages:
            outer.add_row(self._stage_bars())
        elif self._facts or self._metrics:
            outer.add_row(self._head())
        if self._metrics:
            body = Table.grid(padding=(0, 3, 0, 0))
            body.add_row(self._column(_RESULTS), self._column(_HEALTH))
            outer.add_row(body)
        if activity := self._activity:
            outer.add_row(
                Text.assemble("now  ", (str(activity), "cyan"), f"  {_clock(monotonic() - activity.started)}")
            )
        if self._stopping:
            outer.add_row(Text(self._stopping, style="bold yellow"))
        return Panel(outer, title=Text(self.label), title_align="left", border_style="dim")

    def _head(self) -> Table:
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True)
        done = self._done()
        head.add_row(self._step_text(), ProgressBar(total=1.0, completed=done), f"{done:.0%}  {self._times()}")
        return head

    def _stage_bars(self) -> Table:
        bars = Table.grid(padding=(0, 2), expand=True)
        bars.add_column(overflow="fold")
        bars.add_column(ratio=1)
        bars.add_column(no_wrap=True, justify="right")
        for name, (done, total) in self._stages.items():
            bar = ProgressBar(total=total or None, completed=done if total else 0, pulse=total is None)
            bars.add_row(Text(name), bar, f"{done:,}" + ("" if total is None else f"/{total:,}"))
        return bars

    def _column(self, fields: Sequence[_Shown]) -> Table:
        column = Table.grid(padding=(0, 2, 0, 0))
        column.add_column(style="dim", no_wrap=True)
        column.add_column(justify="right", no_wrap=True)
        column.add_column(style="cyan", no_wrap=True)
        for shown, value in self._present(fields):
            drawable = shown.trend and self.console.encoding.startswith("utf")
            trend = sparkline(self._history[shown.metric]) if drawable else ""
            column.add_row(shown.label, shown.form.format(value), trend)
        return column

    def _present(self, fields: Sequence[_Shown]) -> list[tuple[_Shown, float]]:
        metrics = self._metrics  # `update` puts others in their place
        return [(shown, metrics[shown.metric]) for shown in fields if shown.metric in metrics]

    def _acknowledge(self, text: str) -> None:
        self._stopping = text

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT):
            if self._live:
                self._live.refresh()
            else:
                self._say_what_is_new()

    def _say_what_is_new(self) -> None:
        """Print into a log that the run was asked to stop, once, and what is being done where it was long silent."""
        if self._stopping and not self._said_stopping:
            self._said_stopping = True
            self.note(self._stopping)
        activity = self._activity
        if activity and monotonic() - self._printed_at >= _LONGEST_SILENCE:
            where = f"{self.line}, " if self._stages else f"{self._step_text()}  " if self._step else ""
            self.note(f"{where}{activity}  {_clock(monotonic() - self._started)} elapsed")

    def close(self) -> None:
        """Show nothing more but the results; what is printed afterwards stands below them."""
        if not self._open:
            return
        self._open = False
        self._closed.set()
        self._thread.join()
        self._activity = None
        if self._live:
            self._stopping = ""  # it has been seen, and what came of it is said next
            self._live.transient = not self._stages and not self._metrics
            self._live.stop()
        else:
            self._say_what_is_new()
            if self._printed_step < self._step:
                self._print_step()

    def _print_step(self) -> None:
        present = self._present((*_RESULTS, *_HEALTH))
        fields = [f"{shown.label} {shown.form.format(value)}" for shown, value in present]
        self.note("  ".join([self._step_text(), *fields, self._times()]))
        self._printed_step, self._printed_step_at = self._step, monotonic()

    def _step_text(self) -> str:
        return f"step {self._step:,}" + (f"/{self.steps:,}" if self.steps else "")

    def _done(self) -> float:
        return self._metrics.get("progress", self._done_before)

    def _times(self) -> str:
        elapsed, done = monotonic() - self._started, self._done()
        here = done - self._done_before
        left = f", {_clock((monotonic() - self._ready) * (1 - done) / here)} left" if here > 0 else ""
        return f"{_clock(elapsed)} elapsed{left}"


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
