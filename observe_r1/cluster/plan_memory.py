"""The memory of a GPU in a plan: what training holds, what an update adds at its peak, what is left for an engine.

Gradients of earlier packs are there while a pack runs, so that these count from the start. Of the pack itself, three
moments compete: the head's last chunk of logits, a layer of the text model, a layer of the tower, each beside what is
kept for the layers before it. `benchmarks/plan_memory.py` measures all of it; docs/plan.md has what came out.
"""

from collections.abc import Mapping
from typing import NamedTuple

from observe_r1.cluster.gpus import GPU
from observe_r1.cluster.plan_layout import Layout
from observe_r1.cluster.shape import Shape
from observe_r1.config.plan import PlanSettings
from observe_r1.errors import UserError
from observe_r1.rollout.engine import TrainingMemory
from observe_r1.rollout.vllm_start import gpu_share

GIB = 2**30
SPARE = 0.1
"""Share of a GPU left free, as docs/memory.md has it."""
_MOMENTS = {"adamw": 8.0, "adamw_8bit": 2 + 2 * 4 / 256}
_LOGITS = {2: 16, 4: 12}
"""Bytes of a logit while a log-probability goes backward, by those of the compute type: float32 log-probabilities, and
gradients of two steps, or three. Measured: with a trained head in bfloat16 it may be less."""


class Longest(NamedTuple):
    """The largest pack: its tokens, and the patches of its images."""

    tokens: int
    patches: int


def longest_pack(settings: PlanSettings, merge: int) -> Longest:
    """Return the largest pack that a run may meet: a full one, or one prompt with one response, all of it images."""
    budget, prompt = settings.optimizer.tokens_per_pack, settings.data.max_prompt_tokens
    return Longest(max(budget, prompt + settings.rollout.max_new_tokens), merge * max(budget, prompt))


def memory_parts(
    settings: PlanSettings,
    shape: Shape,
    layout: Layout,
    pack: Longest,
    *,
    compute_bytes: int = 2,
    fused: bool = True,
) -> dict[str, float]:
    """Return the bytes of a GPU that trains, at the peak of an update, by part.

    Args:
        settings: Of the run.
        shape: Of its model.
        layout: On one GPU without sharding, as the local policy holds it.
        pack: The largest.
        compute_bytes: Of a number in the compute type; with 4 the masters are the weights, and there are no copies.
        fused: As CUDA computes norms, the tower's attention and the head; else as the CPU does, which keeps more.
    """
    offload, local, one = settings.optimizer.offload, layout.shard, layout.ranks == 1
    whole = 0 if one else shape.tower * (not shape.trains_tower)  # a frozen tower is not sharded
    frozen = shape.parameters - shape.trained - shape.quantized - whole
    masters = 4 * shape.trained
    if offload:
        masters = compute_bytes * shape.trained if one else 0
    shared = 0 if offload and not one else compute_bytes * frozen
    copies = 0.0
    if one and compute_bytes < 4 and not offload:
        copies = compute_bytes * shape.trained
    if not one:
        copies = compute_bytes * (shape.root + (0 if settings.cluster.reshard else sum(shape.units)))
    reference = 0.0
    if settings.objective.kl_coef > 0 and not settings.model.lora_rank:
        tower = 0 if one else shape.tower
        reference = compute_bytes * (tower + (0 if offload and not one else (shape.base - tower) / local))
    gradients = compute_bytes * sum(sorted(shape.units)[-2:]) if offload else 4.0 * shape.trained / local
    kept, working = _pack(settings, shape, pack, compute_bytes, fused=fused, sharded=not one)
    return {
        "weights": compute_bytes * whole + shape.quantized * shape.quantized_bytes + (shared + masters) / local,
        "gathered or copied weights": copies,
        "moments": 0.0 if offload else _MOMENTS.get(settings.optimizer.kind, 8.0) * shape.trained / local,
        "reference": reference,
        "image features": 0.0 if shape.trains_tower else settings.model.feature_cache * GIB,
        "gradients": gradients,
        "kept activations": kept,
        "one layer or logits": working,
    }


