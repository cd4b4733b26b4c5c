"""Parts that several verbs put together the same way."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from observe_r1.config import DataSettings, ModelSettings, RunSettings
from observe_r1.errors import UserError
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.model.saving import save_model
from observe_r1.records import Example
from observe_r1.registry import load
from observe_r1.training.interrupt import StopRequest
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


@dataclass
class Outcome:
    """How far a run came, and its last line."""

    steps: int = 0
    line: str = ""


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


@contextmanager
def saving(
    vlm: VisionLanguageModel, folder: RunFolder, data: DataSettings, stream: PromptStream, stop: StopRequest
) -> Iterator[Outcome]:
    """Run the block, then save the weights to the run folder's `model/`, and leave the run's last line in the outcome.

    The block counts `outcome.steps`. An error that the user can correct ends the run, but what was learned is saved.
    """
    outcome = Outcome()
    try:
        yield outcome
    except UserError as error:
        if outcome.steps == 0:
            raise
        save_model(vlm, folder.model, data)
        raise UserError(f"{error} (stopped after {outcome.steps} steps; their model is in {folder.model})") from error
    how = "interrupted" if stop.requested else "done"
    if outcome.steps:
        save_model(vlm, folder.model, data)
        outcome.line = f"{how} after {outcome.steps} steps: model in {folder.model}, metrics in {folder.metrics}"
        if stop.requested and folder.checkpoints.exists():
            outcome.line += "; the same command with --run.resume goes on"
    else:
        outcome.line = f"{how} before the first step: no model to save"
    if stream.dropped:
        outcome.line += f"; {stream.dropped} prompts over data.max_prompt_tokens were dropped"
