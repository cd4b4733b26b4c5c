"""Whatever a model writes: scored, written down, read back."""

import json
from dataclasses import replace

import pytest
import torch
from hostile import GOLDS, GROUPS, TEXTS, after_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import random_group

from observe_r1.config import RewardSettings, TrainSettings
from observe_r1.objective import dr_grpo
from observe_r1.records import Example
from observe_r1.rewards import Scorer, accuracy_reward, verifiable
from observe_r1.run.folder import RunFolder
from observe_r1.run.recorder import rollout_rows

# 250 groups of 8: two thousand texts.
thorough = settings(max_examples=250, database=None, suppress_health_check=list(HealthCheck), derandomize=True)


def asks(answer: str) -> Example:
    return Example(id="x", messages=(), images=(), answer=answer)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    own = tmp_path_factory.mktemp("rewards") / "length.py"
    own.write_text("def reward_func(queries, prompts, labels): return [len(query) for query in queries]")
    functions = {"accuracy": 1.0, "format": 1.0, str(own): 0.0}
    with Scorer(RewardSettings(functions=functions)) as scorer:
        yield scorer


@thorough
@given(texts=GROUPS, gold=st.sampled_from(GOLDS))
def test_hostile_texts_are_scored(scorer, texts, gold):
    scores = scorer.score(texts, asks(gold), "Q")
    assert set(scores.parts["accuracy"]) <= {0.0, 1.0} and set(scores.parts["format"]) <= {0.0, 0.5}
    assert scores.parts["length"] == [1 + len(text) for text in texts]
    assert scores.total == [sum(pair) for pair in zip(scores.parts["accuracy"], scores.parts["format"], strict=True)]
    assert scores.correct == [reward == 1 for reward in scores.parts["accuracy"]]


@thorough
@given(gold=TEXTS)
def test_hostile_gold_answers_are_verifiable_or_not(gold):
    assert verifiable(gold) is (accuracy_reward(f"<answer>{gold}</answer>", gold) == 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = TrainSettings(model={"path": "m"}, data={"path": "d"})
    with RunFolder(tmp_path_factory.mktemp("run"), run) as folder:
        yield folder


@thorough
@given(texts=GROUPS, name=TEXTS, reward=st.floats(-(2**39), 2**39, width=32, allow_subnormal=False))
def test_rollouts_are_read_back_as_they_were_written(folder, texts, name, reward):
    group = random_group([], [1] * 8)
    completions = tuple(replace(c, text=text) for c, text in zip(group.completions, texts, strict=True))
    rewards = torch.tensor([reward, *range(7)], dtype=torch.float32)
    group = replace(
        group,
        example=replace(group.example, id=name, answer=name),
        completions=completions,
        rewards=rewards,
        parts={name: rewards},
        advantages=dr_grpo(rewards[None])[0],
    )
    rows = list(rollout_rows([group]))
    assert [row["text"] for row in rows] == texts
    lines = folder.write_rollouts(1, rows).read_text(encoding="ascii").splitlines()
    as_json = {"id": after_json(name), "answer": after_json(name)}
    expected = [
        row | as_json | {"text": after_json(row["text"]), "parts": {after_json(name): row["reward"]}} for row in rows
    ]
    assert [json.loads(line) for line in lines] == expected
    assert [row["reward"] for row in expected] == [reward, *range(7)]
