"""Rewards behind an address: the original's protocol, over the same worker processes as in a run.

    POST {"query": [...], "prompts": [...], "labels": [...]}   ->   200 {"rewards": [...]}

A query is a prompt with its response; the three lists have one entry per response. Whatever else comes is answered by
one line, `{"error": "…"}`: status 400 if the request is wrong, 500 if the reward failed.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

from observe_r1 import registry
from observe_r1.errors import UserError
from observe_r1.rewards.accuracy import gold_answer, gold_fault
from observe_r1.rewards.reward_file import BadQueryError, RewardFile, example_of, responses_of

if TYPE_CHECKING:
    from observe_r1.config import RewardSettings

Reward = Callable[[Sequence[str], Sequence[str], Sequence[str]], list[float]]
"""Queries, prompts and labels to one number per query."""

LARGEST_BODY = 64 << 20
"""Bytes of a request, at most; a group of 16 responses of 32,000 tokens has about 4 MiB."""

_LISTS = ("query", "prompts", "labels")
_AT_ONCE = 64
"""Requests that are read and answered at a time; more wait until one is done."""
_SILENCE = 60.0
"""Seconds after which a connection that sends nothing is closed."""


class RewardServing(ThreadingHTTPServer):
    """The server of one reward or the sum of several. A context manager: entering it checks them and starts their
    processes, leaving it ends those at once.

    Args:
        names: Built-in rewards and the paths of reward files.
        settings: Time limit of a call, processes per file, and the template of the format reward.
        host: Address to listen on.
        port: 0 takes a free one.

    Raises:
        UserError: The address cannot be used; on entering, a file cannot.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, names: Sequence[str], settings: RewardSettings, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"cannot listen on {host} port {port}: {error}; choose others (--host, --port)") from error
        self._names, self._settings = names, settings
        self._rewards: list[Reward] = []
        self._processes = ExitStack()
        self.slots = BoundedSemaphore(_AT_ONCE)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.server_address[1]}/"

    def server_bind(self) -> None:
        """Bind without the name look-up of `HTTPServer`, which can take seconds."""
        TCPServer.server_bind(self)

    def __enter__(self) -> RewardServing:
        with ExitStack() as stack:
            stack.callback(self.server_close)
            for name in self._names:
                if name in registry.REGISTRY["reward"]:
                    self._rewards.append(built_in(name, self._settings.template or "observe"))
                else:
                    file = stack.enter_context(RewardFile(name, self._settings))
                    self._rewards.append(file.rewards_of_queries)
            self._processes = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._processes.close()

    def rewards(self, body: bytes) -> list[float]:
        """Return the sum of the rewards for each query of a request.

        Raises:
            BadQueryError: The body is not what the protocol says, or a reward cannot take it.
            UserError: A reward failed.
        """
        queries, prompts, labels = _asked(body)
        if not queries:
            return []
        given = [reward(queries, prompts, labels) for reward in self._rewards]
        return [sum(each) for each in zip(*given, strict=True)]


def built_in(name: str, template: str) -> Reward:
    """Return a built-in reward as a server gives it."""
    function = registry.load("reward", name)

    def rewards(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> list[float]:
        responses = responses_of(queries, prompts)
        for number, label in enumerate(labels, 1):
            if name == "accuracy" and (fault := gold_fault(label)):
                raise BadQueryError(f"label {number} of {len(labels)} is not a gold answer: {fault}")
        golds = [gold_answer(example_of(prompt, label)) for prompt, label in zip(prompts, labels, strict=True)]
        return [float(function(response, gold, template)) for response, gold in zip(responses, golds, strict=True)]

    return rewards


def _asked(body: bytes) -> tuple[list[str], list[str], list[str]]:
    """Return queries, prompts and labels.

    Raises:
        BadQueryError: The body holds anything else.
    """
    try:
        request: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadQueryError(f"the request is not JSON: {error}") from error
    wanted = '{"query": [...], "prompts": [...], "labels": [...]}'
    if not isinstance(request, dict):
        raise BadQueryError(f"the request must be {wanted}, not a {type(request).__name__}")
    for name in _LISTS:
        if name not in request:
            raise BadQueryError(f"the request has no {name!r}; it must be {wanted}")
        if not isinstance(request[name], list):
            raise BadQueryError(f"{name!r} must be a list of texts, not a {type(request[name]).__name__}")
        for number, text in enumerate(request[name], 1):
            if not isinstance(text, str):
                raise BadQueryError(f"{name!r} entry {number} must be a text, not a {type(text).__name__}")
    queries, prompts, labels = (request[name] for name in _LISTS)
    if not len(queries) == len(prompts) == len(labels):
        counts = ", ".join(f"{len(request[name]):,} in {name!r}" for name in _LISTS)
        raise BadQueryError(f"the lists must be equally long: {counts}")
    return queries, prompts, labels


class _Handler(BaseHTTPRequestHandler):
    server: RewardServing
    timeout = _SILENCE  # of each read and write of the socket

    def do_HEAD(self) -> None:
        """Say that the server is there."""
        self._answer(200, {})

    def do_GET(self) -> None:
        """Say what to send."""
        self.send_error(400, "rewards are asked for by POST")

    def do_POST(self) -> None:
        """Answer one request."""
        with self.server.slots:
            try:
                self._answer(200, {"rewards": self.server.rewards(self._body())})
            except BadQueryError as error:
                self.send_error(400, str(error))
            except UserError as error:
                print(f"observe-r1: {error}", file=sys.stderr, flush=True)
                self.send_error(500, str(error))
            except CancelledError:
                self.send_error(500, "the server is stopping")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with one line, where the standard library sends a page."""
        self._answer(400 if code != 500 else code, {"error": " ".join((message or self.responses[code][0]).split())})

    def log_message(self, format: str, *args: Any) -> None:
        """Write no line for each request."""

    def _body(self) -> bytes:
        """Return the whole body.

        Raises:
            BadQueryError: Its length is not said or too large, or it broke off.
        """
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise BadQueryError("the request needs a Content-Length")
        if len(length) > 12 or int(length) > LARGEST_BODY:
            raise BadQueryError(f"the request has over {LARGEST_BODY:,} bytes; send fewer responses at a time")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise BadQueryError(f"the request broke off after {len(body):,} of {int(length):,} bytes")
        return body

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode() + b"\n"
        self.close_connection = True  # HTTP/1.0: one request a connection, so that none can desynchronize the next
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one_request(self) -> None:
        """Handle a request whose client may leave at any moment."""
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):  # the client has gone, or sends nothing more
            self.close_connection = True
