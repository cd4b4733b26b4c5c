"""Sequences whose items are made when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar, overload

Item = TypeVar("Item", covariant=True)


class LazySequence(Sequence[Item]):
    """A sequence that makes each item when it is asked for; subclasses define `__len__` and `item`.

    A slice makes its items at once and is a list.
    """

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
    """Several sequences, one after another."""

    def __init__(self, sequences: Sequence[Sequence[Item]]) -> None:
        self.sequences = sequences
        self._starts = [0, *accumulate(map(len, sequences))]

    def __len__(self) -> int:
        return self._starts[-1]

    def item(self, index: int) -> Item:
        """Fetch one item from the sequence it belongs to."""
        which = bisect_right(self._starts, index) - 1
        return self.sequences[which][index - self._starts[which]]
