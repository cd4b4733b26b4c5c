"""Writing files and folders so that nobody ever sees half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from observe_r1.errors import UserError


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
        partial.unlink(missing_ok=True)
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
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:  # Ctrl-C between the two renames, too, must not leave nothing
            if old.exists():
                old.rename(folder)
            raise
        _sync(folder.parent)


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
