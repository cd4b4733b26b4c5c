"""Engines in processes of their own, and the pool that hands prompts out to them.

    driver    EnginePool     prompts wait here, until an engine has room
                  │  sample(prompt)           one call per prompt, answered as its group ends
    Ray       EngineActor    one thread steps the engine; what else is asked of it runs between two steps

A response's random numbers depend on its prompt's stream alone, so it is the same on whichever engine it is drawn.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from observe_r1.cluster import RankLostError
from observe_r1.cluster.engine_actor import EngineActor
from observe_r1.config import ModelSettings, QuestionSettings, SamplerSettings
from observe_r1.errors import UserError
from observe_r1.records import Completion, Prompt, Sampling
from observe_r1.rollout.engine import (
    Done,
    OnGroup,
    RefusedPromptError,
    SteppedEngine,
    TrainingMemory,
    generate_in_steps,
    unheard,
)

_AT_ONCE = 100_000
"""Calls that an actor takes at once: one per prompt that it has."""
_LOOK = 0.1
"""Seconds that a look for what has ended waits, at most: another thread may want to look, and Ctrl-C to be heard."""
_PROMPT_SHARE = 16
"""Tokens of a prompt that take as long as one of a response: they are computed together."""


@dataclass(eq=False)
class _Request:
    number: int
    prompt: Prompt
    sampling: Sampling
    done: Done
    thread: int
    """Which added it, and is the one to be told."""


@dataclass(eq=False)
class _Seat:
    """An engine's place, whatever process has it."""

    index: int
    options: Mapping[str, Any]
    actor: Any = None
    ready: bool = False
    room: int = 0
    """Responses that it can take now."""
    asking: bool = False
    """Whether it has been asked when it has room."""
    calls: dict[Any, _Request] = field(default_factory=dict)


