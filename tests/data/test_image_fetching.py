"""Images behind http addresses, from a server of our own: kept once fetched, one line for everything else."""

import multiprocessing
import socket
import threading
from collections import Counter
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from observe_r1.config import QuestionSettings
from observe_r1.data import images, open_image
from observe_r1.errors import UserError
from observe_r1.web import _is_public, http_client, without_password


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

    def moved_inside(self) -> None:
        self.send(b"", 302, Location=f"http://localhost:{self.server.server_port}/ok.png")

    def dripping_header(self) -> None:
        self.drip(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x")

    def dripping_headers(self) -> None:
        self.drip(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n")

    def dripping_status(self) -> None:
        self.drip(b"H", b"T")

    def endless_continue(self) -> None:
        self.drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n")

    def drip(self, start: bytes, drop: bytes) -> None:
        self.wfile.write(start)
        while not self.server.stopped.wait(0.02):
            self.wfile.write(drop)
            self.wfile.flush()

    def who(self) -> None:
        self.send(png((7, 1)) if self.headers["Authorization"] == "Basic dTpwQHc=" else png())


@pytest.fixture
def server(monkeypatch):
    client = partial(http_client, retries=1, timeout=0.5)
    monkeypatch.setattr(images, "_client", lambda **limits: client(deadline=images.DEADLINE, **limits))
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()


def trusting(cache: Path | str) -> QuestionSettings:
    return QuestionSettings(image_cache=str(cache), allow_private_addresses=True)


def refusal(url: str, cache: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_image(url, "a.jsonl row 7", trusting(cache))
    assert not cache.exists() or not any(cache.iterdir())
    message = str(caught.value)
    assert message.startswith(f"a.jsonl row 7: image '{url}' ") and "\n" not in message
    return message.removeprefix(f"a.jsonl row 7: image '{url}' ")


@pytest.mark.parametrize("path", ["ok.png", "moved.png", "busy.png", "cut.png"])
def test_an_image_is_fetched_once_and_then_read_from_disk(server, tmp_path, path):
    url, cache = f"{server.url}/{path}", tmp_path / "new" / "cache"
    first = open_image(url, "row", trusting(cache))
    asked = server.asked.total()
    server.stopped.set()
    again = open_image(url, "row", trusting(cache))
    assert first.size == (5, 3) and first.mode == "RGB" and first.tobytes() == again.tobytes()
    assert server.asked.total() == asked == (1 if path == "ok.png" else 2)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.png", "cannot be fetched: the server answered 404 Not Found"),
        ("always_busy.png", "cannot be fetched: the server answered 503 Service Unavailable"),
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
    monkeypatch.setattr(images, "MAX_BYTES", 300_000)
    assert "has more than 300,000 bytes" in refusal(f"{server.url}/huge.png", tmp_path)


def test_silence_has_an_end(server, tmp_path):
    assert "Read timed out" in refusal(f"{server.url}/silent.png", tmp_path)
    assert server.asked["/silent.png"] == 2


@pytest.mark.parametrize(
    "what", ["trickle", "dripping_header", "dripping_headers", "dripping_status", "endless_continue"]
)
def test_one_deadline_for_headers_and_body(server, tmp_path, monkeypatch, what):
    monkeypatch.setattr(images, "DEADLINE", 0.3)
    assert "incomplete after 0.3 s" in refusal(f"{server.url}/{what}.png", tmp_path)
    assert server.asked[f"/{what}.png"] == 1


def test_the_deadline_covers_connecting_and_looking_up_the_name(monkeypatch, tmp_path):
    monkeypatch.setattr(images, "_client", lambda **limits: http_client(retries=1, timeout=9, deadline=0.2))
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):  # the queue of connections is full: the next one gets no answer
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        assert "incomplete after" in refusal(f"http://127.0.0.1:{full.getsockname()[1]}/a.png", tmp_path)
    forever = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: forever.wait(20))
    assert "incomplete after" in refusal("http://slow.example/a.png", tmp_path)
    forever.set()


def test_servers_inside_a_network_are_asked_only_where_that_is_allowed(server, tmp_path, monkeypatch):
    def refused(url: str) -> str:
        with pytest.raises(UserError, match=r"^row: image .* set data\.allow_private_addresses$") as caught:
            open_image(url, "row", QuestionSettings(image_cache=str(tmp_path)))
        return str(caught.value)

    assert "is not fetched: 127.0.0.1 is 127.0.0.1, an address of a private network" in refused(f"{server.url}/ok.png")
    assert "localhost is " in refused(f"http://localhost:{server.server_port}/ok.png")
    assert "169.254.169.254" in refused("http://169.254.169.254/latest/meta-data")
    assert "0.0.0.0" in refused(f"http://0:{server.server_port}/ok.png")
    assert "127.0.0.1" in refused(f"http://[::ffff:127.0.0.1]:{server.server_port}/ok.png")
    assert not server.asked
    open_image(f"{server.url}/moved_inside.png", "row", trusting(tmp_path / "trusted"))
    monkeypatch.setattr("observe_r1.web._is_public", lambda address: address == "127.0.0.1")
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(
        Answer, "moved_inside", lambda self: self.send(b"", 302, Location=url.replace("127.0.0.1", "127.0.0.2"))
    )
    assert "127.0.0.2 is 127.0.0.2" in refused(f"{url}/moved_inside.png")


def test_the_address_that_is_checked_is_the_one_connected_to(server, tmp_path, monkeypatch):
    answers = iter([["192.0.2.1"], ["127.0.0.1"]])
    connected = []

    def look_up(host, port, *_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(answers)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("observe_r1.web._is_public", lambda address: address == "192.0.2.1")
    monkeypatch.setattr("observe_r1.web._Socket.connect", lambda self, address: connected.append(address) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_image("http://rebinding.example/a.png", "row", QuestionSettings(image_cache=str(tmp_path)))
    assert connected == [("192.0.2.1", 80)]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        *[(address, False) for address in ("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254")],
        *[(address, False) for address in ("0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1")],
        *[(address, False) for address in ("::1", "::", "fe80::1%eth0", "fd00::1", "fec0::1", "ff02::1")],
        *[(address, False) for address in ("::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a9fe:a9fe")],
    ],
)
def test_which_addresses_are_public(address, public):
    assert _is_public(address) is public


def test_a_password_in_an_address_is_sent_and_never_shown(server, tmp_path):
    host = server.url.removeprefix("http://")
    assert open_image(f"http://u:p%40w@{host}/who.png", "row", trusting(tmp_path)).size == (7, 1)
    for url in (f"http://u:p%40w@{host}/missing.png", "http://u:p%40w@a..b/", "http://u:p%40w@host:port/a.png"):
        with pytest.raises(UserError) as caught:
            open_image(url, "row", trusting(tmp_path))
        assert "p%40w" not in str(caught.value) and "…@" in str(caught.value)
    assert without_password("no ftp://me:secret@host/a@b and http://h/a@b") == "no ftp://…@host/a@b and http://h/a@b"


def test_no_server_and_no_address(server, tmp_path):
    server.server_close()
    assert "cannot be fetched: " in refusal(f"{server.url}/ok.png", tmp_path)
    assert "cannot be fetched: " in refusal("http://", tmp_path)
    assert "cannot be fetched: " in refusal("http://a..b/", tmp_path)


def test_a_cache_that_cannot_be_written_or_is_damaged(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.image_cache = '.*/file/cache' cannot be used: Not a directory"):
        open_image(f"{server.url}/ok.png", "row", trusting(tmp_path / "file" / "cache"))
    open_image(f"{server.url}/ok.png", "row", trusting(tmp_path / "cache"))
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:50])
    with pytest.raises(UserError, match=f"cached as '{kept}'. is broken"):
        open_image(f"{server.url}/ok.png", "row", trusting(tmp_path / "cache"))


def open_size(url: str, cache: str) -> tuple[int, int]:
    return open_image(url, "row", trusting(cache)).size


def test_threads_and_processes_may_fetch_at_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_client", lambda **limits: http_client(retries=1, timeout=60, deadline=60))
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
