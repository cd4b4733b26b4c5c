"""The divergence from the reference model: per-token estimators, and the KL as part of the reward.

The estimators take log-probabilities of the sampled tokens under the policy and under the reference, any
shape, and return one value a token. Source of all three: J. Schulman, Approximating KL Divergence (2020),
http://joschu.net/blog/kl-approx.html, with log r = −k1.
"""

import torch
from torch import Tensor


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


def kl_to_go(kl: Tensor, lengths: list[int]) -> Tensor:
    """Return for each token the sum of `kl` from it to the end of its own response.

        K_t = Σ_{s ≥ t} kl_s    (s over the tokens of the same response)

    Args:
        kl: (T,), one value a token, responses end to end.
        lengths: tokens of each response, T in all.

    Returns:
        (T,).
    """
    return torch.cat([part.flip(0).cumsum(0).flip(0) for part in kl.split(lengths)])


def token_advantages(advantages: Tensor, lengths: list[int], kl: Tensor | None = None, coef: float = 0.0) -> Tensor:
    """Spread the advantages of responses over their tokens; with `kl`, subtract the KL still to come.

        A_{i,t} = A_i − coef · K_{i,t}

    This is the undiscounted return of a reward that pays −coef · kl at every token and the response's
    (weighted) advantage at the last. Groups of advantage 0 therefore still feel the KL.

    Args:
        advantages: (R,), one a response.
        lengths: tokens of each response, T in all.
        kl: (T,), one value a token, responses end to end.
        coef: coefficient of the KL.

    Returns:
        (T,).
    """
    repeats = torch.tensor(lengths, device=advantages.device)
    spread = advantages.repeat_interleave(repeats)
    return spread if kl is None else spread - coef * kl_to_go(kl, lengths)
