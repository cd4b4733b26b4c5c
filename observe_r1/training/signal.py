"""From scored groups to advantages: bonus, dynamic weight, estimator."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from observe_r1.config import ObjectiveSettings
from observe_r1.objective import dynamic_weight, group_advantages, shortest_correct_bonus
from observe_r1.records import Group


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """What N groups of G responses teach."""

    bonus: Tensor
    """(N, G), part of the reward."""
    weight: Tensor
    """(N,), dynamic weight; ones without it."""
    advantages: Tensor
    """(N, G), weight included."""

    @property
    def informative(self) -> Tensor:
        """(N,) bool: groups that teach something."""
        return self.advantages.any(dim=1)


def signal_of(groups: Sequence[Group], objective: ObjectiveSettings) -> Signal:
    """Add the bonus, weigh by uncertainty and normalise, group by group; at least one group, all of the same G."""
    correct = torch.stack([group.correct for group in groups])
    lengths = torch.tensor([group.lengths for group in groups])
    bonus = shortest_correct_bonus(correct, lengths, bonus=objective.bonus, min_length=objective.bonus_min_length)
    weight = torch.ones(len(groups))
    if objective.dynamic_weight:
        weight = dynamic_weight(correct.float().mean(dim=1), objective.sigma)
    rewards = torch.stack([group.rewards for group in groups]) + bonus
    return Signal(bonus, weight, group_advantages(rewards, objective.estimator, weight))
