"""Attention in parts that share one softmax: on the CPU a packed layout's, where no (T, T) mask may be filled.

Each part is one call of torch's flash attention for the CPU, over B rows of queries and as many rows of keys. A token
that attends in several parts gets the mean of their outputs, weighted by their sums of exponentials (Hydragen, arXiv
2402.05099, equation 4). Given the merged output and sum, flash attention's backward returns each part's exact share of
the gradients, because it recomputes the weights from just these (ring attention does the same, arXiv 2310.01889).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


_ALIKE, _SLACK = 7 / 8, 64
"""Stretches share a batch if the shorter has at least this ratio of the longer's tokens, or lacks at most so many:
padding costs as much as tokens do, and every batch some calls."""


class Stretch(NamedTuple):
    """`length` tokens of a sequence, from `start`."""

    start: int
    length: int


class Rows:
    """Stretches, none of them empty, as the rows of a padded batch."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        starts, lengths = torch.tensor(stretches).T[..., None]
        offsets = torch.arange(int(lengths.max()))
        self.real = offsets < lengths
        """(B, L) bool: not padding."""
        self.index = starts + offsets.minimum(lengths - 1)
        """(B, L): the place of each token in the sequence; padding repeats the last one of its row."""
        self.tokens = self.index[self.real]
        """Places of the real tokens in the sequence."""
        self.places = self.real.flatten().nonzero()[:, 0]
        """Their places in the batch laid flat."""

    def pad(self, states: Tensor) -> Tensor:
        """Gather (T, H, D) into (B, H, L, D)."""
        return states[self.index].transpose(1, 2)

    def pad_with_zeros(self, states: Tensor) -> Tensor:
        """Gather (T, H, D) into (B, H, L, D), zeros for padding."""
        padded = states.new_zeros(self.index.numel(), *states.shape[1:])
        padded[self.places] = states[self.tokens]
        return padded.unflatten(0, self.index.shape).transpose(1, 2)

    def unpad(self, padded: Tensor) -> Tensor:
        """Take the real tokens out of (B, H, L, D): (tokens, H, D), in the order of `tokens`."""
        return padded.transpose(1, 2).flatten(0, 1)[self.places]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """B rows of queries, each attending to its row of keys: causally, or to all of it but the padding."""

    queries: Rows
    keys: Rows
    causal: bool

    def mask(self, dtype: torch.dtype) -> Tensor | None:
        """(B, 1, 1, keys) additive; None if nothing is to be hidden (causally, padding at the end is hidden)."""
        if self.causal or bool(self.keys.real.all()):
            return None
        return torch.zeros(self.keys.real.shape, dtype=dtype).masked_fill(~self.keys.real, float("-inf"))[:, None, None]


Pair = tuple[Stretch, Stretch]


def parts(pairs: Iterable[Pair], *, causal: bool) -> list[Part]:
    """Batch stretches of tokens that attend to each other, those of like lengths together.

    Args:
        pairs: A stretch of queries and the stretch of keys that it attends to; causally, the two are the same.
        causal: Whether a token sees only those before it and itself.
    """
    by_queries = _of_like_length(pairs, 0)
    batches = (zip(*batch, strict=True) for like in by_queries for batch in _of_like_length(like, 1))
    return [Part(Rows(queries), Rows(keys), causal) for queries, keys in batches]


def _of_like_length(pairs: Iterable[Pair], side: int) -> list[list[Pair]]:
    """Split pairs so that no stretch on this side of them is much shorter than the longest beside it."""
    batches: list[list[Pair]] = []
    for pair in sorted(pairs, key=lambda pair: pair[side].length, reverse=True):
        longest = batches[-1][0][side].length if batches else 0
        if not batches or pair[side].length < min(_ALIKE * longest, longest - _SLACK):
            batches.append([])
        batches[-1].append(pair)
    return batches


def merged_attend(query: Tensor, key: Tensor, value: Tensor, parts: Sequence[Part], scaling: float) -> Tensor:
    """Compute attention in parts that share one softmax.

    Args:
        query: (T, H, D).
        key: (T, H_kv, D); H_kv divides H.
        value: (T, H_kv, D).
        parts: In at least one of which every token attends.
        scaling: Of the scores, before the softmax.

    Returns:
        (T, H, D).
    """
    return _MergedAttention.apply(query, key, value, parts, scaling)


class _MergedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: Sequence[Part], scaling: float) -> Tensor:
        output, total = torch.zeros_like(query), None
        for part in parts:
            rows = part.queries.pad(query), part.keys.pad(key), part.keys.pad(value)
            padded, sums = _flash(*rows, is_causal=part.causal, attn_mask=part.mask(query.dtype), scale=scaling)
            if total is None:
                total = sums.new_full((*query.shape[:2], 1), float("-inf"))  # log of each token's sum of exponentials
            tokens, here = part.queries.tokens, part.queries.unpad(sums[..., None])
            before = total[tokens]
            total[tokens] = both = torch.logaddexp(before, here)
            merged = output[tokens] * (before - both).exp() + part.queries.unpad(padded) * (here - both).exp()
            output[tokens] = merged.to(output.dtype)
        ctx.save_for_backward(query, key, value, output, total)
        ctx.parts, ctx.scaling = parts, scaling
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, total = ctx.saved_tensors
        grads = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for part in ctx.parts:
            queries, keys = part.queries, part.keys
            shares = _flash_backward(
                queries.pad_with_zeros(grad),  # so that padding adds nothing
                queries.pad(query),
                keys.pad(key),
                keys.pad(value),
                queries.pad(output),
                queries.pad(total)[..., 0],
                0.0,
                part.causal,
                attn_mask=part.mask(query.dtype),
                scale=ctx.scaling,
            )
            for whole, rows, share in zip(grads, (queries, keys, keys), shares, strict=True):
                whole[rows.tokens] += rows.unpad(share)
        return *grads, None, None
