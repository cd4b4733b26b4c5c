"""From a checkpoint folder or Hub name to a model and processor that the rest of the package can use."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from observe_r1.config import ModelSettings
from observe_r1.errors import UserError
from observe_r1.model.adapters import add_adapters
from observe_r1.model.checkpoint import brief, check_finite, stored_weights
from observe_r1.model.families import check_processor, prepare_attention
from observe_r1.model.hub import checkpoint_folder
from observe_r1.model.processor import quietly, read_processor
from observe_r1.model.quantization import keep_trainable, quantization
from observe_r1.records import Prompt

# Features of a frozen image tower, kept from step to step within a memory bound.
#
# A frozen tower always says the same of an image, so sampling, every update and the next epoch read what was computed
# once. Features stay on the device where they were made: the bound is the user's, and reading them back costs nothing.

Features = tuple[Tensor, ...]
"""What a tower says of one image: (tokens, hidden), then one such tensor for each early text layer that is shown the
image again (Qwen3-VL's deepstack)."""


class FeatureCache:
    """Features of one model's frozen tower by image content, at most `gib` GiB; those used longest ago go first."""

    def __init__(self, gib: float = 1.0) -> None:
        self.limit = int(gib * 2**30)
        self.used = 0
        """Bytes kept."""
        self._kept: OrderedDict[bytes, Features] = OrderedDict()
        self._digests: WeakKeyDictionary[Prompt, list[bytes]] = WeakKeyDictionary()

    def clear(self) -> None:
        """Forget everything: the tower's weights may change."""
        self._kept.clear()
        self.used = 0

    def features(self, prompt: Prompt, dtype: torch.dtype, run: Callable[[Tensor, Tensor], Features]) -> list[Features]:
        """Return the features of each image of `prompt`; `run(pixels, grid)` computes those not kept in `dtype`.

        It is given one image at a time, (patches, width) and (1, 3): the last bits of a matrix product depend on how
        many rows it has, and a resumed run, whose cache is empty, must see the features that the first run kept.
        """
        images = split_images(prompt)
        if prompt not in self._digests:
            self._digests[prompt] = [_digest(*image) for image in images]
        features = []
        for digest, image in zip(self._digests[prompt], images, strict=True):
            key = digest + str(dtype).encode()
            found = self._kept.pop(key, None)
            if found is None:
                found = run(*image)
                self.used += _bytes(found)
            self._kept[key] = found
            features.append(found)
            while self.used > self.limit:
                self.used -= _bytes(self._kept.popitem(last=False)[1])
        return features


def split_images(prompt: Prompt) -> list[tuple[Tensor, Tensor]]:
    """Return (pixels, grid) of each image of a prompt that has images."""
    assert prompt.pixel_values is not None and prompt.image_grid is not None
    pixels = prompt.pixel_values.split(prompt.image_grid.prod(dim=1).tolist())
    return list(zip(pixels, prompt.image_grid.split(1), strict=True))


def _digest(pixels: Tensor, grid: Tensor) -> bytes:
    digest = hashlib.blake2b(grid.numpy().tobytes(), digest_size=16)
    digest.update(pixels.numpy().data)
    return digest.digest()


def _bytes(features: Features) -> int:
    return sum(feature.numel() * feature.element_size() for feature in features)


_TIED = ("lm_head.weight", "embed_tokens.weight")


@dataclass(frozen=True)
class VisionLanguageModel:
    """A model, its processor, and the tokens it must never sample."""

    model: PreTrainedModel
    processor: Any
    suppressed_ids: tuple[int, ...]
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
    each image once a rollout. Without `weights` none is kept, and the model takes no memory: for an engine that has its
    own. They are checked all the same.

    Errors: `UserError` for a path that holds no model, an unsupported architecture, files that are missing, damaged or
    do not fit each other, and for frozen parts, adapters or a quantization that cannot be had.
    """
    place, device = f"model.path = {settings.path!r}", choose_device(settings.device)
    transformers_logging.disable_progress_bar()
    with quietly():
        folder = checkpoint_folder(settings.path, trust_code=settings.trust_remote_code, weights=True)
        config = _read_config(folder, place, settings.trust_remote_code)
        processor = read_processor(folder, place, settings)
        check_processor(processor, config, place)
        quantized = quantization(settings, device) if weights else {}
        model = _empty_model(config, folder, place, settings.trust_remote_code)
        check_finite(folder, place)
        if weights:
            model = _filled_model(folder, place, {"trust_remote_code": settings.trust_remote_code} | quantized)
    keep_trainable(model)
    if frozen:
        model.requires_grad_(False)
    else:
        freeze(model, settings.freeze)
        if settings.lora_rank:
            add_adapters(model, settings)
    _hold_frozen_in(model, getattr(torch, settings.dtype))
    if weights and settings.quantize == "none":  # a quantized model is where it must be
        model.to(device)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return wrap(model, processor, FeatureCache(0.0 if frozen else settings.feature_cache))


def _read_config(folder: Path, place: str, trust_code: bool) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_code)
    except Exception as error:  # whatever values of the wrong kind make transformers raise
        raise UserError(f"{place}: config.json describes no model: {brief(error)}") from error


def _empty_model(config: PreTrainedConfig, folder: Path, place: str, trust_code: bool) -> PreTrainedModel:
    """Return the model that `config` describes, without weights, which takes no memory.

    Errors: `UserError` where the weights in `folder` are not its own, by transformers' report of a load without data:
    a real one would draw all that is missing at random, in whatever size `config` says.
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


def wrap(model: PreTrainedModel, processor: Any, features: FeatureCache) -> VisionLanguageModel:
    """Let `model` share prefixes where it can and collect what sampling must know of it.

    Errors: `UserError` where no token ends a response.
    """
    prepare_attention(model)
    model.train()  # dropout is zero in every supported model; gradient checkpointing asks for training mode
    placeholders = {model.config.image_token_id, model.config.video_token_id}
    return VisionLanguageModel(
        model=model,
        processor=processor,
        suppressed_ids=tuple(sorted(token for token in placeholders if token is not None)),
        stop_ids=_stop_ids(model, processor),
        features=features,
    )


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
