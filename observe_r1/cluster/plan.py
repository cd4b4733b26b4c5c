"""The capacity plan of a run: memory of a GPU by part, time of a step by part, GPU-hours, before anything is started.

Times are a roofline: arithmetic over the peak that is reached, bytes over the bandwidth that is reached. docs/plan.md
lists what is assumed.
"""

from dataclasses import dataclass

from observe_r1.cluster.gpus import gpu_named
from observe_r1.cluster.plan_layout import Layout, layout_of
from observe_r1.cluster.plan_memory import engine_cache, largest_budget, longest_pack, memory_parts
from observe_r1.cluster.plan_times import drawn, step_times
from observe_r1.cluster.shape import Shape
from observe_r1.config.plan import PlanSettings
from observe_r1.errors import UserError

SWEEP = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Numbers of GPUs that a plan compares."""


@dataclass(frozen=True)
class Plan:
    """What a run takes on so many GPUs."""

    layout: Layout
    memory: dict[str, float]
    """Bytes of a GPU that trains, at the peak of an update, by part."""
    cache: float
    """Bytes that an engine has on each of its GPUs for keys and values; 0 if it does not fit."""
    why: str
    """Why it does not fit; empty if it does."""
    budget: int
    """The largest `optimizer.tokens_per_pack` that fits; 0 if none does."""
    seconds: dict[str, float]
    """Of a step, by part."""
    bound: dict[str, str]
    """What bounds each part: arithmetic, memory, link, network."""
    step: float
    """Seconds; with `rollout.ahead`, sampling and training are at work at once."""
    steps: float
    """Of one run."""

    @property
    def gpu_hours(self) -> float:
        """Of the whole run."""
        return self.layout.gpus * self.step * self.steps / 3600


def plan(settings: PlanSettings, shape: Shape, gpus: int) -> Plan:
    """Return the plan for `gpus` GPUs.

    Raises:
        UserError: the settings contradict each other, or ask for a GPU that is not known.
    """
    _check_lengths(settings)
    gpu, layout = gpu_named(settings.plan.gpu), layout_of(settings, gpus)
    _check_split(shape, layout.tensor_parallel)
    memory = memory_parts(settings, shape, layout, longest_pack(settings, shape.merge))
    cache, why = engine_cache(settings, shape, layout, gpu, memory)
    seconds, bound = step_times(settings, shape, layout, gpu, cache)
    sampling, training = seconds["sampling"], sum(seconds.values()) - seconds["sampling"]
    at_once = settings.rollout.ahead > 0 and not layout.colocated
    questions = settings.plan.questions or settings.data.max_samples or 20_000
    steps = settings.run.steps or (settings.run.prompts or questions * settings.run.epochs) / drawn(settings)
    return Plan(
        layout,
        memory,
        cache,
        why,
        largest_budget(settings, shape, layout, gpu),
        seconds,
        bound,
        max(sampling, training) if at_once else sampling + training,
        steps,
    )


def _check_lengths(settings: PlanSettings) -> None:
    """Raise `UserError` for mean lengths that the run's limits, or each other, rule out."""
    options = settings.plan
    for name, length, limit, most in (
        ("image_tokens", options.image_tokens, "plan.prompt_tokens", options.prompt_tokens),
        ("prompt_tokens", options.prompt_tokens, "data.max_prompt_tokens", settings.data.max_prompt_tokens),
        ("response_tokens", options.response_tokens, "rollout.max_new_tokens", settings.rollout.max_new_tokens),
    ):
        if length > most:
            raise UserError(f"plan.{name} = {length}: over {limit} = {most}: give the mean that you expect")


def _check_split(shape: Shape, parts: int) -> None:
    """Raise `UserError` if vLLM cannot split the model by its attention heads."""
    heads, shared = shape.heads, shape.kv_heads
    if heads % parts or max(shared, parts) % min(shared, parts):
        raise UserError(
            f"cluster.tensor_parallel = {parts}: vLLM splits a model by its heads, and its {heads} attention heads and "
            f"{shared} key-value heads cannot be split into {parts}"
        )
