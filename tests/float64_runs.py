"""Runs in float64, which shows what float32 hides: the sum of gradients over ranks rounds to 1e-16, and not to 1e-7."""

import observe_r1.model  # noqa: F401  # lets transformers be imported

# isort: split
from tiny import keep_float64

from observe_r1.cluster import rank_actor, ranks
from observe_r1.errors import UserError
from observe_r1.model import loading
from observe_r1.training import parts


class Patch:
    """The part of pytest's `monkeypatch` that `keep_float64` uses, in a process that ends with its rank."""

    setattr = staticmethod(setattr)


class Float64Rank(rank_actor.PolicyRank):
    """A rank that loads its model in float64."""

    def __init__(self, *arguments):
        keep_float64(Patch)
        rank_actor.load_model = load_in_float64
        super().__init__(*arguments)


class OneRefuses(Float64Rank):
    """In the second update one rank refuses its part while the other waits for it."""

    def update(self, batch):
        self.updates = getattr(self, "updates", 0) + 1
        if self.rank == 1 and self.updates == 2:
            raise UserError("not on this rank: lower it")
        return super().update(batch)


def load_in_float64(*arguments, **options):
    vlm = loading.load_model(*arguments, **options)
    vlm.model.double()
    return vlm


def compute_in_float64(monkeypatch):
    """Let policies compute in float64, in this process and on ranks; engines of their own sample in float32."""
    keep_float64(monkeypatch)
    monkeypatch.setattr(parts, "load_model", load_in_float64)
    monkeypatch.setattr(ranks, "PolicyRank", Float64Rank)
