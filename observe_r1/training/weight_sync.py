"""What policy and engine share: the policy's weights, which become the engine's, and the GPU's memory."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from observe_r1.model.adapters import published_weights
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.policy.optimizers import moment_bytes
from observe_r1.policy.policy import Policy
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.rollout.engine import CopyingEngine, Engine, TrainingMemory


class WeightSync(Protocol):
    """Carries weights from policy to engines, without the whole model passing through the loop."""

    def publish(self, version: int) -> None:
        """Make the engines sample with the policy's current weights and bear `version`.

        Responses in flight, where sampling goes on beside training, are kept: the weights change between two tokens.
        """
        ...

    def rest(self) -> None:
        """Let engines that share the policy's memory free it for the update: they sample nothing before `publish`."""
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
    """Return the bytes that training takes on the policy's device, without activations; of a shard, its own.

    Args:
        policy: Its optimizer has moments after its first update.
        reference: The frozen starting model, if there is one; one that shares the policy's weights takes nothing.
    """
    vlm, device = policy.vlm, policy.vlm.device
    trained = [parameter for parameter in policy.parameters if parameter.device == device]
    held = {"weights": _bytes(vlm.model, device)}
    if policy.masters is not None:
        held["masters"] = _bytes(policy.masters, device)
    if reference is not None and reference.vlm is not vlm:
        held["reference"] = _bytes(reference.vlm.model, device)
    coming = {"moments": moment_bytes(policy.settings.kind, sum(own_part(p).numel() for p in trained))}
    if policy.optimizer.state:
        held["moments"] = coming.pop("moments")
    if not any(parameter.requires_grad for parameter in vlm.model.model.visual.parameters()):
        coming["image features"] = vlm.features.limit
    gradients = sum(own_part(parameter).nbytes for parameter in trained)
    if not trained and policy.masters is not None:
        # Offloaded: beside the one being made, four wait to be copied (`master_weights`).
        gradients = sum(sorted(p.nbytes for p in vlm.model.parameters() if p.requires_grad)[-5:])
    return TrainingMemory(held, coming, {"gradients": gradients})


def _bytes(module: nn.Module, device: torch.device) -> int:
    """Return the bytes of the parameters that are on `device`."""
    return sum(own_part(parameter).nbytes for parameter in module.parameters() if parameter.device == device)


def own_part(weight: Tensor) -> Tensor:
    """Return what this process holds of a weight that may be sharded."""
    return weight.to_local() if isinstance(weight, DTensor) else weight
