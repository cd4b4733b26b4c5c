"""How the rewards of a group become advantages: bonus, dynamic weight, estimators, whitening, KL in the reward.

    b = shortest_correct_bonus(correct, lengths)
    w = dynamic_weight(pass rate)
    A = w · estimator(r + b)                  `scored_advantages` computes all three when a group is scored
    A ← whiten(A)                             over a whole rollout, if `objective.whiten` is set
    A_t = token_advantages(A)                 spread over tokens, minus the KL still to come if it is in the reward

An estimator takes rewards (N, G), bonus included, and returns advantages (N, G) in the same float type (torch's default
one for integers). A group whose rewards are all equal gets exactly 0, however its mean is rounded, so that
"this group teaches nothing" can be tested with `== 0`.
"""

import torch
from torch import Tensor

from observe_r1 import registry
from observe_r1.config import ObjectiveSettings
from observe_r1.errors import UserError


def scored_advantages(
    rewards: Tensor, correct: Tensor, lengths: Tensor, objective: ObjectiveSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Add the bonus, normalise and weigh by uncertainty, group by group.

        A = w · estimator(r + b)

    Args:
        rewards: (N, G) float, without bonus.
        correct: (N, G) bool.
        lengths: (N, G) int, in tokens.
        objective: Names the estimator, and sets bonus and weight.

    Returns:
        The bonus b, (N, G); the weight w of each group, (N,), 1 without dynamic weight; and the advantages A, (N, G).

    Raises:
        UserError: There is no such estimator.
    """
    bonus = shortest_correct_bonus(correct, lengths, bonus=objective.bonus, min_length=objective.bonus_min_length)
    weight = torch.ones(len(rewards))
    if objective.dynamic_weight:
        weight = dynamic_weight(correct.float().mean(dim=1), objective.sigma)
    return bonus, weight, group_advantages(rewards + bonus, objective.estimator, weight)


def shortest_correct_bonus(correct: Tensor, lengths: Tensor, *, bonus: float = 0.2, min_length: int = 100) -> Tensor:
    """Return what is added to the reward of each response: `bonus` for at most one per group, else 0.

        b_i = bonus · [i = argmin{ℓ_j : correct_j}] · [ℓ_i > min_length]

    The shortest correct response of a group is its only candidate: if it has `min_length` tokens or fewer, no response
    gets the bonus. Of equally short ones the first is the candidate. A group without a correct response gets none.

    Source: Observe-R1 (arXiv 2505.12432), bonus reward within a length constraint.

    Args:
        correct: (N, G) bool.
        lengths: (N, G) int, in tokens.
        bonus: What that response gets.
        min_length: In tokens; the response must be longer.

    Returns:
        (N, G) float, in torch's default dtype.
    """
    correct = correct.bool()
    beyond = torch.iinfo(lengths.dtype).max
    candidate = lengths.masked_fill(~correct, beyond).argmin(dim=1, keepdim=True)
    earns = correct & (lengths > min_length)
    is_candidate = torch.zeros_like(correct).scatter(1, candidate, True)
    return (earns & is_candidate).to(torch.get_default_dtype()) * bonus


def dynamic_weight(pass_rate: Tensor, sigma: float = 1.8) -> Tensor:
    """Return the weight of each group's advantages.

        w = 4σ · p · (1 − p)

    It is 0 if all responses are right or all are wrong, and σ at p = ½.

    Source: Observe-R1 (arXiv 2505.12432), dynamic weighting.

    Args:
        pass_rate: p, the share of a group's responses that are correct, in [0, 1]; any shape.
        sigma: σ, the weight at p = ½.

    Returns:
        The weights, in the shape and dtype of `pass_rate`.
    """
    return 4 * sigma * pass_rate * (1 - pass_rate)


def group_advantages(rewards: Tensor, estimator: str = "group_norm", weight: Tensor | None = None) -> Tensor:
    """Return the advantages of whole groups under the named estimator, times each group's weight.

        A = w · estimator(r)

    Args:
        rewards: r, (N, G), bonus included.
        estimator: Its name in `observe_r1.registry`.
        weight: w, (N,) or (N, 1), one per group; None means 1.

    Returns:
        (N, G).

    Raises:
        UserError: There is no such estimator, or it returns another shape.
    """
    advantages = registry.load("estimator", estimator)(rewards)
    if advantages.shape != rewards.shape:
        shapes = f"{tuple(advantages.shape)} for rewards {tuple(rewards.shape)}"
        raise UserError(f"the estimator {estimator!r} returned advantages {shapes}: it must return one per reward")
    return advantages if weight is None else advantages * weight.reshape(-1, 1)


def group_norm(rewards: Tensor) -> Tensor:
    """Return each reward's distance from its group's mean, in units of the group's standard deviation.

        A_i = (r_i − mean(r)) / (std(r) + 1e-9)

    The standard deviation is the unbiased one: it divides by G − 1.

    Source: GRPO, DeepSeekMath (arXiv 2402.03300), outcome supervision.

    Args:
        rewards: (N, G), bonus included.

    Returns:
        (N, G).
    """
    rewards = _floating(rewards)
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return _zero_where_equal(rewards, centred / (rewards.std(dim=1, keepdim=True) + 1e-9))


def dr_grpo(rewards: Tensor) -> Tensor:
    """Return each reward's distance from its group's mean, not divided by the spread.

        A_i = r_i − mean(r)

    Registered a second time as `reinforce_baseline`, its name elsewhere: REINFORCE with the group's mean as baseline.

    Source: Dr. GRPO (arXiv 2503.20783).

    Args:
        rewards: (N, G), bonus included.

    Returns:
        (N, G).
    """
    rewards = _floating(rewards)
    return _zero_where_equal(rewards, rewards - rewards.mean(dim=1, keepdim=True))


def rloo(rewards: Tensor) -> Tensor:
    """Return each reward's distance from the mean of its group's other rewards.

        A_i = r_i − Σ_{j≠i} r_j / (G − 1)

    Source: RLOO, Back to Basics (arXiv 2402.14740).

    Args:
        rewards: (N, G), bonus included; G ≥ 2.

    Returns:
        (N, G).
    """
    rewards = _floating(rewards)
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return _zero_where_equal(rewards, rewards - others)


def whiten(advantages: Tensor, token_counts: Tensor) -> Tensor:
    """Normalise advantages over a whole rollout, where each response counts as often as it has tokens.

        μ = Σ n_i A_i / Σ n_i,    v = Σ n_i (A_i − μ)² / Σ n_i,    A_i ← (A_i − μ) / √max(v, 1e-8)

    If all advantages are equal, the result is exactly 0.

    Source: advantage normalisation of REINFORCE++ (arXiv 2501.03262).

    Args:
        advantages: A, (N, G).
        token_counts: n, (N, G) int, the tokens of each response; 0 leaves a response out of μ and v.

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


def kl_to_go(kl: Tensor, lengths: list[int]) -> Tensor:
    """Return, for each token, the sum of `kl` from that token to the end of its response.

        K_t = Σ_{s ≥ t} kl_s    (s over the tokens of the same response)

    Args:
        kl: (T,), one value per token, in nats, responses end to end.
        lengths: Tokens of each response, T in all.

    Returns:
        (T,).
    """
    return torch.cat([part.flip(0).cumsum(0).flip(0) for part in kl.split(lengths)])


def token_advantages(advantages: Tensor, lengths: list[int], kl: Tensor | None = None, coef: float = 0.0) -> Tensor:
    """Spread the advantages of responses over their tokens; with `kl`, subtract the KL still to come.

        A_{i,t} = A_i − coef · K_{i,t}

    This is the undiscounted return of a reward that pays −coef · kl at every token and the response's (weighted)
    advantage at the last one. So groups of advantage 0 also learn, from the KL.

    Source: Ziegler et al., Fine-Tuning Language Models from Human Preferences (arXiv 1909.08593).

    Args:
        advantages: (R,), one per response.
        lengths: Tokens of each of the R responses, T in all.
        kl: (T,), one value per token, in nats, responses end to end; None if the reward has no KL.
        coef: Coefficient of the KL.

    Returns:
        (T,).
    """
    repeats = torch.tensor(lengths, device=advantages.device)
    spread = advantages.repeat_interleave(repeats)
    return spread if kl is None else spread - coef * kl_to_go(kl, lengths)


def _floating(values: Tensor) -> Tensor:
    return values if values.is_floating_point() else values.to(torch.get_default_dtype())


def _zero_where_equal(rewards: Tensor, advantages: Tensor) -> Tensor:
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return advantages.masked_fill(equal, 0.0)
