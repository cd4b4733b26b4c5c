"""Sampling for one step: prompts in order, G responses each, scored. Under dynamic sampling, groups that teach nothing
(not `Group.informative`) are set aside and others drawn, until there are N."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch

from observe_r1.config import ObjectiveSettings, RolloutSettings
from observe_r1.errors import UserError
from observe_r1.objective import scored_advantages
from observe_r1.records import Completion, Group
from observe_r1.rewards import PendingScores, Scorer, Scores
from observe_r1.rollout.engine import Engine, sampling_of
from observe_r1.training.prompts import Drawn, PromptStream

T = TypeVar("T")


class StoppedError(Exception):
    """Sampling was stopped from another thread (`GroupSampler.stopping`)."""


class Now(Protocol):
    """Takes what is being done, for the display."""

    def __call__(self, what: str, total: int = 0, done: Callable[[], int] = int) -> None:
        """Take what is being done from now on.

        Args:
            what: In words: `sampling`.
            total: How many parts there are; 0 if they are not counted.
            done: Returns how many of them are done; may be called from another thread.
        """


def unseen(what: str, total: int = 0, done: Callable[[], int] = int) -> None:
    """Tell nobody what is being done."""


def counted(now: Now, what: str, items: Sequence[T]) -> Iterator[T]:
    """Yield `items`, and tell `now` how many of them are done."""
    for index, item in enumerate(items):
        now(what, len(items), lambda index=index: index)  # type: ignore[misc]
        yield item


class GroupSampler:
    """Returns N groups per step: samples, scores, and keeps leftovers for the next step.

    Under dynamic sampling only informative groups count (`Group.informative`); a round draws as many prompts as the
    last round's share of them suggests. Groups beyond N are leftovers; the next step uses them unless they are over
    `max_age` versions of the weights old, plus the `ahead` versions that even a new response may be old. Their tokens
    keep the log-probabilities they were sampled under, so the importance ratio stays right.

    Args:
        engine: Samples the responses.
        stream: Of the prompts.
        scorer: Rewards the responses.
        rollout: How many groups and responses, and how they are sampled.
        objective: Turns rewards into bonus, weight and advantages.
        seed: With a prompt's draw and a response's number, seeds that response's random stream.
        now: Is told what is being done.
    """

    def __init__(
        self,
        engine: Engine,
        stream: PromptStream,
        scorer: Scorer,
        rollout: RolloutSettings,
        objective: ObjectiveSettings,
        seed: int,
        now: Now = unseen,
    ) -> None:
        self.engine = engine
        self.stream = stream
        self.scorer = scorer
        self.settings = rollout
        self.now = now
        self.objective = objective
        self.sampling = sampling_of(rollout, n=rollout.group_size, seed=seed)
        self.leftovers: list[Group] = []
        self.informative_share = 1.0
        self.sampled: list[Group] = []
        """Every group sampled for the last step, used or not, without its images: those set aside can be many."""
        self.metrics: dict[str, float] = {}
        self.stopping = False
        """Set by another thread to end `next_groups` at the next group that is sampled, with `StoppedError`."""

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left: no prompt to draw, and no leftover."""
        return self.stream.exhausted and not self.leftovers

    @property
    def drawn(self) -> int:
        """Prompts drawn so far."""
        return self.stream.drawn

    @property
    def dropped(self) -> int:
        """Prompts over the token limit so far."""
        return self.stream.dropped

    def next_groups(self, version: int | None = None) -> list[Group]:
        """Return the next `rollout.prompts` groups; fewer, perhaps none, when the prompts run out.

        If `max_rounds` rounds do not find that many informative ones, it returns fewer, with a warning.

        Args:
            version: Of the weights that these groups will train, from which their age counts; None for the engine's.

        Raises:
            UserError: The rounds found no informative group, or a prompt or reward is at fault.
            StoppedError: `stopping` was set.
        """
        wanted = self.settings.prompts
        version = self.engine.version if version is None else version
        oldest = version - self.settings.max_age - self.settings.ahead
        pool = [group for group in self.leftovers if group.version >= oldest]
        clock = RolloutClock()
        self.sampled = []
        rounds = 0
        while len(pool) < wanted and not self.stream.exhausted:
            if rounds == self.settings.max_rounds:
                self._fall_short(version + 1, len(pool))
                break
            rounds += 1
            pool += self._kept(self._sample(self._draws(wanted - len(pool)), rounds, clock))
        chosen, self.leftovers = pool[:wanted], pool[wanted:]
        self.metrics = self._measure(chosen, rounds, clock) | staleness(chosen, version)
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Return stream position, leftovers and the running share of informative groups."""
        return {
            "stream": self.stream.state_dict(),
            "leftovers": self.leftovers,
            "informative_share": self.informative_share,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        self.stream.load_state_dict(state["stream"])
        self.leftovers = state["leftovers"]
        self.informative_share = state["informative_share"]

    def _fall_short(self, step: int, found: int) -> None:
        """Warn that `step` has fewer groups than it should; raise `UserError` if it has none."""
        rounds, wanted = self.settings.max_rounds, self.settings.prompts
        reason = f"{rounds} rounds of sampling found only {found} of {wanted} informative groups"
        cut = _mean([c.finish == "length" for group in self.sampled for c in group.completions])
        cut_off = f"{cut:.0%} of the responses were cut off at rollout.max_new_tokens = {self.settings.max_new_tokens}"
        if not found and cut > 0.5:
            raise UserError(f"{reason}: {cut_off}; raise it")
        if not found:
            raise UserError(
                f"{reason}: the questions are too easy or too hard for the model; raise rollout.max_rounds, change the "
                "data, or turn rollout.dynamic_sampling off"
            )
        way = f"{cut_off}: raise it" if cut > 0.5 else "raise rollout.max_rounds or change the data to fill it"
        self.stream.notes.add(f"step {step}: {reason}, so the step is smaller; {way}")

    def _draws(self, missing: int) -> int:
        """Return how many prompts to draw for `missing` groups, at most those of one rollout."""
        if not self.settings.dynamic_sampling:
            return missing
        expected = math.ceil(missing / max(self.informative_share, 1 / self.settings.prompts))
        return min(expected, self.settings.prompts)

    def _sample(self, count: int, number: int, clock: "RolloutClock") -> list[Group]:
        place = f"round {number}: " if number > 1 else ""  # the counts start again, which must not look like a hang
        self.now(f"{place}preparing prompts")
        drawn = self.stream.take(count)
        pending: dict[int, PendingScores] = {}

        def score(index: int, completions: list[Completion]) -> None:
            if self.stopping:
                raise StoppedError
            begun = time.perf_counter()
            example, prompt = drawn[index].example, drawn[index].prompt
            pending[index] = self.scorer.submit([c.text for c in completions], example, prompt.text)
            clock.scoring += time.perf_counter() - begun

        before = self.engine.finished
        self.now(f"{place}sampling", len(drawn) * self.sampling.n, lambda: self.engine.finished - before)
        started, scoring = time.perf_counter(), clock.scoring
        completions = self.engine.generate([each.prompt for each in drawn], self.sampling, on_group=score)
        clock.sampling += time.perf_counter() - started - (clock.scoring - scoring)
        clock.tokens += sum(len(c.ids) for group in completions for c in group)
        started = time.perf_counter()
        scores = [pending[i].result() for i in counted(self.now, f"{place}scoring", range(len(drawn)))]
        clock.scoring += time.perf_counter() - started
        groups = scored_groups(drawn, completions, scores, self.objective)
        for each, group in zip(drawn, groups, strict=True):
            self.stream.order.record(each.row, float(group.correct.float().mean()))
        return groups

    def _kept(self, groups: list[Group]) -> list[Group]:
        """Remember what a round sampled; return the groups that are not set aside."""
        if not groups:
            return []
        self.sampled += [_without_images(group) for group in groups]
        self.informative_share = _mean([group.informative for group in groups])
        return [group for group in groups if group.informative or not self.settings.dynamic_sampling]

    def _measure(self, chosen: list[Group], rounds: int, clock: "RolloutClock") -> dict[str, float]:
        responses = [c for group in self.sampled for c in group.completions]
        metrics = {
            "rollout/rounds": float(rounds),
            "rollout/groups_missing": float(self.settings.prompts - len(chosen)),
            "rollout/leftovers": float(len(self.leftovers)),
            "rollout/dropped_prompts": float(self.stream.dropped),
            "rollout/prompts_drawn": float(self.stream.drawn),
            "time/sampling": clock.sampling,
            "time/scoring": clock.scoring,
            **self.stream.order.metrics(),
        }
        if responses:
            metrics |= _response_metrics(self.sampled, responses)
            metrics["speed/sampling_tokens_per_s"] = clock.tokens / max(clock.sampling, 1e-9)
            metrics["speed/scoring_tokens_per_s"] = clock.tokens / max(clock.scoring, 1e-9)
            metrics["rollout/groups_used"] = _mean([group.informative for group in self.sampled])
            metrics["rollout/weight"] = _mean([group.weight for group in self.sampled])
            metrics["reward/bonus"] = float(torch.cat([group.bonus for group in self.sampled]).mean())
        return metrics


class RolloutClock:
    """Seconds and tokens of one step's sampling. Scoring counts only if it is not hidden behind sampling."""

    def __init__(self) -> None:
        self.sampling = 0.0
        self.scoring = 0.0
        self.tokens = 0


