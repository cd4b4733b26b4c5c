"""From a checkpoint folder or Hub name to a model and processor that the rest of the package can use."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from observe_r1.config import ModelSettings
from observe_r1.errors import UserError
from observe_r1.model.adapters import add_adapters, keep_trainable, quantization
from observe_r1.model.checkpoint import brief, check_finite, stored_weights
from observe_r1.model.device import MACHINE_FAULTS, choose_device, compute_dtype
from observe_r1.model.families import check_processor, prepare_model
from observe_r1.model.hub import checkpoint_folder
from observe_r1.model.image_tower import FeatureCache
from observe_r1.model.processor import quietly, read_processor

_TIED = ("lm_head.weight", "embed_tokens.weight")


@dataclass(frozen=True)
class VisionLanguageModel:
    """A model, its processor, and the tokens it must never sample."""

    model: PreTrainedModel
    processor: Any
    suppressed_ids: tuple[int, ...]
    """Image and video placeholders: sampled, they would make the next forward fail, so sampler and policy both take
    them out of the distribution."""
    stop_ids: tuple[int, ...]
    """Tokens that end a response."""
    features: FeatureCache = field(default_factory=FeatureCache)
    """Of the image tower, if it is frozen."""
    masters: dict[str, Tensor] = field(default_factory=dict)
    """Float32 weights of which `model` holds only rounded copies, by name (`policy.master_weights`)."""
    place: torch.device | None = None
    """Where the model computes; None: where its weights are, which may be absent, or offloaded."""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.place or self.model.device


def load_model(
    settings: ModelSettings, *, frozen: bool = False, weights: bool = True, share: tuple[int, int] = (0, 1)
) -> VisionLanguageModel:
    """Load a model, and the processor beside it, as `settings` ask: frozen parts, LoRA adapters, quantized weights.

    Weights that are trained are float32 (master weights; compute may run in bfloat16), the others in the compute type.

    Args:
        settings: `model`.
        frozen: Nothing is trained or quantized, there are no adapters and no image features are kept: a reference
            model, which sees each image once per rollout, or one that only samples.
        weights: Without them the model takes no memory, for an engine that has its own, or to be sharded before
            `fill_model`; they are checked all the same.
        share: Without weights, the part that is checked: number of this rank, and of how many that all load the model.

    Raises:
        UserError: The path holds no model, its architecture is not supported, its files are missing, damaged or do not
            fit each other, it cannot compute, or frozen parts, adapters or a quantization are asked for that it cannot
            have.
    """
    place, device, dtype = f"model.path = {settings.path!r}", choose_device(settings.device), compute_dtype(settings)
    transformers_logging.disable_progress_bar()
    with quietly():
        folder = checkpoint_folder(settings.path, trust_code=settings.trust_remote_code, weights=True)
        config = _read_config(folder, place, settings.trust_remote_code)
        processor = read_processor(folder, place, settings)
        check_processor(processor, config, place)
        quantized = quantization(settings, device) if weights and not frozen else {}
        model = _empty_model(config, folder, place, settings.trust_remote_code)
        check_finite(folder, place, (0, 1) if weights else share)
        if weights:
            model = _filled_model(folder, place, {"trust_remote_code": settings.trust_remote_code} | quantized)
    keep_trainable(model)
    if frozen:
        model.requires_grad_(False)
    else:
        _freeze(model, settings.freeze)
        if settings.lora_rank:
            add_adapters(model, settings)
    _hold_frozen_in(model, dtype)
    if weights:
        if not quantized:  # a quantized model is where it must be
            model.to(device)
        _check_computes(model, processor, dtype, place)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    prepare_model(model, dtype, device)
    model.train()  # dropout is zero in every supported model; gradient checkpointing asks for training mode
    placeholders = {model.config.image_token_id, model.config.video_token_id}
    return VisionLanguageModel(
        model=model,
        processor=processor,
        suppressed_ids=tuple(sorted(token for token in placeholders if token is not None)),
        stop_ids=_stop_ids(model, processor),
        features=FeatureCache(0.0 if frozen else settings.feature_cache),
        place=torch.empty(0, device=device).device,  # with its index
    )


def _read_config(folder: Path, place: str, trust_code: bool) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_code)
    except Exception as error:  # whatever values of the wrong kind make transformers raise
        raise UserError(f"{place}: config.json describes no model: {brief(error)}") from error


def _empty_model(config: PreTrainedConfig, folder: Path, place: str, trust_code: bool) -> PreTrainedModel:
    """Return the model that `config` describes, without weights, which takes no memory.

    Refuses weights in `folder` that are not its own, by transformers' report of a load without data: a real one would
    draw all that is missing at random, in whatever size `config` says.
    """
    stored = {name: torch.empty_like(tensor, device="meta") for _, name, tensor in stored_weights(folder, place)}
    try:
        with torch.device("meta"):
            kind = type(AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_code))
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=stored,
            dtype=torch.float32,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever values of the wrong kind make transformers raise
        raise UserError(f"{place}: config.json describes no model that can be built: {brief(error)}") from error
    if faults := _faults(report):
        raise UserError(f"{place}: config.json and the weights do not fit: {'; '.join(faults)}")
    if config.tie_word_embeddings and model.lm_head.weight is not model.get_input_embeddings().weight:
        pair = [tensor for _, name, tensor in stored_weights(folder, place) if name.endswith(_TIED)]
        if not torch.equal(*pair):
            raise UserError(
                f"{place}: config.json says that lm_head and the embeddings are one weight, but two that differ are "
                "stored: set tie_word_embeddings to false in it"
            )
    model.config.name_or_path = str(folder)
    return model


def _faults(report: dict[str, Any]) -> list[str]:
    """Say what is wrong in transformers' report of a load."""
    faults = []
    if missing := sorted(report["missing_keys"]):
        fix = ", or set tie_word_embeddings to true in config.json" if missing == ["lm_head.weight"] else ""
        faults.append(f"missing, and so random: {_first_of(missing)} (fetch the weights again{fix})")
    if surplus := sorted(report["unexpected_keys"]):
        faults.append(f"without a place in the model: {_first_of(surplus)} (correct config.json, or take them out)")
    if shaped := sorted(report["mismatched_keys"]):
        _, stored, described = shaped[0]
        shapes = f"{tuple(stored)} stored, {tuple(described)} by config.json"
        faults.append(f"of another shape: {_first_of([name for name, *_ in shaped])} ({shapes})")
    return faults


