"""A reward server: the protocol, trying again, and one line for everything that can be wrong with it."""

import base64
import json
import socket
import threading
import time
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import pytest
from hostile import after_json, hostile_group, hostile_text
from scripted_server import scripted

from observe_r1.cli.main import main
from observe_r1.config import RewardSettings
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.rewards import Scorer
from observe_r1.rewards.reward_server import RewardServer

EXAMPLE = Example(id="x", messages=(), images=(), answer="4", origin="rows.jsonl row 3")


@pytest.fixture
def server():
    def usual(question):
        return 200, json.dumps({"rewards": [len(text) for text in question["query"]]}).encode()

    with scripted(usual, "/score") as server:
        yield server


def rewards(server, responses, **settings):
    with RewardServer(server.url, RewardSettings(**settings)) as reward:
        return reward.rewards(responses, EXAMPLE, "Q: ")


def test_the_protocol_is_the_originals(server):
    assert rewards(server, ["a", "bcd\ud800"]) == [4.0, 7.0]
    assert server.asked == [{"query": ["Q: a", "Q: bcd\ud800"], "prompts": ["Q: ", "Q: "], "labels": ["4", "4"]}]


def test_hostile_texts_arrive_as_they_were_written(server):
    dice = Random(0)
    with RewardServer(server.url, RewardSettings()) as reward:
        for _ in range(50):
            texts, prompt = hostile_group(dice), hostile_text(dice)
            arrived = [after_json(prompt + text) for text in texts]
            assert reward.rewards(texts, EXAMPLE, prompt) == [float(len(text)) for text in arrived]
            assert server.asked.pop()["query"] == arrived


def test_a_busy_server_and_a_broken_connection_are_tried_again(server):
    half = (200, b'{"rewards": [4]}', lambda handler: handler.wfile.write(b'{"rewards"'))
    server.answers = [(503, b"loading"), None]
    assert rewards(server, ["a"], retries=2) == [4.0]
    server.answers = [half]
    assert rewards(server, ["a"], retries=1) == [4.0]
    server.answers = [half, half]
    with pytest.raises(UserError, match=r"does not answer \(rewards\.retries: 1\): .*IncompleteRead"):
        rewards(server, ["a"], retries=1)
    assert len(server.asked) == 7


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, b"no\nsuch page"), " answered with status 404: 'no such page'"),
        ((503, b"loading"), " answered with status 503: 'loading'"),
        ((302, b""), " answered with status 302: ''"),
        ((200, b"<html>hello"), " answered something that is not JSON: '<html>hello'"),
        ((200, b"\xff\xfe\xfd"), " answered something that is not JSON: "),
        ((200, b"[" * 100_000), " answered something that is not JSON: '[[["),
        ((200, b"[1, 2]"), """ must answer {"rewards": […]}, not '[1, 2]'"""),
        ((200, b'{"reward": [1, 2]}'), """ must answer {"rewards": […]}, not '{"reward": [1, 2]}'"""),
        ((200, b'{"rewards": 1}'), " gave 1; it must give a list of 2 numbers"),
        ((200, b'{"rewards": [1]}'), " gave 1 rewards for 2 responses"),
        ((200, b'{"rewards": [1, null]}'), " gave reward 2 of 2 as None; it must be a number"),
        ((200, b'{"rewards": [1, NaN]}'), " gave reward 2 of 2 as nan; it must be finite"),
        ((200, b'{"rewards": [1e999, 1]}'), " gave reward 1 of 2 as inf; it must be finite"),
        ((200, b" " * (2 << 20)), " answered over 1,048,576 bytes, more than any answer needs"),
        (None, " does not answer (rewards.retries: 0): "),
        (
            lambda question: time.sleep(1),
            " took over 0.3 s for its answer; make it faster or raise rewards.call_timeout",
        ),
    ],
)
def test_an_answer_that_is_no_list_of_rewards_is_told_in_one_line(server, answer, message):
    server.answers = [answer]
    with pytest.raises(UserError) as caught:
        rewards(server, ["a", "b"], retries=0, call_timeout=0.3 if callable(answer) else 20)
    assert f"reward server {server.url}{message}" in str(caught.value)
    assert "\n" not in str(caught.value)


ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"rewards": [1]}'
DRIPS = {
    "a status line": [bytes([byte]) for byte in ANSWER],
    "headers": [ANSWER[:17], *(b"X-%d: y\r\n" % number for number in range(50)), ANSWER[17:]],
    "100 Continue": [b"HTTP/1.1 100 Continue\r\n\r\n"] * 50 + [ANSWER],
    "a body": [ANSWER[:-16], *(bytes([byte]) for byte in ANSWER[-16:])],
    "chunks": [ANSWER[:17], b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 50, b"3\r\n[1]\r\n0\r\n\r\n"],
}
"""Answers that are over at last, each piece 0.1 s after the one before."""


