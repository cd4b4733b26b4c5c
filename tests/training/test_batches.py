"""Training batches: every token's advantage and weight, computed here response by response."""

import json
from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import random_group

from observe_r1.config import DataSettings, ModelSettings, ObjectiveSettings, OptimizerSettings, TrainSettings
from observe_r1.records import Completion
from observe_r1.rewards import Scores
from observe_r1.run.recorder import rollout_rows
from observe_r1.run.resume import dump_groups, load_groups
from observe_r1.training.loop import Batcher
from observe_r1.training.prompts import Drawn
from observe_r1.training.sampler import scored_groups

OBJECTIVE = ObjectiveSettings(bonus_min_length=1)
LENGTHS = [[3, 5, 2], [4, 1, 6], [2, 2, 7], [5, 3, 1], [8, 2, 2]]
CORRECT = [[1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1]]


def groups(truncated=(), objective=None):
    made = []
    for i, (lengths, correct) in enumerate(zip(LENGTHS, CORRECT, strict=True)):
        plain = random_group([], lengths, seed=i)
        completions = tuple(
            Completion(c.ids, torch.linspace(-2, -1, len(c.ids)), "", 0, "length" if (i, j) in truncated else "stop")
            for j, c in enumerate(plain.completions)
        )
        made.append((plain, completions, [bool(each) for each in correct]))
    drawn = [Drawn(0, plain.example, plain.prompt) for plain, *_ in made]
    scores = [Scores([each + 0.5 for each in correct], correct, {}) for *_, correct in made]
    return scored_groups(drawn, [completions for _, completions, _ in made], scores, objective or OBJECTIVE)


def settings(minibatch=2, **objective):
    return TrainSettings(
        model=ModelSettings(path="m"),
        data=DataSettings(path="d"),
        objective=OBJECTIVE.model_copy(update=objective),
        optimizer=OptimizerSettings(minibatch=minibatch, lr=1.0, warmup=0, schedule="linear", min_lr_ratio=0),
        rollout={"max_new_tokens": 10},
    )


class Fixed:
    """A scorer whose log-probabilities are `value` more than the sampler's."""

    def __init__(self, value):
        self.value = value

    def logprobs(self, groups):
        return tuple(torch.cat([c.logprobs for c in g.completions]) + self.value for g in groups)


def batches(config, chosen=None, policy=None, reference=None, progress=(0.0, 0.5)):
    chosen = chosen or groups(objective=config.objective)
    return Batcher(config, policy, reference).batches(chosen, progress)


def streams(batches):
    return [each for batch in batches for each in batch.groups]


def response_advantages(group):
    """Bonus, dynamic weight and group_norm by hand."""
    rewards = [float(r) for r in group.rewards]
    right = [i for i, c in enumerate(group.correct) if c]
    shortest = min(right, key=lambda i: (group.lengths[i], i))
    if group.lengths[shortest] > 1:
        rewards[shortest] += 0.2
    mean = sum(rewards) / 3
    std = (sum((r - mean) ** 2 for r in rewards) / 2) ** 0.5
    p = len(right) / 3
    return [4 * 1.8 * p * (1 - p) * (r - mean) / (std + 1e-9) for r in rewards]


def test_advantages_are_bonus_weight_and_norm_spread_over_tokens():
    for batch in batches(settings()):
        for each in batch.groups:
            by_hand = response_advantages(each.group)
            torch.testing.assert_close(each.group.advantages, torch.tensor(by_hand), atol=1e-5, rtol=1e-5)
            expected = [a for a, n in zip(by_hand, each.group.lengths, strict=True) for _ in range(n)]
            torch.testing.assert_close(each.token_advantages, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_whole_groups_in_order_and_a_rate_that_falls_with_every_step():
    made = batches(settings(), progress=(0.1, 0.4))
    assert [len(b.groups) for b in made] == [2, 2, 1]
    assert [each.group.lengths for b in made for each in b.groups] == LENGTHS
    assert [b.learning_rate for b in made] == pytest.approx([0.8, 0.7, 0.6])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token", lambda lengths, n: 1 / sum(lengths)),
        ("sequence", lambda lengths, n: 1 / (len(lengths) * n)),
        ("constant", lambda lengths, n: 1 / (len(lengths) * 10)),
    ],
)
def test_loss_weights_normalise_over_the_whole_batch(aggregation, expected):
    for batch in batches(settings(aggregation=aggregation)):
        lengths = [n for each in batch.groups for n in each.group.lengths]
        weights = torch.cat([each.loss_weights for each in batch.groups])
        filled = len(batch.groups) / 2  # the last minibatch has one group
        by_hand = [filled * expected(lengths, n) for n in lengths for _ in range(n)]
        torch.testing.assert_close(weights, torch.tensor(by_hand))


