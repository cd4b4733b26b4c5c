"""The time of a step in a plan, part by part: arithmetic over the peak that is reached, bytes over the bandwidth."""

import math

from observe_r1.cluster.gpus import GPU
from observe_r1.cluster.plan_layout import Layout
from observe_r1.cluster.shape import Shape
from observe_r1.config.plan import PlanSettings

_WINDOW = 64
"""Patches that a windowed layer of the tower sees at once."""
_ADAM_BYTES = 28
"""Read and written for each weight by a step: weight and two moments both ways, the gradient once."""


def drawn(settings: PlanSettings) -> float:
    """Return the prompts that one step samples: those without an advantage are replaced under dynamic sampling."""
    share = settings.plan.informative if settings.rollout.dynamic_sampling else 1.0
    return settings.rollout.prompts / share


def prompt_operations(settings: PlanSettings, shape: Shape) -> tuple[float, float]:
    """Return the operations of a forward pass over one prompt: of the text model, and of the tower."""
    prompt, image = settings.plan.prompt_tokens, settings.plan.image_tokens
    heads = shape.heads * shape.head_width
    text = prompt * (2 * shape.linear + 2 * shape.layers * heads * prompt)
    patches = image * shape.merge
    windowed = shape.tower_layers - shape.tower_full
    seen = shape.tower_full * patches + windowed * min(_WINDOW, patches)
    return text, patches * (2 * shape.tower_linear + 4 * shape.tower_width * seen)


def response_operations(settings: PlanSettings, shape: Shape) -> tuple[float, float]:
    """Return the operations of a forward pass over one response behind its prompt: of the layers, and of the head."""
    prompt, response = settings.plan.prompt_tokens, settings.plan.response_tokens
    heads = shape.heads * shape.head_width
    layers = response * (2 * shape.linear + 4 * shape.layers * heads * (prompt + response / 2))
    return layers, response * 2 * shape.width * shape.vocabulary


def group_operations(settings: PlanSettings, shape: Shape) -> tuple[float, float]:
    """Return the operations of a group: of a forward pass, and of an update.

    Backward is two forwards, one if the weights are frozen under adapters; with checkpointing the layers run once
    more; the head always does.
    """
    prompt, tower = prompt_operations(settings, shape)
    each, head = (settings.rollout.group_size * part for part in response_operations(settings, shape))
    text = prompt + each
    again = 1 if shape.checkpointing else 0
    backward = 2 if shape.trains_base else 1
    update = text * (1 + backward + again) + head * (2 + backward) + tower * (3 + again if shape.trains_tower else 0)
    return text + head + (tower if shape.trains_tower else 0), update


def step_times(
    settings: PlanSettings, shape: Shape, layout: Layout, gpu: GPU, cache: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the seconds of each part of a step, and what bounds each."""
    options, rollout = settings.plan, settings.rollout
    peak = gpu.flops * options.mfu
    machine = options.gpus_per_machine
    link = options.network_bandwidth * (gpu.link if layout.shard <= machine else gpu.network)
    forward, update = group_operations(settings, shape)
    group = options.prompt_tokens + rollout.group_size * options.response_tokens
    others = (layout.shard - 1) / layout.shard

    def passes(groups: float, operations: float, moved: float) -> tuple[float, str]:
        parts = max(1, math.ceil(group / settings.optimizer.tokens_per_pack))  # of a group over the budget
        here = math.ceil(groups * parts / layout.ranks)  # the rank with most
        count = math.ceil(
            here * min(group / parts, settings.optimizer.tokens_per_pack) / settings.optimizer.tokens_per_pack
        )
        compute, carry = here * operations / parts / peak, count * moved * others / link
        return max((compute, "arithmetic"), (carry, "link" if layout.shard <= machine else "network"))

    gather = 2.0 * shape.parameters * (2 if settings.cluster.reshard else 1)
    minibatches = math.ceil(rollout.prompts / settings.optimizer.minibatch)
    one, update_bound = passes(min(settings.optimizer.minibatch, rollout.prompts), update, gather + 4 * shape.trained)
    copies = layout.ranks // layout.shard
    carried = 2 * 4 * shape.trained / layout.shard * (copies - 1) / copies
    between = carried / (options.network_bandwidth * (gpu.network if layout.ranks > machine else gpu.link))
    step = _ADAM_BYTES * shape.trained / layout.shard / (options.memory_bandwidth * gpu.bandwidth)
    parts = {"update": (minibatches * one, update_bound)}
    parts["optimizer"] = minibatches * (between + step), "network" if between > step else "memory"
    scored = (settings.objective.kl_coef > 0) + (settings.objective.old_logprobs == "policy")
    if scored:
        seconds, why = passes(rollout.prompts, forward, 2.0 * shape.parameters)
        parts["log-probabilities"] = scored * seconds, why
    parts["sampling"] = _sampling(settings, shape, layout, gpu, cache)
    same = layout.gpus <= machine
    rate = options.network_bandwidth * (gpu.link if same else gpu.network)
    parts["publishing"] = 2 * shape.base / layout.tensor_parallel / rate, "link" if same else "network"
    order = ("sampling", "log-probabilities", "update", "optimizer", "publishing")
    kept = {name: parts[name] for name in order if name in parts}
    return {n: s for n, (s, _) in kept.items()}, {n: why for n, (_, why) in kept.items()}


def prefill_seconds(settings: PlanSettings, shape: Shape, layout: Layout, gpu: GPU) -> float:
    """Return an engine's time to compute one prompt, image included."""
    return sum(prompt_operations(settings, shape)) / (gpu.flops * settings.plan.mfu * layout.tensor_parallel)


def most_rows(settings: PlanSettings, shape: Shape, layout: Layout, gpu: GPU, cache: float) -> int:
    """Return the responses that an engine decodes at once: vLLM's default, or as many as its cache holds."""
    options = settings.plan
    row = shape.cached_token * (options.response_tokens + options.prompt_tokens / settings.rollout.group_size)
    return max(1, min(1024 if gpu.memory >= 70 else 256, int(cache * layout.tensor_parallel / row)))


def decode_seconds(settings: PlanSettings, shape: Shape, layout: Layout, gpu: GPU, rows: float) -> tuple[float, str]:
    """Return an engine's time to decode one token of each of `rows` responses, and what bounds it."""
    options, parallel = settings.plan, layout.tensor_parallel
    read = shape.cached_token * (options.response_tokens / 2 + options.prompt_tokens)
    moved = (2 * shape.base + rows * read) / (options.memory_bandwidth * gpu.bandwidth * parallel)
    computed = rows * 2 * (shape.linear + shape.width * shape.vocabulary) / (gpu.flops * options.mfu * parallel)
    return max(moved, computed) + options.step_overhead, "memory" if moved > computed else "arithmetic"


def _sampling(settings: PlanSettings, shape: Shape, layout: Layout, gpu: GPU, cache: float) -> tuple[float, str]:
    """Return the seconds of sampling one rollout, and what bounds it: prompts computed once, then decoding in waves."""
    groups = math.ceil(drawn(settings) / layout.engines)
    responses = groups * settings.rollout.group_size
    rows = min(responses, most_rows(settings, shape, layout, gpu, cache))
    token, why = decode_seconds(settings, shape, layout, gpu, rows)
    decode = math.ceil(responses / rows) * settings.plan.response_tokens * token
    return groups * prefill_seconds(settings, shape, layout, gpu) + decode, why
