"""From the policy's weights to the engines'."""

from typing import Protocol

from observe_r1.rollout.engine import Engine


class WeightSync(Protocol):
    """Carries weights from policy to engines, without the whole model passing through the loop."""

    def publish(self, version: int) -> None:
        """Make the engines sample with the policy's current weights and bear `version`."""
        ...


class SharedWeights:
    """Policy and engine hold the same module: there is nothing to copy, only the version changes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def publish(self, version: int) -> None:
        """Number the weights that the engine already has."""
        self.engine.version = version
