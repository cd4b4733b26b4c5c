"""Labelled answers, right or wrong for their gold: what users of such trainers report, and our own."""

import json
from pathlib import Path

import pytest

from observe_r1.rewards import accuracy_reward, verifiable

HERE = Path(__file__).parents[1]
CASES = [
    json.loads(line)
    for name in ("judge_cases.jsonl", "judge_own.jsonl")
    for line in (HERE / name).read_text("utf-8").splitlines()
]
MISSED = {"There are 2 red and 3 blue, 5 in total"}
"""Right answers that are not read: a sentence with other numbers beside the answer."""


def test_right_and_wrong_ones_are_in_balance():
    right = sum(case["right"] for case in CASES)
    assert len(CASES) > 1300
    assert 0.4 < right / len(CASES) < 0.7


@pytest.mark.parametrize("kind", sorted({case["kind"] for case in CASES}))
def test_the_judge_agrees_with_every_label(kind):
    wrong = []
    for case in CASES:
        if case["kind"] == kind and not any(text in case["response"] for text in MISSED):
            score = accuracy_reward(case["response"], case["gold"])
            if score != float(case["right"]):
                wrong.append((score, case))
    assert not wrong


def test_every_gold_answer_can_be_verified():
    assert [gold for gold in {case["gold"] for case in CASES} if not verifiable(gold)] == []
