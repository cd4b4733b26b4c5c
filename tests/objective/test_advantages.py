"""Bonus, dynamic weight and advantages against formulas by hand and brute force."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from observe_r1 import registry
from observe_r1.errors import UserError
from observe_r1.objective import (
    dr_grpo,
    dynamic_weight,
    group_advantages,
    group_norm,
    rloo,
    shortest_correct_bonus,
    whiten,
)

ESTIMATORS = ["group_norm", "dr_grpo", "rloo", "reinforce_baseline"]

groups = st.integers(2, 8).flatmap(
    lambda size: st.lists(
        st.lists(st.tuples(st.booleans(), st.integers(1, 300)), min_size=size, max_size=size), min_size=1, max_size=5
    )
)


def bonus_of(correct, lengths, **kwargs):
    return shortest_correct_bonus(torch.tensor([correct]), torch.tensor([lengths]), **kwargs)[0].tolist()


def test_bonus_goes_to_the_shortest_correct_response():
    assert bonus_of([True, True, False, True], [250, 120, 101, 300]) == pytest.approx([0, 0.2, 0, 0])


def test_bonus_goes_to_the_first_of_equally_short_ones():
    assert bonus_of([False, True, True], [150, 150, 150]) == pytest.approx([0, 0.2, 0])


def test_an_all_wrong_group_gets_no_bonus():
    assert bonus_of([False, False, False], [150, 120, 500]) == [0, 0, 0]


@pytest.mark.parametrize(("length", "expected"), [(100, 0.0), (101, 0.2)])
def test_the_bonus_needs_more_than_the_minimum_length(length, expected):
    assert bonus_of([True, False], [length, 500]) == pytest.approx([expected, 0])


def test_nobody_inherits_the_bonus_of_a_shortest_response_that_is_too_short():
    assert bonus_of([True, True], [50, 200]) == [0, 0]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_bonus_takes_any_integer_lengths_and_its_own_settings(dtype):
    lengths = torch.tensor([[3, 2]], dtype=dtype)
    bonus = shortest_correct_bonus(torch.tensor([[True, True]]), lengths, bonus=0.5, min_length=1)
    assert bonus.dtype == torch.float32
    assert bonus.tolist() == [[0, 0.5]]


@given(groups, st.sampled_from([0.2, 0.5, 1.0, 7.0]), st.integers(0, 200))
def test_bonus_equals_brute_force(batch, bonus, min_length):
    correct = torch.tensor([[is_correct for is_correct, _ in group] for group in batch])
    lengths = torch.tensor([[length for _, length in group] for group in batch])
    given_bonus = shortest_correct_bonus(correct, lengths, bonus=bonus, min_length=min_length)
    for row, group in zip(given_bonus.tolist(), batch, strict=True):
        expected = [0.0] * len(group)
        right = [index for index, (is_correct, _) in enumerate(group) if is_correct]
        if right:
            winner = min(right, key=lambda index: (group[index][1], index))
            expected[winner] = bonus if group[winner][1] > min_length else 0.0
        assert row == pytest.approx(expected)


def test_a_large_bonus_does_not_disturb_correctness():
    correct = torch.tensor([[True, False, True, False]])
    rewards = correct + shortest_correct_bonus(correct, torch.tensor([[150, 90, 200, 80]]), bonus=0.75)
    assert rewards.tolist() == [[1.75, 0, 1, 0]]
    assert dynamic_weight(correct.float().mean(1)).tolist() == pytest.approx([1.8])


def test_dynamic_weight_by_hand():
    weight = dynamic_weight(torch.tensor([[0.0, 0.25], [0.5, 1.0]], dtype=torch.float64))
    assert weight.dtype == torch.float64
    assert weight.tolist() == [[0.0, pytest.approx(4 * 1.8 * 0.25 * 0.75)], [pytest.approx(1.8), 0.0]]
    assert dynamic_weight(torch.tensor(0.5), sigma=1.0).item() == 1.0


reward = st.floats(-5, 5, allow_nan=False).map(lambda value: round(value, 3))
reward_groups = st.integers(2, 9).flatmap(
    lambda size: st.lists(st.lists(reward, min_size=size, max_size=size), min_size=1, max_size=4)
)


def by_hand(estimator: str, rewards: list[float]) -> list[float]:
    mean = statistics.fmean(rewards)
    if len(set(rewards)) == 1:
        return [0.0] * len(rewards)
    if estimator == "group_norm":
        return [(r - mean) / (statistics.stdev(rewards) + 1e-9) for r in rewards]
    if estimator == "rloo":
        return [r - statistics.fmean(rewards[:i] + rewards[i + 1 :]) for i, r in enumerate(rewards)]
    return [r - mean for r in rewards]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(batch=reward_groups)
def test_advantages_equal_the_formula_by_hand(estimator, batch):
    advantages = group_advantages(torch.tensor(batch, dtype=torch.float64), estimator)
    expected = [by_hand(estimator, group) for group in batch]
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(value=st.floats(-1e6, 1e6), size=st.integers(2, 17))
def test_equal_rewards_give_exactly_zero(estimator, dtype, value, size):
    advantages = group_advantages(torch.full((2, size), value, dtype=dtype), estimator)
    assert advantages.dtype == dtype
    assert (advantages == 0).all()


def test_rounding_would_not_give_exactly_zero_by_itself():
    rewards = torch.full((1, 3), 0.1, dtype=torch.float64)
    assert (rewards - rewards.mean(1, keepdim=True) != 0).any()
    assert (dr_grpo(rewards) == 0).all()


def test_whole_number_rewards_become_floats():
    torch.testing.assert_close(rloo(torch.tensor([[1, 0, 0]])), torch.tensor([[1, -0.5, -0.5]]))
    assert group_norm(torch.tensor([[1, 0]])).dtype == torch.float32


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_weights_multiply_the_advantages_of_their_group(shape):
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0]])
    weighted = group_advantages(rewards, "group_norm", torch.tensor([0.5, 1.8]).reshape(shape))
    torch.testing.assert_close(weighted[0], 0.5 * group_norm(rewards)[0])
    torch.testing.assert_close(weighted[1], 1.8 * group_norm(rewards)[1])


def test_the_default_estimator_is_group_norm_by_hand():
    advantages = group_advantages(torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64))
    assert advantages[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5])


def test_unknown_estimators_are_named():
    with pytest.raises(UserError, match="unknown estimator 'gae': gae needs a critic"):
        group_advantages(torch.ones(1, 2), "gae")


def test_whitening_equals_normalising_the_repeated_tokens():
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    counts = torch.randint(0, 30, (3, 4), generator=generator)
    tokens = advantages.flatten().repeat_interleave(counts.flatten())
    whitened = whiten(advantages, counts)
    expected = (advantages - tokens.mean()) / tokens.std(correction=0)
    torch.testing.assert_close(whitened, expected)
    again = whitened.flatten().repeat_interleave(counts.flatten())
    assert again.mean().item() == pytest.approx(0, abs=1e-12)
    assert again.std(correction=0).item() == pytest.approx(1)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_whitening_equal_advantages_gives_exactly_zero(value):
    whitened = whiten(torch.full((2, 3), value, dtype=torch.float64), torch.tensor([[1, 7, 3], [2, 2, 9]]))
    assert (whitened == 0).all()


def test_whitening_no_tokens_divides_by_nothing():
    whitened = whiten(torch.tensor([[1.0, -1.0]]), torch.zeros(1, 2, dtype=torch.long))
    assert whitened.isfinite().all()


@pytest.mark.parametrize("groups", [3, 4], ids=["as many responses as groups", "more groups"])
def test_an_estimator_of_ones_own_must_give_one_advantage_per_reward(monkeypatch, groups):
    monkeypatch.setattr(registry, "load", lambda kind, name: lambda rewards: rewards.mean(dim=1))
    with pytest.raises(UserError, match=rf"'mine' returned advantages \({groups},\) for rewards \({groups}, 3\)"):
        group_advantages(torch.rand(groups, 3), "mine")
