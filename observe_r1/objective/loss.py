"""What is minimised: ratio and clip, KL, each token's share, and the correction for a sampler that is not the policy.

    L = Σ_t w_t · clip_t + Σ_t v_t · KL_t     the sums over all response tokens of a batch, `policy_loss`
    w_t = aggregation share · importance weight
    v_t = coefficient · share of a mean per sequence, where the KL is in the loss

KL estimators take log-probabilities of the sampled tokens under the policy and under the reference, any shape, and
return one value a token. Source of all three: J. Schulman, Approximating KL Divergence (2020),
http://joschu.net/blog/kl-approx.html, with log r = −k1.

Aggregations say how token losses become one number. Each takes the lengths of *all* R responses of the batch, (R,)
int, in tokens, and returns (R,) float64: the weight of each token of that response. The loss is then the plain sum of
weight · token loss, and does not depend on how the batch is split into forward passes. Responses whose `keep`, (R,)
bool, is False weigh 0 and are not counted; where none is kept all weights are 0. `max_length` is the limit of a
response, in tokens.
"""

import torch
from torch import Tensor

from observe_r1 import registry
from observe_r1.config import ObjectiveSettings


def policy_loss(
    logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    sampler_logprobs: Tensor,
    objective: ObjectiveSettings,
    *,
    old_logprobs: Tensor | None = None,
    reference_logprobs: Tensor | None = None,
    kl_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of T response tokens and what is measured of them.

        L = Σ_t w_t · clip_t + Σ_t v_t · KL_t

    Losses of the parts of a batch add up to that of the batch, and so do their gradients.

    Args:
        logprobs: (T,) under the policy being trained, with gradient.
        advantages: (T,).
        weights: (T,), w: share of each token in the batch's loss.
        sampler_logprobs: (T,), under the distribution really sampled from; only measured.
        objective: clip bounds and KL estimator.
        old_logprobs: (T,), what the ratio is taken against; None for the policy's own, a ratio of 1.
        reference_logprobs: (T,); with `kl_weights`, where the KL is in the loss.
        kl_weights: (T,), v.

    Returns:
        The loss, a scalar; and sums over the tokens, float64 scalars without gradient: `loss` (L itself),
        `clip_fraction`, `approx_kl` (Schulman's k3 estimate of KL(old ‖ new)), `logprob`, and `sampler_difference`
        (of probabilities, in absolute value).
    """
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    terms, clipped = policy_loss_terms(logprobs, old, advantages, objective.clip_low, objective.clip_high)
    loss = (weights * terms).sum()
    if reference_logprobs is not None and kl_weights is not None:
        kl = registry.load("kl estimator", objective.kl_estimator)(logprobs, reference_logprobs)
        loss = loss + (kl_weights * kl).sum()
    with torch.no_grad():
        change = logprobs - old
        measured = {
            "loss": loss,
            "clip_fraction": clipped.float(),
            "approx_kl": change.exp() - 1 - change,
            "logprob": logprobs,
            "sampler_difference": (logprobs.exp() - sampler_logprobs.exp()).abs(),
        }
        return loss, {name: values.sum().double() for name, values in measured.items()}


def policy_loss_terms(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Return the PPO-clip loss of each token and where the clip is active.

        ρ = exp(log π − log π_old)
        loss = −min(ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A)

    Source: PPO (arXiv 1707.06347), equation 7; two bounds after DAPO (arXiv 2503.14476).

    Args:
        logprobs: under the policy being trained; any shape, with gradient.
        old_logprobs: under the policy that the ratio is taken against; same shape.
        advantages: same shape.
        clip_low: the ratio is clipped below at 1 − this.
        clip_high: the ratio is clipped above at 1 + this.

    Returns:
        The loss, same shape; and bool, same shape: True where the clip leaves the token no gradient.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * advantages, clipped_ratio * advantages)
    too_high = (ratio > 1 + clip_high) & (advantages > 0)
    too_low = (ratio < 1 - clip_low) & (advantages < 0)
    return loss, too_high | too_low


def truncated_importance_weight(policy_logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """Return `min(exp(log π_policy − log π_sampler), cap)`, without gradient.

    Multiplies the loss of tokens that the sampler gave another probability than the policy does.

    Source: truncated importance sampling (Ionides, 2008); for such mismatches Yao et al., Your Efficient RL
    Framework Secretly Brings You Off-Policy RL Training (2025).

    Args:
        policy_logprobs: under the policy at the start of the step; any shape.
        sampler_logprobs: under the distribution really sampled from; same shape.
        cap: the largest weight.
    """
    return torch.exp(policy_logprobs - sampler_logprobs).clamp(max=cap).detach()


def k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """`log π − log π_ref`: unbiased, may be negative."""
    return logprobs - reference_logprobs


def k2(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """`½ (log π − log π_ref)²`: biased, never negative; its gradient is an unbiased one of the KL."""
    return 0.5 * (logprobs - reference_logprobs).square()


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """`exp(−k1) − 1 + k1`: unbiased, never negative."""
    log_ratio = reference_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def token_mean(lengths: Tensor, max_length: int, keep: Tensor | None = None) -> Tensor:
    """Every token counts the same: `1 / Σ_j ℓ_j`. Source: DAPO (arXiv 2503.14476), token-level loss."""
    kept = _kept(lengths, keep)
    return kept / (kept * lengths).sum().clamp(min=1)


def sequence_mean(lengths: Tensor, max_length: int, keep: Tensor | None = None) -> Tensor:
    """Every response counts the same: `1 / (R · ℓ_i)`. Source: GRPO, DeepSeekMath (arXiv 2402.03300)."""
    kept = _kept(lengths, keep)
    return kept / (kept.sum().clamp(min=1) * lengths.clamp(min=1))


def constant_length(lengths: Tensor, max_length: int, keep: Tensor | None = None) -> Tensor:
    """Tokens are divided by a constant: `1 / (R · max_length)`. Source: Dr. GRPO (arXiv 2503.20783)."""
    kept = _kept(lengths, keep)
    return kept / (kept.sum().clamp(min=1) * max_length)


def _kept(lengths: Tensor, keep: Tensor | None) -> Tensor:
    ones = torch.ones_like(lengths, dtype=torch.float64)
    return ones if keep is None else ones * keep
