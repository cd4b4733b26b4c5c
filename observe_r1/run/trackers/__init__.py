"""Where a run's figures go: always to `metrics.jsonl`; to TensorBoard, Weights & Biases, Trackio and MLflow on request.

`trackers.json` in the run folder says which run each tracker knows this one as, and the last step that it was given:

    {"name": "1f0c3b7a", "wandb: shapes": {"id": "1f0c3b7a", "step": 40}, "tensorboard": {"id": "", "step": 40}}

So a resumed run goes on in the same tracked run, and no step is there twice: the steps between a checkpoint and a kill
are made again, and are left as they were. A step is taken down here just before it is handed over. What a tracker has
missed, because it was added later or did not answer, it gets from `metrics.jsonl`.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

import yaml

from observe_r1.config import RunSettings
from observe_r1.config.verbs import flat
from observe_r1.errors import UserError
from observe_r1.files import json_line, write_atomic
from observe_r1.registry import resolve
from observe_r1.run.trackers.tables import Table

KINDS = ("wandb", "mlflow", "trackio", "tensorboard")
"""Trackers, by the setting `run.KIND` and the module of that name; first those that can fail for a reason of the user's
account."""

_STATE = "trackers.json"


class TrackerDownError(Exception):
    """A tracker does not take a step now; it may take it later."""


class Tracker(Protocol):
    """One tracker. Its module has `start(asked, folder, settings, name, known)`, which returns it.

    `asked` is the setting's value, `folder` the run folder, `settings` the run's by dotted name, `name` what to call
    the run, unique; `known` is the `id` under which an earlier process has tracked this run, None for a new one. It
    raises `UserError` where the tracker cannot be used.
    """

    id: str
    """By which the tracker finds the run again; empty where it needs none."""

    def write(self, step: int, metrics: dict[str, float], tables: Sequence[Table]) -> None:
        """Record a step.

        Args:
            step: Steps done; 0 for the starting model's.
            metrics: By names such as `reward/mean`.
            tables: Groups and answers to look at.

        Raises:
            TrackerDownError: It does not answer.
            UserError: They cannot be written.
        """

    def close(self) -> None:
        """Flush and release what it holds; nothing is written afterwards."""


class Trackers:
    """A run's `metrics.jsonl` and its trackers.

    Args:
        folder: The run folder, with its `config.yaml`, and with `metrics.jsonl` cut back to the step resumed from.
        settings: Of the run.
        note: Told of trackers that do not answer.

    Raises:
        UserError: A tracker cannot be used, or `trackers.json` has been changed.
    """

    def __init__(self, folder: Path, settings: RunSettings, note: Callable[[str], None]) -> None:
        self._settings = settings
        self._file = AppendOnly(folder / "metrics.jsonl")
        self._state = _State(folder / _STATE)
        self._open: list[_Once] = []
        values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        try:
            for kind in KINDS:
                if asked := getattr(settings, kind):
                    key = kind if asked is True else f"{kind}: {asked}"
                    start = resolve(f"observe_r1.run.trackers.{kind}:start")
                    name = f"{folder.absolute().name}-{self._state.name}"
                    tracker = start(asked, folder, flat(values), name, self._state.ids.get(key))
                    self._state.ids[key] = tracker.id
                    self._open.append(_Once(key, tracker, self._state, folder / "metrics.jsonl", note))
            if self._open:
                self._state.save()
        except BaseException:
            self.close()
            raise

    def shows(self, step: int) -> bool:
        """Whether the trackers are to get groups of this step to look at."""
        every = self._settings.track_every
        return bool(self._open and self._settings.track_groups) and (step == 1 or step % every == 0)

    @property
    def any(self) -> bool:
        """Whether there is a tracker beside `metrics.jsonl`."""
        return bool(self._open)

    def write(self, step: int, metrics: dict[str, float], tables: Sequence[Table], *, whole: bool) -> None:
        """Record a step.

        Args:
            step: Steps done; 0 for the starting model's.
            metrics: By names such as `reward/mean`.
            tables: For the trackers.
            whole: Whether these are all metrics of the step. Trackers, which keep what they have once been given, get
                only whole ones; the resumed run makes the rest.

        Raises:
            UserError: They cannot be written.
        """
        self._file.append(json_line({"step": step, **metrics}).encode())
        for tracker in self._open if whole else ():
            tracker.write(step, metrics, tables)

    def close(self) -> None:
        """Close all of them."""
        self._file.close()
        for tracker in self._open:
            tracker.close()


class _State:
    """`trackers.json`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = token_hex(4)
        """What tells this run from others whose folders have the same name."""
        self.ids: dict[str, str] = {}
        self.steps: dict[str, int] = {}
        if path.is_file():
            try:
                read = json.loads(path.read_bytes())
                self.name = str(read.pop("name"))
                self.ids = {kind: str(each["id"]) for kind, each in read.items()}
                self.steps = {kind: int(each["step"]) for kind, each in read.items()}
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(f"{path}: not as the run wrote it: put it back, or remove it to track anew") from error

    def save(self) -> None:
        kinds = {kind: {"id": id_, "step": self.steps.get(kind, -1)} for kind, id_ in self.ids.items()}
        write_atomic(self._path, json.dumps({"name": self.name, **kinds}) + "\n")


class _Once:
    """A tracker that gets each step once, and from `metrics` those that it has missed."""

    def __init__(self, key: str, tracker: Tracker, state: _State, metrics: Path, note: Callable[[str], None]) -> None:
        self._key, self._tracker, self._state, self._metrics, self._note = key, tracker, state, metrics, note
        self._behind = True
        self._told = False

    def write(self, step: int, metrics: dict[str, float], tables: Sequence[Table]) -> None:
        reached = self._state.steps.get(self._key, -1)
        if step <= reached:
            return
        try:
            if self._behind:
                for missed, values in _rows_between(self._metrics, reached, step):
                    self._hand_over(missed, values, ())
            self._hand_over(step, metrics, tables)
            self._behind = self._told = False
        except TrackerDownError as error:
            self._behind = True
            if not self._told:
                self._note(f"{self._key}: {error}; training goes on, and steps are handed over once it answers")
                self._told = True

    def _hand_over(self, step: int, metrics: dict[str, float], tables: Sequence[Table]) -> None:
        before = self._state.steps.get(self._key, -1)
        self._state.steps[self._key] = step
        self._state.save()
        try:
            self._tracker.write(step, metrics, tables)
        except TrackerDownError:
            self._state.steps[self._key] = before
            self._state.save()
            raise

    def close(self) -> None:
        try:
            self._tracker.close()
        except TrackerDownError as error:
            self._note(f"{self._key}: {error}")


def _rows_between(path: Path, after: int, before: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the steps that lie between two, and their metrics that are numbers."""
    for line in path.read_text(encoding="ascii").splitlines():
        row: dict[str, Any] = json.loads(line)
        step = row.pop("step")
        if after < step < before:
            yield step, {name: value for name, value in row.items() if value is not None}


class AppendOnly:
    """A file to which whole pieces are appended, each on disk before the next; of one that fails nothing remains."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def append(self, piece: bytes) -> None:
        """Append `piece`; raise `UserError` where it cannot be written."""
        size = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(piece)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(size)
            raise UserError(f"cannot write {self._file.name!r}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()
