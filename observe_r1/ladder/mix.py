"""Mixing: every slot of the ladder holds mostly one level, and some of its neighbours."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

Item = TypeVar("Item")

DRAWS = ((20, 15, 10, 5), (15, 10, 5), (15, 10))
"""Percent that a slot draws of the levels 1, 2, … steps away on one side, by how many levels lie on its other side:
none, one, or more. A slot with nothing on one side takes more, and from further away, on the other."""


def mix(levels: Sequence[Sequence[Item]], seed: int, key: Callable[[Item], Any] | None = None) -> list[list[Item]]:
    """Return one slot a level, easy to hard: the level's own items, mixed with some of the levels around it.

    The slots are filled in order. Each draws at random from what the slots before it left of the other levels: 15 % of
    each level one step away and 10 % of each two steps away. The first slot draws 20, 15, 10 and 5 % of the levels 1
    to 4, the second 15 % of level 0 and 15, 10 and 5 % of the levels 2 to 4, and the last two mirror them. Then what is
    left of each level stays in its own slot. (arXiv 2505.12432 shows the outcome in its figure of the dataset and does
    not state the rule; this one reproduces that figure.)

    A draw is rounded to the nearest whole number of items, halves up; levels of one or two items keep them all.

    Args:
        levels: The items by difficulty, easy first; any number of levels of any size, empty ones included.
        seed: Seeds the draws (≥ 0); which items move depends on it, how many does not.
        key: What a slot's items are ordered by, such as their complexity.

    Returns:
        As many lists as there are levels, which together hold every item exactly once. Items with equal keys, or all
        without `key`, stand in the order of `levels`.
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
