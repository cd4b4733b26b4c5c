"""From the policy's weights to the engines'."""

from typing import Protocol

from observe_r1.model.adapters import plain_weights
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.rollout.engine import CopyingEngine, Engine


class WeightSync(Protocol):
    """Carries weights from policy to engines, without the whole model passing through the loop."""

    def publish(self, version: int) -> None:
        """Make the engines sample with the policy's current weights and bear `version`."""
        ...

    def rest(self) -> None:
        """Let the engines free memory for the update: nothing is sampled before the next `publish`."""
        ...


class SharedWeights:
    """Policy and engine hold the same module: there is nothing to copy, only the version changes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def publish(self, version: int) -> None:
        """Number the weights that the engine already has."""
        self.engine.version = version

    def rest(self) -> None:
        """Do nothing: between two calls the engine holds no memory of its own."""


class CopiedWeights:
    """The engine samples with a copy of the policy's weights, adapters merged."""

    def __init__(self, engine: CopyingEngine, vlm: VisionLanguageModel) -> None:
        self.engine = engine
        self.vlm = vlm

    def publish(self, version: int) -> None:
        """Copy the weights; see `WeightSync`."""
        self.engine.load_weights(plain_weights(self.vlm.model, self.vlm.masters))
        self.engine.version = version

    def rest(self) -> None:
        """Put the engine to sleep."""
        self.engine.sleep()


def weight_sync(engine: Engine, vlm: VisionLanguageModel) -> WeightSync:
    """Return what keeps `engine` up to date with `vlm`."""
    return CopiedWeights(engine, vlm) if isinstance(engine, CopyingEngine) else SharedWeights(engine)
