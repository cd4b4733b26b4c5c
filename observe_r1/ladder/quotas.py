"""How many questions each level gives to a ladder of a given size and given shares."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from observe_r1.errors import UserError


def quotas(counts: Sequence[int], size: int | None, shares: Sequence[float] | None) -> tuple[list[int], str]:
    """Return how many questions to draw of each level, and in words where there are fewer than its share.

    Args:
        counts: Questions that each level has.
        size: Questions in all; None for as many as there are, or with `shares` as many as keep every share exact,
            empty levels aside.
        shares: One a level, of any sum; None for those of `counts`. What a level lacks the others make up for, in
            proportion to their shares.

    Errors: `UserError` where there are not as many shares as levels.
    """
    if shares is None:
        return _fill(counts, sum(counts) if size is None else size, [Fraction(count) for count in counts]), ""
    check_shares(shares, len(counts))
    wanted = [Fraction(str(share)) for share in shares]
    if size is not None:
        return _fill(counts, size, wanted), _shortage(counts, size, wanted)
    full = [(count, share) for count, share in zip(counts, wanted, strict=True) if count and share]
    whole = sum((share for _, share in full), Fraction(0))
    largest = int(min((count * whole / share for count, share in full), default=Fraction(0)))
    return _fill(counts, largest, wanted), _shortage(counts, largest, wanted)


def check_shares(shares: Sequence[float], levels: int) -> None:
    """Raise `UserError` where there are not as many shares as levels."""
    if len(shares) != levels:
        raise UserError(
            f"arrange.shares: {len(shares)} shares for {levels} levels: give one more than responses a question "
            f"({levels - 1}), easy to hard"
        )


def _fill(counts: Sequence[int], size: int, shares: Sequence[Fraction]) -> list[int]:
    """Share `size` out, no level giving more than it has."""
    drawn = [0] * len(counts)
    open_levels = [level for level, count in enumerate(counts) if count and shares[level]]
    left = size
    while open_levels:
        whole = sum(shares[level] for level in open_levels)
        short = [level for level in open_levels if left * shares[level] > counts[level] * whole]
        if not short:
            for level, count in zip(
                open_levels, _rounded([left * shares[i] / whole for i in open_levels]), strict=True
            ):
                drawn[level] = count
            break
        for level in short:
            drawn[level] = counts[level]
            left -= counts[level]
        open_levels = [level for level in open_levels if level not in short]
    return drawn


def _rounded(targets: Sequence[Fraction]) -> list[int]:
    """Round to whole numbers of the same sum, which is whole: the largest remainders are rounded up."""
    floors = [int(target) for target in targets]
    missing = int(sum(targets)) - sum(floors)
    by_remainder = sorted(range(len(targets)), key=lambda i: floors[i] - targets[i])
    return [floor + (i in by_remainder[:missing]) for i, floor in enumerate(floors)]


def _shortage(counts: Sequence[int], size: int, shares: Sequence[Fraction]) -> str:
    last, whole = max(len(counts) - 1, 1), sum(shares)
    short = [
        f"d = {level / last:g} has {count} of {round(size * share / whole)}"
        for level, (count, share) in enumerate(zip(counts, shares, strict=True))
        if count < round(size * share / whole)
    ]
    return f"fewer questions than the shares ask for: {', '.join(short)}" if short else ""
