"""Mixing: every slot of the ladder holds mostly one level, and some questions of its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np

from observe_r1.errors import UserError

Item = TypeVar("Item")

DRAWS = ((20, 15, 10, 5), (15, 10, 5), (15, 10))
"""Percent that a slot draws from the levels 1, 2, … steps away on one side, by how many levels are on its other side:
none, one, or more. A slot with nothing on one side takes more, and from further away, on the other."""


def mix(levels: Sequence[Sequence[Item]], seed: int, key: Callable[[Item], Any] | None = None) -> list[list[Item]]:
    """Return one slot per level, easy to hard: the level's own items, mixed with some of the levels around it.

    The slots are filled in order. Each draws at random from what earlier slots left of the other levels: 15 % of each
    level one step away and 10 % of each level two steps away. The first slot draws 20, 15, 10 and 5 % of the levels 1
    to 4, the second 15 % of level 0 and 15, 10 and 5 % of the levels 2 to 4, and the last two mirror them. What is then
    left of each level stays in its own slot. (arXiv 2505.12432 shows the outcome in its figure of the dataset and does
    not state the rule; this one reproduces that figure.)

    A draw is rounded to the nearest whole number of items, halves up; levels of one or two items keep them all.

    Args:
        levels: The items by difficulty, easy first; any number of levels of any size, empty ones included.
        seed: Seeds the draws (≥ 0). Which items move depends on it, how many does not.
        key: Orders the items of a slot, by complexity for example.

    Returns:
        As many lists as there are levels, which together hold every item exactly once. Items with equal keys, or all
        items without `key`, are in the order of `levels`.
    """
    generator = np.random.default_rng(seed)
    left = [generator.permutation(len(level)).tolist() for level in levels]
    slots: list[list[tuple[int, int]]] = [[] for _ in levels]
    for slot, taken in enumerate(slots):
        for level, percent in _draws(slot, len(levels)):
            count = (percent * len(left[level]) + 50) // 100
            taken += [(level, left[level].pop()) for _ in range(count)]
    for level, (own, rest) in enumerate(zip(slots, left, strict=True)):
        own += [(level, index) for index in rest]
    mixed = [[levels[level][index] for level, index in sorted(places)] for places in slots]
    return [sorted(items, key=key) for items in mixed] if key else mixed


def _draws(slot: int, levels: int) -> list[tuple[int, int]]:
    """Return the levels that a slot draws from and the percentage of each."""
    below, above = slot, levels - 1 - slot
    easier = [(slot - step, percent) for step, percent in enumerate(DRAWS[min(above, 2)][:below], start=1)]
    harder = [(slot + step, percent) for step, percent in enumerate(DRAWS[min(below, 2)][:above], start=1)]
    return easier + harder


def quotas(counts: Sequence[int], size: int | None, shares: Sequence[float] | None) -> tuple[list[int], str]:
    """Return how many questions to draw from each level, and in words which levels have fewer than their share.

    Args:
        counts: Questions in each level.
        size: Questions in all; None for as many as there are or, with `shares`, as many as keep every share exact
            (empty levels aside).
        shares: One per level, of any sum; None for those of `counts`. If a level has too few questions, the others
            make up for it in proportion to their shares.

    Raises:
        UserError: There are not as many shares as levels.
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
    """Raise `UserError` if there are not as many shares as levels."""
    if len(shares) != levels:
        raise UserError(
            f"arrange.shares: {len(shares)} shares for {levels} levels: give one more than responses per question "
            f"({levels - 1}), easy to hard"
        )


def _fill(counts: Sequence[int], size: int, shares: Sequence[Fraction]) -> list[int]:
    """Distribute `size` over the levels, none of which gives more than it has."""
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
    """Round to whole numbers with the same sum, which is whole: the largest remainders are rounded up."""
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
