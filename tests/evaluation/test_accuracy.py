"""Grading of held-out questions: who is asked what, what is left out, and the figures by hand."""

from itertools import chain, product
from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from observe_r1.config import RewardSettings
from observe_r1.evaluation.accuracy import GradedQuestion, grade_questions, mean_scores
from observe_r1.evaluation.figures import GradedResponse
from observe_r1.model.encoding import PromptTooLongError
from observe_r1.records import Completion, Example, Prompt, Sampling
from observe_r1.rewards import Scorer
from observe_r1.run.recorder import Best

WELL_FORMED = "<observe>a</observe> <think>b</think> <answer>{}</answer>"
GREEDY = Sampling(temperature=0)
SAMPLED = Sampling(n=3, temperature=1.0, seed=7)


class Counting:
    """An engine whose greedy response is the row's number, well-formed; its samples count up from the row's number."""

    version = finished = 0

    def __init__(self):
        self.calls = []

    def generate(self, prompts, sampling, on_group=None):
        self.calls.append((len(prompts), sampling))
        groups = [[self.respond(p.stream, number, sampling) for number in range(sampling.n)] for p in prompts]
        for index in reversed(range(len(groups))):  # groups end in any order
            on_group(index, groups[index])
        return groups

    def respond(self, row, number, sampling):
        text = WELL_FORMED.format(row) if sampling.temperature == 0 else f"{row + number}"
        return Completion(torch.ones(row + 1), torch.zeros(row + 1), text, 0, "stop")


def encode(example, row):
    if row % 5 == 4:
        raise PromptTooLongError("too long", tokens=900)
    return Prompt(ids=torch.ones(3), token_types=torch.zeros(3), stream=row)


def questions(count):
    """Questions whose answer is their row's number, but 99 for the odd ones."""
    return [Example(str(row), (), (), "99" if row % 2 else str(row)) for row in range(count)]


@pytest.fixture
def scorer():
    with Scorer(RewardSettings()) as scorer:
        yield scorer


def test_every_question_gets_a_greedy_response_and_its_samples(scorer):
    engine = Counting()
    parts = list(grade_questions(engine, encode, questions(11), scorer, GREEDY, SAMPLED, batch=4))
    assert [[g.example.id for g in part] for part in parts] == [["0", "1", "2", "3"], ["5", "6", "7"], ["8", "10"]]
    assert engine.calls == [(n, sampling) for n in (4, 3, 2) for sampling in (GREEDY, SAMPLED)]
    for g in chain(*parts):
        row = int(g.example.id)
        right = row % 2 == 0
        assert g.greedy == GradedResponse(WELL_FORMED.format(row), right, True, row + 1, "stop")
        assert [s.text for s in g.samples] == [str(row + number) for number in range(3)]
        assert [s.correct for s in g.samples] == [right, False, False]
        assert not any(s.well_formed for s in g.samples)


def test_without_samples_only_the_greedy_response_is_asked_for(scorer):
    engine = Counting()
    (part,) = grade_questions(engine, encode, questions(3), scorer, GREEDY)
    assert [g.samples for g in part] == [(), (), ()] and engine.calls == [(3, GREEDY)]


def graded(greedy, samples=(), well_formed=True, tokens=4):
    def response(correct):
        return GradedResponse("", correct, well_formed, tokens, "stop")

    return GradedQuestion(Example("", (), (), ""), response(greedy), tuple(map(response, samples)))


def test_figures_by_hand():
    both = [graded(True, [True, False], tokens=2), graded(False, [False, False], well_formed=False, tokens=5)]
    both.append(graded(True, [True, True], tokens=5))
    expected = {"accuracy": 2 / 3, "format": 2 / 3, "length": 4.0, "avg@2": 0.5, "pass@2": 2 / 3}
    assert mean_scores(both) == pytest.approx(expected)
    assert mean_scores([graded(True)]) == {"accuracy": 1.0, "format": 1.0, "length": 4.0}


@pytest.mark.parametrize("k", [1, 2, 4])
def test_pass_at_k_is_the_unbiased_estimate_of_k_samples(k):
    cases = [list(case) for case in product([False, True], repeat=k)]
    expected = [1 - comb(k - sum(case), k) / comb(k, k) for case in cases]
    assert mean_scores([graded(True, case) for case in cases])[f"pass@{k}"] == pytest.approx(sum(expected) / len(cases))


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1), st.data())
def test_the_best_is_the_first_of_the_highest(figures, data):
    best, split = Best(), data.draw(st.integers(0, len(figures)))
    for step, figure in enumerate(figures[:split]):
        best.take(step, figure)
    resumed = Best()
    resumed.load_state_dict(best.state_dict())
    for step, figure in enumerate(figures[split:], split):
        assert resumed.take(step, figure) == (figure > max(figures[:step], default=-1))
    first = figures.index(max(figures))
    assert (resumed.step, resumed.accuracy, resumed.since) == (first, max(figures), len(figures) - 1 - first)
