"""JSON files that hold one object of lists of rows, such as `{"Math": […], "Physics": […]}`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from observe_r1.data.rows import open_rows
from observe_r1.errors import UserError


def open_grouped(path: str | Path, split: str) -> tuple[Sequence[Any], Path | None]:
    """Do as `open_rows`, and join the lists where a JSON file holds one object; its rows are then all in memory.

    Errors: as `open_rows`, and `UserError` for an object without a list of rows.
    """
    file = Path(path)
    if file.suffix.lower() != ".json" or not file.is_file():
        return open_rows(path, split)
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError):  # says nothing of the place; the reader of rows does
        return open_rows(path, split)
    if not isinstance(value, dict):
        return open_rows(path, split)
    rows = [row for group in value.values() if isinstance(group, list) for row in group]
    if not rows:
        raise UserError(f"{path}: the object holds no list of rows: name the file of questions")
    return rows, file.absolute().parent
