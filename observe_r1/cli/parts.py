"""Parts that several verbs put together the same way."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import torch

from observe_r1.config import DataSettings, ModelSettings, RunSettings
from observe_r1.errors import UserError
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.model.saving import save_model
from observe_r1.policy.policy import Policy
from observe_r1.records import Example
from observe_r1.registry import load
from observe_r1.training.checkpoints import Checkpoints
from observe_r1.training.interrupt import StopRequest
from observe_r1.training.progress import Progress
from observe_r1.training.prompts import Encode, PromptStream
from observe_r1.training.resume import Resumable, RunState
from observe_r1.training.run_folder import RunFolder
from observe_r1.training.sinks import open_sinks


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


class Record:
    """What a run writes down step by step: metrics, checkpoints, the view; a context manager.

    Opening it resumes where `run.resume` asks for that, and removes what an earlier run wrote after that step.
    """

    def __init__(
        self,
        folder: RunFolder,
        run: RunSettings,
        policy: Policy,
        position: Resumable,
        encode: Encode,
        view: Progress,
    ) -> None:
        self.view = view
        self.line = ""
        """The run's last line, once it has ended."""
        self._every = run.save_every
        self._state = RunState(Checkpoints(folder.checkpoints, run.keep), policy, position, encode)
        self.step = self._saved = self._state.restore(view.note) if run.resume else 0
        """Steps done."""
        folder.cut_back(self.step)
        self._sinks = open_sinks(folder.path, run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for sink in self._sinks:
            sink.close()

    def step_done(self, step: int, metrics: dict[str, float]) -> None:
        """Write and show the metrics of `step`; write a checkpoint where one is due."""
        self.step = step
        for sink in self._sinks:
            sink.write(step, metrics)
        self.view.update(step, metrics)
        if step % self._every == 0:
            self.save_checkpoint()

    def save_checkpoint(self) -> None:
        """Write a checkpoint of the last step, unless there is one."""
        if self.step > self._saved:
            self._state.save(self.step)
            self._saved = self.step


@contextmanager
def saving(
    vlm: VisionLanguageModel,
    folder: RunFolder,
    data: DataSettings,
    stream: PromptStream,
    stop: StopRequest,
    record: Record,
) -> Iterator[None]:
    """Run the block, then save a checkpoint and the model, and leave the run's last line in `record.line`.

    An error that the user can correct ends the run, but the model is saved as it was learned so far.
    """
    try:
        yield
        record.save_checkpoint()
    except UserError as error:
        if record.step == 0:
            raise
        try:
            save_model(vlm, folder.model, data)
        except UserError:  # a full disk stops both; what stopped the run is what the user must hear
            raise error from None
        raise UserError(
            f"{error} (stopped after step {record.step}, its model is in {folder.model}; "
            "--run.resume goes on from the newest checkpoint)"
        ) from error
    how = "interrupted" if stop.requested else "done"
    if record.step:
        save_model(vlm, folder.model, data)
        record.line = f"{how} after step {record.step}: model in {folder.model}, metrics in {folder.metrics}"
        if stop.requested:
            record.line += "; the same command with --run.resume goes on"
    else:
        record.line = f"{how} before the first step: no model to save"
    if stream.dropped:
        record.line += f"; {stream.dropped} prompts over data.max_prompt_tokens were dropped"
