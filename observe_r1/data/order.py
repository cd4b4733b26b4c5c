"""The order in which a dataset's rows are drawn, epoch after epoch and without end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from observe_r1.errors import UserError


class Order:
    """A resumable stream of row indices: every epoch visits each row once.

    Args:
        size: Rows of the dataset, at least 1.
        arrange: Returns the order of an epoch's rows, given the epoch's number; always the same for the same
            number, so that a position is all that has to be remembered.
    """

    def __init__(self, size: int, arrange: Callable[[int], Sequence[int] | np.ndarray]) -> None:
        if size < 1:
            raise ValueError(f"an order needs at least one row, got {size}")
        self.size = size
        self.epoch = 0
        self.position = 0
        self._arrange = arrange
        self._rows = arrange(0)

    def next(self) -> int:
        """Return the next row's index, in [0, size)."""
        if self.position == self.size:
            self._seek(self.epoch + 1, 0)
        row = int(self._rows[self.position])
        self.position += 1
        return row

    def state_dict(self) -> dict[str, int]:
        """Return what `load_state_dict` needs to go on with the row after the last one drawn."""
        return {"size": self.size, "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from `state`. Errors: `UserError` if it was taken over a dataset of another size."""
        if state["size"] != self.size:
            raise UserError(
                f"data.path: the saved run drew from {state['size']} rows, the dataset now has {self.size}: "
                "resume with the same data, or start a new run"
            )
        self._seek(state["epoch"], state["position"])

    def _seek(self, epoch: int, position: int) -> None:
        self.epoch, self.position = epoch, position
        self._rows = self._arrange(epoch)


def ladder(size: int, seed: int) -> Order:
    """Return the file's own order, which for a ladder is easy to hard; `seed` plays no part."""
    return Order(size, lambda epoch: range(size))


def random(size: int, seed: int) -> Order:
    """Return an order that shuffles every epoch anew, from `seed` (≥ 0) and the epoch's number."""
    return Order(size, lambda epoch: np.random.default_rng([seed, epoch]).permutation(size))
