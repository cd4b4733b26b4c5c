"""The loop: sample, score, weigh, update, publish."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from observe_r1.config import ObjectiveSettings, RunSettings
from observe_r1.errors import UserError
from observe_r1.records import Group, TrainingBatch
from observe_r1.rewards.accuracy import read_as
from observe_r1.training.batches import Batcher
from observe_r1.training.progress import Now, counted, unseen
from observe_r1.training.sampler import GroupSampler
from observe_r1.training.signal import signal_of
from observe_r1.training.weight_sync import WeightSync


class Policy(Protocol):
    """What the loop asks of a policy, local or sharded."""

    def update(self, batch: TrainingBatch) -> dict[str, float]:
        """Take one optimizer step and return its metrics."""
        ...


def train(
    policy: Policy,
    sampler: GroupSampler,
    batcher: Batcher,
    sync: WeightSync,
    length: "RunLength",
    on_rollouts: Callable[[int, Iterator[dict[str, Any]]], object],
    on_step: Callable[[int, dict[str, float]], None],
    stopped: Callable[[], bool],
    step: int = 0,
    now: Now = unseen,
) -> None:
    """Run to the end, or until `stopped` says yes, from `step` steps that are done already and published.

    The parts may be local objects or stand for many processes; the loop does not know.
    `on_rollouts(step, rows)` is called with one row a sampled response, then `on_step(step, metrics)`, after each step;
    the former also where sampling fails with a `UserError`, because the responses so far show why.
    """
    while not stopped() and not length.reached(step, sampler):
        started, before = time.perf_counter(), length.progress(step, sampler)
        step += 1
        try:
            groups = sampler.next_groups()
        except UserError:
            if sampler.sampled:
                on_rollouts(step, rollout_rows(sampler.sampled, sampler.objective))
            raise
        sync.rest()
        progress = before, length.progress(step, sampler)
        now("preparing the update")
        updating = time.perf_counter()
        batches = batcher.batches(groups, progress)
        updates = [policy.update(batch) for batch in counted(now, "updating", batches)]
        del groups, batches  # a rollout's pixels can take gigabytes, and the next one is about to be sampled
        updating = time.perf_counter() - updating
        now("handing over the new weights")
        sync.publish(step)
        on_rollouts(step, rollout_rows(sampler.sampled, sampler.objective))
        metrics = sampler.metrics | batcher.metrics | update_metrics(updates, updating)
        metrics |= {"progress": progress[1], "time/step": time.perf_counter() - started}
        on_step(step, metrics)


class RunLength:
    """A run's length in steps or in prompts, and how far it has come."""

    def __init__(self, settings: RunSettings, examples: int) -> None:
        self.steps = settings.steps
        self.prompts = None
        if settings.prompts is not None:
            self.prompts = settings.prompts
        elif settings.steps is None:
            self.prompts = max(1, round(settings.epochs * examples))

    def reached(self, step: int, sampler: GroupSampler) -> bool:
        """Whether `step` steps and the prompts drawn so far are all there is to do."""
        return (self.steps is not None and step >= self.steps) or (sampler.exhausted and not sampler.leftovers)

    def progress(self, step: int, sampler: GroupSampler) -> float:
        """Return the share of the run that is done after `step` steps, in [0, 1]."""
        by_steps = step / self.steps if self.steps else 0.0
        by_prompts = sampler.stream.drawn / self.prompts if self.prompts else 0.0
        return min(1.0, max(by_steps, by_prompts))


def update_metrics(updates: Sequence[dict[str, float]], seconds: float) -> dict[str, float]:
    """Average the metrics of a step's updates; the sampler's difference is read before the first of them."""
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


def rollout_rows(groups: Sequence[Group], objective: ObjectiveSettings) -> Iterator[dict[str, Any]]:
    """Yield one row a sampled response: what it was, what it earned, what it taught."""
    if not groups:
        return
    signal = signal_of(groups, objective)
    for index, group in enumerate(groups):
        for number, completion in enumerate(group.completions):
            yield {
                "id": group.example.id,
                "response": number,
                "text": completion.text,
                "answer": group.example.answer,
                "tokens": len(completion.ids),
                "finish": completion.finish,
                "version": completion.version,
                "correct": bool(group.correct[number]),
                "read_as": None if group.correct[number] else read_as(completion.text),
                "reward": float(group.rewards[number]),
                "parts": {name: float(values[number]) for name, values in group.parts.items()},
                "bonus": float(signal.bonus[index, number]),
                "weight": float(signal.weight[index]),
                "advantage": float(signal.advantages[index, number]),
            }
