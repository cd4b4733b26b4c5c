"""A model at a server: what is asked, what is taken from its answers, and one line for whatever is wrong with it."""

import io
import json
import threading
import time
from base64 import b64decode
from dataclasses import replace

import pytest
from PIL import Image
from scripted_server import scripted

from observe_r1.config import ProcessorSettings, QuestionSettings, ServerSettings
from observe_r1.data.format_prompts import FORMAT_PROMPTS
from observe_r1.errors import UserError
from observe_r1.records import Example, Sampling
from observe_r1.rollout.engine import RefusedPromptError
from observe_r1.rollout.server import KEY, ChatServer, encode_chat

GREEDY = Sampling(temperature=0, max_new_tokens=64)
OWNER = {"owned_by": "somebody"}


def models(*ids, **more):
    return 200, json.dumps({"data": [{"id": each, **OWNER, **more} for each in ids]}).encode()


def said(text, *, tokens=3, finish="stop", model="ours", choices=1, **more):
    choice = {"message": {"role": "assistant", "content": text, **more}, "finish_reason": finish}
    usage = {"completion_tokens": tokens}
    return 200, json.dumps({"model": model, "choices": [choice] * choices, "usage": usage}).encode()


def last_text(question):
    content = question["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


@pytest.fixture
def server():
    def usual(question):
        return models("ours", "other") if question == "/v1/models" else said(last_text(question))

    with scripted(usual, "/v1") as server:
        yield server


def asked(server, texts=("a", "b", "c"), sampling=GREEDY, note=print, **settings):
    """Return the texts, and the replies, that the server gives to some questions."""
    chat = ChatServer(ServerSettings(url=server.url, **settings), "ours", is_folder=False, note=note)
    prompts = [prompt(text, stream=number) for number, text in enumerate(texts)]
    return chat.generate(prompts, sampling)


def prompt(text, images=(), stream=0, **settings):
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    example = Example("x", ({"role": "user", "content": content},), tuple(images), "", origin="rows.jsonl row 1")
    model = ProcessorSettings(max_pixels=settings.pop("max_pixels", 10_000))
    return encode_chat(example, settings=QuestionSettings(**settings), stream=stream, model=model)


def test_a_chat_is_sent_as_openai_writes_it(tmp_path):
    Image.effect_noise((160, 90), 50).convert("RGB").save(tmp_path / "a.png")
    small, large = (
        json.loads(prompt("How many?", [str(tmp_path / "a.png")], max_pixels=most).messages) for most in (20_000, 3_600)
    )
    assert [turn["role"] for turn in small] == ["system", "user"]
    assert small[0]["content"] == FORMAT_PROMPTS["observe"]
    image, text = small[1]["content"]
    assert text == {"type": "text", "text": "How many?"}

    def decoded(url):
        kind, _, data = url.partition(",")
        assert kind == "data:image/png;base64"
        return Image.open(io.BytesIO(b64decode(data)))

    sent = decoded(image["image_url"]["url"])
    assert sent.tobytes() == Image.open(tmp_path / "a.png").tobytes()
    assert decoded(large[1]["content"][0]["image_url"]["url"]).size == (80, 45)
    suffix = json.loads(prompt("How many?", format_prompt_place="suffix").messages)
    assert suffix == [{"role": "user", "content": f"How many?\n\n{FORMAT_PROMPTS['observe']}"}]


def test_it_asks_for_what_the_settings_say_and_for_nothing_it_cannot_give(server, monkeypatch):
    monkeypatch.setenv(KEY, "s3cret")
    sampling = Sampling(n=3, temperature=0.7, top_p=0.9, max_new_tokens=64, seed=5)
    groups = asked(server, ["a", "b"], sampling)
    assert [[reply.text for reply in group] for group in groups] == [["a"] * 3, ["b"] * 3]
    assert groups[0][0].tokens == 3 and groups[0][0].finish == "stop"
    assert server.headers["Authorization"] == "Bearer s3cret"
    assert len(server.asked) == 6
    assert len({each["seed"] for each in server.asked}) == 6
    for each in server.asked:
        assert each.keys() == {"model", "messages", "temperature", "top_p", "max_tokens", "seed"}
        assert (each["model"], each["temperature"], each["top_p"], each["max_tokens"]) == ("ours", 0.7, 0.9, 64)
    seeds = {(last_text(each), each["seed"]) for each in server.asked}
    server.asked.clear()
    asked(server, ["a", "b"], sampling)
    assert {(last_text(each), each["seed"]) for each in server.asked} == seeds
    server.asked.clear()
    asked(server, ["a"], fields={"max_tokens": None, "reasoning_effort": "low"})
    assert server.asked[0].keys() == {"model", "messages", "temperature", "top_p", "reasoning_effort"}


def test_what_settings_ask_for_no_field_can_ask_otherwise(server):
    asked(server, ["a"], Sampling(temperature=0.7, top_p=0.9, top_k=5, max_new_tokens=64, seed=5, stop=("x",)))
    assert len(server.asked[0]) == 8
    for name in server.asked[0]:
        with pytest.raises(ValueError, match=rf"server\.fields: {name} (= 1: the evaluation sets|is not for you)"):
            ServerSettings(url="http://a", fields={name: 1})
    with pytest.raises(ValueError, match=r"by rollout\.max_new_tokens: set that; max_tokens=null leaves the field out"):
        ServerSettings(url="http://a", fields={"max_tokens": 9})
    assert ServerSettings(url="http://a", fields={"temperature": None, "min_p": 0.1}).fields["min_p"] == 0.1


@pytest.mark.parametrize(("owner", "top_k"), [("vllm", 0), ("sglang", -1)])
def test_a_checkpoint_s_own_generation_settings_do_not_count(server, owner, top_k):
    server.answers = [models("ours", owned_by=owner)]
    asked(server, ["a"])
    assert server.asked[0]["repetition_penalty"] == 1.0 and server.asked[0]["top_k"] == top_k
    server.answers = [models("ours", owned_by=owner)]
    asked(server, ["a"], Sampling(top_k=5, max_new_tokens=64))
    assert server.asked[1]["top_k"] == 5


def test_requests_are_bounded_and_one_that_is_slow_holds_up_no_other(server):
    running, most, slow, lock = set(), [0], threading.Event(), threading.Lock()

    def watched(question):
        if question == "/v1/models":
            return models("ours")
        text = last_text(question)
        with lock:
            running.add(text)
            most[0] = max(most[0], len(running))
        if text == "0":
            assert slow.wait(20)
        else:
            time.sleep(0.05)  # time for one too many to arrive
        if text == "19":
            slow.set()
        with lock:
            running.discard(text)
        return said(text)

    server.usual = watched
    groups = asked(server, [str(number) for number in range(20)], at_once=3)
    assert [group[0].text for group in groups] == [str(number) for number in range(20)]
    assert 1 < most[0] <= 3


def test_a_busy_a_failing_a_silent_and_a_breaking_server_are_asked_again(server):
    half = (200, b'{"choices": []}', lambda handler: handler.wfile.write(b'{"choi'))
    fails = {
        "busy": (429, b""),
        "failing": (500, b""),
        "breaking": None,
        "half": half,
        "silent": lambda: time.sleep(2.5),
    }

    def once(question):
        text = question if isinstance(question, str) else last_text(question)
        if text not in fails:
            return models("ours") if text == "/v1/models" else said(text)
        failure = fails.pop(text)
        return failure() if callable(failure) else failure

    server.usual = once
    texts = list(fails)
    assert [group[0].text for group in asked(server, texts, timeout=2, retries=1)] == texts
    assert len(server.asked) == 10


def drip(handler):
    """Write an answer that has no end."""
    while True:
        handler.wfile.write(b" ")
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((429, b"slow down"), " answered with status 429: 'slow down'"),
        (None, " does not answer (server.retries: 0): "),
        (lambda _: time.sleep(1), " does not answer (server.retries: 0): Read timed out"),
        ((401, b'{"error": {"message": "bad\\nkey s3cret"}}'), " answered with status 401: bad key ...: put its key"),
        ((500, b"what is s3cret?"), " answered with status 500: 'what is ...?'"),
        ((422, b'{"detail": "Unexpected fields: top_k"}'), " refuses it with status 422: Unexpected fields: top_k"),
        ((200, b"", {"Content-Length": 10**12}, drip), " took over 0.6 s for its answer"),
        ((302, b"", {"Location": "/v1/chat/completions"}), " does not answer (server.retries: 0): too many redirects"),
        ((200, b"<html>"), " answered something that is not JSON: '<html>'"),
        ((200, b"[" * 100_000), " answered something that is not JSON: '[[["),
        ((200, b"[]"), " must answer as OpenAI's API does: answer: "),
        (said("a", choices=2), " must answer as OpenAI's API does: choices: List should have at most 1 item"),
        ((200, b'{"choices": []}'), " must answer as OpenAI's API does: choices: List should have at least 1 item"),
        ((200, b'{"choices": [{"message": {"content": "a"}}]}'), " must answer as OpenAI's API does: usage: Field"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_told_in_one_line(server, answer, line, monkeypatch):
    monkeypatch.setenv(KEY, "s3cret")
    server.answers = [models("ours"), answer]
    with pytest.raises(UserError) as caught:
        asked(server, ["a"], retries=0, timeout=0.3 if callable(answer) or drip in (answer or ()) else 20)
    assert f"server {server.url}{line}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refused_prompt_is_named_and_the_others_are_not_asked_again(server):
    server.usual = lambda question: (
        models("ours")
        if question == "/v1/models"
        else (400, b'{"error": {"message": "too long"}}')
        if last_text(question) == "b"
        else said(last_text(question))
    )
    chat = ChatServer(ServerSettings(url=server.url), "ours", is_folder=False, note=print)
    prompts = [prompt(text) for text in "abc"]
    with pytest.raises(RefusedPromptError, match=r"refuses it with status 400: too long$") as caught:
        chat.generate(prompts, GREEDY)
    assert caught.value.index == 1
    del prompts[1]
    assert [group[0].text for group in chat.generate(prompts, GREEDY)] == ["a", "c"]
    assert len(server.asked) == 3
    chat.generate(prompts, GREEDY)
    assert len(server.asked) == 5


def test_a_response_that_the_server_cut_is_noted_once(server):
    server.usual = lambda question: models("ours") if question == "/v1/models" else said("a", finish="length", tokens=8)
    notes = []
    groups = asked(server, note=notes.append)
    assert {group[0].finish for group in groups} == {"length"}
    (line,) = notes
    assert "cut a response at 8 tokens, before rollout.max_new_tokens = 64" in line


def test_reasoning_that_is_kept_apart_is_noted_once(server):
    server.usual = lambda question: (
        models("ours") if question == "/v1/models" else said("<answer>7</answer>", reasoning_content="I see 7.")
    )
    notes = []
    asked(server, note=notes.append)
    (line,) = notes
    assert "keeps the reasoning apart from the response" in line


def test_a_server_that_does_not_sample_is_noted_once(server):
    sampling = Sampling(n=2, temperature=1.0, max_new_tokens=8)
    notes = []
    asked(server, "abcdefgh", sampling, note=notes.append)
    (line,) = notes
    assert "gave 2 equal responses to each of 8 questions at temperature 1: it may not sample" in line
    for few_or_greedy in (("abc", sampling), ("abcdefgh", replace(sampling, temperature=0))):
        asked(server, *few_or_greedy, note=pytest.fail)


def test_it_follows_a_server_that_moved_and_waits_as_long_as_a_busy_one_asks_for(server):
    with scripted(lambda question: said(last_text(question)), "/v1") as new:
        server.answers = [models("ours"), (307, b"", {"Location": f"{new.url}/chat/completions"})]
        new.answers = [(429, b"", {"Retry-After": "1"})]
        before = time.monotonic()
        assert asked(server, ["a"], retries=2)[0][0].text == "a"
        assert time.monotonic() - before >= 1 and len(new.asked) == 2


def test_a_key_goes_to_no_other_server(server, monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    with scripted(lambda question: said(last_text(question)), "/v1") as new:
        elsewhere = new.url.replace("127.0.0.1", "localhost")
        server.answers = [models("ours"), (307, b"", {"Location": f"{elsewhere}/chat/completions"})]
        asked(server, ["a"], retries=1)
        assert server.headers["Authorization"] == "Bearer secret" and "Authorization" not in new.headers


def test_a_model_that_is_loaded_when_it_is_asked_for_need_not_be_listed(server):
    """As `transformers serve` does, which lists what is in the cache; where there is none, it fails."""

    def usual(question):
        return models("theirs") if question == "/v1/models" else said(last_text(question), model="a/folder@main")

    server.usual = usual
    for is_folder in (True, False):
        notes = []
        chat = ChatServer(ServerSettings(url=server.url), "a/folder", is_folder=is_folder, note=notes.append)
        assert chat.model == "a/folder" and "does not list 'a/folder', but answers for it" in notes[0]
    server.answers = [(500, b"Internal Server Error")]
    chat = ChatServer(ServerSettings(url=server.url, retries=0), "a/folder", is_folder=True, note=print)
    assert chat.generate([prompt("a")], GREEDY)[0][0].text == "a"


def test_the_model_is_found_by_its_name(server):
    def connect(model, *, is_folder=False, name=None, listed=("ours", "other")):
        notes = []
        server.answers = [listed if listed and isinstance(listed[0], int) else models(*listed)]
        chat = ChatServer(ServerSettings(url=server.url, model=name), model, is_folder=is_folder, note=notes.append)
        return chat.model, notes

    assert connect("ours") == ("ours", [])
    assert connect("a/folder", name="other") == ("other", [])
    model, (note,) = connect("a/folder", is_folder=True, listed=["only"])
    assert model == "only" and "calls its only model 'only'" in note
    assert connect("any", listed=(404, b"")) == ("any", [])
    for wrong in ({}, {"is_folder": True}, {"name": "nobody"}):
        with pytest.raises(UserError, match=r"has no model '\w+': give its name there, --server_model: other, ours"):
            connect("gone", **wrong)
    with pytest.raises(UserError, match=r"has no model 'gpt': .* --server_model: only"):
        connect("gpt", listed=["only"])


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("https://a.b/openai/v2/", "https://a.b/openai/v2"),
        ("http://localhost:8000/v1/chat/completions", "http://localhost:8000/v1"),
        ("https://me:key@a.b/v1", None),
        ("https://a.b/v1?key=abc", None),
        ("localhost:8000", None),
    ],
)
def test_an_address_has_no_key_in_it(typed, url):
    if url is None:
        with pytest.raises(ValueError, match="without key, password"):
            ServerSettings(url=typed)
    else:
        assert ServerSettings(url=typed).url == url


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"model": "a"}, {"retries": 2}):
        with pytest.raises(ValueError, match=r"needs server\.url"):
            ServerSettings(**wrong)
    with pytest.raises(ValueError, match="n is not for you to set"):
        ServerSettings(url="http://a", fields={"n": 2})
