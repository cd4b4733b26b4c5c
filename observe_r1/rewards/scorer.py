"""Scoring of groups: built-in rewards at once, the user's own in processes and servers while sampling continues."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from observe_r1 import registry
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.rewards.accuracy import gold_answer
from observe_r1.rewards.custom import custom_rewards, part_names
from observe_r1.threads import in_daemon_thread

if TYPE_CHECKING:
    from observe_r1.config import RewardSettings

CORRECTNESS = "accuracy"
"""The reward that says what is correct: always computed, in the total only if the settings name it."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What the G responses of a group earned, in their order."""

    total: list[float]
    """Weighted sum of the rewards named in the settings."""
    correct: list[bool]
    """By the accuracy reward, whatever else is rewarded."""
    parts: dict[str, list[float]]
    """By reward, unweighted: `accuracy`, `format`, a reward file's stem, a reward server's host, port and path."""


class PendingScores:
    """The scores of one group, for which the user's own rewards may still be missing.

    Args:
        weights: Of the rewards in the total.
        known: The built-in rewards of each response.
        custom: The user's own rewards, each of all responses.
        example: That the group answers.
    """

    def __init__(
        self,
        weights: dict[str, float],
        known: list[dict[str, float]],
        custom: dict[str, Future[list[float]]],
        example: Example,
    ) -> None:
        self._weights = weights
        self._known = known
        self._custom = custom
        self._example = example

    def result(self) -> Scores:
        """Wait for the scores.

        Raises:
            UserError: One of the user's own rewards failed, took too long, or gave anything but one number per
                response.
            concurrent.futures.CancelledError: The scorer was closed before.
        """
        scored = self._known
        for name, rewards in self._custom.items():
            try:
                given = rewards.result()
            except UserError as error:
                raise UserError(f"{error} (scoring {self._example.origin or self._example.id})") from error
            scored = [row | {name: reward} for row, reward in zip(scored, given, strict=True)]
        return Scores(
            total=[sum(weight * row[name] for name, weight in self._weights.items()) for row in scored],
            correct=[row[CORRECTNESS] > 0 for row in scored],
            parts={name: [row[name] for row in scored] for name in self._weights},
        )


class Scorer:
    """Scores responses by the settings' rewards. A context manager: leaving it ends the processes of the user's own.

    A built-in reward is `fn(response: str, answer: str, template: str) -> float`, registered by name, and bounded in
    time on any text. The user's own are files and servers, which are checked on entering.

    Raises:
        UserError: Two rewards would have the same name; on entering, a file cannot be used or a server not be reached.
    """

    def __init__(self, settings: RewardSettings) -> None:
        names = part_names(settings.functions)
        self._weights = {names[name]: weight for name, weight in settings.functions.items()}
        self._custom = {names[name]: reward for name, reward in custom_rewards(settings).items()}
        built_in = dict.fromkeys([CORRECTNESS, *(name for name in self._weights if name not in self._custom)])
        self._built_in = {name: registry.load("reward", name) for name in built_in}
        self.template: str = settings.template or "observe"
        """The tags that the format reward looks for; a run sets it once it knows what its prompt asks for."""

    def __enter__(self) -> Scorer:
        with ExitStack() as stack:
            for reward in self._custom.values():
                stack.enter_context(reward)
            self._close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close.close()

    def submit(self, responses: Sequence[str], example: Example, prompt: str = "") -> PendingScores:
        """Score one group by the built-in rewards, and start the user's own.

        Args:
            responses: Of the group.
            example: Its question. Built-in rewards compare with `gold_answer(example)`, which knows the options that
                the question lists; the user's own get the example itself.
            prompt: The chat as the model's template writes it, for the user's own rewards.
        """
        gold = gold_answer(example)
        known = [
            {name: float(reward(response, gold, self.template)) for name, reward in self._built_in.items()}
            for response in responses
        ]
        custom = {
            name: in_daemon_thread(reward.rewards, responses, example, prompt)
            for name, reward in self._custom.items()
            if responses
        }
        return PendingScores(self._weights, known, custom, example)

    def score(self, responses: Sequence[str], example: Example, prompt: str = "") -> Scores:
        """Score one group as `submit` does, and wait for the scores.

        Raises:
            UserError: As `PendingScores.result`.
        """
        return self.submit(responses, example, prompt).result()
