"""Which architectures are supported, and which of them compute a prompt once for all of its responses.

Sharing a prefix is a matter of the text model's attention alone: where every layer is plain causal attention behind
transformers' `AttentionInterface`, a packed group is the same as each response alone. Linear attention (Qwen3.5) reads
the sequence token by token, and a sliding window counts its tokens: there a group is run one sequence per response.
"""

import logging
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from observe_r1.errors import UserError
from observe_r1.model.image_tower import prepare_tower
from observe_r1.model.shared_prefix import NAME, use_shared_prefix

SHARED_PREFIX = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
"""Families that share prefixes; each is tested against transformers' own forward on every response alone."""
ONE_SEQUENCE = ("qwen3_5",)
"""Families that take images the same way (patches and grids) and are run one sequence per response."""
SUPPORTED = (*SHARED_PREFIX, *ONE_SEQUENCE)

_NORMS = ("Qwen2VLRMSNorm", "Qwen2_5_VLRMSNorm", "Qwen3VLTextRMSNorm")
"""transformers' classes that compute what `nn.RMSNorm` does; Qwen3.5's counts its weight from 1."""

_log = logging.getLogger(__name__)


def check_family(model_type: Any, place: str) -> None:
    """Check that an architecture is supported.

    Args:
        model_type: As `config.json` has it.
        place: Setting and value, with which the error begins.

    Raises:
        UserError: It is not.
    """
    if model_type not in SUPPORTED:
        raise UserError(f"{place}: architecture {model_type!r:.80} is not supported; supported: {', '.join(SUPPORTED)}")


def check_processor(processor: Any, config: PreTrainedConfig, place: str) -> None:
    """Check that a processor makes the tokens and patches that a model takes.

    Args:
        processor: Beside the model.
        config: Of the model.
        place: Setting and value, with which the error begins.

    Raises:
        UserError: The two are of different models.
    """
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


def prepare_model(model: PreTrainedModel, dtype: torch.dtype, device: torch.device | None = None) -> None:
    """Let `model` run its image tower faster and share prefixes if it can; if it cannot, log one line.

    Args:
        model: Its weights may be absent still.
        dtype: The compute type.
        device: Where it computes; None: where its weights are.
    """
    device = device or model.device
    prepare_tower(model, dtype, device)
    if device.type == "cuda":
        use_fused_norms(model)
    layers = set(getattr(model.config.text_config, "layer_types", None) or ["full_attention"])
    if model.config.model_type in SHARED_PREFIX and layers == {"full_attention"}:
        use_shared_prefix(model)
    else:
        kinds = ", ".join(sorted(layers))
        _log.warning("%s with %s shares no prefixes: it runs one sequence per response", model.config.model_type, kinds)


def use_fused_norms(model: PreTrainedModel) -> None:
    """Let `model` compute its norms by `nn.RMSNorm` on the same weights, under the same names: for CUDA.

    There it is a fused kernel that reads and writes bfloat16 and computes in float32 (pytorch pull request 153666: nine
    times as fast as elementwise kernels, and as fast as compiled ones). Its sums depend on nothing that ran before.
    Compiled kernels are chosen for the first sizes that they see, so that a resumed run could sum in another order.
    """
    for name, norm in list(model.named_modules()):
        if type(norm).__name__ in _NORMS:
            fused = nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon, device="meta")
            fused.weight = norm.weight
            model.set_submodule(name, fused)


def shares_prefix(model: PreTrainedModel) -> bool:
    """Whether `model` attends by layouts, several responses to one copy of their prompt."""
    return model.config.text_config._attn_implementation == NAME
