"""The run folder: what a run writes down, each file whole or not at all.

config.yaml     every setting, enough to repeat the run
metrics.jsonl   one JSON object a step (`sinks`)
rollouts/       every sampled response, one JSON Lines file a step
evaluations/    every response to a held-out question, one JSON Lines file an evaluation
checkpoints/    the newest of them and the best, one folder each (`checkpoints`)
best/           the weights of the best evaluation as an ordinary Hugging Face checkpoint
best.json       which evaluation that was: its step, and by which accuracy
model/          the final weights as an ordinary Hugging Face checkpoint
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from observe_r1.config import Section
from observe_r1.config.recorded import dump_settings, flat
from observe_r1.errors import UserError
from observe_r1.files import LOCK, json_line, lock_folder, unlock_folder, write_atomic
from observe_r1.training.step_files import cut_lines, cut_rows, step_of, write_rows

_MAY_CHANGE = frozenset(
    {"run.output", "run.resume", "run.steps", "run.prompts", "run.epochs", "run.save_every", "run.keep"}
    | {"run.tensorboard", "run.wandb", "model.path", "model.feature_cache", "data.image_cache"}
    | {"rollout.max_rows", "optimizer.tokens_per_pack", "optimizer.head_chunk"}  # only rounding depends on them
    | {"rewards.workers", "rewards.call_timeout", "rewards.retries", "evaluation.patience"}
)
"""Settings that a resumed run may have otherwise; the checkpoint says whether the model is the same."""


class RunFolder:
    """A folder that belongs to one live run; a context manager.

    A run that fails before its first result leaves nothing behind, so that the corrected command can have the
    folder. Errors on opening: `UserError` where a live run writes there, where the folder is not empty, or
    where it cannot be made.

    With `resume`, a folder that an earlier run left is taken over if its settings are the same, aside from the run's
    length and what does not change its results.
    """

    def __init__(self, output: str | Path, settings: Section, resume: bool = False) -> None:
        self.path = Path(output)
        self.rollouts = self.path / "rollouts"
        self.evaluations = self.path / "evaluations"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.model = self.path / "model"
        self.metrics = self.path / "metrics.jsonl"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.path)
            config = self.path / "config.yaml"
            if resume and config.is_file():
                self._compare(config, settings)
            else:
                self._refuse_old_files()
                write_atomic(config, dump_settings(settings))
            self.rollouts.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"run.output = {str(output)!r}: cannot be a run folder: {error.strerror}") from error
        self._settings = settings

    def write_rollouts(self, step: int, rows: Iterable[dict[str, Any]]) -> Path:
        """Write the responses of one step, one JSON object each, and return the file's path."""
        return write_rows(self.rollouts, step, rows)

    def write_evaluation(self, step: int, rows: Iterable[dict[str, Any]]) -> Path:
        """Write the held-out responses after `step` steps, one JSON object each, and return the file's path."""
        self.evaluations.mkdir(exist_ok=True)
        return write_rows(self.evaluations, step, rows)

    def write_best(self, step: int, by: str, accuracy: float) -> None:
        """Write down which evaluation `best/` belongs to, once it is there."""
        write_atomic(self.best.with_suffix(".json"), json_line({"step": step, "by": by, "accuracy": accuracy}))

    def best_step(self) -> int | None:
        """Return the step that `best/` belongs to; None where there is none."""
        record = self.best.with_suffix(".json")
        return int(json.loads(record.read_text("ascii"))["step"]) if record.is_file() else None

    def cut_back(self, step: int, measured: int) -> None:
        """Go on after `step`: remove what an earlier run wrote later, and what it had not finished.

        `measured` is the last step whose metrics and evaluation stay: `step`, or the one before where they are made
        again.
        """
        write_atomic(self.path / "config.yaml", dump_settings(self._settings))
        if self.metrics.is_file():
            cut_lines(self.metrics, measured)
        cut_rows(self.rollouts, step)
        cut_rows(self.evaluations, measured)
        # A checkpoint after `step` was damaged, or it would have been resumed from.
        damaged = [path for path in self.checkpoints.glob("step-*") if step_of(path) > step]
        unfinished = [*self.path.glob(".*-*"), *self.checkpoints.glob(".*-*")]
        for folder in (*damaged, *unfinished):
            shutil.rmtree(folder)
        if (self.best_step() or 0) > step:
            self.best.with_suffix(".json").unlink()
            shutil.rmtree(self.best)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._holds_results():
            self._empty()
        self._unlock()

    def _refuse_old_files(self) -> None:
        if any(entry.name != LOCK for entry in self.path.iterdir()):
            self._unlock()
            resume = "add --run.resume to go on with the run in it, " if (self.path / "config.yaml").is_file() else ""
            raise UserError(
                f"run.output = {str(self.path)!r}: not an empty folder; {resume}remove it or give another one"
            )

    def _compare(self, config: Path, settings: Section) -> None:
        try:
            old = flat(yaml.safe_load(config.read_text("utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
            self._unlock()
            raise UserError(f"run.resume: {config} is not as the run wrote it; put it back or start anew") from error
        new = flat(settings.model_dump(mode="json"))
        # Where there is a KL term its reference is loaded from model.path, which then matters to the end.
        may_change = _MAY_CHANGE - ({"model.path"} if new.get("objective.kl_coef") else set())
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name) and name not in may_change:
                self._unlock()
                raise UserError(
                    f"run.resume: {name} was {old.get(name)!r} and is {new.get(name)!r} now: give the same settings, "
                    "or another run.output for a new run"
                )

    def _unlock(self) -> None:
        unlock_folder(self.path, self._lock)

    def _holds_results(self) -> bool:
        files = (self.metrics.is_file() and self.metrics.stat().st_size) or self.model.exists()
        checkpoints = self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        return bool(files) or checkpoints or any(self.rollouts.iterdir())

    def _empty(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()
