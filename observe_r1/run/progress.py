"""The live view of a command: a panel on a terminal, plain lines in a log. It also takes Ctrl-C, and says so at once.

What is shown, and how it is drawn, is in `panel`; here is when.
"""

import math
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from observe_r1.run.interrupt import StopRequest, undisturbed
from observe_r1.run.panel import Activity, Status, activity_line, clock, draw_panel, stage_line, step_line

_SECONDS_BETWEEN_LINES = 5.0
"""Between the lines of two steps in a log, and between those of one stage."""
_LONGEST_SILENCE = 10.0
"""Seconds after which a log says what is being done."""
_BEAT = 0.25
"""Seconds between two looks at what has changed."""


class Progress:
    """Shows what a run is, what it is doing, its results and the time left; a context manager.

    On a terminal it redraws one panel. In a log each step is one line, and after ten silent seconds a line says what is
    being done. Metrics that a step does not have are left out. A run that fails before its first step leaves no panel
    behind.

    While the context lasts, the first Ctrl-C becomes a request in `stop`, and the view shows it.

    Args:
        label: Of the command: `train`.
        steps: Of the whole run, if they are known; may be set later.
        console: To draw on; standard error by default.
    """

    def __init__(self, label: str, steps: int | None = None, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.stop = StopRequest(self._acknowledge)
        self.resume_hint = "the same command with --run.resume"
        """What continues an interrupted run."""
        now = monotonic()
        self._status = Status(label, steps, started=now, pace_since=now)
        self._announced = False
        """Whether a log has its first line."""
        self._printed_at = now
        self._printed_step, self._printed_step_at = 0, -math.inf
        self._printed_stages: dict[str, float] = {}
        self._said_stopping = False
        self._open = False
        self._entered = ExitStack()
        self._closed = Event()
        self._thread = Thread(target=self._beat, daemon=True)
        self._live = None
        if self.console.is_terminal:
            here = sys.stdout is not None and sys.stdout.isatty()  # else what is printed would not go where it should
            self._live = Live(self, console=self.console, auto_refresh=False, redirect_stdout=here)

    @property
    def steps(self) -> int | None:
        """Steps of the whole run, if they are known."""
        return self._status.steps

    @steps.setter
    def steps(self, steps: int | None) -> None:
        self._status.steps = steps

    @property
    def line(self) -> str:
        """How far the latest stage is, in words."""
        return stage_line(self._status)

    def __enter__(self) -> Self:
        self._status.started = self._status.pace_since = monotonic()
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
        self._announced = True
        self._status.facts = facts
        if not self._live:
            described = "; ".join(f"{name} {fact}" for name, fact in facts.items())
            self.note(f"{self._status.label}: {described}")

    def start(self, step: int, done: float) -> None:
        """Say that the steps begin now: after `step` steps, with the share `done` of the run done; both 0 in a new run.

        The time left is estimated from here on.
        """
        self._status.step = self._printed_step = step
        self._status.done_before, self._status.pace_since = done, monotonic()

    def recall(self, rows: Iterable[tuple[int, dict[str, float]]]) -> None:
        """Take the steps, with their metrics, that earlier processes did: the panel draws them, and a log has them."""
        self._status.forget()
        for step, metrics in rows:
            self._status.take(step, metrics, monotonic())
            self._printed_step = step

    def now(self, what: str, total: int = 0, done: Callable[[], int] = int) -> None:
        """Show what is being done until the next call.

        Args:
            what: In words: `sampling`.
            total: How much of it there is; 0 if it is not counted.
            done: Says how much of it is done; called from another thread.
        """
        self._status.activity = Activity(what, total, done, monotonic())
        if not self._announced and not self._live:
            self.note(f"{self._status.label}: {what}")
        self._announced = True

    def stage(self, name: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` rows of a stage are done; each stage has a bar, or lines, of its own."""
        self._status.activity = None
        self._status.stages = self._status.stages | {
            name: (done, total)
        }  # another thread may iterate over the old ones
        printed_at = self._printed_stages.get(name, -math.inf)
        if not self._live and (done == total or monotonic() - printed_at >= _SECONDS_BETWEEN_LINES):
            self.note(self.line)
            self._printed_stages[name] = monotonic()

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Show the metrics of a step.

        Args:
            step: Steps done; 0 for the starting model's.
            metrics: With `progress` among them, the share of the run that is done.
        """
        self._status.take(step, metrics, monotonic())
        since = monotonic() - self._printed_step_at
        if not self._live and (since >= _SECONDS_BETWEEN_LINES or step == self.steps):
            self._print_step()

    def note(self, text: str) -> None:
        """Print a line of its own, above the panel; control characters in it are made harmless."""
        safe = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
        self.console.print(Text(safe), soft_wrap=True)
        self._printed_at = monotonic()

    def hand_over(self, what: str) -> None:
        """Say what is done from here on by somebody who draws bars of their own on a terminal: the panel ends there.

        Args:
            what: In words: `uploading 5 files`.
        """
        self.note(what)
        if self._live:
            self.close()
        else:
            self.now(what)

    def close(self) -> None:
        """Stop, and leave only the results; what is printed afterwards comes below them."""
        if not self._open:
            return
        self._open = False
        self._closed.set()
        self._thread.join()
        self._status.activity = None
        if self._live:
            self._status.stopping = ""  # the reader has seen it, and what came of it is said next
            self._live.transient = not self._status.stages and not self._status.metrics
            self._live.stop()
        else:
            self._say_what_is_new()
            if self._printed_step < self._status.step:
                self._print_step()

    def __rich__(self) -> Panel:
        """Draw the panel."""
        return draw_panel(self._status, monotonic(), trends=self.console.encoding.startswith("utf"))

    def _acknowledge(self, after: str) -> None:
        took = self._status.metrics.get("time/step", 0.0)
        pace = f" (the last step took {clock(took)})" if took >= 1 else ""
        self._status.stopping = f"stopping after {after}{pace}; a second Ctrl-C stops at once"

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT):
            if self._live:
                self._live.refresh()
            else:
                self._say_what_is_new()

    def _say_what_is_new(self) -> None:
        """Print into a log that the run was asked to stop, once, and after a long silence what is being done."""
        if self._status.stopping and not self._said_stopping:
            self._said_stopping = True
            self.note(self._status.stopping)
        activity = self._status.activity
        if activity and monotonic() - self._printed_at >= _LONGEST_SILENCE:
            self.note(activity_line(self._status, activity, monotonic()))

    def _print_step(self) -> None:
        self.note(step_line(self._status, monotonic()))
        self._printed_step, self._printed_step_at = self._status.step, monotonic()
