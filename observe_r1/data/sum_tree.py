"""Weights with their sum at hand: changing one, and finding where a running sum passes a point, take O(log n)."""

import numpy as np


class SumTree:
    """`size` non-negative weights, all 0 at first.

    A binary heap: node i is the sum of nodes 2i and 2i+1, the weights are its leaves. A sum depends on the weights
    alone and not on the changes that led to them, so that a tree filled anew is the same bit by bit.
    """

    def __init__(self, size: int) -> None:
        self._leaves = 1 << max(size - 1, 0).bit_length()
        self._sums = np.zeros(2 * self._leaves)

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._sums[1])

    def __setitem__(self, index: int, weight: float) -> None:
        node = self._leaves + index
        self._sums[node] = weight
        while node > 1:
            node //= 2
            self._sums[node] = self._sums[2 * node] + self._sums[2 * node + 1]

    def fill(self, weights: np.ndarray) -> None:
        """Set the first weights to `weights`, the others to 0."""
        self._sums[:] = 0
        self._sums[self._leaves : self._leaves + len(weights)] = weights
        start = self._leaves
        while start > 1:
            children = self._sums[start : 2 * start]
            start //= 2
            self._sums[start : 2 * start] = children[0::2] + children[1::2]

    def find(self, point: float) -> int:
        """Return the first index whose weight and those before it sum to more than `point`, 0 ≤ `point` < `total`.

        Rounding, even of a point that it has carried to the total, never leads to a weight of 0 while another is not.
        """
        node = 1
        while node < self._leaves:
            node *= 2
            left = self._sums[node]
            if point >= left and self._sums[node + 1] > 0:
                point -= left
                node += 1
        return node - self._leaves
