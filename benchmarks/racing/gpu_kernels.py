"""Stages of `gpu.py` without a model of full depth: the device, the text model's attention, the image tower.

Errors are ‖out − ref‖ / ‖ref‖ against a reference in float32 on the same device.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel

from observe_r1.demo.tiny_model import TINY
from observe_r1.model.image_tower import prepare_tower
from observe_r1.model.shared_prefix import PackedLayout
from racing.models import QWEN2_5_VL_3B, random_model
from racing.timing import kernel_ms, seconds
from racing.work import script

if TYPE_CHECKING:
    from gpu import Case

PROMPT_TOKENS, GROUPS = 1300, 4
GRID, TINY_GRID = (60, 84), (8, 8)
"""Height and width in patches of each image: 5,040 and 64 patches."""
AGREES = 0.02
"""Relative error up to which a computation in bfloat16 is taken for the same as one in float32."""

Attend = Callable[..., Tensor]


def device(case: Case) -> None:
    """Note versions, the device, and the two speeds that bound everything: matrix products and copies."""
    names = ("torch", "triton", "transformers", "trl", "accelerate", "datasets")
    versions = {"python": platform.python_version()}
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    cuda = case.device == "cuda"
    case.note(versions=versions, name=torch.cuda.get_device_name() if cuda else platform.machine())
    size = 8192 if cuda else 256
    left, right = torch.randn(2, size, size, device=case.device, dtype=torch.bfloat16)
    case.note(peak_tflops=rounded(2 * size**3 / kernel_ms(lambda: left @ right, case.device) / 1e9))
    count = 2**30 if cuda else 2**20
    source, target = (torch.ones(count, device=case.device) for _ in range(2))
    case.note(copy_gbs=rounded(8 * count / kernel_ms(lambda: target.copy_(source), case.device) / 1e6))
    host = torch.ones(count // 4, pin_memory=cuda)
    upload = kernel_ms(lambda: target[: len(host)].copy_(host, non_blocking=True), case.device, calls=3)
    case.note(upload_gbs=rounded(4 * len(host) / upload / 1e6))


class Heads(NamedTuple):
    """Heads of queries, heads of keys and values, and the width of each."""

    query: int
    key: int
    width: int


def attention(case: Case) -> None:
    """Check and time attention over packed groups, for the heads of the text model and some as wide as the tower's.

    Raises: `SystemExit` where ours fails or differs from the reference, after all has been tried.
    """
    sizes = (Heads(4, 2, 16), Heads(2, 2, 20)) if case.tiny else (Heads(16, 2, 128), Heads(16, 16, 80))
    wrong = []
    for heads in sizes:
        name = f"{heads.query}/{heads.key} heads of {heads.width}"
        figures: dict[str, Any] = {"ours": tried(lambda heads=heads: _packed_attention(case, heads))}
        case.note(**{name: figures})
        figures["gathered"] = tried(lambda heads=heads: _gathered_attention(case, heads))
        case.note(**{name: figures})
        wrong += [] if figures["ours"].get("agrees") else [name]
    _insist(wrong)


def _packed_attention(case: Case, heads: Heads) -> dict[str, Any]:
    """Our attention: on CUDA FlexAttention, on the CPU merged parts."""
    prompts, responses = groups(case)
    before = kernels_compiled()

    def attend(responses: Sequence[Sequence[int]]) -> Attend:
        layout = PackedLayout(prompts, responses, torch.device(case.device))
        return lambda q, k, v: layout.attend(q, k, v, heads.width**-0.5, 0)

    figures = _measured(attend(responses), prompts, responses, heads, case.device)
    compiled = kernels_compiled() - before
    # Other lengths, as the next batch has them, must compile nothing new.
    shorter = [[length - 1 for length in group] for group in responses]
    _backward(attend(shorter), _states(sum(prompts) + sum(map(sum, shorter)), heads, case.device))
    return figures | {"kernels_compiled": compiled, "compiled_again": kernels_compiled() - before - compiled}


def _gathered_attention(case: Case, heads: Heads) -> dict[str, Any]:
    """FlashAttention as torch has it, over keys and values copied for each response."""
    from torch.nn.attention.varlen import varlen_attn

    prompts, responses = groups(case)
    gathered = Gathered(prompts, responses, case.device)
    grouped = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}  # older: unasked

    def flash(q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor, longest: tuple[int, int]) -> Tensor:
        settings = {"window_size": (-1, 0), "scale": heads.width**-0.5} | grouped
        return varlen_attn(q, k, v, q_ends, k_ends, *longest, **settings)

    return _measured(lambda q, k, v: gathered.attend(q, k, v, flash), prompts, responses, heads, case.device)


class Gathered:
    """Packed groups as segments: each prompt, and each response with a copy of its prompt's keys before its own."""

    def __init__(self, prompts: Sequence[int], responses: Sequence[Sequence[int]], device: str) -> None:
        queries, keys, index, start = [], [], [], 0
        for prompt, group in zip(prompts, responses, strict=True):
            queries.append(prompt)
            keys.append(prompt)
            shared = list(range(start, start + prompt))
            index += shared
            start += prompt
            for length in group:
                queries.append(length)
                keys.append(prompt + length)
                index += [*shared, *range(start, start + length)]
                start += length
        self.index = torch.tensor(index, device=device)
        """Where each key of each segment stands in the packed sequence."""
        self.q_ends, self.k_ends = (
            torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device) for lengths in (queries, keys)
        )
        self.longest = max(queries), max(keys)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attend: Attend) -> Tensor:
        """Attend by `attend(q, k, v, q_ends, k_ends, longest)`, causal from the end; states are (1, H, T, D)."""
        query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
        output = attend(query, key[self.index], value[self.index], self.q_ends, self.k_ends, self.longest)
        return output.transpose(0, 1)[None]


