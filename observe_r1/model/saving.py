"""The trained model as an ordinary Hugging Face checkpoint."""

import json
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from observe_r1 import __version__
from observe_r1.config import DataSettings
from observe_r1.data import FORMAT_PROMPTS
from observe_r1.errors import UserError
from observe_r1.files import replacing
from observe_r1.model.adapters import has_adapters, merged_weights, save_adapters
from observe_r1.model.loading import VisionLanguageModel

RECORD = "observe_r1.json"
"""Beside the weights: which format prompt they were trained with, so that the model can be asked the same way."""

ADAPTER = "adapter"
"""The folder in the model's that takes the LoRA adapters by themselves, where there are any."""


def save_model(vlm: VisionLanguageModel, folder: Path, data: DataSettings) -> None:
    """Write a model as an ordinary checkpoint: float32 safetensors, configuration, processor and `RECORD`.

    It loads with `AutoModelForImageTextToText.from_pretrained(folder)`. LoRA adapters are merged into it, and
    also saved by themselves in its `ADAPTER`, as peft reads them.

    Args:
        vlm: The model.
        folder: At every moment absent or complete; what is there is replaced.
        data: `data`, of which the format prompt is recorded.

    Raises:
        UserError: It cannot be written, for want of disk space for example; what was there before is still there.
    """
    transformers_logging.disable_progress_bar()
    record = {
        "observe_r1": __version__,
        "format_prompt": data.format_prompt,
        "format_prompt_place": data.format_prompt_place,
        "format_prompt_text": FORMAT_PROMPTS.get(data.format_prompt, ""),
    }
    try:
        with replacing(folder) as new:
            _plain_model(vlm.model).save_pretrained(new, state_dict=merged_weights(vlm.model, vlm.masters))
            vlm.processor.save_pretrained(new)
            (new / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            if has_adapters(vlm.model):
                save_adapters(vlm.model, vlm.masters, new / ADAPTER)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the model to {str(folder)!r}: {str(error).splitlines()[0]}") from error


def trained_format(path: str) -> tuple[str, str]:
    """Return the format prompt that a model was trained with, and its place.

    Args:
        path: Folder or Hub name; the `RECORD` in it says which. Without one, or where the Hub cannot be reached, the
            format is `none`.

    Raises:
        UserError: The record is not as training wrote it.
    """
    file: Path | str = Path(path) / RECORD
    try:
        if not Path(path).is_dir() and path.count("/") == 1:
            file = hf_hub_download(path, RECORD)
        record = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, HfHubHTTPError, HFValidationError, HTTPError):
        return "none", "system"
    except ValueError as error:
        raise UserError(f"{file}: not as training wrote it: {error}: put it back, or remove it") from error
    known = record if isinstance(record, dict) else {}
    name, place = (known.get(key) for key in ("format_prompt", "format_prompt_place"))
    if name not in (*FORMAT_PROMPTS, "none") or place not in ("system", "suffix"):
        raise UserError(f"{file}: asks for the format {name!r} in the place {place!r}: put it back, or remove it")
    return name, place


def _plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return `model` without weights, adapters and quantization: what transformers writes beside given weights."""
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    with torch.device("meta"):
        plain = type(model)(type(model.config).from_dict(config)).float()
    plain.generation_config = model.generation_config
    # How the weights were called in the checkpoint that `model` was read from, so that they are called so again.
    plain._weight_conversions = getattr(model, "_weight_conversions", None)
    return plain
