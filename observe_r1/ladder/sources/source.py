"""What is known of a public dataset, and how one of its rows becomes an `Example`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from observe_r1.data.rows import open_rows
from observe_r1.records import Example

Adapt = Callable[[Mapping[str, Any], str, Path | None], Example]


@dataclass(frozen=True, slots=True)
class Source:
    """A public dataset in one layout."""

    name: str
    """As it is registered."""
    title: str
    hub: str
    """`owner/name` of the layout on the Hugging Face Hub."""
    split: str
    """Read from the Hub, and from a folder of Parquet files that are named by their split."""
    licence: str
    adapt: Adapt
    """Takes a row, its place (for errors, and kept as `origin`) and the folder of relative image paths, None if there
    is none. Returns the example with the row's own id, empty if the layout has none, without `source`, and without
    images where the row has none.
    Errors: `UserError` for a broken row, naming place, key, value and fix."""
    benchmark: str | None = None
    """What must not be reported by whoever trains on this source."""
    open: Callable[[str | Path, str], tuple[Sequence[Any], Path | None]] = open_rows
    """Takes a path or Hub name and a split; returns the rows and the folder of relative image paths."""
