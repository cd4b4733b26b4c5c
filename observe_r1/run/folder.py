"""The run folder: what a run writes down, each file whole or not at all.

config.yaml     every setting, enough to repeat the run
metrics.jsonl   one JSON object a step (`sinks`)
rollouts/       every sampled response, one JSON Lines file a step
evaluations/    every response to a held-out question, one JSON Lines file an evaluation
checkpoints/    the newest of them and the best, one folder each (`checkpoints`)
best/           the weights of the best evaluation as an ordinary Hugging Face checkpoint
best.json       which evaluation that was: its step, and by which accuracy
model/          the final weights as an ordinary Hugging Face checkpoint
tensorboard/, wandb/   where these are asked for (`sinks`)

Nothing else in the folder is touched: people keep notes there, copies, repositories. `best/` and `model/` are replaced
as they are.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from observe_r1.config import Section
from observe_r1.config.verbs import dump_settings, flat
from observe_r1.errors import UserError
from observe_r1.files import (
    LOCK,
    clear_unfinished,
    json_line,
    lock_folder,
    make_folder,
    unlock_folder,
    write_atomic,
)

# What belongs to a step: a file or a folder each by its exact name, or a line each in one file.
#
# Run folders are shared with people: a name that differs in one character is somebody else's and is left alone.


def write_rows(folder: Path, step: int, rows: Iterable[dict[str, Any]]) -> Path:
    """Write the file of `step`, one JSON object a row, and return its path."""
    path = folder / f"step-{step:06d}.jsonl"
    write_atomic(path, "".join(json_line(row) for row in rows))
    return path


def steps_in(folder: Path, suffix: str = "") -> dict[int, os.DirEntry[str]]:
    """Return what stands in `folder` under the name of a step and `suffix`, by step; nothing where there is no folder.

    Errors: `OSError` where the folder cannot be read, which says nothing about what is in it.
    """
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return {}
    named = ((re.fullmatch(r"step-([0-9]{6,})" + re.escape(suffix), entry.name), entry) for entry in entries)
    found = {int(match[1]): entry for match, entry in named if match}
    return {step: entry for step, entry in found.items() if entry.name == f"step-{step:06d}{suffix}"}


def cut_rows(folder: Path, step: int) -> None:
    """Remove the files of steps after `step`, and half-written ones."""
    late = [entry for number, entry in steps_in(folder, ".jsonl").items() if number > step]
    for entry in (*late, *steps_in(folder, ".jsonl.partial").values()):
        if entry.is_file(follow_symlinks=False):
            Path(entry).unlink()


def cut_lines(path: Path, step: int) -> None:
    """Remove the lines of steps after `step`, and one that a killed run left half-written."""
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    write_atomic(path, "".join(line + "\n" for line in lines if _step_in(line) <= step))


def last_step(path: Path) -> int:
    """Return the last step that has a line in a file; 0 where there is none."""
    lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.is_file() else []
    return max((int(step) for step in map(_step_in, lines) if step < math.inf), default=0)


def _step_in(line: str) -> float:
    """Return the step of a line of metrics; infinity for one that a killed run left half-written."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return math.inf
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else math.inf


_MAY_CHANGE = frozenset(
    {"run.output", "run.resume", "run.steps", "run.prompts", "run.epochs", "run.save_every", "run.keep"}
    | {"run.tensorboard", "run.wandb", "model.path", "model.feature_cache"}
    | {"data.image_cache", "data.allow_private_addresses"}
    # Only rounding depends on them:
    | {"rollout.max_rows", "rollout.cuda_graphs", "optimizer.tokens_per_pack", "optimizer.head_chunk"}
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
        self._config = self.path / "config.yaml"
        self._settings = settings
        self._save_every: int | None = None
        """What it was in the run that is gone on with."""
        try:
            make_folder(self.path)
            self._lock = lock_folder(self.path)
            try:
                self._open(resume)
            except BaseException:
                self._unlock()
                raise
        except OSError as error:
            raise UserError(f"run.output = {str(output)!r}: cannot be a run folder: {error.strerror}") from error

    def write_rollouts(self, step: int, rows: Iterable[dict[str, Any]]) -> Path:
        """Write the responses of one step, one JSON object each, and return the file's path."""
        return write_rows(self.rollouts, step, rows)

    def write_evaluation(self, step: int, rows: Iterable[dict[str, Any]]) -> Path:
        """Write the held-out responses after `step` steps, one JSON object each, and return the file's path."""
        make_folder(self.evaluations)
        return write_rows(self.evaluations, step, rows)

    def write_best(self, step: int, by: str, accuracy: float) -> None:
        """Write down which evaluation `best/` belongs to, once it is there."""
        write_atomic(self.best.with_suffix(".json"), json_line({"step": step, "by": by, "accuracy": accuracy}))

    def best_step(self) -> int | None:
        """Return the step that `best/` belongs to; None where there is none."""
        record = self.best.with_suffix(".json")
        if not record.is_file() or not self.best.is_dir():
            return None
        try:
            return int(json.loads(record.read_bytes())["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{record} is not as the run wrote it: put it back, or remove it and {self.best}"
            ) from error

    def cut_back(self, step: int, measured: int) -> None:
        """Go on after `step`: remove what an earlier run wrote later, and what it had not finished.

        `measured` is the last step whose metrics and evaluation stay: `step`, or the one before where they are made
        again. Errors: `UserError` where going on from the start would throw away steps that had a checkpoint.
        """
        made = last_step(self.metrics)
        if step == 0 and self._save_every is not None and made > self._save_every:
            raise UserError(
                f"run.resume: the run has made {made} steps, but {self.checkpoints} holds no checkpoint any more: "
                "put one back, or give another run.output to start anew"
            )
        write_atomic(self._config, dump_settings(self._settings))
        if self.metrics.is_file():
            cut_lines(self.metrics, measured)
        cut_rows(self.rollouts, step)
        cut_rows(self.evaluations, measured)
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

    def _open(self, resume: bool) -> None:
        self._before = {entry.name for entry in self.path.iterdir()}
        if resume and self._config.is_file():
            self._compare()
            for parent in filter(Path.is_dir, (self.path, self.checkpoints)):
                clear_unfinished(parent)
        else:
            self._refuse_old_files()
            write_atomic(self._config, dump_settings(self._settings))
        make_folder(self.rollouts)

    def _refuse_old_files(self) -> None:
        if self._before - {LOCK, f"{self._config.name}.partial"}:
            resume = "add --run.resume to resume the run in it, " if self._config.is_file() else ""
            raise UserError(
                f"run.output = {str(self.path)!r}: not an empty folder; {resume}remove it or give another one"
            )

    def _compare(self) -> None:
        try:
            old = flat(yaml.safe_load(self._config.read_text("utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
            raise UserError(
                f"run.resume: {self._config} is not as the run wrote it; put it back or start anew"
            ) from error
        every = old.get("run.save_every")
        self._save_every = every if isinstance(every, int) else None
        new = flat(self._settings.model_dump(mode="json"))
        # Where there is a KL term its reference is loaded from model.path, which then matters to the end.
        may_change = _MAY_CHANGE - ({"model.path"} if new.get("objective.kl_coef") else set())
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name) and name not in may_change:
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
        """Remove what this run has made; what others have put there meanwhile stays."""
        for file in (self._config, self.metrics):
            file.unlink(missing_ok=True)
        cut_rows(self.evaluations, step=-1)
        for sink in (self.path / "tensorboard", self.path / "wandb"):
            if sink.is_dir() and sink.name not in self._before:
                shutil.rmtree(sink)
        for folder in (self.rollouts, self.evaluations, self.checkpoints):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
