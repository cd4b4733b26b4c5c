"""The clipped policy loss and the correction for a sampler that is not quite the policy."""

import torch
from torch import Tensor


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