@pytest.mark.parametrize("pieces", DRIPS.values(), ids=DRIPS.keys())
def test_an_answer_that_drips_is_too_slow_whichever_part_of_it_does(pieces):
    enough = threading.Event()

    def drip():
        connection, _ = listening.accept()
        with connection, suppress(OSError):  # the client has had enough
            connection.recv(1 << 16)
            for piece in pieces:
                connection.sendall(piece)
                if enough.wait(0.1):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=drip)
        server.start()
        reward = RewardServer(f"http://127.0.0.1:{listening.getsockname()[1]}/", RewardSettings(call_timeout=0.4))
        with pytest.raises(UserError, match=r"took over 0\.4 s for its answer"):
            reward.rewards(["a"], EXAMPLE, "")
        enough.set()
        server.join()


def test_a_server_that_takes_no_connection_is_too_slow():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, ExitStack() as stack:
        address = listening.getsockname()
        with suppress(TimeoutError):
            while True:  # until its queue is full
                stack.enter_context(socket.create_connection(address, timeout=0.2))
        reward = RewardServer(f"http://127.0.0.1:{address[1]}/", RewardSettings(call_timeout=0.3))
        with pytest.raises(UserError, match=r"took over 0\.3 s for its answer.* correct its address"):
            reward.__enter__()


def with_password(url):
    return url.replace("http://", "http://me:s3cret%21@")


def test_a_password_in_the_address_is_sent_and_stands_in_no_message(server):
    server.url = with_password(server.url)
    assert rewards(server, ["a"]) == [4.0]
    assert server.headers["Authorization"] == "Basic " + base64.b64encode(b"me:s3cret!").decode()
    server.answers = [(404, b""), (200, b"?"), (200, b"{}"), (200, b'{"rewards": []}'), (200, b" " * (2 << 20)), None]
    for _ in list(server.answers):
        assert_hidden(lambda: rewards(server, ["a"], retries=0))
    server.answers = [lambda question: time.sleep(1)]
    assert_hidden(lambda: rewards(server, ["a"], retries=0, call_timeout=0.3))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://no.such.host.invalid/", "http://h:x/", "http://[h/"])
def test_a_password_stands_in_no_message_about_the_address_itself(url):
    settings = RewardSettings(functions={with_password(url): 1.0}, retries=0, call_timeout=5)
    assert_hidden(lambda: Scorer(settings).__enter__())
    twice = dict.fromkeys([with_password(url), with_password(url).rstrip("/")], 1.0)
    assert_hidden(lambda: Scorer(RewardSettings(functions=twice)))


@pytest.mark.parametrize("functions", ["{0}=much", "{0}=1,ftp://me:s3cret%21@h=1", "{0}"])
def test_a_password_stands_in_no_message_about_settings(functions, tmp_path, capsys):
    words = ["train", "--model.path", str(tmp_path), "--data.path", "x.jsonl", "--run.output", str(tmp_path / "run")]
    assert main([*words, "--rewards.functions", functions.format(with_password("http://h/a"))]) == 2
    error = capsys.readouterr().err
    assert "s3cret" not in error and "…@h" in error


def assert_hidden(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "s3cret" not in str(caught.value) and "me:" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/score", "http://no.such.host.invalid/", "http://", "http://h:x/"])
def test_a_server_that_cannot_be_reached_is_told_on_entering(url):
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as gone:
        url = url.format(gone.server_port)
    with pytest.raises(UserError, match=r"^reward server .* does not answer \(rewards\.retries: 0\): .+") as caught:
        Scorer(RewardSettings(functions={url: 1.0}, retries=0, call_timeout=5)).__enter__()
    assert "\n" not in str(caught.value)


def test_groups_are_asked_side_by_side_while_something_else_goes_on(server):
    together = threading.Barrier(8)
    server.usual = lambda question: (200, b'{"rewards": [%d]}' % (together.wait(10) * 0 + int(question["labels"][0])))
    with Scorer(RewardSettings(functions={server.url: 0.5, "accuracy": 1.0})) as scorer:
        examples = [Example(str(n), (), (), str(n)) for n in range(8)]
        pending = [scorer.submit([example.answer], example) for example in examples]
        scores = [group.result() for group in pending]
    name = server.url.removeprefix("http://")
    assert [s.parts for s in scores] == [{name: [float(n)], "accuracy": [1.0]} for n in range(8)]
    assert [s.total for s in scores] == [[1 + n / 2] for n in range(8)]


def test_leaving_the_scorer_does_not_wait_and_sends_nothing_more(server):
    go_on = threading.Event()
    server.usual = lambda question: go_on.wait(20) and (200, b'{"rewards": [1]}')
    with Scorer(RewardSettings(functions={server.url: 1.0})) as scorer:
        pending = [scorer.submit(["4"], EXAMPLE) for _ in range(20)]
        while len(server.asked) < 8:
            time.sleep(0.01)
    go_on.set()
    assert sum(_is_scored(group) for group in pending) == len(server.asked) == 8


def _is_scored(group):
    try:
        return group.result().total == [1.0]
    except CancelledError:
        return False
