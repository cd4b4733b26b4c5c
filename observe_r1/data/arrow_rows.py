"""Rows of a Parquet file or of a dataset on the Hugging Face Hub, read from a memory-mapped Arrow file."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from observe_r1.data.lazy import LazySequence
from observe_r1.errors import UserError

if TYPE_CHECKING:
    import datasets


_BATCH_ROWS, _BATCH_BYTES = 2_000, 1 << 24
"""Of the rows that are converted at once; images make rows of a megabyte."""


class ArrowRows(LazySequence[dict[str, Any]]):
    """The rows of `dataset` as plain dicts: images stay the encoded bytes or paths that the file holds.

    Nothing but the mapping is in memory, whatever the order of access, and pickling keeps paths, not rows.
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

    They are first written as an Arrow file into the cache of `datasets`, once for a version of the file: Parquet
    is read a row group at a time, and in a random order that would be one group for every row.

    Errors: `UserError` for a file that cannot be read.
    """
    import pyarrow
    from datasets import Dataset

    try:
        arrow_file = _as_arrow(path)
        return ArrowRows(Dataset.from_file(str(arrow_file))) if arrow_file else []
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {_reason(error)}") from error


def _as_arrow(path: Path) -> Path | None:
    """Return the Arrow file that holds the rows of a Parquet file, None if there are none.

    It is copied in small batches: `datasets` itself decodes a row group at once, and that may be the whole file.
    """
    import pyarrow
    from datasets import config
    from pyarrow.parquet import ParquetFile

    status = path.stat()
    version = f"{path.resolve()} {status.st_mtime_ns} {status.st_size}"
    arrow_file = Path(config.HF_DATASETS_CACHE, "observe-r1", f"{sha256(version.encode()).hexdigest()}.arrow")
    if arrow_file.exists():
        return arrow_file
    with ParquetFile(path, pre_buffer=False, buffer_size=1 << 16) as rows:
        count, groups = rows.metadata.num_rows, range(rows.metadata.num_row_groups)
        if count == 0:
            return None
        mean_bytes = sum(rows.metadata.row_group(group).total_byte_size for group in groups) / count
        batch = max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(mean_bytes, 1))))
        arrow_file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=arrow_file.parent) as beside:
            new = Path(beside, "new.arrow")
            with pyarrow.OSFile(str(new), "wb") as sink, pyarrow.ipc.new_stream(sink, rows.schema_arrow) as stream:
                for part in rows.iter_batches(batch, use_threads=False):
                    stream.write_batch(part)
            new.rename(arrow_file)
    pyarrow.default_memory_pool().release_unused()  # the allocator would keep some 50 MB for later
    return arrow_file


def hub_rows(name: str, split: str) -> ArrowRows:
    """Return the rows of one split of a dataset on the Hugging Face Hub, downloaded into its cache.

    Errors: `UserError` if it is not there, not reachable, or has no such split.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return ArrowRows(load_dataset(name, split=split))
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise UserError(
            f"{name}: no such file, and not readable as a dataset on the Hugging Face Hub: {_reason(error)}"
        ) from error


def _reason(error: BaseException) -> str:
    """Return on one line what happened; `datasets` wraps it in an error that does not say."""
    return " ".join(str(error.__cause__ or error).split())
