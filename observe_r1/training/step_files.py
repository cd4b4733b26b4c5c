"""What belongs to a step as JSON Lines: a file each in a folder, or a line each in one file."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from observe_r1.files import json_line, write_atomic


def write_rows(folder: Path, step: int, rows: Iterable[dict[str, Any]]) -> Path:
    """Write the file of `step`, one JSON object a row, and return its path."""
    path = folder / f"step-{step:06d}.jsonl"
    write_atomic(path, "".join(json_line(row) for row in rows))
    return path


def cut_rows(folder: Path, step: int) -> None:
    """Remove the files of steps after `step`, and half-written ones."""
    for path in folder.glob("step-*"):
        if path.suffix != ".jsonl" or step_of(path) > step:
            path.unlink()


def cut_lines(path: Path, step: int) -> None:
    """Remove the lines of steps after `step`, and one that a killed run left half-written."""
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    write_atomic(path, "".join(line + "\n" for line in lines if _step_in(line) <= step))


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint or a rollout file."""
    return int(path.stem.removeprefix("step-"))


def _step_in(line: str) -> float:
    """Return the step of a line of metrics; infinity for one that a killed run left half-written."""
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return math.inf
