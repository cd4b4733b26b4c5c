"""How the rewards of a group become advantages.

Every estimator takes rewards (N, G) and returns advantages (N, G), in the rewards' own float type (integers
become torch's default one). A group whose rewards are all equal gets exactly 0, whatever rounding makes of
its mean, so that "this group teaches nothing" can be tested with `== 0`.
"""

import torch
from torch import Tensor

from observe_r1 import registry


def group_norm(rewards: Tensor) -> Tensor:
    """Distance from the group's mean in units of its (unbiased) standard deviation.

        A_i = (r_i − mean(r)) / (std(r) + 1e-9)

    Source: GRPO, DeepSeekMath (arXiv 2402.03300), outcome supervision.
    """
    rewards = _floating(rewards)
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return _zero_where_equal(rewards, centred / (rewards.std(dim=1, keepdim=True) + 1e-9))


def dr_grpo(rewards: Tensor) -> Tensor:
    """Distance from the group's mean, not divided by the spread.

        A_i = r_i − mean(r)

    Source: Dr. GRPO (arXiv 2503.20783). Known elsewhere as REINFORCE with the group's mean as baseline.
    """
    rewards = _floating(rewards)
    return _zero_where_equal(rewards, rewards - rewards.mean(dim=1, keepdim=True))


def rloo(rewards: Tensor) -> Tensor:
    """Distance from the mean of the group's other responses.

        A_i = r_i − Σ_{j≠i} r_j / (G − 1)

    Source: RLOO, Back to Basics (arXiv 2402.14740).
    """
    rewards = _floating(rewards)
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return _zero_where_equal(rewards, rewards - others)


def group_advantages(rewards: Tensor, estimator: str = "group_norm", weight: Tensor | None = None) -> Tensor:
    """Return the advantages of whole groups under the named estimator, times each group's weight.

    Args:
        rewards: (N, G), the bonus included.
        estimator: `group_norm`, `dr_grpo`, `rloo` or `reinforce_baseline`.
        weight: (N,) or (N, 1), one a group; none leaves the advantages as they are.

    Returns:
        (N, G).

    Raises:
        UserError: there is no such estimator.
    """
    advantages = registry.load("estimator", estimator)(rewards)
    return advantages if weight is None else advantages * weight.reshape(-1, 1)


def whiten(advantages: Tensor, token_counts: Tensor) -> Tensor:
    """Normalise advantages over the whole batch, every response counted as often as it has tokens.

        μ = Σ n_i A_i / Σ n_i,    v = Σ n_i (A_i − μ)² / Σ n_i,    A_i ← (A_i − μ) / √max(v, 1e-8)

    Where all advantages are equal the result is exactly 0.

    Source: advantage normalisation of REINFORCE++ (arXiv 2501.03262).

    Args:
        advantages: (N, G).
        token_counts: (N, G), tokens of each response; 0 leaves a response out of μ and v.

    Returns:
        (N, G).
    """
    advantages = _floating(advantages)
    counts = token_counts.to(advantages.dtype)
    total = counts.sum().clamp(min=1)
    centred = advantages - (counts * advantages).sum() / total
    variance = (counts * centred.square()).sum() / total
    whitened = centred * variance.clamp(min=1e-8).rsqrt()
    return _zero_where_equal(advantages.reshape(1, -1), whitened.reshape(1, -1)).reshape(advantages.shape)


def _floating(values: Tensor) -> Tensor:
    return values if values.is_floating_point() else values.to(torch.get_default_dtype())


def _zero_where_equal(rewards: Tensor, advantages: Tensor) -> Tensor:
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return advantages.masked_fill(equal, 0.0)
