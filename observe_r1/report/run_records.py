"""A run's folder as its reports read it: settings, metrics by step, and every response that it has sampled.

A live run can be read at any time: its files are whole, except for the last line of the metrics, which is left out
while it is being written. Read again with the same memory, only what is new is read.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from observe_r1.config import flat
from observe_r1.data.json_rows import JsonRows
from observe_r1.errors import UserError
from observe_r1.report.memory import Memory
from observe_r1.run.folder import CONFIG, EVALUATIONS, METRICS, ROLLOUTS, step_name, steps_in
from observe_r1.web import without_passwords

MOST_RUNS = 6
"""Runs that are told apart by colour in one chart."""
_LARGEST = 1e100
"""Metrics are made of float32, at most 3e38, and sums of these; a run writes null for what is not finite."""
_COLUMNS: dict[str, type] = {"id": str, "response": int, "text": str, "answer": str, "correct": bool}
"""Columns of every response, and their types."""
_SAMPLED: dict[str, Any] = _COLUMNS | {"advantage": int | float}
"""Of a response sampled in training."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run has written so far."""

    path: Path
    name: str
    """What the reports call it: see `label_runs`."""
    settings: dict[str, Any]
    """By dotted name: `objective.bonus`."""
    metrics: tuple[dict[str, Any], ...]
    """One a step, by names such as `reward/mean`; `step` is in each."""
    memory: Memory = field(default_factory=Memory, compare=False, repr=False)
    """Of what was read of it."""

    @property
    def steps(self) -> int:
        """Steps done."""
        return max((row["step"] for row in self.metrics), default=0)

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Return the steps at which a metric was recorded, and its values; both empty if it never was."""
        found = [(row["step"], row[key]) for row in self.metrics if isinstance(row.get(key), int | float)]
        return [step for step, _ in found], [float(value) for _, value in found]


def when(step: int) -> str:
    """Return after which step something was, in words; 0 is the starting model."""
    return f"after step {step:,}" if step else "before training"


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run."""
    return (folder / CONFIG).is_file() and ((folder / METRICS).is_file() or (folder / ROLLOUTS).is_dir())


def read_run(folder: Path, name: str = "", memory: Memory | None = None) -> RunRecord:
    """Read a run's settings and metrics.

    Args:
        folder: Of the run, live or ended.
        name: See `RunRecord`; the folder's own by default.
        memory: From the last time it was read.

    Raises:
        UserError: A file is missing or not as a run wrote it; names the file and, of metrics, the line.
    """
    memory, path = memory or Memory(), folder / METRICS
    settings = _read_settings(folder / CONFIG)

    def parse(line: bytes, number: int) -> dict[str, Any]:
        try:
            return _metrics_row(line)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(f"{path} line {number}: not as a run wrote it: put the file back") from error

    try:
        metrics = memory.lines(path, parse) if path.is_file() else []
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name the folder of a training run") from error
    return RunRecord(folder, name or folder.resolve().name, settings, tuple(metrics), memory)


def _metrics_row(line: bytes) -> dict[str, Any]:
    """Return a line of metrics; raise one of five errors for what no run has written."""
    row: dict[str, Any] = json.loads(line)
    row["step"] = int(row["step"])
    numbers = [value for value in row.values() if isinstance(value, int | float)]
    if row["step"] < 0 or not all(abs(value) < _LARGEST for value in numbers):  # NaN fails this comparison too
        raise ValueError("a number that no run has written")
    return row


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return flat(without_passwords(yaml.safe_load(path.read_text(encoding="utf-8"))))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name the folder of a training run") from error
    except (ValueError, yaml.YAMLError, AttributeError) as error:
        raise UserError(f"{path}: not as a run wrote it: put the file back") from error


def label_runs(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder, all different: its last name, with as many parents as it takes.

    Raises:
        UserError: A folder is named twice.
    """
    places = [folder.resolve().parts[1:] for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UserError(f"{folders[number]}: named twice: give each folder once")
    length = 1
    while len({place[-length:] for place in places}) < len(places):
        length += 1
    return ["/".join(place[-length:]) for place in places]


@dataclass(frozen=True, slots=True)
class SampledGroup:
    """All responses to one question in one step of a run, or in one of its evaluations."""

    step: int
    id: str
    """Of the question."""
    rows: tuple[dict[str, Any], ...]
    """Its responses: see `run.recorder.rollout_rows` and `run.held_out.evaluation_rows`."""

    @property
    def share_right(self) -> float:
        """Share of the responses that are right, in [0, 1]."""
        return sum(bool(row["correct"]) for row in self.rows) / len(self.rows)


def sampled_groups(run: RunRecord, step: int) -> list[SampledGroup]:
    """Return what a run sampled for `step`; see `rollout_steps`. Not kept in memory: all steps would be too much."""
    return list(_groups(rollouts_file(run, step), step, _SAMPLED))


def held_out_groups(run: RunRecord, step: int) -> list[SampledGroup]:
    """Return the responses to the held-out questions after `step`; see `evaluated_steps`."""
    path = evaluation_file(run, step)
    return run.memory.of_file(path, "groups", lambda: list(_groups(path, step, _COLUMNS)))


def rollouts_file(run: RunRecord, step: int) -> Path:
    """Return the file that holds what a run sampled for `step`."""
    return run.path / ROLLOUTS / f"{step_name(step)}.jsonl"


def evaluation_file(run: RunRecord, step: int) -> Path:
    """Return the file that holds a run's answers to the held-out questions after `step`."""
    return run.path / EVALUATIONS / f"{step_name(step)}.jsonl"


def rollout_steps(run: RunRecord) -> list[int]:
    """Return the steps whose responses are there."""
    return sorted(steps_in(run.path / ROLLOUTS, ".jsonl"))


def evaluated_steps(run: RunRecord) -> list[int]:
    """Return the steps after which the held-out questions were answered; 0 is the starting model."""
    return sorted(steps_in(run.path / EVALUATIONS, ".jsonl"))


def _groups(path: Path, step: int, columns: dict[str, Any]) -> Iterator[SampledGroup]:
    started = -1  # a question may be drawn twice in one step: its groups are told apart by where numbers restart
    rows = []
    for number, row in enumerate(JsonRows(path), start=1):
        _check(row, columns, f"{path} row {number}")
        started += row["response"] == 0
        rows.append((started, row))
    for _, group in groupby(rows, key=lambda pair: pair[0]):
        members = tuple(row for _, row in group)
        yield SampledGroup(step, members[0]["id"], members)


def _check(row: Any, columns: dict[str, Any], place: str) -> None:
    """Raise `UserError` unless a row is an object with these columns."""
    wrong = "not as a run wrote it: put the file back"
    if not isinstance(row, dict):
        raise UserError(f"{place}: {wrong}")
    for name, kind in columns.items():
        if not isinstance(row.get(name), kind):
            raise UserError(f"{place}, {name!r}: {wrong}")
