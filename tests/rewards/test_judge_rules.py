"""Every example in the table of docs/rewards.md."""

import re
from pathlib import Path

import pytest

from observe_r1.rewards import accuracy_reward, verifiable

_TABLE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text("utf-8")
_ROWS = [
    [re.findall(r"`([^`]+)`", cell) for cell in line.split(" | ")[1:]]
    for line in _TABLE.splitlines()
    if line.startswith("| ") and line.count(" | ") == 3 and "`" in line
]
GOLDS = [golds[0] for golds, _, _ in _ROWS]
RIGHT = [(golds[0], text) for golds, right, _ in _ROWS for text in right]
WRONG = [(golds[0], text) for golds, _, wrong in _ROWS for text in wrong]


def score(text, gold):
    return accuracy_reward(f"<think>Let me see.</think> <answer>{text}</answer>", gold)


def test_the_table_is_there():
    assert len(GOLDS) > 25
    assert len(RIGHT) > 75
    assert len(WRONG) > 85


@pytest.mark.parametrize("gold", GOLDS)
def test_every_gold_answer_counts_for_itself(gold):
    assert verifiable(gold)


@pytest.mark.parametrize(("gold", "text"), RIGHT)
def test_what_is_right(gold, text):
    assert score(text, gold) == 1.0


@pytest.mark.parametrize(("gold", "text"), WRONG)
def test_what_is_wrong(gold, text):
    assert score(text, gold) == 0.0
