"""The run folder: what a run writes down, each file whole or not at all.

config.yaml     every setting, enough to repeat the run
metrics.jsonl   one JSON object a step (`sinks`)
rollouts/       every sampled response, one JSON Lines file a step
checkpoints/    the newest of them, one folder each (`checkpoints`)
model/          the final weights as an ordinary Hugging Face checkpoint
"""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from observe_r1 import __version__
from observe_r1.config import Section
from observe_r1.errors import UserError
from observe_r1.files import write_atomic

_LOCK = ".lock"
_MAY_CHANGE = frozenset(
    {"run.output", "run.resume", "run.steps", "run.prompts", "run.epochs", "run.save_every", "run.keep"}
    | {"run.threads", "run.tensorboard", "run.wandb", "rewards.workers", "model.path"}
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
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.metrics = self.path / "metrics.jsonl"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path)
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
        path = self.rollouts / f"step-{step:06d}.jsonl"
        write_atomic(path, "".join(json_line(row) for row in rows))
        return path

    def cut_back(self, step: int) -> None:
        """Go on after `step`: remove what an earlier run wrote later, and what it had not finished."""
        write_atomic(self.path / "config.yaml", dump_settings(self._settings))
        if self.metrics.is_file():
            lines = self.metrics.read_text(encoding="ascii", errors="replace").splitlines()
            write_atomic(self.metrics, "".join(line + "\n" for line in lines if _step_in(line) <= step))
        for path in self.rollouts.glob("step-*"):
            if path.suffix != ".jsonl" or step_of(path) > step:
                path.unlink()
        # A checkpoint after `step` was damaged, or it would have been resumed from.
        damaged = [path for path in self.checkpoints.glob("step-*") if step_of(path) > step]
        for folder in (*damaged, *self.path.glob(".model-*"), *self.checkpoints.glob(".step-*")):
            shutil.rmtree(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._holds_results():
            self._empty()
        self._unlock()

    def _refuse_old_files(self) -> None:
        if any(entry.name != _LOCK for entry in self.path.iterdir()):
            self._unlock()
            resume = "add --run.resume to go on with the run in it, " if (self.path / "config.yaml").is_file() else ""
            raise UserError(
                f"run.output = {str(self.path)!r}: not an empty folder; {resume}remove it or give another one"
            )

    def _compare(self, config: Path, settings: Section) -> None:
        try:
            old = _flat(yaml.safe_load(config.read_text("utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
            self._unlock()
            raise UserError(f"run.resume: {config} is not as the run wrote it; put it back or start anew") from error
        new = _flat(settings.model_dump(mode="json"))
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
        (self.path / _LOCK).unlink(missing_ok=True)
        os.close(self._lock)

    def _holds_results(self) -> bool:
        files = (self.metrics.is_file() and self.metrics.stat().st_size) or self.model.exists()
        checkpoints = self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        return bool(files) or checkpoints or any(self.rollouts.iterdir())

    def _empty(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != _LOCK:
                entry.unlink()


def dump_settings(settings: Section) -> str:
    """Return every setting as YAML that can be given as a recipe."""
    values = settings.model_dump(mode="json")
    head = f"# observe-r1 {__version__}: every setting of this run; give this file as a recipe to repeat it.\n"
    return head + yaml.safe_dump(values, sort_keys=False)


def json_line(row: dict[str, Any]) -> str:
    r"""Return `row` as one line of strict JSON in ASCII; NaN and infinities become null.

    Responses may hold anything, lone surrogates and control characters too: they are written as `\u` escapes.
    """
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint or a rollout file."""
    return int(path.stem.removeprefix("step-"))


def _step_in(line: str) -> float:
    """Return the step of a line of metrics; infinity for one that a killed run left half-written."""
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return math.inf


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{name}": value for section, part in values.items() for name, value in part.items()}


def _lock(folder: Path) -> int:
    """Take the folder's lock, which the system gives back when the process ends, however it ends.

    A POSIX lock, because child processes do not inherit it: workers that outlive a killed run hold nothing.
    """
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        owner = os.read(descriptor, 32).decode()
        os.close(descriptor)
        raise UserError(f"run.output = {str(folder)!r}: process {owner} is writing there; give another one") from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor
