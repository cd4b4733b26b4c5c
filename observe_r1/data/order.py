"""The order in which a dataset's rows are drawn, epoch after epoch and without end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from observe_r1.config import DataSettings
from observe_r1.errors import UserError


class Order(Protocol):
    """A resumable stream of row indices."""

    def next(self) -> int:
        """Return the next row's index, in [0, size)."""
        ...

    def record(self, row: int, pass_rate: float) -> None:
        """Learn the share of right responses, in [0, 1], that a row drawn earlier has got."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return what is worth watching, named `order/…`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return, as JSON values, what `load_state_dict` needs to go on with the row after the last one drawn."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`. Errors: `UserError` if it was taken over a dataset of another size."""
        ...


class EpochOrder:
    """An `Order` in which every epoch visits each row once, whatever its pass rate.

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

    def record(self, row: int, pass_rate: float) -> None:
        """Nothing is learned: the order stays as it is."""

    def metrics(self) -> dict[str, float]:
        """Return no metrics."""
        return {}

    def state_dict(self) -> dict[str, int]:
        """Return the position."""
        return {"size": self.size, "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from `state`; see `Order.load_state_dict`."""
        check_size(state["size"], self.size)
        self._seek(state["epoch"], state["position"])

    def _seek(self, epoch: int, position: int) -> None:
        self.epoch, self.position = epoch, position
        self._rows = self._arrange(epoch)


def check_size(saved: int, size: int) -> None:
    """Raise `UserError` where an order's state was taken over a dataset of another size."""
    if saved != size:
        raise UserError(
            f"data.path: the saved run drew from {saved} rows, the dataset now has {size}: "
            "resume with the same data, or start a new run"
        )


def ladder(settings: DataSettings, size: int, seed: int) -> EpochOrder:
    """Return the file's own order, which for a ladder is easy to hard; only `size` plays a part."""
    return EpochOrder(size, lambda epoch: range(size))


def random(settings: DataSettings, size: int, seed: int) -> EpochOrder:
    """Return an order that shuffles every epoch anew, from `seed` (≥ 0) and the epoch's number."""
    return EpochOrder(size, lambda epoch: np.random.default_rng([seed, epoch]).permutation(size))
