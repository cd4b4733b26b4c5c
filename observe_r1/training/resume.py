"""A run's state in a checkpoint and back: weights and optimizer, position in the data, leftovers, random numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from observe_r1.policy.policy import Policy
from observe_r1.training.checkpoints import Checkpoints
from observe_r1.training.leftovers import dump_groups, load_groups
from observe_r1.training.prompts import Encode
from observe_r1.training.sampler import GroupSampler

_RANDOM, _RANDOM_CUDA = "random.cpu", "random.cuda"


class Resumable(Protocol):
    """What knows where a run stands: `PromptStream`, or a sampler with its leftovers."""

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands, as JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


class RunState:
    """What a resumed run needs so that its weights, rollouts and metrics are those of a run never stopped."""

    def __init__(self, checkpoints: Checkpoints, policy: Policy, position: Resumable, encode: Encode) -> None:
        self.checkpoints = checkpoints
        self.policy = policy
        self.position = position
        self.encode = encode

    def save(self, step: int, record: dict[str, Any], best: int | None) -> Path:
        """Write a checkpoint after `step` steps, with `record` as JSON values; see `Checkpoints.save`."""
        position = self.position.state_dict()
        tensors: dict[str, Tensor] = {}
        if isinstance(self.position, GroupSampler):
            position["leftovers"], tensors = dump_groups(position["leftovers"])
        tensors[_RANDOM] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors[_RANDOM_CUDA] = torch.cuda.get_rng_state()
        return self.checkpoints.save(step, self.policy, {"position": position, "record": record}, tensors, best)

    def restore(self, note: Callable[[str], None]) -> tuple[int, dict[str, Any]] | None:
        """Load the newest whole checkpoint and return its step and `record`; None where there is none."""
        loaded = self.checkpoints.load_newest(self.policy, note)
        if loaded is None:
            note(f"no checkpoint in {self.checkpoints.folder}: starting anew")
            return None
        state, tensors = loaded
        position = state["position"]
        if isinstance(self.position, GroupSampler):
            position["leftovers"] = load_groups(position["leftovers"], tensors, self.encode)
        self.position.load_state_dict(position)
        torch.set_rng_state(tensors[_RANDOM])
        if _RANDOM_CUDA in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors[_RANDOM_CUDA])
        return int(state["step"]), state["record"]