@pytest.mark.parametrize("minibatch", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_group_weighs_the_same_in_a_step_of_any_size(count, minibatch):
    config = settings(minibatch=minibatch, aggregation="sequence", kl_coef=0.5, kl_in="loss")
    made = batches(config, groups()[:count], reference=Fixed(-0.3))
    assert [len(b.groups) for b in made] == [minibatch] * (count // minibatch) + [count % minibatch] * (
        count % minibatch > 0
    )
    for batch in made:
        for each in batch.groups:
            by_hand = torch.tensor([1 / (3 * minibatch * n) for n in each.group.lengths for _ in range(n)])
            torch.testing.assert_close(each.loss_weights, by_hand)
            torch.testing.assert_close(each.kl_weights, 0.5 * by_hand)
    for batch in batches(settings(minibatch=minibatch, aggregation="token"), groups()[:count]):
        weights = torch.cat([each.loss_weights for each in batch.groups])
        assert float(weights.sum()) == pytest.approx(len(batch.groups) / minibatch)


def test_truncated_responses_can_be_left_out():
    (batch,) = batches(settings(minibatch=5, mask_truncated=True), groups(truncated={(0, 1), (4, 0)}))
    kept = sum(map(sum, LENGTHS)) - 5 - 8
    first = batch.groups[0].loss_weights.split(LENGTHS[0])
    assert not first[1].any() and torch.allclose(first[0], torch.tensor(1 / kept))
    assert float(torch.cat([each.loss_weights for each in batch.groups]).sum()) == pytest.approx(1)


def test_kl_in_the_reward_is_the_sum_of_k1_still_to_come():
    plain = batches(settings())
    with_kl = batches(settings(kl_coef=0.01), reference=Fixed(-0.3))
    for base, each in zip(streams(plain), streams(with_kl), strict=True):
        assert each.reference_logprobs is None and each.kl_weights is None
        to_go = [0.3 * (n - t) for n in each.group.lengths for t in range(n)]
        torch.testing.assert_close(each.token_advantages, base.token_advantages - 0.01 * torch.tensor(to_go))


def test_kl_in_the_loss_is_a_mean_per_sequence():
    for batch in batches(settings(kl_coef=0.5, kl_in="loss"), reference=Fixed(-0.3)):
        lengths = [n for each in batch.groups for n in each.group.lengths]
        by_hand = [0.5 * len(batch.groups) / 2 / (len(lengths) * n) for n in lengths for _ in range(n)]
        torch.testing.assert_close(torch.cat([each.kl_weights for each in batch.groups]), torch.tensor(by_hand))
        for each in batch.groups:
            torch.testing.assert_close(each.reference_logprobs, each.sampler_logprobs - 0.3)


def test_old_logprobs_of_the_policy_with_truncated_importance_weights():
    config = settings(old_logprobs="policy", importance_cap=1.2)
    plain = streams(batches(settings()))
    for base, each in zip(plain, streams(batches(config, policy=Fixed(0.5))), strict=True):
        torch.testing.assert_close(each.old_logprobs, base.old_logprobs + 0.5)
        torch.testing.assert_close(each.sampler_logprobs, base.old_logprobs)
        torch.testing.assert_close(each.loss_weights, base.loss_weights * 1.2)
    for base, each in zip(plain, streams(batches(config, policy=Fixed(-0.5))), strict=True):
        torch.testing.assert_close(each.loss_weights, base.loss_weights * torch.tensor(-0.5).exp())


def test_whitened_advantages_have_mean_zero_and_unit_variance_over_tokens():
    config = settings(minibatch=5, whiten=True, estimator="rloo")
    (batch,) = batches(config)
    tokens = torch.cat([each.token_advantages for each in batch.groups])
    assert float(tokens.mean()) == pytest.approx(0, abs=1e-6)
    assert float(tokens.std(unbiased=False)) == pytest.approx(1, rel=1e-4)


def test_what_a_group_teaches_is_read_from_it_and_derived_once():
    """Whatever stands on the group is what is trained on and written down: nothing works it out again."""
    marked = [
        replace(group, bonus=group.bonus + i, weight=0.5 * i, advantages=torch.tensor([i, 1.0, -i]))
        for i, group in enumerate(groups())
    ]
    for each in streams(batches(settings(), marked)):
        assert torch.equal(each.token_advantages, spread(each.group))
    (batch,) = batches(settings(minibatch=5, whiten=True), marked)
    tokens = torch.cat([spread(group) for group in marked])
    whitened = (tokens - tokens.mean()) / tokens.std(unbiased=False)
    torch.testing.assert_close(torch.cat([each.token_advantages for each in batch.groups]), whitened)
    rows = [(row["bonus"], row["weight"], row["advantage"]) for row in rollout_rows(marked)]
    assert rows == [(float(g.bonus[i]), g.weight, float(g.advantages[i])) for g in marked for i in range(3)]


def test_leftovers_come_back_from_a_checkpoint_with_every_field(tmp_path):
    kept = [
        replace(group, parts={"format": group.rewards / 2}, example=replace(group.example, columns={"box": [1, None]}))
        for group in groups(truncated={(0, 1)})
    ]
    rows, tensors = dump_groups(kept)
    save_file(tensors, tmp_path / "leftovers.safetensors")
    prompts = iter([group.prompt for group in kept])
    loaded = load_groups(
        json.loads(json.dumps(rows)), load_file(tmp_path / "leftovers.safetensors"), lambda *_: next(prompts)
    )
    for ours, theirs in zip(kept, loaded, strict=True):
        for field in fields(ours):
            assert same(getattr(ours, field.name), getattr(theirs, field.name)), field.name
        assert all(
            same(getattr(a, field.name), getattr(b, field.name))
            for a, b in zip(ours.completions, theirs.completions, strict=True)
            for field in fields(a)
        )


def spread(group):
    return group.advantages.repeat_interleave(torch.tensor(group.lengths))


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return isinstance(one, tuple) or one == other  # completions are compared one by one
