"""KL estimators, aggregation and the clipped loss: by hand, by brute force, by autograd."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from observe_r1 import registry
from observe_r1.config import ObjectiveSettings
from observe_r1.objective import (
    constant_length,
    k1,
    k2,
    k3,
    kl_to_go,
    policy_loss,
    policy_loss_terms,
    sequence_mean,
    token_advantages,
    token_mean,
    truncated_importance_weight,
)

AGGREGATIONS = [token_mean, sequence_mean, constant_length]

lengths_lists = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def random_tokens(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("policy", "reference"), [(-1.0, -1.5), (-2.0, -0.5), (-1.0, -1.0)])
def test_kl_estimators_by_hand(policy, reference):
    p, q = torch.tensor(policy, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64)
    difference = policy - reference
    assert k1(p, q).item() == pytest.approx(difference)
    assert k2(p, q).item() == pytest.approx(0.5 * difference**2)
    assert k3(p, q).item() == pytest.approx(math.exp(-difference) - 1 + difference)


def test_k1_and_k3_average_to_the_kl_of_two_distributions():
    logits = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    policy, reference = logits.log_softmax(-1)
    kl = torch.nn.functional.kl_div(reference, policy, log_target=True, reduction="sum")
    for estimator in (k1, k3):
        torch.testing.assert_close((policy.exp() * estimator(policy, reference)).sum(), kl)


def test_the_expected_gradient_of_k2_is_the_gradient_of_the_kl():
    logits = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    reference = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).log_softmax(-1)
    policy = logits.log_softmax(-1)
    (true,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits, retain_graph=True)
    (ours,) = torch.autograd.grad((policy.exp().detach() * k2(policy, reference)).sum(), logits)
    torch.testing.assert_close(ours, true)


@given(lengths_lists)
def test_kl_to_go_equals_brute_force(lengths):
    kl = random_tokens(sum(lengths))
    expected, start = [], 0
    for length in lengths:
        expected += [kl[token : start + length].sum() for token in range(start, start + length)]
        start += length
    torch.testing.assert_close(kl_to_go(kl, lengths), torch.stack(expected))


def test_token_advantages_with_and_without_kl():
    advantages = torch.tensor([2.0, 0.0])
    kl = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    assert token_advantages(advantages, [3, 2]).tolist() == [2, 2, 2, 0, 0]
    with_kl = token_advantages(advantages, [3, 2], kl, coef=0.5)
    assert with_kl.tolist() == [2 - 3.5, 2 - 3, 2 - 2, -12, -8]


def test_aggregation_by_hand():
    lengths = torch.tensor([2, 3])
    assert token_mean(lengths, 10).tolist() == pytest.approx([1 / 5, 1 / 5])
    assert sequence_mean(lengths, 10).tolist() == pytest.approx([1 / 4, 1 / 6])
    assert constant_length(lengths, 10).tolist() == pytest.approx([1 / 20, 1 / 20])
    keep = torch.tensor([True, False])
    assert token_mean(lengths, 10, keep).tolist() == pytest.approx([1 / 2, 0])
    assert sequence_mean(lengths, 10, keep).tolist() == pytest.approx([1 / 2, 0])
    assert constant_length(lengths, 10, keep).tolist() == pytest.approx([1 / 10, 0])


@given(lengths_lists, st.data())
def test_weighted_sums_are_the_means_they_are_named_for(lengths, data):
    keep = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    losses = random_tokens(sum(lengths)).split(lengths)
    kept = [loss for loss, is_kept in zip(losses, keep, strict=True) if is_kept]
    means = {
        token_mean: torch.cat(kept).mean() if kept else torch.zeros(()),
        sequence_mean: torch.stack([loss.mean() for loss in kept]).mean() if kept else torch.zeros(()),
        constant_length: sum(loss.sum() for loss in kept) / (len(kept) * 12) if kept else torch.zeros(()),
    }
    for aggregate, mean in means.items():
        weights = aggregate(torch.tensor(lengths), 12, torch.tensor(keep))
        ours = sum(weight * loss.sum() for weight, loss in zip(weights, losses, strict=True))
        assert weights.dtype == torch.float64
        torch.testing.assert_close(ours, mean.double())


@pytest.mark.parametrize("aggregate", AGGREGATIONS)
def test_where_every_response_is_masked_all_weights_are_zero(aggregate):
    assert aggregate(torch.tensor([4, 7]), 10, torch.tensor([False, False])).tolist() == [0, 0]


def test_registered_names_lead_here():
    assert [registry.load("aggregation", name) for name in ("token", "sequence", "constant")] == AGGREGATIONS
    assert [registry.load("kl estimator", name) for name in ("k1", "k2", "k3")] == [k1, k2, k3]


def test_ratio_one_gives_minus_the_advantage_and_its_policy_gradient():
    logprobs = random_tokens(5).requires_grad_()
    advantages = random_tokens(5, seed=1)
    loss, clipped = policy_loss_terms(logprobs, logprobs.detach(), advantages, 0.2, 0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    torch.testing.assert_close(loss, -advantages)
    torch.testing.assert_close(gradient, -advantages)
    assert not clipped.any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped"),
    [
        (1.5, 1.0, -1.28, True),
        (1.25, 1.0, -1.25, False),
        (1.5, -1.0, 1.5, False),
        (0.5, 1.0, -0.5, False),
        (0.5, -1.0, 0.8, True),
        (0.9, -2.0, 1.8, False),
    ],
)
def test_clipping_by_hand(ratio, advantage, loss, is_clipped):
    logprob = torch.tensor([math.log(ratio)], dtype=torch.float64)
    advantages = torch.tensor([advantage], dtype=torch.float64)
    ours, clipped = policy_loss_terms(logprob, torch.zeros(1, dtype=torch.float64), advantages, 0.2, 0.28)
    assert ours.item() == pytest.approx(loss)
    assert clipped.item() is is_clipped


@given(st.integers(0, 1000))
def test_clipped_tokens_are_those_without_gradient(seed):
    logprobs = random_tokens(50, seed).requires_grad_()
    advantages = random_tokens(50, seed + 1)
    loss, clipped = policy_loss_terms(logprobs, torch.zeros(50, dtype=torch.float64), advantages, 0.2, 0.3)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    assert torch.equal(clipped, gradient == 0)


def test_importance_weights_are_truncated_and_carry_no_gradient():
    policy = torch.tensor([-1.0, -1.0, -5.0], requires_grad=True)
    weights = truncated_importance_weight(policy, torch.tensor([-1.0, -4.0, -4.0]), cap=2.0)
    assert weights.tolist() == pytest.approx([1.0, 2.0, math.exp(-1)])
    assert not weights.requires_grad


@given(st.integers(0, 1000), st.integers(0, 20))
def test_losses_and_measures_of_parts_add_up_to_those_of_the_whole(seed, cut):
    streams = [random_tokens(20, seed + i) for i in range(7)]
    settings = ObjectiveSettings(kl_estimator="k2")

    def loss(part):
        logprobs, advantages, weights, sampled, old, reference, kl_weights = (each[part] for each in streams)
        streams_of_kl = {"reference_logprobs": reference, "kl_weights": kl_weights}
        return policy_loss(logprobs, advantages, weights, sampled, settings, old_logprobs=old, **streams_of_kl)

    (first, some), (second, rest), (whole, all_of_them) = map(loss, (slice(cut), slice(cut, 20), slice(20)))
    torch.testing.assert_close(first + second, whole)
    for name, value in all_of_them.items():
        torch.testing.assert_close(some[name] + rest[name], value)


def test_the_whole_loss_by_hand():
    logprobs = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    advantages, weights = torch.tensor([[2.0, -1.0], [0.3, 0.7]], dtype=torch.float64)
    loss, sums = policy_loss(logprobs, advantages, weights, torch.tensor([-1.5, -2.0]), ObjectiveSettings())
    assert loss.item() == sums["loss"].item() == pytest.approx(-0.3 * 2 + 0.7)  # its own ratio is 1
    assert {name: sums[name].item() for name in ("clip_fraction", "approx_kl", "logprob", "sampler_difference")} == {
        "clip_fraction": 0,
        "approx_kl": 0,
        "logprob": -3,
        "sampler_difference": pytest.approx(math.exp(-1) - math.exp(-1.5)),
    }
    loss.backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.6, 0.7])
    kl = {"reference_logprobs": torch.tensor([-1.5, -1.0]), "kl_weights": torch.tensor([0.1, 0.2])}
    with_kl, _ = policy_loss(logprobs, advantages, weights, logprobs, ObjectiveSettings(kl_estimator="k1"), **kl)
    assert (with_kl - loss).item() == pytest.approx(0.1 * 0.5 - 0.2 * 1)


def test_the_measured_kl_of_small_steps_is_not_lost_in_rounding():
    """It is x²/2 for a change x: of 1e-4 nats, beside which float32 would round `exp(x) - 1` by a quarter of that."""
    old = torch.linspace(-3, -0.1, 1000)
    new = old + 1e-4 * torch.arange(1000.0).sin()
    ones = torch.ones(1000)
    _, sums = policy_loss(new, ones, ones, old, ObjectiveSettings(), old_logprobs=old)
    change = new.double() - old.double()
    assert sums["approx_kl"].item() == pytest.approx((change.expm1() - change).sum().item(), rel=1e-4)