class EnginePool:
    """All engines as one: a `SteppedEngine` that hands prompts to the engine with the least work, as it has room.

    An engine that dies starts again, gets the current weights from `renew`, and its prompts are sampled again.

    Args:
        model: What the engines sample with.
        rollout: Names the engine.
        data: Has the longest prompt.
        options: Of Ray's, for the actor of each engine: where it is, and its share of a GPU.
        training: What is trained on the same GPU.
        threads: That torch computes with, in each engine.
        restarts: How often engines may die, in all.
        note: Told in one line of every restart, and of what the first engine notes.
    """

    def __init__(
        self,
        model: ModelSettings,
        rollout: SamplerSettings,
        data: QuestionSettings,
        *,
        options: Sequence[Mapping[str, Any]],
        training: TrainingMemory | None = None,
        threads: int = 1,
        restarts: int = 3,
        note: Callable[[str], None] = unheard,
    ) -> None:
        self.finished = 0
        self.renew: Callable[[int, Any], None] | None = None
        """Gives the engine of an index, and its actor, the current weights, after it has started again."""
        self.lock = threading.RLock()
        """Held while weights travel: no engine that has started again joins in between."""
        self._begin = (model, rollout, data, training, threads)
        self._restarts, self._note = restarts, note
        self._version = self._taken = 0
        self._waiting: deque[_Request] = deque()
        self._ended: list[tuple[_Request, list[Completion]]] = []
        self._calls: dict[Any, tuple[_Seat, str]] = {}
        self._lengths = [rollout.max_new_tokens, 1]
        """Tokens and responses so far, for the mean length."""
        self._seats = [_Seat(index, each) for index, each in enumerate(options)]
        for seat in self._seats:
            self._start(seat)

    def ready(self) -> None:
        """Wait until all engines can sample.

        Raises:
            UserError: One does not start.
        """
        while not all(seat.ready for seat in self._seats):
            self._look()

    @property
    def version(self) -> int:
        """See `Engine`."""
        return self._version

    @version.setter
    def version(self, version: int) -> None:
        self._version = version
        self.on_each(_set_version, version)

    @property
    def rows(self) -> int:
        """See `SteppedEngine`."""
        return sum(seat.room for seat in self._seats)

    @property
    def unfinished(self) -> int:
        """See `SteppedEngine`; responses count until their group has ended."""
        flying = [request for seat in self._seats for request in seat.calls.values()]
        return sum(request.sampling.n for request in (*self._waiting, *flying))

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_group: OnGroup | None = None
    ) -> list[list[Completion]]:
        """Return `sampling.n` completions per prompt; see `Engine.generate`. Several threads may call it at once."""
        return generate_in_steps(self, prompts, sampling, on_group)

    def add(self, prompt: Prompt, sampling: Sampling, done: Done) -> int:
        """Take a prompt in; see `SteppedEngine`. `done` is called in this thread's steps."""
        with self.lock:
            self._taken += 1
            self._waiting.append(_Request(self._taken, prompt, sampling, done, threading.get_ident()))
            return self._taken

    def step(self) -> None:
        """Hand prompts out, wait a moment, and hand over the groups of this thread that have ended."""
        self._look()
        me = threading.get_ident()
        with self.lock:
            ours = [each for each in self._ended if each[0].thread == me]
            self._ended = [each for each in self._ended if each[0].thread != me]
        for request, completions in ours:
            request.done(completions)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget prompts; see `SteppedEngine`."""
        gone = set(numbers)
        with self.lock:
            self._waiting = deque(request for request in self._waiting if request.number not in gone)
            self._ended = [each for each in self._ended if each[0].number not in gone]
            for seat in self._seats:
                calls = {call: request for call, request in seat.calls.items() if request.number in gone}
                for call in calls:
                    del seat.calls[call], self._calls[call]
                if calls:
                    seat.actor.drop.remote([request.number for request in calls.values()])

    def on_each(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call `function(engine, *args)` on all engines at once, each between two steps, and return the results.

        Engines that are starting, or die in it, are left out: they get version and weights when they have started.
        """
        with self.lock:
            calls = [(seat, seat.actor.do.remote(function, *args)) for seat in self._seats if seat.ready]
            results = []
            for seat, call in calls:
                try:
                    results.append(_result(call))
                except RayActorError as error:
                    self._lost(seat, error)
            return results

    def sleep(self) -> None:
        """Free what is not needed until the next weights."""
        self.on_each(_sleep)

    def close(self) -> None:
        """End all engines."""
        for seat in self._seats:
            ray.kill(seat.actor)

    def processes(self) -> list[int]:
        """Return the ids of the engines' processes, each on its own machine."""
        return [ray.get(seat.actor.process.remote()) for seat in self._seats]

    def _start(self, seat: _Seat) -> None:
        options = {"num_cpus": 0, "max_concurrency": _AT_ONCE} | dict(seat.options)
        seat.actor = ray.remote(EngineActor).options(**options).remote()
        seat.ready, seat.room, seat.asking = False, 0, False
        self._calls[seat.actor.start.remote(*self._begin)] = seat, "start"

    def _lost(self, seat: _Seat, error: Exception) -> None:
        """Start a dead engine again; its prompts come first."""
        for call in [call for call, (owner, _) in self._calls.items() if owner is seat]:
            del self._calls[call]
        self._waiting.extendleft(reversed(seat.calls.values()))
        seat.calls = {}
        reason = " ".join(str(error).split())[:200]
        if not self._restarts:
            raise RankLostError(f"sampling engine {seat.index} has died too often (cluster.restarts): {reason}")
        self._restarts -= 1
        self._note(f"sampling engine {seat.index} has died and starts again, its prompts are sampled again: {reason}")
        self._start(seat)

    def _look(self) -> None:
        """Hand prompts out, and take what has ended, waiting for a moment if nothing has."""
        with self.lock:
            self._hand_out()
            for call in ray.wait(list(self._calls), num_returns=1, timeout=_LOOK)[0] if self._calls else ():
                seat, kind = self._calls.pop(call)
                request = seat.calls.pop(call, None)
                try:
                    result = _result(call)
                    if kind == "start":
                        self._welcome(seat, *result)
                except RayActorError as error:
                    if request is not None:
                        seat.calls = {call: request, **seat.calls}
                    self._lost(seat, error)
                    continue
                except RefusedPromptError as error:
                    assert request is not None
                    raise RefusedPromptError(request.number, str(error)) from error
                if kind == "room":
                    seat.asking, seat.room = False, result
                elif request is not None:
                    self._take(request, result)

    def _welcome(self, seat: _Seat, rows: int, notes: list[str]) -> None:
        """Give an engine that has started what the others have."""
        if seat.index == 0:
            for line in notes:
                self._note(line)
        if self._version:
            if self.renew is None:
                raise RuntimeError("an engine has started again, and nothing gives it the current weights: set `renew`")
            self.renew(seat.index, seat.actor)
            _result(seat.actor.do.remote(_set_version, self._version))
        seat.ready, seat.room = True, rows

    def _take(self, request: _Request, completions: list[Completion]) -> None:
        self._lengths[0] += sum(len(completion.ids) for completion in completions)
        self._lengths[1] += len(completions)
        self.finished += len(completions)
        self._ended.append((request, completions))

    def _hand_out(self) -> None:
        """Give waiting prompts to engines with room, the one with the least work first."""
        while self._waiting and (free := [seat for seat in self._seats if seat.ready and seat.room > 0]):
            seat = min(free, key=self._work_of)
            request = self._waiting.popleft()
            call = seat.actor.sample.remote(request.number, request.prompt, request.sampling)
            seat.calls[call], self._calls[call] = request, (seat, "sample")
            seat.room -= request.sampling.n
        for seat in self._seats:
            if self._waiting and seat.ready and seat.room <= 0 and not seat.asking:
                self._calls[seat.actor.room.remote()] = seat, "room"
                seat.asking = True

    def _work_of(self, seat: _Seat) -> float:
        """Return the tokens that an engine is expected to have before it."""
        tokens, responses = self._lengths
        return sum(
            len(request.prompt.ids) / _PROMPT_SHARE + request.sampling.n * tokens / responses
            for request in seat.calls.values()
        )


def _result(call: Any) -> Any:
    """Return the result of a call; an error that the user can correct is raised as it was there."""
    try:
        return ray.get(call)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def _set_version(engine: SteppedEngine, version: int) -> None:
    engine.version = version


def _sleep(engine: Any) -> None:
    if hasattr(engine, "sleep"):
        engine.sleep()
