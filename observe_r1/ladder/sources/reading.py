"""From `name:PATH_OR_HUB_NAME@SPLIT` to examples, one row at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from observe_r1 import registry
from observe_r1.data.places import find_parts, place_and_split
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
    benchmark: bool = False
    """Whether the rows are only compared with others: then they need no image, and are those to report."""
    asked_split: str = ""
    """Read instead of the source's own split, or of `test` where a benchmark's own is `train`."""
    bad: int = 0
    """Rows skipped by the latest iteration."""
    errors: list[str] = field(default_factory=list)
    """Place, key, value and fix of the first `MAX_NAMED` of them."""

    def __iter__(self) -> Iterator[Example]:
        """Yield the examples. Errors: `UserError` for rows that cannot be read, unless they are to be skipped."""
        self.bad, self.errors = 0, []
        seen: set[str] = set()
        number = 0
        own = "test" if self.benchmark and self.source.split == "train" else self.source.split
        split = self.asked_split or own
        for part in find_parts(self.path, split, asked=bool(self.asked_split)):
            try:
                rows, folder = self.source.open(part, split)
            except UserError as error:
                if split in (self.asked_split, self.source.split) or Path(part).is_file():
                    raise
                other = f"{self.source.name}:{part}@{self.source.split}"
                raise UserError(f"{error}: a benchmark's split is {split!r}, {other} names another") from error
            for index in range(len(rows)):
                number += 1
                place = f"{self.source.name}:{part} row {index + 1}"
                try:
                    example = adapt_row(self.source, rows[index], place, folder, needs_image=not self.benchmark)
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


def adapt_row(source: Source, row: Any, place: str, folder: Path | None, *, needs_image: bool = True) -> Example:
    """Return the example of a row. Errors: `UserError` for a broken one, and for one without image that needs one."""
    if not isinstance(row, Mapping):
        raise UserError(f"{place}: needs an object with named columns, got {row!r:.80}")
    example = source.adapt(row, place, folder)
    if needs_image and not example.images:
        raise UserError(f"{place}: the row has no image: leave it out, it is not a visual question")
    return example


def read_source(text: str, *, skip_bad: bool, benchmark: bool = False) -> SourceReader:
    """Return the examples of a public dataset.

    Args:
        text: `name:PATH_OR_HUB_NAME`: a registered source, and what `find_parts` takes: a file in its layout, a
            folder, a name on the Hub. `@SPLIT` after a folder or a name on the Hub says which split to read.
        skip_bad: Whether broken rows are left out, counted and named, or the first one is an error.
        benchmark: Whether the rows are items of a benchmark: rows without an image count, too, and the split is
            `test` where the source's own is `train`.

    Errors: `UserError` for text of another form or an unknown source; while iterating for files that cannot be read,
    and for the first broken row unless `skip_bad`.
    """
    name, colon, path = text.partition(":")
    if not colon or not path.strip():
        raise UserError(f"source {text!r}: needs NAME:PATH_OR_HUB_NAME, such as geometry3k:hiyouga/geometry3k")
    source: Source = registry.load("source", name)
    place, split = place_and_split(path.strip())
    return SourceReader(source, place, skip_bad, benchmark, split)