def _pack(
    settings: PlanSettings, shape: Shape, pack: Longest, compute: int, *, fused: bool, sharded: bool
) -> tuple[float, float]:
    """Return what the layers keep of a pack until its backward pass, and what the worst moment of that adds."""
    whole, wider = (0, 0) if fused else (compute, 4 if compute == 2 else 0)
    norm = whole * shape.trains_base + wider  # unfused, it keeps its input normalised (for its weight), and in float32
    width, heads, keys = shape.width, shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    text = compute * (4 * width + 2 * heads + 2 * keys + 4 * shape.mlp) + 2 * norm * width
    tower_width = shape.tower_width
    tower = compute * (10 * tower_width + 4 * shape.tower_mlp) + (3 * whole + 2 * wider) * tower_width
    again = shape.checkpointing
    ends = pack.tokens * (5 * compute + norm) * width  # after the last layer: norm, what predicts, its gradient
    kept = shape.layers * pack.tokens * (compute * width if again else text) + ends
    kept_tower = 0.0
    if shape.trains_tower:
        kept_tower = shape.tower_layers * pack.patches * (compute * tower_width if again else tower)
        kept_tower += pack.patches * compute * (shape.patch_width + 5 * tower_width)  # pixels, and the merger

    def layer(tokens: int, saved: int, wide: int, mlp: int) -> float:
        """Return what one layer's backward pass adds: itself, computed again, gradients, those of one weight."""
        return tokens * ((saved if again else 0) + compute * (2 * mlp + 2 * wide)) + (4 + compute % 4) * wide * mlp

    table = 4 * shape.vocabulary * width if shape.trains_head else 0
    later = table if shape.tied else 0  # a tied weight's gradient waits for that of the embeddings
    if sharded:
        later = 4 * shape.root if shape.trains_base else 0
    blocks = shape.tower_layers if shape.trains_tower else 0
    layers, embeddings = shape.units[: shape.layers], shape.units[shape.layers + blocks :]
    gathered = compute * settings.cluster.reshard + 2 * 4 * shape.trained / shape.parameters

    def units(*sizes: int) -> float:
        """Return what two parts take, of which one is gathered ahead and one's gradients are on their way."""
        return gathered * sum(sorted(sizes)[-2:]) if sharded else 0.0

    moments = [
        kept + kept_tower + _head(settings, shape, table, compute, fused=fused),
        kept + kept_tower + later + units(*layers) + layer(pack.tokens, text, width, shape.mlp),
        kept_tower + later + units(*embeddings, max(layers)),
    ]
    if shape.trains_tower:
        here = units(*shape.units[shape.layers : shape.layers + blocks])
        moments.append(kept_tower + later + here + layer(pack.patches, tower, tower_width, shape.tower_mlp))
    return kept + kept_tower, max(moments) - kept - kept_tower


def _head(settings: PlanSettings, shape: Shape, table: int, compute: int, *, fused: bool) -> float:
    """Return what the head's chunks add in the backward pass: logits, and the gradient that they add up in.

    Autograd holds the sum so far, the next chunk's gradient and, if it cannot add in place, their sum.
    """
    logits = settings.optimizer.head_chunk * shape.vocabulary
    product = 2 * table + (4 if compute == 4 else 6 if fused else 10) * logits
    return max(table + _LOGITS[compute] * logits, product, 3 * table if compute == 4 else 0)


def engine_cache(
    settings: PlanSettings, shape: Shape, layout: Layout, gpu: GPU, memory: Mapping[str, float]
) -> tuple[float, str]:
    """Return an engine's room for keys and values on each of its GPUs, and why there is none."""
    total = int(gpu.memory * GIB)
    if sum(memory.values()) > (1 - SPARE) * total:
        need = sum(memory.values()) / GIB
        return 0.0, f"an update takes {need:.1f} GiB of the {(1 - SPARE) * gpu.memory:.1f} that can be used"
    weights = 2 * shape.base // layout.tensor_parallel if settings.rollout.engine == "vllm" else 0
    update = {name: int(memory[name]) for name in ("gradients", "kept activations", "one layer or logits")}
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
        room = (1 - SPARE) * total - weights - (sum(resting.values()) if layout.colocated else 0)
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
        parts = memory_parts(changed, shape, layout, longest_pack(changed, shape.merge))
        return sum(parts.values()) <= (1 - SPARE) * gpu.memory * GIB

    low, high = 0, 2**14
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(256 * middle) else (low, middle - 1)
    return 256 * low
