"""The format reward: what is well-formed, what is not, and that hostile text costs only linear time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observe_r1 import registry
from observe_r1.errors import UserError
from observe_r1.rewards import format_reward

PLAIN = "<observe>a red circle</observe> <think>one</think> <answer>1</answer>"
NESTED = "<think>first <observe>a red circle</observe> so one</think> <answer>1</answer>"
THOUGHT = "<think>one</think> <answer>1</answer>"


@pytest.mark.parametrize(
    "response",
    [
        PLAIN,
        NESTED,
        PLAIN.replace(" ", "\n"),
        PLAIN.replace("> <", "><"),
        f"Sure, here it is: {PLAIN} Done.",
        "<think><observe>a</observe> b</think><answer>c</answer>",
        "<think>b <observe>a</observe></think><answer>c</answer>",
        "<observe>2 < 3, <b>bold</b> and <Answer></observe><think>$</think><answer>\\{\\}</answer>",
    ],
)
def test_well_formed(response):
    assert format_reward(response) == 0.5
    assert format_reward(response, "observe") == 0.5


@pytest.mark.parametrize(
    "response",
    [
        "",
        "1",
        THOUGHT,
        PLAIN + PLAIN,
        PLAIN + "</answer>",
        PLAIN + "<answer>",
        "<answer>" + PLAIN,
        PLAIN.replace("</think>", ""),
        PLAIN.replace("<observe>", ""),
        PLAIN.replace("</think>", "</think></think>"),
        PLAIN.replace("<think>", "<think><think>"),
        PLAIN.replace("a red circle", " \n\t "),
        PLAIN.replace(">one<", "><"),
        PLAIN.replace(">1<", ">\u200b\x00\u3000<"),
        PLAIN.replace(">a red circle<", ">\u3164\u2800\ufe0f\u0301<"),
        PLAIN.replace("observe", "Observe"),
        "<think>one</think> <observe>a</observe> <answer>1</answer>",
        "<answer>1</answer> <observe>a</observe> <think>one</think>",
        "<observe>a</observe> <answer>1</answer> <think>one</think>",
        "<observe>a <think>one</think></observe> <answer>1</answer>",
        "<observe>a<think></observe>one</think> <answer>1</answer>",
        "<observe>a</observe> <think>one <answer>1</answer></think>",
        "<observe>a</observe> <think>one<answer></think>1</answer>",
        "<think>one</think> <answer><observe>a</observe> 1</answer>",
        "<think> <observe>a</observe> </think> <answer>1</answer>",
        "<think>one <observe> </observe> two</think> <answer>1</answer>",
        "<think>one <observe>a</think></observe> <answer>1</answer>",
        "</observe>a<observe> <think>one</think> <answer>1</answer>",
    ],
)
def test_malformed(response):
    assert format_reward(response) == 0.0


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        (THOUGHT, 0.5),
        (PLAIN, 0.0),
        (NESTED, 0.0),
        ("</observe>" + THOUGHT, 0.0),
        ("<answer>1</answer> <think>one</think>", 0.0),
        ("<think>one</think>", 0.0),
    ],
)
def test_the_think_template_wants_no_observe_tags(response, reward):
    assert format_reward(response, "think") == reward


def test_what_is_no_string_earns_nothing():
    assert format_reward(None) == format_reward(["<observe>"]) == format_reward(3.5) == 0.0


def test_unknown_templates_are_named():
    with pytest.raises(UserError, match="unknown template 'none': known: observe, think"):
        format_reward(PLAIN, "none")


def test_the_registered_function_ignores_the_gold_answer():
    reward = registry.load("reward", "format")
    assert reward(PLAIN, "gold", "observe") == 0.5
    assert reward(PLAIN, "gold", "think") == 0.0


TAGS = ["<observe>", "</observe>", "<think>", "</think>", "<answer>", "</answer>"]


@given(st.lists(st.sampled_from([*TAGS, "a", " ", "\n"]), max_size=12))
def test_well_formed_means_each_tag_once_in_one_of_two_orders(pieces):
    tags = [piece for piece in pieces if piece in TAGS]
    contents = {}
    for name in ("observe", "think", "answer"):
        if tags.count(f"<{name}>") == tags.count(f"</{name}>") == 1:
            start, end = pieces.index(f"<{name}>"), pieces.index(f"</{name}>")
            contents[name] = [piece for piece in pieces[start + 1 : end] if piece not in TAGS]
    outer = [tag for tag in tags if "observe" not in tag]
    orders = [TAGS, [TAGS[2], *TAGS[:2], *TAGS[3:]]]
    expected = tags in orders and outer == TAGS[2:] and all("a" in content for content in contents.values())
    if tags == orders[1]:
        start, end = pieces.index("<observe>"), pieces.index("</observe>")
        without = pieces[:start] + pieces[end:]
        expected = expected and "a" in without[without.index("<think>") : without.index("</think>")]
    assert format_reward("".join(pieces)) == (0.5 if expected else 0.0)


@pytest.mark.parametrize("piece", [*TAGS, "<", "<think", "<observe>a</observe>", " ", "\x00", "<think><observe>"])
def test_a_megabyte_of_anything_is_scored(piece):
    text = (piece * 1_000_000)[:1_000_000]
    assert format_reward(text) == 0.0
    assert format_reward(f"<observe>a</observe><think>{'b' * 1_000_000}</think><answer>c</answer>") == 0.5
