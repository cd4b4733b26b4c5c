"""Scoring of groups: weights, parts, correctness, limits, and scoring while something else goes on."""

import operator
import subprocess
import sys

import pytest

from observe_r1.config import RewardSettings
from observe_r1.records import Example
from observe_r1.rewards import Scorer, Scores
from observe_r1.rewards import scorer as scorer_module

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
            timed_out=[False] * 4,
        )


def test_formulas_keep_their_place_among_what_is_decided_at_once(scorer):
    texts = ["\\frac{1}{2}", "A", "0.5", "\\frac{1}{3}", "red", "50\\%"]
    scores = scorer.score([WELL_FORMED.format(text) for text in texts], asks("1/2"))
    assert scores.correct == [True, False, True, False, False, True]
    assert scores.total == [1.5, 0.5, 1.5, 0.5, 0.5, 1.5]


def test_correctness_is_computed_where_accuracy_earns_nothing():
    with Scorer(RewardSettings(functions={"format": 1.0})) as scorer:
        scores = scorer.score([WELL_FORMED.format("0.5"), "1"], asks("\\frac{1}{2}"))
    assert scores == Scores(
        total=[0.5, 0.0], correct=[True, False], parts={"format": [0.5, 0.0]}, timed_out=[False] * 2
    )


def test_the_settings_choose_the_template():
    with Scorer(RewardSettings(template="think")) as scorer:
        assert scorer.score([WELL_FORMED.format(4), "<think>b</think> <answer>4</answer>"], asks("4")).total == [
            1.0,
            1.5,
        ]


def test_only_the_response_over_the_limit_scores_zero_and_is_counted():
    texts = ["0.5", "9^{9^{9^9}}", "\\frac{2}{4}"]
    with Scorer(RewardSettings(timeout=2, workers=2)) as scorer:
        scores = scorer.score([WELL_FORMED.format(text) for text in texts], asks("\\frac{1}{2}"))
    assert scores.correct == [True, False, True]
    assert scores.total == [1.5, 0.0, 1.5]
    assert scores.parts == {"accuracy": [1.0, 0.0, 1.0], "format": [0.5, 0.0, 0.5]}
    assert scores.timeouts == 1


def test_one_final_answer_is_compared_once_a_group(monkeypatch):
    halves = [WELL_FORMED.format("0.5"), "<answer> 0.5 </answer>", WELL_FORMED.format("0.25"), "0.5", "0.25"]
    with Scorer(RewardSettings()) as scorer:
        calls = []
        submit = scorer._pool.submit
        monkeypatch.setattr(scorer._pool, "submit", lambda *args: calls.append(args) or submit(*args))
        scores = scorer.score(halves, asks("\\frac{1}{2}"))
        other = scorer.score(halves[:1], asks("\\frac{1}{4}"))
    assert len(calls) == 3
    assert scores.correct == [True, True, False, True, False] and scores.total == [1.5, 1.0, 0.5, 1.0, 0.0]
    assert other.correct == [False]


def test_groups_are_scored_while_something_else_goes_on(scorer):
    pending = [
        scorer.submit([WELL_FORMED.format(n), "\\frac{1}{2}"], asks(f"\\frac{{{n}}}{{1}}")) for n in range(2, 22)
    ]
    assert [group.result().correct for group in pending] == [[True, False]] * 20
    assert all(group.done() for group in pending)


def test_what_needs_no_worker_is_done_when_submitted(scorer):
    assert scorer.submit([WELL_FORMED.format(4), "3.5", "red"], asks("4")).done()


def test_an_empty_group_has_no_scores(scorer):
    assert scorer.score([], asks("4")) == Scores(
        total=[], correct=[], parts={"accuracy": [], "format": []}, timed_out=[]
    )


def test_a_reward_of_ours_that_raises_is_a_fault_not_a_score(monkeypatch):
    monkeypatch.setattr(scorer_module, "evaluate", operator.truediv)
    with Scorer(RewardSettings()) as scorer, pytest.raises(RuntimeError, match=r"Traceback[^$]*TypeError: truediv"):
        scorer.score(["\\frac{1}{2}"], asks("\\frac{1}{3}"))


def test_importing_rewards_loads_neither_torch_nor_sympy():
    code = "import sys, observe_r1.rewards; print([name for name in ('torch', 'sympy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
