"""What is maximised: bonus, weights, advantages (`advantages`), KL and losses (`loss`).

Pure tensor maths; no I/O, no model. N counts groups (prompts), G the responses of a group, R responses of any group,
T response tokens laid end to end. docs/method.md names the function behind each equation of each paper.
"""

from observe_r1.objective.advantages import (
    dr_grpo,
    dynamic_weight,
    group_advantages,
    group_norm,
    kl_to_go,
    rloo,
    scored_advantages,
    shortest_correct_bonus,
    token_advantages,
    whiten,
)
from observe_r1.objective.loss import (
    constant_length,
    k1,
    k2,
    k3,
    policy_loss,
    policy_loss_terms,
    sequence_mean,
    token_mean,
    truncated_importance_weight,
)

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
    "policy_loss",
    "policy_loss_terms",
    "rloo",
    "scored_advantages",
    "sequence_mean",
    "shortest_correct_bonus",
    "token_advantages",
    "token_mean",
    "truncated_importance_weight",
    "whiten",
]
