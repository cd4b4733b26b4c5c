"""One engine's place in the pool of engines (`engines`), whatever process has it."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from observe_r1.cluster.engine_actor import EngineActor
from observe_r1.errors import UserError
from observe_r1.records import Prompt, Sampling
from observe_r1.rollout.engine import Done

_AT_ONCE = 100_000
"""Calls that an actor takes at once: one per prompt that it has."""


class EngineLostError(Exception):
    """An engine that has to start again."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(reason)
        self.what = what
        """`has died` or `hangs`."""


@dataclass(eq=False)
class Request:
    """A prompt that waits, or that an engine has."""

    number: int
    prompt: Prompt
    sampling: Sampling
    done: Done
    thread: int
    """Which added it, and is the one to be told."""


@dataclass(eq=False)
class Seat:
    """An engine's place."""

    index: int
    options: Mapping[str, Any]
    """Of Ray's, for the actor."""
    actor: Any = None
    since: float = 0.0
    """When it began to start."""
    started: bool = False
    ready: bool = False
    """Whether it has the current weights, too."""
    room: int = 0
    """Responses that it can take now."""
    given: int = 0
    """Prompts that it was given since it started."""
    asking: bool = False
    """Whether it has been asked when it has room."""
    process: tuple[str, int] | None = None
    """Its machine, by Ray's id, and its number there; None until it has started."""
    calls: dict[Any, Request] = field(default_factory=dict)
    _beat: Any = None
    """A question whether it still works, and when it was asked."""
    _asked: float = 0.0

    def start(self, *arguments: Any) -> Any:
        """Start a process of its own, and return the call that starts the engine in it; see `EngineActor.start`."""
        options = {"num_cpus": 0, "max_concurrency": _AT_ONCE} | dict(self.options)
        self.actor = ray.remote(EngineActor).options(**options).remote()
        self.started = self.ready = self.asking = False
        self.room = self.given = 0
        self.since, self.process, self._beat = time.monotonic(), None, None
        return self.actor.start.remote(*arguments)

    def kill(self, *, hangs: bool) -> None:
        """End its process.

        Ray asks it to end, which a process that is stopped does not hear: one that is surely there (it `hangs`) and on
        this machine is killed, for its GPU's memory is needed by the next.
        """
        machine, process = self.process or ("", 0)
        if hangs and machine == ray.get_runtime_context().get_node_id():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        ray.kill(self.actor)

    def listen(self, timeout: float) -> None:
        """Hear whether it still works, and ask again.

        A process that has stopped does not answer, and neither does an engine that does not come to the end of a step.

        Raises:
            EngineLostError: It is gone, or has not answered for `timeout` seconds.
        """
        if self._beat is not None and ray.wait([self._beat], timeout=0)[0]:
            result_of(self._beat)
            self._beat = None
        if self._beat is None:
            self._beat, self._asked = work(self.actor), time.monotonic()
        elif time.monotonic() - self._asked > timeout:
            raise hanging(timeout)


def work(actor: Any) -> Any:
    """Return a call that an engine answers between two steps."""
    return actor.do.remote(_nothing)


def ask(seats: Sequence[Seat], question: Callable[[Any], Any], timeout: float) -> list[tuple[Seat, EngineLostError]]:
    """Make a call to each engine, and return those that are gone or do not answer for `timeout` seconds.

    Args:
        seats: Of engines that have started.
        question: Makes the call, given the actor.
        timeout: Seconds.
    """
    calls = [question(seat.actor) for seat in seats]
    answered = ray.wait(calls, num_returns=len(calls), timeout=timeout)[0] if calls else []
    lost = []
    for seat, call in zip(seats, calls, strict=True):
        try:
            if call not in answered:
                raise hanging(timeout)
            result_of(call)
        except EngineLostError as error:
            lost.append((seat, error))
    return lost


def result_of(call: Any) -> Any:
    """Return the result of a call.

    Raises:
        EngineLostError: The engine's process is gone.
        UserError: As it was raised there.
        RayTaskError: Any other error that was.
    """
    try:
        return ray.get(call)
    except RayActorError as error:
        raise EngineLostError("has died", " ".join(str(error).split())[:200]) from error
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def hanging(timeout: float) -> EngineLostError:
    """Return the error for an engine that has not answered for so many seconds."""
    return EngineLostError("hangs", f"no answer in {timeout:.0f} s (cluster.timeout)")


def _nothing(engine: Any) -> None:
    pass
