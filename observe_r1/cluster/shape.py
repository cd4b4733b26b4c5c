"""What a plan must know of a model: parameters by part, arithmetic of a token; read off a model without memory."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from observe_r1.config import ModelSettings
from observe_r1.errors import UserError
from observe_r1.model.adapters import add_adapters
from observe_r1.model.families import SHARED_PREFIX, check_family
from observe_r1.model.forward import trains_tower
from observe_r1.model.hub import is_model_folder
from observe_r1.model.loading import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

_TEXT_OF = {
    "3B": (151936, 2048, 11008, 36, 16, 2, 3420),
    "7B": (152064, 3584, 18944, 28, 28, 4, 3420),
    "32B": (152064, 5120, 27648, 64, 40, 8, 3456),
    "72B": (152064, 8192, 29568, 80, 64, 8, 3456),
}
"""Qwen2.5-VL's sizes as their config.json files have them: vocabulary, width, MLP, layers, heads, key-value heads, and
the MLP of the tower."""
_QUANTIZED = {"none": 0.0, "8bit": 1.0, "4bit": 0.52}
"""Bytes of a number, its share of the scales included, as docs/memory.md has it."""
NAMED = {f"Qwen/Qwen2.5-VL-{size}-Instruct": size for size in _TEXT_OF}
"""Checkpoints that need no file to be planned for, by their names on the Hub."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model as it is trained."""

    parameters: int
    trained: int
    """Of `parameters`, and of adapters on top of them."""
    base: int
    """Parameters without adapters: what a sampler or a reference model holds."""
    tower: int
    """Parameters of the image tower, of `base`."""
    quantized: int
    """Of `parameters`, those held in 8 or 4 bits."""
    quantized_bytes: float
    """Of each of these."""
    units: tuple[int, ...]
    """Parameters of each part that FSDP gathers by itself (`cluster.sharding`): layers, trained tower's blocks,
    embeddings."""
    root: int
    """Parameters of the rest, which stays gathered."""
    tied: bool
    """Whether embeddings and head are one weight."""
    width: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    linear: int
    """Parameters in the linear layers of the text model: a token's multiplications in a forward pass."""
    tower_linear: int
    """Those of the tower, for one patch."""
    tower_width: int
    tower_mlp: int
    tower_layers: int
    tower_full: int
    """Layers of the tower that see an entire image; the others see windows of 64 patches."""
    patch_width: int
    """Numbers of a patch's pixels, as the tower takes them."""
    merge: int
    """Patches that make one image token."""
    trains_base: bool
    """Whether the text model's own weights are trained, not adapters alone."""
    trains_head: bool
    trains_tower: bool
    checkpointing: bool

    @property
    def cached_token(self) -> int:
        """Bytes of one token's keys and values in all layers, in bfloat16."""
        return 2 * self.layers * self.kv_heads * self.head_width * 2


def read_shape(settings: ModelSettings) -> Shape:
    """Return the sizes of the model that `settings` name: a folder, a name on the Hub, or one of `NAMED`.

    Raises:
        UserError: It has no config.json, or one that describes no supported model.
    """
    return shape_of(_config(settings), settings)


def shape_of(config: Any, settings: ModelSettings) -> Shape:
    """Return the sizes of the model that a config describes, with the parts that `settings` freeze or adapt."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
        base = _count(model.parameters())
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(settings.freeze))
        linear, tower = (_linear(part) for part in (model.model.language_model, model.model.visual))
        if settings.lora_rank:
            add_adapters(model, settings)
    trained_tower, tower_size = trains_tower(model), _count(model.model.visual.parameters())
    quantized = linear if settings.quantize != "none" else 0
    units = _units(model, quantized=quantized > 0)
    text, vision = config.text_config, config.vision_config
    merge = vision.spatial_merge_size**2
    merger = sum(_linear(part) for name, part in model.model.visual.named_children() if "merger" in name)
    tower_width = getattr(vision, "embed_dim", None) or vision.hidden_size
    return Shape(
        parameters=_count(model.parameters()),
        trained=_count(p for p in model.parameters() if p.requires_grad),
        base=base,
        tower=tower_size,
        quantized=quantized,
        quantized_bytes=_QUANTIZED[settings.quantize],
        units=units,
        root=_count(model.parameters()) - sum(units) - quantized - tower_size * (not trained_tower),
        tied=model.lm_head.weight is model.get_input_embeddings().weight,
        width=text.hidden_size,
        mlp=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_width=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=text.vocab_size,
        linear=linear,
        tower_linear=tower - merger + merger // merge,
        tower_width=tower_width,
        tower_mlp=getattr(vision, "intermediate_size", None) or int(tower_width * vision.mlp_ratio),
        tower_layers=vision.depth,
        tower_full=len(getattr(vision, "fullatt_block_indexes", None) or range(vision.depth)),
        patch_width=model.model.visual.patch_embed.proj.weight[0].numel(),
        merge=merge,
        trains_base=any(p.requires_grad for n, p in model.model.language_model.named_parameters() if ".lora_" not in n),
        trains_head=model.lm_head.weight.requires_grad,
        trains_tower=trained_tower,
        checkpointing=settings.gradient_checkpointing,
    )


def _config(settings: ModelSettings) -> Any:
    place = f"model.path = {settings.path!r}"
    folder = Path(settings.path)
    if not folder.exists() and settings.path in NAMED:
        return _qwen(*_TEXT_OF[NAMED[settings.path]])
    try:
        is_folder = is_model_folder(settings.path, place)
    except UserError as error:
        raise UserError(f"{error}; these need no folder: {', '.join(NAMED)}") from error
    if is_folder:
        file = folder / "config.json"
        if not file.is_file():
            raise UserError(f"{place}: has no config.json: give the folder of a Hugging Face checkpoint")
        try:
            raw = json.loads(file.read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{place}: config.json is not JSON: {error}") from error
        check_family(raw.get("model_type") if isinstance(raw, dict) else None, place)
    try:
        config = AutoConfig.from_pretrained(settings.path, trust_remote_code=settings.trust_remote_code)
    except Exception as error:  # whatever a broken config or an unreachable Hub makes transformers raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{place}: its config.json cannot be read: {reason}") from error
    check_family(config.model_type, place)
    if config.model_type not in SHARED_PREFIX:
        raise UserError(
            f"{place}: a plan counts one prompt for all its responses, and {config.model_type!r} runs one sequence per"
            f" response; it can be made for {', '.join(SHARED_PREFIX)}"
        )
    return config


def _qwen(vocabulary: int, width: int, mlp: int, layers: int, heads: int, kv_heads: int, tower_mlp: int) -> Any:
    return AutoConfig.for_model(
        "qwen2_5_vl",
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": tower_mlp,
            "num_heads": 16,
            "out_hidden_size": width,
        },
        tie_word_embeddings=width == 2048,
    )


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _linear(part: nn.Module) -> int:
    """Return the weights of matrix products in a part of the model, adapters left out."""
    linear = [m for name, m in part.named_modules() if isinstance(m, nn.Linear | nn.Conv3d) and ".lora_" not in name]
    return sum(module.weight.numel() for module in linear)


def _units(model: PreTrainedModel, *, quantized: bool) -> tuple[int, ...]:
    text = model.model.language_model
    layers = [_count(layer.parameters()) - quantized * _linear(layer) for layer in text.layers]
    blocks = [_count(block.parameters()) for block in model.model.visual.blocks] if trains_tower(model) else []
    tied = model.lm_head.weight is text.embed_tokens.weight
    return (*layers, *blocks, *([] if tied else [text.embed_tokens.weight.numel()]))
