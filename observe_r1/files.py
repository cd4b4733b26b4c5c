"""Writing files and folders so that nobody ever sees half of one, and nobody else writes there."""

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from observe_r1.errors import UserError

LOCK = ".lock"
"""Name of the file in a folder that the process writing there holds locked."""


LFS_POINTER = b"version https://git-lfs"
"""How the small text begins that stands in place of a large file where Git LFS has not fetched it."""


def refuse_lfs_pointer(path: Path) -> None:
    """Raise `UserError` where the file at `path`, whatever it should hold, is a Git LFS pointer or unreadable."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if start == LFS_POINTER:
        raise UserError(f"{path}: is a Git LFS pointer, not the file itself: run `git lfs pull`")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: written beside `path`, synced to disk, then renamed.

    Errors: `UserError` where it cannot be written (disk full, no permission); `path` is then as it was.
    """
    partial = path.with_name(path.name + ".partial")
    data = content.encode() if isinstance(content, str) else content
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):  # what cannot be written can often not be removed either
            partial.unlink()
        raise UserError(f"cannot write {str(path)!r}: {error.strerror}") from error


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into, which takes the place of `folder` when the block ends without an error.

    What `folder` held before is removed; after an error it is left as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        new = Path(beside) / "new"
        new.mkdir()
        yield new
        for path in (*new.rglob("*"), new):
            _sync(path)
        old = Path(beside) / "old"
        try:
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        except BaseException:  # Ctrl-C between the two renames, too, must not leave nothing
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        _sync(folder.parent)


def lock_folder(folder: Path, setting: str = "run.output") -> int:
    """Take the folder's lock, which the system gives back when the process ends, however it ends.

    A POSIX lock, because child processes do not inherit it: workers that outlive a killed run hold nothing.

    Returns what `unlock_folder` takes. Errors: `UserError` naming `setting` where a live process holds the lock.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        owner = os.read(descriptor, 32).decode()
        os.close(descriptor)
        raise UserError(f"{setting} = {str(folder)!r}: process {owner} is writing there; give another one") from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def unlock_folder(folder: Path, descriptor: int) -> None:
    """Give back what `lock_folder` took, and remove its file."""
    (folder / LOCK).unlink(missing_ok=True)
    os.close(descriptor)


def json_line(row: dict[str, Any]) -> str:
    r"""Return `row` as one line of strict JSON in ASCII; NaN and infinities become null.

    Responses may hold anything, lone surrogates and control characters too: they are written as `\u` escapes.
    """
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
