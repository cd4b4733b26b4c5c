"""Where a run's figures go: always to `metrics.jsonl`; to TensorBoard, Weights & Biases, Trackio and MLflow on request.

`trackers.json` in the run folder says which run each tracker knows this one as, and the last step that it was given:

    {"name": "1f0c3b7a", "wandb: shapes": {"id": "1f0c3b7a", "step": 40, "held": 20}, "tensorboard": {…}}

So a resumed run goes on in the same tracked run, and no step is there twice: the steps between a checkpoint and a kill
are made again, and are left as they were. What a tracker was given is not always what it holds: some write late, and
lose their last steps with a process that is killed. So a tracker whose store can be read says on starting what is there
(`held`); for the others a step is taken down here just before it is handed over. What a tracker lacks, for this reason
or because it was added later or did not answer, it gets from `metrics.jsonl`.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from secrets import token_hex
from time import monotonic
from typing import Any, Protocol

import yaml

from observe_r1.config import RunSettings
from observe_r1.config.verbs import flat
from observe_r1.errors import UserError
from observe_r1.files import json_line, write_atomic
from observe_r1.registry import resolve
from observe_r1.run.folder import CONFIG, METRICS
from observe_r1.run.trackers.tables import Table
from observe_r1.web import without_passwords

KINDS = ("wandb", "mlflow", "trackio", "tensorboard")
"""Trackers, by the setting `run.KIND` and the module of that name; first those that can fail for a reason of the user's
account."""

_STATE = "trackers.json"
_PAUSE = 60.0
"""Seconds before a tracker that has not answered is tried again: a try may take a while, and the run waits for it."""


class TrackerDownError(Exception):
    """A tracker does not take a step now; it may take it later."""


class Tracker(Protocol):
    """One tracker. Its module has `start(asked, folder, settings, name, known)`, which returns it.

    `asked` is the setting's value, `folder` the run folder, `settings` the run's by dotted name, `name` what to call
    the run, unique; `known` is the `id` under which an earlier process has tracked this run, None for a new one. It
    raises `UserError` if the tracker cannot be used.
    """

    id: str
    """By which the tracker finds the run again; empty if it needs none."""
    held: int | None
    """The last step that its store held when it started, read from there; -1 for none; None if it cannot be read."""

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
        self._file = AppendOnly(folder / METRICS)
        self._state = _State(folder / _STATE)
        self._open: list[_Once] = []
        values = without_passwords(yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")))
        try:
            for kind in KINDS:
                if asked := getattr(settings, kind):
                    key = kind if asked is True else f"{kind}: {asked}"
                    start = resolve(f"observe_r1.run.trackers.{kind}:start")
                    name = f"{folder.absolute().name}-{self._state.name}"
                    try:
                        tracker = start(asked, folder, flat(values), name, self._state.ids.get(key))
                    except OSError as error:
                        place = error.filename or folder
                        raise UserError(f"run.{kind}: cannot write {str(place)!r}: {error.strerror}") from error
                    self._state.found(key, tracker)
                    self._open.append(_Once(key, tracker, self._state, folder / METRICS, note))
            for each in self._open:
                each.catch_up()
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
        """The last step that each was given."""
        self._held: dict[str, int] = {}
        """Of those, the last that it surely held when it started, even if its files have been moved away since."""
        if path.is_file():
            try:
                read = json.loads(path.read_bytes())
                self.name = str(read.pop("name"))
                self.ids = {key: str(each["id"]) for key, each in read.items()}
                self.steps = {key: int(each["step"]) for key, each in read.items()}
                self._held = {key: int(each.get("held", -1)) for key, each in read.items()}
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(f"{path}: not as the run wrote it: put it back, or remove it to track anew") from error

    def found(self, key: str, tracker: Tracker) -> None:
        """Note a tracker that has started, and what it holds."""
        self.ids[key] = tracker.id
        if tracker.held is not None:
            self.steps[key] = max(tracker.held, self._held.get(key, -1))
        self._held[key] = self.steps.setdefault(key, -1)
        self.save()

    def save(self) -> None:
        trackers = {key: {"id": self.ids[key], "step": self.steps[key], "held": self._held[key]} for key in self.ids}
        write_atomic(self._path, json.dumps({"name": self.name, **trackers}) + "\n")


class _Once:
    """A tracker that gets each step once, and from `metrics` those that it lacks."""

    def __init__(self, key: str, tracker: Tracker, state: _State, metrics: Path, note: Callable[[str], None]) -> None:
        self._key, self._tracker, self._state, self._metrics, self._note = key, tracker, state, metrics, note
        self._behind = self._told = False
        self._again = 0.0
        """When one that did not answer is tried again, as `monotonic` counts."""

    def catch_up(self) -> None:
        """Hand over all steps of `metrics` that the tracker lacks."""
        with self._patience():
            self._hand_over_missed(inf)

    def write(self, step: int, metrics: dict[str, float], tables: Sequence[Table]) -> None:
        if step <= self._state.steps[self._key] or (self._behind and monotonic() < self._again):
            return
        with self._patience():
            if self._behind:
                self._hand_over_missed(step)
            self._hand_over(step, metrics, tables)

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Run the block; where the tracker does not answer, say so, once, and let training go on."""
        try:
            yield
            self._behind = self._told = False
        except TrackerDownError as error:
            self._behind, self._again = True, monotonic() + _PAUSE
            if not self._told:
                self._note(f"{self._key}: {error}; training goes on, and steps are handed over once it answers")
                self._told = True

    def _hand_over_missed(self, before: float) -> None:
        for missed, values in rows_between(self._metrics, self._state.steps[self._key], before):
            self._hand_over(missed, values, ())

    def _hand_over(self, step: int, metrics: dict[str, float], tables: Sequence[Table]) -> None:
        before = self._state.steps[self._key]
        self._state.steps[self._key] = step
        self._state.save()
        try:
            self._tracker.write(step, metrics, tables)
        except TrackerDownError:
            self._state.steps[self._key] = before
            self._state.save()
            raise

    def close(self) -> None:
        if self._behind:
            self.catch_up()
        if self._behind:
            self._note(f"{self._key}: lacks the last steps: the same command with --run.resume hands them over")
            return
        try:
            self._tracker.close()
        except TrackerDownError as error:
            self._note(f"{self._key}: {error}")


def rows_between(path: Path, after: int, before: float) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the steps of a `metrics.jsonl` that lie between two, and their metrics that are numbers."""
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
        """Append `piece`; raise `UserError` if it cannot be written."""
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
