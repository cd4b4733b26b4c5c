"""What is known of a public dataset, and how its rows are opened and become `Example`s."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from observe_r1.data.rows import open_rows
from observe_r1.errors import UserError
from observe_r1.records import Example

Adapt = Callable[[Mapping[str, Any], str, Path | None], Example]


@dataclass(frozen=True, slots=True)
class Source:
    """A public dataset in one layout."""

    name: str
    """The name in the registry."""
    title: str
    hub: str
    """`owner/name` of the layout on the Hugging Face Hub."""
    split: str
    """The split to read by default, from the Hub and from a folder whose file names tell splits apart."""
    licence: str
    adapt: Adapt
    """Takes a row, its place (for errors, and kept as `origin`) and the folder of relative image paths (None if there
    is none). Returns the example with the row's own id (empty if the layout has none), without `source`, and without
    images if the row has none. Raises `UserError` for a broken row, naming place, key, value and fix."""
    benchmark: str | None = None
    """A warning for those who train on this source: which benchmark they must not report."""
    open: Callable[[str | Path, str], tuple[Sequence[Any], Path | None]] = open_rows
    """Takes a path or Hub name and a split; returns the rows and the folder of relative image paths."""


def open_grouped(path: str | Path, split: str) -> tuple[Sequence[Any], Path | None]:
    """Open rows as `open_rows` does, and also a JSON file with one object of lists, `{"Math": […], "Physics": […]}`.

    Args:
        path: A file, a saved folder, or a Hub name.
        split: The split to read from the Hub.

    Returns:
        The rows (of such an object: of all its lists, in memory), and the folder of relative image paths.

    Raises:
        UserError: As `open_rows`, and for an object without a list of rows.
    """
    file = Path(path)
    if file.suffix.lower() != ".json" or not file.is_file():
        return open_rows(path, split)
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError):  # this error names no line; the one of open_rows does
        return open_rows(path, split)
    if not isinstance(value, dict):
        return open_rows(path, split)
    rows = [row for group in value.values() if isinstance(group, list) for row in group]
    if not rows:
        raise UserError(f"{path}: the object holds no list of rows: name the file of questions")
    return rows, file.absolute().parent
