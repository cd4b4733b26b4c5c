"""Scoring of groups: weights, parts, correctness, limits, and scoring while something else goes on."""

import subprocess
import sys

import pytest

from observe_r1.config import RewardSettings
from observe_r1.records import Example
from observe_r1.rewards import Scorer, Scores

WELL_FORMED = "<observe>a</observe> <think>b</think> <answer>{}</answer>"


def asks(answer):
    return Example(id="x", messages=(), images=(), answer=answer)


@pytest.fixture(scope="module")
def scorer():
    with Scorer(RewardSettings()) as scorer:
        yield scorer


def test_parts_are_weighted_into_the_total():
    responses = [WELL_FORMED.format(4), "<answer>4</answer>", WELL_FORMED.format(5), "5"]
    with Scorer(RewardSettings(functions={"accuracy": 2.0, "format": 3.0})) as scorer:
        assert scorer.score(responses, asks("4")) == Scores(
            total=[3.5, 2.0, 1.5, 0.0],
            correct=[True, True, False, False],
            parts={"accuracy": [1.0, 1.0, 0.0, 0.0], "format": [0.5, 0.0, 0.5, 0.0]},
        )


def test_formulas_keep_their_place_among_what_is_decided_at_once(scorer):
    texts = ["\\frac{1}{2}", "A", "0.5", "\\frac{1}{3}", "red", "50\\%"]
    scores = scorer.score([WELL_FORMED.format(text) for text in texts], asks("1/2"))
    assert scores.correct == [True, False, True, False, False, True]
    assert scores.total == [1.5, 0.5, 1.5, 0.5, 0.5, 1.5]


def test_correctness_is_computed_where_accuracy_earns_nothing():
    with Scorer(RewardSettings(functions={"format": 1.0})) as scorer:
        scores = scorer.score([WELL_FORMED.format("0.5"), "1"], asks("\\frac{1}{2}"))
    assert scores == Scores(total=[0.5, 0.0], correct=[True, False], parts={"format": [0.5, 0.0]})


def test_the_settings_choose_the_template():
    with Scorer(RewardSettings(template="think")) as scorer:
        assert scorer.score([WELL_FORMED.format(4), "<think>b</think> <answer>4</answer>"], asks("4")).total == [
            1.0,
            1.5,
        ]


def test_what_a_model_writes_at_its_worst_is_scored_at_once(scorer):
    texts = ["0.5", "9^{9^{9^9}}", "\\frac{2}{4}"]
    scores = scorer.score([WELL_FORMED.format(text) for text in texts], asks("\\frac{1}{2}"))
    assert scores.total == [1.5, 0.5, 1.5]


def test_an_empty_group_has_no_scores(scorer):
    assert scorer.score([], asks("4")) == Scores(total=[], correct=[], parts={"accuracy": [], "format": []})


def test_importing_rewards_loads_neither_torch_nor_sympy():
    code = "import sys, observe_r1.rewards; print([name for name in ('torch', 'sympy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
