"""A sequence whose items are made when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar, overload

Item = TypeVar("Item", covariant=True)


class LazySequence(Sequence[Item]):
    """Leaves `__len__` and `item` to define; a slice is a list of the items made at once."""

    @abstractmethod
    def item(self, index: int) -> Item:
        """Make the item at `index`, 0 ≤ index < len."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        places = range(len(self))[index]
        return self.item(places) if isinstance(places, int) else [self.item(place) for place in places]


class Joined(LazySequence[Item]):
    """Several sequences, one after the other."""

    def __init__(self, sequences: Sequence[Sequence[Item]]) -> None:
        self.sequences = sequences
        self._starts = [0, *accumulate(map(len, sequences))]

    def __len__(self) -> int:
        return self._starts[-1]

    def item(self, index: int) -> Item:
        """Fetch one item from the sequence it belongs to."""
        which = bisect_right(self._starts, index) - 1
        return self.sequences[which][index - self._starts[which]]
