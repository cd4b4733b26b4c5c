"""Files that grow batch by batch, and how much of them is valid: a killed build resumes after the last whole batch."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import file_digest
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from observe_r1.errors import UserError
from observe_r1.files import json_line, write_atomic

PROGRESS = "progress.json"
"""For each stage begun, in order: the rows done, whether those are all, and the valid bytes of each file.

`reads` holds the SHA-256 digests of the files that a stage reads."""


class _Stage(BaseModel, strict=True):
    """What `progress.json` holds about a stage."""

    done: int = Field(ge=0)
    complete: bool
    sizes: dict[str, Annotated[int, Field(ge=0)]]
    reads: dict[str, str] = {}


_STAGES = TypeAdapter(dict[str, _Stage])


def read_progress(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what `progress.json` holds, by stage; raise `UserError` if it is not as a build wrote it."""
    path = folder / PROGRESS
    try:
        stages = _STAGES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f", {part!r}" for part in first["loc"])
        raise UserError(
            f"{path}{key}: not as the build wrote it ({first['msg']}): restore the file, or build into another folder"
        ) from error
    return {stage: state.model_dump() for stage, state in stages.items()}


def is_complete(folder: Path, stage: str) -> bool:
    """Return whether `stage` has done all of its rows."""
    return bool(read_progress(folder).get(stage, {}).get("complete"))


def begun_before(folder: Path, stages: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return what `progress.json` holds about the stages that were begun before any of `stages`."""
    return dict(takewhile(lambda begun: begun[0] not in stages, read_progress(folder).items()))


def start_over(folder: Path, stages: Collection[str]) -> None:
    """Forget the first of `stages` that was begun, and all after it; their rows are cut off when they begin again."""
    write_atomic(folder / PROGRESS, json.dumps(begun_before(folder, stages), indent=1) + "\n")


class Journal:
    """The JSON Lines files that one stage appends to; a context manager.

    Entering cuts each file back to the end of the last whole batch: of this stage or, if it has not begun, of the
    stages before it. Rows that are appended count once `commit` has returned.

    Args:
        folder: Of the ladder.
        stage: Its name in `progress.json`.
        names: Of the files.
        reads: Names of files that the stage reads, and that must not change until it is complete.

    Raises:
        UserError: A file of `reads` has changed since the stage began.
    """

    def __init__(self, folder: Path, stage: str, names: Iterable[str], reads: Iterable[str] = ()) -> None:
        self._folder = folder
        self._stage = stage
        own = read_progress(folder).get(stage)
        self._earlier = begun_before(folder, [stage])
        before = own or next(reversed(self._earlier.values()), {})
        self._sizes: dict[str, int] = dict(before.get("sizes", {}))
        self._names = list(names)
        self._files: dict[str, BinaryIO] = {}
        self.done: int = own["done"] if own else 0
        """Rows done."""
        self.complete: bool = bool(own and own["complete"])
        """Whether those were all."""
        self._reads = {name: _digest(folder / name) for name in reads if (folder / name).exists()}
        for name, digest in (own or {}).get("reads", {}).items():
            if self._reads.get(name, digest) != digest:
                way = "restore the file, or run the stage again with --anew"
                raise UserError(f"{folder / name}: has changed since {stage!r} began with it: {way}")

    def __enter__(self) -> Journal:
        for name in self._names:
            self._files[name] = _cut_back(self._folder / name, self._sizes.get(name, 0))
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            with suppress(OSError):  # a full disk, which `commit` has named
                file.close()

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows at the end of a file; raise `UserError` if it cannot be written, as on a full disk."""
        with _writing(self._folder / name):
            self._files[name].write("".join(json_line(dict(row)) for row in rows).encode())

    def commit(self, done: int, *, complete: bool) -> None:
        """Make the appended rows count: the stage has done `done` rows, and `complete` says whether those are all."""
        for name, file in self._files.items():
            with _writing(self._folder / name):
                file.flush()
                os.fsync(file.fileno())
            self._sizes[name] = file.tell()
        own = {"done": done, "complete": complete, "sizes": self._sizes, "reads": self._reads}
        write_atomic(self._folder / PROGRESS, json.dumps(self._earlier | {self._stage: own}, indent=1) + "\n")
        self.done, self.complete = done, complete


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _cut_back(path: Path, size: int) -> BinaryIO:
    """Open a file for appending after its first `size` bytes; raise `UserError` if it has fewer."""
    with _writing(path):
        file = path.open("ab")
        if file.tell() >= size:
            file.truncate(size)
            file.seek(size)
            return file
    file.close()
    raise UserError(
        f"{path}: shorter than the {size} bytes that were written: restore the file, or run the stage again with --anew"
    )
