"""What policy and engine share: the policy's weights, which become the engine's, and the GPU's memory."""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import nn

from observe_r1.model.adapters import published_weights
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.policy.optimizers import moment_bytes
from observe_r1.policy.policy import Policy
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.rollout.engine import CopyingEngine, Engine, TrainingMemory


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
        self.engine.load_weights(published_weights(self.vlm.model))
        self.engine.version = version

    def rest(self) -> None:
        """Put the engine to sleep."""
        self.engine.sleep()


def weight_sync(engine: Engine, vlm: VisionLanguageModel) -> WeightSync:
    """Return what keeps `engine` up to date with `vlm`."""
    return CopiedWeights(engine, vlm) if isinstance(engine, CopyingEngine) else SharedWeights(engine)


def training_memory(policy: Policy, reference: LogprobModel | None) -> TrainingMemory:
    """Return the bytes that training takes on the policy's device, without activations.

    Args:
        policy: Before its first update.
        reference: The frozen starting model, where there is one; one that shares the policy's weights takes nothing.
    """
    vlm, device = policy.vlm, policy.vlm.device
    trained = [parameter for parameter in policy.parameters if parameter.device == device]
    held = {"weights": _bytes([vlm.model, policy.weights], device)}
    if reference is not None and reference.vlm is not vlm:
        held["reference"] = _bytes([reference.vlm.model], device)
    coming = {"moments": moment_bytes(policy.settings.kind, sum(p.numel() for p in trained))}
    if not any(parameter.requires_grad for parameter in vlm.model.model.visual.parameters()):
        coming["image features"] = vlm.features.limit
    update = {"gradients": sum(parameter.nbytes for parameter in trained)}
    if not trained:  # offloaded: each gradient leaves the device before the next one is made
        update["gradients"] = max(p.nbytes for p in vlm.model.parameters() if p.requires_grad)
    return TrainingMemory(held, coming, update)


def _bytes(modules: Iterable[nn.Module], device: torch.device) -> int:
    """Return the bytes of the parameters that are on `device`, shared ones once."""
    parameters = {id(parameter): parameter for module in modules for parameter in module.parameters()}
    return sum(parameter.nbytes for parameter in parameters.values() if parameter.device == device)
