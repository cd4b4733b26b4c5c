"""NeuraLadder: from raw visual questions to a dataset ordered from easy to hard."""

from observe_r1.ladder.mix import mix

__all__ = ["mix"]
