"""The loop: sample, score, weigh, batch, update, publish. What each line of a step does, and where its equations are:

    groups = sampler.next_groups()      `training.sampler`: rollout, rewards, dynamic sampling; with `rollout.ahead`
                                        while earlier steps train (`training.ahead`). Scored groups get their
                                        advantages from `objective.scored_advantages` (`shortest_correct_bonus`,
                                        `dynamic_weight`, and an estimator: `group_norm`, `dr_grpo`, `rloo`)
    sync.rest()                         `training.weight_sync`: an engine on the policy's GPU frees its memory
    batches = batcher.batches(groups)   below: `whiten`, `token_advantages` with its KL (`k1`, `k2`, `k3`), shares of
                                        the loss (`token_mean`, `sequence_mean`, `constant_length`) times
                                        `truncated_importance_weight`
    policy.update(batch)                `policy.policy`: an optimizer step on `objective.policy_loss`, the sum of
                                        `policy_loss_terms` and a KL
    sync.publish(step)                  `training.weight_sync`: the new weights go to the sampler

docs/method.md has these functions beside their equations and papers.

A rollout is split like this:

    rollout   128 groups × 8 responses                     `rollout.prompts` × `rollout.group_size`
    batch       8 groups × 8 responses, 16 of them         `optimizer.minibatch` groups each; a smaller rollout's last
                                                           one may have fewer, and its loss counts that much less
    pack      as many groups as fit `optimizer.tokens_per_pack` tokens; gradients of a batch's packs add up
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from observe_r1 import registry
from observe_r1.config import RunSettings, TrainSettings
from observe_r1.errors import UserError
from observe_r1.objective import sequence_mean, token_advantages, truncated_importance_weight, whiten
from observe_r1.policy.optimizers import learning_rate
from observe_r1.records import Group, TrainingBatch, TrainingGroup
from observe_r1.training.prompts import PromptSource
from observe_r1.training.sampler import Now, counted
from observe_r1.training.weight_sync import WeightSync


def train(
    policy: Learner,
    sampler: GroupSource,
    batcher: Batcher,
    sync: WeightSync,
    length: RunLength,
    monitor: Monitor,
) -> None:
    """Train until the run has reached its length, or `monitor` stops it.

    Args:
        policy: The model to train.
        sampler: Gives the groups of each step.
        batcher: Makes training batches of them.
        sync: Hands the new weights to the sampler's engine.
        length: When the run is over.
        monitor: Is told of every step, and gets the rollouts of a step that fails: they show why.

    Raises:
        UserError: A step failed for a reason that the user can correct.
    """
    now = monitor.now
    while not monitor.stopped() and not length.reached(monitor.step, sampler):
        started = time.perf_counter()
        step, before = monitor.step + 1, length.progress(monitor.step, sampler)
        try:
            groups = sampler.next_groups()
        except UserError:
            if sampler.sampled:
                monitor.write_rollouts(step, sampler.sampled)
            raise
        sync.rest()
        after = length.progress(step, sampler)
        now("preparing the update")
        update_began = time.perf_counter()
        batches = batcher.batches(groups, (before, after))
        updates = [policy.update(batch) for batch in counted(now, "updating", batches)]
        del groups, batches  # a rollout's pixels can take gigabytes, and the next one is about to be sampled
        update_seconds = time.perf_counter() - update_began
        now("handing over the new weights")
        sync.publish(step)
        monitor.write_rollouts(step, sampler.sampled)
        metrics = sampler.metrics | batcher.metrics | update_metrics(updates, update_seconds)
        metrics |= {"progress": after, "time/step": time.perf_counter() - started}
        monitor.step_done(step, metrics, last=length.reached(step, sampler))


class Batcher:
    """Makes the training batches of a rollout, with the log-probabilities that the objective needs.

    Args:
        settings: Of the run.
        policy: Gives the old log-probabilities under `objective.old_logprobs: policy`.
        reference: The frozen starting model, if `objective.kl_coef` is not 0.
    """

    def __init__(self, settings: TrainSettings, policy: Logprobs, reference: Logprobs | None) -> None:
        self.settings = settings
        self.policy = policy
        self.reference = reference
        self.metrics: dict[str, float] = {}
        """Of the last rollout: its mean KL per token from the reference, and its importance weights, if it has them."""

    def batches(self, groups: Sequence[Group], progress: Sequence[float]) -> list[TrainingBatch]:
        """Return one batch per optimizer step, of whole groups in their order; none for no groups.

        Args:
            groups: Of the rollout.
            progress: The run's progress in [0, 1] before and after this rollout; its optimizer steps divide it evenly.
        """
        self.metrics = {}
        if not groups:
            return []
        objective, size = self.settings.objective, self.settings.optimizer.minibatch
        # μ, the sampler's log-probabilities, enters the loss as π_old in the ratio, or in the importance weight.
        sampler_logprobs = [torch.cat([c.logprobs for c in group.completions]) for group in groups]
        from_policy = objective.old_logprobs == "policy"
        old_logprobs = self.policy.logprobs(groups) if from_policy else sampler_logprobs
        reference_logprobs = self.reference.logprobs(groups) if self.reference else None
        advantages = self._token_advantages(groups, old_logprobs, reference_logprobs)
        importance = self._importance_weights(old_logprobs, sampler_logprobs)
        starts = range(0, len(groups), size)
        shares = [share for start in starts for share in self._shares(groups[start : start + size])]
        in_loss = reference_logprobs if objective.kl_in == "loss" else None
        training = [
            TrainingGroup(
                group=groups[i],
                token_advantages=advantages[i],
                loss_weights=share * importance[i],
                sampler_logprobs=sampler_logprobs[i],
                old_logprobs=old_logprobs[i],
                reference_logprobs=in_loss[i] if in_loss else None,
                kl_weights=kl_share if in_loss else None,
            )
            for i, (share, kl_share) in enumerate(shares)
        ]
        before, after = progress
        rates = [before + (after - before) * number / len(starts) for number in range(1, len(starts) + 1)]
        return [
            TrainingBatch(tuple(training[start : start + size]), learning_rate(self.settings.optimizer, rate))
            for start, rate in zip(starts, rates, strict=True)
        ]

    def _token_advantages(
        self, groups: Sequence[Group], old_logprobs: Sequence[Tensor], reference_logprobs: Sequence[Tensor] | None
    ) -> list[Tensor]:
        """Return advantages by token, (T,) per group: whitened, and minus the KL under `objective.kl_in: reward`."""
        objective = self.settings.objective
        advantages = torch.stack([group.advantages for group in groups])
        if objective.whiten:
            advantages = whiten(advantages, torch.tensor([group.lengths for group in groups]))
        in_reward: Sequence[Tensor | None] = [None] * len(groups)
        if reference_logprobs is not None:
            estimate = registry.load("kl estimator", objective.kl_estimator)
            kl = [estimate(old, reference) for old, reference in zip(old_logprobs, reference_logprobs, strict=True)]
            self.metrics["policy/reference_kl"] = float(torch.cat(kl).mean())
            in_reward = kl if objective.kl_in == "reward" else in_reward
        return [
            token_advantages(each, group.lengths, kl, objective.kl_coef)
            for each, group, kl in zip(advantages, groups, in_reward, strict=True)
        ]

    def _importance_weights(
        self, old_logprobs: Sequence[Tensor], sampler_logprobs: Sequence[Tensor]
    ) -> Sequence[Tensor | float]:
        """Return the importance weight of each token, (T,) per group; 1 without `objective.importance_cap`."""
        cap = self.settings.objective.importance_cap
        if cap is None:
            return [1.0] * len(old_logprobs)
        # The old log-probabilities are now the policy's: the settings see to it.
        pairs = zip(old_logprobs, sampler_logprobs, strict=True)
        weights = [truncated_importance_weight(old, sampler, cap) for old, sampler in pairs]
        tokens = torch.cat(weights)
        self.metrics["policy/importance_weight"] = float(tokens.mean())
        self.metrics["policy/importance_truncated"] = float((tokens >= cap).float().mean())
        return weights

    def _shares(self, groups: Sequence[Group]) -> list[tuple[Tensor, Tensor]]:
        """Return each token's share of a batch's loss and of its KL term, both (T,) float32, by group.

        The KL's coefficient is included. With fewer groups than `optimizer.minibatch` the shares add up to less than 1,
        so that a group moves the weights no more than it would in a full batch.
        """
        objective, limit = self.settings.objective, self.settings.rollout.max_new_tokens
        lengths = torch.tensor([n for group in groups for n in group.lengths])
        keep = None
        if objective.mask_truncated:
            keep = torch.tensor([c.finish != "length" for group in groups for c in group.completions])
        shares = registry.load("aggregation", objective.aggregation)(lengths, limit, keep)
        kl_shares = objective.kl_coef * sequence_mean(lengths, limit, keep)
        sizes = [sum(group.lengths) for group in groups]
        filled = len(groups) / self.settings.optimizer.minibatch
        streams = [(filled * each).float().repeat_interleave(lengths).split(sizes) for each in (shares, kl_shares)]
        return list(zip(*streams, strict=True))


class RunLength:
    """A run's length in steps or in prompts, and how much of it is done.

    Args:
        settings: Give the length in `steps`, `prompts` or `epochs`.
        examples: Rows of the dataset.
    """

    def __init__(self, settings: RunSettings, examples: int) -> None:
        self.steps = settings.steps
        self.prompts = settings.prompts
        """Prompts to draw in all; None if the length is given in steps alone."""
        if settings.prompts is None and settings.steps is None:
            self.prompts = max(1, round(settings.epochs * examples))

    def reached(self, step: int, source: PromptSource) -> bool:
        """Whether the run is over after `step` steps and the prompts drawn so far."""
        return (self.steps is not None and step >= self.steps) or source.exhausted

    def progress(self, step: int, source: PromptSource) -> float:
        """Return the share of the run, in [0, 1], that is done after `step` steps and the prompts drawn so far."""
        by_steps = step / self.steps if self.steps else 0.0
        by_prompts = source.drawn / self.prompts if self.prompts else 0.0
        return min(1.0, max(by_steps, by_prompts))

    def steps_of(self, prompts: int) -> int:
        """Return how many steps the run takes if each draws this many prompts and none is dropped."""
        by_prompts = math.ceil(self.prompts / prompts) if self.prompts else math.inf
        return int(min(self.steps or math.inf, by_prompts))


def update_metrics(updates: Sequence[dict[str, float]], seconds: float) -> dict[str, float]:
    """Return the mean metrics of a step's updates.

    The sampler's difference is that of the first update: later ones have changed the weights.

    Args:
        updates: Metrics of each update.
        seconds: That all of them took.
    """
    names = {name for update in updates for name in update}
    metrics = {}
    for name in sorted(names):
        values = [update[name] for update in updates if name in update]
        metrics[name] = sum(values) / len(values)
    if updates and "policy/sampler_difference" in updates[0]:
        metrics["policy/sampler_difference"] = updates[0]["policy/sampler_difference"]
    tokens = sum(update["policy/tokens"] for update in updates)
    metrics["policy/tokens"] = tokens
    metrics["policy/updates"] = float(len(updates))
    metrics["speed/updating_tokens_per_s"] = tokens / max(seconds, 1e-9)
    metrics["time/updating"] = seconds
    return metrics


# What the loop needs of the other rooms


class Learner(Protocol):
    """What the loop needs of its policy."""

    def update(self, batch: TrainingBatch) -> dict[str, float]:
        """Take one optimizer step and return its metrics."""
        ...


class Logprobs(Protocol):
    """What scores groups: the policy, or a reference model."""

    def logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return the log-probabilities of each group's response tokens, one (T,) tensor per group, on the CPU."""
        ...


class GroupSource(PromptSource, Protocol):
    """Where the groups of each step come from: a `GroupSampler`, or an `AheadSampler` around one."""

    @property
    def sampled(self) -> list[Group]:
        """Every group sampled for the last step, used or not, without its images."""
        ...

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last step's sampling."""
        ...

    def next_groups(self) -> list[Group]:
        """Return the groups of the next step; fewer, perhaps none, when the prompts run out."""
        ...


class Monitor(Protocol):
    """What the loop reports to: it knows how far the run is, can stop it, and records every step (`run.recorder`)."""

    step: int
    """Steps done, and published."""
    now: Now
    """Takes what is being done, for the display."""

    def stopped(self) -> bool:
        """Whether the run is to end before its length is reached."""
        ...

    def write_rollouts(self, step: int, groups: Sequence[Group]) -> object:
        """Write down every group that was sampled for `step`."""
        ...

    def step_done(self, step: int, metrics: dict[str, float], *, last: bool) -> None:
        """Take the metrics of `step`, which is done now; `last` says whether the run has reached its length."""
        ...
