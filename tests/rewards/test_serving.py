"""`observe-r1 serve-rewards`: the original's protocol, asked by our own client and by hostile ones."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from random import Random

import pytest
from hostile import after_json, hostile_group, hostile_text

from observe_r1.cli.main import main
from observe_r1.config import RewardSettings
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.rewards import Scorer
from observe_r1.rewards.reward_server import RewardServer
from observe_r1.rewards.serving import LARGEST_BODY, RewardServing

FUNC = """
import os, time

def reward_func(queries, prompts, labels):
    if "slow" in queries[0]:
        time.sleep(60)
    if "raise" in queries[0]:
        raise ValueError("no such answer")
    if "die" in queries[0]:
        os._exit(3)
    while "wait for" in queries[0] and not os.path.exists(queries[0].split()[-1]):
        time.sleep(0.01)
    return [len(query) - len(prompt) + 100 * len(label) for query, prompt, label in zip(queries, prompts, labels)]
"""
ONE = """
def reward(response, answer, example):
    return 2.0 * (response == answer) + ("?" in example.messages[-1]["content"][0]["text"])
"""
EXAMPLE = Example("1", (), (), "4")


def serving(tmp_path, *names, texts=FUNC, **settings):
    path = tmp_path / "my_reward.py"
    path.write_text(texts)
    return RewardServing(names or (str(path),), RewardSettings(**settings), "127.0.0.1", 0)


class Running:
    """A server in a thread of this process."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        self.server.__enter__()
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self.server

    def __exit__(self, *exception):
        self.server.shutdown()
        self.thread.join()
        self.server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Running(serving(tmp_path_factory.mktemp("serving"), workers=2, call_timeout=2.0)) as running:
        yield running


