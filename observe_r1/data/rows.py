"""Raw rows of a file, a saved dataset, or a dataset on the Hugging Face Hub."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from observe_r1.data.json_rows import JsonRows
from observe_r1.data.lazy import LazySequence
from observe_r1.data.places import FILE_KINDS, MissingDataError, is_saved
from observe_r1.errors import UserError
from observe_r1.files import refuse_lfs_pointer

if TYPE_CHECKING:
    import datasets


_BATCH_ROWS, _BATCH_BYTES = 2_000, 1 << 24
"""Limits of the rows that are converted at once; rows with images take a megabyte each."""

_LONGEST_FIELD = 1 << 30
"""Characters of the longest value in a CSV file; it may be an image as a `data:` URI."""


class ArrowRows(LazySequence[dict[str, Any]]):
    """The rows of a dataset as plain dicts: images stay the encoded bytes or paths that the file holds.

    Only the memory mapping is in memory, whatever the order of access, and pickling keeps paths, not rows.
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        self._dataset = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self._dataset)

    def item(self, index: int) -> dict[str, Any]:
        """Read one row."""
        return self._dataset[index].to_pylist()[0]


def parquet_rows(path: Path) -> Sequence[dict[str, Any]]:
    """Return the rows of a Parquet file.

    They are first written as an Arrow file into the cache of `datasets`, once per version of the file: Parquet is read
    one row group at a time, and in a random order that would be one group for every row.

    Raises:
        UserError: The file cannot be read.
    """
    return _converted(path, "Parquet", _parquet_batches)


def csv_rows(path: Path) -> Sequence[dict[str, Any]]:
    """Return the rows of a CSV file (`.tsv`: tab-separated) with a header, in UTF-8; all values are texts.

    They are first written as an Arrow file, as in `parquet_rows`.

    Raises:
        UserError: The file cannot be read.
    """
    return _converted(path, "CSV in UTF-8", _csv_batches)


def arrow_rows(path: Path) -> Sequence[dict[str, Any]]:
    """Return the rows of an Arrow file; raise `UserError` if it cannot be read."""
    from datasets import Dataset

    return _opened(path, "Arrow", lambda: Dataset.from_file(str(path)))


def saved_rows(folder: Path) -> Sequence[dict[str, Any]]:
    """Return the rows that `Dataset.save_to_disk` wrote; raise `UserError` if the folder cannot be read."""
    from datasets import load_from_disk

    return _opened(folder, "a saved dataset", lambda: load_from_disk(str(folder)))


def _opened(path: Path, kind: str, opened: Callable[[], datasets.Dataset | None]) -> Sequence[dict[str, Any]]:
    import pyarrow

    try:
        dataset = opened()
        return ArrowRows(dataset) if dataset is not None else []
    except (OSError, ValueError, KeyError, TypeError, csv.Error, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as {kind}: {_reason(error)}") from error


def _converted(path: Path, kind: str, batches: Callable[[Path], Iterator[Any]]) -> Sequence[dict[str, Any]]:
    from datasets import Dataset

    def opened() -> datasets.Dataset | None:
        arrow_file = _as_arrow(path, batches)
        return Dataset.from_file(str(arrow_file)) if arrow_file else None

    return _opened(path, kind, opened)


def _as_arrow(path: Path, batches: Callable[[Path], Iterator[Any]]) -> Path | None:
    """Return the Arrow file that holds the rows of `path`, copied batch by batch; None if there are none."""
    import pyarrow
    from datasets import config

    status = path.stat()
    version = f"{path.resolve()} {status.st_mtime_ns} {status.st_size}"
    arrow_file = Path(config.HF_DATASETS_CACHE, "observe-r1", f"{sha256(version.encode()).hexdigest()}.arrow")
    if arrow_file.exists():
        return arrow_file
    rows = batches(path)
    first = next(rows, None)
    if first is None:
        return None
    arrow_file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=arrow_file.parent) as beside:
        new = Path(beside, "new.arrow")
        with pyarrow.OSFile(str(new), "wb") as sink, pyarrow.ipc.new_stream(sink, first.schema) as stream:
            for part in chain([first], rows):
                stream.write_batch(part)
        new.rename(arrow_file)
    del first, part
    pyarrow.default_memory_pool().release_unused()  # else the allocator keeps some 50 MB
    return arrow_file


