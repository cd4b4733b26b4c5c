"""Parts that several verbs put together the same way."""

from collections.abc import Callable, Sequence

import torch

from observe_r1.config import DataSettings, ModelSettings, RunSettings
from observe_r1.errors import UserError
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.model.saving import save_model
from observe_r1.records import Example
from observe_r1.registry import load
from observe_r1.training.prompts import Encode, PromptStream
from observe_r1.training.run_folder import RunFolder


def compute_dtype(settings: ModelSettings) -> torch.dtype:
    """Return the compute type that `model.dtype` names."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]


def prepare_process(settings: RunSettings) -> None:
    """Set this process's threads and seeds."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)


def prompt_stream(
    examples: Sequence[Example],
    encode: Encode,
    data: DataSettings,
    seed: int,
    limit: int | None,
    note: Callable[[str], None],
) -> PromptStream:
    """Return the prompts of `examples` in the order that `data.order` names."""
    return PromptStream(examples, load("order", data.order)(len(examples), seed), encode, note, limit)


def save_final(vlm: VisionLanguageModel, folder: RunFolder, data: DataSettings, steps: int, interrupted: bool) -> str:
    """Save the weights to the run folder's `model/` and return the run's last line."""
    if steps == 0:
        raise UserError("the run ended before its first step: nothing was written")
    save_model(vlm, folder.model, data)
    how = "interrupted" if interrupted else "done"
    return f"{how} after {steps} steps: model in {folder.model}, metrics in {folder.metrics}"