def ask(server, body, method="POST", **headers):
    """Send one request as it stands; return status and JSON of the answer, which must be one line."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.request(method, "/get_reward", body, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert text.count("\n") == 1 and answer.headers["Content-Type"] == "application/json"
    return answer.status, json.loads(text)


def raw(server, *pieces):
    with socket.create_connection(server.server_address[:2], timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def group(query="Q: abc", prompt="Q: ", label="4", count=1):
    return json.dumps({"query": [query] * count, "prompts": [prompt] * count, "labels": [label] * count})


def test_our_client_gets_what_the_file_gives(server):
    with RewardServer(server.url, RewardSettings()) as client:
        assert client.rewards(["a", "bcd\ud800"], EXAMPLE, "Q: ") == [101.0, 104.0]
        dice = Random(0)
        for _ in range(30):
            texts, prompt = hostile_group(dice), hostile_text(dice)
            arrived = [len(after_json(prompt + text)) - len(after_json(prompt)) + 100.0 for text in texts]
            assert client.rewards(texts, EXAMPLE, prompt) == arrived


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the request is not JSON: "),
        (b"{", "the request is not JSON: "),
        (b"\xff\xfe\x00", "the request is not JSON: "),
        (b"[" * 200_000, "the request is not JSON: "),
        (b"9" * 5000, "the request is not JSON: "),
        (b"[]", """the request must be {"query": [...], "prompts": [...], "labels": [...]}, not a list"""),
        (b"null", "not a NoneType"),
        (b"{}", "the request has no 'query'; it must be"),
        (b'{"query": [], "prompts": []}', "the request has no 'labels'"),
        (b'{"query": "a", "prompts": [], "labels": []}', "'query' must be a list of texts, not a str"),
        (b'{"query": ["a"], "prompts": [null], "labels": ["b"]}', "'prompts' entry 1 must be a text, not a NoneType"),
        (b'{"query": ["a"], "prompts": ["b"], "labels": [4]}', "'labels' entry 1 must be a text, not a int"),
        (
            b'{"query": ["a", "b"], "prompts": ["a"], "labels": ["b"]}',
            "the lists must be equally long: 2 in 'query', 1 in 'prompts', 1 in 'labels'",
        ),
    ],
)
def test_a_bad_body_is_answered_by_one_line(server, body, message):
    status, answer = ask(server, body)
    assert status == 400 and message in answer["error"]


def test_a_bad_request_is_answered_by_one_line(server):
    assert ask(server, None, "GET") == (400, {"error": "rewards are asked for by POST"})
    assert ask(server, group(), "PUT")[0] == 400
    for length in ("x", "-1", "1e3", "\u00b2"):
        assert "Content-Length" in ask(server, None, **{"Content-Length": length})[1]["error"]
    too_long = ask(server, None, **{"Content-Length": str(LARGEST_BODY + 1)})
    assert too_long[0] == 400 and "over 67,108,864 bytes" in too_long[1]["error"]
    assert ask(server, None, **{"Content-Length": "9" * 5000})[0] == 400
    assert b'{"error": "' in raw(server, b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
    head = b"POST / HTTP/1.1\r\nContent-Length: 50\r\n\r\n"
    assert b"the request broke off after 5 of 50 bytes" in raw(server, head, b"{}   ")
    assert b"200" in raw(server, b"HEAD / HTTP/1.1\r\n\r\n").partition(b"\r\n")[0]
    assert ask(server, group(count=0)) == (200, {"rewards": []})


def test_what_the_file_does_wrong_is_one_line_and_the_next_request_is_answered(server, capsys):
    for text, message in (
        ("slow", "reward_func took over 2 s"),
        ("raise", "my_reward.py line 8: ValueError: no such answer"),
        ("die", "ended its process: exit code 3"),
    ):
        status, answer = ask(server, group(text, ""))
        assert status == 500 and message in answer["error"]
        assert message in capsys.readouterr().err  # whoever serves it sees it too
        assert ask(server, group()) == (200, {"rewards": [103.0]})


def test_requests_are_answered_side_by_side_beside_silent_and_vanished_clients(tmp_path):
    answers, query = [], f"wait for {tmp_path / 'go'}"
    with Running(serving(tmp_path, workers=2)) as server:
        silent = [socket.create_connection(server.server_address[:2]) for _ in range(5)]
        gone = socket.create_connection(server.server_address[:2])
        gone.sendall(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
        gone.close()
        slow = threading.Thread(target=lambda: answers.append(ask(server, group(query, ""))))
        slow.start()
        quick = [threading.Thread(target=lambda: answers.append(ask(server, group(count=3)))) for _ in range(8)]
        for thread in quick:
            thread.start()
        for thread in quick:
            thread.join()
        assert answers == [(200, {"rewards": [103.0] * 3})] * 8  # the slow one holds up one of two processes
        (tmp_path / "go").touch()
        slow.join()
        for connection in silent:
            connection.close()
    assert answers[8:] == [(200, {"rewards": [len(query) + 100.0]})]


def test_a_reward_of_one_response_gets_response_answer_and_question(tmp_path):
    with Running(serving(tmp_path, texts=ONE)) as server:
        assert ask(server, group("why? 4", "why? ")) == (200, {"rewards": [3.0]})
        status, answer = ask(server, group("b", "a"))
        assert status == 400 and "query 1 of 1 does not begin with its prompt" in answer["error"]


def test_built_in_rewards_are_served_by_name_and_added_up(tmp_path):
    prompt = "Which? (A) 45 (B) 60 "
    good = "<observe>a</observe><think>b</think><answer>60</answer>"
    with Running(serving(tmp_path, "accuracy", "format")) as server:
        settings = RewardSettings(functions={server.url: 1.0})
        with Scorer(settings) as scorer:
            served = scorer.score([good, "60", "7"], Example("1", (), (), "B"), prompt)
        assert served.total == [1.5, 1.0, 0.0]
        status, answer = ask(server, group("a\fb", "a", "\frac{1}{2}"))
        assert status == 400 and answer["error"].startswith("label 1 of 1 is not a gold answer: ")
        status, answer = ask(server, group("b", "a"))
        assert status == 400 and "query 1 of 1 does not begin with its prompt" in answer["error"]


def test_an_address_in_use_and_a_missing_file_are_one_line(server, tmp_path):
    with pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1 port \d+: .*--port"):
        RewardServing(("accuracy",), RewardSettings(), "127.0.0.1", server.server_address[1])
    with pytest.raises(UserError, match="port 99999"):
        RewardServing(("accuracy",), RewardSettings(), "127.0.0.1", 99999)
    with pytest.raises(UserError, match="no such file, looked for in"):
        RewardServing((str(tmp_path / "none.py"),), RewardSettings(), "127.0.0.1", 0).__enter__()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_command_in_the_middle_of_a_call_with_its_processes(number, tmp_path):
    path = tmp_path / "slow.py"
    written = "open(__file__ + '.pid', 'w').write(str(os.getpid()))"
    path.write_text(FUNC.replace("time.sleep(60)", f"{written}; time.sleep(60)"))
    code = "import sys; from observe_r1.cli.main import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "serve-rewards", str(path), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        url = line.partition(" at ")[2].split()[0]
        assert line.startswith(f"serving {path} at http://127.0.0.1:")
        with socket.create_connection(("127.0.0.1", int(url.rstrip("/").rpartition(":")[2]))) as connection:
            body = group("slow", "").encode()
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            while not (pid := tmp_path / "slow.py.pid").exists() or not pid.read_text():
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(number)
            assert process.wait(timeout=20) == 128 + number
        assert "Traceback" not in process.stderr.read()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["questions.jsonl"],
            "'questions.jsonl' is neither a Python file (my_reward.py) nor a built-in reward: accuracy",
        ),
        (["http://127.0.0.1:5000/"], "is neither a Python file"),
        (["no_such_reward"], "'no_such_reward' is neither a Python file"),
        (["acuracy"], "accuracy, format (did you mean 'accuracy'?)"),
        (["accuracy", "--timeout", "0"], "argument --timeout: should be a number of seconds above 0, not 0"),
        (["accuracy", "--timeout", "nan"], "argument --timeout: "),
        (["accuracy", "--workers", "0"], "argument --workers: should be 1 or more, not 0"),
        (["accuracy", "--template", "look"], "argument --template: invalid choice: 'look'"),
    ],
)
def test_what_cannot_be_served_is_told_in_the_words_of_the_command(words, said, capsys):
    assert main(["serve-rewards", *words]) == 2
    line = capsys.readouterr().err
    assert said in line and len(line.splitlines()) == 1
    assert not any(name in line for name in ("functions", "call_timeout", "rewards."))
