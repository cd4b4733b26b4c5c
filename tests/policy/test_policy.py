"""One optimizer step, against the same step taken with transformers' own forward and the formulas written out."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import VOCABULARY, plain_copy, plain_logprobs, random_group, random_model, training_group
from torch.utils._python_dispatch import TorchDispatchMode

from observe_r1.config import ObjectiveSettings, OptimizerSettings
from observe_r1.errors import UserError
from observe_r1.policy.optimizers import learning_rate
from observe_r1.policy.policy import Policy
from observe_r1.records import TrainingBatch


def groups():
    return (
        random_group([(4, 6)], [5, 9, 3], seed=1),
        random_group([], [4, 7, 2], seed=2),
        random_group([(4, 4)], [6, 1, 8], seed=3),
    )


def batch(groups, **absent):
    generator = torch.Generator().manual_seed(0)

    def draw(scale):
        return tuple(torch.randn(sum(g.lengths), generator=generator, dtype=torch.float64) * scale for g in groups)

    streams = {
        "token_advantages": draw(1.0),
        "loss_weights": tuple(w.abs() for w in draw(0.1)),
        "old_logprobs": tuple(a - 6 for a in draw(1.5)),
        "reference_logprobs": tuple(a - 6 for a in draw(1.5)),
        "kl_weights": tuple(w.abs() for w in draw(0.01)),
    }
    per_group = [dict(zip(streams, values, strict=True)) | absent for values in zip(*streams.values(), strict=True)]
    return TrainingBatch(
        tuple(replace(training_group(g), **values) for g, values in zip(groups, per_group, strict=True)),
        learning_rate=1e-3,
    )


def changed(batch, index, **streams):
    """The batch with other streams in one of its groups."""
    groups = [replace(each, **streams) if i == index else each for i, each in enumerate(batch.groups)]
    return replace(batch, groups=tuple(groups))


def policy(vlm, objective=None, **optimizer):
    settings = OptimizerSettings(lr=1e-3, max_grad_norm=0.5, weight_decay=0.01, **optimizer)
    return Policy(vlm, settings, objective or ObjectiveSettings(kl_estimator="k3", clip_low=0.2, clip_high=0.3))


def step_by_hand(vlm, batch):
    """PPO-clip with k3 in the loss, written out, on transformers' own forward; AdamW as torch has it."""
    model = plain_copy(vlm)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
    loss = 0.0
    for each in batch.groups:
        logp = torch.cat([plain_logprobs(model, each.group.prompt, c.ids) for c in each.group.completions])
        ratio = (logp - each.old_logprobs).exp()
        a = each.token_advantages
        clip = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.3) * a)
        gap = each.reference_logprobs - logp
        loss = loss + (each.loss_weights * clip).sum() + (each.kl_weights * (gap.exp() - gap - 1)).sum()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    return model, float(loss.detach()), float(norm)


@pytest.mark.parametrize("budget", [10_000, 30], ids=["one pack", "sub-packs"])
def test_update_is_the_step_written_out(budget):
    vlm, data = random_model(scale=0.2), batch(groups())
    expected, loss, norm = step_by_hand(vlm, data)
    metrics = policy(vlm, tokens_per_pack=budget).update(data)
    assert metrics["policy/loss"] == pytest.approx(loss, rel=1e-6)
    assert metrics["policy/grad_norm"] == pytest.approx(norm, rel=1e-5)
    for (name, ours), theirs in zip(vlm.model.named_parameters(), expected.parameters(), strict=True):
        # Adam's first step is the gradient's sign: compare where the gradient is not rounding.
        significant = (theirs.grad.abs() > 1e-6) if theirs.grad is not None else torch.zeros_like(theirs).bool()
        torch.testing.assert_close(ours[significant], theirs[significant], atol=1e-6, rtol=1e-6, msg=name)


def test_without_old_logprobs_the_ratio_is_one():
    vlm, data = random_model(scale=0.2), batch(groups(), old_logprobs=None, reference_logprobs=None, kl_weights=None)
    metrics = policy(vlm).update(data)
    expected = -sum((each.loss_weights * each.token_advantages).sum() for each in data.groups)
    assert metrics["policy/loss"] == pytest.approx(float(expected))
    assert metrics["policy/clip_fraction"] == 0 and metrics["policy/approx_kl"] == 0


def test_groups_without_weight_are_not_computed_and_change_nothing():
    def step(idle):
        vlm, data = random_model(scale=0.2), batch(groups(), reference_logprobs=None, kl_weights=None)
        data = changed(data, 1, token_advantages=data.groups[1].token_advantages * 0)
        if not idle:
            data = replace(data, groups=(data.groups[0], data.groups[2]))
        tokens = []
        vlm.model.model.language_model.register_forward_hook(lambda *a: tokens.append(a[2].last_hidden_state.shape[1]))
        metrics = policy(vlm).update(data)
        return metrics, tokens, [p.detach().clone() for p in vlm.model.parameters()]

    (with_idle, seen, weights), (without, expected, same) = step(True), step(False)
    assert seen == expected and with_idle == without
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))


def test_a_batch_that_teaches_nothing_takes_no_step():
    vlm, data = random_model(), batch(groups(), reference_logprobs=None, kl_weights=None)
    before = [p.detach().clone() for p in vlm.model.parameters()]
    still = [replace(each, token_advantages=each.token_advantages * 0) for each in data.groups]
    metrics = policy(vlm).update(replace(data, groups=tuple(still)))
    assert metrics["policy/tokens"] == 0 and metrics["policy/grad_norm"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, vlm.model.parameters(), strict=True))


