"""`observe-r1 chat --web`: it answers as the terminal does, on this machine alone, and no answer runs anything."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from browser import open_browser
from gradio_client import Client, handle_file
from hypothesis import given
from hypothesis import strategies as st

from observe_r1.cli.chat_web import as_html, opened_page
from observe_r1.cli.main import main
from observe_r1.config import ChatSettings
from observe_r1.errors import UserError

HOSTILE = (
    "<observe><img src=x onerror=\"document.title='hacked'\"> ${document.title='hacked'} {{7 * 7}} \x1b[31m</observe>"
    "<think><script>document.title='hacked'</script></think><answer>`1` \\u003cb\\u003e</p><b>bold</b></answer>"
)
WATCH = """
import socket
from observe_r1.torch_compat import ensure_importable
ensure_importable()
real = socket.socket.connect
def connect(self, address):
    if not str(address[0]).startswith(("127.", "::1", "localhost")) and self.family != socket.AF_UNIX:
        print("PHONES", address, flush=True)
    return real(self, address)
socket.socket.connect = connect
looked_up = socket.getaddrinfo
def getaddrinfo(host, *more, **options):
    if host not in ("127.0.0.1", "localhost", None):
        print("PHONES", host, flush=True)
    return looked_up(host, *more, **options)
socket.getaddrinfo = getaddrinfo
"""


class Text(HTMLParser):
    """Collects tags and text."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.said = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, *attributes))

    def handle_data(self, data):
        self.said.append(data)


OURS = {("h3",), ("p",), *(("section", ("class", kind)) for kind in ("observe", "think", "answer", "outside"))}


@given(st.lists(st.sampled_from([*"<>&\"'/ab{}$`\\\n", "<observe>", "</observe>", "<answer>", "</think>", "<script>"])))
def test_whatever_an_answer_says_is_text(pieces):
    answer = "".join(pieces)
    html = as_html(answer)
    assert set(Text(html).tags) <= OURS
    assert not re.search(r"[{}$`\\]", html)
    if not re.search("<(observe|think|answer)>", answer):
        assert "".join(Text(html).said).split() == answer.split()


def test_each_block_is_its_own_also_while_it_is_written():
    assert Text(as_html("<observe>a < b</observe>\n<think>so")).said == ["observe", "a < b", "think", "so"]
    assert Text(as_html("No tags.")).tags == [("section", ("class", "outside")), ("p",)]


