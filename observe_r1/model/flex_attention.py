"""Packed layouts on FlexAttention (arXiv 2412.05496; `torch.nn.attention.flex_attention`): the path on CUDA.

A sequence is padded to the next power of two, so that a run compiles a handful of kernels. Padding sees nothing and
is seen by nothing: its blocks are not in the mask and cost no arithmetic, only a copy of query, key and value.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from observe_r1.errors import UserError
from observe_r1.model.device import to_device

_BLOCK = 128  # tokens a side, FlexAttention's own default
_SMALLEST = 1024  # tokens
_KERNELS = 64  # that Dynamo may compile: lengths, each with and without gradient, in two types


class Segment(NamedTuple):
    """Tokens `start` to `end` (exclusive): each sees `prompt_start` to `prompt_end`, and from `start` up to itself."""

    start: int
    end: int
    prompt_start: int
    prompt_end: int


def bucket(tokens: int) -> int:
    """Return the length that a sequence of `tokens` is padded to."""
    return max(_SMALLEST, 1 << (tokens - 1).bit_length())


def make_block_mask(runs: Sequence[Segment], device: torch.device) -> BlockMask:
    """Return the block mask of a sequence, padded to its `bucket`.

    Which blocks are empty, full or neither is found token by block, in 1/128 of the (T, T) that `create_block_mask`
    computes.

    Args:
        runs: Of the sequence, each beginning where the one before ends, the first at 0.
        device: Where the attention is computed.
    """
    length = bucket(runs[-1].end)
    prompt_start, prompt_end, own = (to_device(t, device) for t in _spans(runs, length))

    def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ((prompt_start[q] <= k) & (k < prompt_end[q])) | ((own[q] <= k) & (k <= q))

    first = torch.arange(0, length, _BLOCK, device=device)  # of each block of keys
    end = first + _BLOCK
    start, stop, begin = (t[:, None] for t in (prompt_start, prompt_end, own))
    itself = torch.arange(length, device=device)[:, None]
    touched = ((start < end) & (first < stop)) | ((begin < end) & (first <= itself))  # (T, T / 128)
    filled = ((start <= first) & (end <= stop)) | ((begin <= first) & (end <= itself + 1))
    blocks = (-1, _BLOCK, len(first))
    full = filled.view(blocks).all(dim=1)
    partial = touched.view(blocks).any(dim=1) & ~full
    return BlockMask.from_kv_blocks(
        *_ordered(partial), *_ordered(full), BLOCK_SIZE=_BLOCK, mask_mod=sees, seq_lengths=(length, length)
    )


def flex_attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float) -> Tensor:
    """Compute attention under a block mask.

    Args:
        query: (1, H, T, D), T at most the mask's length.
        key: (1, H_kv, T, D); H_kv divides H.
        value: (1, H_kv, T, D).
        mask: Of `make_block_mask`.
        scaling: Of the scores, before the softmax.

    Returns:
        (1, H, T, D).
    """
    tokens = query.shape[2]
    padding = (0, 0, 0, mask.seq_lengths[0] - tokens)
    # Contiguous, if there is nothing to pad too: kernels are of one memory layout each.
    query, key, value = (F.pad(states, padding).contiguous() for states in (query, key, value))
    # Set around each call: settings belong to a thread, and autograd recomputes checkpointed layers in one of its own.
    with torch._dynamo.config.patch(recompile_limit=_KERNELS):
        output = _compiled()(query, key, value, block_mask=mask, scale=scaling, enable_gqa=True)
    return output[:, :, :tokens]


def compile_kernels(
    heads: tuple[int, int],
    width: int,
    longest: int,
    dtype: torch.dtype,
    device: torch.device,
    note: Callable[[str], None],
) -> None:
    """Compile the kernels for every `bucket` up to that of `longest`, with and without gradient.

    The first step that meets a length would compile it otherwise: seconds of silence, a bucket at a time.

    Args:
        heads: H and H_kv.
        width: Of a head, D.
        longest: Tokens of the longest sequence that is expected.
        dtype: Of query, key and value.
        device: Where the attention is computed.
        note: Is told what is being compiled.

    Raises:
        UserError: Triton finds no C compiler or no headers of Python.
    """
    lengths = [_SMALLEST << doubled for doubled in range((bucket(longest) // _SMALLEST).bit_length())]
    for number, length in enumerate(lengths, 1):
        note(f"compiling attention: packs of up to {length:,} tokens, {number} of {len(lengths)}")
        mask = make_block_mask([Segment(0, length - 1, 0, 0)], device)
        query, key = (torch.zeros(1, h, length - 1, width, dtype=dtype, device=device) for h in heads)
        try:
            with torch.no_grad():
                flex_attend(query, key, key, mask, width**-0.5)  # kernels are of one scaling each
            query, key, value = (states.clone().requires_grad_() for states in (query, key, key))
            flex_attend(query, key, value, mask, width**-0.5).sum().backward()
        except Exception as error:  # torch's compiler wraps what Triton raises in errors of its own
            if tool := _missing_tool():
                raise UserError(f"Triton cannot compile for the GPU without {tool}: install it") from error
            raise


def _missing_tool() -> str:
    """Return what Triton lacks to build the C code that loads its kernels (its `runtime/build.py`); "" for nothing."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler (gcc)"
    if not Path(sysconfig.get_paths("posix_prefix")["include"], "Python.h").is_file():
        return f"Python's headers (python{sysconfig.get_python_version()}-dev)"
    return ""


@cache
def _compiled() -> Callable[..., Tensor]:
    """Made on first use: torch's compiler takes seconds to import.

    With `fullgraph`, one kernel too many is an error; without it, Dynamo would compute all T² scores, uncompiled.
    """
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _spans(runs: Sequence[Segment], length: int) -> Tensor:
    """(3, length) int32: for each token the first and the end (exclusive) of the prompt that it sees, and the first of
    its own run; a run that follows its prompt directly takes it for its own, and padding has neither."""
    spans = [
        (0, 0, run.prompt_start) if run.prompt_end == run.start else (run.prompt_start, run.prompt_end, run.start)
        for run in runs
    ]
    sizes = [run.end - run.start for run in runs]
    table = torch.tensor([*spans, (0, 0, length)], dtype=torch.int32)
    return table.repeat_interleave(torch.tensor([*sizes, length - sum(sizes)]), dim=0).T.contiguous()


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each row of (Q, K) has, (1, 1, Q), and their columns before all others, (1, 1, Q, K)."""
    columns = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(dim=1, dtype=torch.int32)[None, None], columns.int()[None, None]
