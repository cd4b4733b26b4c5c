"""A rollout's groups as training batches, one for each optimizer step.

rollout   128 groups × 8 responses                     `rollout.prompts` × `rollout.group_size`
batch       8 groups ×  8 responses, 16 of them        `optimizer.minibatch` groups each; a smaller rollout's last one
                                                       may have fewer, and its loss counts that much less
pack      as many groups as fit `optimizer.tokens_per_pack` tokens; gradients of a batch's packs add up
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from observe_r1 import registry
from observe_r1.config import ObjectiveSettings, TrainSettings
from observe_r1.objective import sequence_mean, token_advantages, truncated_importance_weight, whiten
from observe_r1.policy.schedule import learning_rate
from observe_r1.policy.scoring import GroupScorer
from observe_r1.records import Group, TrainingBatch
from observe_r1.training.signal import signal_of


class Batcher:
    """Makes the training batches of a rollout; scores it first where the objective needs log-probabilities.

    Args:
        settings: of the run.
        policy: whose own log-probabilities `objective.old_logprobs: policy` takes.
        reference: the frozen starting model, where `objective.kl_coef` is not 0.
    """

    def __init__(self, settings: TrainSettings, policy: GroupScorer, reference: GroupScorer | None) -> None:
        self.settings = settings
        self.policy = policy
        self.reference = reference
        self.metrics: dict[str, float] = {}
        """Of the last rollout: its mean KL from the reference, a token, where there is one."""

    def batches(self, groups: Sequence[Group], progress: Sequence[float]) -> list[TrainingBatch]:
        """Return one batch an optimizer step, of whole groups in their order; none for no groups.

        Args:
            groups: of the rollout.
            progress: the run's progress in [0, 1] before and after this rollout; optimizer steps divide it evenly.
        """
        self.metrics = {}
        if not groups:
            return []
        objective = self.settings.objective
        sampled = tuple(torch.cat([c.logprobs for c in group.completions]) for group in groups)
        old, importance = sampled, None
        if objective.old_logprobs == "policy":
            old = self.policy.logprobs(groups)
            if objective.importance_cap is not None:
                cap = objective.importance_cap
                importance = [truncated_importance_weight(p, s, cap) for p, s in zip(old, sampled, strict=True)]
        reference = self.reference.logprobs(groups) if self.reference else None
        kl = self._kl(old, reference) if reference else None
        advantages = self._token_advantages(groups, kl)

        size = self.settings.optimizer.minibatch
        starts = range(0, len(groups), size)
        before, after = progress
        result = []
        for number, start in enumerate(starts, 1):
            part = slice(start, start + size)
            weights, kl_weights = self._token_weights(groups[part])
            if importance is not None:
                weights = [w * i for w, i in zip(weights, importance[part], strict=True)]
            in_loss = reference is not None and objective.kl_in == "loss"
            rate = learning_rate(self.settings.optimizer, before + (after - before) * number / len(starts))
            result.append(
                TrainingBatch(
                    groups=tuple(groups[part]),
                    advantages=tuple(advantages[part]),
                    loss_weights=tuple(weights),
                    learning_rate=rate,
                    old_logprobs=tuple(old[part]),
                    reference_logprobs=tuple(reference[part]) if reference and in_loss else None,
                    kl_weights=tuple(kl_weights) if in_loss else None,
                )
            )
        return result

    def _kl(self, old: Sequence[Tensor], reference: Sequence[Tensor]) -> list[Tensor]:
        """Estimate the KL from the reference at every sampled token, (T,) a group."""
        estimate = registry.load("kl estimator", self.settings.objective.kl_estimator)
        kl = [estimate(o, r) for o, r in zip(old, reference, strict=True)]
        self.metrics = {"policy/reference_kl": float(torch.cat(kl).mean())}
        return kl

    def _token_advantages(self, groups: Sequence[Group], kl: Sequence[Tensor] | None) -> list[Tensor]:
        """Spread advantages over tokens, (T,) a group; with `kl_in: reward`, less the KL still to come."""
        objective = self.settings.objective
        advantages = signal_of(groups, objective).advantages
        if objective.whiten:
            advantages = whiten(advantages, torch.tensor([group.lengths for group in groups]))
        if kl is None or objective.kl_in == "loss":
            return [token_advantages(a, g.lengths) for a, g in zip(advantages, groups, strict=True)]
        return [
            token_advantages(a, g.lengths, k, objective.kl_coef) for a, g, k in zip(advantages, groups, kl, strict=True)
        ]

    def _token_weights(self, groups: Sequence[Group]) -> tuple[list[Tensor], list[Tensor]]:
        """Return each token's share in the batch's loss and in its KL term, (T,) a group.

        Where the groups are fewer than `optimizer.minibatch` their shares add up to less than 1: a group moves the
        weights no more than one of a whole batch does.
        """
        objective = self.settings.objective
        lengths = torch.tensor([n for group in groups for n in group.lengths])
        keep = kept_responses(groups, objective)
        aggregate = registry.load("aggregation", objective.aggregation)
        shares = aggregate(lengths, self.settings.rollout.max_new_tokens, keep)
        kl_shares = objective.kl_coef * sequence_mean(lengths, self.settings.rollout.max_new_tokens, keep)
        sizes = [sum(group.lengths) for group in groups]
        filled = len(groups) / self.settings.optimizer.minibatch
        weights, kl_weights = (
            list((filled * share).float().repeat_interleave(lengths).split(sizes)) for share in (shares, kl_shares)
        )
        return weights, kl_weights


def kept_responses(groups: Sequence[Group], objective: ObjectiveSettings) -> Tensor | None:
    """Return which responses count in the loss, (ΣG,) bool; None for all of them."""
    if not objective.mask_truncated:
        return None
    return torch.tensor([c.finish != "length" for group in groups for c in group.completions])
