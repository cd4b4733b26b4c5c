"""What is minimised: ratio and clip, KL, each token's share, and the correction for a sampler that is not the policy.

    L = Σ_t w_t · clip_t + Σ_t v_t · KL_t     over all response tokens of a batch: `policy_loss`
    w_t = aggregation share · importance weight
    v_t = coefficient · share of a mean per sequence, if the KL is in the loss

The weights w and v are made in `training.loop`, once per batch, so that the loss is a plain sum of token losses and
does not depend on how the batch is split into forward passes.

A KL estimator takes log-probabilities of the sampled tokens under the policy and under the reference, and returns one
value per token. Source of all three: J. Schulman, Approximating KL Divergence (2020),
http://joschu.net/blog/kl-approx.html, with log r = −k1.

An aggregation takes the lengths of all R responses of a batch and returns the weight of each of their tokens. Responses
that are not kept weigh 0 and are not counted; if none is kept, all weights are 0.
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
    """Return the loss of T response tokens, and metrics of them.

        L = Σ_t w_t · clip_t + Σ_t v_t · KL_t

    Losses of the parts of a batch add up to the loss of the batch, and so do their gradients.

    Source: GRPO, DeepSeekMath (arXiv 2402.03300), equation 3.

    Args:
        logprobs: (T,), of the tokens under the policy being trained, with gradient. Log-probabilities are in nats.
        advantages: (T,).
        weights: w, (T,), the share of each token in the batch's loss.
        sampler_logprobs: (T,), under the distribution really sampled from. Here they only give a metric; they enter the
            loss as `old_logprobs` or through the importance weight in `weights` (`training.loop.Batcher`).
        objective: Clip bounds and KL estimator.
        old_logprobs: (T,), the denominator of the ratio; None for the policy's own: a ratio of 1.
        reference_logprobs: (T,), under the reference model, if the KL is in the loss.
        kl_weights: v, (T,), with `reference_logprobs`.

    Returns:
        The loss, a scalar; and by name sums over the tokens, float64 scalars without gradient: `loss` (L itself),
        `clip_fraction`, `approx_kl` (the estimate `k3` of KL(old ‖ new)), `logprob`, and `sampler_difference`
        (of probabilities, in absolute value).
    """
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    terms, clipped = policy_loss_terms(logprobs, old, advantages, objective.clip_low, objective.clip_high)
    loss = (weights * terms).sum()
    if reference_logprobs is not None and kl_weights is not None:
        kl = registry.load("kl estimator", objective.kl_estimator)(logprobs, reference_logprobs)
        loss = loss + (kl_weights * kl).sum()
    with torch.no_grad():
        measured = {
            "loss": loss,
            "clip_fraction": clipped.float(),
            "approx_kl": k3(old, logprobs),
            "logprob": logprobs,
            "sampler_difference": (logprobs.exp() - sampler_logprobs.exp()).abs(),
        }
        return loss, {name: values.sum().double() for name, values in measured.items()}


def policy_loss_terms(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Return the PPO-clip loss of each token, and where the clip is active.

        ρ = exp(log π − log π_old)
        loss = −min(ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A)

    Source: PPO (arXiv 1707.06347), equation 7; two bounds after DAPO (arXiv 2503.14476).

    Args:
        logprobs: Under the policy being trained, in nats; any shape, with gradient.
        old_logprobs: Under the policy in the denominator of the ratio; same shape.
        advantages: Same shape.
        clip_low: The ratio is clipped below at 1 − this.
        clip_high: The ratio is clipped above at 1 + this.

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
    """Return each token's factor in the loss that corrects for a sampler whose probabilities are not the policy's.

        min(exp(log π_policy − log π_sampler), cap)

    Source: truncated importance sampling (Ionides, 2008); for such mismatches Yao et al., Your Efficient RL
    Framework Secretly Brings You Off-Policy RL Training (2025).

    Args:
        policy_logprobs: Under the policy at the start of the step, in nats; any shape.
        sampler_logprobs: Under the distribution really sampled from; same shape.
        cap: The largest weight.

    Returns:
        The weights, same shape, without gradient.
    """
    return torch.exp(policy_logprobs - sampler_logprobs).clamp(max=cap).detach()


def k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Return `log π − log π_ref`: unbiased, may be negative.

    Args:
        logprobs: log π of the sampled tokens, in nats; any shape.
        reference_logprobs: log π_ref; same shape.

    Returns:
        One value per token, in nats; same shape.
    """
    return logprobs - reference_logprobs


def k2(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Return `½ (log π − log π_ref)²`: biased, never negative; its gradient is an unbiased one of the KL.

    Args:
        logprobs: log π of the sampled tokens, in nats; any shape.
        reference_logprobs: log π_ref; same shape.

    Returns:
        One value per token, in nats; same shape.
    """
    return 0.5 * (logprobs - reference_logprobs).square()


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Return `exp(−k1) − 1 + k1`: unbiased, never negative.

    Args:
        logprobs: log π of the sampled tokens, in nats; any shape.
        reference_logprobs: log π_ref; same shape.

    Returns:
        One value per token, in nats; same shape.
    """
    log_ratio = reference_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def token_mean(lengths: Tensor, max_length: int, keep: Tensor | None = None) -> Tensor:
    """Let every token count the same: `1 / Σ_j ℓ_j`.

    Source: DAPO (arXiv 2503.14476), token-level loss.

    Args:
        lengths: ℓ, (R,) int, the tokens of every response of the batch.
        max_length: Unused here.
        keep: (R,) bool, the responses that count; None for all.

    Returns:
        (R,) float64, the weight of each token of each response.
    """
    kept = _kept(lengths, keep)
    return kept / (kept * lengths).sum().clamp(min=1)


def sequence_mean(lengths: Tensor, max_length: int, keep: Tensor | None = None) -> Tensor:
    """Let every response count the same: `1 / (R · ℓ_i)`.

    Source: GRPO, DeepSeekMath (arXiv 2402.03300).

    Args:
        lengths: ℓ, (R,) int, the tokens of every response of the batch.
        max_length: Unused here.
        keep: (R,) bool, the responses that count, R of them in the formula; None for all.

    Returns:
        (R,) float64, the weight of each token of each response.
    """
    kept = _kept(lengths, keep)
    return kept / (kept.sum().clamp(min=1) * lengths.clamp(min=1))


def constant_length(lengths: Tensor, max_length: int, keep: Tensor | None = None) -> Tensor:
    """Divide every token by a constant: `1 / (R · max_length)`.

    Source: Dr. GRPO (arXiv 2503.20783).

    Args:
        lengths: (R,) int, the tokens of every response of the batch.
        max_length: The limit of a response, in tokens (`rollout.max_new_tokens`).
        keep: (R,) bool, the responses that count, R of them in the formula; None for all.

    Returns:
        (R,) float64, the weight of each token of each response.
    """
    kept = _kept(lengths, keep)
    return kept / (kept.sum().clamp(min=1) * max_length)


def _kept(lengths: Tensor, keep: Tensor | None) -> Tensor:
    """Return (R,) float64: 1 for the responses that count, 0 for the others."""
    ones = torch.ones_like(lengths, dtype=torch.float64)
    return ones if keep is None else ones * keep
