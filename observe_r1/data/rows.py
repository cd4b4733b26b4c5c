"""Raw rows by the name of what holds them: a file, or a dataset on the Hugging Face Hub."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from observe_r1.data.arrow_rows import hub_rows, parquet_rows
from observe_r1.data.json_rows import JsonRows
from observe_r1.errors import UserError

_READERS = {".json": JsonRows, ".jsonl": JsonRows, ".parquet": parquet_rows}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LADDER = "ladder.jsonl"


def open_rows(path: str | Path, split: str = "train") -> tuple[Sequence[Any], Path | None]:
    """Return the rows of `path`, lazily, and the folder that its relative paths start from (None for the Hub).

    Args:
        path: A JSON list, JSON lines or Parquet file (`.json`, `.jsonl`, `.parquet`); the folder of a ladder; or, where
            there is no such file, the `owner/name` of a dataset on the Hugging Face Hub.
        split: What to read of a dataset on the Hub.

    Errors: `UserError` for a file that is missing, unreadable or empty.
    """
    file = Path(path)
    if (file / _LADDER).is_file():
        file = file / _LADDER
    reader = _READERS.get(file.suffix.lower())
    rows: Sequence[Any]
    folder: Path | None
    if file.is_file() and reader:
        rows, folder = reader(file), file.absolute().parent
    elif file.is_file():
        raise UserError(f"{path}: unknown kind of file {file.suffix!r}: known are {', '.join(_READERS)}")
    elif _HUB_NAME.fullmatch(str(path)) and not reader and not file.exists():
        rows, folder = hub_rows(str(path), split), None
    else:
        raise UserError(f"{path}: {'not a file: name a file' if file.exists() else 'no such file'}")
    if not rows:
        raise UserError(f"{path}: the dataset is empty")
    return rows, folder
