"""A server that is asked in JSON and answers in JSON: whatever goes wrong with it is one line."""

import json
from typing import Any

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, MaxRetryError

from observe_r1.errors import UserError
from observe_r1.web import DeadlineError, http_client, request, without_password


class JsonServer:
    """A server that is sent JSON; thread-safe.

    A question is sent again, with back-off, while the server cannot be reached, is busy, or breaks off its answer.

    Args:
        kind: What it serves, for errors: `reward server`.
        url: Of the server, with name and password if they are needed.
        silence: Seconds without a byte, after which the question is sent again.
        limit: Seconds of one try in all; a try that exceeds them is the last.
        retries: Tries after the first.
        at_once: Threads that ask it at a time.
        longest: Bytes of an answer, at most.
        settings: Names of the settings that `limit` and `retries` come from, for errors.
    """

    def __init__(
        self,
        kind: str,
        url: str,
        *,
        silence: float,
        limit: float,
        retries: int,
        at_once: int,
        longest: int,
        settings: tuple[str, str],
    ) -> None:
        self.name = f"{kind} {without_password(url)}"
        """What errors begin with."""
        self._url = url
        self._limit = limit
        self._retries = retries
        self._longest = longest
        self._limit_setting, self._retries_setting = settings
        self._client = http_client(retries=retries, timeout=silence, deadline=limit, connections=at_once)

    def ask(
        self, method: str, path: str = "", body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body of the answer.

        Args:
            method: `GET`, `HEAD` or `POST`.
            path: After the server's address.
            body: JSON.
            headers: Of the request, besides its type.

        Raises:
            UserError: There is no answer, it comes too late, or it is too long.
        """
        headers = {"Content-Type": "application/json", **(headers or {})}
        try:
            return request(self._client, method, self._url + path, self._read, body=body, headers=headers)
        except HTTPError as error:
            reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
            if isinstance(reason, DeadlineError):
                raise UserError(
                    f"{self.name} took over {self._limit:g} s for its answer; make it faster or raise "
                    f"{self._limit_setting}, or correct its address if nothing answers there"
                ) from error
            # urllib3 puts the connection's own name before the reason.
            text = without_password(str(reason)).rpartition("): ")[2]
            raise UserError(
                f"{self.name} does not answer ({self._retries_setting}: {self._retries}): {text}; "
                "start it or correct its address"
            ) from error

    def parsed(self, status: int, content: bytes) -> Any:
        """Return the JSON of an answer from `ask`; raise `UserError` for another status than 2xx, and for no JSON."""
        if not 200 <= status < 300:
            raise UserError(f"{self.name} answered with status {status}: {beginning(content)}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.name} answered something that is not JSON: {beginning(content)}") from error

    def _read(self, response: BaseHTTPResponse) -> tuple[int, bytes]:
        content = bytearray()
        while chunk := response.read1(1 << 16):
            content += chunk
            if len(content) > self._longest:
                raise UserError(f"{self.name} answered over {self._longest:,} bytes, more than any answer needs")
        return response.status, bytes(content)


def beginning(content: bytes) -> str:
    """Return the beginning of an answer on one line."""
    return repr(" ".join(content[:400].decode(errors="replace").split())[:100])
