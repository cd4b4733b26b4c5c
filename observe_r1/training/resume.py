"""A training run's state in a checkpoint and back: policy, sampler, random numbers."""

from collections.abc import Callable
from pathlib import Path

import torch

from observe_r1.policy.policy import Policy
from observe_r1.training.checkpoints import Checkpoints
from observe_r1.training.leftovers import dump_groups, load_groups
from observe_r1.training.prompts import Encode
from observe_r1.training.sampler import GroupSampler

_RANDOM, _RANDOM_CUDA = "random.cpu", "random.cuda"


class TrainingState:
    """What a resumed run needs so that its weights, rollouts and metrics are those of a run never stopped."""

    def __init__(self, checkpoints: Checkpoints, policy: Policy, sampler: GroupSampler, encode: Encode) -> None:
        self.checkpoints = checkpoints
        self.policy = policy
        self.sampler = sampler
        self.encode = encode

    def save(self, step: int) -> Path:
        """Write a checkpoint after `step` steps; see `Checkpoints.save`."""
        state = self.sampler.state_dict()
        rows, tensors = dump_groups(state["leftovers"])
        tensors[_RANDOM] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors[_RANDOM_CUDA] = torch.cuda.get_rng_state()
        return self.checkpoints.save(step, self.policy, {"sampler": state | {"leftovers": rows}}, tensors)

    def restore(self, note: Callable[[str], None]) -> int:
        """Load the newest whole checkpoint and return its step; 0 where there is none."""
        loaded = self.checkpoints.load_newest(self.policy, note)
        if loaded is None:
            return 0
        state, tensors = loaded
        leftovers = load_groups(state["sampler"]["leftovers"], tensors, self.encode)
        self.sampler.load_state_dict(state["sampler"] | {"leftovers": leftovers})
        torch.set_rng_state(tensors[_RANDOM])
        if _RANDOM_CUDA in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors[_RANDOM_CUDA])
        return int(state["step"])
