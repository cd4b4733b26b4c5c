"""The image tower: transformers' own on the same weights, run faster, and its features kept if it is frozen.

Two things in transformers' towers starve a GPU. Their patch embedding is a convolution whose kernel is its stride, a
matrix product that cuDNN and torch compute many times slower than one (pytorch issue 174051, transformers issue 45750).
And their attention runs on one window or image after the other: 88 calls per layer for an image of 1,300 tokens, more
launches than a GPU is fed in the time that it takes to compute them.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

from observe_r1.model.device import has_tensor_cores
from observe_r1.records import Prompt

FLASH_SEGMENTS = "flash_segments"
"""Name of the attention; transformers hands all segments at once to an implementation with `flash` in its name."""


def prepare_tower(model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> None:
    """Let `model`'s image tower run faster; its weights, and their names in a checkpoint, stay as they are.

    Args:
        model: Its weights may be absent still.
        dtype: The compute type.
        device: Where it computes.
    """
    embedding = model.model.visual.patch_embed
    embedding.proj = PatchProjection(embedding.proj)
    if device.type == "cuda" and has_tensor_cores(device) and _flash_takes(model, dtype):
        use_flash_segments(model)


class PatchProjection(nn.Module):
    """A convolution whose kernel is its stride, computed as a matrix product on the same parameters."""

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        self.weight: nn.Parameter = convolution.weight
        """(width, channels, frames, patch, patch)."""
        self.bias: nn.Parameter | None = convolution.bias
        """(width,), or None."""

    def forward(self, patches: Tensor) -> Tensor:
        """Return (N, width) for `patches` (N, channels, frames, patch, patch)."""
        return F.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


def _flash_takes(model: PreTrainedModel, dtype: torch.dtype) -> bool:
    """Whether FlashAttention computes the tower's attention: it has 16 bits alone, and heads of multiples of 8.

    Source: the checks of `mha_varlen_fwd` in torch's `flash_attn/flash_api.cpp`. In float32 the tower stays with
    transformers' loop: products take ten times as long there, so that launches no longer count.
    """
    return dtype == torch.bfloat16 and model.model.visual.blocks[0].attn.head_dim % 8 == 0


def use_flash_segments(model: PreTrainedModel) -> None:
    """Make `model`'s image tower attend by `flash_segments`; its text model keeps what it has."""
    AttentionInterface.register(FLASH_SEGMENTS, flash_segments)
    model.set_attn_implementation({"vision_config": FLASH_SEGMENTS})


def flash_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend from each token to all of its segment, a window or an image, in one FlashAttention kernel (CUDA alone).

    Unlike FlexAttention it compiles nothing, needs no mask, and does not pad heads of 80 to 128.

    Args:
        module: The layer; not used.
        query: (1, H, T, D), rotated.
        key: (1, H, T, D), rotated.
        value: (1, H, T, D), bfloat16.
        attention_mask: Not used.
        scaling: Of the scores, before the softmax.
        cu_seq_lens_q: (S + 1,) int32: where the S segments start and the last one ends.
        max_length_q: Tokens of the longest segment.

    Returns:
        The output (1, T, H, D), and no weights; transformers' attention interface.
    """
    # Under autocast, rotary embedding leaves query and key in float32 beside a value in bfloat16.
    query, key, value = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value))
    boundaries, longest = (cu_seq_lens_q, cu_seq_lens_q), (max_length_q, max_length_q)
    output: Any = varlen_attn(query, key, value, *boundaries, *longest, scale=scaling)
    return output[None], None


Features = tuple[Tensor, ...]
"""What a tower says of one image: (tokens, hidden), then one such tensor for each early text layer that is shown the
image again (Qwen3-VL's deepstack)."""


class FeatureCache:
    """Features of one model's frozen tower by image content; those used longest ago go first.

    A frozen tower always says the same of an image, so sampling, every update and the next epoch read what was computed
    once. Features stay on the device where they were made: the bound is the user's, and reading them is free.

    Args:
        gib: The most that is kept, in GiB.
    """

    def __init__(self, gib: float = 1.0) -> None:
        self.limit = int(gib * 2**30)
        """Bytes."""
        self.used = 0
        """Bytes kept."""
        self._kept: OrderedDict[tuple[bytes, torch.dtype], Features] = OrderedDict()

    def clear(self) -> None:
        """Forget everything: the tower's weights may change."""
        self._kept.clear()
        self.used = 0

    def features(self, prompt: Prompt, dtype: torch.dtype, run: Callable[[Tensor, Tensor], Features]) -> list[Features]:
        """Return the features of each image of `prompt`, which has at least one.

        Args:
            prompt: Its `image_digests` say which images are the same.
            dtype: The compute type; each has features of its own.
            run: Computes what is not kept, from pixels (patches, width) and grid (1, 3) of one image at a time: the
                last bits of a matrix product depend on how many rows it has, and a resumed run, whose cache is empty,
                must see the features that the first run kept.
        """
        assert prompt.pixel_values is not None and prompt.image_grid is not None
        pixels = prompt.pixel_values.split(prompt.image_grid.prod(dim=1).tolist())
        features = []
        for digest, *image in zip(prompt.image_digests, pixels, prompt.image_grid.split(1), strict=True):
            found = self._kept.pop((digest, dtype), None)
            if found is None:
                found = run(*image)
                self.used += _bytes(found)
            self._kept[digest, dtype] = found
            features.append(found)
            while self.used > self.limit:
                self.used -= _bytes(self._kept.popitem(last=False)[1])
        return features


def _bytes(features: Features) -> int:
    return sum(feature.numel() * feature.element_size() for feature in features)