def test_groups_with_unlike_streams_are_refused_before_they_are_mixed_up():
    vlm, data = random_model(), batch(groups(), reference_logprobs=None, kl_weights=None)
    with pytest.raises(ValueError, match="zip"):
        policy(vlm).update(changed(data, 1, old_logprobs=None))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_refused_before_it_touches_a_weight(poison):
    vlm, data = random_model(), batch(groups())
    before = [p.detach().clone() for p in vlm.model.parameters()]
    with pytest.raises(UserError, match=r"not finite: lower optimizer\.lr"):
        policy(vlm).update(changed(data, 0, loss_weights=data.groups[0].loss_weights * poison))
    assert all(torch.equal(a, b) for a, b in zip(before, vlm.model.parameters(), strict=True))


def test_a_gradient_that_overflows_under_a_finite_loss_is_refused():
    vlm, data = random_model(), batch(groups())
    before = [p.detach().clone() for p in vlm.model.parameters()]
    vlm.model.lm_head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(UserError, match=r"its gradient's norm \((inf|nan)\) is not finite"):
        policy(vlm).update(data)
    assert all(torch.equal(a, b) for a, b in zip(before, vlm.model.parameters(), strict=True))


def test_metrics_are_means_over_response_tokens():
    vlm, data = random_model(scale=0.2), batch(groups())
    model = plain_copy(vlm)
    with torch.no_grad():
        logp = torch.cat([plain_logprobs(model, g.prompt, c.ids) for g in groups() for c in g.completions])
    old, adv = (torch.cat([getattr(g, name) for g in data.groups]) for name in ("old_logprobs", "token_advantages"))
    ratio = (logp - old).exp()
    clipped = ((ratio > 1.3) & (adv > 0)) | ((ratio < 0.8) & (adv < 0))
    metrics = policy(vlm).update(data)
    assert 0 < metrics["policy/clip_fraction"] == pytest.approx(float(clipped.double().mean()))
    assert metrics["policy/approx_kl"] == pytest.approx(float((ratio - 1 - ratio.log()).mean()), rel=1e-5)
    assert metrics["policy/logprob"] == pytest.approx(float(logp.mean()), rel=1e-5)
    assert metrics["policy/sampler_difference"] == pytest.approx(
        float((logp.exp() - math.exp(-3)).abs().mean()), rel=1e-4
    )
    assert metrics["policy/tokens"] == len(logp) and metrics["policy/lr"] == 1e-3


def test_entropy_is_that_of_the_predicting_distribution():
    from tiny import IMAGE, VIDEO

    vlm, (group, *_) = random_model(scale=0.2), groups()
    metrics = policy(vlm).update(batch((group,)))
    model = plain_copy(random_model(scale=0.2))
    entropies = []
    for completion in group.completions:
        ids = torch.cat([group.prompt.ids, completion.ids])[None]
        types = torch.cat([group.prompt.token_types, torch.zeros_like(completion.ids)])[None]
        logits = model(
            input_ids=ids,
            pixel_values=group.prompt.pixel_values,
            image_grid_thw=group.prompt.image_grid,
            mm_token_type_ids=types,
        ).logits[0, len(group.prompt.ids) - 1 : -1]
        logits[:, [IMAGE, VIDEO]] = -math.inf
        entropies.append(torch.distributions.Categorical(logits=logits).entropy())
    assert metrics["policy/entropy"] == pytest.approx(float(torch.cat(entropies).mean().detach()), rel=1e-5)


class Exponentials(TorchDispatchMode):
    """Counts passes over logits that take an exponential, as entropy does and a log-softmax of its own does not."""

    def __init__(self):
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator is torch.ops.aten.exp.default and args[0].shape[-1] == VOCABULARY:
            self.count += 1
        return operator(*args, **(kwargs or {}))


def test_entropy_is_computed_where_it_is_read_and_there_alone():
    trained = policy(random_model(scale=0.2), head_chunk=1000)
    with Exponentials() as scoring:
        trained.logprobs(groups())
    with Exponentials() as updating:
        trained.update(batch(groups()))
    assert (scoring.count, updating.count) == (0, 1)


def test_moments_are_made_in_memory_of_their_own(monkeypatch):
    """What activations have left goes back first, once: cut out of it, moments would keep the rest from everyone."""
    calls = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty"))
    trained = policy(random_model())
    trained.optimizer.register_step_pre_hook(lambda optimizer, *_: calls.append(len(optimizer.state)))
    for _ in range(2):
        trained.update(batch(groups()))
    assert calls == ["empty", 0, len(trained.parameters)]


def test_frozen_parameters_stay():
    vlm = random_model()
    for name, parameter in vlm.model.named_parameters():
        parameter.requires_grad_(not name.startswith("model.visual"))
    before = {n: p.detach().clone() for n, p in vlm.model.named_parameters()}
    policy(vlm).update(batch(groups()))
    moved = {n for n, p in vlm.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and not any(name.startswith("model.visual") for name in moved)


def test_schedule_warms_up_falls_and_ends_at_a_tenth():
    cosine = OptimizerSettings(lr=2e-6, warmup=0.1, schedule="cosine", min_lr_ratio=0.1)
    assert learning_rate(cosine, 0.05) == pytest.approx(1e-6)
    assert learning_rate(cosine, 0.1) == pytest.approx(2e-6)
    assert learning_rate(cosine, 0.55) == pytest.approx(2e-6 * (0.1 + 0.9 / 2))
    assert learning_rate(cosine, 1.0) == pytest.approx(2e-7)
    linear = cosine.model_copy(update={"schedule": "linear"})
    assert learning_rate(linear, 0.55) == pytest.approx(2e-6 * (0.1 + 0.9 / 2))
    assert learning_rate(linear, 0.775) == pytest.approx(2e-6 * (0.1 + 0.9 / 4))
    assert learning_rate(cosine.model_copy(update={"schedule": "constant"}), 0.9) == 2e-6
