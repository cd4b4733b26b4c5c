"""Scoring of groups while sampling goes on: what can be told at once here, the rest in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from observe_r1 import registry
from observe_r1.rewards import accuracy, format
from observe_r1.rewards.worker import WorkerDied, WorkerPool

if TYPE_CHECKING:
    from observe_r1.config import RewardSettings

CORRECTNESS = "accuracy"
"""The reward that says what is correct: always computed, in the total only where the settings name it."""

_QUICK: dict[str, Callable[[str, str, str], float | None]] = {
    "accuracy": lambda response, answer, template: accuracy.quick(response, answer),
    "format": format.format,
}
"""Rewards that can often be told in bounded time without a worker; None for "ask a worker"."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What the responses of one group earned, in their order."""

    total: list[float]
    """Weighted sum of the rewards named in the settings."""
    correct: list[bool]
    parts: dict[str, list[float]]
    """By reward name, unweighted."""
    timeouts: int
    """Responses that took over the limit, or whose worker died: they score 0 in every part."""


class PendingScores:
    """The scores of one group, as they come in."""

    def __init__(
        self,
        weights: dict[str, float],
        known: list[dict[str, float]],
        asked: dict[int, Future[dict[str, float]]],
    ) -> None:
        self._weights = weights
        self._known = known
        self._asked = asked

    def done(self) -> bool:
        """Whether `result` would not wait."""
        return all(future.done() for future in self._asked.values())

    def result(self) -> Scores:
        """Wait for the scores.

        Raises:
            RuntimeError: a reward function raised; the message holds its traceback.
            concurrent.futures.CancelledError: the scorer was closed before.
        """
        scored, timeouts = list(self._known), 0
        for index, future in self._asked.items():
            try:
                scored[index] = scored[index] | future.result()
            except (TimeoutError, WorkerDied):
                scored[index] = dict.fromkeys(self._weights, 0.0) | {CORRECTNESS: 0.0}
                timeouts += 1
        return Scores(
            total=[sum(weight * row[name] for name, weight in self._weights.items()) for row in scored],
            correct=[row[CORRECTNESS] > 0 for row in scored],
            parts={name: [row[name] for row in scored] for name in self._weights},
            timeouts=timeouts,
        )


class Scorer:
    """Scores responses by the settings' reward functions. A context manager: its processes end with it.

    A reward function is `fn(response: str, answer: str, template: str) -> float`, registered by name.
    """

    def __init__(self, settings: RewardSettings) -> None:
        self._weights = dict(settings.functions)
        self._template = settings.template
        self._pool = WorkerPool(settings.workers, settings.timeout)

    def __enter__(self) -> Scorer:
        self._pool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    def submit(self, responses: Sequence[str], answer: str) -> PendingScores:
        """Begin to score one group; each response has the time limit for itself."""
        known: list[dict[str, float]] = []
        asked: dict[int, Future[dict[str, float]]] = {}
        for index, response in enumerate(responses):
            scores = {name: self._quick(name, response, answer) for name in self._names()}
            unknown = [name for name, score in scores.items() if score is None]
            known.append({name: score for name, score in scores.items() if score is not None})
            if unknown:
                asked[index] = self._pool.submit(evaluate, unknown, response, answer, self._template)
        return PendingScores(self._weights, known, asked)

    def score(self, responses: Sequence[str], answer: str) -> Scores:
        """Score one group and wait for it."""
        return self.submit(responses, answer).result()

    def _names(self) -> list[str]:
        return list(dict.fromkeys([CORRECTNESS, *self._weights]))

    def _quick(self, name: str, response: str, answer: str) -> float | None:
        quick = _QUICK.get(name)
        score = quick(response, answer, self._template) if quick else None
        return None if score is None else float(score)


def evaluate(names: list[str], response: str, answer: str, template: str) -> dict[str, float]:
    """Return the named rewards of one response. It may never end: call it in a worker process."""
    return {name: float(registry.load("reward", name)(response, answer, template)) for name in names}
