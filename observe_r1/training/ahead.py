"""Sampling ahead: later steps are sampled in a background thread while the loop trains an earlier one.

With `ahead` = 2, while step 5 is trained:

    step               5           6          7              8
    its groups     in training   waiting   being sampled   not begun: step 6 must be handed out first
    weights        4             3 or 4    3, 4, then 5

The groups of step n train the weights of version n − 1, and the first of their tokens is drawn no earlier than when
step n − `ahead` was handed out, by version n − `ahead` − 1 or a later one: tokens are at most `ahead` versions old,
leftovers at most `ahead` + `rollout.max_age`. A response in flight when weights are published goes on under them.

One step is sampled after the other, each from where the one before left the sampler: prompts are drawn, and pass rates
recorded, in the order of a run that does not sample ahead. The loop and the recorder see the sampler as it was after
the groups handed out last, so that a resumed run draws the prompts that were ahead again.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition
from types import TracebackType
from typing import Any, NoReturn, Self

from observe_r1.records import Group
from observe_r1.threads import in_daemon_thread
from observe_r1.training.sampler import GroupSampler, StoppedError


@dataclass(slots=True)
class _Position:
    """A sampler between two steps."""

    state: dict[str, Any]
    drawn: int
    dropped: int
    exhausted: bool


@dataclass(slots=True)
class _Rollout:
    """A step that has been sampled."""

    groups: list[Group]
    sampled: list[Group]
    metrics: dict[str, float]
    after: _Position
    """Where it left the sampler."""


class AheadSampler:
    """Gives the groups of each step, sampled up to `ahead` steps before they are asked for; a context manager.

    Needs an engine that samples in one thread while another publishes weights or samples too (an evaluation).

    Args:
        sampler: Samples one step. It belongs to the background thread from the first `next_groups` on.
        ahead: Steps, at least 1. Without any, the loop takes `sampler` itself.
        last: The run's last step, if it is known: no later one is sampled before it is asked for.
    """

    def __init__(self, sampler: GroupSampler, ahead: int, last: int | None = None) -> None:
        self.sampler = sampler
        self.ahead = ahead
        self.last = last
        self.sampled: list[Group] = []
        """Every group sampled for the step handed out last, or for the one that failed, without its images."""
        self.metrics: dict[str, float] = {}
        """Of the step handed out last."""
        self._position = self._positioned()
        """After the step handed out last."""
        self._thread: Future[NoReturn] | None = None
        self._now, sampler.now = sampler.now, self._told
        # What both threads use, under the lock of `_changed`:
        self._changed = Condition()
        self._ready: deque[_Rollout] = deque()
        self._handed_out = 0
        """The step handed out last."""
        self._asked = False
        """Whether the loop is waiting for a step."""
        self._doing: tuple[Any, ...] = ()
        """What the background thread does, for `now`."""

    @property
    def drawn(self) -> int:
        """Prompts drawn for the steps handed out, dropped ones included."""
        return self._position.drawn

    @property
    def dropped(self) -> int:
        """Prompts over the token limit among them."""
        return self._position.dropped

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left after the steps handed out: no prompt to draw, and no leftover."""
        return self._position.exhausted

    def next_groups(self) -> list[Group]:
        """Return the groups of the next step, and let one more be sampled; see `GroupSampler.next_groups`.

        Raises:
            UserError: As there; the steps sampled before it have been handed out.
        """
        started = time.perf_counter()
        thread = self._thread or self._start()
        with self._changed:
            self._asked = True
            self._changed.notify_all()
            if not self._ready and self._doing:
                self._now(*self._doing)
            try:
                self._changed.wait_for(lambda: self._ready or thread.done())
            finally:
                self._asked = False
            if not self._ready:
                self.sampled = self.sampler.sampled
                thread.result()  # raises what ended it
            rollout = self._ready.popleft()
            self._handed_out += 1
            self._changed.notify_all()
        self.sampled, self._position = rollout.sampled, rollout.after
        self.metrics = rollout.metrics | {"time/waiting_for_sampling": time.perf_counter() - started}
        return rollout.groups

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state after the step handed out last: what was sampled ahead is no part of it."""
        return dict(self._position.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state`; possible before the first step only."""
        assert self._thread is None
        self.sampler.load_state_dict(state)
        self._position = self._positioned()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let sampling end with the next group that is done, without waiting for it: it may be a long one."""
        with self._changed:
            self.sampler.stopping = True
            self._changed.notify_all()

    def _positioned(self) -> _Position:
        sampler = self.sampler
        return _Position(sampler.state_dict(), sampler.drawn, sampler.dropped, sampler.exhausted)

    def _start(self) -> "Future[NoReturn]":
        self._handed_out = self.sampler.engine.version
        self._thread = in_daemon_thread(self._sample_ahead, self._handed_out + 1)
        self._thread.add_done_callback(self._ended)
        return self._thread

    def _ended(self, thread: "Future[NoReturn]") -> None:
        with self._changed:
            self._changed.notify_all()

    # The background thread

    def _sample_ahead(self, step: int) -> NoReturn:
        """Sample `step` and those after it, until an error."""
        while True:
            self._sample(step)
            step += 1

    def _sample(self, step: int) -> None:
        """Sample `step` as soon as it may be, for the weights that it trains."""
        started, sampler = time.perf_counter(), self.sampler
        with self._changed:
            self._doing = ()
            self._changed.wait_for(lambda: sampler.stopping or self._may_begin(step))
            if sampler.stopping:
                raise StoppedError
        waited = time.perf_counter() - started
        groups = sampler.next_groups(step - 1)
        metrics = sampler.metrics | {"time/waiting_for_training": waited}
        rollout = _Rollout(groups, sampler.sampled, metrics, self._positioned())
        with self._changed:
            self._ready.append(rollout)
            self._changed.notify_all()

    def _may_begin(self, step: int) -> bool:
        return step <= self._handed_out + self.ahead and (self._asked or self.last is None or step <= self.last)

    def _told(self, what: str, total: int = 0, done: Callable[[], int] = int) -> None:
        """Take what the background thread does; it is shown while the loop waits for it."""
        with self._changed:
            self._doing = what, total, done
            if self._asked:
                self._now(what, total, done)
