"""The packed update equals transformers' own forward on each response alone, and deliberate faults are noticed."""

from unittest.mock import patch

import pytest
import torch
from tiny import keep_float64, plain_copy, plain_logprobs, random_group, random_model

from observe_r1.model.packed_layout import PackedLayout
from observe_r1.policy import packing
from observe_r1.policy.packing import build_pack, plan_packs, select
from observe_r1.policy.token_logprobs import TokenLogprobs

GROUPS = {
    "one image": [random_group([(4, 6)], [5, 9, 1, 3])],
    "two images of unequal size": [random_group([(4, 6), (8, 4)], [6, 2, 8])],
    "no image": [random_group([], [4, 7])],
    "several groups": [
        random_group([(4, 4)], [3, 5, 8], seed=1),
        random_group([], [2, 6], seed=2, text=15),
        random_group([(6, 8), (4, 4)], [7, 1, 2], seed=3),
    ],
    "responses of one token": [random_group([(4, 4)], [1, 1], seed=4)],
}


@pytest.fixture(autouse=True)
def _float64(monkeypatch):
    keep_float64(monkeypatch)


def packed(vlm, groups, budget, temperature=1.0):
    """Log-probabilities by group and gradients of Σ w·logp, with weights that differ for every token."""
    scorer = TokenLogprobs(vlm, temperature, chunk=4)
    weights = [torch.linspace(0.5, 2.0, sum(g.lengths), dtype=torch.float64) for g in groups]
    parts = [[] for _ in groups]
    vlm.model.zero_grad()
    for spans in plan_packs(groups, budget):
        scores = scorer(build_pack(vlm, groups, spans))
        (scores.logprobs * select(weights, groups, spans)).sum().backward()
        sizes = [sum(groups[s.group].lengths[s.first : s.last]) for s in spans]
        for span, part in zip(spans, scores.logprobs.detach().split(sizes), strict=True):
            parts[span.group].append(part)
    return [torch.cat(p) for p in parts], gradients(vlm.model)


def alone(vlm, groups, temperature=1.0):
    """The same from transformers' own forward, one response at a time."""
    model = plain_copy(vlm)
    logprobs = []
    for group in groups:
        weight = torch.linspace(0.5, 2.0, sum(group.lengths), dtype=torch.float64).split(group.lengths)
        rows = [plain_logprobs(model, group.prompt, c.ids, temperature) for c in group.completions]
        sum((w * r).sum() for w, r in zip(weight, rows, strict=True)).backward()
        logprobs.append(torch.cat(rows).detach())
    return logprobs, gradients(model)


def gradients(model):
    """Every parameter's gradient, zeros where it has none (the image tower of a text-only batch)."""
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def difference(ours, theirs):
    """Largest relative difference of log-probabilities and of gradients, against the largest entry of each tensor."""
    (logprobs, ours_by_name), (expected, theirs_by_name) = ours, theirs
    worst = max(((a - b).abs() / b.abs().clamp(min=1e-3)).max().item() for a, b in zip(logprobs, expected, strict=True))
    for name, gradient in theirs_by_name.items():
        scale = gradient.abs().max() if gradient.any() else 1.0
        worst = max(worst, float((ours_by_name[name] - gradient).abs().max() / scale))
    return worst


@pytest.mark.parametrize("budget", [10_000, 40, 1], ids=["one pack", "sub-packs", "a response a pack"])
@pytest.mark.parametrize("name", GROUPS)
def test_packed_equals_each_response_alone(name, budget):
    vlm = random_model()
    worst = difference(packed(vlm, GROUPS[name], budget), alone(vlm, GROUPS[name]))
    assert worst < 1e-9


def test_temperature_is_part_of_the_distribution():
    vlm, groups = random_model(seed=1), GROUPS["one image"]
    ours = packed(vlm, groups, 10_000, 0.7)
    right, wrong = difference(ours, alone(vlm, groups, 0.7)), difference(ours, alone(vlm, groups))
    assert right < 1e-9
    assert wrong > 1e-3


def test_gradient_checkpointing_changes_nothing():
    vlm, groups = random_model(seed=2), GROUPS["several groups"]
    expected = packed(vlm, groups, 10_000)
    vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert difference(packed(vlm, groups, 10_000), expected) < 1e-12


def position_off_by_one(vlm, groups, spans):
    pack = build_pack(vlm, groups, spans)
    pack.positions[:, len(groups[0].prompt.ids) :] += 1
    return pack


def target_shifted(vlm, groups, spans):
    pack = build_pack(vlm, groups, spans)
    pack.targets.copy_(pack.targets.roll(1))
    return pack


def response_sees_another(vlm, groups, spans):
    pack = build_pack(vlm, groups, spans)
    first, *rest = pack.layout.responses[0]
    joined = [first + rest[0], *rest[1:]]
    layout = PackedLayout(pack.layout.prompts, [joined, *pack.layout.responses[1:]], pack.layout.device)
    return packing.Pack(pack.spans, pack.prompts, pack.ids, pack.positions, layout, pack.predictors, pack.targets)


@pytest.mark.parametrize("fault", [position_off_by_one, target_shifted, response_sees_another])
def test_deliberate_faults_are_noticed(fault):
    vlm, groups = random_model(), GROUPS["one image"]
    with patch(f"{__name__}.build_pack", lambda *a: fault_of(fault, *a)):
        assert difference(packed(vlm, groups, 10_000), alone(vlm, groups)) > 1e-3


def fault_of(fault, vlm, groups, spans):
    with patch(f"{__name__}.build_pack", packing.build_pack):
        return fault(vlm, groups, spans)


def test_block_mask_computes_the_same_attention():
    """FlexAttention has no backward on the CPU; its forward must equal the dense one there."""
    from torch.nn.attention.flex_attention import flex_attention

    layout = PackedLayout([5, 9], [[4, 3], [6, 0, 1]], torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, layout.tokens, 16, generator=generator)
    key, value = (torch.randn(1, 2, layout.tokens, 16, generator=generator) for _ in range(2))
    dense = layout.attend(query, key, value, 0.25, layer=0)
    flex = flex_attention(query, key, value, block_mask=layout.block_mask, scale=0.25, enable_gqa=True)
    torch.testing.assert_close(flex, dense, atol=1e-5, rtol=1e-5)


def test_every_response_of_a_group_is_packed_once_within_the_budget():
    groups = GROUPS["several groups"]
    for budget in range(1, 80):
        seen = []
        for spans in plan_packs(groups, budget):
            size = sum(
                len(groups[s.group].prompt.ids) + sum(n - 1 for n in groups[s.group].lengths[s.first : s.last])
                for s in spans
            )
            assert size <= budget or (len(spans) == 1 and spans[0].last - spans[0].first == 1)
            seen += [(s.group, r) for s in spans for r in range(s.first, s.last)]
        assert seen == [(i, r) for i, g in enumerate(groups) for r in range(len(g.lengths))]
