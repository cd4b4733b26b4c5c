"""A page that is served while its runs go on: made again when one of their files has changed.

Only this machine can reach it, and only by its own names: another page in the same browser cannot read it through a
host name that it points here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from threading import Lock
from traceback import format_exc

from observe_r1.errors import UserError
from observe_r1.evaluation.figures import SUMMARY
from observe_r1.ladder.stage import LADDER
from observe_r1.run.folder import CONFIG, EVALUATIONS, METRICS, ROLLOUTS

HOST = "127.0.0.1"
_HTTP_PORT = 80
"""Browsers leave it out of the `Host` header."""
_WATCHED = (METRICS, CONFIG, SUMMARY, LADDER, ROLLOUTS, EVALUATIONS)


class PageServer(ThreadingHTTPServer):
    """Serves the page of some folders at `/`, and what it was made from at `/version`; a context manager.

    Args:
        folders: Of runs, ladders and evaluations.
        port: 0 takes a free one.
        render: Makes the page, given its version.

    Raises:
        UserError: The port cannot be used.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folders: Sequence[Path], port: int, render: Callable[[str], str]) -> None:
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UserError(f"cannot listen on {HOST} port {port}: {error.strerror}; choose another --port") from error
        self._folders, self._render = folders, render
        self._made = ("", "")
        self._making = Lock()
        port = self.server_address[1]
        self.names = {f"{host}:{port}" for host in (HOST, "localhost")}
        if port == _HTTP_PORT:
            self.names |= {HOST, "localhost"}
        self._told = ""
        """The last traceback that the terminal has shown."""
        self.url = f"http://{HOST}:{self.server_address[1]}/"

    def server_bind(self) -> None:
        """Bind without the name look-up of `HTTPServer`, which can take seconds."""
        TCPServer.server_bind(self)

    def version(self) -> str:
        """Return a digest of when the files behind the page were changed, and of their sizes."""
        seen = sha256()
        for folder in self._folders:
            for name in _WATCHED:
                with suppress(FileNotFoundError):
                    state = (folder / name).stat()
                    seen.update(repr((str(folder), name, state.st_mtime_ns, state.st_size)).encode())
        return seen.hexdigest()

    def page(self) -> str:
        """Return the page as the files are now; made by one thread at a time, and only if they have changed."""
        with self._making:
            version = self.version()  # before reading: what is written meanwhile makes another version
            if self._made[0] != version:
                self._made = version, self._render(version)
            return self._made[1]

    def tell(self, traceback: str) -> None:
        """Show a traceback in the terminal, once: the page is asked for again and again."""
        if traceback != self._told:
            self._told = traceback
            print(traceback, end="", file=sys.stderr, flush=True)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = 60.0

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.names:
            self._answer(403, "text/plain", f"open {self.server.url}")
        elif self.path == "/":
            self._answer(*self._page())
        elif self.path == "/version":
            self._answer(200, "text/plain", self.server.version())
        else:
            self._answer(404, "text/plain", "the page is at /")

    def _page(self) -> tuple[int, str, str]:
        try:
            return 200, "text/html", self.server.page()
        except UserError as error:
            return 500, "text/plain", str(error)
        except Exception as error:  # noqa: BLE001 (a bug of ours: the terminal has its traceback, and the server goes on)
            self.server.tell(format_exc())
            return 500, "text/plain", f"the page cannot be made ({type(error).__name__}): the terminal says more"

    def handle_one_request(self) -> None:
        """Handle a request whose browser may leave at any moment."""
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status == 500:
            self.send_header("Refresh", "2")  # a run that is resumed removes files while they are read
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Log nothing: a page that looks for news every two seconds would fill the terminal."""