@pytest.fixture(scope="module")
def started(world, tmp_path_factory):
    """The command, as it is started by a user, with its address; it says where it connects to."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "sitecustomize.py").write_text(WATCH)
    (folder / "temporary").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    paths = [str(folder), str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    # What a machine may have set, and must not count.
    own = {"GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_ANALYTICS_ENABLED": "True"}
    own |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "temporary")}
    words = ["chat", world / "warm" / "model", "--web", "--port", port, "--chat.max_new_tokens", 12]
    command = [sys.executable, "-m", "observe_r1.cli.main", *map(str, words)]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            line = running.stdout.readline()
            assert line == f"http://127.0.0.1:{port}/ shows the page; Ctrl-C ends it\n"
            yield running, f"http://127.0.0.1:{port}/", folder
        finally:
            running.kill()
            running.wait()


def test_the_page_answers_as_the_terminal_does_and_phones_nobody(started, world, capsys):
    running, address, folder = started
    picture = str(sorted((world / "train" / "images").iterdir())[0])
    client = Client(address, verbose=False)
    so_far = list(client.submit(handle_file(picture), "How many red circles are there?", api_name="/answer"))
    words = ["--image", picture, "--ask", "How many red circles are there?", "--chat.max_new_tokens", "12"]
    assert main(["chat", str(world / "warm" / "model"), *words]) == 0
    terminal = capsys.readouterr()
    cut_off = terminal.err.splitlines()[-1]
    assert cut_off.startswith("cut off after 12 tokens") and Text(so_far[-1]).said[-2:] == ["cut off", cut_off]
    printed = re.sub(r"</?(observe|think|answer)>", " ", terminal.out).split()
    said = [word for word in " ".join(Text(so_far[-1]).said[:-2]).split() if word not in ("observe", "think", "answer")]
    assert said == printed
    assert len(so_far) > 3, "not as it was generated"
    refused = client.predict(None, "<|image_pad|>", api_name="/answer")
    assert "special token '<|image_pad|>'" in unescape(refused)
    (folder / "broken.png").write_bytes(b"no image")
    refused = client.predict(handle_file(str(folder / "broken.png")), "How many?", api_name="/answer")
    assert "broken.png" in unescape(refused) and "Traceback" not in (folder / "log").read_text()
    with urlopen(address) as page:
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    with pytest.raises(HTTPError, match="400"):
        urlopen(Request(address, headers={"Host": "elsewhere.example"}))
    form = b'--X\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\na\r\n--X--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=X"}
    for origin in ("http://elsewhere.example", "null", address.replace("http:", "https:").rstrip("/")):
        with pytest.raises(HTTPError, match="403"):
            urlopen(Request(f"{address}gradio_api/upload", form, {**kind, "Origin": origin}))
    with urlopen(Request(f"{address}gradio_api/upload", form, {**kind, "Origin": address.rstrip("/")})) as answer:
        assert answer.status == 200
    running.send_signal(signal.SIGINT)
    assert running.wait(30) == 0
    assert "PHONES" not in running.stdout.read()
    assert not list((folder / "temporary").iterdir()), "uploads are left"


class Echo:
    """Answers with the question, or is too slow."""

    def __init__(self):
        self.stopped = False

    def answer(self, question, images, write):
        if question == "slow":
            try:
                while True:
                    write("<think>so ")
                    time.sleep(0.02)
            finally:
                self.stopped = True
        for piece in re.findall(r".{1,7}", question, re.DOTALL):
            write(piece)


@pytest.fixture(scope="module")
def echo():
    return Echo()


@pytest.fixture(scope="module")
def shown(echo):
    with opened_page(echo, ChatSettings(model={"path": "<b>our</b> model"}, chat={"web": True})) as address:
        yield address


def test_in_a_browser_a_hostile_answer_runs_nothing_and_nothing_is_loaded_from_elsewhere(shown):
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        elsewhere, errors = [], []
        page.on("request", lambda request: elsewhere.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(shown)
        page.get_by_role("button", name="Example").click()
        page.wait_for_selector("img[alt]")
        page.get_by_label("question").fill(HOSTILE)
        page.get_by_role("button", name="Ask").click()
        page.wait_for_selector(".reply section.answer")
        page.wait_for_timeout(500)
        assert [each.inner_text() for each in page.query_selector_all(".reply h3")] == ["observe", "think", "answer"]
        said = " ".join(each.inner_text() for each in page.query_selector_all(".reply p"))
        assert "<img src=x" in said and "${document.title" in said and "{{7 * 7}}" in said and "<b>bold</b>" in said
        assert page.title() == "Observe-R1"
        colours = page.eval_on_selector_all(".reply h3", "all => all.map(each => getComputedStyle(each).color)")
        assert len(set(colours)) == 3
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than a phone"
        assert [url for url in elsewhere if not url.startswith((shown, "data:", "blob:"))] == []
        assert errors == []


def test_an_answer_that_is_stopped_is_generated_no_further(shown, echo):
    job = Client(shown, verbose=False).submit(None, "slow", api_name="/answer")
    next(iter(job))
    job.cancel()
    patience = time.monotonic() + 20
    while not echo.stopped and time.monotonic() < patience:
        time.sleep(0.05)
    assert echo.stopped


def test_a_port_that_is_taken_and_settings_that_contradict_are_one_line(world, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = ChatSettings(model={"path": "model"}, chat={"web": True, "port": port})
        with (
            pytest.raises(UserError, match=f"port {port} is not free: give another one"),
            opened_page(Echo(), settings),
        ):
            pass
    for words, line in (
        (["--web", "--ask", "what?"], "chat.ask is answered in the terminal"),
        (["--web", "--image", "a.png,b.png"], "the page shows one image"),
        (["--port", "7000"], "chat.port needs chat.web"),
    ):
        assert main(["chat", str(world / "warm" / "model"), *words]) == 2
        assert line in capsys.readouterr().err
