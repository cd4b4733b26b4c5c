"""Rows of a Parquet file or of a dataset on the Hugging Face Hub, read from a memory-mapped Arrow file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from observe_r1.data.lazy import LazySequence
from observe_r1.errors import UserError

if TYPE_CHECKING:
    import datasets


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

    `datasets` first writes them as an Arrow file into its cache, once for a version of the file: Parquet
    is read a row group at a time, and in a random order that would be one group for every row.

    Errors: `UserError` for a file that cannot be read.
    """
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset
    from datasets.exceptions import DatasetsError

    try:
        # The footer first: `datasets` fails without rows, and logs lines of its own about a broken file.
        if pyarrow.parquet.read_metadata(path).num_rows == 0:
            return []
        return ArrowRows(Dataset.from_parquet(str(path)))
    except (OSError, pyarrow.ArrowException, DatasetsError) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {_reason(error)}") from error


def hub_rows(name: str) -> ArrowRows:
    """Return the rows of the `train` split of a dataset on the Hugging Face Hub, downloaded into its cache.

    Errors: `UserError` if it is not there, not reachable, or has no such split.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return ArrowRows(load_dataset(name, split="train"))
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise UserError(
            f"{name}: no such file, and not readable as a dataset on the Hugging Face Hub: {_reason(error)}"
        ) from error


def _reason(error: BaseException) -> str:
    """Return on one line what happened; `datasets` wraps it in an error that does not say."""
    return " ".join(str(error.__cause__ or error).split())
