"""What belongs to a step: a file or a folder each by its exact name, or a line each in one file.

Run folders are shared with people: a name that differs in one character is somebody else's and is left alone.
"""

import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from observe_r1.files import json_line, write_atomic


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
