"""The prompt that asks for the format: its wording's promises, and where it is put."""

import copy

import pytest

from observe_r1.data import FORMAT_PROMPTS, apply_format_prompt
from observe_r1.data.format_prompts import asked_format
from observe_r1.errors import UserError

USER = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}
SYSTEM = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
ASSISTANT = {"role": "assistant", "content": [{"type": "text", "text": "Which?"}]}


@pytest.mark.parametrize(
    ("name", "tags"), [("observe", ["observe", "think", "answer"]), ("think", ["think", "answer"])]
)
def test_names_its_tags_in_order_and_is_short(name: str, tags: list[str]) -> None:
    prompt = FORMAT_PROMPTS[name]
    places = [prompt.index(mark) for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]
    assert places == sorted(places)
    assert len(prompt.split()) <= 60
    assert ("<observe>" in prompt) == ("observe" in tags)


def test_system_place() -> None:
    system, user = apply_format_prompt((USER,), "observe", "system")
    assert system == {"role": "system", "content": [{"type": "text", "text": FORMAT_PROMPTS["observe"]}]}
    assert user == USER


def test_system_place_keeps_what_is_there() -> None:
    system, user = apply_format_prompt((SYSTEM, USER), "think", "system")
    assert "".join(part["text"] for part in system["content"]) == "Be brief.\n\n" + FORMAT_PROMPTS["think"]
    assert user == USER


def test_suffix_place_is_after_the_last_question() -> None:
    messages = apply_format_prompt((SYSTEM, USER, ASSISTANT, USER), "observe", "suffix")
    assert messages[:3] == (SYSTEM, USER, ASSISTANT)
    added = {"type": "text", "text": "\n\n" + FORMAT_PROMPTS["observe"]}
    assert messages[3] == {"role": "user", "content": [*USER["content"], added]}


@pytest.mark.parametrize("place", ["system", "suffix"])
def test_none_and_given_messages_stay_as_they_are(place: str) -> None:
    messages = (copy.deepcopy(SYSTEM), copy.deepcopy(USER))
    assert apply_format_prompt(messages, "none", place) == (SYSTEM, USER)
    assert apply_format_prompt(messages, "observe", place) != (SYSTEM, USER)
    assert messages == (SYSTEM, USER)


@pytest.mark.parametrize("name", FORMAT_PROMPTS)
@pytest.mark.parametrize("written", ["system", "suffix"])
@pytest.mark.parametrize("place", ["system", "suffix"])
@pytest.mark.parametrize("before", [(USER,), (SYSTEM, USER, ASSISTANT, USER)])
def test_a_prompt_that_stands_there_is_not_added_again(name: str, written: str, place: str, before: tuple) -> None:
    """Written into the question by `arrange.format_prompt`, also where the parts of a turn were joined since."""
    assert asked_format(before) == "none"
    once = apply_format_prompt(before, name, written)
    texts = [[part for part in message["content"] if part["type"] == "text"] for message in once]
    joined = tuple(
        {"role": message["role"], "content": [{"type": "text", "text": "".join(part["text"] for part in parts)}]}
        for message, parts in zip(once, texts, strict=True)
    )
    for messages in (once, joined):
        assert asked_format(messages) == name
        assert apply_format_prompt(messages, name, place) == messages


def test_unknown_name_or_place() -> None:
    with pytest.raises(UserError, match=r"'obsrve': known: observe, think, none .did you mean 'observe'"):
        apply_format_prompt((USER,), "obsrve", "system")
    with pytest.raises(UserError, match="'prefix': known: suffix, system"):
        apply_format_prompt((USER,), "observe", "prefix")
