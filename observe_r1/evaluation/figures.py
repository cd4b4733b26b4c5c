"""What an evaluation says in figures: means over questions, each with its interval; models beside each other.

A question's figure is a number of its own, so that every figure of a model is a plain mean over questions, and its
interval comes from drawing the questions again (the bootstrap, Efron 1979): what would have come out with other
questions of this kind. The difference of two models is taken question by question first: both find the same questions
hard, so its interval is much narrower than the two models' own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np

from observe_r1.errors import UserError
from observe_r1.rewards.judge.answer import final_answer
from observe_r1.rewards.judge.comparing import matches

SUMMARY = "summary.json"
"""The file that holds what `summarize` returns, in the folder of an evaluation."""
RESAMPLES = 2000
_LEVEL = 0.95
_IN_TOKENS = "length"


@dataclass(frozen=True, slots=True)
class GradedResponse:
    """One response and its scores."""

    text: str
    correct: bool
    well_formed: bool
    tokens: int
    """Its length."""
    finish: str
    """As `Completion.finish`."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A question and a model's responses to it: one greedy, and samples if they were asked for."""

    id: str
    source: str
    difficulty: str
    """As the dataset has it; empty if it has none."""
    kind: str
    """What the gold answer is: a number, a choice, …"""
    greedy: GradedResponse
    samples: tuple[GradedResponse, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over questions and its 95 % interval."""

    mean: float
    low: float
    high: float


def summarize(models: Sequence[str], answered: Sequence[Sequence[Answered]], asked: int, seed: int) -> dict[str, Any]:
    """Return the figures of an evaluation, each as `mean`, `low` and `high` of its 95 % interval.

    Args:
        models: Their paths or names; the first is compared with each of the others.
        answered: Of each model, the questions that it answered.
        asked: Questions that there are, broken ones included.
        seed: Of the intervals.

    Returns:
        `models`: of each its `figures`, and those `by` difficulty, source and kind of answer; `differences`: of each
        model but the first, how far the first one is above it, and that `by` source.

    Raises:
        UserError: A model answered no question.
    """
    found = []
    for model, questions in zip(models, answered, strict=True):
        if not questions:
            raise UserError(f"{model}: none of the {asked} questions could be asked: its dropped.jsonl says why")
        found.append(
            {
                "model": model,
                "questions": len(questions),
                "left_out": asked - len(questions),
                "figures": plain(figures(questions, seed)),
                "by": {
                    "difficulty": _parts(questions, "difficulty", seed),
                    "source": _parts(questions, "source", seed),
                    "kind": _parts(questions, "kind", seed),
                },
            }
        )
    sources = by(answered[0], "source")
    leads = [
        {
            "against": model,
            "differences": plain(differences(answered[0], questions, seed)),
            "by": {"source": {name: plain(differences(group, questions, seed)) for name, group in sources.items()}},
        }
        for model, questions in zip(models[1:], answered[1:], strict=True)
    ]
    return {"models": found, "differences": leads}


def plain(values: dict[str, Figure]) -> dict[str, dict[str, float]]:
    """Return figures as JSON values."""
    return {name: asdict(figure) for name, figure in values.items()}


def figure_row(name: str, models: Sequence[dict[str, Any]], leads: Sequence[dict[str, Any]] = ()) -> list[str]:
    """Return a table's row: what the figure `name` is called, each model's, and by how much the first is above others.

    Args:
        name: As in `figures`.
        models: Of each, its figures as JSON values.
        leads: Of each other model, the differences. A cell is empty where there is none.
    """
    cells = [_figure_text(name, each[name]) if name in each else "" for each in models]
    cells += [_figure_text(name, each[name], "+") if name in each else "" for each in leads]
    return ["tokens" if name == _IN_TOKENS else name, *cells]


def _figure_text(name: str, figure: Mapping[str, float], sign: str = "") -> str:
    scale, unit = (1, "") if name == _IN_TOKENS else (100, "%")
    mean, low, high = (f"{figure[key] * scale:{sign}z.1f}" for key in ("mean", "low", "high"))
    return f"{mean}{unit} [{low},{high}]"  # a narrow terminal breaks the cell only before the interval begins


def _parts(questions: Sequence[Answered], attribute: str, seed: int) -> dict[str, Any]:
    groups = by(questions, attribute)
    return {name: {"questions": len(group), "figures": plain(figures(group, seed))} for name, group in groups.items()}


def figures(questions: Sequence[Answered], seed: int = 0) -> dict[str, Figure]:
    """Return the figures of one model.

    `accuracy`, `format` and `length` (tokens) are of the greedy responses. Of k samples a question `avg@k` is the share
    that is right, `pass@j` the probability that one of j is, and `maj@k` whether most of them agree on a right answer.

    Args:
        questions: At least one, all with the same number of samples.
        seed: Seeds the bootstrap.
    """
    table = _table(questions)
    return _with_intervals(table, seed)


def differences(questions: Sequence[Answered], others: Sequence[Answered], seed: int = 0) -> dict[str, Figure]:
    """Return by how much each figure of `questions` is above that of `others`, over the questions that both have.

    Args:
        questions: Answered by one model.
        others: Answered by another.
        seed: Seeds the bootstrap.

    Returns:
        Nothing if no question is in both.
    """
    theirs = {other.id: other for other in others}
    both = [question for question in questions if question.id in theirs]
    if not both:
        return {}
    ours, beside = _table(both), _table([theirs[question.id] for question in both])
    return _with_intervals({name: ours[name] - beside[name] for name in ours if name in beside}, seed)


def by(questions: Sequence[Answered], attribute: str) -> dict[str, list[Answered]]:
    """Return the questions by `source`, `difficulty` or `kind`, sorted; nothing if all have the same."""
    groups: dict[str, list[Answered]] = {}
    for question in questions:
        groups.setdefault(getattr(question, attribute), []).append(question)
    return {name: groups[name] for name in sorted(groups)} if len(groups) > 1 else {}


def pass_at(j: int, right: int, k: int) -> float:
    """Return the probability that one of `j` samples is right, where `right` of k are: 1 − C(k−c, j) / C(k, j).

    Unbiased for every j ≤ k; source: arXiv 2107.03374, equation 1.
    """
    return 1 - comb(k - right, j) / comb(k, j)


def majority(samples: Sequence[GradedResponse]) -> bool:
    """Whether the answer that most of `samples` give is right; of several, the one that was given first.

    Two samples give the same answer if the judge takes one for the other: 0.5 and \\frac{1}{2} vote together.
    """
    votes: list[list[GradedResponse]] = []
    answers: list[str] = []
    for sample in samples:
        answer = final_answer(sample.text)
        for said, voters in zip(answers, votes, strict=True):
            if answer == said or matches(answer, said):
                voters.append(sample)
                break
        else:
            answers.append(answer)
            votes.append([sample])
    return max(votes, key=len)[0].correct


_majority_once = lru_cache(maxsize=1 << 16)(majority)
"""A question is in several tables (of all, of each of its parts, of the differences), and 64 formulas that all differ
take two seconds to compare."""


def _table(questions: Sequence[Answered]) -> dict[str, np.ndarray]:
    """Return each figure's values, (questions,)."""
    columns = {
        "accuracy": [question.greedy.correct for question in questions],
        "format": [question.greedy.well_formed for question in questions],
        "length": [question.greedy.tokens for question in questions],
    }
    k = min(len(question.samples) for question in questions)
    if k:
        right = [sum(sample.correct for sample in question.samples[:k]) for question in questions]
        columns[f"avg@{k}"] = [count / k for count in right]
        for j in (2**power for power in range(1, k.bit_length())):
            columns[f"pass@{j}"] = [pass_at(j, count, k) for count in right]
        columns[f"pass@{k}"] = [pass_at(k, count, k) for count in right]
        columns[f"maj@{k}"] = [_majority_once(tuple(question.samples[:k])) for question in questions]
    return {name: np.array(values, dtype=np.float64) for name, values in columns.items()}


def _with_intervals(table: dict[str, np.ndarray], seed: int) -> dict[str, Figure]:
    values = np.stack(list(table.values()), axis=1)
    count = len(values)
    random = np.random.default_rng(seed)
    means = np.empty((RESAMPLES, len(table)))
    for each in means:  # one at a time: all at once would fill gigabytes
        each[:] = np.bincount(random.integers(count, size=count), minlength=count) @ values / count
    tail = 100 * (1 - _LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail], axis=0)
    return {name: Figure(float(values[:, i].mean()), float(low[i]), float(high[i])) for i, name in enumerate(table)}
