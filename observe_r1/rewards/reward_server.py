"""A reward from a server: it is sent `{"query": […], "prompts": […], "labels": […]}` and answers `{"rewards": […]}`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import CancelledError
from threading import BoundedSemaphore
from types import TracebackType
from typing import TYPE_CHECKING, Self

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, MaxRetryError

from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.rewards.validation import validated_rewards
from observe_r1.web import DeadlineError, http_client, request, without_password

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
        self._url = url
        self._name = f"reward server {without_password(url)}"
        self._limit = settings.call_timeout
        self._retries = settings.retries
        self._client = http_client(
            retries=self._retries, timeout=self._limit, deadline=self._limit, connections=_AT_ONCE
        )
        self._slots = BoundedSemaphore(_AT_ONCE)
        self._closed = False

    def __enter__(self) -> Self:
        self._ask("HEAD")  # with any answer: a reward server need not know HEAD
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
            status, content = self._ask("POST", json.dumps(question).encode())
        if not 200 <= status < 300:
            raise UserError(f"{self._name} answered with status {status}: {_start(content)}")
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self._name} answered something that is not JSON: {_start(content)}") from error
        if not isinstance(answer, dict) or "rewards" not in answer:
            raise UserError(f'{self._name} must answer {{"rewards": […]}}, not {_start(content)}')
        return validated_rewards(answer["rewards"], len(responses), self._name)

    def _ask(self, method: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        headers = {"Content-Type": "application/json"}
        try:
            return request(self._client, method, self._url, self._read, body=body, headers=headers)
        except HTTPError as error:
            reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
            if isinstance(reason, DeadlineError):
                raise UserError(
                    f"{self._name} took over {self._limit:g} s for its answer; make it faster or raise "
                    "rewards.call_timeout, or correct its address if nothing answers there"
                ) from error
            # urllib3 puts the connection's own name before the reason.
            text = without_password(str(reason)).rpartition("): ")[2]
            raise UserError(
                f"{self._name} does not answer (rewards.retries: {self._retries}): {text}; "
                "start it or correct its address"
            ) from error

    def _read(self, response: BaseHTTPResponse) -> tuple[int, bytes]:
        content = bytearray()
        while chunk := response.read1(1 << 16):
            content += chunk
            if len(content) > _LONGEST:
                raise UserError(f"{self._name} answered over {_LONGEST:,} bytes; it must answer rewards alone")
        return response.status, bytes(content)


def _start(content: bytes) -> str:
    """Return the beginning of an answer on one line."""
    return repr(" ".join(content[:400].decode(errors="replace").split())[:100])
