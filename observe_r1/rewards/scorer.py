"""Scoring of groups while sampling goes on: what can be told at once here, the rest in worker processes and servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from observe_r1 import registry
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.rewards import accuracy, format
from observe_r1.rewards.own import own_rewards, part_names
from observe_r1.threads import in_daemon_thread

if TYPE_CHECKING:
    from observe_r1.config import RewardSettings

CORRECTNESS = "accuracy"
"""The reward that says what is correct: always computed, in the total only where the settings name it."""

_QUICK: dict[str, Callable[[str, str, str], float | None]] = {
    "accuracy": accuracy.accuracy,
    "format": format.format,
}
"""Rewards that can often be told in bounded time without a worker; None for "ask a worker"."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What the responses of one group earned, in their order."""

    total: list[float]
    """Weighted sum of the rewards named in the settings."""
    correct: list[bool]
    """By the accuracy reward, whatever else is rewarded."""
    parts: dict[str, list[float]]
    """By reward, unweighted: `accuracy`, `format`, a reward file's stem, a reward server's host, port and path."""
    timed_out: list[bool]
    """Which took over the limit of time or memory to score: 0 in accuracy and format."""

    @property
    def timeouts(self) -> int:
        """How many took over the limit."""
        return sum(self.timed_out)


class PendingScores:
    """The scores of one group, as they come in."""

    def __init__(
        self,
        weights: dict[str, float],
        known: list[dict[str, float]],
        asked: dict[int, Future[dict[str, float]]],
        own: dict[str, Future[list[float]]],
        example: Example,
    ) -> None:
        self._weights = weights
        self._known = known
        self._asked = asked
        self._own = own
        self._example = example

    def done(self) -> bool:
        """Whether `result` would not wait."""
        return all(f.done() for f in self._asked.values()) and all(f.done() for f in self._own.values())

    def result(self) -> Scores:
        """Wait for the scores.

        Raises:
            UserError: a reward of the user's own failed, took too long, or gave anything but one number a response; or
            scoring processes are killed again and again.
            RuntimeError: a reward of ours raised; the message holds its traceback.
            concurrent.futures.CancelledError, WorkerDied: the scorer was closed before.
        """
        try:
            return self._result()
        except UserError as error:
            raise UserError(f"{error} (scoring {self._example.origin or self._example.id})") from error

    def _result(self) -> Scores:
        scored, timed_out = list(self._known), [False] * len(self._known)
        for index, future in self._asked.items():
            try:
                scored[index] = scored[index] | future.result()
            except (TimeoutError, OverLimit):
                scored[index] = dict.fromkeys([CORRECTNESS, *self._weights], 0.0)
                timed_out[index] = True
        for name, rewards in self._own.items():
            scored = [row | {name: reward} for row, reward in zip(scored, rewards.result(), strict=True)]
        return Scores(
            total=[sum(weight * row[name] for name, weight in self._weights.items()) for row in scored],
            correct=[row[CORRECTNESS] > 0 for row in scored],
            parts={name: [row[name] for row in scored] for name in self._weights},
            timed_out=timed_out,
        )


class Scorer:
    """Scores responses by the settings' rewards. A context manager: its processes end with it.

    A reward of ours is `fn(response: str, answer: str, template: str) -> float`, registered by name; the user's own
    are files and servers, which are checked on entering.

    Errors: `UserError` where two rewards would have one name or, on entering, where a file cannot be used or a server
    not be reached.
    """

    def __init__(self, settings: RewardSettings) -> None:
        names = part_names(settings.functions)
        self._weights = {names[name]: weight for name, weight in settings.functions.items()}
        self._own = {names[name]: reward for name, reward in own_rewards(settings).items()}
        self._ours = list(dict.fromkeys([CORRECTNESS, *(name for name in self._weights if name not in self._own)]))
        self._template = settings.template
        self._pool = WorkerPool(settings.workers, settings.timeout)

    def __enter__(self) -> Scorer:
        with ExitStack() as stack:
            stack.enter_context(self._pool)
            for reward in self._own.values():
                stack.enter_context(reward)
            self._close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close.close()

    def submit(self, responses: Sequence[str], example: Example, prompt: str = "") -> PendingScores:
        """Begin to score one group; in accuracy and format each response has the time limit for itself.

        Responses with the same final answer are compared with the gold answer once, and then share its time limit.
        `prompt` is the chat as the model's template writes it, for rewards of the user's own.
        """
        known: list[dict[str, float]] = []
        asked: dict[int, Future[dict[str, float]]] = {}
        same: dict[tuple[str, ...], Future[dict[str, float]]] = {}
        for index, response in enumerate(responses):
            scores = {name: self._quick(name, response, example.answer) for name in self._ours}
            unknown = [name for name, score in scores.items() if score is None]
            known.append({name: score for name, score in scores.items() if score is not None})
            if unknown:
                read = *unknown, final_answer(response) if unknown == [CORRECTNESS] else response
                if read not in same:
                    same[read] = self._pool.submit(evaluate, unknown, response, example.answer, self._template)
                asked[index] = same[read]
        own = {
            name: in_daemon_thread(reward.rewards, responses, example, prompt)
            for name, reward in self._own.items()
            if responses
        }
        return PendingScores(self._weights, known, asked, own, example)

    def score(self, responses: Sequence[str], example: Example, prompt: str = "") -> Scores:
        """Score one group and wait for it."""
        return self.submit(responses, example, prompt).result()

    def _quick(self, name: str, response: str, answer: str) -> float | None:
        quick = _QUICK.get(name)
        score = quick(response, answer, self._template) if quick else None
        return None if score is None else float(score)


def evaluate(names: list[str], response: str, answer: str, template: str) -> dict[str, float]:
    """Return the named rewards of one response. It may never end: call it in a worker process."""
    return {name: float(registry.load("reward", name)(response, answer, template)) for name in names}
