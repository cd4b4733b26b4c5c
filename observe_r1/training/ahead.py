"""Sampling ahead: later steps are sampled in a background thread while the loop trains an earlier one.

With `ahead` = 2, while step 5 is trained:

    step               5           6          7              8
    its groups     in training   waiting   being sampled   not begun: step 6 must be handed out first
    weights        4             3 or 4    3, 4, then 5

The groups of step n train the weights of version n − 1, and the first of their tokens is drawn no earlier than when step
n − `ahead` was handed out, by version n − `ahead` − 1 or a later one: tokens are at most `ahead` versions old, leftovers
at most `ahead` + `rollout.max_age`. A response in flight when weights are published goes on under them.

One step is sampled after the other, each from where the one before left the sampler: prompts are drawn, and pass rates
recorded, in the order of a run that does not sample ahead. What the loop and the recorder see is the sampler as it was
when it had sampled the groups handed out last, so that a resumed run draws again the prompts that were ahead.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition
from types import TracebackType
from typing import Any, Self

from observe_r1.records import Group
from observe_r1.threads import in_daemon_thread
from observe_r1.training.sampler import GroupSampler


@dataclass(slots=True)
class _Position:
    """A sampler between two steps."""

    state: dict[str, Any]
    drawn: int
    dropped: int
    exhausted: bool


@dataclass(slots=True)
class _Rollout:
    """What came of sampling one step: its groups, or an error."""

    groups: list[Group]
    sampled: list[Group]
    metrics: dict[str, float]
    after: _Position | None
    """Where it left the sampler; None where there is an error."""
    error: BaseException | None = None


class AheadSampler:
    """Gives the groups of each step, sampled up to `ahead` steps before they are asked for; a context manager.

    Needs an engine that samples in one thread while another publishes weights or samples, too (an evaluation). With
    `ahead` = 0 there is no thread, and the engine may be any.

    Args:
        sampler: Samples one step. It belongs to the background thread from the first `next_groups` on.
        ahead: Steps.
        last: The number of the run's last step, where it is known: none beyond is sampled ahead.
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
        self._thread: Future[None] | None = None
        # What both threads use, under the lock of `_changed`:
        self._changed = Condition()
        self._ready: deque[_Rollout] = deque()
        self._handed_out = 0
        """The step handed out last."""
        self._asked = False
        """Whether the loop is waiting for a step."""
        self._stopping = False
        self._doing: tuple[Any, ...] = ()
        """What the background thread does, for `now`."""
        self._now = sampler.now
        if ahead:
            sampler.now = self._told

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
        """Return the groups of the next step; see `GroupSampler.next_groups`.

        Raises:
            UserError: As there; the steps sampled before it have been handed out.
        """
        rollout = self._take() if self.ahead else self._sample(self.sampler.engine.version)
        self.sampled = rollout.sampled
        if rollout.after is None:
            assert rollout.error is not None
            raise rollout.error
        self.metrics, self._position = rollout.metrics, rollout.after
        return rollout.groups

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state after the step handed out last: what was sampled ahead is no part of it."""
        return self._position.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state`; what was sampled ahead is dropped."""
        self._stop()
        if self._thread is not None:
            self._thread.result()
        self._thread, self._stopping, self.sampler.stopping = None, False, False
        self._ready.clear()
        self.sampler.load_state_dict(state)
        self._position = self._positioned()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop sampling with the next group that is done, without waiting for it: a long response would hold up Ctrl-C."""
        self._stop()

    def _stop(self) -> None:
        with self._changed:
            self._stopping = self.sampler.stopping = True
            self._changed.notify_all()

    def _positioned(self) -> _Position:
        sampler = self.sampler
        return _Position(sampler.state_dict(), sampler.drawn, sampler.dropped, sampler.exhausted)

    def _sample(self, version: int) -> _Rollout:
        """Sample a step that trains the weights of `version`."""
        sampler = self.sampler
        try:
            groups = sampler.next_groups(version)
            return _Rollout(groups, sampler.sampled, sampler.metrics, self._positioned())
        except BaseException as error:  # noqa: BLE001  (it is raised where the step is asked for)
            return _Rollout([], sampler.sampled, {}, None, error)

    # The loop's thread

    def _take(self) -> _Rollout:
        """Wait for the next step, and let the thread begin one more."""
        if self._thread is None:
            self._handed_out = self.sampler.engine.version
            self._thread = in_daemon_thread(self._sample_ahead, self._handed_out + 1)
        started = time.perf_counter()
        with self._changed:
            self._asked = True
            if not self._ready and self._doing:
                self._now(*self._doing)
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._ready)
            finally:
                self._asked = False
            if self._ready[0].error is not None:
                return self._ready[0]  # it stays: nothing comes after it
            rollout = self._ready.popleft()
            self._handed_out += 1
            self._changed.notify_all()
        rollout.metrics["time/waiting_for_sampling"] = time.perf_counter() - started
        return rollout

    # The background thread

    def _sample_ahead(self, step: int) -> None:
        """Sample `step` and those after it, until one fails or sampling is stopped."""
        while True:
            started = time.perf_counter()
            with self._changed:
                self._doing = ()
                self._changed.wait_for(lambda: self._stopping or self._may_begin(step))  # noqa: B023
                if self._stopping:
                    return
            waited = time.perf_counter() - started
            rollout = self._sample(step - 1)
            rollout.metrics["time/waiting_for_training"] = waited
            with self._changed:
                self._ready.append(rollout)
                self._changed.notify_all()
            if rollout.error is not None:
                return
            step += 1

    def _may_begin(self, step: int) -> bool:
        return step <= self._handed_out + self.ahead and (self._asked or self.last is None or step <= self.last)

    def _told(self, what: str, total: int = 0, done: Callable[[], int] = int) -> None:
        """Take what the background thread does; it is shown while the loop waits for it."""
        with self._changed:
            self._doing = what, total, done
            if self._asked:
                self._now(what, total, done)
