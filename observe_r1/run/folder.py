"""The run folder: all that a run writes down, each file whole or not at all.

    config.yaml            every setting, enough to repeat the run
    metrics.jsonl          one JSON object per step (`trackers`)
    rollouts/              every sampled response, one JSON Lines file per step
    evaluations/           every response to a held-out question, one JSON Lines file per evaluation
    checkpoints/           the newest of them and the best, one folder each (`checkpoint`)
    best/, best.json       the weights of the best evaluation as a Hugging Face checkpoint; its step and accuracy
    model/                 the final weights as a Hugging Face checkpoint
    tensorboard/, wandb/   if the settings ask for them (`trackers`)
    trackers.json          what each tracker knows the run as, and how far it is (`trackers`)

People share run folders and keep notes, copies and repositories in them: a name that differs from these in one
character is left alone. `best/` and `model/` are replaced as a whole.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from observe_r1.config import ClusterSettings, Section
from observe_r1.config.verbs import dump_settings, flat, with_defaults
from observe_r1.errors import UserError, in_words
from observe_r1.files import (
    LOCK,
    clear_unfinished,
    json_line,
    lock_folder,
    make_folder,
    unlock_folder,
    write_atomic,
)

CONFIG, METRICS, ROLLOUTS, EVALUATIONS = "config.yaml", "metrics.jsonl", "rollouts", "evaluations"
_MAY_CHANGE = frozenset(
    {"run.output", "run.resume", "run.steps", "run.prompts", "run.epochs", "run.save_every", "run.keep"}
    | {"run.save_in_background", "model.path", "model.feature_cache"}
    | {"data.image_cache", "data.allow_private_addresses"}
    | {"run.tensorboard", "run.wandb", "run.trackio", "run.mlflow"}
    | {"run.track_groups", "run.track_every", "run.track_bytes"}
    # Only rounding depends on them:
    | {"rollout.max_rows", "rollout.cuda_graphs", "optimizer.tokens_per_pack", "optimizer.head_chunk"}
    | {f"cluster.{name}" for name in ClusterSettings.model_fields}
    | {"rewards.workers", "rewards.call_timeout", "rewards.retries", "evaluation.patience"}
)
"""Settings that may differ when a run is resumed; whether the model is the same, its checkpoint says."""

_DECIDED_BY_DATA = ("rewards.template",)
"""Settings that a run may leave to its data: compared once that is read, by `RunFolder.complete`."""


class RunFolder:
    """A folder that belongs to one live run; a context manager.

    With `resume`, it takes over the folder of an earlier run, whose settings must be the same aside from the run's
    length and what does not change its results. A run that fails before its first result leaves nothing behind, so
    that the corrected command can use the folder.

    Args:
        output: The folder's path; made if it does not exist.
        settings: Of the run.
        resume: Whether an earlier run in the folder is resumed.

    Raises:
        UserError: A live run writes there, the folder is not empty, it cannot be made, or the settings differ.
    """

    def __init__(self, output: str | Path, settings: Section, resume: bool = False) -> None:
        self.path = Path(output)
        self.rollouts = self.path / ROLLOUTS
        self.evaluations = self.path / EVALUATIONS
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.model = self.path / "model"
        self.metrics = self.path / METRICS
        self._best_record = self.path / "best.json"
        self._config = self.path / CONFIG
        self._settings = settings
        self._earlier: dict[str, Any] | None = None
        """Settings of the run that is resumed, by dotted name."""
        try:
            make_folder(self.path)
            self._lock = lock_folder(self.path)
            try:
                self._open(resume)
            except BaseException:
                self._unlock()
                raise
        except OSError as error:
            raise UserError(f"run.output = {str(output)!r}: cannot be a run folder: {in_words(error)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._holds_results():
            self._empty()
        self._unlock()

    def complete(self, settings: Section, unset: dict[str, Any]) -> None:
        """Take the settings with what the data has decided, and write them down.

        Args:
            settings: Of the run, complete.
            unset: By dotted name, what each of these settings is if it is not set.

        Raises:
            UserError: The run that is resumed had others.
        """
        self._settings = settings
        if self._earlier is None:
            write_atomic(self._config, dump_settings(settings))
        else:
            chosen = {name: value for name, value in self._earlier.items() if value is not None}
            self._compare_settings(unset | chosen, unset.keys())

    def write_rollouts(self, step: int, rows: Iterable[dict[str, Any]]) -> Path:
        """Write the responses sampled for `step`, one JSON object each; return the file's path."""
        return _write_rows(self.rollouts, step, rows)

    def write_evaluation(self, step: int, rows: Iterable[dict[str, Any]]) -> Path:
        """Write the responses to the held-out questions after `step`, one JSON object each; return the file's path."""
        make_folder(self.evaluations)
        return _write_rows(self.evaluations, step, rows)

    def write_best(self, step: int, by: str, accuracy: float) -> None:
        """Write which evaluation `best/` belongs to, once its files are there.

        Args:
            step: Of the evaluation.
            by: Which accuracy chose it: `accuracy`, `avg@8`.
            accuracy: That figure, in [0, 1].
        """
        write_atomic(self._best_record, json_line({"step": step, "by": by, "accuracy": accuracy}))

    def best_step(self) -> int | None:
        """Return the step that `best/` belongs to; None if there is none.

        Raises:
            UserError: Somebody has changed `best.json`.
        """
        if not self._best_record.is_file() or not self.best.is_dir():
            return None
        try:
            return int(json.loads(self._best_record.read_bytes())["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._best_record} is not as the run wrote it: put it back, or remove it and {self.best}"
            ) from error

    def cut_back(self, step: int, measured: int) -> None:
        """Prepare to continue after `step`: remove what the earlier run wrote later, and what it left half-written.

        Args:
            step: The step that is resumed from; 0 for a new start.
            measured: The last step whose metrics and evaluation stay: `step`, or the one before it if they are made
                again.

        Raises:
            UserError: A new start would throw away steps that had a checkpoint.
        """
        made, every = last_step(self.metrics), (self._earlier or {}).get("run.save_every")
        if step == 0 and isinstance(every, int) and made > 2 * every:  # the first is whole before the second is begun
            raise UserError(
                f"run.resume: the run has made {made} steps, but {self.checkpoints} no longer holds a checkpoint: "
                "put one back, or give another run.output for a new run"
            )
        write_atomic(self._config, dump_settings(self._settings))
        if self.metrics.is_file():
            _cut_lines(self.metrics, measured)
        _cut_rows(self.rollouts, step)
        _cut_rows(self.evaluations, measured)
        if (self.best_step() or 0) > step:
            self._best_record.unlink()
            shutil.rmtree(self.best)

    def _open(self, resume: bool) -> None:
        self._before = {entry.name for entry in self.path.iterdir()}
        if resume and self._config.is_file():
            self._earlier = self._read_settings()
            names = self._earlier.keys() | flat(self._settings.model_dump(mode="json")).keys()
            self._compare_settings(self._earlier, names - set(_DECIDED_BY_DATA))
            for parent in filter(Path.is_dir, (self.path, self.checkpoints)):
                clear_unfinished(parent)
        else:
            self._refuse_old_files()
            write_atomic(self._config, dump_settings(self._settings))
        make_folder(self.rollouts)

    def _refuse_old_files(self) -> None:
        if self._before - {LOCK, f"{self._config.name}.partial"}:
            way = "neither empty nor a run's folder: give another one"
            if self._config.is_file():
                way = "not an empty folder; add --run.resume to resume the run in it, remove it or give another one"
            raise UserError(f"run.output = {str(self.path)!r}: {way}")

    def _read_settings(self) -> dict[str, Any]:
        try:
            return flat(with_defaults(yaml.safe_load(self._config.read_text("utf-8")), self._settings))
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
            raise UserError(
                f"run.resume: {self._config} is not as the run wrote it; put it back, or start a new run"
            ) from error

    def _compare_settings(self, old: dict[str, Any], names: Collection[str]) -> None:
        """Raise `UserError` for a setting of `names` that differs and must not."""
        new = flat(self._settings.model_dump(mode="json"))
        # With a KL term, the reference is loaded from model.path, which then matters to the end.
        may_change = _MAY_CHANGE - ({"model.path"} if new.get("objective.kl_coef") else set())
        for name in sorted(names):
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
        for file in (self._config, self.metrics, self.path / "trackers.json"):
            file.unlink(missing_ok=True)
        _cut_rows(self.evaluations, step=-1)
        for tracker in (self.path / "tensorboard", self.path / "wandb"):
            if tracker.is_dir() and tracker.name not in self._before:
                shutil.rmtree(tracker)
        for folder in (self.rollouts, self.evaluations, self.checkpoints):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


# Files and lines by step


def step_name(step: int) -> str:
    """Return what the file or folder of a step is called, without a suffix."""
    return f"step-{step:06d}"


def steps_in(folder: Path, suffix: str = "") -> dict[int, os.DirEntry[str]]:
    """Return the entries of `folder` that are named `step-N` and `suffix`, by step; none if there is no folder.

    Raises:
        OSError: The folder cannot be read, which says nothing about what is in it.
    """
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return {}
    named = ((re.fullmatch(r"step-([0-9]{6,})" + re.escape(suffix), entry.name), entry) for entry in entries)
    found = {int(match[1]): entry for match, entry in named if match}
    return {step: entry for step, entry in found.items() if entry.name == step_name(step) + suffix}


def last_step(path: Path) -> int:
    """Return the last step that has a line in a file of metrics; 0 if there is none."""
    lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.is_file() else []
    return max((int(step) for step in map(_step_of, lines) if step < math.inf), default=0)


def _write_rows(folder: Path, step: int, rows: Iterable[dict[str, Any]]) -> Path:
    path = folder / f"{step_name(step)}.jsonl"
    write_atomic(path, "".join(json_line(row) for row in rows))
    return path


def _cut_rows(folder: Path, step: int) -> None:
    """Remove the files of steps after `step`, and half-written ones."""
    late = [entry for number, entry in steps_in(folder, ".jsonl").items() if number > step]
    for entry in (*late, *steps_in(folder, ".jsonl.partial").values()):
        if entry.is_file(follow_symlinks=False):
            Path(entry).unlink()


def _cut_lines(path: Path, step: int) -> None:
    """Remove the lines of steps after `step`, and one that a killed run left half-written."""
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    write_atomic(path, "".join(line + "\n" for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    """Return the step of a line of metrics; infinity for a line that a killed run left half-written."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return math.inf
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else math.inf
