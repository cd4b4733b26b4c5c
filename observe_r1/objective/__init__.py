"""What is maximised: bonus, weights, advantages, KL and losses. Pure tensor maths; no I/O, no model.

N counts groups (prompts), G the responses of a group, T the response tokens laid end to end.
"""

from observe_r1.objective.advantages import dr_grpo, group_advantages, group_norm, rloo, whiten
from observe_r1.objective.aggregation import constant_length, sequence_mean, token_mean
from observe_r1.objective.bonus import shortest_correct_bonus
from observe_r1.objective.kl import k1, k2, k3, kl_to_go, token_advantages
from observe_r1.objective.loss import policy_loss_terms, truncated_importance_weight
from observe_r1.objective.weight import dynamic_weight

__all__ = [
    "constant_length",
    "dr_grpo",
    "dynamic_weight",
    "group_advantages",
    "group_norm",
    "k1",
    "k2",
    "k3",
    "kl_to_go",
    "policy_loss_terms",
    "rloo",
    "sequence_mean",
    "shortest_correct_bonus",
    "token_advantages",
    "token_mean",
    "truncated_importance_weight",
    "whiten",
]
