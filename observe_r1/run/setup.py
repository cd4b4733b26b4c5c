"""What every run sets up alike: threads and seed, what the view says of it, its stream of prompts."""

from collections.abc import Callable, Sequence

import torch

from observe_r1.config import (
    DataSettings,
    EvaluateSettings,
    LadderSettings,
    RunSettings,
    SFTSettings,
    TrainSettings,
)
from observe_r1.model.device import choose_device
from observe_r1.records import Example
from observe_r1.registry import load
from observe_r1.training.prompts import AHEAD, PromptEncoder, PromptStream


def prepare_process(settings: RunSettings) -> None:
    """Set this process's threads and seed."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)


def device_line(device: torch.device, dtype: str) -> str:
    """Return where a model computes and in which type, in words; `1 of 8 GPUs` if there are more than are used."""
    if device.type != "cuda":
        return f"{device}, {dtype}"
    count = torch.cuda.device_count()
    share = f", 1 of {count} GPUs" if count > 1 else ""
    return f"{torch.cuda.get_device_name(device)} ({device}{share}), {dtype}"


def asked_where(settings: LadderSettings | EvaluateSettings) -> str:
    """Return where models are asked and in which type, in words."""
    dtype = settings.model.dtype
    return f"Ray, {dtype}" if settings.cluster.used else device_line(choose_device(settings.model.device), dtype)


def facts(settings: TrainSettings | SFTSettings, device: str, rows: int) -> dict[str, str]:
    """Return what the view says of a run: its model, data, device (in words) and folder."""
    return {
        "model": settings.model.path,
        "data": f"{settings.data.path} ({rows:,} rows)",
        "device": device,
        "folder": settings.run.output,
    }


def prompt_stream(
    examples: Sequence[Example],
    encode: PromptEncoder,
    data: DataSettings,
    seed: int,
    limit: int | None,
    note: Callable[[str], None],
    prompts_per_step: int = 1,
) -> PromptStream:
    """Return the prompts of `examples` in the order that `data.order` names.

    Args:
        examples: The dataset.
        encode: `(example, draw number) → Prompt`.
        data: Names the order.
        seed: Of the order.
        limit: Prompts to draw in all; None for no end.
        note: Called with a line for each dropped prompt that is named.
        prompts_per_step: As many at least are encoded ahead.
    """
    order = load("order", data.order)(data, len(examples), seed)
    return PromptStream(examples, order, encode, note, limit, ahead=max(AHEAD, prompts_per_step))
