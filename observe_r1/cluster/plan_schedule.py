"""Which layout wins when: a plan's parts put into the simulated scheduler, for engines beside the policy and apart."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from observe_r1.cluster.gpus import gpu_named
from observe_r1.cluster.plan import Plan, plan
from observe_r1.cluster.plan_times import decode_seconds, drawn, most_rows, prefill_seconds
from observe_r1.cluster.shape import Shape
from observe_r1.cluster.simulation import Workload, draw_rollouts, simulate
from observe_r1.config.plan import PlanSettings
from observe_r1.errors import UserError

WAYS = {
    "colocated": ("colocated", 0),
    "apart": ("apart", 0),
    "apart, ahead 1": ("apart", 1),
    "apart, ahead 2": ("apart", 2),
}
"""What is compared: a layout, and `rollout.ahead`."""
_SHARES = (1 / 4, 1 / 2, 3 / 4)
"""Of the GPUs that sample, where they are apart: the best of these by the plan is simulated."""
_FIRST, _STEPS = 1, 5
"""Steps before the run has settled, and steps simulated."""


@dataclass(frozen=True)
class Scheduled:
    """A run's steps on one layout, simulated."""

    engines: int
    ranks: int
    step: float
    """Seconds from one step to the next, in the mean."""
    age: float
    """Mean age of the tokens trained on, in versions of the weights."""
    oldest: int


def best_schedules(settings: PlanSettings, shape: Shape, gpus: int) -> dict[str, Scheduled]:
    """Return what each of `WAYS` comes to on `gpus` GPUs; those that do not fit are left out."""
    found: dict[str, Scheduled] = {}
    for name, (layout, ahead) in WAYS.items():
        rollout, objective = settings.rollout.model_copy(update={"ahead": ahead}), settings.objective
        if ahead:  # importance weights, which `rollout.ahead` demands, need the policy's own
            objective = objective.model_copy(update={"old_logprobs": "policy"})
        tried = []
        for engines in _engines(settings, gpus, layout):
            own = {"gpus": gpus, "layout": layout, "engines": engines, "shard": None}
            cluster = settings.cluster.model_copy(update=own)
            changed = settings.model_copy(update={"rollout": rollout, "cluster": cluster, "objective": objective})
            made = attempt(changed, shape, gpus)
            if made is not None and not made.why:
                tried.append((made.step, changed, made))
        if tried:
            _, changed, made = min(tried, key=lambda each: each[0])
            found[name] = scheduled(changed, shape, made)
    return found


def _engines(settings: PlanSettings, gpus: int, layout: str) -> list[int]:
    parallel = settings.cluster.tensor_parallel
    if layout == "colocated":
        return [gpus // parallel] if gpus >= parallel else []
    return sorted({int(gpus * share) // parallel for share in _SHARES} - {0})


def attempt(settings: PlanSettings, shape: Shape, gpus: int) -> Plan | None:
    """Return the plan, None if the layout asks for more GPUs or does not divide them."""
    try:
        return plan(settings, shape, gpus)
    except UserError:
        return None


def scheduled(settings: PlanSettings, shape: Shape, made: Plan) -> Scheduled:
    """Simulate a planned run's first steps.

    Args:
        settings: Of the run, with the layout that `made` has.
        shape: Of its model.
        made: Fits.
    """
    options, rollout, gpu = settings.plan, settings.rollout, gpu_named(settings.plan.gpu)
    layout, prompts = made.layout, math.ceil(drawn(settings))
    training = sum(seconds for name, seconds in made.seconds.items() if name not in ("sampling", "publishing"))
    expected = prompts * rollout.group_size * options.response_tokens
    work = Workload(
        engines=layout.engines,
        rows=most_rows(settings, shape, layout, gpu, made.cache),
        prompt_seconds=prefill_seconds(settings, shape, layout, gpu),
        token_seconds=lambda rows: decode_seconds(settings, shape, layout, gpu, rows)[0],
        train_seconds=lambda tokens: training * tokens / expected,
        publish_seconds=made.seconds["publishing"] + (options.switch_seconds if layout.colocated else 0.0),
        ahead=rollout.ahead,
    )
    spread, longest = options.length_spread, rollout.max_new_tokens
    drawn_lengths = draw_rollouts(_STEPS, prompts, rollout.group_size, options.response_tokens, spread, longest)
    steps = simulate(work, drawn_lengths)
    settled = steps[_FIRST:]
    seconds = (steps[-1].published - steps[_FIRST - 1].published) / len(settled)
    age = sum(step.mean_age for step in settled) / len(settled)
    return Scheduled(layout.engines, layout.ranks, seconds, age, max(step.oldest for step in settled))


def efficiencies(schedules: Mapping[int, Mapping[str, Scheduled]]) -> dict[int, dict[str, float]]:
    """Return the steps that each GPU-second gives, as a share of the best in the table."""
    cost = {gpus: {way: gpus * each.step for way, each in ways.items()} for gpus, ways in schedules.items()}
    least = min((value for ways in cost.values() for value in ways.values()), default=0.0)
    return {gpus: {way: least / value for way, value in ways.items()} for gpus, ways in cost.items()}
