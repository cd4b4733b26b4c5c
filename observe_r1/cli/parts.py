"""Parts that several verbs put together the same way."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from observe_r1.config import DataSettings, ModelSettings, RunSettings, SFTSettings, TrainSettings
from observe_r1.errors import UserError, full_disk
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.model.saving import save_model
from observe_r1.records import Example
from observe_r1.registry import load
from observe_r1.training.prompts import AHEAD, Encode, PromptStream
from observe_r1.training.record import Record
from observe_r1.training.run_folder import RunFolder


class Ended(NamedTuple):
    """How a run ended."""

    code: int
    """The command's exit code: 0, or 130 where Ctrl-C ended it early."""
    hints: str
    """How to go on with its model; nothing where there is none."""


def compute_dtype(settings: ModelSettings) -> torch.dtype:
    """Return the compute type that `model.dtype` names."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]


def prepare_process(settings: RunSettings) -> None:
    """Set this process's threads and seeds."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)


def device_line(device: torch.device, dtype: str) -> str:
    """Return where a model computes and in what, in words: `1 of 8 GPUs` where more are there than are used."""
    if device.type != "cuda":
        return f"{device}, {dtype}"
    count = torch.cuda.device_count()
    share = f", 1 of {count} GPUs" if count > 1 else ""
    return f"{torch.cuda.get_device_name(device)} ({device}{share}), {dtype}"


def facts(settings: TrainSettings | SFTSettings, device: torch.device, rows: int) -> dict[str, str]:
    """Return what the view shows of a run: its model, data, device and folder."""
    return {
        "model": settings.model.path,
        "data": f"{settings.data.path} ({rows:,} rows)",
        "device": device_line(device, settings.model.dtype),
        "folder": settings.run.output,
    }


def prompt_stream(
    examples: Sequence[Example],
    encode: Encode,
    data: DataSettings,
    seed: int,
    limit: int | None,
    note: Callable[[str], None],
    a_step: int = 1,
) -> PromptStream:
    """Return the prompts of `examples` in the order that `data.order` names; a step takes `a_step` of them."""
    order = load("order", data.order)(data, len(examples), seed)
    return PromptStream(examples, order, encode, note, limit, ahead=max(AHEAD, a_step))


@contextmanager
def saving(
    vlm: VisionLanguageModel,
    folder: RunFolder,
    data: DataSettings,
    stream: PromptStream,
    record: Record,
) -> Iterator[None]:
    """Run the block, then save a checkpoint and the model, and leave the run's last line in `record.line`.

    An error that the user can correct ends the run, a full disk too, but the model is saved as it was learned so far.
    """
    view, stop = record.view, record.view.stop
    try:
        yield
        record.save_checkpoint()
    except (UserError, OSError) as caught:
        error = caught if isinstance(caught, UserError) else full_disk(caught)
        if error is None or record.step == 0:
            raise
        view.now("saving the model")
        model = f"its model is in {folder.model}"
        try:
            save_model(vlm, folder.model, data)
        except UserError:  # a full disk stops both; what stopped the run is what the user must hear
            model = "its model cannot be saved either"
        checkpoint = (
            f"{view.again} continues after step {record.saved}" if record.saved else "there is no checkpoint yet"
        )
        raise UserError(f"{error} (stopped after step {record.step}, {model}; {checkpoint})") from caught
    how = "interrupted" if stop.requested else "stopped early" if record.out_of_patience else "done"
    if record.step:
        view.now("saving the model")
        save_model(vlm, folder.model, data)
        record.line = f"{how} after step {record.step}: model in {folder.model}, metrics in {folder.metrics}"
        if stop.requested:
            record.line += f"; {view.again} continues"
    else:
        record.line = f"{how} before the first step: no model to save"
    if record.best.step is not None:
        record.line += f"; {record.best_line}"
    if stream.dropped:
        record.line += f"; {stream.dropped} prompts over data.max_prompt_tokens were dropped"
