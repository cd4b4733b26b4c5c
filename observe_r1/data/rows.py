"""Raw rows by the name of what holds them: a file, a saved dataset, or a dataset on the Hugging Face Hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from observe_r1.data.arrow_rows import arrow_rows, csv_rows, hub_rows, parquet_rows, saved_rows
from observe_r1.data.json_rows import JsonRows
from observe_r1.data.lazy import LazySequence
from observe_r1.data.places import KINDS, is_saved
from observe_r1.errors import UserError
from observe_r1.files import refuse_lfs_pointer

_READERS = {
    ".json": JsonRows,
    ".jsonl": JsonRows,
    ".parquet": parquet_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".arrow": arrow_rows,
}


@dataclass(frozen=True, eq=False)
class _ImageFolder(LazySequence[Any]):
    """Rows of an image folder's `metadata` file: the image that stands under `file_name` is there as `image`, too."""

    rows: Sequence[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> Any:
        """Read one row."""
        row = self.rows[index]
        if isinstance(row, dict) and "file_name" in row and not {"image", "images"} & row.keys():
            return {**row, "image": row["file_name"]}
        return row


def open_rows(path: str | Path, split: str = "train") -> tuple[Sequence[Any], Path | None]:
    """Return the rows of `path`, lazily, and the folder that its relative paths start from (None for the Hub).

    Args:
        path: One of what `find_parts` returns: a file of one of `KINDS`, a folder that `datasets` saved, or the
            `owner/name` of a dataset on the Hugging Face Hub.
        split: What to read of a dataset on the Hub.

    Errors: `UserError` for a file that is missing, unreadable or empty.
    """
    file = Path(path)
    rows: Sequence[Any]
    folder: Path | None = file.absolute().parent
    if file.is_dir() and is_saved(file):
        rows, folder = saved_rows(file), file.absolute()
    elif file.is_file():
        if file.suffix.lower() not in _READERS:
            raise UserError(f"{path}: unknown kind of file {file.suffix!r}: known are {', '.join(KINDS)}")
        refuse_lfs_pointer(file)
        rows = _READERS[file.suffix.lower()](file)
    elif file.exists() or file.suffix.lower() in _READERS:
        raise UserError(f"{path}: {'not a file: name a file' if file.exists() else 'no such file'}")
    else:
        rows, folder = hub_rows(str(path), split), None
    if not rows:
        raise UserError(f"{path}: the dataset is empty")
    return (_ImageFolder(rows) if file.stem == "metadata" else rows), folder
