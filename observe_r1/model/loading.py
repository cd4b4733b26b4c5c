"""From a checkpoint folder or Hub name to a model and processor that the rest of the package can use."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.utils import logging as transformers_logging

from observe_r1.config import ModelSettings
from observe_r1.errors import UserError
from observe_r1.model.adapters import add_adapters
from observe_r1.model.families import check_family, prepare_attention
from observe_r1.model.feature_cache import FeatureCache
from observe_r1.model.hub import check_model_path
from observe_r1.model.quantization import keep_trainable, quantization


@dataclass(frozen=True)
class VisionLanguageModel:
    """A model, its processor, and the tokens it must never sample."""

    model: PreTrainedModel
    processor: Any
    forbidden: tuple[int, ...]
    """Image and video placeholder ids: sampled, they would make the next forward fail, so sampler and policy both
    take them out of the distribution."""
    stop_ids: tuple[int, ...]
    """Tokens that end a response."""
    features: FeatureCache = field(default_factory=FeatureCache)
    """Of the image tower, where it is frozen."""
    masters: dict[str, Tensor] = field(default_factory=dict)
    """Weights of which `model` holds only rounded copies, by name, on the CPU (`optimizer.offload`)."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device


def load_model(settings: ModelSettings, *, frozen: bool = False, weights: bool = True) -> VisionLanguageModel:
    """Load a model, and the processor beside it, as `settings` ask: frozen parts, LoRA adapters, quantized weights.

    Weights that are trained are float32 (master weights; compute may run in bfloat16), the others `settings.dtype`.
    With `frozen` none is trained, there are no adapters and no image features are kept: a reference model, which sees
    each image once a rollout. Without `weights` none is read, and the model takes no memory: for an engine that has its
    own.

    Errors: `UserError` for a path that holds no model, an unsupported architecture, a missing processor, and for
    frozen parts, adapters or a quantization that cannot be had.
    """
    processor = load_processor(settings)
    transformers_logging.disable_progress_bar()
    device = choose_device(settings.device)
    if not weights:
        device = torch.device("meta")
    common: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(settings.path, **common)
        check_family(config, settings.path)
        common |= quantization(settings, device) if weights else {"device_map": device}
        model = AutoModelForImageTextToText.from_pretrained(settings.path, dtype=torch.float32, **common)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"model.path = {settings.path!r}: {_first_line(error)}") from error
    keep_trainable(model)
    if frozen:
        model.requires_grad_(False)
    else:
        freeze(model, settings.freeze)
        if settings.lora_rank:
            add_adapters(model, settings)
    _hold_frozen_in(model, getattr(torch, settings.dtype))
    if settings.quantize == "none":  # a quantized model is where it must be
        model.to(device)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return wrap(model, processor, FeatureCache(0.0 if frozen else settings.feature_cache))


def wrap(model: PreTrainedModel, processor: Any, features: FeatureCache) -> VisionLanguageModel:
    """Let `model` share prefixes where it can and collect what sampling must know of it."""
    prepare_attention(model)
    model.train()  # dropout is zero in every supported model; gradient checkpointing asks for training mode
    forbidden = {model.config.image_token_id, model.config.video_token_id}
    stops = model.generation_config.eos_token_id if model.generation_config else None
    stops = [] if stops is None else [stops] if isinstance(stops, int) else list(stops)
    stops.append(processor.tokenizer.eos_token_id)
    return VisionLanguageModel(
        model=model,
        processor=processor,
        forbidden=tuple(sorted(token for token in forbidden if token is not None)),
        stop_ids=tuple(sorted({token for token in stops if token is not None})),
        features=features,
    )


def load_processor(settings: ModelSettings) -> Any:
    """Load the processor (tokenizer, chat template, image preprocessing) with the pixel bounds of `settings`."""
    check_model_path(settings.path)
    try:
        processor = AutoProcessor.from_pretrained(
            settings.path,
            size={
                "shortest_edge": settings.min_pixels,
                "longest_edge": settings.max_pixels,
            },  # both in pixels
            trust_remote_code=settings.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model.path = {settings.path!r}: no processor: {_first_line(error)}") from error
    if not hasattr(processor, "image_processor"):
        raise UserError(f"model.path = {settings.path!r}: its processor takes no images")
    return processor


def choose_device(name: str) -> torch.device:
    """Return the device that `model.device` names. Errors: `UserError` where `cuda` is asked for and missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device = 'cuda': no CUDA device is available; use 'cpu' or 'auto'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def freeze(model: PreTrainedModel, prefixes: Sequence[str]) -> None:
    """Exclude parameters whose names start with a prefix from training. Errors: `UserError` where one matches none."""
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise UserError(f"model.freeze: no parameter starts with {prefix!r}; the first is {names[0]!r}")
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(prefixes)):
            parameter.requires_grad_(False)


def _hold_frozen_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Only what is trained needs more precision than the computation has."""
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
