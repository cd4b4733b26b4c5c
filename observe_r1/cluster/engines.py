"""Engines in processes of their own, and the pool that hands prompts out to them.

    driver    EnginePool     prompts wait here, until an engine has room
                  │  sample(prompt)           one call per prompt, answered as its group ends
    Ray       EngineActor    one thread steps the engine; what else is asked of it runs between two steps
                  │  weights                  from the policy's ranks (`weights`), when the pool publishes them

A response's random numbers depend on its prompt's stream alone, so it is the same on whichever engine it is drawn.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError

from observe_r1.cluster import RankLostError
from observe_r1.cluster.engine_seat import EngineLostError, Request, Seat, ask, result_of, work
from observe_r1.config import ModelSettings, QuestionSettings, SamplerSettings
from observe_r1.errors import UserError
from observe_r1.records import Completion, Prompt, Sampling
from observe_r1.rollout.engine import (
    Done,
    OnGroup,
    RefusedPromptError,
    TrainingMemory,
    generate_in_steps,
    unheard,
)

_LOOK = 0.1
"""Seconds that a look for what has ended waits, at most: another thread may want to look, and Ctrl-C to be heard."""
_BEAT = 5.0
"""Seconds between two looks whether engines that start do so in vain, and whether the others still work."""
_PATIENCE = 60.0
"""Seconds in which a process answers that is there, whatever its engine does; see `calls`."""
_FAREWELL = 15.0
"""Seconds in which an engine with processes of its own ends them."""
_PROMPT_SHARE = 16
"""Tokens of a prompt that take as long as one of a response: they are computed together."""


class EnginePool:
    """All engines as one: a `SteppedEngine` that hands prompts to the engine with the least work, as it has room.

    An engine that dies or hangs starts again, gets the current weights from `renew` or the next `publish`, and its
    prompts are sampled again. Several threads may use it at once; after `close` each gets an error.

    Args:
        model: What the engines sample with.
        rollout: Names the engine.
        data: Has the longest prompt.
        options: Of Ray's, for the actor of each engine: where it is, and its share of a GPU.
        training: Returns what is trained on the same GPU, asked as an engine starts.
        threads: That torch computes with, in each engine.
        gpus: Of each engine, over which its layers are split.
        restarts: How often engines may die or hang, in all.
        note: Told in one line of every restart, and of what the first engine notes.
        check: Called where an engine has died, and now and then while one starts; raises an error if that is in vain.
        timeout: Seconds that an engine may take to start, or for one step.
    """

    def __init__(
        self,
        model: ModelSettings,
        rollout: SamplerSettings,
        data: QuestionSettings,
        *,
        options: Sequence[Mapping[str, Any]],
        training: Callable[[], TrainingMemory | None] = lambda: None,
        threads: int = 1,
        gpus: int = 1,
        restarts: int = 3,
        note: Callable[[str], None] = unheard,
        check: Callable[[], None] = lambda: None,
        timeout: float = 1800.0,
    ) -> None:
        self.finished = 0
        self.version = 0
        """See `Engine`; `publish` sets it."""
        self.renew: Callable[[Any], bool] | None = None
        """Gives the actor of an engine that has started again the weights of `version`; False if nobody has those
        any more: it waits for the next `publish`."""
        self._lock, self._door = threading.Lock(), threading.Lock()
        self._begin = (model, rollout, data)
        self._training, self._threads, self._gpus = training, threads, gpus
        self._restarts, self._note = restarts, note
        self._check, self._timeout, self._checked = check, timeout, 0.0
        self._taken = 0
        self._closed = False
        self._waiting: deque[Request] = deque()
        self._ended: list[tuple[Request, list[Completion] | Exception]] = []
        """Of a prompt that cannot be answered the reason."""
        self._calls: dict[Any, tuple[Seat, str]] = {}
        self._lengths = [rollout.max_new_tokens, 1]
        """Tokens and responses so far, for the mean length."""
        self._seats = [Seat(index, each) for index, each in enumerate(options)]
        for seat in self._seats:
            self._start(seat)

    def ready(self) -> None:
        """Wait until all engines can sample.

        Raises:
            UserError: One does not start.
        """
        while not all(seat.ready for seat in self._seats):
            with self._alone():
                self._look()

    @property
    def rows(self) -> int:
        """See `SteppedEngine`."""
        return sum(seat.room for seat in self._seats)

    @property
    def unfinished(self) -> int:
        """See `SteppedEngine`; responses count until their group has ended."""
        with self._alone():
            flying = [request for seat in self._seats for request in seat.calls.values()]
            return sum(request.sampling.n for request in (*self._waiting, *flying))

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_group: OnGroup | None = None
    ) -> list[list[Completion]]:
        """Return `sampling.n` completions per prompt; see `Engine.generate`. Several threads may call it at once."""
        return generate_in_steps(self, prompts, sampling, on_group)

    def add(self, prompt: Prompt, sampling: Sampling, done: Done) -> int:
        """Take a prompt in; see `SteppedEngine`. `done` is called in this thread's steps."""
        with self._alone():
            self._check_open()
            self._taken += 1
            self._waiting.append(Request(self._taken, prompt, sampling, done, threading.get_ident()))
            return self._taken

    def step(self) -> None:
        """Hand prompts out, wait a moment, and hand over the groups of this thread that have ended."""
        me = threading.get_ident()
        with self._alone():
            self._look()
            ours = [each for each in self._ended if each[0].thread == me]
            self._ended = [each for each in self._ended if each[0].thread != me]
        for request, outcome in ours:
            if isinstance(outcome, RefusedPromptError):
                raise RefusedPromptError(request.number, str(outcome)) from outcome
            if isinstance(outcome, Exception):
                raise outcome
            request.done(outcome)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget prompts; see `SteppedEngine`."""
        gone = set(numbers)
        with self._alone():
            if self._closed:
                return
            self._waiting = deque(request for request in self._waiting if request.number not in gone)
            self._ended = [each for each in self._ended if each[0].number not in gone]
            for seat in self._seats:
                calls = {call: request for call, request in seat.calls.items() if request.number in gone}
                for call in calls:
                    del seat.calls[call], self._calls[call]
                if calls:
                    seat.actor.drop.remote([request.number for request in calls.values()])

    def publish(self, version: int, send: Callable[[list[Any]], object]) -> None:
        """Give all engines new weights, each between two steps; one that dies starts again and gets them, too.

        Args:
            version: Of the weights.
            send: Gives them to all of some actors of engines, which bear `version` from then on.

        Raises:
            Exception: Whatever `send` raises, if no engine has died.
        """
        with self._alone():
            self._check_open()
            self._find_lost(work, self._timeout)
            while True:
                while not all(seat.started for seat in self._seats):
                    self._look()
                try:
                    send([seat.actor for seat in self._seats])
                    break
                except Exception:  # of whatever kind, where an engine is gone
                    if not self._find_lost(_alive, min(_PATIENCE, self._timeout)):
                        raise
            self.version = version
            for seat in self._seats:
                seat.ready = True

    def sleep(self) -> None:
        """Free what is not needed until the next weights."""
        with self._alone():
            self._check_open()
            self._find_lost(lambda actor: actor.do.remote(_sleep), self._timeout)

    def close(self) -> None:
        """End all engines."""
        with self._alone():
            self._closed = True
            if self._gpus > 1:  # killed, it would leave the memory that its processes share
                ask([seat for seat in self._seats if seat.started], lambda actor: actor.do.remote(_close), _FAREWELL)
            for seat in self._seats:
                ray.kill(seat.actor)

    def processes(self) -> list[int]:
        """Return the ids of the engines' processes, each on its own machine."""
        return [ray.get(seat.actor.alive.remote()) for seat in self._seats]

    def _start(self, seat: Seat) -> None:
        begun = seat.start(*self._begin, self._training(), self._threads, self._gpus)
        self._calls[begun] = seat, "start"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock during the block; threads get it in turn, so that one that steps without end lets others in."""
        with self._door:
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def _check_open(self) -> None:
        """Nothing may touch Ray any more once it has been left: it would start another."""
        if self._closed:
            raise RuntimeError("the engines are closed")

    def _check_engines(self) -> None:
        """Give up where an engine waits for a seat whose machine has left: ranks there are gone, too, or none joins.

        Of those that have started, start again which no longer works.

        Raises:
            RankLostError: One does not start in time, or too many were lost.
        """
        now = time.monotonic()
        if now - self._checked < _BEAT:
            return
        self._checked = now
        waiting = [seat for seat in self._seats if not seat.started]
        if waiting:
            self._check()
        for seat in waiting:
            if now - seat.since > self._timeout:
                raise RankLostError(
                    f"sampling engine {seat.index} has not started in {self._timeout:.0f} s (cluster.timeout)"
                )
        for seat in self._seats:
            if seat.started:
                try:
                    seat.listen(self._timeout)
                except EngineLostError as error:
                    self._lost(seat, error)

    def _find_lost(self, question: Callable[[Any], Any], timeout: float) -> bool:
        """Ask all engines that have started; start again which are lost, and return whether any were."""
        lost = ask([seat for seat in self._seats if seat.started], question, timeout)
        for seat, error in lost:
            self._lost(seat, error)
        return bool(lost)

    def _lost(self, seat: Seat, error: EngineLostError) -> None:
        """Start a lost engine again; its prompts come first."""
        seat.kill(hangs=error.what == "hangs")  # one that has died may only have lost its connection
        for call in [call for call, (owner, _) in self._calls.items() if owner is seat]:
            del self._calls[call]
        self._waiting.extendleft(reversed(seat.calls.values()))
        seat.calls = {}
        if not self._restarts:
            raise RankLostError(f"sampling engine {seat.index} {error.what} too often (cluster.restarts): {error}")
        self._check()
        self._checked = time.monotonic()
        self._restarts -= 1
        what = f"{error.what} and starts again, its prompts are sampled again"
        self._note(f"sampling engine {seat.index} {what}: {error}")
        self._start(seat)

    def _look(self) -> None:
        """Hand prompts out, and take what has ended, waiting for a moment if nothing has; under the lock."""
        self._check_open()
        self._check_engines()
        self._hand_out()
        for call in ray.wait(list(self._calls), num_returns=1, timeout=_LOOK)[0] if self._calls else ():
            seat, kind = self._calls.pop(call)
            request = seat.calls.pop(call, None)
            try:
                result = result_of(call)
            except EngineLostError as error:
                if request is not None:
                    seat.calls = {call: request, **seat.calls}
                self._lost(seat, error)
                continue
            except (UserError, RayTaskError) as error:
                if request is None:
                    raise
                self._ended.append((request, error))
                continue
            if kind == "start":
                seat.process = result[0]
                self._welcome(seat, *result[1:])
            elif kind == "room":
                seat.asking, seat.room = False, result
            elif request is not None:
                self._take(request, result)

    def _welcome(self, seat: Seat, rows: int, notes: list[str]) -> None:
        """Give an engine that has started what the others have."""
        if seat.index == 0:
            for line in notes:
                self._note(line)
        seat.started, seat.room = True, rows
        if not self.version:  # it has read them from the disk
            seat.ready = True
            return
        if self.renew is None:
            raise RuntimeError("an engine has started again, and nothing gives it the current weights: set `renew`")
        try:
            seat.ready = self.renew(seat.actor)
        except Exception:  # as in `publish`
            if not self._find_lost(_alive, min(_PATIENCE, self._timeout)):
                raise

    def _take(self, request: Request, completions: list[Completion]) -> None:
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
            seat.given += 1
        for seat in self._seats:
            if self._waiting and seat.ready and seat.room <= 0 and not seat.asking:
                self._calls[seat.actor.room.remote(seat.given)] = seat, "room"
                seat.asking = True

    def _work_of(self, seat: Seat) -> float:
        """Return the tokens that an engine is expected to have before it."""
        tokens, responses = self._lengths
        return sum(
            len(request.prompt.ids) / _PROMPT_SHARE + request.sampling.n * tokens / responses
            for request in seat.calls.values()
        )


def _alive(actor: Any) -> Any:
    return actor.alive.remote()


def _sleep(engine: Any) -> None:
    if hasattr(engine, "sleep"):
        engine.sleep()
    else:  # it holds no tensors now, but torch keeps their memory for this process
        torch.cuda.empty_cache()


def _close(engine: Any) -> None:
    engine.close()
