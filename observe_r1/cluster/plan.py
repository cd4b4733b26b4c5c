"""The capacity plan of a run: memory of a GPU by part, time of a step by part, GPU-hours, before anything is started.

Upper bounds of memory follow docs/memory.md, with what is sharded divided by the ranks that share a copy. Times are a
roofline: arithmetic over the peak that is reached, bytes over the bandwidth that is reached. docs/plan.md lists what is
assumed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from observe_r1.cluster.gpus import GPU, gpu_named
from observe_r1.cluster.shape import Shape
from observe_r1.config.plan import PlanSettings
from observe_r1.errors import UserError
from observe_r1.rollout.engine import TrainingMemory
from observe_r1.rollout.vllm_start import gpu_share

GIB = 2**30
SWEEP = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Numbers of GPUs that a plan compares."""
_SPARE = 0.1
"""Share of a GPU left free, as docs/memory.md has it."""
_MOMENTS = {"adamw": 8.0, "adamw_8bit": 2 + 2 * 4 / 256}
_LOGIT = 32
"""Bytes a logit takes on its way to a log-probability and back."""
_WINDOW = 64
"""Patches that a windowed layer of the tower sees at once."""
_ADAM_BYTES = 28
"""Read and written for each weight by a step: weight and two moments both ways, the gradient once."""


@dataclass(frozen=True)
class Layout:
    """Who does what."""

    gpus: int
    ranks: int
    """GPUs that train."""
    shard: int
    """Of these, those that share one copy of the weights."""
    engines: int
    tensor_parallel: int
    colocated: bool


@dataclass(frozen=True)
class Plan:
    """What a run takes on so many GPUs."""

    layout: Layout
    memory: dict[str, float]
    """Bytes of a GPU that trains, at the peak of an update, by part."""
    cache: float
    """Bytes that an engine has on each of its GPUs for keys and values; 0 where it does not fit."""
    why: str
    """Why it does not fit; empty where it does."""
    budget: int
    """The largest `optimizer.tokens_per_pack` that fits; 0 where none does."""
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


