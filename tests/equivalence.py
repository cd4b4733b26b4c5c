"""The packed update beside transformers' own forward: log-probabilities and gradients of each, and how far apart."""

import torch
from tiny import plain_copy, plain_logprobs, random_group

from observe_r1.model.families import shares_prefix
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


def packed(vlm, groups, budget, temperature=1.0):
    """Log-probabilities by group and gradients of Σ w·logp, with weights that differ for every token."""
    scorer = TokenLogprobs(vlm, temperature, chunk=4)
    weights = [torch.linspace(0.5, 2.0, sum(g.lengths), dtype=torch.float64) for g in groups]
    parts = [[] for _ in groups]
    vlm.model.zero_grad()
    for spans in plan_packs(groups, budget, shares_prefix(vlm.model)):
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
