"""The message format: what a chat may look like, and a one-line error for everything else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observe_r1.data.chat import parse_chat
from observe_r1.errors import UserError

FOLDER = Path("/data/set")
IMAGE = {"type": "image", "image": "a.png"}
TEXT = {"type": "text", "text": "How many?"}


def chat(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def refusal(value: Any, folder: Path | None = FOLDER) -> str:
    with pytest.raises(UserError) as caught:
        parse_chat(value, "a.json row 7, 'message'", folder)
    message = str(caught.value)
    assert message.startswith("a.json row 7, 'message'")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("form", [list, json.dumps], ids=["list", "string"])
def test_several_images_among_text(form: Any) -> None:
    value = [{"role": "system", "content": "Be brief."}, *chat(IMAGE, TEXT, {**IMAGE, "image": "/b.png"})]
    parsed = parse_chat(form(value), "row", FOLDER)
    assert parsed.images == ("/data/set/a.png", "/b.png")
    assert parsed.response is None
    assert parsed.messages == (
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image"}, TEXT, {"type": "image"}]},
    )


def test_last_assistant_turn_is_the_response() -> None:
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "How many?"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "<think>2"}, {"type": "text", "text": "."}],
        },
    ]
    parsed = parse_chat(turns, "row", None)
    assert parsed.response == "<think>2."
    assert [message["role"] for message in parsed.messages] == ["user", "assistant", "user"]
    assert parse_chat(turns[:3], "row", None) == type(parsed)(parsed.messages, (), None)


@pytest.mark.parametrize(
    ("image", "source"),
    [
        ("a.png", "/data/set/a.png"),
        ("sub/ein bild#1.png", "/data/set/sub/ein bild#1.png"),
        ("/b.png", "/b.png"),
        ("file:///b.png", "/b.png"),
        ("file://localhost/b.png", "/b.png"),
        ("FILE:///ein%20bild.png", "/ein bild.png"),
        ("file:///50%.png", "/50%.png"),
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
        ("https://example.org/a.png?b=1", "https://example.org/a.png?b=1"),
        (b"PNG", b"PNG"),
        ({"bytes": b"PNG", "path": "a.png"}, b"PNG"),
        ({"bytes": None, "path": "a.png"}, "/data/set/a.png"),
    ],
)
def test_image_sources(image: Any, source: str | bytes) -> None:
    assert parse_chat(chat({"type": "image", "image": image}, TEXT), "row", FOLDER).images == (source,)


def test_none_is_absent_as_in_parquet() -> None:
    parts = [{"type": "image", "image": "/a.png", "text": None}, {"type": "text", "image": None, "text": "?"}]
    parsed = parse_chat([{"role": "user", "content": parts, "name": None}], "row", None)
    assert parsed.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "?"}]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("How many?", "not JSON .character 1: Expecting value., starting with 'How many"),
        ('[{"role": "user", "content": "?"},]', "character 35: trailing comma before ']'"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5_000, "not JSON"),
        (None, "needs a list of messages, got null"),
        ({"role": "user", "content": "?"}, "needs a list of messages, got {'role'"),
        ('{"role": "user"}', "needs a list of messages"),
        ([], "needs a user turn"),
        ([{"role": "system", "content": "?"}], "needs a user turn"),
        ([{"role": "assistant", "content": "?"}], "needs a user turn"),
        ([*chat(TEXT), *[{"role": "assistant", "content": "?"}] * 2], "the chat needs a user turn at its end"),
        (["How many?"], "turn 1: needs .*got 'How many"),
        ([{"content": "?"}], "turn 1: role needs one of system, user, assistant, got null"),
        ([*chat(TEXT), {"role": "human", "content": "?"}], "turn 2: role needs .*, got 'human'"),
        ([*chat(TEXT), {"role": "system", "content": "?"}], "turn 2: only the first turn may be a system turn"),
        ([{"role": "user"}], "content needs a string or a list of parts, got null"),
        ([{"role": "user", "content": TEXT}], "content needs a string or a list of parts, got {"),
        ([{"role": "user", "content": " "}], "the user turn is empty"),
        (chat(), "the user turn is empty"),
        ([*chat(TEXT), {"role": "assistant", "content": ""}], "the assistant turn is empty"),
        (chat("How many?"), "content part needs .*got 'How many"),
        (chat({"text": "?"}), "unknown content type: known are 'text', 'image' and 'image_url', got null"),
        (chat({"type": "video", "video": "a.mp4"}), "unknown content type: .* got 'video'"),
        (chat({"type": "text"}), "needs a string under 'text', got null"),
        (chat({"type": "text", "text": 3}), "needs a string under 'text', got 3"),
        (chat({"type": "image"}), "the image has no path, URI or bytes"),
        (chat({"type": "image", "image": ""}), "needs a path, a URI or bytes"),
        (chat({"type": "image", "image": {"bytes": None}}), "the image has no path, URI or bytes"),
        (chat({"type": "image", "image": ["a.png"]}), "needs a path, a URI or bytes"),
        (chat({"type": "image", "image": "file://a.png"}), "needs an absolute path"),
        (chat({"type": "image", "image": "s3://bucket/a.png"}), "file, data, http and https URIs, got 's3"),
        ([*chat(TEXT), {"role": "assistant", "content": [IMAGE]}], "only user turns may have images"),
        ([{"role": "system", "content": [IMAGE]}, *chat(TEXT)], "only user turns may have images"),
    ],
)
def test_what_is_no_chat(value: Any, message: str) -> None:
    assert re.search(message, refusal(value))
    assert len(refusal(value)) < 250


def test_relative_image_without_a_folder() -> None:
    assert "no folder that relative image paths" in refusal(chat(IMAGE), folder=None)
    assert parse_chat(chat({**IMAGE, "image": "/a.png"}), "row", None).images == ("/a.png",)


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_start|>", "<|vision_end|>", "<|endoftext|>"])
def test_text_may_not_spell_special_tokens(token: str) -> None:
    for text in (token, f"Look: {token}{token} How many?"):
        assert repr(token) in refusal([{"role": "user", "content": text}])
        assert repr(token) in refusal([*chat(TEXT), {"role": "assistant", "content": text}])


@pytest.mark.parametrize("text", ["0 <|x|> 1", "<image> How many?", "|<x|>|", "a <| b |> c", "<observe>"])
def test_mathematics_and_marks_are_text(text: str) -> None:
    assert parse_chat(chat({"type": "text", "text": text}), "row", None).messages[0]["content"][0]["text"] == text


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["text", "image"]) | JSON_VALUES,
        "text": st.text() | JSON_VALUES,
        "image": st.text(),
    }
)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": st.text() | st.lists(PARTS | JSON_VALUES)}
)


@given(JSON_VALUES | st.text() | st.lists(TURNS | JSON_VALUES, max_size=4))
def test_anything_is_a_chat_or_one_line(value: Any) -> None:
    try:
        parsed = parse_chat(value, "row", FOLDER)
    except UserError as error:
        assert str(error).startswith("row")
        assert "\n" not in str(error)
    else:
        marks = [part for message in parsed.messages for part in message["content"] if part["type"] == "image"]
        assert len(marks) == len(parsed.images)
        assert parsed.messages[-1]["role"] == "user"
