"""How token losses become one number: the share of every token in the loss of the whole batch.

Each function takes the lengths of *all* R responses of the batch, (R,) int, in tokens, and returns (R,)
float64: the weight of each token of that response. The loss is then the plain sum of weight · token loss,
and does not depend on how the batch is split into forward passes. Responses whose `keep`, (R,) bool, is
False weigh 0 and are not counted; where none is kept all weights are 0. `max_length` is the limit of a
response, in tokens.
"""

import torch
from torch import Tensor


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
