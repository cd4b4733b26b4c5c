"""Which architectures are supported, and which of them compute a prompt once for all of its responses.

Sharing a prefix is a matter of the text model's attention alone: where every layer is plain causal attention behind
transformers' `AttentionInterface`, a packed group is the same as each response alone. Linear attention (Qwen3.5) reads
the sequence token by token, and a sliding window counts its tokens: there a group is run one sequence a response.
"""

import logging
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from observe_r1.errors import UserError
from observe_r1.model import flex_attention
from observe_r1.model.attention import NAME, use_shared_prefix

# `flash_segments`: the image tower's attention within windows and images, as one kernel a layer; for CUDA.
#
# Transformers' towers run SDPA on one segment after the other, 88 a layer for an image of 1,300 tokens, which is more
# launches than a GPU is fed in the time that it takes to compute them. An implementation with `flash` in its name is
# given all segments at once.

FLASH_SEGMENTS = "flash_segments"

_masks = WeakTensorKeyDictionary()  # all layers of a forward are given the same one or two tensors of boundaries


def flash_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend from each token of (1, H, T, D) to all of its segment; transformers' attention interface.

    `cu_seq_lens_q` (S + 1,) holds where the S segments start and the last one ends.
    """
    # Under autocast, rotary embedding leaves query and key in float32 beside a value in bfloat16.
    query, key = query.to(value.dtype), key.to(value.dtype)
    return flex_attention.attend(query, key, value, _mask(cu_seq_lens_q, query), scaling).transpose(1, 2), None


def use_flash_segments(model: PreTrainedModel) -> None:
    """Make `model`'s image tower attend by `flash_segments`; its text model keeps what it has."""
    AttentionInterface.register(FLASH_SEGMENTS, flash_segments)
    model.set_attn_implementation({"vision_config": FLASH_SEGMENTS})


def _mask(boundaries: Tensor, query: Tensor) -> BlockMask:
    if boundaries not in _masks:
        # A run that is its own prompt sees all of itself.
        runs = [flex_attention.Run(start, end, start, end) for start, end in pairwise(boundaries.tolist())]
        _masks[boundaries] = flex_attention.make_block_mask(runs, query.device)
    return _masks[boundaries]


SHARED_PREFIX = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
"""Families that share prefixes; each is tested against transformers' own forward on every response alone."""
ONE_SEQUENCE = ("qwen3_5",)
"""Families that take images the same way (patches and grids) and are run one sequence a response."""
SUPPORTED = (*SHARED_PREFIX, *ONE_SEQUENCE)

_log = logging.getLogger(__name__)


def check_family(model_type: Any, place: str) -> None:
    """Raise `UserError`, beginning with `place`, for the `model_type` of an architecture that is not supported."""
    if model_type not in SUPPORTED:
        raise UserError(f"{place}: architecture {model_type!r:.80} is not supported; supported: {', '.join(SUPPORTED)}")


def check_processor(processor: Any, config: PreTrainedConfig, place: str) -> None:
    """Raise `UserError` where `processor` makes other tokens or patches than the model of `config` takes."""
    highest, rows = max(processor.tokenizer.get_vocab().values()), config.text_config.vocab_size
    if highest >= rows:
        raise UserError(
            f"{place}: the tokenizer gives ids up to {highest:,}, the model has embeddings for {rows:,} tokens: "
            "tokenizer.json is another model's, or the embeddings were not resized with it"
        )
    images, patches = processor.image_processor, config.vision_config
    for what, made, taken in (
        ("image token", processor.image_token_id, config.image_token_id),
        ("video token", getattr(processor, "video_token_id", None), config.video_token_id),
        ("patch size", images.patch_size, patches.patch_size),
        ("temporal patch size", images.temporal_patch_size, patches.temporal_patch_size),
        ("merge size", images.merge_size, patches.spatial_merge_size),
    ):
        if made != taken:
            raise UserError(
                f"{place}: the {what} is {made} in the processor's files and {taken} in config.json: they are of "
                "different models"
            )


def prepare_attention(model: PreTrainedModel) -> None:
    """Let `model` share prefixes if it can; otherwise leave its text model's attention alone and log one line."""
    if model.device.type == "cuda":
        use_flash_segments(model)
    layers = set(getattr(model.config.text_config, "layer_types", None) or ["full_attention"])
    if model.config.model_type in SHARED_PREFIX and layers == {"full_attention"}:
        use_shared_prefix(model)
    else:
        kinds = ", ".join(sorted(layers))
        _log.warning("%s with %s shares no prefixes: it is run one sequence a response", model.config.model_type, kinds)


def shares_prefix(model: PreTrainedModel) -> bool:
    """Whether `model` attends by layouts, several responses to one copy of their prompt."""
    return model.config.text_config._attn_implementation == NAME