def _parquet_batches(path: Path) -> Iterator[Any]:
    """Yield the rows in small batches: `datasets` decodes a whole row group at once, which may be the whole file."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path, pre_buffer=False, buffer_size=1 << 16) as rows:
        count, groups = rows.metadata.num_rows, range(rows.metadata.num_row_groups)
        mean_bytes = sum(rows.metadata.row_group(group).total_byte_size for group in groups) / max(count, 1)
        batch = max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(mean_bytes, 1))))
        if count:
            yield from rows.iter_batches(batch, use_threads=False)


def _csv_batches(path: Path) -> Iterator[Any]:
    """Yield the rows in small batches."""
    import pyarrow

    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        header = next(rows, [])
        if len(set(header)) < len(header):
            raise UserError(f"{path}: the header has duplicate column names: rename them: {', '.join(header)}")
        schema = pyarrow.schema([(name, pyarrow.string()) for name in header])
        batch: list[list[str]] = []
        size = 0
        for row in filter(None, rows):
            if len(row) != len(header):
                raise UserError(
                    f"{path}: line {rows.line_num}: a row of {len(row)} values under a header of {len(header)}: put "
                    "values with commas, quotes or line breaks into double quotes"
                )
            batch.append(row)
            size += sum(map(len, row))
            if len(batch) == _BATCH_ROWS or size > _BATCH_BYTES:
                yield pyarrow.record_batch([list(values) for values in zip(*batch, strict=True)], schema=schema)
                batch, size = [], 0
        if batch:
            yield pyarrow.record_batch([list(values) for values in zip(*batch, strict=True)], schema=schema)


def hub_rows(name: str, split: str) -> ArrowRows:
    """Return the rows of one split of a dataset on the Hugging Face Hub, downloaded into its cache.

    Raises:
        UserError: It does not exist, cannot be reached, or has no such split.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    hub = logging.getLogger("huggingface_hub")
    before = hub.level
    hub.setLevel(logging.ERROR)  # it warns at every retry; the error below says how they ended
    try:
        return ArrowRows(load_dataset(name, split=split))
    except ConnectionError as error:
        raise MissingDataError(
            f"{name}: no such file, and the Hugging Face Hub, where it could be a dataset, does not answer: "
            f"{_reason(error)}"
        ) from error
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise MissingDataError(
            f"{name}: no such file, and not readable as a dataset on the Hugging Face Hub: {_reason(error)}"
        ) from error
    finally:
        hub.setLevel(before)


def _reason(error: BaseException) -> str:
    """Return the cause of an error in one line; `datasets` wraps it in an error that does not name it."""
    return " ".join(str(error.__cause__ or error).split())


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
    """Rows of an image folder's `metadata` file, with the image under `file_name` also under `image`."""

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
        path: One of what `find_parts` returns: a file of one of `FILE_KINDS`, a folder that `datasets` saved, or the
            `owner/name` of a dataset on the Hugging Face Hub.
        split: The split to read of a dataset on the Hub.

    Raises:
        UserError: The file is missing, unreadable or empty.
    """
    file = Path(path)
    rows: Sequence[Any]
    folder: Path | None = file.absolute().parent
    if file.is_dir() and is_saved(file):
        rows, folder = saved_rows(file), file.absolute()
    elif file.is_file():
        if file.suffix.lower() not in _READERS:
            raise UserError(f"{path}: unknown kind of file {file.suffix!r}: known are {', '.join(FILE_KINDS)}")
        refuse_lfs_pointer(file)
        rows = _READERS[file.suffix.lower()](file)
    elif file.exists() or file.suffix.lower() in _READERS:
        raise MissingDataError(f"{path}: {'not a file: name a file' if file.exists() else 'no such file'}")
    else:
        rows, folder = hub_rows(str(path), split), None
    if not rows:
        raise UserError(f"{path}: the dataset is empty")
    return (_ImageFolder(rows) if file.stem == "metadata" else rows), folder
