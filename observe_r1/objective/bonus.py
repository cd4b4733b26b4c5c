"""The bonus for brevity: it goes to a group's shortest correct response, if that is long enough to reason."""

import torch
from torch import Tensor


def shortest_correct_bonus(correct: Tensor, lengths: Tensor, *, bonus: float = 0.2, min_length: int = 100) -> Tensor:
    """Return what each response gets on top of its reward: `bonus` for at most one a group, else 0.

        b_i = bonus · [i = argmin{ℓ_j : correct_j}] · [ℓ_i > min_length]

    The shortest correct response of all is the only candidate: where it has `min_length` tokens or fewer,
    nobody gets the bonus. Of equally short ones the first counts. A group with no correct response gets
    none.

    Source: Observe-R1 (arXiv 2505.12432), bonus reward within a length constraint.

    Args:
        correct: (N, G) bool.
        lengths: (N, G) int, in tokens.
        bonus: what the response gets.
        min_length: in tokens; the response must be longer.

    Returns:
        (N, G) float, in torch's default dtype.
    """
    correct = correct.bool()
    beyond = torch.iinfo(lengths.dtype).max
    candidate = lengths.masked_fill(~correct, beyond).argmin(dim=1, keepdim=True)
    earns = correct & (lengths > min_length)
    is_candidate = torch.zeros_like(correct).scatter(1, candidate, True)
    return (earns & is_candidate).to(torch.get_default_dtype()) * bonus