def _first_of(names: list[str]) -> str:
    return repr(names[0]) + (f" and {len(names) - 1:,} more" if names[1:] else "")


def _filled_model(folder: Path, place: str, how: dict[str, Any]) -> PreTrainedModel:
    try:
        return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **how)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{place}: {brief(error)}") from error


@torch.no_grad()
def _check_computes(model: PreTrainedModel, processor: Any, dtype: torch.dtype, place: str) -> None:
    """Run transformers' own forward once on an image between two words.

    Values in `config.json` can describe a model of the right shapes that cannot compute: sections of the rotary
    embedding that do not add up, a window smaller than a patch, a base of 0.
    """
    images, device = processor.image_processor, model.device
    side = 2 * images.merge_size  # in patches, so that the image is four tokens
    grid = torch.tensor([[1, side, side]], device=device)
    pixels = torch.zeros(side**2, 3 * images.temporal_patch_size * images.patch_size**2, device=device)
    ids = torch.tensor([[0, *[model.config.image_token_id] * 4, 0]], device=device)
    asked = {"input_ids": ids, "mm_token_type_ids": (ids == model.config.image_token_id).long()}
    try:
        # Without its cache, which would keep a rounded copy of every float32 weight until the end.
        with torch.autocast(device.type, dtype=dtype, enabled=dtype == torch.bfloat16, cache_enabled=False):
            logits = model(**asked, pixel_values=pixels, image_grid_thw=grid, use_cache=False).logits
    except MACHINE_FAULTS:
        raise
    except Exception as error:  # whatever values that do not fit make transformers raise
        raise UserError(f"{place}: config.json describes a model that cannot compute: {brief(error)}") from error
    # The buffers too, its rotary frequencies: flash attention on the CPU makes zeros of NaN.
    if not all(tensor.isfinite().all() for tensor in (logits, *model.buffers())):
        raise UserError(f"{place}: the model answers NaN or infinity to any question: correct its config.json")


def _stop_ids(model: PreTrainedModel, processor: Any) -> tuple[int, ...]:
    place, size = f"model.path = {model.config.name_or_path!r}", model.config.text_config.vocab_size
    stops = model.generation_config.eos_token_id if model.generation_config else None
    stops = [] if stops is None else stops if isinstance(stops, list) else [stops]
    for token in stops:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < size:
            raise UserError(
                f"{place}: generation_config.json: eos_token_id = {token!r:.40}: it should be the id of a token, 0 to "
                f"{size - 1:,}"
            )
    ids = {*stops, processor.tokenizer.eos_token_id} - {None}
    if not ids:
        raise UserError(
            f"{place}: no token ends a response: give an eos_token in tokenizer_config.json or an eos_token_id in "
            "generation_config.json"
        )
    return tuple(sorted(ids))


def _freeze(model: PreTrainedModel, prefixes: Sequence[str]) -> None:
    """Exclude the parameters whose names start with one of `prefixes` from training.

    Raises:
        UserError: A prefix matches no parameter.
    """
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
