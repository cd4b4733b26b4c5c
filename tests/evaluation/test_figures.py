"""The figures of an evaluation, against brute force, exact intervals and SciPy-free formulas by hand."""

from itertools import combinations
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from observe_r1.evaluation.figures import (
    Answered,
    GradedResponse,
    by,
    differences,
    figure_row,
    figures,
    majority,
    pass_at,
)


def answer(text="1", correct=True, tokens=10):
    return GradedResponse(f"<answer>{text}</answer>", correct, True, tokens, "stop")


def question(number, correct, samples=(), source="a", difficulty=""):
    return Answered(str(number), source, difficulty, "number", answer(correct=correct), tuple(samples))


@given(k=st.integers(1, 9), data=st.data())
def test_pass_at_j_is_the_share_of_subsets_with_a_right_sample(k, data):
    right, j = data.draw(st.integers(0, k)), data.draw(st.integers(1, k))
    subsets = list(combinations([True] * right + [False] * (k - right), j))
    assert pass_at(j, right, k) == pytest.approx(sum(any(subset) for subset in subsets) / len(subsets))


def test_figures_by_hand():
    samples = [answer("4", True), answer("4.0", True), answer("5", False), answer("5", False)]
    got = figures([question(1, True, samples), question(2, False, [answer("5", False)] * 4)])
    means = {name: figure.mean for name, figure in got.items()}
    assert means == pytest.approx(
        {
            **{"accuracy": 0.5, "format": 1.0, "length": 10.0, "avg@4": 0.25},
            **{"pass@2": (1 - 1 / 6) / 2, "pass@4": 0.5, "maj@4": 0.5},
        }
    )


def test_equal_answers_vote_together_however_they_are_written():
    half = [answer("0.5", True), answer("\\frac{1}{2}", True)]
    assert majority([answer("3", False), answer("2", False), *half])
    assert not majority([answer("2", False), answer("2", False), *half])  # a tie: what was said first
    assert majority([*half, answer("2", False), answer("2", False)])


def test_answers_of_a_question_are_compared_once_for_all_tables(monkeypatch):
    compared = []
    monkeypatch.setattr("observe_r1.evaluation.figures.matches", lambda one, other: compared.append((one, other)))
    asked = [question(n, True, [answer(f"once {n} {sample}") for sample in range(3)], source="ab"[n]) for n in (0, 1)]
    figures(asked)
    assert len(compared) == 6  # three pairs of each question
    for part in by(asked, "source").values():
        figures(part)
    differences(asked, asked)
    assert len(compared) == 6


def test_the_interval_is_that_of_a_share():
    """The bootstrap of a mean of n zeros and ones is close to the normal interval √(p(1−p)/n)·1.96."""
    count, right = 2000, 600
    figure = figures([question(number, number < right) for number in range(count)])["accuracy"]
    half = 1.96 * sqrt(0.3 * 0.7 / count)
    assert figure.mean == 0.3
    assert (figure.low, figure.high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.1 * half)


def test_intervals_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        figure = figures([question(n, bool(x)) for n, x in enumerate(random.random(100) < 0.4)], seed)["accuracy"]
        covered += figure.low <= 0.4 <= figure.high
    assert 52 <= covered <= 60  # 57 expected, standard deviation 1.7


def test_differences_are_paired():
    """One question more right of a thousand: the interval of the difference is tiny, each model's own is not."""
    ours = [question(number, number < 501) for number in range(1000)]
    theirs = [question(number, number < 500) for number in reversed(range(1000))]
    difference = differences(ours, theirs)["accuracy"]
    assert difference.mean == pytest.approx(0.001)
    assert difference.high - difference.low < 0.005
    own = figures(ours)["accuracy"]
    assert own.high - own.low > 0.05
    assert differences(ours, [question("another", True)]) == {}
    assert differences(ours[:3], theirs[-2:])["accuracy"].mean == 0.0


def test_the_same_questions_give_the_same_figures():
    questions = [question(number, number % 3 == 0) for number in range(50)]
    assert figures(questions, seed=1) == figures(questions, seed=1) != figures(questions, seed=2)


def test_questions_by_source():
    questions = [question(1, True, source="b"), question(2, True, source="a"), question(3, False, source="b")]
    assert {name: [q.id for q in group] for name, group in by(questions, "source").items()} == {
        "a": ["2"],
        "b": ["1", "3"],
    }
    assert by(questions[:1], "source") == {}


def test_a_table_s_row_has_each_model_s_figure_and_the_leads():
    share, tokens = {"mean": 0.5, "low": 0.25, "high": 1.0}, {"mean": 12.34, "low": -0.01, "high": 20.0}
    row = ["accuracy", "50.0% [25.0,100.0]", "", "+50.0% [+25.0,+100.0]"]
    assert figure_row("accuracy", [{"accuracy": share}, {}], [{"accuracy": share}]) == row
    assert figure_row("length", [{"length": tokens}]) == ["tokens", "12.3 [0.0,20.0]"]
