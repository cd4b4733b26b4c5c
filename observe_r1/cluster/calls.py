"""Calls that all ranks take together, and what it means when one of them fails.

Ranks wait for each other, so the first error that arrives is often not the cause: a rank whose neighbour was killed
says that its connection broke. What tells the two apart is not the error but the ranks: each answers a question
(`alive`) beside its work; one that was killed, or that has stopped, does not.

    what is seen                                            what it was         what is raised
    a call's process is gone, or a rank does not answer     a rank is lost      RankLostError
    an error, all ranks answer                              bad input or a bug  that error, with its rank's traceback
    an error, all answer, the call took `cluster.timeout`   a wait in vain      RankLostError
    some ranks have ended `cluster.timeout` ago             a rank hangs        RankLostError
    all answer, no weights arrive in `cluster.timeout`      a wait in vain      RankLostError
"""

from collections.abc import Sequence
from time import monotonic
from typing import Any

import ray
from ray import exceptions

from observe_r1.cluster import RankLostError
from observe_r1.errors import UserError

_LOOK = 0.2
"""Seconds that a look for what has ended waits, at most: Ctrl-C wants to be heard."""
_BEAT = 10.0
"""Seconds between two questions whether a rank is there."""
_PATIENCE = 60.0
"""Seconds in which a rank answers that is there: its Python may be busy in a function that lets no other thread run."""
_TOGETHER = 10.0
"""Seconds in which ranks end that refuse the same thing: one may be a pass behind another."""
_GONE = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.LocalRayletDiedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
    exceptions.ActorPlacementGroupRemoved,
)
"""What Ray raises if a process or its machine is gone, or what they held."""


def collect(
    references: Sequence[Any],
    ranks: Sequence[Any] = (),
    *,
    timeout: float = float("inf"),
    limit: float = float("inf"),
) -> list[Any]:
    """Wait for calls that were made together, and return their results in order.

    Args:
        references: One per call.
        ranks: The actors that wait for each other in the calls; each has a method `alive`.
        timeout: Seconds that ranks may wait for each other.
        limit: Seconds that the calls may take, for those that have no limit of their own: NCCL waits without end.

    Raises:
        RankLostError: A process died or hangs.
        UserError: A call raised it.
        Exception: Another one that a call raised, caused by a `RayTaskError` that shows its traceback.
    """
    watch, waiting, first, begun = _Watch(ranks, timeout), list(references), None, monotonic()
    while waiting:
        done, waiting = ray.wait(waiting, timeout=_LOOK)
        for reference in done:
            try:
                ray.get(reference)
            except exceptions.RayTaskError as error:
                watch.examine(error)
                if not isinstance(error.cause, UserError):
                    raise error.cause from error
                if waiting:
                    ray.wait(waiting, num_returns=len(waiting), timeout=_TOGETHER)
                raise error.cause from None
            except _GONE as error:
                if getattr(error, "actor_init_failed", False):
                    raise
                raise RankLostError(f"a process has died: {last_line(error)}") from error
        if done:
            first = first or monotonic()
        if first and waiting and monotonic() - first > timeout:
            raise RankLostError(f"a rank hangs: others ended over {timeout:.0f} s (cluster.timeout) before it")
        watch.look()
        if waiting and monotonic() - begun > limit:
            raise RankLostError(f"ranks or engines waited in vain for each other for {limit:.0f} s (cluster.timeout)")
    return ray.get(list(references))


class _Watch:
    """Asks ranks, while they work, whether they are there.

    Args:
        ranks: Their actors.
        timeout: Seconds after which one that does not answer hangs.
    """

    def __init__(self, ranks: Sequence[Any], timeout: float) -> None:
        self._ranks, self._timeout = ranks, timeout
        self._since = self._asked = monotonic()
        self._open: list[Any] = []

    def look(self) -> None:
        """Ask again if it is time, and see who has answered. Raises: RankLostError: one hangs, or is gone."""
        if not self._open and monotonic() - self._asked > _BEAT:
            self._ask()
        if self._open and self._answers(0.0) and monotonic() - self._asked > self._timeout:
            raise RankLostError(f"a rank hangs: no answer in {self._timeout:.0f} s (cluster.timeout)")

    def examine(self, error: exceptions.RayTaskError) -> None:
        """Return where `error` is its rank's own fault.

        Raises:
            RankLostError: It is not: another rank is gone or hangs.
        """
        if isinstance(error.cause, _GONE):
            raise RankLostError(f"a process has died: {last_line(error)}") from error
        self._ask()
        patience = min(_PATIENCE, self._timeout)
        if self._answers(patience):
            raise RankLostError(f"a rank hangs: no answer in {patience:.0f} s; another said: {last_line(error)}")
        if monotonic() - self._since >= self._timeout and not isinstance(error.cause, UserError):
            raise RankLostError(f"ranks waited in vain for each other: {last_line(error)}") from error

    def _ask(self) -> None:
        self._asked, self._open = monotonic(), [rank.alive.remote() for rank in self._ranks]

    def _answers(self, patience: float) -> list[Any]:
        """Return the questions that nobody answers in `patience` seconds. Raises: RankLostError: a rank is gone."""
        until = monotonic() + patience
        while self._open:
            done, self._open = ray.wait(self._open, timeout=max(0.0, min(_LOOK, until - monotonic())))
            for answer in done:
                try:
                    ray.get(answer)
                except _GONE as error:
                    raise RankLostError(f"a process has died: {last_line(error)}") from error
            if not done and monotonic() >= until:
                break
        return self._open


def last_line(error: Exception) -> str:
    """Return the last line of an error's message, cut to a line's length."""
    return str(error).strip().splitlines()[-1].strip()[:200]