def groups(case: Case) -> tuple[list[int], list[list[int]]]:
    """Return prompt lengths and response lengths of the packed groups, in tokens."""
    given = script(GROUPS, 8, "real", longest=1024, scale=0.05 if case.tiny else 1.0)
    return [24 if case.tiny else PROMPT_TOKENS] * GROUPS, given.lengths.tolist()


def visible(prompts: Sequence[int], responses: Sequence[Sequence[int]]) -> Tensor:
    """Return (T, T) bool: which token of packed groups sees which, by definition."""
    total = sum(prompts) + sum(map(sum, responses))
    sees = torch.zeros(total, total, dtype=torch.bool)
    start = 0
    for prompt, group in zip(prompts, responses, strict=True):
        shared = slice(start, start + prompt)
        sees[shared, shared] = True
        start += prompt
        for length in group:
            own = slice(start, start + length)
            sees[own, shared] = sees[own, own] = True
            start += length
    return sees.tril()


def _states(tokens: int, heads: Heads, device: str) -> list[Tensor]:
    """Query, key and value (1, H, T, D), float32 leaves that bfloat16 holds exactly."""
    shapes = [(1, count, tokens, heads.width) for count in (heads.query, heads.key, heads.key)]
    drawn = (torch.randn(shape, device=device, dtype=torch.bfloat16).float() for shape in shapes)
    return [states.requires_grad_() for states in drawn]


