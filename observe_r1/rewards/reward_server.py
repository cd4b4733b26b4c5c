"""A reward from a server: it is sent `{"query": […], "prompts": […], "labels": […]}` and answers `{"rewards": […]}`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import CancelledError
from threading import BoundedSemaphore
from types import TracebackType
from typing import TYPE_CHECKING, Self

from observe_r1.errors import UserError
from observe_r1.json_server import JsonServer, beginning
from observe_r1.records import Example
from observe_r1.rewards.validation import validated_rewards

if TYPE_CHECKING:
    from observe_r1.config import RewardSettings

_AT_ONCE = 8
"""Requests to one server at a time."""

_LONGEST = 1 << 20
"""Bytes of an answer, at most."""


class RewardServer:
    """The reward of one server. A context manager: entering it asks whether anything answers there.

    A group is one request. It is sent again, with back-off, while the server cannot be reached, is busy, or breaks off
    its answer. Each try has the whole time limit; a try that exceeds it is the last.

    Args:
        url: Of the server.
        settings: Time limit and number of retries.

    Raises:
        UserError: On entering, nothing answers.
    """

    def __init__(self, url: str, settings: RewardSettings) -> None:
        self._server = JsonServer(
            "reward server",
            url,
            silence=settings.call_timeout,
            limit=settings.call_timeout,
            retries=settings.retries,
            at_once=_AT_ONCE,
            longest=_LONGEST,
            settings=("rewards.call_timeout", "rewards.retries"),
        )
        self._slots = BoundedSemaphore(_AT_ONCE)
        self._closed = False

    def __enter__(self) -> Self:
        self._server.ask("HEAD")  # with any answer: a reward server need not know HEAD
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True

    def rewards(self, responses: Sequence[str], example: Example, prompt: str) -> list[float]:
        """Return the server's rewards of one group.

        Raises:
            UserError: The server cannot be reached, is too slow, or answers anything but a status of 2xx and one finite
                number per response.
            concurrent.futures.CancelledError: The reward was left before the request was sent.
        """
        question = {
            "query": [prompt + response for response in responses],
            "prompts": [prompt] * len(responses),
            "labels": [example.answer] * len(responses),
        }
        with self._slots:
            if self._closed:
                raise CancelledError
            status, content = self._server.ask("POST", body=json.dumps(question).encode())
        answer = self._server.parsed(status, content)
        if not isinstance(answer, dict) or "rewards" not in answer:
            raise UserError(f'{self._server.name} must answer {{"rewards": […]}}, not {beginning(content)}')
        return validated_rewards(answer["rewards"], len(responses), self._server.name)
