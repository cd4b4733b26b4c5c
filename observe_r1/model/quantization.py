"""Frozen weights in 8 or 4 bits under LoRA adapters, through transformers and bitsandbytes.

8 bits: LLM.int8() (arXiv 2208.07339). 4 bits: QLoRA's NF4 with double quantization (arXiv 2305.14314). The image tower
and the head, small and sensitive, are left as they are.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from observe_r1.config import ModelSettings
from observe_r1.errors import UserError, how_to_install

_LEFT = ["model.visual", "lm_head"]


def quantization(settings: ModelSettings, device: torch.device) -> dict[str, Any]:
    """Return what `from_pretrained` must be told to load by `settings.quantize`; nothing for `none`.

    Errors: `UserError` without adapters to train or without bitsandbytes.
    """
    if settings.quantize == "none":
        return {}
    if settings.lora_rank == 0:
        raise UserError(
            f"model.quantize = {settings.quantize!r}: quantized weights cannot be trained; "
            "train adapters on them (model.lora_rank: 32) or leave it at 'none'"
        )
    if find_spec("bitsandbytes") is None:
        raise UserError(f"model.quantize = {settings.quantize!r} needs bitsandbytes: {how_to_install('quantize')}")
    config = BitsAndBytesConfig(
        load_in_8bit=settings.quantize == "8bit",
        load_in_4bit=settings.quantize == "4bit",
        llm_int8_skip_modules=_LEFT,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
    )
    return {"quantization_config": config, "device_map": {"": device}}


def keep_trainable(model: nn.Module) -> None:
    """Keep 4-bit layers of `model` as they were loaded; nothing to do for others.

    In evaluation mode on a CPU with AVX-512 bitsandbytes would pack their weights anew, rounding their scales, into a
    form that cannot be trained through.
    """
    layers: Any = model.modules()
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def dequantized(module: nn.Module) -> Tensor:
    """Return the weight of `module`, computed back if it is quantized; `module` itself stays as it is."""
    weight: Any = module.weight
    match type(weight).__name__:
        case "Params4bit":
            from bitsandbytes.functional import dequantize_4bit

            return dequantize_4bit(weight.data, weight.quant_state)
        case "Int8Params":
            # peft's own way back moves the weight and loses its scales. A first forward moves them into the state.
            state: Any = module.state
            scales = weight.SCB if state.SCB is None else state.SCB
            return weight.data * (scales[:, None] / 127)
        case _:
            return weight