def layout_of(settings: PlanSettings, gpus: int) -> Layout:
    """Return how a run is laid out on `gpus` GPUs, by the rules of `ClusterSettings`.

    Raises:
        UserError: the settings do not divide.
    """
    cluster, together = settings.cluster, settings.cluster.layout == "colocated"
    parallel = cluster.tensor_parallel
    if settings.rollout.engine != "vllm" and parallel > 1:
        raise UserError(f"cluster.tensor_parallel = {parallel} needs rollout.engine: vllm")
    engines = cluster.engines if cluster.engines and gpus == cluster.gpus else None
    engines = engines or max(1, (gpus if together else gpus // 2) // parallel)
    ranks = gpus if together else gpus - engines * parallel
    if engines * parallel > gpus or ranks < 1:
        raise UserError(f"{gpus} GPUs are too few for {engines} engines of {parallel}, and for training beside them")
    shard = cluster.shard or min(ranks, settings.plan.gpus_per_machine)
    if shard > ranks or ranks % shard:
        raise UserError(f"cluster.shard = {shard} does not divide the {ranks} GPUs that train")
    return Layout(gpus, ranks, shard, engines, parallel, together)


def plan(settings: PlanSettings, shape: Shape, gpus: int) -> Plan:
    """Return the plan for `gpus` GPUs.

    Raises:
        UserError: the settings contradict each other, or ask for a GPU that is not known.
    """
    gpu, layout = gpu_named(settings.plan.gpu), layout_of(settings, gpus)
    longest = settings.data.max_prompt_tokens + settings.rollout.max_new_tokens
    tokens = max(settings.optimizer.tokens_per_pack, longest)
    memory = memory_parts(settings, shape, layout, tokens)
    cache, why = _cache(settings, shape, layout, gpu, memory)
    seconds, bound = _times(settings, shape, layout, gpu, cache)
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


def drawn(settings: PlanSettings) -> float:
    """Return the prompts that one step samples: those without an advantage are replaced under dynamic sampling."""
    share = settings.plan.informative if settings.rollout.dynamic_sampling else 1.0
    return settings.rollout.prompts / share


def memory_parts(
    settings: PlanSettings, shape: Shape, layout: Layout, tokens: int, *, compute_bytes: int = 2
) -> dict[str, float]:
    """Return the bytes of a GPU that trains, at the peak of an update, by part.

    Args:
        settings: Of the run.
        shape: Of its model.
        layout: On one GPU without sharding, as the local policy holds it.
        tokens: Of the longest pack.
        compute_bytes: Of a number in the compute type; with 4 the masters are the weights, and there are no copies.
    """
    frozen, one = shape.parameters - shape.trained, layout.shard == 1
    offload, local = settings.optimizer.offload, layout.shard
    whole = sorted(shape.units[:-1], reverse=True)
    copies = 0.0
    if compute_bytes < 4 and not offload and one:
        copies = compute_bytes * shape.trained
    if not one:  # the rest is gathered throughout, and two layers, one of them ahead; or all
        gathered = shape.units[-1] + (sum(whole[:2]) if settings.cluster.reshard else sum(shape.units[:-1]))
        copies = compute_bytes * gathered
    masters = compute_bytes if offload and one else (0 if offload else 4)
    reference = settings.objective.kl_coef > 0 and not settings.model.lora_rank
    gradients = 4.0 * shape.trained / local + (0 if one else 4 * sum(whole[:2]) * shape.trained / shape.parameters)
    if offload:
        gradients = compute_bytes * sum(whole[:2])
    return {
        "weights": (compute_bytes * frozen + masters * shape.trained) / local,
        "gathered or copied weights": copies,
        "moments": 0.0 if offload else _MOMENTS.get(settings.optimizer.kind, 8.0) * shape.trained / local,
        "reference": compute_bytes * shape.base / local if reference else 0.0,
        "image features": 0.0 if shape.trains_tower else settings.model.feature_cache * GIB,
        "gradients": gradients,
        "activations": _activations(settings, shape, tokens, compute_bytes),
    }


def _activations(settings: PlanSettings, shape: Shape, tokens: int, compute_bytes: int) -> float:
    patches = shape.merge * max(settings.optimizer.tokens_per_pack, settings.data.max_prompt_tokens)
    if tokens < patches / shape.merge:
        patches = shape.merge * tokens
    layer = tokens * layer_bytes(shape.width, shape.mlp)
    tower = patches * layer_bytes(shape.tower_width, shape.tower_mlp) if shape.trains_tower else 0
    logits = settings.optimizer.head_chunk * shape.vocabulary * _LOGIT
    if not shape.checkpointing:
        return shape.layers * layer / 2 + shape.tower_layers * tower / 2 + max(layer / 2, tower / 2, logits)
    kept = shape.layers * tokens * shape.width
    if shape.trains_tower:
        kept += shape.tower_layers * patches * shape.tower_width
    return kept * compute_bytes + max(layer, tower, logits)


def layer_bytes(width: int, mlp: int) -> int:
    """Return what docs/memory.md allows for one token in the layer that is computed again, its gradients included."""
    return 16 * width * 4 + 8 * mlp * 4


def _cache(
    settings: PlanSettings, shape: Shape, layout: Layout, gpu: GPU, memory: Mapping[str, float]
) -> tuple[float, str]:
    """Return an engine's room for keys and values on each of its GPUs, and why there is none."""
    total = int(gpu.memory * GIB)
    if sum(memory.values()) > (1 - _SPARE) * total:
        need = sum(memory.values()) / GIB
        return 0.0, f"an update takes {need:.1f} GiB of the {(1 - _SPARE) * gpu.memory:.1f} that can be used"
    weights = 2 * shape.base // layout.tensor_parallel if settings.rollout.engine == "vllm" else 0
    update = {name: int(memory[name]) for name in ("gradients", "activations")}
    resting = {name: int(size) for name, size in memory.items() if name not in update}
    if settings.rollout.engine == "vllm" and layout.colocated:
        coming = {name: resting.pop(name) for name in ("moments", "image features")}
        training = TrainingMemory(resting, coming, update)
        try:
            share, _ = gpu_share(total, total - sum(resting.values()), training, weights)
        except UserError as error:
            return 0.0, str(error)
        room = share * total - weights
    else:
        room = (1 - _SPARE) * total - weights - (sum(resting.values()) if layout.colocated else 0)
    room -= _working(shape, gpu)
    rollout = settings.rollout
    group = shape.cached_token * (rollout.group_size * rollout.max_new_tokens + settings.data.max_prompt_tokens)
    if room < group / layout.tensor_parallel:
        return 0.0, f"an engine has {max(room, 0) / GIB:.1f} GiB for keys and values, one group takes {group / GIB:.1f}"
    return room, ""


def _working(shape: Shape, gpu: GPU) -> float:
    """Return what vLLM works in: its defaults for a GPU of that size, as docs/memory.md allows."""
    tokens, rows = (16384, 1024) if gpu.memory >= 70 else (8192, 256)
    text = tokens * (8 * shape.width + 3 * shape.mlp)
    tower = shape.merge * tokens * (8 * shape.tower_width + 3 * shape.tower_mlp)
    return 2 * max(text, tower) + 16 * rows * shape.vocabulary


def largest_budget(settings: PlanSettings, shape: Shape, layout: Layout, gpu: GPU) -> int:
    """Return the largest `optimizer.tokens_per_pack` with which an update fits, in steps of 256; 0 if none does."""

    def fits(budget: int) -> bool:
        smaller = settings.optimizer.model_copy(update={"tokens_per_pack": budget})
        changed = settings.model_copy(update={"optimizer": smaller})
        longest = settings.data.max_prompt_tokens + settings.rollout.max_new_tokens
        parts = memory_parts(changed, shape, layout, max(budget, longest))
        return sum(parts.values()) <= (1 - _SPARE) * gpu.memory * GIB

    low, high = 0, 2**14
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(256 * middle) else (low, middle - 1)
    return 256 * low


def prompt_operations(settings: PlanSettings, shape: Shape) -> tuple[float, float]:
    """Return the operations of a forward pass over one prompt: of the text model, and of the tower."""
    prompt, image = settings.plan.prompt_tokens, min(settings.plan.image_tokens, settings.plan.prompt_tokens)
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

    Backward is two forwards, one where the weights are frozen under adapters; with checkpointing the layers run once
    more; the head always does.
    """
    prompt, tower = prompt_operations(settings, shape)
    each, head = (settings.rollout.group_size * part for part in response_operations(settings, shape))
    text = prompt + each
    again = 1 if shape.checkpointing else 0
    backward = 2 if shape.trains_base else 1
    update = text * (1 + backward + again) + head * (2 + backward) + tower * (3 + again if shape.trains_tower else 0)
    return text + head + (tower if shape.trains_tower else 0), update


def _times(
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


def _sampling(settings: PlanSettings, shape: Shape, layout: Layout, gpu: GPU, cache: float) -> tuple[float, str]:
    """Return the seconds of sampling one rollout, and what bounds it: prompts computed once, then decoding in waves."""
    options, rollout, parallel = settings.plan, settings.rollout, layout.tensor_parallel
    groups = math.ceil(drawn(settings) / layout.engines)
    responses = groups * rollout.group_size
    prefill = groups * sum(prompt_operations(settings, shape)) / (gpu.flops * options.mfu * parallel)
    most = 1024 if gpu.memory >= 70 else 256
    held = (
        cache * parallel / (shape.cached_token * (options.response_tokens + options.prompt_tokens / rollout.group_size))
    )
    rows = max(1.0, min(responses, most, held))
    read = shape.cached_token * (options.response_tokens / 2 + options.prompt_tokens)
    moved = (2 * shape.base + rows * read) / (options.memory_bandwidth * gpu.bandwidth * parallel)
    computed = rows * 2 * (shape.linear + shape.width * shape.vocabulary) / (gpu.flops * options.mfu * parallel)
    step = max(moved, computed) + options.step_overhead
    waves = math.ceil(responses / rows)
    decode = waves * options.response_tokens * step
    return prefill + decode, "memory" if moved > computed else "arithmetic"
