"""From `name:PATH_OR_HUB_NAME` to examples, one row at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from observe_r1 import registry
from observe_r1.errors import UserError
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example

MAX_NAMED = 100
"""Bad rows whose errors are kept; all are counted."""


@dataclass
class SourceReader:
    """The examples of one source, made while iterating; each iteration reads and counts anew.

    Ids are `name/row-id`, with the row's own id or else its number from 1; an id that stands in an earlier row gets
    that number added, so that ids are unique and always the same for the same rows.
    """

    source: Source
    path: str
    skip_bad: bool
    bad: int = 0
    """Rows skipped by the latest iteration."""
    errors: list[str] = field(default_factory=list)
    """Place, key, value and fix of the first `MAX_NAMED` of them."""

    def __iter__(self) -> Iterator[Example]:
        """Yield the examples. Errors: `UserError` for rows that cannot be read, unless they are to be skipped."""
        self.bad, self.errors = 0, []
        seen: set[str] = set()
        number = 0
        for part in _parts(self.path, self.source.split):
            rows, folder = self.source.open(part, self.source.split)
            for index in range(len(rows)):
                number += 1
                place = f"{self.source.name}:{part} row {index + 1}"
                try:
                    row = rows[index]
                    if not isinstance(row, dict):
                        raise UserError(f"{place}: needs an object with named columns, got {row!r:.80}")
                    example = self.source.adapt(row, place, folder)
                except UserError as error:
                    self._skip(error)
                    continue
                row_id = f"{self.source.name}/{example.id or number}"
                if row_id in seen:
                    row_id += f"#{number}"
                seen.add(row_id)
                yield replace(example, id=row_id, source=self.source.name)

    def _skip(self, error: UserError) -> None:
        if not self.skip_bad:
            raise error
        self.bad += 1
        if len(self.errors) < MAX_NAMED:
            self.errors.append(str(error))


def read_source(text: str, *, skip_bad: bool) -> SourceReader:
    """Return the examples of a public dataset.

    Args:
        text: `name:PATH_OR_HUB_NAME`: a registered source, and a JSON, JSON lines or Parquet file in its layout, a
            folder of Parquet files (those named by the source's split, if there are such), or a name on the Hub.
        skip_bad: Whether broken rows are left out, counted and named, or the first one is an error.

    Errors: `UserError` for text of another form or an unknown source; while iterating for files that cannot be read,
    and for the first broken row unless `skip_bad`.
    """
    name, colon, path = text.partition(":")
    if not colon or not path.strip():
        raise UserError(f"source {text!r}: needs NAME:PATH_OR_HUB_NAME, such as geometry3k:hiyouga/geometry3k")
    source: Source = registry.load("source", name)
    return SourceReader(source, path.strip(), skip_bad)


def _parts(path: str, split: str) -> list[str]:
    """Return the files of a folder, or `path` itself."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return [str(folder) if path.startswith("~") else path]
    files = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    if not files:
        raise UserError(f"{path}: no Parquet file in this folder: name a file")
    return [str(file) for file in files if file.name.startswith(f"{split}-")] or [str(file) for file in files]
