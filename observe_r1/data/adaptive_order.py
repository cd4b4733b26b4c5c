"""An order that prefers questions which the model gets right about half of the time.

A group's dynamic weight is 4σp(1−p) with p its pass rate (arXiv 2505.12432): largest at one half, 0 where all responses
are right or all wrong. This order spends its draws by the same curve. A row is drawn with probability proportional to

    floor + (1 − floor) · 4p(1−p)

with p a running mean of the pass rates that it got, and 1 while it has none. Rows not yet seen come in the file's order
among themselves, so that a first pass over a ladder climbs it, and so that they need no entry each.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from observe_r1.config import DataSettings
from observe_r1.data.order import check_size
from observe_r1.data.sum_tree import SumTree

NEWEST = 0.5
"""Share of the newest pass rate in the running mean: a row's last two or three visits count, since the policy has
changed since those before, and yet one lucky group is not all that is known of it."""
NEAR_HALF = (0.25, 0.75)
"""Pass rates that `order/near_half` counts: those of at least three quarters of the greatest preference."""


class AdaptiveOrder:
    """An `Order` by pass rates; `record` must be called in the same order for the same draws.

    A row that was drawn is not drawn again until its pass rate is recorded; where all are waiting for theirs, all may
    be. A row that never gets one (its prompt is too long) is thus left alone.

    Args:
        size: Rows of the dataset, at least 1.
        seed: Seeds the draws (≥ 0); each depends on the seed, its number, and what was recorded before it.
        floor: Preference for a row that is always or never right, in (0, 1].
    """

    def __init__(self, size: int, seed: int, floor: float) -> None:
        self.size = size
        self.seed = seed
        self.floor = floor
        self._draws = 0
        self._seen = 0  # rows below this were drawn at least once
        self._rates = np.full(size, np.nan)
        self._waiting: dict[int, None] = {}  # a set that keeps the order of its elements
        self._tree = SumTree(size)

    def next(self) -> int:
        """Return the next row's index, in [0, size)."""
        if len(self._waiting) == self.size:
            self._waiting = {}
            self._fill_tree()
        unseen = self.size - self._seen
        point = np.random.default_rng([self.seed, self._draws]).random() * (unseen + self._tree.total)
        if point < unseen:
            row = self._seen
            self._seen += 1
        else:
            row = self._tree.find(point - unseen)
            self._tree[row] = 0.0
        self._draws += 1
        self._waiting[row] = None
        return row

    def record(self, row: int, pass_rate: float) -> None:
        """Take in a pass rate of `row`, which may then be drawn again."""
        old = self._rates[row]
        self._rates[row] = pass_rate if np.isnan(old) else old + NEWEST * (pass_rate - old)
        self._waiting.pop(row, None)
        self._tree[row] = float(self._preferences(self._rates[row]))

    def metrics(self) -> dict[str, float]:
        """Return rows with a pass rate, the mean of their running means, and the share of them near one half."""
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
        """Return draws, rows waiting, and the running mean of each row drawn so far, None where it has none."""
        rates = [None if math.isnan(rate) else rate for rate in self._rates[: self._seen].tolist()]
        return {"size": self.size, "draws": self._draws, "waiting": list(self._waiting), "rates": rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; see `Order.load_state_dict`."""
        check_size(state["size"], self.size)
        self._draws, self._seen = state["draws"], len(state["rates"])
        self._rates = np.full(self.size, np.nan)
        self._rates[: self._seen] = [np.nan if rate is None else rate for rate in state["rates"]]
        self._waiting = dict.fromkeys(state["waiting"])
        self._fill_tree()

    def _preferences(self, rates: Any) -> Any:
        """Return the preference for each of `rates`, an array or a number."""
        return np.where(np.isnan(rates), 1.0, self.floor + (1 - self.floor) * 4 * rates * (1 - rates))

    def _fill_tree(self) -> None:
        """Give every row drawn before its preference, and those waiting none."""
        preferences = self._preferences(self._rates[: self._seen])
        preferences[list(self._waiting)] = 0.0
        self._tree.fill(preferences)


def adaptive(settings: DataSettings, size: int, seed: int) -> AdaptiveOrder:
    """Return the order by pass rates, with `data.adaptive_floor`."""
    return AdaptiveOrder(size, seed, settings.adaptive_floor)