def scored_groups(
    drawn: Sequence[Drawn],
    completions: Sequence[Sequence[Completion]],
    scores: Sequence[Scores],
    objective: ObjectiveSettings,
) -> list[Group]:
    """Return the groups: what was drawn, sampled and scored, with bonus, weight and advantages.

    Args:
        drawn: N examples with their prompts.
        completions: G of each.
        scores: Of each; G is the same for all.
        objective: Makes bonus, weight and advantages of rewards and correctness (`objective.scored_advantages`).
    """
    if not scores:
        return []
    rewards = torch.tensor([each.total for each in scores])
    correct = torch.tensor([each.correct for each in scores], dtype=torch.bool)
    lengths = torch.tensor([[len(c.ids) for c in group] for group in completions])
    bonus, weight, advantages = scored_advantages(rewards, correct, lengths, objective)
    return [
        Group(
            example=drawn[i].example,
            prompt=drawn[i].prompt,
            completions=tuple(completions[i]),
            rewards=rewards[i],
            correct=correct[i],
            bonus=bonus[i],
            weight=float(weight[i]),
            advantages=advantages[i],
            parts={name: torch.tensor(values) for name, values in scores[i].parts.items()},
        )
        for i in range(len(scores))
    ]


def staleness(groups: Sequence[Group], version: int) -> dict[str, float]:
    """Return how many versions older than the weights that they train the groups are, and their tokens.

    Args:
        groups: Of a step; without any there are no metrics.
        version: Of the weights that they train.
    """
    if not groups:
        return {}
    responses = [completion for group in groups for completion in group.completions]
    tokens = version - torch.cat([response.token_versions for response in responses])
    mixed = sum(len(response.ids) for response in responses if response.versions is not None)
    return {
        "rollout/age": sum(version - group.version for group in groups) / len(groups),
        "rollout/staleness": float(tokens.double().mean()),
        "rollout/staleness_max": float(tokens.max()),
        "rollout/mixed_tokens": mixed / len(tokens),
    }


def _without_images(group: Group) -> Group:
    return replace(group, prompt=replace(group.prompt, pixel_values=None, image_grid=None))


def _response_metrics(groups: list[Group], responses: list[Completion]) -> dict[str, float]:
    lengths = torch.tensor([len(c.ids) for c in responses], dtype=torch.float32)
    rewards = torch.cat([g.rewards for g in groups])
    metrics = {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()),
        "reward/accuracy": float(torch.cat([g.correct for g in groups]).float().mean()),
        "response/length": float(lengths.mean()),
        "response/longest": float(lengths.max()),
        "response/truncated": sum(c.finish == "length" for c in responses) / len(responses),
    }
    for name in groups[0].parts:
        values = torch.cat([g.parts[name] for g in groups])
        metrics.setdefault(f"reward/{name}", float(values.mean()))
    if "format" in groups[0].parts:
        metrics["response/well_formed"] = float((torch.cat([g.parts["format"] for g in groups]) > 0).float().mean())
    return metrics


def _mean(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float32).mean())
