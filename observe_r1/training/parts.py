"""What a run trains and samples with, in this process; `cluster.start` starts the same parts on many GPUs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from observe_r1.config import DataSettings, TrainSettings
from observe_r1.model.device import compute_dtype
from observe_r1.model.loading import load_model
from observe_r1.model.shared_prefix import compile_ahead
from observe_r1.policy.policy import Policy
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.registry import load
from observe_r1.rollout.engine import Engine
from observe_r1.training.loop import Learner, Logprobs
from observe_r1.training.weight_sync import WeightSync, training_memory, weight_sync


class Writing(Protocol):
    """What is on its way to the disk."""

    def done(self) -> bool:
        """Whether all is written; raises what keeps it from being written."""
        ...


class SavedPolicy(Protocol):
    """What is saved of a policy, local or sharded."""

    def save_state(self, folder: Path, *, copy: bool) -> Writing:
        """Begin to write trained weights and optimizer state, or with `copy` what they are now."""
        ...

    def load_state(self, folder: Path) -> None:
        """Read them back."""
        ...

    def export(self, folder: Path, data: DataSettings) -> None:
        """Write the model as an ordinary checkpoint."""
        ...


class TrainedPolicy(Learner, Logprobs, SavedPolicy, Protocol):
    """What a run needs of its policy."""


@dataclass(frozen=True)
class Parts:
    """What a run trains and samples with."""

    policy: TrainedPolicy
    reference: Logprobs | None
    """The frozen starting model, if a KL term needs one."""
    engine: Engine
    sync: WeightSync
    processor: Any
    device: str
    """`cpu` or `cuda`."""
    line: str
    """Where the model computes and in which type, in words."""


def start_here(
    settings: TrainSettings, now: Callable[[str], None], note: Callable[[str], None], line: Callable[..., str]
) -> Parts:
    """Load the policy and start the engine in this process.

    Args:
        settings: Of the run.
        now: Told what is being done.
        note: Told in one line how the GPU's memory is shared out.
        line: Says where a device computes, of device and type.

    Raises:
        UserError: The model cannot be loaded, or the engine cannot start.
    """
    now("loading the model")
    policy, reference = load_policy(settings)
    vlm = policy.vlm
    compile_ahead(vlm.model, settings.optimizer.tokens_per_pack, policy.dtype, vlm.device, now)
    now("starting the sampler")
    start = load("engine", settings.rollout.engine).from_settings
    memory = training_memory(policy, reference)
    engine = start(vlm, settings.rollout, settings.data, policy.dtype, memory, note)
    where = line(vlm.device, settings.model.dtype)
    return Parts(policy, reference, engine, weight_sync(engine, vlm), vlm.processor, vlm.device.type, where)


def load_policy(settings: TrainSettings) -> tuple[Policy, LogprobModel | None]:
    """Load the policy and, if a KL term needs one, the reference: the starting model, or under LoRA its base."""
    temperature, dtype = settings.rollout.temperature, compute_dtype(settings.model)
    vlm = load_model(settings.model)
    policy = Policy(vlm, settings.optimizer, settings.objective, temperature=temperature, dtype=dtype)
    if settings.objective.kl_coef == 0:
        return policy, None
    base = vlm if settings.model.lora_rank else load_model(settings.model, frozen=True)
    reference = LogprobModel(base, settings.optimizer, temperature=temperature, adapters=False)
    return policy, reference
