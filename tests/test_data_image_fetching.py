"""Images behind http addresses, from a server of our own: kept once fetched, one line for everything else."""

import multiprocessing
import threading
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from observe_r1.data import image_fetching, open_image
from observe_r1.errors import UserError
from observe_r1.web import http_client


def png(size: tuple[int, int] = (5, 3)) -> bytes:
    buffer = BytesIO()
    Image.effect_noise(size, 50).save(buffer, "PNG")
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Answers by path; `asked` counts what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: Counter[str] = Counter()
        self.stopped = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        with suppress(ConnectionError):  # the client may have seen enough
            getattr(self, self.path.strip("/").partition(".")[0])()

    def send(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def ok(self) -> None:
        self.send(png())

    def missing(self) -> None:
        self.send(b"<html>not here</html>", 404)

    def page(self) -> None:
        self.send(b"<!DOCTYPE html><html>log in first</html>")

    def empty(self) -> None:
        self.send(b"")

    def huge(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.stopped.is_set():
            self.wfile.write(bytes(100_000))

    def trickle(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.stopped.wait(0.05):
            self.wfile.write(b"x")
            self.wfile.flush()

    def silent(self) -> None:
        self.server.stopped.wait(20)

    def busy(self) -> None:
        if self.server.asked[self.path] == 1:
            self.send(b"", 503)
        else:
            self.send(png())

    def always_busy(self) -> None:
        self.send(b"", 503)

    def cut(self) -> None:
        data = png()
        self.send(data[:20] if self.server.asked[self.path] == 1 else data, length=len(data))

    def moved(self) -> None:
        self.send(b"", 302, Location="/ok.png")

    def moved_to_a_file(self) -> None:
        self.send(b"", 302, Location="file:///etc/passwd")

    def moved_to_ftp(self) -> None:
        self.send(b"", 302, Location="ftp://127.0.0.1/ok.png")

    def moved_in_circles(self) -> None:
        self.send(b"", 302, Location=self.path)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(image_fetching, "_client", lambda: http_client(retries=1, timeout=0.5))
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()


def refusal(url: str, cache: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_image(url, "a.jsonl row 7", str(cache))
    assert not cache.exists() or not any(cache.iterdir())
    message = str(caught.value)
    assert message.startswith(f"a.jsonl row 7: image '{url}' ") and "\n" not in message
    return message.removeprefix(f"a.jsonl row 7: image '{url}' ")


@pytest.mark.parametrize("path", ["ok.png", "moved.png", "busy.png", "cut.png"])
def test_an_image_is_fetched_once_and_then_read_from_disk(server, tmp_path, path):
    url, cache = f"{server.url}/{path}", tmp_path / "new" / "cache"
    first = open_image(url, "row", str(cache))
    asked = server.asked.total()
    server.stopped.set()
    again = open_image(url, "row", str(cache))
    assert first.size == (5, 3) and first.mode == "RGB" and first.tobytes() == again.tobytes()
    assert server.asked.total() == asked == (1 if path == "ok.png" else 2)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.png", "cannot be fetched: the server answers 404 Not Found"),
        ("always_busy.png", "cannot be fetched: the server answers 503 Service Unavailable"),
        ("page.png", "is an HTML page (a download that failed?)"),
        ("empty.png", "is empty (0 bytes)"),
        ("moved_to_a_file.png", "cannot be fetched: No host specified."),
        ("moved_to_ftp.png", "cannot be fetched: Not supported URL scheme ftp"),
        ("moved_in_circles.png", "cannot be fetched: too many redirects"),
    ],
)
def test_what_is_no_image_is_one_line_and_never_kept(server, tmp_path, path, message):
    assert refusal(f"{server.url}/{path}", tmp_path / "cache") == message
    assert server.asked[f"/{path}"] == (2 if path in ("always_busy.png", "moved_in_circles.png") else 1)


def test_too_many_bytes(server, tmp_path, monkeypatch):
    monkeypatch.setattr(image_fetching, "MAX_BYTES", 300_000)
    assert "has more than 300,000 bytes" in refusal(f"{server.url}/huge.png", tmp_path)


def test_silence_and_a_trickle_have_an_end(server, tmp_path, monkeypatch):
    assert "Read timed out" in refusal(f"{server.url}/silent.png", tmp_path)
    assert server.asked["/silent.png"] == 2
    monkeypatch.setattr(image_fetching, "DEADLINE", 0.3)
    assert "incomplete after 0.3 s" in refusal(f"{server.url}/trickle.png", tmp_path)


def test_no_server_and_no_address(server, tmp_path):
    server.server_close()
    assert "cannot be fetched: " in refusal(f"{server.url}/ok.png", tmp_path)
    assert "cannot be fetched: " in refusal("http://", tmp_path)
    assert "cannot be fetched: " in refusal("http://a..b/", tmp_path)


def test_a_cache_that_cannot_be_written_or_is_damaged(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.image_cache = '.*/file/cache' cannot be used: Not a directory"):
        open_image(f"{server.url}/ok.png", "row", str(tmp_path / "file" / "cache"))
    open_image(f"{server.url}/ok.png", "row", str(tmp_path / "cache"))
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:50])
    with pytest.raises(UserError, match=f"kept as '{kept}'. is broken"):
        open_image(f"{server.url}/ok.png", "row", str(tmp_path / "cache"))


def open_size(url: str, cache: str) -> tuple[int, int]:
    return open_image(url, "row", cache).size


def test_threads_and_processes_may_fetch_at_once(server, tmp_path):
    cache, names = str(tmp_path / "cache"), [f"{server.url}/ok.{number % 3}.png" for number in range(24)]
    sizes = []
    threads = [threading.Thread(target=lambda url=url: sizes.append(open_size(url, cache))) for url in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [(5, 3)] * 24
    cache = str(tmp_path / "other")
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.starmap(open_size, [(url, cache) for url in names], chunksize=1) == [(5, 3)] * 24
    assert len(list((tmp_path / "cache").iterdir())) == len(list((tmp_path / "other").iterdir())) == 3
