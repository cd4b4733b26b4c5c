"""The weight for uncertainty: questions that the model gets right half of the time count most."""

from torch import Tensor


def dynamic_weight(pass_rate: Tensor, sigma: float = 1.8) -> Tensor:
    """Return the weight of each group's advantages.

        w = 4σ · p · (1 − p)

    0 where all responses are right or all are wrong, σ at p = ½.

    Source: Observe-R1 (arXiv 2505.12432), dynamic weighting.

    Args:
        pass_rate: p, share of a group's responses that are correct, in [0, 1]; any shape.
        sigma: σ, the weight at p = ½.

    Returns:
        The shape and dtype of `pass_rate`.
    """
    return 4 * sigma * pass_rate * (1 - pass_rate)
