"""The order in which a dataset's rows are drawn, epoch after epoch and without end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from observe_r1.config import DataSettings


class Order(Protocol):
    """A resumable stream of row indices."""

    def next(self) -> int:
        """Return the next row's index, in [0, size)."""
        ...

    def record(self, row: int, pass_rate: float) -> None:
        """Learn the share of correct responses, in [0, 1], to a row that was drawn before."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return the order's metrics, named `order/…`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return, as JSON values, what `load_state_dict` needs to continue after the last row drawn."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`, taken over the same rows (`same_rows.check_rows`)."""
        ...


class EpochOrder:
    """An `Order` in which every epoch visits each row once, whatever its pass rate.

    Args:
        size: Rows of the dataset, at least 1.
        arrange: Returns the order of an epoch's rows, given the epoch's number. The same number must always give the
            same order: then the position is all that a checkpoint has to hold.

    Raises:
        ValueError: `size` is below 1.
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
        """Ignore the pass rate: this order never changes."""

    def metrics(self) -> dict[str, float]:
        """Return no metrics."""
        return {}

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the position in it."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from `state`; see `Order.load_state_dict`."""
        self._seek(state["epoch"], state["position"])

    def _seek(self, epoch: int, position: int) -> None:
        self.epoch, self.position = epoch, position
        self._rows = self._arrange(epoch)


def ladder(settings: DataSettings, size: int, seed: int) -> EpochOrder:
    """Return the file's own order, which for a ladder is easy to hard; only `size` matters."""
    return EpochOrder(size, lambda epoch: range(size))


def random(settings: DataSettings, size: int, seed: int) -> EpochOrder:
    """Return an order that shuffles the rows again in every epoch, from `seed` (≥ 0) and the epoch's number."""
    return EpochOrder(size, lambda epoch: np.random.default_rng([seed, epoch]).permutation(size))


def adaptive(settings: DataSettings, size: int, seed: int) -> AdaptiveOrder:
    """Return the order by pass rates, with `data.adaptive_floor`."""
    return AdaptiveOrder(size, seed, settings.adaptive_floor)