def _backward(attend: Attend, states: Sequence[Tensor], weight: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return output and gradients in bfloat16, through autocast and checkpointing as a layer of the policy has them.

    `weight` is the gradient of the output, ones by default.
    """

    def layer(*inputs: Tensor) -> Tensor:
        return attend(*(each.to(torch.bfloat16) for each in inputs))

    with torch.autocast(states[0].device.type, torch.bfloat16):
        output = checkpoint(layer, *states, use_reentrant=False)
    return output, *torch.autograd.grad(output, states, torch.ones_like(output) if weight is None else weight)


def _measured(
    attend: Attend, prompts: Sequence[int], responses: Sequence[Sequence[int]], heads: Heads, device: str
) -> dict[str, Any]:
    """Return relative errors of output and gradients, milliseconds, and operations a second on what is visible.

    The first call compiles. `both` is a forward, the same forward again and its backward, as in an update.
    """
    torch.manual_seed(0)
    mask = visible(prompts, responses).to(device)
    states = _states(len(mask), heads, device)
    weight = torch.randn_like(states[0]).to(torch.bfloat16)
    first = seconds(lambda: _backward(attend, states, weight), device)
    results = _backward(attend, states, weight)
    repeats = heads.query // heads.key
    wide = [states[0], *(each.repeat_interleave(repeats, dim=1) for each in states[1:])]
    expected = F.scaled_dot_product_attention(*wide, attn_mask=mask)
    reference = (expected, *torch.autograd.grad(expected, states, weight.float()))
    names = ("output", "query", "key", "value")
    errors = {name: relative_error(*pair) for name, *pair in zip(names, results, reference, strict=True)}
    halves = [each.detach().to(torch.bfloat16).requires_grad_() for each in states]
    forward = kernel_ms(lambda: attend(*halves), device, calls=5)
    both = kernel_ms(lambda: _backward(attend, states, weight), device, calls=5)
    operations = 4 * heads.width * heads.query * float(mask.sum())
    return {
        "first_call_s": rounded(first),
        "errors": errors,
        "error": max(errors.values()),
        "agrees": all(error < AGREES for error in errors.values()),  # NaN does not
        "forward_ms": rounded(forward),
        "both_ms": rounded(both),
        "forward_tflops": rounded(operations / forward / 1e9),
        "both_tflops": rounded(3 * operations / both / 1e9),
    }


def kernels_compiled() -> int:
    """Return how many graphs torch's compiler has made in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def tower(case: Case) -> None:
    """Check and time one image through each attention of the tower, and its patch embedding two ways.

    Raises: `SystemExit` where ours fails or differs from the reference, after all has been tried.
    """
    sizes = TINY if case.tiny else replace(QWEN2_5_VL_3B, layers=1)
    height, width = TINY_GRID if case.tiny else GRID
    pixels = torch.randn(height * width, 3 * 2 * 14 * 14, device=case.device, dtype=torch.bfloat16)
    case.note(patch_embedding=_patch_embeddings(pixels, sizes.vision_width, case.device))
    grid = torch.tensor([[1, height, width]], device=case.device)
    model = random_model(sizes, vocabulary=1024, device=case.device).float()
    expected = _features(model, pixels.float(), grid).detach()
    model.to(torch.bfloat16)
    AttentionInterface.register("flash_varlen", _varlen_segments)
    AttentionInterface.register("flash_flex", _FlexSegments())
    figures: dict[str, Any] = {}
    for name in ("ours", "sdpa", "flash_varlen", "flash_flex"):
        model.set_attn_implementation({"vision_config": "sdpa" if name == "ours" else name})
        if name == "ours":
            prepare_tower(model, torch.bfloat16, model.device)  # patches are embedded its way in all that follow
        figures[name] = tried(lambda: _timed_tower(model, pixels, grid, expected, case.device))
        case.note(attention=figures)
    _insist([] if figures["ours"].get("agrees") else ["tower"])


def _features(model: PreTrainedModel, pixels: Tensor, grid: Tensor) -> Tensor:
    return torch.cat(list(model.get_image_features(pixels, grid, return_dict=True).pooler_output))


def _timed_tower(model: PreTrainedModel, pixels: Tensor, grid: Tensor, expected: Tensor, device: str) -> dict[str, Any]:
    trained = [parameter for parameter in model.model.visual.parameters() if parameter.requires_grad]
    weight = torch.randn_like(expected).to(torch.bfloat16)

    def forward() -> Tensor:
        with torch.no_grad():
            return _features(model, pixels, grid)

    def both() -> object:
        return torch.autograd.grad(_features(model, pixels, grid), trained, weight)

    first = seconds(both, device)
    error = relative_error(forward(), expected)
    return {
        "first_call_s": rounded(first),
        "forward_ms": rounded(kernel_ms(forward, device, calls=3)),
        "both_ms": rounded(kernel_ms(both, device, calls=3)),
        "error": error,
        "agrees": error < 4 * AGREES,  # thirty-two layers of rounding
    }


class _FlexSegments:
    """FlexAttention within segments, as transformers' attention interface has it; one mask for each set of segments."""

    def __init__(self) -> None:
        self.masks: dict[int, BlockMask] = {}
        self.compiled = torch.compile(flex_attention, dynamic=False)

    def __call__(
        self,
        module: nn.Module,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *_: Any,
        cu_seq_lens_q: Tensor,
        scaling: float,
        **__: Any,
    ) -> tuple[Tensor, None]:
        count, length = len(cu_seq_lens_q), q.shape[2]
        if count not in self.masks:
            segment = torch.searchsorted(cu_seq_lens_q.long(), torch.arange(length, device=q.device), right=True)
            same = lambda batch, head, i, j: segment[i] == segment[j]  # noqa: E731
            self.masks[count] = create_block_mask(same, None, None, length, length, device=str(q.device))
        q, k = q.to(v.dtype), k.to(v.dtype)
        return self.compiled(q, k, v, block_mask=self.masks[count], scale=scaling).transpose(1, 2), None


def _varlen_segments(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, *_: Any, cu_seq_lens_q: Tensor, scaling: float, **__: Any
) -> tuple[Tensor, None]:
    """FlashAttention within segments, as torch has it."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (states[0].transpose(0, 1).to(v.dtype) for states in (q, k, v))
    ends = cu_seq_lens_q.to(torch.int32)
    longest = max(end - start for start, end in pairwise(ends.tolist()))
    return varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling)[None], None


def _patch_embeddings(pixels: Tensor, width: int, device: str) -> dict[str, Any]:
    """Time the embedding of patches as a convolution and as the matrix product that it is."""
    convolution = nn.Conv3d(3, width, (2, 14, 14), (2, 14, 14), bias=False, device=device, dtype=torch.bfloat16)
    patches, weight = pixels.view(-1, 3, 2, 14, 14), convolution.weight
    ways = {
        "convolution": lambda: convolution(patches).flatten(1),
        "product": lambda: F.linear(patches.flatten(1), weight.flatten(1)),
    }
    expected = F.linear(pixels.float(), weight.detach().float().flatten(1))

    def figures(embed: Callable[[], Tensor]) -> dict[str, Any]:
        gradient = torch.ones_like(expected, dtype=torch.bfloat16)
        forward = kernel_ms(lambda: embed().detach(), device, calls=5)
        both = kernel_ms(lambda: torch.autograd.grad(embed(), weight, gradient), device, calls=5)
        error = relative_error(embed(), expected)
        return {"forward_ms": rounded(forward), "both_ms": rounded(both), "error": error}

    return {name: tried(lambda embed=embed: figures(embed)) for name, embed in ways.items()}


def tried(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `work` measures, or in one line why this device or this torch cannot do it."""
    try:
        return work()
    except (RuntimeError, ImportError) as error:
        return {"failed": f"{type(error).__name__}: {error}"[:600]}


def _insist(wrong: Sequence[str]) -> None:
    """End the process with an error where ours is `wrong`."""
    if wrong:
        raise SystemExit(f"ours failed, or differs from the reference by over {AGREES}: {', '.join(wrong)}")


def relative_error(result: Tensor, reference: Tensor) -> float:
    """‖result − reference‖ / ‖reference‖, NaN where a result is."""
    result, reference = result.detach().double(), reference.detach().double()
    return rounded(float((result - reference).norm() / reference.norm()))


def rounded(value: float) -> float:
    """Return three significant figures."""
    return float(f"{value:.3g}")