class CumulativeWeights:
    """Non-negative weights, all 0 at first, and which of them a point in their cumulative sum falls on.

    `find` is `searchsorted` on the cumulative sum, first of blocks of weights and then within one block, so that a
    changed weight costs one block and not all rows. Both sums are taken from left to right over the weights as they
    are now: they do not depend on earlier changes, and weights restored from a checkpoint give the same draws.

    Args:
        size: Number of weights, at least 1.
    """

    BLOCK = 1_024
    """Weights in a block: about as many as there are blocks with a million rows."""

    def __init__(self, size: int) -> None:
        self._blocks = np.zeros((-(-size // self.BLOCK), self.BLOCK))
        self._sums = np.zeros(len(self._blocks))

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._sums.cumsum()[-1])

    def __setitem__(self, index: int, weight: float) -> None:
        block, place = divmod(index, self.BLOCK)
        self._blocks[block, place] = weight
        self._sums[block] = self._blocks[block].cumsum()[-1]

    def fill(self, weights: np.ndarray) -> None:
        """Set the first weights to `weights`, the others to 0."""
        self._blocks[:] = 0.0
        self._blocks.reshape(-1)[: len(weights)] = weights
        self._sums = self._blocks.cumsum(axis=1)[:, -1]

    def find(self, point: float) -> int:
        """Return the first index whose weight and those before it sum to more than `point`, 0 ≤ `point` < `total`.

        A point that rounding has carried to the total or beyond counts as the largest number below it, so that the
        weight found is never 0 while another is not.
        """
        block, rest = _locate(self._sums.cumsum(), point)
        place, _ = _locate(self._blocks[block].cumsum(), rest)
        return block * self.BLOCK + place


def _locate(sums: np.ndarray, point: float) -> tuple[int, float]:
    """Return the first index where the cumulative `sums` exceed `point`, and how far into its weight `point` is."""
    point = min(point, math.nextafter(sums[-1], 0.0))
    index = int(np.searchsorted(sums, point, side="right"))
    return index, point - float(sums[index - 1]) if index else point


NEWEST = 0.5
"""Share of the newest pass rate in the running mean: a row's last two or three visits count. The policy has changed
since earlier ones, and yet one lucky group does not decide alone."""
NEAR_HALF = (0.25, 0.75)
"""Pass rates that `order/near_half` counts: those with at least three quarters of the greatest preference."""


class AdaptiveOrder:
    """An `Order` that prefers questions which the model answers correctly about half of the time.

    A group's dynamic weight is 4σp(1−p) with p its pass rate (arXiv 2505.12432): largest at one half, 0 if all
    responses are correct or all wrong. This order spends its draws by the same curve. A row is drawn with probability
    proportional to

        floor + (1 − floor) · 4p(1−p)

    where p is a running mean of the row's pass rates. A row that was never drawn has preference 1. Such rows come in
    the file's order, so that a first pass over a ladder climbs it, and so that they need no entry each.

    A row that was drawn is not drawn again until its pass rate is recorded, unless all rows are waiting for theirs. A
    row that never gets one (its prompt is too long) is thus left alone. The draws repeat only if `record` is called in
    the same order.

    Args:
        size: Rows of the dataset, at least 1.
        seed: Seeds the draws (≥ 0). Each depends on the seed, its number, and the pass rates recorded before it.
        floor: Preference for a row that is always or never answered correctly, in (0, 1].
    """

    def __init__(self, size: int, seed: int, floor: float) -> None:
        self.size = size
        self.seed = seed
        self.floor = floor
        self._draws = 0
        self._seen = 0  # rows below this were drawn at least once
        self._rates = np.full(size, np.nan)
        self._waiting: dict[int, None] = {}  # a set that keeps the order of its elements
        self._weights = CumulativeWeights(size)

    def next(self) -> int:
        """Return the next row's index, in [0, size)."""
        if len(self._waiting) == self.size:
            self._waiting = {}
            self._fill_weights()
        unseen = self.size - self._seen
        point = np.random.default_rng([self.seed, self._draws]).random() * (unseen + self._weights.total)
        if point < unseen:
            row = self._seen
            self._seen += 1
        else:
            row = self._weights.find(point - unseen)
            self._weights[row] = 0.0
        self._draws += 1
        self._waiting[row] = None
        return row

    def record(self, row: int, pass_rate: float) -> None:
        """Take a pass rate of `row`, which may then be drawn again."""
        old = self._rates[row]
        self._rates[row] = pass_rate if np.isnan(old) else old + NEWEST * (pass_rate - old)
        self._waiting.pop(row, None)
        self._weights[row] = float(self._preferences(self._rates[row]))

    def metrics(self) -> dict[str, float]:
        """Return the number of rows with a pass rate, their mean pass rate, and the share of them near one half."""
        rates = self._rates[: self._seen]
        rates = rates[~np.isnan(rates)]
        if not len(rates):
            return {"order/seen": 0.0}
        low, high = NEAR_HALF
        return {
            "order/seen": float(len(rates)),
            "order/pass_rate": float(rates.mean()),
            "order/near_half": float(((rates >= low) & (rates <= high)).mean()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the number of draws, the rows waiting, and the pass rate of each row drawn so far (or None)."""
        rates = [None if math.isnan(rate) else rate for rate in self._rates[: self._seen].tolist()]
        return {"draws": self._draws, "waiting": list(self._waiting), "rates": rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; see `Order.load_state_dict`."""
        self._draws, self._seen = state["draws"], len(state["rates"])
        self._rates = np.full(self.size, np.nan)
        self._rates[: self._seen] = [np.nan if rate is None else rate for rate in state["rates"]]
        self._waiting = dict.fromkeys(state["waiting"])
        self._fill_weights()

    def _preferences(self, rates: Any) -> Any:
        """Return the preference for each of `rates`, an array or a number."""
        return np.where(np.isnan(rates), 1.0, self.floor + (1 - self.floor) * 4 * rates * (1 - rates))

    def _fill_weights(self) -> None:
        """Give every row drawn before its preference, and those that wait for a pass rate none."""
        preferences = self._preferences(self._rates[: self._seen])
        preferences[list(self._waiting)] = 0.0
        self._weights.fill(preferences)
